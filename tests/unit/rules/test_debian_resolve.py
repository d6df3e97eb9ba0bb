from __future__ import annotations

import random

import pytest

from buildgraph.errors import InputError, Location
from buildgraph_rules.debian.control import BinaryPackage, Index, Universe, parse_request
from buildgraph_rules.debian.resolve import Request, bootstrap_set, configure_order, resolve

HERE = Location("Boxfile.yaml", 4, 16)
TARGET = Location("Boxfile.yaml", 2, 3)


def universe(**packages: str) -> Universe:
    """Make packages from `name="1.0; Depends: x; Provides: y"`; `_` in a name is `-`."""
    text = ""
    for name, words in packages.items():
        version, *fields = (part.strip() for part in words.split(";"))
        package, _, number = name.replace("_", "-").partition("--")
        del number  # keeps several versions of a package apart
        text += "\n".join(
            [f"Package: {package}", f"Version: {version}", "Architecture: all", *fields, "\n"]
        )
    return Universe([Index(text.encode(), 0)], "amd64")


def names(world: Universe, *wanted: str, essential: bool = False, recommends: bool = False) -> str:
    found = resolve(
        world,
        [Request(parse_request(w), HERE) for w in wanted],
        TARGET,
        essential=essential,
        recommends=recommends,
    )
    return " ".join(f"{p.name}={p.version}" if p.version != "1" else p.name for p in found)


def fails(world: Universe, *wanted: str, essential: bool = False) -> InputError:
    with pytest.raises(InputError) as caught:
        names(world, *wanted, essential=essential)
    return caught.value


def test_dependencies_are_followed() -> None:
    world = universe(aa="1; Depends: bb (>= 1)", bb="1; Pre-Depends: cc", cc="1", dd="1")
    assert names(world, "aa") == "aa bb cc"


def test_the_newest_version_wins_and_an_old_one_can_be_asked_for() -> None:
    world = universe(aa__1="1", aa__2="2:0")
    assert names(world, "aa") == "aa=2:0"
    assert names(world, "aa=1") == "aa"


def test_a_dependency_may_need_an_old_version() -> None:
    world = universe(aa="1; Depends: bb (<< 2)", bb__1="1", bb__2="2")
    assert names(world, "aa") == "aa bb"


def test_the_first_alternative_is_taken() -> None:
    world = universe(aa="1; Depends: bb | cc", bb="1", cc="1")
    assert names(world, "aa") == "aa bb"


def test_an_alternative_that_is_there_anyway_is_enough() -> None:
    world = universe(aa="1; Depends: bb | cc", bb="1", cc="1")
    assert names(world, "aa", "cc") == "aa cc"


def test_a_missing_alternative_is_passed_over() -> None:
    assert names(universe(aa="1; Depends: bb | cc", cc="1"), "aa") == "aa cc"


def test_a_virtual_package_is_satisfied_by_the_most_important_provider() -> None:
    world = universe(
        aa="1; Depends: vv",
        bb="1; Provides: vv",
        cc="1; Provides: vv; Priority: important",
    )
    assert names(world, "aa") == "aa cc"
    assert names(world, "aa", "bb") == "aa bb"


def test_versioned_provides() -> None:
    world = universe(
        aa="1; Depends: vv (>= 2)",
        bb="1; Provides: vv",
        cc="1; Provides: vv (= 1)",
        dd="1; Provides: vv (= 3)",
    )
    assert names(world, "aa") == "aa dd"


def test_the_base_system_comes_unasked() -> None:
    world = universe(
        aa="1", bb="1; Essential: yes; Depends: dd", cc="1; Priority: required", dd="1"
    )
    assert names(world, "aa", essential=True) == "aa bb cc dd"
    assert names(world, "aa") == "aa"


def test_recommends_are_optional() -> None:
    world = universe(aa="1; Recommends: bb, nowhere, cc", bb="1; Recommends: dd", cc="1", dd="1")
    assert names(world, "aa") == "aa"
    assert names(world, "aa", recommends=True) == "aa bb cc dd"


def test_usr_is_merged_already() -> None:
    world = universe(aa="1; Depends: usrmerge | usr-is-merged", usrmerge="1", usr_is_merged="1")
    assert names(world, "aa") == "aa usr-is-merged"


@pytest.mark.parametrize("field", ["Conflicts", "Breaks"])
def test_a_conflict_names_both_and_the_clause(field: str) -> None:
    world = universe(aa=f"1; {field}: bb (<< 2)", bb="1")
    error = fails(world, "aa", "bb")
    assert error.message == f"aa {field} bb (<< 2), and bb is needed as well"
    assert error.where == HERE
    assert names(universe(aa=f"1; {field}: bb (<< 2)", bb="2"), "aa", "bb") == "aa bb=2"


def test_a_conflict_with_what_somebody_provides() -> None:
    world = universe(aa="1; Provides: mta; Conflicts: mta", bb="1; Provides: mta; Conflicts: mta")
    assert names(world, "aa") == "aa"
    assert "Conflicts mta" in fails(world, "aa", "bb").message


def test_a_conflicting_alternative_is_not_chosen() -> None:
    world = universe(aa="1; Depends: bb | cc", bb="1; Conflicts: dd", cc="1", dd="1")
    assert names(world, "dd", "aa") == "aa cc dd"


def test_an_early_choice_is_taken_back() -> None:
    """bb is chosen for aa before anybody knows that ee, deep down, cannot stand it."""
    world = universe(
        aa="1; Depends: bb | cc, dd",
        bb="1; Depends: xx",
        cc="1",
        dd="1; Depends: ee",
        ee="1; Conflicts: bb",
        xx="1",
    )
    assert names(world, "aa") == "aa cc dd ee"


def test_what_cannot_be_satisfied_is_told_with_its_chain() -> None:
    error = fails(universe(aa="1; Depends: bb", bb="1; Pre-Depends: cc (>= 2)", cc="1"), "aa")
    assert error.message == "no package satisfies cc (>= 2) (aa -> bb Pre-Depends: cc (>= 2))"
    assert error.where == HERE


def test_a_broken_base_system_is_told_at_the_target() -> None:
    error = fails(universe(aa="1", bb="1; Essential: yes; Depends: zz"), "aa", essential=True)
    assert error.where == TARGET


def test_unknown_names() -> None:
    world = universe(python3="1", mawk="1; Provides: awk")
    error = fails(world, "pyhton3")
    assert (error.message, error.hint) == ("unknown package pyhton3", "did you mean 'python3'?")
    assert error.where == HERE
    assert fails(world, "awk").hint == "provided by mawk"
    assert fails(world, "mawk=2").hint == "the archive has 1"


def test_two_versions_of_one_package() -> None:
    world = universe(aa__1="1", aa__2="2")
    assert "versions 1 and 2" in fails(world, "aa=1", "aa=2").message


def test_cycles_end() -> None:
    world = universe(aa="1; Depends: bb", bb="1; Depends: cc", cc="1; Depends: aa")
    assert names(world, "aa") == "aa bb cc"


# --- order


def packages(world: Universe) -> dict[str, BinaryPackage]:
    return {name: world.candidates(name)[0] for name in world.names()}


def order(world: Universe) -> str:
    return " ".join(configure_order(packages(world)))


def test_dependencies_come_first() -> None:
    assert order(universe(aa="1; Depends: cc", bb="1", cc="1; Depends: bb")) == "bb cc aa"


def test_a_provider_comes_first() -> None:
    assert order(universe(aa="1; Pre-Depends: vv", zz="1; Provides: vv")) == "zz aa"


def test_essential_packages_come_before_those_that_do_not_name_them() -> None:
    world = universe(aa="1", zz="1; Essential: yes; Depends: yy", yy="1", dpkg="1")
    assert order(world) == "dpkg yy zz aa"
    assert bootstrap_set(packages(world)) == {"dpkg", "yy", "zz"}


def test_a_cycle_is_not_entered_through_a_pre_dependency() -> None:
    world = universe(aa="1; Pre-Depends: bb", bb="1; Depends: aa")
    assert order(world) == "bb aa"
    world = universe(bb="1; Pre-Depends: aa", aa="1; Depends: bb")
    assert order(world) == "aa bb"


def test_order_does_not_depend_on_the_order_of_the_input() -> None:
    chance = random.Random(7)
    found = {
        f"p{i}": "1; Depends: " + ", ".join(f"p{chance.randrange(40)}" for _ in range(3))
        for i in range(40)
    }
    world = packages(universe(**found))
    expected = configure_order(world)
    for _ in range(5):
        shuffled = list(world.items())
        chance.shuffle(shuffled)
        assert configure_order(dict(shuffled)) == expected


def test_a_long_chain_needs_no_deep_stack() -> None:
    found = {f"p{i}": f"1; Depends: p{i + 1}" for i in range(3000)}
    world = packages(universe(**found, p3000="1"))
    assert configure_order(world)[:2] == ("p3000", "p2999")
