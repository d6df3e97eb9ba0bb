"""Knows what is known of base images without building or fetching anything; must not know checks.

A base may be an image in an OCI layout, whose config is read where it lies, or another target,
whose stages are unfolded for the config they come to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from buildgraph.dockerfile.scope import global_scope
from buildgraph.engine.images import LAYOUT, split_layout
from buildgraph.errors import BuildgraphError, InputError, Location
from buildgraph.graph.lower import ImageBinding, LabelBinding, TargetInput
from buildgraph.graph.stage_ir import (
    DEFAULT_PATH,
    ContextRef,
    ImageRef,
    SourceRef,
)
from buildgraph.graph.stages import Unfolder
from buildgraph.oci.types import ImageConfig, Platform

# Of a label: the target as it is read, or the variables that its rule gives; None: nothing known.
Read = Callable[[str, Platform], TargetInput | Mapping[str, str] | None]


class _NotKnownError(InputError):
    """A base that would have to be built or fetched."""


class Bases:
    """The configs of base images, as far as they can be known; each is found once."""

    def __init__(self, read: Read):
        self._read = read
        self._labels: dict[tuple[str, str], ImageConfig | None] = {}
        self._layouts: dict[tuple[str, str], ImageConfig | None] = {}

    def of(self, target: TargetInput) -> dict[int, ImageConfig]:
        """Return the config of the image that a stage is built on, by the stage's index."""
        scope = global_scope(target.dockerfile, target.build.args)
        stages: set[str] = set()
        found: dict[int, ImageConfig] = {}
        for index, stage in enumerate(target.dockerfile.stages):
            image = scope.decided(stage.from_.image, stage.from_)
            if image and image not in stages:
                config = self._bound(target, image, target.build.target)
                if config is not None:
                    found[index] = config
            if stage.from_.name is not None:
                stages.add(stage.from_.name)
        return found

    def _bound(self, target: TargetInput, image: str, platform: Platform) -> ImageConfig | None:
        binding = target.bindings.get(image.removesuffix(":latest").lower())
        if isinstance(binding, LabelBinding):
            return self._of_label(binding.label, platform)
        if isinstance(binding, ImageBinding):
            return self._of_layout(binding.reference, platform)
        return self._of_layout(image, platform)

    def _of_layout(self, reference: str, platform: Platform) -> ImageConfig | None:
        if not reference.startswith(LAYOUT):
            return None
        key = (reference, str(platform))
        if key not in self._layouts:
            try:
                self._layouts[key] = _config_in(reference, platform)
            except (BuildgraphError, OSError):
                self._layouts[key] = None  # the build says what is wrong with it
        return self._layouts[key]

    def _of_label(self, label: str, platform: Platform) -> ImageConfig | None:
        key = (label, str(platform))
        if key in self._labels:
            return self._labels[key]
        self._labels[key] = None  # a circle is the build's to report
        try:
            target = self._read(label, platform)
            if isinstance(target, TargetInput):
                self._labels[key] = self._unfolded(target)
            elif target is not None:
                env = {"PATH": DEFAULT_PATH, **target}
                self._labels[key] = ImageConfig(platform=platform, env=tuple(env.items()))
        except BuildgraphError:
            pass
        return self._labels[key]

    def _unfolded(self, target: TargetInput) -> ImageConfig:
        def config_of(ref: SourceRef, platform: Platform, where: Location) -> ImageConfig:
            name = ref.name if isinstance(ref, ContextRef) else ""
            name = ref.reference if isinstance(ref, ImageRef) else name
            config = self._bound(target, name, platform)
            if config is None:
                raise _NotKnownError(name, where)
            return config

        unfolded = Unfolder(target.dockerfile, target.build, config_of).unfold(target.stage)
        return next(one.config for one in unfolded.stages if one.index == unfolded.target)


def _config_in(reference: str, platform: Platform) -> ImageConfig:
    from buildgraph.oci.config import parse_config, parse_manifest
    from buildgraph.oci.layout import Layout
    from buildgraph.oci.load import resolve_manifest

    path, selector = split_layout(reference[len(LAYOUT) :])
    with Layout(Path(path)) as layout:
        descriptor = resolve_manifest(layout, selector, platform)
        manifest = parse_manifest(layout.document(descriptor), descriptor.media_type)
        config, _ = parse_config(layout.document(manifest.config))
        return config
