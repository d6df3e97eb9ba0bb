"""Knows how results are shown: two tables for people, JSON for programs; must not know how they
came about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measure import Cost

OURS = "buildgraph"
BARE = "python"  # an interpreter that only reads what a question is about
FLOORS = ("cp", BARE)  # they build nothing, so they are nobody's rivals
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table: medians by tool, and why a tool has none.

    `budget` is in the unit of `unit`: seconds, or microseconds for a node of a plan.
    """

    key: str
    title: str
    budget: float | None
    costs: Mapping[str, Cost]
    failed: Mapping[str, str] = field(default_factory=dict)
    runs: int = 1
    load: float = 0.0
    value: float | None = None  # what is held against the budget, where it is not seconds
    unit: str = "s"

    @property
    def ours(self) -> float | None:
        """What of ours is held against the budget."""
        if self.value is not None:
            return self.value
        return self.costs[OURS].seconds if OURS in self.costs else None

    @property
    def factor(self) -> float | None:
        """Ours by the budget; above one it is missed."""
        return None if self.budget is None or self.ours is None else self.ours / self.budget

    @property
    def best_peer(self) -> tuple[str, float] | None:
        """The fastest of the others."""
        peers = [
            (cost.seconds, name) for name, cost in self.costs.items() if name not in (OURS, *FLOORS)
        ]
        return (min(peers)[1], min(peers)[0]) if peers else None

    @property
    def ratio(self) -> float | None:
        """Ours by the best peer's; below one we are ahead."""
        best = self.best_peer
        return self.costs[OURS].seconds / best[1] if best and OURS in self.costs else None

    def as_json(self) -> dict[str, Any]:
        """Return everything, the derived figures too."""
        best = self.best_peer
        return {
            "key": self.key,
            "title": self.title,
            "unit": self.unit,
            "budget": self.budget,
            "ours": self.ours,
            "factor": self.factor,
            "best_peer": best[0] if best else None,
            "ratio": self.ratio,
            "runs": self.runs,
            "load": self.load,
            "tools": {name: asdict(cost) for name, cost in self.costs.items()},
            "failed": dict(self.failed),
        }


def read_json(data: Mapping[str, Any]) -> Result:
    """Return a result from what `as_json` made of it."""
    return Result(
        data["key"],
        data["title"],
        data["budget"],
        {name: Cost(**cost) for name, cost in data["tools"].items()},
        data["failed"],
        data["runs"],
        data["load"],
        data["ours"] if data["unit"] != "s" else None,
        data["unit"],
    )


def number(value: float | None) -> str:
    """Return seconds or microseconds with three figures that count."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            c.ljust(w) if n == 0 else c.rjust(w)
            for n, (c, w) in enumerate(zip(r, widths, strict=True))
        )
        for r in lines
    )


def speed_table(results: Sequence[Result], tools: Sequence[str]) -> str:
    """Return the table of seconds, budgets and ratios."""
    peers = [name for name in tools if name != OURS]
    head = ["seconds", "ours", "at most", "met", "of it", *peers, "ours/best", "runs"]
    rows = []
    for result in results:
        unit = "" if result.unit == "s" else f" {result.unit}"
        factor = result.factor
        row = [result.title, number(result.ours) + unit, number(result.budget)]
        row += ["-" if factor is None else "yes" if factor <= 1 else "NO"]
        row += ["-" if factor is None else f"{factor:.2f}"]
        for name in peers:
            cost = result.costs.get(name)
            row.append("failed" if name in result.failed else number(cost and cost.seconds))
        row += ["-" if result.ratio is None else f"{result.ratio:.2f}", str(result.runs)]
        rows.append(row)
    return _grid(head, rows)


def cost_table(results: Sequence[Result], tools: Sequence[str]) -> str:
    """Return the table of what else was spent: CPU seconds, peak and written megabytes."""
    head = ["CPU s / peak MB / written MB", *tools]
    rows = []
    for result in results:
        row = [result.title]
        for name in tools:
            cost = result.costs.get(name)
            row.append(
                f"{number(cost.cpu)} / {cost.peak / _MB:.0f} / {cost.written / _MB:.0f}"
                if cost
                else "-"
            )
        rows.append(row)
    return _grid(head, rows)


def write(
    path: Path, results: Sequence[Result], about: Mapping[str, Any], absent: Mapping[str, str]
) -> None:
    """Write everything as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {**about, "absent": dict(absent), "results": [r.as_json() for r in results]}
    path.write_text(json.dumps(data, indent=1) + "\n")


def read(path: Path) -> list[Result]:
    """Return the results of an earlier run; none where there was none."""
    if not path.exists():
        return []
    return [read_json(data) for data in json.loads(path.read_text())["results"]]
