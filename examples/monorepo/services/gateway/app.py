"""The gateway service: routes requests."""

import messages
from shoplib import money

item = messages.Item(id=1, title="gateway", price=money.parse("19.99"))
print(f"gateway routes requests: {item.title} at {money.show(item.price)}")
