"""Knows which images a Dockerfile takes from outside, and which of its neighbours makes an image of
such a name; must not know where names were found or what is written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from buildgraph.dockerfile.instructions import Dockerfile
from buildgraph.errors import InputError
from buildgraph.graph.stage_ir import BuildArgs, ImageRef
from buildgraph.graph.stage_refs import References, mentions
from buildgraph.oci.reference import parse_reference
from buildgraph.oci.types import Platform

_LOCAL_TAGS = ("latest", "local", "dev")


class Maker(Struct, frozen=True):
    """Something that makes an image: what it is known by, its names, its directory's name."""

    identity: str
    tags: tuple[str, ...]
    directory: str


class Link(Struct, frozen=True):
    """`name` in a Dockerfile is what `maker` makes; `by` says how that is known."""

    name: str
    maker: str
    by: str


def outside_names(file: Dockerfile, args: Mapping[str, str]) -> list[str]:
    """Return the images that FROM and --from name and no stage of the file is, each once.

    What stays unknown, since a variable has no value, is left out.
    """
    here = Platform("linux", "amd64")
    references = References(file, BuildArgs(args, here, here, 0))
    found = dict.fromkeys(_bases(file, references))
    for index, stage in enumerate(file.stages):
        for name in filter(None, (name for item in stage.body for name in mentions(item))):
            try:
                ref = references.source(name, index, stage.from_.where)
            except InputError:
                continue
            if isinstance(ref, ImageRef):
                found[ref.reference] = None
    return list(found)


def _bases(file: Dockerfile, references: References) -> list[str]:
    try:
        references.read_globals("")
        return [ref.reference for ref, _ in references.bases() if isinstance(ref, ImageRef)]
    except InputError:
        names = {stage.from_.name for stage in file.stages} | {"scratch"}
        images = [stage.from_.image for stage in file.stages]
        return [image for image in images if "$" not in image and image not in names]


def find_links(asker: str, names: Sequence[str], makers: Sequence[Maker]) -> list[Link]:
    """Return which of `names` a neighbour of `asker` makes: by its tags, else by its directory."""
    out: list[Link] = []
    for name in names:
        link = _by_tag(name, asker, makers) or _by_directory(name, asker, makers)
        if link is not None:
            out.append(link)
    return out


def _by_tag(name: str, asker: str, makers: Sequence[Maker]) -> Link | None:
    wanted = _normal(name)
    if wanted is None:
        return None
    loose: Link | None = None
    for maker in makers:
        if maker.identity == asker:
            continue
        for tag in maker.tags:
            # A tag that a script computes can be any.
            computed = "$" in tag.rpartition(":")[2] and ":" in tag
            found = _normal(tag.rpartition(":")[0] if computed else tag)
            if found == wanted and not computed:
                return Link(name, maker.identity, f"its tag {tag}")
            if computed and found is not None and found[0] == wanted[0] and loose is None:
                loose = Link(name, maker.identity, f"its tag {tag}")
    return loose


def _by_directory(name: str, asker: str, makers: Sequence[Maker]) -> Link | None:
    wanted = _normal(name)
    if wanted is None or wanted[1] not in _LOCAL_TAGS:
        return None
    last = wanted[0].rpartition("/")[2]
    fitting = [m for m in makers if m.directory == last and m.identity != asker]
    if len(fitting) == 1:
        return Link(name, fitting[0].identity, "its directory's name")
    return None


def _normal(name: str) -> tuple[str, str] | None:
    """Return (repository, tag) of a name, None for what is none or has a digest."""
    try:
        reference = parse_reference(name).with_default_tag()
    except InputError:
        return None
    if reference.digest:
        return None
    full = str(reference)
    return full.rpartition(":")[0], reference.tag
