"""Knows the attributes of the `debian` rule, as a table; must not know what is done with them."""

from __future__ import annotations

from typing import Final

from buildgraph.boxfile.schema import (
    ENVIRONMENT_NAME,
    Attribute,
    Bool,
    ListOf,
    MapOf,
    PackageName,
    PlatformName,
    RuleSpec,
    Text,
)

_LINE: Final = Text(multiline=True)

SPEC: Final = RuleSpec(
    "debian",
    "A base image from Debian packages.",
    (
        Attribute(
            "packages",
            ListOf(PackageName(), single=True, unique=True),
            "Packages to install, with all that they depend on.",
            required=True,
        ),
        Attribute(
            "mirror",
            ListOf(Text(r".*\S.*", "the URI of an archive or a `deb` line"), single=True),
            "Archives: a URI, or a line of sources.list; default: this machine's own sources.",
            default=(),
        ),
        Attribute(
            "suite",
            ListOf(Text(r"\S+", "the name of a suite"), single=True, unique=True),
            "Suites of every archive given by its URI, such as [trixie, trixie-updates].",
            default=(),
        ),
        Attribute(
            "components",
            ListOf(Text(r"\S+", "the name of a component"), single=True, unique=True),
            "Components of those suites; default: main.",
            default=(),
        ),
        Attribute(
            "snapshot",
            Text(r"[0-9]{8}T[0-9]{6}Z", "a time such as 20260131T000000Z"),
            "State of the archives at a time: takes the place of @SNAPSHOTID@ in `mirror`, "
            "or is appended to it.",
        ),
        Attribute(
            "keyring",
            ListOf(Text(r"\S+", "the path of a keyring"), single=True, unique=True),
            "Keyrings that may sign the archives: absolute, or relative to the Boxfile's "
            "directory; default: the machine's.",
            default=(),
        ),
        Attribute(
            "platforms",
            ListOf(PlatformName(), single=True, unique=True),
            "Platforms to build for; default: this machine's.",
            default=(),
        ),
        Attribute(
            "essential",
            Bool(),
            "Whether the base system (Essential, priority required) is part of it.",
            default=True,
        ),
        Attribute("recommends", Bool(), "Whether recommended packages are too.", default=False),
        Attribute(
            "configure",
            Bool(),
            "true: packages are configured, apt-get works on top; false: files alone, no script "
            "runs.",
            default=True,
        ),
        Attribute(
            "env",
            MapOf(_LINE, ENVIRONMENT_NAME, "the name of an environment variable"),
            "Environment of the image.",
            default=(),
        ),
        Attribute("cmd", ListOf(_LINE), "Default command; default: /bin/bash if it is there."),
        Attribute("entrypoint", ListOf(_LINE), "Entry point."),
        Attribute("user", Text(r"\S+", "a user"), "User that containers run as."),
        Attribute("working_dir", Text(r"/.*", "an absolute path"), "Working directory."),
        Attribute("labels", MapOf(_LINE), "Labels of the config.", default=()),
        Attribute(
            "tags",
            ListOf(Text(r"\S+", "an image name"), single=True, unique=True),
            "Names that the image gets.",
            default=(),
        ),
    ),
)
