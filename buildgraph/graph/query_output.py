"""Knows how the answer of a query is written as a graph in the words of other tools (DOT, Mermaid);
must not know what the names in it are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


def edges_among(
    order: Sequence[str], needs: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str]]:
    """Yield (user, needed) for the names of an answer, in its order."""
    chosen = set(order)
    for name in order:
        for other in needs.get(name, ()):
            if other in chosen:
                yield name, other


def dot(order: Sequence[str], needs: Mapping[str, Sequence[str]]) -> str:
    """Return Graphviz's language: an arrow leads to what is needed."""
    lines = ["digraph buildgraph {", "  rankdir=LR;", "  node [shape=box];"]
    lines += [f"  {dot_text(name)};" for name in order]
    lines += [
        f"  {dot_text(user)} -> {dot_text(needed)};" for user, needed in edges_among(order, needs)
    ]
    return "\n".join([*lines, "}"])


def dot_text(text: str) -> str:
    """Return a quoted string of DOT: only quotes and backslashes mean something in one."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def mermaid(order: Sequence[str], needs: Mapping[str, Sequence[str]]) -> str:
    """Return a Mermaid flowchart: an arrow leads to what is needed."""
    numbers = {name: f"n{number}" for number, name in enumerate(order)}
    lines = ["flowchart LR"]
    lines += [f'  {numbers[name]}["{_mermaid_text(name)}"]' for name in order]
    lines += [
        f"  {numbers[user]} --> {numbers[needed]}" for user, needed in edges_among(order, needs)
    ]
    return "\n".join(lines)


def _mermaid_text(text: str) -> str:
    """Write every sign that could end a text or start markup as Mermaid's `#code;`."""
    plain = "/:.-_@=, "
    return "".join(c if c.isalnum() or c in plain else f"#{ord(c)};" for c in text)
