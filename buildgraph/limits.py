"""Knows the cap of every input we read; must not know who reads it.

Each cap has a test that goes one over it (reliability rule 8).
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# Dockerfile
DOCKERFILE_BYTES: Final = 1 * MIB
DOCKERFILE_LINE_BYTES: Final = 65_535  # BuildKit's scanner limit
EXPANDED_VALUE_BYTES: Final = 64 * KIB
EXPANSION_DEPTH: Final = 100  # ${a:-${b:-...}}
EXPANSION_PATTERN_WORK: Final = 4 * MIB  # characters that ${x#p} and ${x/p/r} of one word look at
DOCKERFILE_ERRORS: Final = 100  # reported for one file before giving up
STAGES: Final = 1_000
STEP_VARIABLES: Final = 1_000_000  # of one Dockerfile, counted in each stage and in each RUN

# Boxfile
BOXFILE_BYTES: Final = 1 * MIB
YAML_DEPTH: Final = 64
YAML_ALIASES: Final = 100
YAML_VALUES: Final = 100_000  # counted with every alias expanded
TEMPLATE_STEPS: Final = 100_000  # of one evaluation; a step is a node, or 64 characters made
TEMPLATE_OUTPUT: Final = 1 * MIB  # characters of one text
TEMPLATE_RANGE: Final = 1_000
TEMPLATE_TOTAL: Final = 1_000_000  # steps of all templates of one file
MATRIX_TARGETS: Final = 1_000  # of one `matrix`
PACKAGE_VALUES: Final = 200_000  # of all targets of a file that repeat others, counted each time
EXTENDS_DEPTH: Final = 32

# Context
IGNORE_PATTERNS: Final = 10_000
LINK_BUDGET: Final = 255  # symbolic links followed for one path, as path_resolution(7) allows 40

# Images and layers
MANIFEST_BYTES: Final = 4 * MIB
INDEX_DEPTH: Final = 4
AUTH_FILE_BYTES: Final = 4 * MIB  # config.json and what a credential helper says
REGISTRY_CONFIG_BYTES: Final = 1 * MIB  # registries.conf, hosts.toml
TAR_HEADER_RECORD_BYTES: Final = 1 * MIB  # one PAX or GNU long-name record
LAYER_BYTES: Final = 20 * GIB  # logical size of one layer, raised by a flag
LAYER_ENTRIES: Final = 5_000_000  # members of one layer's tar
DECOMPRESS_RATIO: Final = 1_000  # enforced once DECOMPRESS_FREE bytes have come out
DECOMPRESS_FREE: Final = 64 * MIB
ZSTD_WINDOW: Final = 128 * MIB

# Running things
PASSWD_BYTES: Final = 10 * MIB
PASSWD_LINE_BYTES: Final = 64 * KIB
STEP_LOG_BYTES: Final = 64 * MIB
SECRET_BYTES: Final = 500 * KIB
AGENT_MESSAGE_BYTES: Final = 256 * KIB  # as OpenSSH has it
AGENT_CONNECTIONS: Final = 64  # of one ssh mount at once
MOUNT_ARCHIVE_BYTES: Final = 64 * GIB  # an export of cache mounts, unpacked

# Debian packages
APT_SOURCES_BYTES: Final = 1 * MIB
RELEASE_BYTES: Final = 32 * MIB
PACKAGES_INDEX_BYTES: Final = 512 * MIB  # decompressed; unstable has 75 MB
DEB_BYTES: Final = 4 * GIB
DEB_CONTROL_BYTES: Final = 32 * MIB  # all files of control.tar together
DEB_CONTROL_FILES: Final = 100
LOCK_BYTES: Final = 64 * MIB

# Files of servers
DOWNLOAD_BYTES: Final = 20 * GIB  # one file, as LAYER_BYTES

# git
GIT_OUTPUT_BYTES: Final = 64 * MIB  # what one command says: refs of a remote, names of a tree
GIT_SECONDS: Final = 1_800  # one command of git
GIT_SUBMODULES: Final = 1_000  # of one checkout
GIT_SUBMODULE_DEPTH: Final = 16
