"""Knows what a push of targets means before anything is built: which image goes where, after which
tests; must not know how an image is built, tested or sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from buildgraph.boxfile.push import IfExists, PushTarget, push_target
from buildgraph.boxfile.target import Located, Target
from buildgraph.boxfile.workspace import Workspace
from buildgraph.engine.prepare import DEEDS, Prepared, opened_groups
from buildgraph.engine.pushing import destination
from buildgraph.errors import InputError, Location, raise_all
from buildgraph.label import AllBelow, AllInPackage, Label, parse_pattern
from buildgraph.oci.reference import Reference
from buildgraph.oci.types import Platform

_NO_IMAGES = (*DEEDS, "group")


class PushPlan(Struct, frozen=True):
    """One image and the names it is to get; `label` is the target that was asked for."""

    label: Label
    where: Location
    image: Label
    names: tuple[Reference, ...]
    if_exists: IfExists = "retag"
    requires: tuple[Label, ...] = ()


def push_plans(workspace: Workspace, package: str, words: Sequence[str]) -> list[PushPlan]:
    """Return what is to be pushed, in order. Raises InputError for all that is wrong, at once.

    A pattern or a group means the push targets in it; a target named by itself may be an image
    with tags as well.
    """
    labels = workspace.expand(words, package)
    single = [word for word in words if not _is_wide(word, package)]
    named = set(workspace.expand(single, package)) if single else set()
    left_out = [word[1:] for word in words if word.startswith("-")]
    # Not even by way of a group: a push cannot be undone.
    excluded = set(workspace.expand(left_out, package)) if left_out else set()
    plans: dict[Label, PushPlan] = {}
    errors: list[InputError] = []
    for label in opened_groups(workspace, labels):
        if label in excluded:
            continue
        target = workspace.target(label)
        try:
            if target.rule == "push":
                plans[label] = _of_push(workspace, push_target(target))
            elif label in named:
                plans[label] = _of_image(target)
        except InputError as error:
            errors.append(error)
    errors += _conflicts(list(plans.values()))
    raise_all(errors)
    if not plans:
        raise InputError(
            f"there is nothing to push among {len(labels)} targets",
            hint="a target with `rule: push` is pushed, or an image with tags that is named itself",
        )
    return list(plans.values())


def _is_wide(word: str, package: str) -> bool:
    if word.startswith("-"):
        return True
    if word.startswith("/") and not word.startswith("//"):
        return False
    return isinstance(parse_pattern(word, package).what, AllBelow | AllInPackage)


def _of_image(target: Target) -> PushPlan:
    if target.rule in _NO_IMAGES:
        raise InputError(f"{target.label} is no image and no push: there is nothing to push")
    tags = _own_tags(target)
    if not tags:
        raise InputError(
            f"{target.label} has no name to be pushed under",
            target.where,
            "give it `tags`, or write a target with `rule: push`",
        )
    return PushPlan(target.label, target.where, target.label, _names(tags))


def _of_push(workspace: Workspace, push: PushTarget) -> PushPlan:
    image = workspace.target(push.image.label, push.image.where)
    if image.rule in _NO_IMAGES:
        raise InputError(f"{image.label} is a {image.rule} and no image", push.image.where)
    tags = push.tags or _own_tags(image)
    if not tags:
        raise InputError(
            f"neither {push.label} nor {image.label} says a name to push it under",
            push.where,
            "write `tags`: HOST/NAME:TAG",
        )
    for needed in push.requires:
        test = workspace.target(needed.label, needed.where)
        if test.rule != "smoke":
            raise InputError(f"{test.label} is no smoke test", needed.where)
        if image.label not in {label for label, _ in workspace.needs(test)}:
            raise InputError(
                f"{test.label} does not test {image.label}",
                needed.where,
                "it has to run or look at the very image that is pushed",
            )
    requires = tuple(needed.label for needed in push.requires)
    return PushPlan(push.label, push.where, image.label, _names(tags), push.if_exists, requires)


def _own_tags(target: Target) -> tuple[Located, ...]:
    if "tags" not in target.attrs:
        return ()
    items = zip(target.items("tags"), target.texts("tags"), strict=True)
    return tuple(Located(text, item.where) for item, text in items)


def _names(tags: Sequence[Located]) -> tuple[Reference, ...]:
    out: dict[Reference, None] = {}
    for tag in tags:
        try:
            out[destination(tag.text)] = None
        except InputError as error:
            error.where = error.where or tag.where
            raise
    return tuple(out)


def _conflicts(plans: Sequence[PushPlan]) -> list[InputError]:
    """Return an error for each name that two images are to get."""
    errors: list[InputError] = []
    owners: dict[Reference, PushPlan] = {}
    for plan in plans:
        for name in plan.names:
            other = owners.setdefault(name, plan)
            if other.image != plan.image:
                errors.append(
                    InputError(
                        f"{plan.label} and {other.label} push different images to {name.familiar}",
                        plan.where,
                    )
                )
    return errors


def untested(plan: PushPlan, prepared: Prepared, host: Platform) -> str:
    """Return a warning about platforms that no test of a push runs, "" where there is none.

    Tests run what this machine runs. Raises InputError where that is no platform of the image.
    """
    if not plan.requires:
        return ""
    platforms = [each.platform for each in prepared.plans[str(plan.image)]]
    others = [str(platform) for platform in platforms if platform != host]
    if len(others) == len(platforms):
        raise InputError(
            f"{plan.label}: tests run on {host}, and {plan.image} is for {', '.join(others)} alone",
            plan.where,
            "leave `requires` out, or push from a machine of that platform",
        )
    if not others:
        return ""
    return f"{plan.label}: tested on {host} alone; {', '.join(others)} goes along untested"
