"""Knows that what repeats itself in a Boxfile ends soon and in words (A66, A67)."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from typing import Any

import pytest

from buildgraph import limits
from buildgraph.boxfile import loader, schema
from buildgraph.boxfile.rendering import Surroundings
from buildgraph.boxfile.rule_files import RuleTable, read_rule
from buildgraph.errors import InputError

NUMBERS = ", ".join(str(i) for i in range(limits.MATRIX_TARGETS))
MANY = ", ".join(f"A{i}: x" for i in range(2_000))
LOOPS = "{% for a in range(999) %}{% for b in range(99) %}{% endfor %}{% endfor %}"
RULE = read_rule(
    f"doc: x\nimage: {{labels: {{{MANY}}}}}\ndockerfile: FROM scratch\n", "r/big.rule.yaml", "big"
)
WIDE = read_rule(
    "doc: x\ndockerfile: |\n" + "  LABEL a={{ target }}\n" * 20_000, "r/wide.rule.yaml", "wide"
)
RULES: Mapping[str, schema.RuleSpec] = RuleTable({**schema.BUILT_IN, "big": RULE, "wide": WIDE})


def chain(count: int, *, downwards: bool) -> str:
    names = list(range(count))
    lines = [f"  t{i}: {{extends: t{i - 1}}}\n" if i else "  t0: {}\n" for i in names]
    return "targets:\n" + "".join(reversed(lines) if downwards else lines)


BOMBS = {
    "matrices": f"targets:\n  a: {{matrix: {{n: [{NUMBERS}]}}}}\n"
    + "".join(f"  b{i}: {{extends: a}}\n" for i in range(3_000)),
    "product": f"targets:\n  a: {{matrix: {{n: [{NUMBERS}], m: [{NUMBERS}], o: [{NUMBERS}]}}}}\n",
    "excludes": f"targets:\n  a:\n    matrix: {{n: [{NUMBERS}]}}\n    exclude: ["
    + "{n: 1}, " * 20_000
    + "]\n",
    "includes": "targets:\n  a:\n    matrix: {n: [x]}\n    include: ["
    + ", ".join(f"{{n: '{i}'}}" for i in range(3_000))
    + "]\n",
    "extends": f"targets:\n  a: {{args: {{{MANY}}}}}\n"
    + "".join(f"  b{i}: {{extends: a}}\n" for i in range(3_000)),
    "defaults": f"package: {{defaults: {{image: {{args: {{{MANY}}}}}}}}}\ntargets:\n"
    + "".join(f"  b{i}: {{}}\n" for i in range(3_000)),
    "chain": chain(3_000, downwards=False),
    "chain down": chain(3_000, downwards=True),
    "wide": "targets:\n  a: {extends: ["
    + ", ".join(f"t{i}" for i in range(2_000))
    + "]}\n"
    + "".join(f"  t{i}: {{}}\n" for i in range(2_000))
    + "".join(f"  u{i}: {{extends: a}}\n" for i in range(2_000))
    + "  bad: x\n",
    "templates": "args:\n" + "".join(f'  A{i}: "{LOOPS}{i}"\n' for i in range(1_000)),
    "calls": "targets:\n" + "".join(f"  b{i}: {{rule: big}}\n" for i in range(3_000)),
    "outputs": "targets:\n" + "".join(f"  b{i}: {{rule: wide}}\n" for i in range(2_000)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_repeats_ends(name: str) -> None:
    start = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as caught:
        load(BOMBS[name])
    assert time.process_time() - start < 10  # processor time; a few seconds of it here
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 700 * 1024
    assert len(getattr(caught.value, "errors", [caught.value])) < 30_000


def load(text: str) -> Any:
    around = Surroundings({}, "/nowhere")
    return loader.load(text, "app", RULES, "Dockerfile", around=around)


def test_as_much_as_somebody_wants_is_fine() -> None:
    package = load(
        f"targets:\n  a: {{matrix: {{n: [{NUMBERS}]}}, args: {{N: '{{{{ matrix.n }}}}'}}}}\n"
        + "".join(f"  b{i}: {{extends: c}}\n" for i in range(1_000))
        + "  c: {args: {A: b}}\n"
    )
    assert len(package.targets) == limits.MATRIX_TARGETS + 1 + 1_001
