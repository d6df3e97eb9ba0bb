"""Put ten of each item into an empty stock."""

import os

from shoplib import store

kept = store.connect(os.environ.get("STORE", "memory:"))
with open("items.csv", encoding="utf-8") as file:
    numbers = [line.partition(",")[0] for line in list(file)[1:]]
if kept.get("version") < "1":
    for number in numbers:
        kept.put(f"stock:{number}", "10")
    kept.put("version", "1")
print(f"version {kept.get('version')}: {len(numbers)} items")
