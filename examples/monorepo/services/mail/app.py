"""The mail service: sends mail."""

import messages
from shoplib import money

item = messages.Item(id=1, title="mail", price=money.parse("19.99"))
print(f"mail sends mail: {item.title} at {money.show(item.price)}")
