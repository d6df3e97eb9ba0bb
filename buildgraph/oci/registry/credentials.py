"""Knows where a user's registry passwords are kept; must not know how they are sent.

Read are docker's `config.json` (under `DOCKER_CONFIG` or `~/.docker`) and, after it, the
`auth.json` of podman, buildah and skopeo, which has the same form. A password found for one host
is that host's: whoever sends it holds it to scheme, host and port (reliability rule 9).

Source: docker's `config.json` reference, containers-auth.json(5), the credential helper protocol
of docker-credential-helpers.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any, Final

from buildgraph import limits
from buildgraph.errors import HostError, InputError, Location
from buildgraph.oci.reference import DEFAULT_DOMAIN

# What docker calls its own registry in this file; the name is older than the protocol.
_HUB_KEY: Final = "https://index.docker.io/v1/"
_HUB_NAMES: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HELPER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}\Z")
_TOKEN_USER: Final = "<token>"  # the protocol's word for "this is no user"
_NOT_FOUND: Final = "credentials not found"
_HELPER_SECONDS: Final = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """A name and a password, or a token to be exchanged for short-lived ones; never shown."""

    username: str = ""
    password: str = dataclasses.field(default="", repr=False)
    identity_token: str = dataclasses.field(default="", repr=False)


class CredentialStore:
    """The credentials of one user. Files are read when they are first asked for."""

    def __init__(self, environ: Mapping[str, str]):
        home = environ.get("HOME") or os.path.expanduser("~")
        self._environ = environ
        self.config = os.path.join(
            environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json"
        )
        runtime = environ.get("XDG_RUNTIME_DIR")
        settings = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
        self._others = [
            path
            for path in (
                environ.get("REGISTRY_AUTH_FILE"),
                os.path.join(runtime, "containers", "auth.json") if runtime else None,
                os.path.join(settings, "containers", "auth.json"),
            )
            if path
        ]
        self._read: dict[str, dict[str, Any]] = {}

    def find(self, domain: str, repository: str = "") -> Credentials | None:
        """Return who we are at a registry, None for nobody.

        `domain` is `host[:port]`. Raises InputError for a file that cannot be understood, and
        HostError for a credential helper that fails.
        """
        for path in (self.config, *self._others):
            found = self._find_in(path, domain, repository)
            if found is not None:
                return found
        return None

    def save(self, domain: str, credentials: Credentials) -> str:
        """Keep credentials as `login` does and return where: a helper's name or a file.

        The file is replaced atomically, readable by its owner alone; what else it says stays.
        """
        config = self._load(self.config)
        helper = self._helper(config, domain)
        if helper is not None:
            secret = credentials.identity_token or credentials.password
            user = _TOKEN_USER if credentials.identity_token else credentials.username
            request = {"ServerURL": _key(domain), "Username": user, "Secret": secret}
            self._run(helper, "store", json.dumps(request))
            return f"docker-credential-{helper}"
        auths = dict(config.get("auths") or {})
        for key in [key for key in auths if _plain(key) == _plain(domain)]:
            del auths[key]
        pair = f"{credentials.username}:{credentials.password}".encode()
        entry = {"auth": base64.b64encode(pair).decode()}
        if credentials.identity_token:
            entry["identitytoken"] = credentials.identity_token
        auths[_key(domain)] = entry
        self._write({**config, "auths": auths})
        return self.config

    def erase(self, domain: str) -> bool:
        """Forget the credentials of a registry; False where there were none."""
        config = self._load(self.config)
        helper = self._helper(config, domain)
        known = False
        if helper is not None:
            known = self._ask(helper, _key(domain)) is not None
            if known:
                self._run(helper, "erase", _key(domain))
        auths = dict(config.get("auths") or {})
        keys = [key for key in auths if _plain(key) == _plain(domain)]
        for key in keys:
            del auths[key]
        if keys:
            self._write({**config, "auths": auths})
        return known or bool(keys)

    # --- files --------------------------------------------------------------------------------

    def _find_in(self, path: str, domain: str, repository: str) -> Credentials | None:
        config = self._load(path)
        helper = self._helper(config, domain)
        if helper is not None:
            found = self._ask(helper, _key(domain))
            if found is not None:
                return found
        auths = config.get("auths")
        if not isinstance(auths, dict):
            return None
        # containers-auth.json(5): an entry may be for a part of the registry; the longest counts
        parts = repository.split("/") if repository else []
        names = ["/".join([_plain(domain), *parts[:n]]) for n in range(len(parts), -1, -1)]
        by_name = {_plain(key): value for key, value in auths.items()}
        for name in names:
            if isinstance(by_name.get(name), dict):
                return _entry(by_name[name], path, name)
        return None

    def _load(self, path: str) -> dict[str, Any]:
        known = self._read.get(path)
        if known is not None:
            return known
        try:
            with open(path, "rb") as file:
                data = file.read(limits.AUTH_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            data = b"{}"
        except OSError as error:
            raise HostError(f"cannot read {path}: {error.strerror}") from error
        if len(data) > limits.AUTH_FILE_BYTES:
            raise InputError(f"{path} has more than {limits.AUTH_FILE_BYTES} bytes")
        try:
            value = json.loads(data or b"{}")
        except ValueError as error:
            raise InputError(f"{path} is not JSON", Location(path)) from error
        if not isinstance(value, dict):
            raise InputError(f"{path} holds no JSON object", Location(path))
        self._read[path] = value
        return value

    def _write(self, config: Mapping[str, Any]) -> None:
        self._read.pop(self.config, None)
        target = os.path.realpath(self.config)  # people link this file into their dotfiles
        try:
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            fd, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".config-")
            try:
                with open(fd, "w", encoding="utf-8") as file:
                    json.dump(config, file, indent="\t")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise HostError(f"cannot write {self.config}: {error.strerror}") from error

    # --- helpers ------------------------------------------------------------------------------

    def _helper(self, config: Mapping[str, Any], domain: str) -> str | None:
        helpers = config.get("credHelpers")
        name = None
        if isinstance(helpers, dict):
            name = {_plain(key): value for key, value in helpers.items()}.get(_plain(domain))
        name = name or config.get("credsStore")
        if not name:
            return None
        if not isinstance(name, str) or not _HELPER_NAME.match(name):
            raise InputError(
                f"{name!r} cannot be a credential helper",
                hint="credHelpers and credsStore hold a name such as 'pass': small letters, "
                "digits and '-'",
            )
        return name

    def _ask(self, helper: str, key: str) -> Credentials | None:
        answer = self._run(helper, "get", key)
        if answer is None:
            return None
        try:
            found = json.loads(answer)
            user, secret = str(found["Username"]), str(found["Secret"])
        except (ValueError, KeyError, TypeError) as error:
            raise HostError(f"docker-credential-{helper} gave an unknown answer") from error
        if user == _TOKEN_USER:
            return Credentials(identity_token=secret)
        return Credentials(user, secret) if user or secret else None

    def _run(self, helper: str, verb: str, text: str) -> str | None:
        """Run a helper; None where it says that it has nothing. Its words may hold secrets."""
        name = f"docker-credential-{helper}"
        program = shutil.which(name, path=self._environ.get("PATH"))
        if program is None:
            raise HostError(f"{name} is not installed", hint=f"{self.config} names it")
        try:
            done = subprocess.run(
                [program, verb],
                input=text.encode(),
                capture_output=True,
                timeout=_HELPER_SECONDS,
                env=dict(self._environ),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise HostError(f"{name} gave no answer in {_HELPER_SECONDS:.0f} s") from error
        except OSError as error:
            raise HostError(f"{name} cannot be run: {error.strerror}") from error
        out = done.stdout[: limits.AUTH_FILE_BYTES].decode("utf-8", "replace")
        if done.returncode == 0:
            return out
        if _NOT_FOUND in (out + done.stderr.decode("utf-8", "replace")).lower():
            return None
        raise HostError(f"{name} {verb} failed with exit code {done.returncode}")


def _entry(entry: Mapping[str, Any], path: str, name: str) -> Credentials | None:
    token = entry.get("identitytoken") or ""
    auth = entry.get("auth")
    user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if auth:
        try:
            text = base64.b64decode(auth, validate=True).decode()
        except (ValueError, binascii.Error, TypeError) as error:
            raise InputError(f"{path}: the entry of {name} has a damaged 'auth'") from error
        user, colon, password = text.rstrip("\0").partition(":")
        if not colon:
            raise InputError(f"{path}: the entry of {name} has no password in its 'auth'")
    if not (user or password or token):
        return None
    return Credentials(user, password, str(token))


def _key(domain: str) -> str:
    return _HUB_KEY if _plain(domain) == DEFAULT_DOMAIN else domain


def _plain(key: str) -> str:
    """Return what a key of these files names: `host[:port][/path]`, docker.io under one name."""
    rest = re.sub(r"\Ahttps?://", "", key)
    host, slash, path = rest.partition("/")
    if host.lower() in _HUB_NAMES:
        return DEFAULT_DOMAIN
    path = path.rstrip("/")
    if path in ("v1", "v2"):
        path = ""
    return host.lower() + (slash + path if path else "")
