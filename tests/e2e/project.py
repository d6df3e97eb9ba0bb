"""Knows a small workspace that tests build, change and build again; must not know what of it is
built when.

//lib has a step that sorts its sources, //app stands on it, //tool copies one file of it, and //alone
stands on the base. Every step says its name, so that a test can tell which ran.
"""

from __future__ import annotations

from typing import Any

from e2e.harness import Result, User, Workspace

STEPS = {
    "sources": "COPY src/ /lib/src/",
    "sort": "RUN sort /lib/src/a /lib/src/b >/lib/out",
    "data": "COPY app.txt /app/",
    "join": "RUN cat /lib/out /app/app.txt >/app/result",
    "take": "COPY --from=lib /lib/out /out",
    "count": "RUN wc -l /out >/lines",
    "alone": "COPY . /alone",
}
PACKAGES = {
    "lib": ["sources", "sort"],
    "app": ["data", "join"],
    "tool": ["take", "count"],
    "alone": ["alone"],
}
BASES = {"lib": "base", "app": "lib", "tool": "base", "alone": "base"}


class Project:
    """The workspace with its four images."""

    def __init__(self, workspace: Workspace, user: User | None = None, at: str = ""):
        self.workspace = workspace
        self.user = user
        self.at = at
        prefix = f"{at}/" if at else ""
        workspace.busybox_layout(f"{prefix}busybox")
        self.write("Boxfile.yaml", "workspace: {name: project}\n")
        for package, steps in PACKAGES.items():
            lines = [f"FROM {BASES[package]}", *(STEPS[name] for name in steps)]
            self.write(f"{package}/Dockerfile", "\n".join(lines) + "\n")
            contexts = '{base: "oci-layout://../busybox", lib: "//lib"}'
            if package == "lib":
                contexts = '{base: "oci-layout://../busybox"}'
            self.write(f"{package}/Boxfile.yaml", f"targets: {{image: {{contexts: {contexts}}}}}\n")
        self.write("lib/src/a", "1\n3\n")
        self.write("lib/src/b", "2\n4\n")
        self.write("app/app.txt", "app\n")
        self.write("alone/f", "f\n")

    def write(self, path: str, content: str) -> None:
        """Write a file of the project."""
        self.workspace.write(f"{self.at}/{path}" if self.at else path, content)

    def run(self, *words: str, **more: Any) -> Result:
        """Run the program in the project's root."""
        return self.workspace.run(*words, **({"cwd": self.at, "user": self.user} | more))

    def build(self, *words: str, **more: Any) -> Result:
        """Build, `//...` if nothing else is said, with events."""
        network = () if self.user is None else ("--network=none",)
        targets = () if any(word.startswith("//") for word in words) else ("//...",)
        return self.run("build", "--progress", "json", *network, *targets, *words, **more)

    def built(self, *words: str, **more: Any) -> set[str]:
        """Build and return the names of the steps that were not known."""
        return steps(self.build(*words, **more))


def steps(result: Result) -> set[str]:
    """Return the names of the steps that a build had to do; each once."""
    names = {line: name for name, line in STEPS.items()}
    done = [names.get(title, title) for title in result.built]
    assert len(done) == len(set(done)), f"done twice: {done}"
    return set(done)
