"""Knows the store's record of which forms a layer has; must not know how they are made.

The record `layer`/diff_id is JSON:

    {"size": bytes of the tar, "directory": bool, "blobs": {compression id: [digest, size]},
     "toc": digest or "", "foreign": bool, "unproven": bool}

`unproven` blobs are what their own digest says, and nobody has seen yet that they unpack to this
diff_id; their tar's size is not known either.

It refers to every form, so it goes when one of them goes, and a form stays as long as it.
"""

from __future__ import annotations

import json
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from buildgraph_cache.digest import Digest, parse_digest
from buildgraph_cache.objects import blob_ref, snapshot_ref

KIND: Final = "layer"


class LayerRecord(Struct):
    """The forms of one layer."""

    size: int
    directory: bool = False
    blobs: dict[str, tuple[Digest, int]] = field(default_factory=dict)
    toc: str = ""
    foreign: bool = False
    unproven: bool = False

    def value(self) -> bytes:
        """Return the JSON text."""
        value = {
            "size": self.size,
            "directory": self.directory,
            "blobs": {key: list(blob) for key, blob in sorted(self.blobs.items())},
            "toc": self.toc,
            "foreign": self.foreign,
            **({"unproven": True} if self.unproven else {}),
        }
        return json.dumps(value, separators=(",", ":")).encode()

    def refs(self, diff_id: Digest) -> tuple[str, ...]:
        """Return what has to stay in the store for the record to be true."""
        refs = {blob_ref(digest) for digest, _ in self.blobs.values()}
        if self.directory:
            refs.add(snapshot_ref(diff_id))
        if self.toc:
            refs.add(blob_ref(parse_digest(self.toc)))
        return tuple(sorted(refs))

    def joined(self, older: LayerRecord) -> LayerRecord:
        """Return this record with the forms that an older one of the same layer knows as well."""
        return replace(
            self,
            directory=self.directory or older.directory,
            blobs={**older.blobs, **self.blobs},
            toc=self.toc or older.toc,
            foreign=older.foreign,
            unproven=self.unproven and older.unproven,
        )

    @staticmethod
    def parse(data: bytes) -> LayerRecord:
        """Return the record that `value` has written."""
        value = json.loads(data)
        return LayerRecord(
            value["size"],
            value["directory"],
            {key: (parse_digest(blob[0]), blob[1]) for key, blob in value["blobs"].items()},
            value["toc"],
            value["foreign"],
            value.get("unproven", False),
        )
