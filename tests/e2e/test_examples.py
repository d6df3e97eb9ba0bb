"""Knows what the examples promise: the same digests for everybody, no work twice, and the words
they print; must not know how anything is built.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from typing import Any

import pytest

from e2e.checkouts import ALL, EITHER, Checkout
from e2e.harness import ROOT, Result

pytestmark = [pytest.mark.slow, pytest.mark.kernel]
EXAMPLES = sorted(p.name for p in (ROOT / "examples").iterdir() if p.is_dir())
NO_IMAGE = ("group", "push", "smoke")
MONEY = "examples/monorepo/lib/shoplib/shoplib/money.py"


def targets(checkout: Checkout, *patterns: str) -> dict[str, str]:
    """Return full label -> rule of the targets that patterns name."""
    lines = checkout.run("list", "--json", *patterns).stdout.splitlines()
    found = [json.loads(line) for line in lines]
    return {_full(each["label"]): each["rule"] for each in found}


def _full(label: str) -> str:
    return label if ":" in label else f"{label}:image"


def finished(result: Result) -> dict[str, Any]:
    """Return the last words of a build."""
    (event,) = [e for e in result.events if e["event"] == "build_finished"]
    assert event["ok"], event
    return event


def built(result: Result) -> list[tuple[str, str]]:
    """Return label and title of each step that was really run, sorted."""
    ended = [e for e in result.events if e["event"] == "node_finished" and not e["cached"]]
    return sorted((e["label"], e["title"]) for e in ended)


def assert_nothing_built(result: Result, first: Result | None) -> None:
    assert built(result) == []
    assert finished(result)["built"] == 0
    assert first is not None
    assert result.digests == first.digests


# -- what there is -----------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_a_readme_and_targets_that_dots_reach(
    name: str, examples_in_place: Checkout
) -> None:
    top = f"examples/{name}"
    assert (ROOT / top / "Boxfile.yaml").is_file()
    assert (ROOT / top / "README.md").read_text().startswith(f"# {name}\n")
    own = targets(examples_in_place, f"//{top}/...")
    assert any(label.startswith(f"//{top}:") for label in own)
    assert own.items() <= targets(examples_in_place, ALL).items()


def test_every_directory_with_a_dockerfile_is_an_image(examples_in_place: Checkout) -> None:
    packages = {label.partition(":")[0] for label in targets(examples_in_place, ALL)}
    directories = {f"//{p.parent.relative_to(ROOT)}" for p in ROOT.glob("examples/**/Dockerfile")}
    assert directories <= packages
    assert len({p for p in packages if p.startswith("//examples/monorepo/")}) >= 12, "a dozen"


# -- the same bytes ----------------------------------------------------------------------


def test_every_target_has_the_same_digest_for_everybody(
    examples_in_place: Checkout, examples_elsewhere: Checkout
) -> None:
    one, other = examples_in_place.first, examples_elsewhere.first
    assert one is not None
    assert other is not None
    everything = targets(examples_in_place, ALL)
    images = {label for label, rule in everything.items() if rule not in NO_IMAGE}
    assert one.digests.keys() == images
    assert one.digests == other.digests
    for result in (one, other):
        ended = [e for e in result.events if e["event"] == "node_finished"]
        made = {e["key"] for e in ended if not e["cached"]}
        assert {e["key"] for e in ended} == made, "the store was to be empty"


@EITHER
def test_the_store_is_whole_afterwards(checkout: Checkout) -> None:
    checkout.run("cache", "verify")


# -- no work twice -----------------------------------------------------------------------


@EITHER
def test_a_second_build_builds_nothing(checkout: Checkout) -> None:
    for _ in range(2):  # the second of them may take a shorter way
        assert_nothing_built(checkout.build(ALL), checkout.first)


def test_touching_every_file_rebuilds_nothing(
    copied: Checkout, examples_in_place: Checkout
) -> None:
    assert_nothing_built(copied.build(ALL), examples_in_place.first)
    for path in copied.path("").rglob("*"):
        os.utime(path)
    assert_nothing_built(copied.build(ALL), examples_in_place.first)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owners_and_old_times_rebuild_nothing(
    copied: Checkout, examples_in_place: Checkout
) -> None:
    for path in copied.path("").rglob("*"):
        os.chown(path, 12345, 23456)
        os.utime(path, (1, 1))
    assert_nothing_built(copied.build(ALL), examples_in_place.first)


def test_the_same_bytes_written_again_rebuild_nothing(
    copied: Checkout, examples_in_place: Checkout
) -> None:
    copied.build(ALL)
    for path in copied.path("examples").rglob("*"):
        if path.is_file():
            mode, content = path.stat().st_mode, path.read_bytes()
            path.unlink()
            path.write_bytes(content)
            path.chmod(mode)
    assert_nothing_built(copied.build(ALL), examples_in_place.first)


# -- a change ----------------------------------------------------------------------------


def test_a_changed_library_rebuilds_what_holds_it_and_explain_names_the_file(
    copied: Checkout, examples_in_place: Checkout
) -> None:
    assert examples_in_place.first is not None
    copied.edit(MONEY, "Amounts in cents", "Amounts in Cents")  # one byte
    said = copied.run("explain", ALL).stdout
    assert re.search(r"file money\.py: sha256:\w+ -> sha256:\w+", said), said
    assert "lib/shoplib/Dockerfile:2:1" in said
    planned = copied.run("plan", ALL).stdout
    assert "file money.py: sha256:" in planned

    result = copied.build(ALL)
    shop = "//examples/monorepo"
    library = f"{shop}/lib/shoplib:image"
    steps = built(result)
    assert [title for label, title in steps if label == library] == [
        "COPY --from=check /srv/lib/shoplib /shoplib",
        "COPY shoplib/ /srv/lib/shoplib/",
        "RUN python3 -m shoplib.money",
    ]
    # All services copy the same files to the same place: that is one step, in whosever name.
    services = {
        label for label, rule in targets(copied, f"{shop}/...").items() if rule == "service"
    }
    assert len(services) >= 5
    (one,) = [step for step in steps if step[0] in services]
    assert one[1] == "COPY --from=shoplib /shoplib /srv/lib/shoplib"

    before, now = examples_in_place.first.digests, result.digests
    changed = {label for label in now if now[label] != before[label]}
    compat = {label for label in now if label.startswith(f"{shop}/lib/shoplib:compat@")}
    others = {f"{shop}/services/mail:image", f"{shop}/db:migrate"}
    assert changed == {library} | services | compat | others, "the report copies no file of it"


def test_a_changed_service_rebuilds_one_layer(
    copied: Checkout, examples_in_place: Checkout
) -> None:
    assert examples_in_place.first is not None
    mail = "//examples/monorepo/services/mail:image"
    with copied.path("examples/monorepo/services/mail/app.py").open("a") as file:
        file.write("# note\n")
    result = copied.build("//examples/monorepo/...")
    assert built(result) == [(mail, "COPY app.py .")]
    before = examples_in_place.first.digests
    assert [label for label, digest in result.digests.items() if before[label] != digest] == [mail]
    assert "file app.py: sha256:" in copied.run("explain", mail).stdout


def test_a_changed_comment_compiles_again_and_changes_no_image(
    copied: Checkout, examples_in_place: Checkout
) -> None:
    label = "//examples/multistage:image"
    assert examples_in_place.first is not None
    copied.edit("examples/multistage/src/wordfreq.c", "/* Print the ten", "/* Also: print the ten")
    result = copied.build(label)
    assert built(result) == [
        (label, "COPY src/ ."),
        (label, "RUN make && ./wordfreq --self-test"),
    ]
    assert result.digests == {label: examples_in_place.first.digests[label]}


def test_a_changed_script_redoes_the_copy_and_not_the_run(copied: Checkout) -> None:
    label = "//examples/hello:image"
    with copied.path("examples/hello/hello.sh").open("a") as file:
        file.write("echo bye\n")
    planned = copied.run("plan", "--json", label).stdout.splitlines()
    states = {e["title"]: e["verdict"] for e in map(json.loads, planned) if "title" in e}
    assert states["COPY hello.sh ."] == "build", states
    assert [title for title, state in states.items() if state != "hit"] == ["COPY hello.sh ."]
    assert "file hello.sh: sha256:" in copied.run("explain", label).stdout
    assert copied.run("run", label).stdout.endswith(", in /srv/hello\nbye\n")


# -- what they print ---------------------------------------------------------------------


@EITHER
def test_hello_greets_from_debian_as_nobody(checkout: Checkout) -> None:
    said = checkout.run("run", "//examples/hello:image").stdout.splitlines()
    assert re.fullmatch(r"hello from Debian GNU/Linux .*, as nobody, in /srv/hello", said[-1])
    assert len(said) > 4, "figlet, which RUN installed, draws large letters"


@EITHER
def test_multistage_counts_words(checkout: Checkout) -> None:
    text = (ROOT / "examples/multistage/src/sample.txt").read_text().lower()
    words = Counter(re.findall("[a-z]+", text))
    best = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:10]
    said = checkout.run("run", "//examples/multistage").stdout
    assert said == "".join(f"{count:5} {word}\n" for word, count in best)


@EITHER
def test_the_report_reads_what_other_images_brought(checkout: Checkout) -> None:
    said = checkout.run("run", "//examples/monorepo/tools/report").stdout
    lines = {
        name: len((ROOT / f"examples/monorepo/services/{name}/app.py").read_text().splitlines())
        for name in ("billing", "stock")
    }
    assert said == "".join(f"{name}: {count} lines\n" for name, count in lines.items())


# -- how they run ------------------------------------------------------------------------

SMOKE = "//examples/smoke:smoke"


@EITHER
def test_the_web_service_and_its_database_pass_as_containers(checkout: Checkout) -> None:
    said = checkout.run("test", SMOKE, "--no-cache").stdout
    assert re.search(rf"{SMOKE} passed in [0-9.]+s \(10 checks\)", said), said
    assert checkout.run("test", "//examples/smoke/...").stdout == f"{SMOKE} passed (cached)\n"


def test_a_web_service_broken_on_purpose_fails_with_a_report(copied: Checkout) -> None:
    copied.edit("examples/smoke/app.py", '"INCR"', '"INCRR"')
    said = copied.run("test", SMOKE, "--progress", "quiet", expect=1).stdout
    assert re.match(rf"{SMOKE} failed after [0-9.]+ s\n", said)
    report = (
        r"  check the first visitor is counted failed \([0-9.]+ s\)\n"
        r"    --> examples/smoke/Boxfile\.yaml:\d+:\d+\n"
        r"    json \$\.visits is .*ERR unknown command.*, not '1'\n"
        r"    asked: POST http://web:8080/visits\n"
        r"    answer:\n"
        r"      201 Created\n"
    )
    assert re.search(report, said), said
    assert re.search(r"  service db \(//examples/smoke/db:image\): running\n", said)
    assert re.search(
        r"  service web .*\n    the last \d+ lines of its log:\n      counting in", said
    )
    assert f"buildgraph logs {SMOKE}" in said
    assert "POST /visits" in copied.run("logs", SMOKE, "web").stdout
