"""The mail service: sends mail."""

import os
import signal
import sys
import time

from shoplib import money, store

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
kept = store.connect(os.environ.get("STORE", "memory:"))
print("waiting for orders")
while True:
    number = int(kept.get("mailed", "0")) + 1
    if order := kept.get(f"order:{number}"):
        customer, _, total = order.partition(" ")
        print(f"mail to {customer}: order {number}, {money.show(int(total))}")
        kept.put("mailed", str(number))
    else:
        time.sleep(0.1)
