"""Knows a compose file as a list of builds; must not know how services are run.

Variables have the values of an `.env` beside the file or their defaults: the environment is not
read, so that the result is the same for everybody. Source: the Compose Specification, build.md,
12-interpolation.md; buildx's `x-bake`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph.boxfile import yaml
from buildgraph.boxfile.imported import Imported, parse_secret, variable
from buildgraph.errors import InputError, Location, raise_all

_VARIABLE: Final = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<name>[A-Za-z_]\w*)"
    r"|\{(?P<braced>[A-Za-z_]\w*)(?:(?P<sign>:?[-?+])(?P<word>[^{}]*))?\})"
)
_LEFT_OUT: Final[Mapping[str, str]] = {
    "cache_from": "steps are found in the store",
    "cache_to": "steps are kept in the store",
    "no_cache": "--no-cache at the command line",
    "no_cache_filter": "--no-cache-filter at the command line",
    "pull": "--pull at the command line",
    "ssh": "--ssh at the command line",
    "shm_size": "--shm-size at the command line",
    "ulimits": "--ulimit at the command line",
    "extra_hosts": "--add-host at the command line",
    "entitlements": "--allow at the command line",
    "privileged": "--allow security.insecure and RUN --security=insecure",
    "isolation": "",
    "provenance": "not written yet",
    "sbom": "not written yet",
    "output": "-o at the command line",
    "attest": "not written yet",
}


class ComposeBuilds(Struct):
    """What a compose file builds; `images` are services that build nothing, by name."""

    builds: list[Imported] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)  # that stay, with their defaults


def read_builds(text: str, path: str, dotenv: str = "", *, keep: bool = False) -> ComposeBuilds:
    """Return the builds of the compose file `path`; `dotenv` is the text of its `.env`.

    With `keep` variables stay variables in texts; one that has several defaults has none of them.
    Raises InputError, InputErrors with all that is wrong.
    """
    errors: list[InputError] = []
    root = yaml.compose(text, path, errors)
    raise_all(errors)
    if not isinstance(root, yaml.Mapping) or not isinstance(_at(root, "services"), yaml.Mapping):
        where = root.where if root is not None else Location(path, 1, 1)
        raise InputError("a compose file has 'services'", where)
    reader = _Reader(root, dict(_dotenv(dotenv)), keep)
    reader.read()
    raise_all(reader.errors)
    return reader.out


def _dotenv(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            value = value.strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            yield name.strip(), value


class _Reader:
    def __init__(self, root: yaml.Mapping, variables: Mapping[str, str], keep: bool) -> None:
        self._keep = keep
        self.errors: list[InputError] = []
        self.out = ComposeBuilds()
        self._variables = variables
        self._unset: set[str] = set()
        self._used: dict[str, str] = {}
        self._root = root
        self._secrets: dict[str, dict[str, str]] = {}

    def read(self) -> None:
        top = _at(self._root, "secrets")
        if isinstance(top, yaml.Mapping):
            for entry in top.entries:
                self._secret(entry)
        if (include := self._root.get("include")) is not None:
            self.out.notes.append(
                f"not carried over: include, line {include.key.where.line} (import those files too)"
            )
        services = _at(self._root, "services")
        assert isinstance(services, yaml.Mapping)
        for entry in services.entries:
            self._service(entry)
        if self._used:
            told = ", ".join(f"{name}={value!r}" for name, value in sorted(self._used.items()))
            self.out.notes.append(
                f"variables have these values; compose took them from the environment: {told}"
            )
        if self._unset:
            names = ", ".join(sorted(self._unset))
            self.out.notes.append(f"variables without any value, empty here: {names}")

    def _secret(self, entry: yaml.Entry) -> None:
        name = entry.key.text
        source: dict[str, str] = {"id": name}
        file, environment = _text_at(entry.value, "file"), _text_at(entry.value, "environment")
        if environment is not None:
            source["env"] = environment
        elif file is not None:
            source["src"] = self._expanded(file)
        self._secrets[name] = source

    def _service(self, entry: yaml.Entry) -> None:
        name, value = entry.key.text, entry.value
        if not isinstance(value, yaml.Mapping):
            self.errors.append(InputError(f"{name}: expected a mapping", value.where))
            return
        image = _text_at(value, "image")
        image = None if image is None else self._expanded(image)
        if (extends := value.get("extends")) is not None:
            self.out.notes.append(
                f"not carried over: {name}.extends, line {extends.key.where.line}"
            )
        build = value.get("build")
        if build is None:
            if image is not None:
                self.out.images[name] = image
            return
        made = Imported(name)
        if image is not None:
            made.tags.append(image)
        if isinstance(build.value, yaml.Scalar):
            made.context = self._expanded(build.value.text)
        elif isinstance(build.value, yaml.Mapping):
            for inner in build.value.entries:
                self._key(made, inner)
        else:
            self.errors.append(InputError(f"{name}.build: expected a mapping", build.value.where))
        platform = _text_at(value, "platform")
        if platform is not None and not made.platforms:
            made.platforms = [self._expanded(platform)]
        self.out.builds.append(made)

    def _key(self, made: Imported, entry: yaml.Entry) -> None:  # noqa: C901 - a case a key
        key, node = entry.key.text, entry.value
        match key:
            case "context":
                made.context = self._text(node)
            case "dockerfile":
                made.dockerfile = self._text(node)
            case "dockerfile_inline":
                made.inline = self._text(node)
            case "target":
                made.stage = self._text(node)
            case "network":
                made.network = self._text(node)
            case "args":
                self._args(made, node)
            case "labels":
                made.labels |= self._pairs(node)
            case "additional_contexts" | "contexts":
                for name, value in self._pairs(node).items():
                    service = value.startswith("service:")
                    made.contexts[name] = f"target:{value[8:]}" if service else value
            case "tags":
                made.tags += self._texts(node)
            case "platforms":
                made.platforms = self._texts(node)
            case "secrets" | "secret":
                self._build_secrets(made, node)
            case "x-bake" if isinstance(node, yaml.Mapping):
                for inner in node.entries:
                    name = inner.key.text.replace("-", "_")
                    self._key(made, replace(inner, key=dataclasses.replace(inner.key, text=name)))
            case _ if key in _LEFT_OUT:
                made.leave_out(f"{key}, line {entry.key.where.line}", _LEFT_OUT[key])
            case _ if not key.startswith("x-"):
                made.leave_out(f"{key}, line {entry.key.where.line}", "not understood here")

    def _args(self, made: Imported, node: yaml.Node) -> None:
        if isinstance(node, yaml.Sequence):
            for text in self._texts(node):
                name, equals, value = text.partition("=")
                if equals:
                    made.args[name] = value
                else:
                    made.leave_out(f"argument {name}", f"from the environment: --build-arg {name}")
        elif isinstance(node, yaml.Mapping):
            for entry in node.entries:
                if isinstance(entry.value, yaml.Scalar) and entry.value.empty:
                    name = entry.key.text
                    made.leave_out(f"argument {name}", f"from the environment: --build-arg {name}")
                else:
                    made.args[entry.key.text] = self._text(entry.value)

    def _build_secrets(self, made: Imported, node: yaml.Node) -> None:
        for item in node.items if isinstance(node, yaml.Sequence) else ():
            if isinstance(item, yaml.Mapping):
                source = _text_at(item, "source") or _text_at(item, "id") or ""
                identity = _text_at(item, "target") or source
            else:
                text = self._text(item)
                if "=" in text:  # bake's form
                    secret = parse_secret(text)
                    if secret is None:
                        self.errors.append(InputError(f"secret {text!r} has no id", item.where))
                    else:
                        made.secrets.append(secret)
                    continue
                source = identity = text
            found = self._secrets.get(source)
            if found is None:
                self.errors.append(InputError(f"there is no secret {source!r}", item.where))
            else:
                made.secrets.append({**found, "id": identity.rpartition("/")[2] or source})

    # --- values ---------------------------------------------------------------------------

    def _text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.Scalar):
            self.errors.append(InputError("expected a text", node.where))
            return ""
        return "" if node.empty else self._expanded(node.text)

    def _texts(self, node: yaml.Node) -> list[str]:
        if isinstance(node, yaml.Sequence):
            return [self._text(item) for item in node.items]
        return [self._text(node)]

    def _pairs(self, node: yaml.Node) -> dict[str, str]:
        if isinstance(node, yaml.Mapping):
            return {entry.key.text: self._text(entry.value) for entry in node.entries}
        return dict(text.partition("=")[::2] for text in self._texts(node))

    def _expanded(self, text: str) -> str:
        return _VARIABLE.sub(self._replacement(), text)

    def _replacement(self) -> Callable[[re.Match[str]], str]:
        def one(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "$"
            name, sign, word = match["name"] or match["braced"], match["sign"], match["word"]
            value = self._variables.get(name)
            there = value is not None and (value != "" or not (sign or "").startswith(":"))
            if sign is not None and sign.endswith("+"):
                return word if there else ""
            if there:
                return self._used_as(name, value or "")
            if sign is not None and sign.endswith("-"):
                return self._used_as(name, word)
            self._unset.add(name)
            if self._keep:
                return self._used_as(name, "")
            return ""

        return one

    def _used_as(self, name: str, value: str) -> str:
        """Return what stands for a variable: itself, or a value that it has here alone."""
        if self._keep and self.out.variables.setdefault(name, value) == value:
            return variable(name)
        self._used[name] = value
        return value


def _at(node: yaml.Node | None, key: str) -> yaml.Node | None:
    found = node.get(key) if isinstance(node, yaml.Mapping) else None
    return found.value if found is not None else None


def _text_at(node: yaml.Node, key: str) -> str | None:
    found = _at(node, key)
    return found.text if isinstance(found, yaml.Scalar) and not found.empty else None
