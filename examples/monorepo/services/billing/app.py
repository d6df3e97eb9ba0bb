"""The billing service: writes invoices."""

import messages
from shoplib import money

item = messages.Item(id=1, title="billing", price=money.parse("19.99"))
print(f"billing writes invoices: {item.title} at {money.show(item.price)}")
