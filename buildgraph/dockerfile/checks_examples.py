"""Knows one example each way for every check of a Dockerfile's text; must not know the checks.

Rule -> (what it complains of, what it does not). A test holds that it is so.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

EXAMPLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "StageNameCasing": ("FROM alpine AS Builder\n", "FROM alpine AS builder\n"),
        "FromAsCasing": ("FROM alpine as builder\n", "FROM alpine AS builder\n"),
        "NoEmptyContinuation": (
            "FROM alpine\nRUN make \\\n\n    install\n",
            "FROM alpine\nRUN make \\\n    install\n",
        ),
        "ConsistentInstructionCasing": (
            "FROM alpine\nrun make\nRUN make install\n",
            "FROM alpine\nRUN make\nRUN make install\n",
        ),
        "DuplicateStageName": (
            "FROM debian AS build\nRUN make\n\nFROM alpine AS build\n",
            "FROM debian AS build\nRUN make\n\nFROM alpine AS runtime\n",
        ),
        "ReservedStageName": ("FROM alpine AS context\n", "FROM alpine AS build\n"),
        "JSONArgsRecommended": (
            "FROM alpine\nCMD my-server --port 80\n",
            'FROM alpine\nCMD ["my-server", "--port", "80"]\n',
        ),
        "MaintainerDeprecated": (
            "FROM alpine\nMAINTAINER jane@example.com\n",
            'FROM alpine\nLABEL org.opencontainers.image.authors="jane@example.com"\n',
        ),
        "UndefinedArgInFrom": (
            "FROM alpine:$VERSION\n",
            "ARG VERSION=3.20\nFROM alpine:$VERSION\n",
        ),
        "WorkdirRelativePath": (
            "FROM nginx\nWORKDIR usr/share/nginx/html\n",
            "FROM nginx\nWORKDIR /usr/share/nginx/html\n",
        ),
        "UndefinedVar": (
            "FROM scratch\nARG VERSION=1\nCOPY app-$VERSOIN /app\n",
            "FROM scratch\nARG VERSION=1\nCOPY app-$VERSION /app\n",
        ),
        "MultipleInstructionsDisallowed": (
            'FROM alpine\nCMD ["a"]\nCMD ["b"]\n',
            'FROM alpine\nCMD ["b"]\n',
        ),
        "LegacyKeyValueFormat": ("FROM alpine\nENV DIR /app\n", "FROM alpine\nENV DIR=/app\n"),
        "InvalidBaseImagePlatform": (
            "FROM base  # which is for linux/arm64 alone, while linux/amd64 is built\n",
            "FROM base  # which is there for linux/amd64\n",
        ),
        "RedundantTargetPlatform": (
            "FROM --platform=$TARGETPLATFORM alpine\n",
            "FROM alpine\n",
        ),
        "SecretsUsedInArgOrEnv": (
            "FROM alpine\nARG API_TOKEN\nRUN fetch -t $API_TOKEN\n",
            "FROM alpine\nRUN --mount=type=secret,id=token,env=API_TOKEN fetch -t $API_TOKEN\n",
        ),
        "InvalidDefaultArgInFrom": (
            "ARG VERSION\nFROM alpine:$VERSION\n",
            "ARG VERSION=3.20\nFROM alpine:$VERSION\n",
        ),
        "FromPlatformFlagConstDisallowed": (
            "FROM --platform=linux/amd64 alpine AS build\n",
            "FROM --platform=$BUILDPLATFORM alpine AS build\n",
        ),
        "CopyIgnoredFile": (
            "FROM alpine\nCOPY README.md /  # and .dockerignore has *.md\n",
            "FROM alpine\nCOPY README.txt /\n",
        ),
        "ExposeProtoCasing": ("FROM alpine\nEXPOSE 80/TCP\n", "FROM alpine\nEXPOSE 80/tcp\n"),
        "ExposeInvalidFormat": (
            "FROM alpine\nEXPOSE 127.0.0.1:80:8080\n",
            "FROM alpine\nEXPOSE 8080\n",
        ),
        "InvalidDefinitionDescription": (
            "# check=experimental=all\n\n# the image\nFROM alpine AS app\n",
            "# check=experimental=all\n\n# app serves pages\nFROM alpine AS app\n",
        ),
    }
)
