"""Knows what a verdict depends on and how a passed one is remembered; must not know how a test is
run.

| kind      | key                | value                                                      |
|-----------|--------------------|------------------------------------------------------------|
| smoke     | NodeKey            | a passed test: its preimage, its checks with their times   |
| smoke-log | label              | the last run: verdict, and the log of each service (blobs) |

Only a passed test has a record. Its key holds config digests of the images, so that what ran is
what is vouched for: a rebuilt image with the same bytes needs no new test. Values of variables
that come from outside are in it as digests only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from buildgraph.boxfile.smoke import (
    ExecCheck,
    HttpCheck,
    ImageName,
    Service,
    ServiceImage,
    SmokeTarget,
)
from buildgraph.boxfile.target import LayoutContext
from buildgraph.engine import records
from buildgraph.engine.smoke.provisions import Provisions, binds_of
from buildgraph.errors import Location
from buildgraph.fields import field_names
from buildgraph.graph.explain import Reason
from buildgraph.graph.keys import SCHEMA, NodeKey, canonical, make_key
from buildgraph.label import Label
from buildgraph.oci.config import config_json
from buildgraph.oci.types import Image, Platform
from buildgraph.sandbox.seccomp import PROFILE_VERSION
from buildgraph_cache.digest import Digest, sha256_digest
from buildgraph_cache.objects import blob_ref
from buildgraph_cache.store import Store

RUNTIME: Final = 1  # raise it when a container is started differently, or a check judges otherwise


class Verdict(Struct, frozen=True):
    """A passed test as it is remembered."""

    seconds: float
    checks: int


def config_digest(image: Image) -> str:
    """Return the digest of an image's config document: what docker calls its id."""
    layers = [layer.diff_id for layer in image.chain.layers]
    return str(sha256_digest(config_json(image.config, layers)))


def verdict_key(
    target: SmokeTarget,
    images: Mapping[ServiceImage, Image],
    platform: Platform,
    provisions: Provisions,
) -> NodeKey:
    """Return the key of a test. Raises InputError for files that cannot be read."""
    ids = {image: config_digest(found) for image, found in images.items()}
    files: dict[str, str] = {b.path: provisions.digest(b) for b in binds_of(target)}
    for service in target.services:
        for file in service.env_files:
            files[file.path] = str(sha256_digest(provisions.read(file.path, file.where)))
    for check in target.checks:
        if isinstance(check.what, HttpCheck) and check.what.ca is not None:
            data = provisions.read(check.what.ca, check.where)
            files[check.what.ca] = str(sha256_digest(data))
    preimage = {
        "schema": SCHEMA,
        "kind": "smoke",
        "platform": str(platform),
        "profile": f"{PROFILE_VERSION}.{RUNTIME}",
        "network": target.network,
        "service": {s.name: _service(s, ids) for s in target.services},
        "outside": _outside(target, provisions),
        "check": {check.name: _plain(check, ids) for check in target.checks},
        "order": [check.name for check in target.checks],
        "file": files,
    }
    # As it will be read back, so that two of them can be compared.
    return make_key(json.loads(canonical(preimage)))


def _service(service: Service, ids: Mapping[ServiceImage, str]) -> dict[str, Any]:
    out = _plain(service, ids)
    assert isinstance(out, dict)
    out["environment"] = dict(service.environment)
    return out


def _outside(target: SmokeTarget, provisions: Provisions) -> dict[str, str]:
    """Return a digest of each variable that services and checks take from outside, if it is set."""
    declared = [pair for service in target.services for pair in provisions.declared(service)]
    for check in target.checks:
        if isinstance(check.what, ExecCheck):
            declared += check.what.environment
    values = provisions.resolved((name, None) for name, value in declared if value is None)
    return {
        name: str(sha256_digest(value.encode("utf-8", "surrogateescape")))
        for name, value in values.items()
    }


def _plain(value: Any, ids: Mapping[ServiceImage, str]) -> Any:
    """Return data as JSON values: no places, and images as what they are."""
    if isinstance(value, Label | LayoutContext | ImageName):
        return ids[value]
    if isinstance(value, tuple):
        return [_plain(item, ids) for item in value]
    names = field_names(value)
    if names is None:
        return value
    out: dict[str, Any] = {"is": type(value).__name__}
    for name in names:
        inner = getattr(value, name)
        if not isinstance(inner, Location):
            out[name] = _plain(inner, ids)
    return out


# -- memory ----------------------------------------------------------------------------------------


def load_verdict(store: Store, key: NodeKey) -> Verdict | None:
    """Return the verdict on a test that passed with this key, or None."""
    raw = store.get_record("smoke", key.digest)
    if raw is None:
        return None
    value = json.loads(raw)
    return Verdict(value["seconds"], len(value["checks"]))


def save_verdict(
    store: Store, label: str, key: NodeKey, seconds: float, checks: list[tuple[str, float]]
) -> None:
    """Remember that a test passed."""
    value = {
        "preimage": key.preimage,
        "seconds": round(seconds, 4),
        "checks": [[name, round(spent, 4)] for name, spent in checks],
    }
    store.put_record("smoke", key.digest, canonical(value), seconds=seconds)
    records.save_slots(store, [slot_of(label)], key.digest, seconds, ())


def slot_of(label: str) -> str:
    """Return the slot of a test: where its last passed key is found."""
    return f"smoke {label}"


def reasons(store: Store, label: str, key: NodeKey) -> tuple[Reason, ...]:
    """Return why a test has no verdict under this key."""
    slot = records.load_slot(store, slot_of(label))
    if slot is None:
        return (Reason("it has not passed before"),)
    if slot.key == key.digest:
        return (Reason("its verdict is no longer in the store"),)
    raw = store.get_record("smoke", slot.key)
    if raw is None:
        return (Reason("the verdict on it before is no longer in the store"),)
    old, new = _flat(json.loads(raw)["preimage"]), _flat(key.preimage)
    return tuple(
        Reason(name, _short(old.get(name)), _short(new.get(name)))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one: {"service web image": …}."""
    out: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            out |= _flat(inner, f"{prefix}{name} ")
        elif name != "is" and inner not in (None, [], ""):
            out[f"{prefix}{name}"] = inner
    return out


def _short(value: Any) -> str:
    if value is None:
        return ""
    text = value[:19] if isinstance(value, str) and value.startswith("sha256:") else str(value)
    return text if len(text) <= 100 else text[:99] + "…"


class KeptLogs(Struct, frozen=True):
    """The logs of the last run of a test; `services` has a blob each."""

    ok: bool
    services: Mapping[str, Digest]


def save_logs(store: Store, label: str, ok: bool, logs: Mapping[str, bytes]) -> None:
    """Keep what the services of a test wrote, instead of what they wrote before."""
    blobs = {name: store.put_blob(data) for name, data in logs.items()}
    value = {"ok": ok, "services": blobs}
    refs = tuple(dict.fromkeys(blob_ref(blob) for blob in blobs.values()))
    store.put_record("smoke-log", label, canonical(value), refs=refs)


def load_logs(store: Store, label: str) -> KeptLogs | None:
    """Return the logs of the last run of a test, None where none are kept."""
    raw = store.get_record("smoke-log", label)
    if raw is None:
        return None
    value = json.loads(raw)
    return KeptLogs(value["ok"], {name: Digest(d) for name, d in value["services"].items()})
