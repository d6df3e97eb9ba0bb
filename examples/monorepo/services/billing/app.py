"""The billing service: writes invoices."""

import os

from messages import Invoice
from shoplib import money, service, store

kept = store.connect(os.environ.get("STORE", "memory:"))


def invoice(number):
    customer, _, total = kept.get(f"order:{number}").partition(" ")
    if not customer:
        raise service.Refused(404, f"there is no order {number}")
    due = money.show(int(total))
    return vars(Invoice(id=f"R{number}", order=number, due=due)) | {"customer": customer}


service.serve({r"GET /invoices/(\d+)": invoice})
