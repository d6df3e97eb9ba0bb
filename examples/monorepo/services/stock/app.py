"""The stock service: counts what is left."""

import messages
from shoplib import money

item = messages.Item(id=1, title="stock", price=money.parse("19.99"))
print(f"stock counts what is left: {item.title} at {money.show(item.price)}")
