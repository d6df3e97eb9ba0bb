"""Knows which room may import what, and holds it over the syntax trees; runs nothing of ours."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "buildgraph": ROOT / "buildgraph",
    "buildgraph_cache": ROOT / "cache" / "buildgraph_cache",
    "buildgraph_rules": ROOT / "rules" / "buildgraph_rules",
}

# The lowest level first; a room may import rooms of lower levels only.
LEVELS = (
    (
        "label",
        "errors",
        "events",
        "fields",
        "limits",
        "filetree",
        "kernel",
        "rootpath",
        "closing",
        "",
    ),
    ("buildgraph_cache",),
    ("transport",),
    ("boxfile", "dockerfile", "context", "fetch", "oci", "sandbox"),
    ("graph",),
    ("engine", "rules"),
    ("cli",),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
GROUND = LEVEL["errors"]

# (importing module, imported module): agreed against the order, and why.
EXCEPTIONS = {
    # Both speak of a file tree's digest, and the format of digests is the cache's to say.
    ("buildgraph.filetree", "buildgraph_cache.digest"),
}

# Third-party package -> the modules that may import it.
DOORS = {
    "click": r"buildgraph\.cli(\..*)?",
    "isal": r"buildgraph\.oci\..*",
    "jinja2": r"buildgraph\.boxfile\.template",
    "msgspec": r".*",  # what values are made of
    "networkx": r"buildgraph\.graph\.dag",
    "pyroute2": r"buildgraph\.sandbox\.network.*",
    "rich": r"buildgraph\.cli(\..*)?",
    "urllib3": r"buildgraph\.transport(\..*)?",
    "xxhash": r"buildgraph_cache(\..*)?",
    "yaml": r"buildgraph\.boxfile(\..*)?",
    "zstandard": r"buildgraph\.oci\..*",
}
# Run as processes of their own, so they end by exiting.
PROGRAMS = {"buildgraph.sandbox.entry", "buildgraph.sandbox.network_helper"}
FORBIDDEN_NAMES = {"common", "helper", "helpers", "misc", "util", "utils"}


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def shown(self) -> str:
        return str(self.path.relative_to(ROOT))


@dataclass(frozen=True)
class Import:
    by: Module
    name: str  # as far as it is a module
    line: int
    lazy: bool  # inside a function, or for type checkers only: no knot when modules load

    def __str__(self) -> str:
        return f"{self.by.shown}:{self.line}: {self.by.name} imports {self.name}"


def _load() -> dict[str, Module]:
    modules = {}
    for package, top in PACKAGES.items():
        for path in sorted(top.rglob("*.py")):
            parts = path.relative_to(top).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            name = ".".join((package, *parts))
            modules[name] = Module(name, path, ast.parse(path.read_bytes(), str(path)))
    return modules


MODULES = _load()


def _walk(node: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    for child in ast.iter_child_nodes(node):
        inner = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            inner = True
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inner
        yield from _walk(child, inner)


def _imports(module: Module) -> Iterator[Import]:
    for node, lazy in _walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.name.split(".")
                kept = parts[: len(parts) - node.level + (1 if module.is_package else 0)]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield Import(module, whole if whole in MODULES else base, node.lineno, lazy)


IMPORTS = [one for module in MODULES.values() for one in _imports(module)]


def _room(name: str) -> str | None:
    """Return the room a module of ours belongs to, None for everybody else's."""
    top, _, rest = name.partition(".")
    if top == "buildgraph":
        return rest.partition(".")[0]
    return {"buildgraph_cache": "buildgraph_cache", "buildgraph_rules": "rules"}.get(top)


def _why_forbidden(one: Import) -> str | None:
    ours, theirs = _room(one.by.name), _room(one.name)
    if theirs is None or ours == theirs or (one.by.name, one.name) in EXCEPTIONS:
        return None
    assert ours is not None
    if theirs == "":  # buildgraph/__init__: the version, and nothing else
        return None
    if theirs not in LEVEL:
        return f"{one}: room {theirs!r} has no level in LEVELS"
    above, below = LEVEL[ours], LEVEL[theirs]
    if above > below or above == below == GROUND:
        return None
    return f"{one}: {ours!r} is not above {theirs!r}"


def test_every_room_has_a_level() -> None:
    rooms = {_room(name) for name in MODULES}
    assert rooms <= set(LEVEL), f"add to LEVELS: {sorted(map(str, rooms - set(LEVEL)))}"


def test_imports_go_one_way() -> None:
    wrong = [why for one in IMPORTS if (why := _why_forbidden(one))]
    assert not wrong, "\n" + "\n".join(wrong)


def test_agreed_exceptions_are_still_needed() -> None:
    present = {(one.by.name, one.name) for one in IMPORTS}
    assert present >= EXCEPTIONS


def test_third_party_packages_have_one_door() -> None:
    known = sys.stdlib_module_names | PACKAGES.keys()
    wrong = []
    for one in IMPORTS:
        top = one.name.partition(".")[0]
        if top in known:
            continue
        door = DOORS.get(top)
        if door is None:
            wrong.append(f"{one}: not a dependency with a door")
        elif not re.fullmatch(door, one.by.name):
            wrong.append(f"{one}: its door is {door}")
    assert not wrong, "\n" + "\n".join(wrong)


def _cycle(edges: dict[str, set[str]]) -> list[str] | None:
    """Return one cycle, with its first module again at the end."""
    state: dict[str, int] = {}
    for start in sorted(edges):
        if start in state:
            continue
        path = [start]
        state[start] = 1
        stack = [iter(sorted(edges[start]))]
        while stack:
            following = next(stack[-1], None)
            if following is None:
                stack.pop()
                state[path.pop()] = 2
            elif state.get(following) == 1:
                return [*path[path.index(following) :], following]
            elif following not in state:
                state[following] = 1
                path.append(following)
                stack.append(iter(sorted(edges.get(following, ()))))
    return None


@pytest.mark.parametrize("lazy_too", [False, True], ids=["when-loading", "with-lazy-and-typing"])
def test_no_module_imports_itself_the_long_way_round(lazy_too: bool) -> None:
    edges: dict[str, set[str]] = {name: set() for name in MODULES}
    for one in IMPORTS:
        if one.name in MODULES and one.name != one.by.name and (lazy_too or not one.lazy):
            edges[one.by.name].add(one.name)
    cycle = _cycle(edges)
    assert cycle is None, " -> ".join(cycle or [])


def test_sandbox_programs_load_the_standard_library_alone() -> None:
    """A new interpreter runs it for each sandbox, perhaps without our dependencies in its path."""
    ours: dict[str, list[Import]] = {}
    for one in IMPORTS:  # the lazy ones too
        ours.setdefault(one.by.name, []).append(one)
    reached, waiting = set(), ["buildgraph.sandbox.entry"]
    wrong = []
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for one in ours.get(name, ()):
            if one.name in MODULES:
                waiting.append(one.name)
            elif one.name.partition(".")[0] not in sys.stdlib_module_names:
                wrong.append(str(one))
    assert not wrong, "\n" + "\n".join(wrong)


def test_modules_say_what_they_know_and_must_not_know() -> None:
    wrong = []
    for module in MODULES.values():
        if module.path.name in ("__init__.py", "__main__.py"):
            continue
        text = " ".join((ast.get_docstring(module.tree) or "").split())
        if "nows" not in text or "ust not" not in text:
            wrong.append(f"{module.shown}:1: say 'Knows ...; must not know ...'")
    assert not wrong, "\n" + "\n".join(wrong)


def test_no_module_is_a_drawer() -> None:
    tests = (ROOT / "tests").rglob("*.py")
    paths = [module.path for module in MODULES.values()] + list(tests)
    assert not [str(path) for path in paths if path.stem in FORBIDDEN_NAMES]


def _may_exit(module: Module) -> bool:
    return _room(module.name) in ("cli", "__main__") or module.name in PROGRAMS


def _is_main_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.dump(node.test)


def test_only_the_command_line_prints_and_exits() -> None:
    wrong = []
    for module in MODULES.values():
        if _may_exit(module):
            continue
        for top in module.tree.body:
            if _is_main_guard(top):
                continue
            for node in ast.walk(top):
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    if called in ("print", "sys.exit", "exit", "quit", "pprint"):
                        wrong.append(f"{module.shown}:{node.lineno}: {called}()")
                elif isinstance(node, ast.Raise) and "SystemExit" in ast.unparse(node):
                    wrong.append(f"{module.shown}:{node.lineno}: raises SystemExit")
    assert not wrong, "\n" + "\n".join(wrong)
