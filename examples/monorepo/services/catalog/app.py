"""The catalog service: lists items."""

import csv

from messages import Item
from shoplib import money, service

with open("items.csv", encoding="utf-8") as file:
    ITEMS = [Item(**row) for row in csv.DictReader(file)]


def items():
    return [vars(item) for item in ITEMS]


def item(number):
    for each in ITEMS:
        if each.id == number:
            return vars(each) | {"cents": money.parse(each.price)}
    raise service.Refused(404, f"there is no item {number}")


service.serve({"GET /items": items, r"GET /items/(\d+)": item})
