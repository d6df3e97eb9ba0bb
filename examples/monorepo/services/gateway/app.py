"""The gateway service: routes requests."""

import os

from shoplib import service

CATALOG = os.environ.get("CATALOG", "http://catalog:8080")
ORDERS = os.environ.get("ORDERS", "http://orders:8080")
BILLING = os.environ.get("BILLING", "http://billing:8080")

service.serve(
    {
        "GET /api/items": lambda: service.ask(f"{CATALOG}/items"),
        "POST /api/orders": lambda body: service.ask(f"{ORDERS}/orders", body),
        r"GET /api/invoices/(\d+)": lambda n: service.ask(f"{BILLING}/invoices/{n}"),
    }
)
