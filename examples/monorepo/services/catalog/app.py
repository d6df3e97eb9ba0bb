"""The catalog service: lists items."""

import messages
from shoplib import money

item = messages.Item(id=1, title="catalog", price=money.parse("19.99"))
print(f"catalog lists items: {item.title} at {money.show(item.price)}")
