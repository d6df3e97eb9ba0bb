"""Runs sandboxes for a test in a process of the right user: JSON lines in, JSON lines out."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import tempfile
import threading
from typing import Any

from msgspec.structs import asdict, replace

from buildgraph.errors import BuildgraphError
from buildgraph.sandbox.host import SandboxHost
from buildgraph.sandbox.plan import Ids
from buildgraph.sandbox.spec import SandboxSpec, from_json, to_json
from buildgraph.sandbox.userns import enter


def run(host: SandboxHost, request: dict[str, Any]) -> dict[str, Any]:
    pieces: list[bytes] = []
    cancel = threading.Event()
    timer = None
    if request.get("cancel_after") is not None:
        timer = threading.Timer(request["cancel_after"], cancel.set)
        timer.start()
    stdin = None
    file = None
    if request.get("stdin") is not None:
        file = tempfile.TemporaryFile()
        file.write(request["stdin"].encode())
        file.seek(0)
        stdin = file.fileno()
    try:
        status = host.run(from_json(request["spec"]), pieces.append, cancel, stdin)
    except BuildgraphError as error:
        return {"error": str(error), "hint": error.hint}
    finally:
        if timer is not None:
            timer.cancel()
        if file is not None:
            file.close()
    out = b"".join(pieces)
    words = status.describe(from_json(request["spec"]).limits, host.memory)
    return {
        "status": asdict(status),
        "words": words,
        "size": len(out),
        "output": base64.b64encode(out[:1_000_000]).decode(),
        "rss": int(open("/proc/self/statm").read().split()[1]) * 4096,
    }


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    entered = enter()
    option = sys.argv[2] if len(sys.argv) > 2 else ""
    program = shutil.which(option) if option == "slirp4netns" else None
    if option == "no-userns":  # as on a store whose file system knows no id-mapped mounts
        Ids.userns = lambda _self: None  # type: ignore[method-assign,assignment,return-value]
    ids = len(open("/proc/self/uid_map").read())
    with SandboxHost(sys.argv[1], network_program=program) as host:
        host.prepare()
        if option == "old-overlay":  # as on a kernel before 6.5
            run(host, {"spec": to_json(SandboxSpec((), ("/none",)))})
            host._machine = replace(host._machine, legacy_overlay=True)
        hello = {"mode": entered.mode, "detail": entered.detail, "uid_map": ids, "pid": os.getpid()}
        say(hello)
        lock = threading.Lock()

        def work(request: dict[str, Any]) -> None:
            answer = run(host, request)
            answer["id"] = request["id"]
            answer["warnings"] = host.warnings
            with lock:
                say(answer)

        threads = []
        for line in sys.stdin:
            thread = threading.Thread(target=work, args=(json.loads(line),))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
