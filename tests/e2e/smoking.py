"""Knows how a test writes a workspace with a smoke test over busybox, runs it and reads what was
said; must not know what any test expects.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from e2e.building import Bench, Files, write_files
from e2e.harness import Result

_NUMBERS: Iterator[int] = itertools.count()

IMAGE = """\
  image:
    dockerfile_inline: |
      FROM base
      COPY www/ /www/
      EXPOSE 8080
      CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]
    contexts: {base: "oci-layout://LAYOUT"}
"""
WWW: Files = {
    "www/index.html": "hello\n",
    "www/state.json": '{"ok": true, "items": [{"name": "first", "count": 3}]}\n',
}


@dataclass(frozen=True)
class Smoke:
    """A package with an image that serves files, and a smoke test of it."""

    bench: Bench
    package: str

    @property
    def label(self) -> str:
        return f"//{self.package}:smoke"

    def run(self, *args: str, expect: int | None = 0, **more: Any) -> Result:
        """Run `test` on it."""
        return self.bench.run("test", self.label, *args, expect=expect, **more)

    def fail(self, *args: str, expect: int = 1) -> str:
        """Run it; it has to fail. Returns the report."""
        result = self.run("--progress", "quiet", *args, expect=expect)
        assert "Traceback" not in result.stderr, result.stderr
        return result.stdout + result.stderr

    def report(self, *args: str, expect: int | None = 0, **more: Any) -> dict[str, Any]:
        """Run it and return the JSON of its report."""
        result = self.run("--progress", "quiet", "--json", "-", *args, expect=expect, **more)
        (test,) = json.loads(result.stdout)["tests"]
        assert isinstance(test, dict)
        return test

    def write(self, path: str, text: str) -> None:
        """Write a file of the package."""
        self.bench.workspace.write(f"{self.package}/{path}", text)


def smoke(bench: Bench, body: str, files: Files | None = None, images: str = "") -> Smoke:
    """Write a package whose target `smoke` has `body`, indented like a target's keys."""
    package = f"s{next(_NUMBERS)}"
    layout = str(bench.layout)
    lines = "".join(f"    {line}\n" if line else "\n" for line in body.strip("\n").split("\n"))
    text = f"targets:\n{IMAGE}{images}  smoke:\n    rule: smoke\n{lines}"
    top = bench.workspace.path(package)
    own = {"www/number": package}  # else a test of the same images and checks is known already
    write_files(
        top, {**WWW, **own, **(files or {}), "Boxfile.yaml": text.replace("LAYOUT", layout)}
    )
    root = bench.workspace.path("Boxfile.yaml")
    if not root.exists():
        root.write_text("workspace: {name: tests}\n")
    return Smoke(bench, package)


WEB = 'services: {web: {image: ":image"}}\n'
