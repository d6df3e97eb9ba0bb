"""Knows the wording of every build check; must not know when one fires.

The ids are upstream's, so that `# check=skip=` lines mean the same here. Source: shared
reference, section 2.
"""

from __future__ import annotations

from types import MappingProxyType

REASONS = MappingProxyType(
    {
        "StageNameCasing": "stage names are compared in lower case",
        "FromAsCasing": "keywords of one line are easier to read in one casing",
        "NoEmptyContinuation": "an empty line does not end a continued instruction, although it "
        "looks like it",
        "ConsistentInstructionCasing": "keywords are easier to find in one casing",
        "DuplicateStageName": "a name that means two stages is easily mistaken",
        "ReservedStageName": "scratch and context mean something else already",
        "JSONArgsRecommended": "a shell in between does not pass signals on to the program",
        "MaintainerDeprecated": "a label says the same and can be queried",
        "UndefinedArgInFrom": "FROM sees only ARGs that stand before the first FROM",
        "WorkdirRelativePath": "the working directory of the base image may change",
        "UndefinedVar": "an unset variable expands to nothing, silently",
        "MultipleInstructionsDisallowed": "only the last one in a stage has an effect",
        "LegacyKeyValueFormat": "without `=` the rest of the line is the value, blanks included",
        "InvalidBaseImagePlatform": "a program of another platform does not run",
        "RedundantTargetPlatform": "the target platform is the default",
        "SecretsUsedInArgOrEnv": "the value stays readable in the image, and RUN "
        "--mount=type=secret does not leave it there",
        "InvalidDefaultArgInFrom": "a build without build arguments fails",
        "FromPlatformFlagConstDisallowed": "the stage ignores the platform that is asked for",
        "CopyIgnoredFile": "an ignored file is not in the build context",
        "ExposeProtoCasing": "protocols are written in lower case",
        "ExposeInvalidFormat": "EXPOSE names ports of the container, not of the host",
        "InvalidDefinitionDescription": "a comment right above FROM or ARG is shown as its "
        "description when it begins with the name",
    }
)
EXPERIMENTAL = frozenset({"InvalidDefinitionDescription"})
