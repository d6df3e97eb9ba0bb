"""What an import of cache mounts refuses, and that it then has changed nothing."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildgraph.engine.mount_archive import export_mounts, import_mounts
from buildgraph.errors import InputError
from buildgraph.oci.compress import Compression, compressor
from buildgraph_cache.mounts import mount_name
from buildgraph_cache.store import Store

NAME = f"{mount_name('m')}-0"
Entry = tuple[str, bytes, str]  # path, type, content or link

ABOUT: Entry = (f"{NAME}/about", tarfile.REGTYPE, '{"identity": "m"}')
DATA: Entry = (f"{NAME}/data", tarfile.DIRTYPE, "")
END: Entry = ("whole", tarfile.REGTYPE, "")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store")) as opened:
        yield opened


def packed(*entries: Entry, end: bool = True) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, kind, text in (*entries, *((END,) if end else ())):
            info = tarfile.TarInfo(path)
            info.type = kind
            info.uid, info.gid = os.geteuid(), os.getegid()
            info.mode = 0o755
            if kind == tarfile.REGTYPE:
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
            else:
                info.linkname = text
                archive.addfile(info)
    engine = compressor(Compression("zstd"))
    return engine.compress(buffer.getvalue()) + engine.flush()


def held(store: Store) -> dict[str, str]:
    with store.cache_mount("m") as path:
        return {name: Path(path, name).read_text() for name in os.listdir(path)}


def test_there_and_back(store: Store) -> None:
    with store.cache_mount("m", about={"id": "npm"}) as path:
        Path(path, "f").write_text("x")
        os.chmod(path, 0o711)
        os.utime(f"{path}/f", (5, 5))
    written: list[bytes] = []
    export_mounts(store, store.cache_mounts(), written.append)
    with store.cache_mount("m") as path:
        Path(path, "f").write_text("changed")
        Path(path, "g").write_text("more")
    assert import_mounts(store, iter(written)).names == (NAME,)
    assert held(store) == {"f": "x"}
    with store.cache_mount("m") as path:
        assert os.stat(f"{path}/f").st_mtime == 5
        assert os.stat(path).st_mode & 0o7777 == 0o711
    assert store.cache_mounts()[0].about == {"identity": "m"}


def test_no_mounts_at_all(store: Store) -> None:
    written: list[bytes] = []
    export_mounts(store, [], written.append)
    assert import_mounts(store, iter(written)).names == ()


REFUSED: dict[str, tuple[Entry, ...]] = {
    "leaves the root": (ABOUT, DATA, (f"{NAME}/data/../../../x", tarfile.REGTYPE, "x")),
    "through a link": (
        ABOUT,
        DATA,
        (f"{NAME}/data/l", tarfile.SYMTYPE, "../../../../../../"),
        (f"{NAME}/data/l/evil", tarfile.REGTYPE, "x"),
    ),
    "a hard link out": (ABOUT, DATA, (f"{NAME}/data/h", tarfile.LNKTYPE, "/etc/passwd")),
    "a device": (ABOUT, DATA, (f"{NAME}/data/d", tarfile.BLKTYPE, "")),
    "the root itself": (ABOUT, DATA, (".", tarfile.SYMTYPE, "/etc")),
    "something else": (ABOUT, DATA, ("other", tarfile.REGTYPE, "x")),
    "a path as a name": (("../mounts/x", tarfile.DIRTYPE, ""),),
    "no data": (ABOUT,),
    "data that is a link": (ABOUT, (f"{NAME}/data", tarfile.SYMTYPE, "/etc")),
    "a mount that is a link": ((NAME, tarfile.SYMTYPE, "/etc"),),
    "about that is a link": ((f"{NAME}/about", tarfile.SYMTYPE, "/etc/passwd"), DATA),
    "another identity": ((ABOUT[0], ABOUT[1], '{"identity": "n"}'), DATA),
    "about that is no text": ((ABOUT[0], ABOUT[1], '{"identity": 7}'), DATA),
    "more beside data": (ABOUT, DATA, (f"{NAME}/data.new", tarfile.DIRTYPE, "")),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    with store.cache_mount("m") as path:
        Path(path, "old").write_text("old")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError):
        import_mounts(store, iter([packed(*REFUSED[name])]))
    assert held(store) == {"old": "old"}
    assert sorted(os.listdir(tmp_path)) == before
    assert os.listdir(f"{store.root}/tmp") == []


@pytest.mark.parametrize("cut", [lambda d: d[: len(d) // 2], lambda d: d[:40], lambda d: b""])
def test_what_is_cut_off(store: Store, cut: Callable[[bytes], bytes]) -> None:
    with store.cache_mount("m") as path:
        Path(path, "old").write_text("old")
    noise = (f"{NAME}/data/f", tarfile.REGTYPE, os.urandom(4000).hex())
    with pytest.raises(InputError):
        import_mounts(store, iter([cut(packed(ABOUT, DATA, noise))]))
    with pytest.raises(InputError, match="cut off"):
        import_mounts(store, iter([packed(ABOUT, DATA, end=False)]))
    assert held(store) == {"old": "old"}


def test_names_that_mean_something_in_layers(store: Store) -> None:
    extra = [(f"{NAME}/data/{n}", tarfile.REGTYPE, n) for n in (".wh.x", ".wh..wh..opq")]
    import_mounts(store, iter([packed(ABOUT, DATA, *extra)]))
    assert held(store) == {".wh.x": ".wh.x", ".wh..wh..opq": ".wh..wh..opq"}
