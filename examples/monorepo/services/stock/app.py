"""The stock service: counts what is left."""

import os

from shoplib import service, store

kept = store.connect(os.environ.get("STORE", "memory:"))


def left(number):
    return {"left": int(kept.get(f"stock:{number}", "0"))}


def take(number, body):
    rest = kept.add(f"stock:{number}", -body["count"])
    if rest < 0:
        kept.add(f"stock:{number}", body["count"])
        raise service.Refused(409, f"not enough of {number}")
    return {"left": rest}


service.serve({r"GET /stock/(\d+)": left, r"POST /stock/(\d+)": take})
