"""Knows what a Dockerfile's graph can be found fault with, rule by rule, with an example each way;
must not know when a rule fires.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct


class Rule(Struct, frozen=True):
    """One rule: why it exists, in a sentence, and what it does and does not complain about."""

    id: str
    reason: str
    bad: str
    good: str


_RULES = (
    Rule(
        "UnusedStage",
        "a stage that no other stage needs, and that nobody can want to build, is never built",
        "FROM alpine\nRUN make tools\n\nFROM debian\nRUN make\n",
        "FROM alpine AS tools\nRUN make tools\n\nFROM debian\nCOPY --from=tools /t /t\n",
    ),
    Rule(
        "UnusedArg",
        "an ARG above the first FROM is seen by FROM alone, and one that is read nowhere says "
        "something that is not so",
        "ARG VERSION=1.2\nFROM alpine\nRUN fetch app-$VERSION.tgz\n",
        "ARG VERSION=1.2\nFROM alpine\nARG VERSION\nRUN fetch app-$VERSION.tgz\n",
    ),
    Rule(
        "CopyBustsDependencies",
        "what is installed depends on a few files, and a step runs again when any file that was "
        "copied above it changes",
        "FROM node:22\nWORKDIR /app\nCOPY . .\nRUN npm ci\n",
        "FROM node:22\nWORKDIR /app\nCOPY package*.json ./\nRUN npm ci\nCOPY . .\n",
    ),
    Rule(
        "CacheBustingOrder",
        "an ARG is a variable of every RUN below it, so a value that changes with each build "
        "makes all of them run again",
        "FROM alpine\nARG GIT_SHA\nRUN apk add --no-cache git\nLABEL revision=$GIT_SHA\n",
        "FROM alpine\nRUN apk add --no-cache git\nARG GIT_SHA\nLABEL revision=$GIT_SHA\n",
    ),
    Rule(
        "SecretFileInLayer",
        "whoever can pull the image, or its cache, can read every file that ever was in a layer, "
        "also after it was removed",
        "FROM alpine\nCOPY . /app  # and .git-credentials lies in the context\n",
        "FROM alpine\nRUN --mount=type=secret,id=git,target=/root/.git-credentials git clone …\n",
    ),
    Rule(
        "AptListsLeft",
        "the lists are of no use in an image and take 20 to 50 MB; removed in a later RUN they "
        "stay in the layer below",
        "FROM debian\nRUN apt-get update && apt-get install -y git\n",
        "FROM debian\n"
        "RUN apt-get update && apt-get install -y git && rm -rf /var/lib/apt/lists/*\n",
    ),
    Rule(
        "AptUpdateAlone",
        "the step is cached, so the next one installs from old lists, and fails once the versions "
        "in them are gone",
        "FROM debian\nRUN apt-get update\nRUN apt-get install -y git\n",
        "FROM debian\n"
        "RUN apt-get update && apt-get install -y git && rm -rf /var/lib/apt/lists/*\n",
    ),
    Rule(
        "PipCacheLeft",
        "pip keeps what it downloads for a next time that an image never has",
        "FROM python:3.13\nRUN pip install flask\n",
        "FROM python:3.13\nRUN pip install --no-cache-dir flask\n",
    ),
    Rule(
        "UnknownRule",
        "a rule that is misspelt is not skipped",
        "# check=skip=JSONArgRecommended\nFROM alpine\n",
        "# check=skip=JSONArgsRecommended\nFROM alpine\n",
    ),
)
RULES: Mapping[str, Rule] = MappingProxyType({rule.id: rule for rule in _RULES})
REASONS: Mapping[str, str] = MappingProxyType({rule.id: rule.reason for rule in _RULES})
