"""Knows what is written down of each build of a target, and reads it back; must not know how a
build is done or shown.

| kind   | key                 | value                                                         |
|--------|---------------------|---------------------------------------------------------------|
| builds | label               | the last KEPT builds that made something, newest first        |
| past   | digest of a manifest| nothing; it refers to the manifest and its config, so both    |
|        |                     | stay until a collection needs the room, the layers do not      |

Records of `builds` refer to nothing, so a collection takes them only when no object is left to
give. Layers are not held: of an older image they may be gone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct, field

from buildgraph import events as ev
from buildgraph.engine.kept import kept_image
from buildgraph.engine.prepare import Prepared
from buildgraph.engine.work import Outcome
from buildgraph.graph.keys import canonical
from buildgraph_cache.objects import blob_ref
from buildgraph_cache.store import Store

KEPT: Final = 50
_KIND: Final = "builds"
_PAST: Final = "past"
_REASON: Final = 300  # characters


class PastBuild(Struct, frozen=True):
    """A build of a target; `when` in seconds since 1970, `seconds` of work for this target."""

    when: int
    digest: str
    manifests: Mapping[str, str]
    built: int
    cached: int
    seconds: float
    first: str = ""  # title of the first step that was not known
    reason: str = ""  # why it was not
    size: int = 0


class Chronicle(Struct):
    """Listens to a build for what is later written down of it."""

    listener: ev.Listener
    misses: dict[int, tuple[str, str]] = field(default_factory=dict)

    def __call__(self, event: ev.Event) -> None:
        """Pass an event on; a dictionary's entry is all that is kept of one."""
        if isinstance(event, ev.NodeStarted):
            self.misses.setdefault(event.node, (event.title, event.reason))
        self.listener(event)

    def write(
        self,
        store: Store,
        prepared: Prepared,
        outcomes: Mapping[int, Outcome],
        images: Iterable[ev.ImageBuilt],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Write down each image that is new or for which something was built.

        A build that found everything writes nothing, so its cost stays what it was.
        """
        wanted = [image for image in images if image.config]  # else no image was asked for
        if store.read_only or not wanted:
            return
        known = store.get_records(_KIND, [image.label for image in wanted])
        for image in wanted:
            plans = prepared.plans.get(image.label, ())
            nodes = sorted({node for plan in plans for node in plan.nodes if node in outcomes})
            fresh = [node for node in nodes if not outcomes[node].cached]
            earlier = _parse(known.get(image.label))
            if not fresh and earlier and earlier[0].digest == image.digest:
                continue
            first, reason = next((self.misses[n] for n in nodes if n in self.misses), ("", ""))
            kept = kept_image(store, image.label)
            build = PastBuild(
                int(now()),
                image.digest,
                kept.manifests if kept else {},
                len(fresh),
                len(nodes) - len(fresh),
                round(sum(outcomes[node].seconds for node in fresh), 3),
                first[:_REASON],
                reason[:_REASON],
                image.size,
            )
            _save(store, image.label, [build, *earlier][:KEPT])
            _hold(store, build, image)


def _save(store: Store, label: str, builds: list[PastBuild]) -> None:
    rows = [
        (b.when, b.digest, b.manifests, b.built, b.cached, b.seconds, b.first, b.reason, b.size)
        for b in builds
    ]
    store.put_record(_KIND, label, canonical(rows))


def _hold(store: Store, build: PastBuild, image: ev.ImageBuilt) -> None:
    """Keep the two small documents of an image, so that a later one can be compared with it."""
    for digest in build.manifests.values():
        raw = store.get_record(_PAST, digest)
        if raw is None:
            refs = [blob_ref(digest)]  # type: ignore[arg-type]  # a Digest, as it was written
            if len(build.manifests) == 1:
                refs.append(blob_ref(image.config))  # type: ignore[arg-type]
            store.put_record(_PAST, digest, b"", refs=tuple(refs))


def load_builds(store: Store, label: str) -> list[PastBuild]:
    """Return the builds of a target that are written down, newest first."""
    return _parse(store.get_record(_KIND, label))


def _parse(raw: bytes | None) -> list[PastBuild]:
    return [] if raw is None else [PastBuild(*row) for row in json.loads(raw)]


def past_manifest(store: Store, label: str) -> str | None:
    """Return the manifest of the image before the last one that was another, None for none."""
    builds = load_builds(store, label)
    for build in builds[1:]:
        if build.digest != builds[0].digest and build.manifests:
            return next(iter(build.manifests.values()))
    return None
