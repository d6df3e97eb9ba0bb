"""Knows how the first part of a page about a build is written: how it ended, what failed and how to
go on, tests, images, the way that took longest, warnings; must not know what else is on the page.

Every text from outside is escaped, and nothing that a terminal could obey is left in it (A63).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator
from typing import Final

from buildgraph import __version__
from buildgraph import events as ev
from buildgraph.cli.console import render_error
from buildgraph.cli.course import Course, Step
from buildgraph.cli.escape import safe
from buildgraph.cli.report_data import Contents
from buildgraph.cli.words import plural, size
from buildgraph.engine.smoke.report import SmokeReport, failure_lines
from buildgraph.errors import BuildFailed, BuildgraphError
from buildgraph.graph.picture import duration
from buildgraph.graph.picture_svg import text_of

_ROWS: Final = 500  # of images, tests, warnings
_WAY: Final = 12  # steps shown of the way that took longest
# Flags without which `buildgraph shell` would make another graph.
_OTHER_GRAPH: Final = re.compile(
    r" (-f|--file|--target|--platform|--allow|--build-(arg|context))\b|://"
)


def shown(text: str, *, newlines: bool = False) -> str:
    """Return a text from outside for HTML."""
    return text_of(safe(text, newlines=newlines))


def headline(course: Course) -> str:
    """Return what the command was about, in a few words; not escaped."""
    verb = course.command.split(" ")[1:2]
    targets = course.opening.targets if course.opening else ()
    names = ", ".join(targets) if len(targets) < 4 else f"{len(targets):,} targets"
    return safe(" ".join([*verb, names or "nothing"]))


def summary(course: Course, contents: Contents) -> str:
    """Return the inside of the panel."""
    parts = [
        *_lead(course, contents),
        *_failures(course),
        *_tests(course),
        *_way(contents),
        *_images(course.images),
        *_warnings(course),
    ]
    return "\n".join(parts)


def _lead(course: Course, contents: Contents) -> Iterator[str]:
    took = duration(course.time)
    said = {
        "passed": f"Everything is there, after {took}.",
        "failed": f"It failed after {took}.",
        "interrupted": f"It was interrupted after {took}.",
    }
    yield f'<p class="lead">{said[course.outcome]}</p>'
    counts = contents.counts
    facts = [
        ("failed", counts["failed"]),
        ("stopped", counts["stopped"]),
        ("built", counts["built"]),
        ("in the store", counts["hit"]),
        ("not run", counts["skipped"]),
    ]
    yield '<div class="facts">'
    for word, count in facts:
        if count or word in ("built", "in the store"):
            yield f"<div><b>{count:,}</b><span>{word}</span></div>"
    if contents.critical:
        way = duration(sum(step.seconds for step in contents.critical))
        yield f"<div><b>{way}</b><span>took the longest way</span></div>"
    if contents.saved >= 0.05:
        yield f"<div><b>{duration(contents.saved)}</b><span>of work was in the store</span></div>"
    yield "</div>"
    began = datetime.datetime.fromtimestamp(course.wall, datetime.UTC)
    yield f'<p class="quiet"><code>{text_of(course.command)}</code><br>'
    yield f"{began:%Y-%m-%d %H:%M:%S} UTC · buildgraph {__version__}</p>"


# -- what went wrong ---------------------------------------------------------------------


def _failures(course: Course) -> Iterator[str]:
    found = list(course.failures())
    if not found:
        return
    yield f"<h2>{plural(len(found), 'failure')}</h2>"
    for step, error in found[:_ROWS]:
        yield "<article" + (f' id="f-{step.node}" tabindex="-1">' if step else ">")
        yield from _failure(course, step, error)
        yield "</article>"


def _failure(course: Course, step: Step | None, error: BuildgraphError) -> Iterator[str]:
    if step is None or not isinstance(error, BuildFailed):
        if step is not None:
            yield _heading(step)
        yield f"<pre>{text_of(render_error(error, env={'COLUMNS': '100'}))}</pre>"
        return
    yield _heading(step)
    where = f"{shown(str(error.where))}: " if error.where else ""
    message = error.message.removeprefix(step.title).strip() or error.message
    yield f"<p>{where}<b>{shown(message)}</b> after {duration(step.seconds)}</p>"
    lines = course.log(step.node) or [safe(line) for line in error.log]
    if lines:
        log = "\n".join(map(text_of, lines))
        yield f'<pre tabindex="0" aria-label="log">{log}</pre>'
    else:
        yield '<p class="quiet">It wrote nothing.</p>'
    if error.hint:
        yield f"<p>hint: {shown(error.hint)}</p>"
    if step.reasons:
        yield f'<p class="quiet">it ran because {shown("; ".join(step.reasons))}</p>'
    ways = [way for way in (error.replay, _shell(course, step)) if way]
    if ways:
        yield '<p class="go">to go on: '
        yield from (f"<code>{shown(way)}</code>" for way in ways)
        yield "</p>"


def _heading(step: Step) -> str:
    return (
        f'<h3><span class="chip failed">failed</span> {shown(step.label)} '
        f'<button class="link title" data-node="{step.node}">{shown(step.title)}</button></h3>'
    )


def _shell(course: Course, step: Step) -> str:
    """Return how to look at the files that the step was given, where a short command does it."""
    if step.where is None or not step.needs or _OTHER_GRAPH.search(course.command):
        return ""
    try:
        below = course.step(step.needs[0]).where
    except KeyError:
        return ""
    if below is None or below.path != step.where.path or not 0 < below.line < step.where.line:
        return ""
    return f"buildgraph shell {step.label}@{below.line}"


def _tests(course: Course) -> Iterator[str]:
    if not course.smokes:
        return
    yield "<h2>Tests</h2>"
    checks: dict[str, list[ev.CheckFinished]] = {}
    for note in course.notes:
        if isinstance(note, ev.CheckFinished):
            checks.setdefault(note.label, []).append(note)
    reports = {report.label: report for report in course.reports}
    in_order = sorted(course.smokes, key=lambda smoke: (smoke.ok, smoke.label))
    for smoke in in_order[:_ROWS]:
        yield from _test(smoke, checks.get(smoke.label, ()), reports.get(smoke.label))
    if len(in_order) > _ROWS:
        yield f"<p>and {len(in_order) - _ROWS:,} more</p>"


def _test(
    smoke: ev.SmokeFinished, checks: Iterable[ev.CheckFinished], report: SmokeReport | None
) -> Iterator[str]:
    verdict = "passed" if smoke.ok else "failed"
    count = plural(smoke.passed + smoke.failed, "check")
    took = "passed before, so it was not run" if smoke.cached else duration(smoke.seconds)
    runs = f", {smoke.runs_passed} of {smoke.runs} runs passed" if smoke.runs > 1 else ""
    yield f'<article class="{"fine" if smoke.ok else "bad"}"><h3>'
    yield f'<span class="chip {verdict}">{verdict}</span> {shown(smoke.label)}</h3>'
    yield f'<p class="quiet">{count}, {took}{runs}</p>'
    if smoke.reason:
        yield f"<p>it ended early: {shown(smoke.reason)}</p>"
    yield '<ul class="plain checks">'
    for check in sorted(checks, key=lambda check: check.ok):
        word = "passed" if check.ok else "failed"
        took = duration(check.seconds) if check.seconds >= 0.001 else ""
        where = f" {shown(str(check.where))}" if check.where and not check.ok else ""
        yield f'<li><span class="chip {word}">{word}</span><div>{shown(check.check)} '
        yield f'<span class="quiet">{took}{where}</span>'
        yield from (f"<br>{shown(complaint)}" for complaint in check.complaints)
        yield "</div></li>"
    yield "</ul>"
    if not smoke.ok:
        if report is not None:
            yield f'<pre tabindex="0">{shown(chr(10).join(failure_lines(report)), newlines=True)}'
            yield "</pre>"
        label = shown(smoke.label)
        yield f'<p class="go">to go on: <code>buildgraph test {label} --keep</code>'
        yield f"<code>buildgraph logs {label}</code></p>"
    yield "</article>"


# -- what came of it ---------------------------------------------------------------------


def _images(images: list[ev.ImageBuilt]) -> Iterator[str]:
    if not images:
        return
    yield f"<h2>{plural(len(images), 'image')}</h2>"
    went = any(image.outputs for image in images)
    yield '<table class="list wide"><thead><tr><th>target<th>digest<th class="num">size'
    yield f'<th class="num">layers{"<th>went to" if went else ""}</tr></thead><tbody>'
    for image in sorted(images, key=lambda image: image.label)[:_ROWS]:
        platform = f' <span class="quiet">{shown(image.platform)}</span>' if image.platform else ""
        outputs = "<br>".join(shown(output) for output in image.outputs)
        yield (
            f"<tr><td>{shown(image.label)}{platform}<td><code>{shown(image.digest)}</code>"
            f'<td class="num">{size(image.size)}'
            f'<td class="num">{plural(image.layers, "layer")}'
            f"{'<td>' + outputs if went else ''}</tr>"
        )
    yield "</tbody></table>"
    if len(images) > _ROWS:
        yield f"<p>and {len(images) - _ROWS:,} more</p>"


def _way(contents: Contents) -> Iterator[str]:
    way = contents.critical
    total = sum(step.seconds for step in way)
    if not way or total < 0.001:
        return
    share = f", {100 * total / contents.total:.0f} % of the time" if contents.total else ""
    yield f"<h2>The longest way: {duration(total)}{share}</h2>"
    longest = max(step.seconds for step in way)
    slowest = sorted(way, key=lambda step: -step.seconds)[:_WAY]
    yield '<div class="way">'
    for step in way:
        if step in slowest:
            yield (
                f'<div><button class="link title clip" data-node="{step.node}">'
                f"{shown(step.title)}</button>"
                f'<span class="quiet">{shown(step.label)}</span></div>'
                f"<span>{duration(step.seconds)}</span>"
                f'<i style="width:{100 * step.seconds / longest:.1f}%"></i>'
            )
    yield "</div>"
    if len(way) > _WAY:
        yield f'<p class="quiet">and {len(way) - _WAY:,} shorter steps between them</p>'


def _warnings(course: Course) -> Iterator[str]:
    said = [(n.text, n.where, "") for n in course.notices if n.level == "warning"]
    said += [(f.message, f.where, f.rule) for f in course.findings]
    if not said:
        return
    yield f'<h2>{plural(len(said), "warning")}</h2><ul class="plain">'
    for text, where, rule in said[:_ROWS]:
        place = f' <span class="quiet">{shown(str(where))}</span>' if where else ""
        name = f"<b>{shown(rule)}</b> " if rule else ""
        yield f"<li>{name}{shown(text)}{place}</li>"
    if len(said) > _ROWS:
        yield f"<li>and {len(said) - _ROWS:,} more</li>"
    yield "</ul>"
