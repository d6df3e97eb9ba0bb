"""Knows which files of a context look like somebody's secret, by name and by their first bytes;
must not know how files are read or where they are copied.

A name alone accuses nobody: every pattern wants to see the secret itself, so that a `.env` of
settings and a public certificate pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable

HEAD_BYTES = 16 << 10  # of a file that are looked at
BIGGEST = 256 << 10  # bytes; larger files are data
_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_AWS = re.compile(rb"(?<![A-Z0-9])(?:AKIA|ASIA)(?![A-Z0-9]*EXAMPLE)[A-Z0-9]{16}(?![A-Z0-9])")
_DOTENV = re.compile(
    rb"^[ \t]*(?:export[ \t]+)?\w*(?:SECRET|TOKEN|PASSWORD|PASSWD|API_?KEY|PRIVATE_?KEY"
    rb"|ACCESS_?KEY|CREDENTIALS?)(?:_KEY)?(?:_BASE)?[ \t]*=[ \t]*[\"']?"
    rb"(?!\$|<|\{|x{3}|change|your|example|todo|[\"'])[^\s\"']{6}",  # no placeholder
    re.IGNORECASE | re.MULTILINE,
)
_NPMRC = re.compile(rb"(?:_authToken|_auth|_password)\s*=\s*(?!\$\{)[^\s$]{6}")
_USER_IN_URL = re.compile(rb"https?://[^/\s:@]+:[^/\s@$]+@")
_GIT_CONFIG = re.compile(rb"extraheader\s*=\s*authorization:|https?://[^/\s:@]+:[^/\s@]+@", re.I)
_NETRC = re.compile(rb"\bpassword\s+\S+")
_PYPIRC = re.compile(rb"^\s*password\s*[:=]\s*\S+", re.MULTILINE)
_DOCKER = re.compile(rb'"(?:auth|identitytoken)"\s*:\s*"[^"]+"')
_KUBE = re.compile(rb"^\s*(?:client-key-data|token)\s*:\s*\S{8}", re.MULTILINE)
_AWS_FILE = re.compile(rb"aws_secret_access_key\s*=\s*\S{8}", re.IGNORECASE)

# directories whose keys are made up, or other people's
_TESTS = frozenset(
    "test tests testdata fixtures __tests__ spec specs examples node_modules vendor site-packages "
    "third_party mocks".split()
)
_SAMPLES = (".example", ".sample", ".template", ".dist", ".defaults")
_WORTH_READING = tuple(
    ".pem .key .p8 .json .ppk .asc .gpg .env .ini .cfg .conf .toml .yml .yaml .properties .tfvars "
    ".sh".split()
)


def what_secret(path: str, head: Callable[[], bytes]) -> str:
    """Return in words what secret a file holds, "" for none.

    `path` is relative to the context; `head` reads the file's first bytes, and is called only
    where the name makes them worth reading.
    """
    directories, _, name = path.rpartition("/")
    parents = directories.split("/")
    for matches, pattern, words in _NAMED:
        if matches(name, parents[-1]):
            return words if pattern.search(head()) else ""
    lower = name.lower()
    if lower.endswith(_SAMPLES) or not _TESTS.isdisjoint(parents):
        return ""
    if lower == ".env" or lower.startswith(".env."):
        return "an environment file with credentials" if _is_dotenv(head()) else ""
    if lower.endswith(_WORTH_READING):
        data = head()
        if _KEY.search(data):
            return "a private key"
        return "an AWS access key" if _AWS.search(data) else ""
    return ""


def _is_dotenv(data: bytes) -> bool:
    return any(pattern.search(data) is not None for pattern in (_DOTENV, _KEY, _AWS))


Matches = Callable[[str, str], bool]  # of a name and its directory's


def _called(*names: str) -> Matches:
    return lambda name, _: name in names


def _in(directory: str, name: str) -> Matches:
    return lambda found, parent: found == name and parent == directory


_NAMED: tuple[tuple[Matches, re.Pattern[bytes], str], ...] = (
    (_called("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"), _KEY, "a private SSH key"),
    (_called(".npmrc"), _NPMRC, "npm credentials"),
    (_called(".git-credentials"), _USER_IN_URL, "git credentials"),
    (_called(".netrc", "_netrc"), _NETRC, "passwords for hosts"),
    (_called(".pypirc"), _PYPIRC, "a package index's password"),
    (_called(".dockercfg"), _DOCKER, "registry credentials"),
    (_in(".docker", "config.json"), _DOCKER, "registry credentials"),
    (_in(".git", "config"), _GIT_CONFIG, "git credentials"),
    (_in(".aws", "credentials"), _AWS_FILE, "AWS credentials"),
    (_in(".kube", "config"), _KUBE, "Kubernetes credentials"),
    (lambda name, _: name.lower().startswith("kubeconfig"), _KUBE, "Kubernetes credentials"),
)
