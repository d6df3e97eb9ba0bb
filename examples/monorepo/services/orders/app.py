"""The orders service: takes orders."""

import messages
from shoplib import money

item = messages.Item(id=1, title="orders", price=money.parse("19.99"))
print(f"orders takes orders: {item.title} at {money.show(item.price)}")
