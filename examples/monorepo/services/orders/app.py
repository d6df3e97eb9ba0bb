"""The orders service: takes orders."""

import os

from messages import Order
from shoplib import money, service, store

CATALOG = os.environ.get("CATALOG", "http://catalog:8080")
STOCK = os.environ.get("STOCK", "http://stock:8080")
kept = store.connect(os.environ.get("STORE", "memory:"))


def count():
    return {"orders": int(kept.get("orders", "0"))}


def order(body):
    item = service.ask(f"{CATALOG}/items/{body['item']}")
    service.ask(f"{STOCK}/stock/{body['item']}", {"count": 1})
    new = Order(id=kept.add("orders", 1), customer=body["customer"], total=item["cents"])
    kept.put(f"order:{new.id}", f"{new.customer} {new.total}")
    return vars(new) | {"total": money.show(new.total)}


service.serve({"GET /orders": count, "POST /orders": order})
