"""Knows how to look at a page in a headless Chromium and to use it, over the browser's own pipe;
must not know what any page holds.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One open page; `complaints` is what its console and its policy said."""

    def __init__(self, read: int, write: int):
        self._read, self._write = os.fdopen(read, "rb", 0), os.fdopen(write, "wb", 0)
        self._rest = b""
        self._number = 0
        self._session = ""
        self.complaints: list[str] = []

    def close(self) -> None:
        """Close the pipes."""
        self._read.close()
        self._write.close()

    def open(self, path: Path, width: int, height: int) -> None:
        """Show a file in a window of this size."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url=path.as_uri())
        while self.ask("document.readyState") != "complete":
            pass

    def ask(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def click(self, x: float, y: float) -> None:
        """Press and release the mouse."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])
            self._note(answer)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = self._read.read(1 << 16)
            assert data, "the browser ended"
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(text))

    def _note(self, message: dict[str, Any]) -> None:
        said = message.get("params", {})
        if message.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(said)[:500])
        elif message.get("method") == "Log.entryAdded":
            self.complaints.append(said["entry"]["text"])
        elif message.get("method") == "Network.requestWillBeSent":
            url = said["request"]["url"]
            if not url.startswith(("file:", "data:")):
                self.complaints.append(f"asked for {url}")


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """Start a browser without a window; it is gone afterwards, with its files."""
    assert PROGRAM is not None
    to_it, ours = os.pipe()
    from_it, its = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as home:
        flags = (
            "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run "
            f"--disable-dev-shm-usage --remote-debugging-pipe --user-data-dir={home}"
        )
        with subprocess.Popen(
            ["bash", "-c", f'exec "$0" {flags} 3<&{to_it} 4>&{its}', PROGRAM],
            pass_fds=(to_it, its),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"HOME": home, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        ) as process:
            os.close(to_it)
            os.close(its)
            page = Page(from_it, ours)
            try:
                yield page
            finally:
                with contextlib.suppress(OSError, AssertionError):
                    page.call("Browser.close")
                page.close()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
