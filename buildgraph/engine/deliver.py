"""Knows how a finished target becomes an image in the store and where copies of it go; must not
know how its layers were made.

An image is always kept in the store, under the target's label, so that `run`, later builds and
tools find it; `-o` adds copies in other forms.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph import events as ev
from buildgraph.boxfile.target import Target, text_of
from buildgraph.engine.build import Delivery
from buildgraph.engine.fields import parse_bool
from buildgraph.engine.handover import Handover
from buildgraph.engine.kept import keep_image
from buildgraph.engine.outputs import Output
from buildgraph.engine.prepare import Prepared
from buildgraph.engine.pushing import names_told, push_output
from buildgraph.engine.work import Outcome
from buildgraph.errors import HostError, InputError
from buildgraph.graph.lower import TargetPlan
from buildgraph.oci.annotations import Annotation, Pairs, annotations_of, check_parts, pairs_for
from buildgraph.oci.archive import write_docker_archive, write_oci_archive
from buildgraph.oci.compress import Compression
from buildgraph.oci.export import (
    export_directory,
    export_split_directory,
    export_split_tar,
    export_tar,
)
from buildgraph.oci.image import Artifact, ManifestResult, write_image, write_index
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.layout import LayoutWriter
from buildgraph.oci.platforms import directory_name
from buildgraph.oci.reference import Reference, parse_reference
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import Chain, HistoryEntry, Image, Platform
from buildgraph_cache.store import Store

if TYPE_CHECKING:
    from buildgraph.oci.registry.push import Pusher


class DeliveryOptions(Struct, frozen=True):
    """What is to become of the images that were asked for."""

    outputs: tuple[Output, ...] = ()
    tags: tuple[str, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    compression: Compression = field(default_factory=Compression)
    iidfile: str | None = None
    metadata_file: str | None = None


def assemble(plan: TargetPlan, outcomes: Mapping[int, Outcome], epoch: int) -> Image:
    """Return the image of a target whose nodes are done; a pure function of its arguments."""
    chain = Chain() if plan.node is None else outcomes[plan.node].chain
    created = datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    history: list[HistoryEntry] = []
    for entry, node in plan.history:
        if node is None:
            history.append(replace(entry, created=entry.created or created))
        else:
            empty = outcomes[node].layer is None
            history.append(replace(entry, created=created, empty_layer=empty))
    layers = len(chain.layers)
    told = sum(1 for entry in history if not entry.empty_layer)
    if told < layers:
        # A base without a history of its own: its layers still have to be counted (config.md).
        unknown = HistoryEntry("a layer of the base image", created=created)
        history[:0] = [unknown] * (layers - told)
    elif told > layers:
        history = []
    config = replace(plan.config, created=created, history=tuple(history))
    return Image(config, chain)


class _Made(Struct, frozen=True):
    """An image of a target, of all its platforms, and what it is called."""

    label: str
    plans: Sequence[TargetPlan]
    images: Sequence[Image]
    results: Sequence[ManifestResult]
    artifact: Artifact
    names: tuple[Reference, ...]
    annotations: Pairs  # of the first platform's manifest
    several: bool  # targets that are delivered
    indexed: bool

    @property
    def own_name(self) -> str:
        """What it is called where its label has to be a file's name."""
        return self.label.lstrip("/").replace("/", "-").replace(":", "-").replace("@", "-")

    def parts(self, layers: LayerStore) -> list[tuple[str, RootView]]:
        """Return the files of each platform, under the name of its directory."""
        pairs = zip(self.plans, self.images, strict=True)
        return [(directory_name(p.platform), RootView(layers, i.chain)) for p, i in pairs]


class Deliverer:
    """Delivers the targets of one build."""

    def __init__(
        self,
        store: Store,
        layers: LayerStore,
        options: DeliveryOptions,
        epoch: int,
        pusher: Callable[[], Pusher] | None = None,
        handover: Handover | None = None,
    ):
        """`pusher` is asked once something is to be pushed; `handover` is what `--load` needs."""
        self._pusher = pusher
        self._handover = handover
        self.artifacts: dict[str, Artifact] = {}  # of what has been delivered, by label
        self._store = store
        self._layers = layers
        self._options = options
        self._epoch = epoch
        self._metadata: dict[str, object] = {}
        self._indexed: frozenset[str] = frozenset()

    def deliveries(self, prepared: Prepared) -> list[Delivery]:
        """Return what is to be done for each target once its nodes are there."""
        several = len(prepared.plans) > 1
        if self._options.iidfile and self._wants_no_image():
            raise InputError("--iidfile: type=cacheonly makes no image that could have an id")
        self._indexed = _indexed(prepared)
        for output in self._options.outputs:
            if several and output.dest and not output.dest.endswith(os.sep):
                if output.dest == "-" or (output.type == "oci" and output.tar):
                    raise InputError(
                        f"{len(prepared.plans)} images cannot go to one {output.dest}",
                        hint="build one target, or give a directory: tar=false",
                    )
        out: list[Delivery] = []
        for label, plans in prepared.plans.items():
            target = prepared.targets.get(label)
            tags = self._options.tags
            annotations = self._options.annotations
            if target is not None and target.rule == "image":
                annotations = (*_annotations_of(target), *annotations)
            if target is not None:
                tags = (*own_tags(target), *tags)
            tags = tuple(dict.fromkeys(str(parse_reference(t).with_default_tag()) for t in tags))
            check_parts(annotations, label, indexed=label in self._indexed)
            self._check_names(label, tags)
            self._check_platforms(label, plans)
            needs = tuple(p.node for p in plans if p.node is not None)

            def deliver(
                outcomes: Mapping[int, Outcome],
                label: str = label,
                plans: Sequence[TargetPlan] = tuple(plans),
                tags: tuple[str, ...] = tags,
                annotations: tuple[Annotation, ...] = annotations,
            ) -> ev.ImageBuilt:
                return self._deliver(label, plans, tags, annotations, outcomes, several)

            out.append(Delivery(label, needs, deliver))
        return out

    def _check_names(self, label: str, tags: Sequence[str]) -> None:
        """Say before anything is built that nothing tells where an image is to be pushed."""
        for output in self._options.outputs:
            if output.type == "registry" and not (output.names or tags):
                raise InputError(
                    f"{label} is to be pushed and has no name",
                    hint="-t HOST/NAME:TAG, or `tags:` in the Boxfile",
                )

    def _check_platforms(self, label: str, plans: Sequence[TargetPlan]) -> None:
        """Say before anything is built that an output cannot hold several platforms."""
        for output in self._options.outputs:
            whole = output.type in ("local", "tar") and output.split is False
            loaded = output.type == "load" and output.engine != "containerd"
            if len(plans) > 1 and loaded:
                raise InputError(
                    f"{label} has {len(plans)} platforms and {output.engine} takes one",
                    hint="choose one with --platform, or push to a registry",
                )
            if len(plans) > 1 and (output.type == "docker" or whole):
                kind = f"{output.type},platform-split=false" if whole else output.type
                raise InputError(
                    f"{label} has {len(plans)} platforms and type={kind} holds one",
                    hint="choose one with --platform, or write type=oci",
                )

    def finish(self, images: Sequence[ev.ImageBuilt]) -> None:
        """Write `--iidfile` and `--metadata-file`; the images are complete by then."""
        if self._options.iidfile and images:
            _write(self._options.iidfile, image_id(images[-1]))
        if self._options.metadata_file:
            several = self._metadata
            value = several if len(several) != 1 else next(iter(several.values()))  # buildx's form
            _write(self._options.metadata_file, json.dumps(value, indent=2, sort_keys=True) + "\n")

    def _deliver(
        self,
        label: str,
        plans: Sequence[TargetPlan],
        tags: tuple[str, ...],
        annotations: tuple[Annotation, ...],
        outcomes: Mapping[int, Outcome],
        several: bool,
    ) -> ev.ImageBuilt:
        images = [assemble(plan, outcomes, self._epoch) for plan in plans]
        if self._wants_no_image():
            return self._cache_only(label, images, plans)
        indexed = label in self._indexed
        results = [
            self._write_image(image, plan.platform, annotations, indexed=indexed)
            for image, plan in zip(images, plans, strict=True)
        ]
        artifact = results[0].artifact
        if indexed:
            pairs = pairs_for(annotations, "index", None, self._epoch)
            artifact = write_index(results, self._layers, pairs)
            pairs = pairs_for(annotations, "index-descriptor", None, self._epoch)
            artifact = replace(artifact, top=replace(artifact.top, annotations=pairs))
        top = artifact.top
        self.artifacts[label] = artifact
        manifests = {str(p.platform): r.digest for p, r in zip(plans, results, strict=True)}
        keep_image(self._store, label, artifact, manifests)
        names = tuple(parse_reference(tag) for tag in tags)
        pairs = pairs_for(annotations, "manifest", plans[0].platform, self._epoch)
        made = _Made(label, plans, images, results, artifact, names, pairs, several, indexed)
        outputs = tuple(
            self._write(output, made)
            for output in self._options.outputs
            if output.type != "cacheonly"
        )
        called = self._called(tags, artifact)
        self._metadata[label] = {
            "containerimage.digest": top.digest,
            **({} if indexed else {"containerimage.config.digest": results[0].config_digest}),
            "containerimage.descriptor": {
                "mediaType": top.media_type,
                "digest": top.digest,
                "size": top.size,
                **({"annotations": dict(top.annotations)} if top.annotations else {}),
            },
            **({"image.name": ",".join(called)} if called else {}),
        }
        return ev.ImageBuilt(
            0.0,
            label,
            top.digest,
            results[0].config_digest,
            sum(r.size for r in results),
            len(images[0].chain.layers),
            outputs,
            ",".join(str(p.platform) for p in plans) if indexed else "",
        )

    def _write_image(
        self,
        image: Image,
        platform: Platform,
        annotations: Sequence[Annotation],
        *,
        indexed: bool,
    ) -> ManifestResult:
        """Store the image of one platform, described as its index or its layout is to say."""
        pairs = pairs_for(annotations, "manifest", platform, self._epoch)
        result = write_image(image, self._layers, self._options.compression, pairs)
        described = replace(
            result.descriptor,
            annotations=pairs_for(annotations, "manifest-descriptor", platform, self._epoch),
        )
        if indexed:
            # What was asked for, though a stage of a fixed platform may be what it came to.
            described = replace(described, platform=platform)
        return replace(result, descriptor=described)

    def _called(self, tags: tuple[str, ...], artifact: Artifact) -> tuple[str, ...]:
        """Return the names that `--metadata-file` tells."""
        pushes = [output for output in self._options.outputs if output.type == "registry"]
        names = [name for output in pushes for name in names_told(output, tags, artifact)]
        own = () if pushes and all(o.by_digest for o in self._options.outputs) else tags
        return tuple(dict.fromkeys((*own, *names)))

    def _wants_no_image(self) -> bool:
        outputs = self._options.outputs
        return bool(outputs) and all(o.type == "cacheonly" for o in outputs)

    def _cache_only(
        self, label: str, images: Sequence[Image], plans: Sequence[TargetPlan]
    ) -> ev.ImageBuilt:
        chain = images[0].chain
        size = sum(layer.size for layer in chain.layers)
        return ev.ImageBuilt(0.0, label, chain.id, "", size, len(chain.layers))

    def _write(self, output: Output, made: _Made) -> str:
        if output.type == "registry":
            assert self._pusher is not None
            return push_output(self._pusher(), output, made.artifact, made.names)
        names = tuple(parse_reference(n).with_default_tag() for n in output.names) or made.names
        if output.type == "load":
            return self._load(output, made, names)
        own_name = made.own_name
        if output.type == "oci" and not output.tar:
            if made.several and not names:
                names = (parse_reference(own_name.lower()).with_default_tag(),)
            LayoutWriter(self._store, Path(output.dest)).write(made.artifact, names)
            return output.dest
        dest = output.dest
        if made.several and dest != "-":
            dest = os.path.join(dest, own_name + ("" if output.type == "local" else ".tar"))
        place = sys.stdout.buffer if dest == "-" else Path(dest)
        if output.type == "oci":
            write_oci_archive(made.artifact, self._layers, place, names)
        elif output.type == "docker":
            (image,) = made.images
            compression = self._options.compression
            write_docker_archive(image, self._layers, place, names, compression, made.annotations)
        else:
            self._write_files(output, made, dest)
        return "stdout" if dest == "-" else dest

    def _write_files(self, output: Output, made: _Made, dest: str) -> None:
        """Write files without an image: of one platform as they are, of several in directories."""
        parts = made.parts(self._layers)
        split = made.indexed if output.split is None else output.split
        if output.type == "local":
            if split:
                export_split_directory(parts, Path(dest))
            else:
                export_directory(parts[0][1], Path(dest))
            return
        place = sys.stdout.buffer if dest == "-" else Path(dest)
        if split:
            export_split_tar(parts, place, self._epoch)
        else:
            export_tar(parts[0][1], place)

    def _load(self, output: Output, made: _Made, names: Sequence[Reference]) -> str:
        assert self._handover is not None
        return self._handover.give(
            output.engine,
            made.images[0],
            made.results[0],
            made.artifact,
            names,
            made.own_name.lower(),
            self._options.compression,
            made.annotations,
        )


def own_tags(target: Target) -> tuple[str, ...]:
    """Return the names that a target's Boxfile gives its image."""
    return target.texts("tags") if "tags" in target.attrs else ()


def _annotations_of(target: Target) -> tuple[Annotation, ...]:
    return tuple(
        annotation
        for name, value in target.entries("annotations").items()
        for annotation in annotations_of(name, text_of(value), value.key or value.where)
    )


def image_id(image: ev.ImageBuilt) -> str:
    """Return what docker calls an image's id: its config, of several platforms the index."""
    return image.config if image.config and not image.platform else image.digest


def _indexed(prepared: Prepared) -> frozenset[str]:
    """Return the targets whose image is an index: of several platforms, or where it is asked."""
    out = {label for label, plans in prepared.plans.items() if len(plans) > 1}
    for target in prepared.inputs:
        asked = target.build.args.get("BUILDKIT_MULTI_PLATFORM", "")
        if asked and parse_bool(asked, "BUILDKIT_MULTI_PLATFORM"):
            out.add(target.label)
    return frozenset(out)


def _write(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error
