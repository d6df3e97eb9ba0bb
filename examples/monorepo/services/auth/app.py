"""The auth service: signs customers in."""

import messages
from shoplib import money

item = messages.Item(id=1, title="auth", price=money.parse("19.99"))
print(f"auth signs customers in: {item.title} at {money.show(item.price)}")
