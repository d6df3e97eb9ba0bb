"""Knows the way of a COPY, ADD or WORKDIR from its op to a layer's entries: the names that the
rest of the engine uses; must not know how any of it is done.

    selection = select(op, tree)                      which files: `selecting`
    facts = destination(op, selection, dest_tree)     where they go: `placing`
    key = copy_key(op, ..., selection.tree_digest(), facts.as_json())
    entries(op, selection, facts)                     what the layer holds; `selection.archives`
                                                      are unpacked at `facts.path` besides
"""

from buildgraph.engine.placing import (
    DestFacts,
    Parent,
    destination,
    entries,
    mkdir_entries,
    mkdir_facts,
)
from buildgraph.engine.selecting import Group, Selection, Xattrs, select
from buildgraph.engine.treewalk import EmptyTree, Found, Item, follow

__all__ = [
    "DestFacts",
    "EmptyTree",
    "Found",
    "Group",
    "Item",
    "Parent",
    "Selection",
    "Xattrs",
    "destination",
    "entries",
    "follow",
    "mkdir_entries",
    "mkdir_facts",
    "select",
]
