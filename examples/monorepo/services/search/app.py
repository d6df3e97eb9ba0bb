"""The search service: finds items."""

import messages
from shoplib import money

item = messages.Item(id=1, title="search", price=money.parse("19.99"))
print(f"search finds items: {item.title} at {money.show(item.price)}")
