"""Knows how to load a text as a Boxfile and how to show what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from buildgraph.boxfile import loader, schema
from buildgraph.boxfile.loader import Package
from buildgraph.boxfile.rendering import Surroundings
from buildgraph.errors import InputError, InputErrors

# A rule of another room, as `Workspace.open` gets it.
SYSTEM = schema.RuleSpec(
    "system",
    "A root file system.",
    (
        schema.Attribute(
            "packages",
            schema.ListOf(schema.PackageName(), unique=True),
            "What to install.",
            required=True,
        ),
        schema.Attribute("configure", schema.Bool(), "Whether to.", default=True),
        schema.Attribute("memory", schema.Size(), "How much."),
        schema.Attribute("timeout", schema.Duration(), "How long."),
        schema.Attribute("jobs", schema.Int(1, 9), "How many.", default=1),
        schema.Attribute("after", schema.LabelRef(), "Which target."),
        schema.Attribute("like", schema.ListOf(schema.LabelRef()), "Which targets.", default=()),
    ),
)
RULES: Mapping[str, schema.RuleSpec] = {**schema.BUILT_IN, "system": SYSTEM}

Load = Callable[..., Package]
Complaints = Callable[..., list[str]]
Write = Callable[[Mapping[str, str]], str]


def load_package(text: str | None, *, package: str = "app", dockerfile: str | None = "Dockerfile"):
    around = Surroundings({"CI_JOB": "7"}, "/nowhere/shop")
    return loader.load(text, package, RULES, dockerfile, around=around)


def show(error: InputError) -> list[str]:
    """Return `line:column-end [what the caret marks] message (hint)` for each error."""
    shown = []
    for single in error.errors if isinstance(error, InputErrors) else (error,):
        where = single.where
        place = ""
        if where is not None:
            end = where.end_column or where.column + 1
            marked = where.text[max(0, where.column - 1) : end - 1]
            place = f"{where.line}:{where.column}-{end} [{marked}] "
        hint = f" ({single.hint})" if single.hint else ""
        shown.append(f"{place}{single.message}{hint}")
    return shown


def draw(error: InputError) -> str:
    """Return errors as a compiler shows them, with the line and a caret."""
    lines = []
    for single in error.errors if isinstance(error, InputErrors) else (error,):
        lines.append(f"error: {single.message}")
        where = single.where
        if where is not None:
            width = max(1, where.end_column - where.column)
            lines.append(f"  --> {where}")
            lines.append(f"  | {where.text}")
            lines.append(f"  | {' ' * (where.column - 1)}{'^' * width}")
        if single.hint:
            lines.append(f"  hint: {single.hint}")
    return "\n".join(lines)


@pytest.fixture
def drawn() -> Callable[[InputError], str]:
    return draw


@pytest.fixture
def load() -> Load:
    return load_package


@pytest.fixture
def complaints() -> Complaints:
    """Return what is wrong with a Boxfile; the test fails if nothing is."""

    def run(text: str, **options: str | None) -> list[str]:
        with pytest.raises(InputError) as caught:
            load_package(text, **options)
        return show(caught.value)

    return run


@pytest.fixture
def rules() -> Mapping[str, schema.RuleSpec]:
    return RULES


@pytest.fixture
def shown() -> Callable[[InputError], list[str]]:
    return show


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write files below a new directory and return its path."""

    def run(files: Mapping[str, str]) -> str:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return str(tmp_path)

    return run
