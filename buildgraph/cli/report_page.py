"""Knows how a build becomes one HTML page that works from a file: a summary, a timeline, the graph
and a table of the steps, with one search over them; must not know how a build goes on.

Nothing is fetched: the policy in its head forbids it, and names its two scripts by their hashes.
Texts from outside stand in it escaped, or in data that the script puts in as text only (A63).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Final

from buildgraph.cli.course import Course, Verdict
from buildgraph.cli.report_data import ROWS, VERDICTS, Contents, contents, script_data
from buildgraph.cli.report_summary import headline, summary
from buildgraph.graph.picture_page import PAGE_STYLE, SCRIPT, canvas, head, legend, script_json
from buildgraph.graph.picture_svg import STYLE, text_of

_WORDS: Final[dict[Verdict, str]] = {
    "failed": "failed",
    "stopped": "stopped",
    "built": "built",
    "skipped": "not run",
    "hit": "in the store",
}
_OTHER: Final = ("var(--other)", "var(--other-l)", "images, tests, phases of steps")
_LONGEST: Final = ("var(--failed-l)", "var(--failed-l)", "red line: the longest way")
_Key = tuple[str, str, str]
_MARKS: Final = {"passed": "✓", "failed": "✗", "interrupted": "–"}
_SORTS: Final = (
    ("worst", "failures first"),
    ("slow", "slowest first"),
    ("large", "largest first"),
    ("time", "as they ran"),
    ("graph", "by number"),
)


def page(course: Course) -> Iterator[str]:
    """Yield the whole page in parts."""
    what = contents(course)
    about = headline(course)
    own = _resource("report_page.js")
    scripts = [SCRIPT, own] if what.levels else [own]
    style = STYLE + PAGE_STYLE + _resource("report_page.css")
    yield head(f"{_MARKS[course.outcome]} {about}", style, scripts)
    yield (
        f'<body><header><h1 title="{text_of(about)}">{text_of(about)}</h1>'
        f'<span class="chip {course.outcome}">{course.outcome}</span>'
        '<input id="q" type="search" placeholder="search (press /)" aria-label="search">'
        '<span class="found" id="found" aria-live="polite"></span></header>'
    )
    yield _tabs(what)
    yield f'<main><section {_panel("summary")} tabindex="0">{summary(course, what)}</section>'
    keys = [
        (f"var(--{name})", f"var(--{name}-l)", _WORDS[name])
        for name in VERDICTS
        if what.counts[name] or (name == "failed" and course.outcome == "failed")
    ]
    if what.critical:
        keys.append(_LONGEST)
    yield from (_timeline([*keys, _OTHER]), _graph(what, keys), _steps(what))
    yield "</main>"
    yield '<script type="application/json" id="report">'
    yield script_json(script_data(course, what))
    yield "</script>"
    yield from (f"<script>{script}</script>" for script in scripts)
    yield "</body></html>\n"


def _resource(name: str) -> str:
    return files("buildgraph.cli").joinpath(name).read_text("utf-8")


def _tabs(what: Contents) -> str:
    names = {"summary": "Summary", "timeline": "Timeline", "graph": "Graph"}
    tabs = "".join(
        f'<button role="tab" id="tab-{name}" aria-controls="p-{name}" '
        f'aria-selected="false">{words}</button>'
        for name, words in names.items()
    )
    return (
        f'<div role="tablist" aria-label="parts of the report">{tabs}'
        '<button role="tab" id="tab-steps" aria-controls="p-steps" aria-selected="false">Steps '
        f'<small id="count">{what.nodes}</small></button></div>'
    )


def _panel(name: str) -> str:
    return f'class="panel" id="p-{name}" role="tabpanel" aria-labelledby="tab-{name}"'


def _timeline(keys: Sequence[_Key]) -> str:
    return (
        f"<section {_panel('timeline')}>"
        '<div class="tools"><div><button id="closer" aria-label="zoom in">+</button>'
        '<button id="wider" aria-label="zoom out">−</button>'
        '<button id="all">all</button></div>'
        f'<span class="sum keys">{legend(keys)}</span>'
        '<span class="sum only-wide">wheel or <kbd>+</kbd> <kbd>−</kbd> zoom, drag or '
        "<kbd>Shift</kbd> arrows move, arrows go from step to step, "
        "<kbd>Enter</kbd> tells more</span></div>"
        '<div id="tl" tabindex="0" role="application" '
        'aria-label="timeline: arrows go from step to step, plus and minus zoom" '
        'aria-describedby="tip"><div id="axis"></div></div>'
        '<aside id="card" hidden></aside>'
        '<div id="tip" aria-live="polite"></div></section>'
    )


def _graph(what: Contents, keys: Sequence[_Key]) -> str:
    if what.drawn is None or not what.levels:
        words = (
            f"{what.nodes:,} steps are more than a page can draw. "
            "<code>buildgraph graph //some/target</code> draws a part of them."
            if what.nodes
            else "Nothing came as far as to have a graph."
        )
        return f'<section {_panel("graph")}><p class="tools">{words}</p></section>'
    parts = canvas(what.drawn, what.levels)
    return (
        f'<section {_panel("graph")}><div class="tools">{parts.buttons}'
        '<button id="fit">fit</button><span class="sum" id="n"></span>'
        f'<span class="sum keys">{legend(keys)}</span></div>'
        f'<div class="draw">{parts.main}</div>{parts.data}</section>'
    )


def _steps(what: Contents) -> str:
    chips = "".join(
        f'<button data-verdict="{verdict}" aria-pressed="true">{_WORDS[verdict]} '
        f"<small>{what.counts[verdict]:,}</small></button>"
        for verdict in VERDICTS
        if what.counts[verdict]
    )
    sorts = "".join(f'<option value="{name}">{words}</option>' for name, words in _SORTS)
    left = (
        f'<p class="quiet">{what.nodes - ROWS:,} more are not listed: of so many steps those that '
        "were built come first.</p>"
        if what.nodes > ROWS
        else ""
    )
    return (
        f"<section {_panel('steps')}>"
        f'<div class="tools"><div>{chips}</div><select id="order" aria-label="order">{sorts}'
        "</select></div>"
        '<div class="scroll" tabindex="0"><table id="steps"><colgroup><col style="width:104px">'
        '<col style="width:42%"><col><col style="width:84px"><col style="width:84px"></colgroup>'
        '<thead><tr><th>verdict<th>step<th>why<th class="num">time<th class="num">size</tr></thead>'
        '<tbody id="rows"></tbody></table>'
        f'<p id="none" class="quiet" hidden>No step is like that.</p><button id="more"></button>'
        f"{left}</div></section>"
    )
