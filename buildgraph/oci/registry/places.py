"""Knows where a registry is spoken to: its mirrors, certificates and schemes, from every file that
says so; must not know how anything is sent there.

For each host one source decides about mirrors and plain HTTP: the Boxfile, else containerd's
`hosts.toml`, else `registries.conf`, else nobody. Certificates come from all of them. Plain HTTP is
for a literal loopback address, or for what a file of the machine or the Boxfile names (A34); a
Boxfile comes with the sources, so what it calls insecure gets no credentials.

Source: containers-registries.conf(5), containers-certs.d(5), containerd's hosts.md.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from buildgraph import limits
from buildgraph.errors import HostError, InputError, Location
from buildgraph.oci.reference import DEFAULT_DOMAIN
from buildgraph.transport.urls import is_loopback_name

Scheme = Literal["https", "http"]
Use = Literal["all", "digest", "tag"]

_HUB_HOST: Final = "registry-1.docker.io"
_CAPABILITIES: Final = frozenset({"pull", "resolve", "push"})


class Endpoint(Struct, frozen=True):
    """One place that answers for a repository; tried in order.

    `prefix` stands before `/v2/` or, with `bare`, instead of it. `schemes` are tried in order.
    """

    host: str  # host[:port]
    repository: str
    schemes: tuple[Scheme, ...] = ("https",)
    prefix: str = ""
    bare: bool = False
    mirror: bool = False
    resolve: bool = True  # may be asked what a tag means
    pull: bool = True
    push: bool = True
    use: Use = "all"
    verify: bool = True
    trusted: bool = True  # may be sent credentials
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()  # (certificate, key) files
    headers: tuple[tuple[str, str], ...] = ()
    said_by: str = ""

    def base(self, scheme: Scheme) -> str:
        """Return the URL that `/<repository>/manifests/...` is put after."""
        return f"{scheme}://{self.host}{self.prefix}" + ("" if self.bare else "/v2")


class RegistrySetting(Struct, frozen=True):
    """What a Boxfile says of one registry."""

    mirrors: tuple[str, ...] = ()
    insecure: bool = False
    ca: str | None = None


class Rule(Struct, frozen=True):
    """One `[[registry]]` of registries.conf."""

    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[tuple[str, bool, Use], ...]
    said_by: str


class Places:
    """Every source, read once. Files that are not there say nothing."""

    def __init__(
        self,
        environ: Mapping[str, str],
        settings: Mapping[str, RegistrySetting] | None = None,
        *,
        etc: str = "/etc",
    ):
        """`settings` are the Boxfile's, by `host[:port]`; `etc` holds the machine's files."""
        home = environ.get("HOME") or os.path.expanduser("~")
        mine = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
        self._settings = dict(settings or {})
        self._certificates = (
            os.path.join(mine, "containers", "certs.d"),
            os.path.join(etc, "containers", "certs.d"),
            os.path.join(etc, "docker", "certs.d"),
        )
        self._hosts = (os.path.join(etc, "containerd", "certs.d"),)
        self._rules = self._read_rules(environ, mine, etc)

    def endpoints(self, domain: str, repository: str) -> tuple[Endpoint, ...]:
        """Return where a repository may be asked for, mirrors first, its own registry last.

        Raises InputError for a registry that is blocked and for files that cannot be understood.
        """
        setting = self._settings.get(domain)
        if setting is not None:
            return self._from_boxfile(domain, repository, setting)
        for directory in self._hosts:
            for name in (domain, domain.replace(":", "_") + "_", "_default"):
                path = os.path.join(directory, name, "hosts.toml")
                data = self._load(path)
                if data is not None:
                    return self._from_hosts(domain, repository, data, path)
        rule = self._rule(domain, repository)
        if rule is not None:
            return self._from_rule(domain, repository, rule)
        return (self._own(domain, repository),)

    def configured(self) -> tuple[str, ...]:
        """Return the registries, or prefixes of names in them, that some source speaks of."""
        names = {*self._settings, *(rule.prefix for rule in self._rules)}
        for directory in (*self._hosts, *self._certificates):
            try:
                names.update(os.listdir(directory))
            except OSError:
                continue
        return tuple(sorted(names - {"_default"}))

    # --- one endpoint -------------------------------------------------------------------------

    def _own(self, domain: str, repository: str, *, insecure: bool = False) -> Endpoint:
        host = _HUB_HOST if domain == DEFAULT_DOMAIN else domain
        return self._certified(
            Endpoint(host, repository, schemes_of(host, insecure=insecure), verify=not insecure),
            domain,
        )

    def _mirror(self, text: str, repository: str, *, insecure: bool, use: Use) -> Endpoint:
        """Return the endpoint of `host[:port][/namespace]`, with or without a scheme."""
        scheme, found, rest = text.partition("://")
        rest = rest if found else text
        host, _, namespace = rest.strip("/").partition("/")
        host = _HUB_HOST if host == DEFAULT_DOMAIN else host
        schemes = schemes_of(host, insecure=insecure)
        if found:
            schemes = ("http",) if scheme == "http" else ("https",)
        return self._certified(
            Endpoint(
                host,
                f"{namespace}/{repository}" if namespace else repository,
                schemes,
                mirror=True,
                push=False,
                use=use,
                verify=not insecure,
            ),
            host,
        )

    def _certified(self, endpoint: Endpoint, domain: str) -> Endpoint:
        """Add the certificates that the machine's directories hold for a host."""
        ca: list[str] = list(endpoint.ca)
        client: list[tuple[str, str]] = list(endpoint.client)
        for directory in self._certificates:
            place = os.path.join(directory, domain)
            try:
                names = sorted(os.listdir(place))
            except OSError:
                continue
            for name in names:
                path = os.path.join(place, name)
                if name.endswith(".crt"):
                    ca.append(path)
                elif name.endswith(".cert"):
                    key = path.removesuffix(".cert") + ".key"
                    if not os.path.exists(key):
                        raise InputError(f"{path} has no key beside it", hint=f"it would be {key}")
                    client.append((path, key))
        return replace(endpoint, ca=tuple(ca), client=tuple(client))

    # --- the Boxfile --------------------------------------------------------------------------

    def _from_boxfile(
        self, domain: str, repository: str, setting: RegistrySetting
    ) -> tuple[Endpoint, ...]:
        out = []
        for mirror in setting.mirrors:
            insecure = mirror.startswith("http://")
            out.append(self._mirror(mirror, repository, insecure=insecure, use="all"))
        out.append(self._own(domain, repository, insecure=setting.insecure))
        own_ca = (setting.ca,) if setting.ca else ()
        return tuple(
            replace(
                endpoint,
                ca=(*endpoint.ca, *own_ca),
                said_by="Boxfile.yaml",
                trusted=is_loopback(endpoint.host)
                or ("http" not in endpoint.schemes and endpoint.verify),
            )
            for endpoint in out
        )

    # --- containerd's hosts.toml --------------------------------------------------------------

    def _from_hosts(
        self, domain: str, repository: str, data: Mapping[str, Any], path: str
    ) -> tuple[Endpoint, ...]:
        out = []
        for url, table in _table(data.get("host", {}), "host", path).items():
            out.append(self._host(url, _table(table, f"host.{url}", path), repository, path))
        server = data.get("server")
        if isinstance(server, str) and server:
            fallback = self._host(server, {**data, "host": None}, repository, path)
            out.append(replace(fallback, mirror=False, push=True))
        else:
            out.append(replace(self._own(domain, repository), said_by=path))
        return tuple(out)

    def _host(self, url: str, table: Mapping[str, Any], repository: str, path: str) -> Endpoint:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
            raise InputError(f"{path}: {url!r} is no address of a registry", Location(path))
        able = table.get("capabilities", sorted(_CAPABILITIES))
        if not isinstance(able, list) or not _CAPABILITIES.issuperset(able):
            raise InputError(
                f"{path}: capabilities of {url} are {able!r}",
                Location(path),
                "a list of pull, resolve and push",
            )
        base = os.path.dirname(path)
        prefix, bare = parts.path.rstrip("/"), bool(table.get("override_path", False))
        if prefix.endswith("/v2") and not bare:
            prefix = prefix.removesuffix("/v2")
        own = Endpoint(
            parts.netloc,
            repository,
            ("http",) if parts.scheme == "http" else ("https",),
            prefix,
            bare,
            mirror=True,
            resolve="resolve" in able,
            pull="pull" in able,
            push="push" in able,
            verify=not table.get("skip_verify", False),
            ca=tuple(os.path.join(base, name) for name in _strings(table.get("ca"), path)),
            client=_pairs(table.get("client"), base, path),
            headers=tuple(
                (name, text)
                for name, value in _table(table.get("header", {}), "header", path).items()
                for text in _strings(value, path)
            ),
            said_by=path,
        )
        return self._certified(own, parts.netloc)

    # --- registries.conf ----------------------------------------------------------------------

    def _rule(self, domain: str, repository: str) -> Rule | None:
        """Return the rule with the longest prefix that covers a name."""
        name = f"{domain}/{repository}"
        covering = [rule for rule in self._rules if _covers(rule.prefix, domain, name)]
        return max(covering, key=lambda rule: len(rule.prefix), default=None)

    def _from_rule(self, domain: str, repository: str, rule: Rule) -> tuple[Endpoint, ...]:
        if rule.blocked:
            raise InputError(
                f"the registry of {domain}/{repository} is blocked",
                Location(rule.said_by),
                f"{rule.said_by} has `blocked = true` for {rule.prefix}",
            )
        rest = repository  # what stays when `*.example.com` gave way to a location
        if not rule.prefix.startswith("*."):
            rest = f"{domain}/{repository}".removeprefix(rule.prefix).lstrip("/")
        out = []
        for location, insecure, use in rule.mirrors:
            mirror = self._mirror(location, rest, insecure=insecure, use=use)
            if not rest:  # the prefix named the repository itself
                mirror = replace(mirror, repository=mirror.repository.rstrip("/"))
            out.append(replace(mirror, said_by=rule.said_by))
        if rule.location:
            location = f"{rule.location}/{rest}".rstrip("/")
            domain, _, repository = location.partition("/")
        own = self._own(domain, repository, insecure=rule.insecure)
        return (*out, replace(own, said_by=rule.said_by))

    def _read_rules(self, environ: Mapping[str, str], mine: str, etc: str) -> tuple[Rule, ...]:
        rules: dict[str, Rule] = {}
        for path in _rule_files(environ, mine, etc):
            data = self._load(path)
            tables = data.get("registry", []) if data else []
            if not isinstance(tables, list):
                raise InputError(f"{path}: [[registry]] is a list of tables", Location(path))
            for table in tables:
                rule = _read_rule(_table(table, "registry", path), path)
                rules[rule.prefix] = rule  # a later file replaces an earlier one
        return tuple(rules.values())

    def _load(self, path: str) -> dict[str, Any] | None:
        try:
            with open(path, "rb") as file:
                data = file.read(limits.REGISTRY_CONFIG_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise HostError(f"cannot read {path}: {error.strerror}") from error
        if len(data) > limits.REGISTRY_CONFIG_BYTES:
            raise InputError(f"{path} has more than {limits.REGISTRY_CONFIG_BYTES} bytes")
        try:
            return tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{path} is not TOML: {error}", Location(path)) from error


def _rule_files(environ: Mapping[str, str], mine: str, etc: str) -> list[str]:
    """Return the files of registries.conf in the order in which they replace each other."""
    override = environ.get("CONTAINERS_REGISTRIES_CONF")
    if override:
        return [override]
    user = os.path.join(mine, "containers", "registries.conf")
    own_drops = user + ".d"
    system = os.path.join(etc, "containers", "registries.conf")
    mine_decides = os.path.exists(user)
    paths = [user if mine_decides else system]
    for directory in [own_drops] if mine_decides else [system + ".d", own_drops]:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        paths += [os.path.join(directory, name) for name in names if name.endswith(".conf")]
    return paths


def is_loopback(host: str) -> bool:
    """Say whether `host[:port]` is `localhost` or a literal loopback address (A34)."""
    return is_loopback_name(urlsplit(f"//{host}").hostname or "")


def schemes_of(host: str, *, insecure: bool = False) -> tuple[Scheme, ...]:
    """Return the schemes to try: plain HTTP only on this machine or where it was asked for."""
    return ("https", "http") if insecure or is_loopback(host) else ("https",)


def _covers(prefix: str, domain: str, name: str) -> bool:
    if prefix.startswith("*."):
        return domain.partition(":")[0].endswith(prefix[1:])
    return name == prefix or name.startswith(prefix + "/")


def _read_rule(table: Mapping[str, Any], path: str) -> Rule:
    location = table.get("location", "")
    prefix = table.get("prefix", "") or location
    if not isinstance(prefix, str) or not isinstance(location, str) or not prefix:
        raise InputError(f"{path}: a [[registry]] without location and prefix", Location(path))
    digest_only = bool(table.get("mirror-by-digest-only", False))
    mirrors = []
    for entry in table.get("mirror", []):
        mirror = _table(entry, "registry.mirror", path)
        place = mirror.get("location")
        if not isinstance(place, str) or not place:
            raise InputError(f"{path}: a mirror of {prefix} has no location", Location(path))
        mirrors.append(
            (place, bool(mirror.get("insecure", False)), _use(mirror, digest_only, path))
        )
    return Rule(
        prefix.rstrip("/"),
        location.rstrip("/"),
        bool(table.get("insecure", False)),
        bool(table.get("blocked", False)),
        tuple(mirrors),
        path,
    )


def _use(mirror: Mapping[str, Any], digest_only: bool, path: str) -> Use:
    said = mirror.get("pull-from-mirror", "all")
    uses: Mapping[str, Use] = {"all": "all", "digest-only": "digest", "tag-only": "tag"}
    if said not in uses:
        raise InputError(
            f"{path}: pull-from-mirror is {said!r}", Location(path), "all, digest-only or tag-only"
        )
    return "digest" if digest_only else uses[said]


def _table(value: object, name: str, path: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: {name} is no table", Location(path))
    return value


def _strings(value: object, path: str) -> Sequence[str]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise InputError(f"{path}: expected text or a list of texts, not {value!r}", Location(path))


def _pairs(value: object, base: str, path: str) -> tuple[tuple[str, str], ...]:
    """Read `client`: a file with both, or a list of such files or of [certificate, key]."""
    out = []
    for item in value if isinstance(value, list) else [value] if value else []:
        names = _strings(item, path)
        if not 1 <= len(names) <= 2:
            raise InputError(f"{path}: client is a certificate and its key", Location(path))
        out.append((os.path.join(base, names[0]), os.path.join(base, names[-1])))
    return tuple(out)
