"""Knows which names a template of a Boxfile has, and turns a scalar with a template into the scalar
it comes to; must not know what the scalar is for.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph.boxfile.git import NAMES, Git
from buildgraph.boxfile.places import place
from buildgraph.boxfile.yaml import Scalar
from buildgraph.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from buildgraph.boxfile.evaluate import Budget
    from buildgraph.boxfile.template import Template

STAMP: Final = "git"  # what is told of the moment and not of the files
STAMP_HINT: Final = "tags, labels and annotations may hold it; for one build: --build-arg NAME=…"


class Variables:
    """The environment variables that the workspace declares; `used` is what was asked for."""

    def __init__(self, environ: Mapping[str, str], names: frozenset[str] = frozenset()):
        self.names = names
        self.used: dict[str, str | None] = {}
        self._environ = environ

    def look(self, name: str) -> str:
        """Return the value of a variable. Raises LookupError in words."""
        if name not in self.names:
            hint = did_you_mean(name, self.names)
            raise LookupError(
                f"the workspace does not declare the variable {name!r}",
                hint or f"workspace: {{env: [{name}]}}",
            )
        value = self.used[name] = self._environ.get(name)
        if value is None:
            raise LookupError(
                f"the environment variable {name} is not set",
                f"set it, or write {{{{ env.{name} | default('…') }}}}",
            )
        return value


class Names(Struct, frozen=True):
    """The names that templates have; `more` makes one with others beside them.

    `read` keeps the texts that were read, for a text that many targets have.
    """

    known: Mapping[str, Any]
    read: dict[str, Template] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)  # name -> why it is not there
    budget: list[Budget] = field(default_factory=list)  # of all templates of a file; made late

    def more(self, /, **names: Any) -> Names:
        """Return these names and others."""
        return replace(self, known={**self.known, **names})


@dataclasses.dataclass(slots=True)
class Surroundings:
    """What templates of a workspace know beside its root file."""

    environ: Mapping[str, str] = dataclasses.field(default_factory=lambda: os.environ)
    root: str = "/"
    git: Git = dataclasses.field(init=False)
    variables: Variables = dataclasses.field(init=False)
    read: dict[str, Template] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return what the workspace is called where nothing is written."""
        return os.path.basename(self.root) or "root"

    def __post_init__(self) -> None:
        self.git = Git(self.root)
        self.variables = Variables(self.environ)


def read(node: Scalar, names: Names) -> Template:
    """Return the template of a scalar. Raises InputError at its place."""
    from buildgraph.boxfile.template import TemplateError, parse_template

    found = names.read.get(node.text)
    if found is None:
        try:
            found = parse_template(node.text)
        except TemplateError as error:
            raise _told(error, node) from None
        names.read[node.text] = found
    for name in sorted(found.names & names.refused.keys()):
        at = found.place_of(name)
        raise InputError(names.refused[name], place(node, at, at + len(name)))
    return found


def check_stamps(node: Scalar, template: Template) -> None:
    """Raise InputError where git is asked for what it does not say; nothing is asked yet."""
    for name, start in template.members_of(STAMP):
        if name not in NAMES:
            near = did_you_mean(name, NAMES) or "there are: " + ", ".join(NAMES)
            end = start + len(f"{STAMP}.{name}")
            raise InputError(f"there is no '{STAMP}.{name}'", place(node, start, end), near)


def rendered(node: Scalar, template: Template, names: Names) -> Scalar:
    """Return the scalar that a template comes to, at the same place; plain but for a block.

    Raises InputError at the place of the expression.
    """
    from buildgraph.boxfile.evaluate import render
    from buildgraph.boxfile.template import TemplateError

    try:
        made = render(template, names.known, _budget(names))
    except TemplateError as error:
        raise _told(error, node) from None
    if node.style == "|":
        return dataclasses.replace(node, text=made.text, lines=made.lines)
    return dataclasses.replace(node, text=made.text, style="")


def spread(node: Scalar, names: Names) -> list[Scalar] | None:
    """Return the scalars that an item of a list stands for: one expression that is itself a list.

    None where it is anything else, also where it is wrong: whoever renders it tells.
    """
    from buildgraph.boxfile.evaluate import listed
    from buildgraph.boxfile.template import TemplateError

    try:
        template = read(node, names)
        found = None if STAMP in template.names else listed(template, names.known, _budget(names))
    except (InputError, TemplateError):
        return None
    if found is None:
        return None
    return [dataclasses.replace(node, text=text, style="") for text in found]


def _budget(names: Names) -> Budget:
    from buildgraph.boxfile.evaluate import Budget

    if not names.budget:
        names.budget.append(Budget())
    return names.budget[0]


def stamp_refused(node: Scalar, template: Template, name: str) -> InputError:
    """Return the error for a stamp where it would be a reason to build again."""
    at = template.place_of(STAMP)
    message = f"{name}: what git says is no reason to build, so it cannot stand here"
    return InputError(message, place(node, at, at + len(STAMP)), STAMP_HINT)


def _told(error: Any, node: Scalar) -> InputError:
    where = place(node, error.start, error.end)
    return InputError(error.message, where, error.hint)
