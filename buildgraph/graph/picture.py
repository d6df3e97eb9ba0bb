"""Knows what a picture of a build shows, as data: boxes that need each other on three levels
(targets, stages, steps), and the way that takes longest; must not know how it is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph.graph.dag import Dag

# "": nothing is done for it. A plan says build and depends, a build that is over the last three.
Verdict = Literal["hit", "build", "depends", "built", "skipped", "failed", ""]
Level = Literal["target", "stage", "step"]
_WORSE: Final[tuple[Verdict, ...]] = ("hit", "depends", "build", "built", "skipped", "failed")
LEVELS: Final[tuple[Level, ...]] = ("target", "stage", "step")


class Box(Struct, frozen=True):
    """One thing in the picture. `seconds` and `size` are of the last time it was made."""

    id: str
    title: str
    note: str = ""  # a second, quieter line
    needs: tuple[str, ...] = ()
    target: str = ""
    stage: str = ""
    where: str = ""
    verdict: Verdict = ""
    seconds: float | None = None
    size: int | None = None
    critical: bool = False


class Picture(Struct, frozen=True):
    """The boxes of each level, each after what it needs, and the seconds of the longest way."""

    name: str
    levels: Mapping[Level, tuple[Box, ...]]
    longest: float = 0.0
    total: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)  # steps by verdict


def picture(name: str, steps: Sequence[Box], targets: Sequence[Box]) -> Picture:
    """Return the picture of steps and the targets they belong to.

    Stages are made of the steps; what a target took and whether it is a hit comes from its steps.
    """
    by_id = {step.id: step for step in steps}
    dag = Dag({step.id: step.needs for step in steps})
    way = dag.longest_path(lambda step: by_id[step].seconds or 0.0 if step in by_id else 0.0)
    longest = sum(by_id[step].seconds or 0.0 for step in way if step in by_id)
    critical = set(way) if longest else set()
    marked = [replace(step, critical=step.id in critical) for step in steps]
    stages = _stages(marked)
    grouped: dict[str, list[Box]] = {}
    for step in marked:
        grouped.setdefault(step.target, []).append(step)
    drawn = [_sum_up(target, grouped.get(target.id, ())) for target in targets]
    counts: dict[str, int] = {}
    for step in marked:
        counts[step.verdict] = counts.get(step.verdict, 0) + 1
    return Picture(
        name,
        {"target": _sorted(drawn), "stage": _sorted(stages), "step": _sorted(marked)},
        longest,
        sum(step.seconds or 0.0 for step in steps),
        counts,
    )


def _sorted(boxes: Iterable[Box]) -> tuple[Box, ...]:
    by_id = {box.id: box for box in boxes}
    order = Dag({box.id: box.needs for box in by_id.values()}).order(by_id)
    known = (by_id[name] for name in order)
    return tuple(replace(b, needs=tuple(n for n in b.needs if n in by_id)) for b in known)


def _stages(steps: Iterable[Box]) -> list[Box]:
    """Return a box for each stage of each target; what belongs to no stage is a box by itself."""
    groups: dict[str, list[Box]] = {}
    stage_of: dict[str, str] = {}
    for step in steps:
        key = f"{step.target} {step.stage}" if step.stage else step.id
        groups.setdefault(key, []).append(step)
        stage_of[step.id] = key
    out: list[Box] = []
    for key, group in groups.items():
        needs = dict.fromkeys(
            stage_of[other] for step in group for other in step.needs if other in stage_of
        )
        needs.pop(key, None)
        first = group[0]
        title = f"stage {first.stage}" if first.stage else first.title
        box = replace(first, id=key, title=title, note=first.target, needs=tuple(needs))
        out.append(_sum_up(box, group))
    return _without_circles(out)


def _without_circles(boxes: list[Box]) -> list[Box]:
    """Steps that two stages share may make the stages need each other; draw one way only."""
    place = {box.id: number for number, box in enumerate(boxes)}
    return [
        replace(box, needs=tuple(n for n in box.needs if place[n] < place[box.id])) for box in boxes
    ]


def _sum_up(box: Box, steps: Sequence[Box]) -> Box:
    """Give a box what its steps say together: the worst verdict, all seconds and bytes."""
    verdicts = {step.verdict for step in steps}
    worst: Verdict = ""
    for verdict in _WORSE:
        if verdict in verdicts:
            worst = verdict
    timed = [step.seconds for step in steps if step.seconds is not None]
    sized = [step.size for step in steps if step.size is not None]
    return replace(
        box,
        verdict=worst,
        seconds=sum(timed) if timed else None,
        size=sum(sized) if sized else None,
        critical=any(step.critical for step in steps),
    )


def duration(seconds: float) -> str:
    """Return seconds as a reader wants them."""
    if seconds >= 100:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def size_text(size: int) -> str:
    """Return a number of bytes as a reader wants it, in powers of 1000."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError("the loop returns")


def facts(box: Box) -> str:
    """Return what is known of a box beside its name, in one line."""
    parts: list[str] = [box.verdict]
    parts.append("" if box.seconds is None else duration(box.seconds))
    parts.append("" if box.size is None else size_text(box.size))
    return " · ".join(part for part in parts if part)
