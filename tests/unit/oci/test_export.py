"""The files of an image, without the image."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildgraph.errors import InputError
from buildgraph.filetree import Entry, Kind
from buildgraph.oci.export import export_directory, export_tar
from buildgraph.oci.layers import LayerStore
from buildgraph.oci.rootview import RootView
from buildgraph.oci.types import Chain
from buildgraph_cache.store import Store

ME = (os.geteuid(), os.getegid())
EPOCH = 315_532_800


@pytest.fixture
def view(tmp_path: Path) -> Iterator[RootView]:
    with Store.open(str(tmp_path / "store")) as store:
        layers = LayerStore(store, overlay="user")
        low = layers.create(
            [
                Entry("d", Kind.DIR, 0o755, *ME),
                Entry(
                    "d/a", Kind.FILE, 0o4755, *ME, 3, 7, content=b"low", xattrs=(("user.x", b"1"),)
                ),
                Entry("d/z", Kind.HARDLINK, 0, link="d/a"),
                Entry("gone", Kind.FILE, 0o644, *ME),
                Entry("out", Kind.SYMLINK, 0o777, *ME, link="/etc"),
                Entry("disk", Kind.BLOCK, 0o600, *ME, rdev=os.makedev(8, 0)),
            ],
            "blob",
        )
        high = layers.create(
            [
                Entry("gone", Kind.CHAR, 0),
                Entry("new", Kind.FILE, 0o600, *ME, 4, content=b"high"),
            ]
        )
        yield RootView(layers, Chain.of((low, high)))


def test_a_tar_is_flat(view: RootView, tmp_path: Path) -> None:
    export_tar(view, tmp_path / "root.tar")
    buffer = io.BytesIO()
    export_tar(view, buffer)
    assert buffer.getvalue() == (tmp_path / "root.tar").read_bytes()
    with tarfile.open(tmp_path / "root.tar") as tar:
        found = {member.name: member for member in tar}
    assert list(found) == ["d", "d/a", "d/z", "disk", "new", "out"]
    assert (found["d/a"].mode, found["d/a"].mtime) == (0o4755, 7)
    assert found["d/a"].pax_headers == {"SCHILY.xattr.user.x": "1"}
    assert (found["d/z"].type, found["d/z"].linkname) == (tarfile.LNKTYPE, "d/a")
    assert (found["disk"].type, found["disk"].devmajor) == (tarfile.BLKTYPE, 8)
    assert found["new"].uid == ME[0]


def test_a_directory_has_ordinary_files(view: RootView, tmp_path: Path) -> None:
    skipped = export_directory(view, tmp_path / "out")
    out = tmp_path / "out"
    assert skipped == ["disk"]
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*")) == [
        "d",
        "d/a",
        "d/z",
        "new",
        "out",
    ]
    assert stat.S_IMODE((out / "d/a").stat().st_mode) == 0o755
    assert (out / "d/a").stat().st_ino == (out / "d/z").stat().st_ino
    assert (out / "d/a").stat().st_mtime == 7
    assert (out / "d").stat().st_mtime == EPOCH
    assert os.readlink(out / "out") == "/etc"
    assert sorted(os.listdir(tmp_path)) == ["out", "store"]


def test_an_earlier_export_is_replaced_and_nothing_else(view: RootView, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export_directory(view, out)
    os.chmod(out / "d", 0o755)
    (out / "d" / "stale").write_text("x")
    export_directory(view, out)
    assert not (out / "d" / "stale").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("x")
    with pytest.raises(InputError, match="not made by an export"):
        export_directory(view, tmp_path / "mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="no directory"):
        export_directory(view, tmp_path / "link")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="no directory"):
        export_directory(view, tmp_path / "file")
    assert (tmp_path / "mine" / "thesis").read_text() == "x"
    os.chmod(out / "d", 0o755)
