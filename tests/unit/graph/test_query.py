"""Queries over a small fake universe: what each word means, in which order, and where errors point."""

from __future__ import annotations

import re

import pytest

from buildgraph.errors import InputError
from buildgraph.graph.dag import Dag
from buildgraph.graph.query import Evaluation
from buildgraph.graph.query_output import dot, mermaid

NEEDS = {
    "//app:image": ["//lib:image", "//base:image"],
    "//app:smoke": ["//app:image", "//db:image"],
    "//lib:image": ["//base:image"],
    "//db:image": [],
    "//base:image": ["//base:debian"],
    "//base:debian": [],
    "//far:image@py=3.12,os=x": ["//lib:image"],
}
KINDS = {"//app:smoke": "smoke", "//base:debian": "debian"}


class Fake:
    """A universe from a table."""

    def find(self, pattern: str) -> frozenset[str]:
        if pattern == "//...":
            return frozenset(NEEDS)
        name = pattern if ":" in pattern else f"{pattern}:image"
        if name not in NEEDS:
            raise InputError(f"there is no target {name}")
        return frozenset((name,))

    def graph(self, names: frozenset[str]) -> Dag:
        return Dag(NEEDS)

    def kind(self, name: str) -> tuple[str, ...]:
        kind = KINDS.get(name, "image")
        return kind, f"{kind} rule"

    def attribute(self, name: str, attribute: str) -> tuple[str, ...] | None:
        return (f"about {name}", "x=1") if attribute == "doc" else None


def ask(text: str) -> list[str]:
    asked = Evaluation(text, Fake())
    return [name.removesuffix(":image") for name in asked.order(asked.run())]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("//app", "//app"),
        ("deps(//app)", "//base:debian //base //lib //app"),
        ("deps(//app, 0)", "//app"),
        ("deps(//app, 1)", "//base //lib //app"),
        ("deps(deps(//app), 1) - deps(//lib)", "//app"),
        ("rdeps(//..., //lib)", "//lib //app //app:smoke //far:image@py=3.12,os=x"),
        ("rdeps(//..., //lib, 1)", "//lib //app //far:image@py=3.12,os=x"),
        ("rdeps(//app, //base)", "//base //lib //app"),
        ("rdeps(//db, //base)", ""),
        ("allpaths(//app:smoke, //base)", "//base //lib //app //app:smoke"),
        ("allpaths(//db, //base)", ""),
        ("somepath(//app:smoke, //base)", "//base //app //app:smoke"),
        ("somepath(//db + //app, //base:debian)", "//base:debian //base //app"),
        ("somepath(//base, //app)", ""),
        ("kind('smoke', //...)", "//app:smoke"),
        ('kind("^debian rule$", //...)', "//base:debian"),
        ("filter('py=3', //...)", "//far:image@py=3.12,os=x"),
        ("attr(doc, '//db', //...)", "//db"),
        ("attr(doc, '^x=1$', //db)", "//db"),
        ("attr(other, '', //db)", ""),
        ("//app + //lib - //app", "//lib"),
        ("//app | //lib", "//lib //app"),
        ("//app union //lib except //app", "//lib"),
        ("//lib -//lib", ""),
        ("deps(//app) ^ deps(//far:image@py=3.12,os=x)", "//base:debian //base //lib"),
        ("deps(//app) intersect //lib", "//lib"),
        ("//app - (//app - //app)", "//app"),
        ("set(//app '//lib')", "//lib //app"),
        ("set()", ""),
        ("let x = deps(//lib) in $x - //base", "//base:debian //lib"),
        ("let x = //lib in let y = //app in $x + $y", "//lib //app"),
        ("let x=//lib in $x", "//lib"),
    ],
)
def test_query_answers(text: str, answer: str) -> None:
    assert " ".join(ask(text)) == answer


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("", "the query is empty", 1),
        ("deps(//app", "expected ')', the query ends", 11),
        ("deps(//app))", "expected an operator", 12),
        ("dep(//app)", "there is no function 'dep'", 1),
        ("deps()", "takes 1 to 2 arguments, 0 given", 1),
        ("deps(//app, x)", "a depth is a whole number", 13),
        ("//app + //nowhere", "there is no target //nowhere:image", 9),
        ("kind('a(b', //app)", "'(' without ')'", 8),
        ("kind(//app + //lib, //app)", "expected a regular expression", 6),
        ("$x", "there is no variable $x", 1),
        ("let 3 = //a in $x", "expected the name of a variable", 5),
        ("'//app", "the quote is not closed", 1),
        ("//app & //lib", "'&' cannot stand here", 7),
        ("//app union", "expected a label", 12),
        ("set(//app", "expected ')'", 10),
    ],
)
def test_query_errors_point_into_the_text(text: str, message: str, column: int) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        ask(text)
    assert caught.value.where is not None
    assert (caught.value.where.line, caught.value.where.column) == (1, column)


def test_query_errors_name_the_line() -> None:
    with pytest.raises(InputError) as caught:
        ask("//app +\n  //nowhere")
    where = caught.value.where
    assert where is not None
    assert (where.line, where.column, where.text) == (2, 3, "  //nowhere")


def test_query_depth_is_limited_and_length_is_not_depth() -> None:
    with pytest.raises(InputError, match="nested deeper"):
        ask("(" * 5000 + "//app" + ")" * 5000)
    assert ask(" + ".join(["//app"] * 5000)) == ["//app"]


def test_drawings_escape_what_could_end_a_text() -> None:
    needs = {'a"b\\': ["c<d>"], "c<d>": []}
    order = ["c<d>", 'a"b\\']
    assert '"a\\"b\\\\" -> "c<d>";' in dot(order, needs)
    drawn = mermaid(order, needs)
    assert 'n1["a#34;b#92;"]' in drawn
    assert "<" not in drawn
    assert "n1 --> n0" in drawn
