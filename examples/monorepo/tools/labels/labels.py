"""Print a label for the shelf, for each item of the catalog."""

import os

with open("items.csv", encoding="utf-8") as file:
    next(file)
    for line in file:
        number, title, price = line.strip().split(",")
        print(f"{title:<20}{price:>8}", flush=True)
        os.spawnlp(os.P_WAIT, "barcode", "barcode", number)
