from __future__ import annotations

import pytest

from buildgraph.cli import words
from buildgraph.events import BuildFinished


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1, "0.00s"),
        (0.044, "0.04s"),
        (0.0999, "0.1s"),
        (3.25, "3.2s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (65, "1m05s"),
        (3599.6, "1h00m"),
        (7384, "2h03m"),
    ],
)
def test_durations(value: float, text: str) -> None:
    assert words.seconds(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (12_345_678_901, "12.3 GB"),
        (10**18, "1000.0 PB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert words.size(count) == text


def test_progress_says_what_is_known() -> None:
    assert words.progress("fetch x", 0, 0) == "fetch x"
    assert words.progress("fetch x", 1500, 0) == "fetch x 1.5 kB"
    assert words.progress("fetch x", 1500, 3000) == "fetch x 1.5 kB / 3.0 kB"


def test_counts_put_what_went_wrong_first() -> None:
    assert words.counts(BuildFinished(3.2, True, 2, 40, 0, 0)) == "built 2, cached 40 in 3.2s"
    assert words.counts(BuildFinished(3.2, False, 0, 1, 1, 7)) == (
        "failed 1, built 0, cached 1, cancelled 7 in 3.2s"
    )


def test_a_short_critical_path_is_not_worth_a_line() -> None:
    path = (("a", 0.2), ("b", 0.3))
    assert list(words.critical_path(BuildFinished(1, True, 2, 0, 0, 0, path))) == []


def test_a_critical_path_of_one_step_that_matters_says_nothing_new() -> None:
    path = (("a", 0.1), ("b", 30.0), ("c", 0.1))
    assert list(words.critical_path(BuildFinished(31, True, 3, 0, 0, 0, path))) == []


def test_the_critical_path_names_its_slowest_steps_in_order() -> None:
    path = tuple((f"step {n}", float(n % 4)) for n in range(12))
    lines = list(words.critical_path(BuildFinished(1, True, 12, 0, 0, 0, path)))
    assert lines[0] == "critical path 18.0s in 12 steps, the longest:"
    assert [line.split()[-1] for line in lines[1:]] == ["2", "3", "6", "7", "11"]
