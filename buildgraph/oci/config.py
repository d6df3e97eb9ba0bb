"""Knows an image's config, manifest and index as JSON, both ways; must not know where they are.

What is written is canonical: sorted keys, no empty fields, nothing that depends on when or where.
Source: image-spec v1.1 (config.md, manifest.md, image-index.md); fields that docker adds
(Healthcheck, Shell, OnBuild) are read and written as docker names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from buildgraph.errors import InputError
from buildgraph.oci.documents import Fields, canonical_json, load_document
from buildgraph.oci.types import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_LAYER,
    MEDIA_MANIFEST,
    Descriptor,
    Healthcheck,
    HistoryEntry,
    ImageConfig,
    Platform,
)
from buildgraph_cache.digest import Digest

MANIFESTS: Final = (MEDIA_MANIFEST, DOCKER_MANIFEST)
INDEXES: Final = (MEDIA_INDEX, DOCKER_INDEX)
_CONFIGS: Final = (MEDIA_CONFIG, DOCKER_CONFIG)
_LAYERS: Final = (
    MEDIA_LAYER,
    MEDIA_LAYER + "+gzip",
    MEDIA_LAYER + "+zstd",
    DOCKER_LAYER,
    DOCKER_LAYER + ".gzip",
    DOCKER_LAYER + ".zstd",
)
_DOCKER_TO_OCI: Final = {
    DOCKER_MANIFEST: MEDIA_MANIFEST,
    DOCKER_INDEX: MEDIA_INDEX,
    DOCKER_CONFIG: MEDIA_CONFIG,
    DOCKER_LAYER: MEDIA_LAYER,
    DOCKER_LAYER + ".gzip": MEDIA_LAYER + "+gzip",
    DOCKER_LAYER + ".zstd": MEDIA_LAYER + "+zstd",
}


class Manifest(Struct, frozen=True):
    """An image manifest as read."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: tuple[tuple[str, str], ...] = ()


class Index(Struct, frozen=True):
    """An image index as read."""

    manifests: tuple[Descriptor, ...]
    annotations: tuple[tuple[str, str], ...] = ()


# --- config -----------------------------------------------------------------------------------


def config_json(config: ImageConfig, diff_ids: Sequence[Digest]) -> bytes:
    """Return the config document of an image with these layers."""
    document: dict[str, Any] = {
        "architecture": config.platform.architecture,
        "os": config.platform.os,
        "variant": config.platform.variant,
        "os.version": config.os_version,
        "author": config.author,
        "created": config.created,
        "config": _filled(
            {
                "Env": [f"{name}={value}" for name, value in config.env],
                "Entrypoint": config.entrypoint,
                "Cmd": config.cmd,
                "User": config.user,
                "WorkingDir": config.working_dir,
                "Labels": dict(config.labels),
                "ExposedPorts": {port: {} for port in config.exposed_ports},
                "Volumes": {path: {} for path in config.volumes},
                "StopSignal": config.stop_signal,
                "Shell": config.shell,
                "OnBuild": config.on_build,
                "Healthcheck": _healthcheck(config.healthcheck),
            }
        ),
        "history": [
            _filled(
                {
                    "created": entry.created,
                    "created_by": entry.created_by,
                    "author": entry.author,
                    "comment": entry.comment,
                    "empty_layer": entry.empty_layer,
                }
            )
            for entry in config.history
        ],
    }
    out = _filled(document)
    for required in ("architecture", "os"):  # some old images say nothing there, but say it
        out[required] = document[required]
    out["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)}
    return canonical_json(out)


def _filled(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item not in (None, "", (), [], {}, False)}


def _healthcheck(check: Healthcheck | None) -> dict[str, Any] | None:
    if check is None:
        return None
    fields = {
        "Test": check.test,
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
        "Retries": check.retries,
    }
    return {key: item for key, item in fields.items() if item}


def parse_config(data: bytes, what: str = "image config") -> tuple[ImageConfig, tuple[Digest, ...]]:
    """Return (config, diff_ids) of a config document.

    Raises InputError for a document that is not one: wrong types, no platform, no rootfs of
    layers. Unknown fields are skipped, as the specification asks.
    """
    fields = load_document(data, what)
    rootfs = fields.object("rootfs")
    if rootfs.text("type", None) != "layers":
        raise rootfs.wrong("type", "'layers'")
    inner = fields.object("config")
    config = ImageConfig(
        platform=Platform(
            fields.text("os", None), fields.text("architecture", None), fields.text("variant")
        ),
        env=tuple(_env(text) for text in inner.texts("Env") or ()),
        entrypoint=inner.texts("Entrypoint"),
        cmd=inner.texts("Cmd"),
        user=inner.text("User"),
        working_dir=inner.text("WorkingDir"),
        labels=inner.pairs("Labels"),
        exposed_ports=inner.names("ExposedPorts"),
        volumes=inner.names("Volumes"),
        stop_signal=inner.text("StopSignal"),
        shell=inner.texts("Shell"),
        healthcheck=_read_healthcheck(inner),
        on_build=inner.texts("OnBuild") or (),
        author=fields.text("author"),
        created=fields.text("created"),
        history=tuple(_read_history(entry) for entry in fields.objects("history")),
        os_version=fields.text("os.version"),
    )
    return config, rootfs.digests("diff_ids")


def _env(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _read_healthcheck(inner: Fields) -> Healthcheck | None:
    if not inner.has("Healthcheck"):
        return None
    check = inner.object("Healthcheck")
    return Healthcheck(
        check.texts("Test") or (),
        check.number("Interval"),
        check.number("Timeout"),
        check.number("StartPeriod"),
        check.number("StartInterval"),
        check.number("Retries"),
    )


def _read_history(entry: Fields) -> HistoryEntry:
    return HistoryEntry(
        entry.text("created_by"),
        entry.flag("empty_layer"),
        entry.text("created"),
        entry.text("author"),
        entry.text("comment"),
    )


# --- manifest and index -----------------------------------------------------------------------


def descriptor_value(descriptor: Descriptor) -> dict[str, Any]:
    """Return a descriptor as a JSON value."""
    value: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.annotations:
        value["annotations"] = dict(descriptor.annotations)
    if descriptor.platform is not None:
        value["platform"] = _filled(
            {
                "os": descriptor.platform.os,
                "architecture": descriptor.platform.architecture,
                "variant": descriptor.platform.variant,
            }
        )
    return value


def image_manifest(
    config: Descriptor,
    layers: Sequence[Descriptor],
    annotations: Sequence[tuple[str, str]] = (),
) -> bytes:
    """Return an OCI image manifest."""
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "config": descriptor_value(config),
        "layers": [descriptor_value(layer) for layer in layers],
    }
    if annotations:
        value["annotations"] = dict(annotations)
    return canonical_json(value)


def image_index(
    manifests: Sequence[Descriptor], annotations: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Return an OCI image index."""
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_INDEX,
        "manifests": [descriptor_value(manifest) for manifest in manifests],
    }
    if annotations:
        value["annotations"] = dict(annotations)
    return canonical_json(value)


def parse_manifest(data: bytes, media_type: str, what: str = "manifest") -> Manifest:
    """Return an image manifest; `media_type` is what its descriptor calls it.

    Raises InputError where the two disagree, or the document is a manifest and an index at once
    (A26), or a field is not what it should be.
    """
    fields = load_document(data, what)
    _check_kind(fields, media_type, MANIFESTS, forbidden="manifests")
    layers = tuple(parse_descriptor(layer) for layer in fields.objects("layers"))
    for layer in layers:
        if layer.media_type not in _LAYERS:
            raise InputError(f"{what}: layer type {layer.media_type!r} is not supported")
    config = parse_descriptor(fields.object("config"))
    if config.media_type not in _CONFIGS:
        raise InputError(
            f"{what}: {config.media_type!r} is not the config of an image",
            hint="this is an OCI artifact, not an image to build on",
        )
    return Manifest(config, layers, fields.pairs("annotations"))


def parse_index(data: bytes, media_type: str = MEDIA_INDEX, what: str = "index") -> Index:
    """Return an image index; raises as `parse_manifest`."""
    fields = load_document(data, what)
    for key in ("layers", "config"):
        _check_kind(fields, media_type, INDEXES, forbidden=key)
    manifests = tuple(parse_descriptor(item) for item in fields.objects("manifests"))
    return Index(manifests, fields.pairs("annotations"))


def _check_kind(
    fields: Fields, media_type: str, allowed: tuple[str, ...], *, forbidden: str
) -> None:
    if media_type not in allowed:
        raise InputError(f"{fields.where} is called {media_type!r}, which it cannot be")
    if fields.number("schemaVersion", None) != 2:
        raise fields.wrong("schemaVersion", "2")
    said = fields.text("mediaType")
    if said and said != media_type:
        raise InputError(f"{fields.where} says it is {said!r}, its reference says {media_type!r}")
    if fields.has(forbidden):
        raise InputError(f"{fields.where} is manifest and index at once (it has {forbidden!r})")


def parse_descriptor(fields: Fields) -> Descriptor:
    """Return a descriptor. Raises InputError for a bad digest, size or type."""
    platform = None
    if fields.has("platform"):
        inner = fields.object("platform")
        platform = Platform(
            inner.text("os", None), inner.text("architecture", None), inner.text("variant")
        )
    return Descriptor(
        fields.text("mediaType", None),
        fields.digest("digest"),
        fields.number("size", None),
        fields.pairs("annotations"),
        platform,
    )


def oci_media_type(media_type: str) -> str:
    """Return the OCI name of a type that docker names otherwise."""
    return _DOCKER_TO_OCI.get(media_type, media_type)
