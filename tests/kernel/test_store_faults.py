"""A store on file systems that are full, out of inodes, read-only, or mounted over."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildgraph.errors import HostError
from buildgraph_cache.objects import blob_ref
from buildgraph_cache.store import Store

MIB = 1 << 20
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
Mount = Callable[..., str]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Return a function that mounts something on a new directory and returns its path."""
    done: list[str] = []

    def make(*args: str, at: str = "") -> str:
        path = at or str(tmp_path / f"mount-{len(done)}")
        os.makedirs(path, mode=0o700, exist_ok=True)
        subprocess.run(["mount", *args, path], check=True)
        done.append(path)
        return path

    yield make
    for path in reversed(done):
        with open("/proc/self/mountinfo") as lines:  # ismount() does not know bind mounts
            mounted = any(line.split()[4] == path for line in lines)
        if mounted:  # a test may have unmounted it
            subprocess.run(["umount", path], check=True)


@pytest.fixture
def small(mount: Mount) -> str:
    """Return the root of a store on a file system of 24 MiB."""
    return f"{mount('-t', 'tmpfs', '-o', 'size=24m,mode=700', 'small')}/store"


def fill(path: str) -> None:
    """Take every byte there is."""
    with open(path, "wb", buffering=0) as file:
        try:
            for size in (MIB, 4096, 1):
                while file.write(bytes(size)) == size:
                    pass
        except OSError:
            pass
    assert os.statvfs(path).f_bavail == 0


def test_a_full_disk_is_named_and_nothing_is_spoilt(small: str) -> None:
    with Store.open(small) as store, store.lease():
        good = store.put_blob(b"good")
        store.put_record("node", "k", b"v", [blob_ref(good)])
        with store.blob_writer() as writer:
            with pytest.raises(HostError, match=r"no space left on tmpfs at .*small") as caught:
                for _ in range(40):
                    writer.write(os.urandom(MIB))
        assert "cache gc" in str(caught.value.hint)
        assert os.listdir(f"{small}/tmp") == []
        with pytest.raises(HostError, match=r"30\.0 MiB needed"):
            store.blob_writer(expected_size=30 * MIB)
        with store.partial("p") as partial:
            with pytest.raises(HostError, match="no space left"):
                for _ in range(40):
                    partial.write(os.urandom(MIB))
        assert store.get_record("node", "k") == b"v"
        store.gc(max_bytes=6 * MIB)
        assert store.has_blob(good)
        assert store.verify(deep=True) == []


def test_records_on_a_full_disk_fail_in_words(small: str) -> None:
    with Store.open(small) as store:
        store.put_record("node", "k", b"v")
        fill(f"{os.path.dirname(small)}/ballast")
        with pytest.raises(HostError, match="no space left"):
            for number in range(20_000):
                store.put_record("node", f"{number}", bytes(1000))
        with pytest.raises(HostError, match="no space left"):
            store.put_blob(bytes(MIB))
        with pytest.raises(HostError, match="no space left"):
            store.sync()
            store.new_scratch()
        assert store.get_record("node", "k") == b"v"
        os.unlink(f"{os.path.dirname(small)}/ballast")
        assert store.verify(deep=True) == []


@pytest.mark.parametrize("crashed", [False, True])
def test_a_collection_works_when_no_byte_is_free(small: str, crashed: bool) -> None:
    def use() -> None:
        with Store.open(small) as store:
            for number in range(12):
                with store.lease():
                    digest = store.put_blob(os.urandom(MIB))
                    refs = [blob_ref(digest)]
                    store.put_records(
                        "node", [(f"{number}-{n}", bytes(300), refs) for n in range(100)]
                    )
            if crashed:
                os._exit(0)

    pid = os.fork()
    if pid == 0:
        try:
            use()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    fill(f"{os.path.dirname(small)}/ballast")
    with Store.open(small, reclaiming=True) as store:
        report = store.gc(max_bytes=10 * MIB)
        assert not report.over_limit
        assert report.objects >= 6
        assert report.stuck == ()
        assert store.put_blob(bytes(MIB))
        assert store.verify(deep=True) == []
    # It put its reserve back, and so works again.
    assert os.stat(f"{small}/reserve/0").st_blocks * 512 >= 4 * MIB
    fill(f"{os.path.dirname(small)}/ballast2")
    with Store.open(small, reclaiming=True) as store:
        assert not store.gc(max_bytes=6 * MIB).over_limit


def test_opening_on_a_full_disk_says_what_to_do(small: str) -> None:
    Store.open(small).close()
    fill(f"{os.path.dirname(small)}/ballast")
    try:
        Store.open(small).close()
    except HostError as error:
        assert error.hint
    shutil.rmtree(small)
    Path(f"{os.path.dirname(small)}/ballast").unlink()
    fill(f"{os.path.dirname(small)}/ballast")
    with pytest.raises(HostError, match="no space left") as caught:
        Store.open(small)
    assert "tmpfs" in str(caught.value)


def test_out_of_inodes_is_told(mount: Mount) -> None:
    root = f"{mount('-t', 'tmpfs', '-o', 'size=24m,nr_inodes=60,mode=700', 'few')}/store"
    with Store.open(root) as store:
        made = []
        with pytest.raises(HostError, match=r"no space left on tmpfs .* 0 inodes free"):
            for number in range(100):
                made.append(store.put_blob(b"%d" % number))
        assert all(store.has_blob(digest) for digest in made)
        store.gc(max_bytes=0)
        store.put_blob(b"again")
        assert store.verify(deep=True) == []


def test_a_read_only_file_system_gives_hits(mount: Mount, tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    with Store.open(root) as store:
        digest = store.put_blob(b"x")
        store.put_record("node", "k", b"v", [blob_ref(digest)])
        store.sync()
    view = mount("--bind", root)
    subprocess.run(["mount", "-o", "remount,bind,ro", view], check=True)
    with Store.open(view) as store, store.lease():
        assert store.read_only
        assert store.get_record("node", "k") == b"v"
        os.close(store.open_verified(digest))
        with pytest.raises(HostError, match="reading only"):
            store.put_blob(b"y")
        assert store.du().parts[0].count == 1
    with pytest.raises(HostError, match="writing the index.*(only|unable)") as caught:
        Store.open(view, fall_back=False)
    assert "read-only file system" in str(caught.value.hint)
    # Beside one who writes, its reader sees what is new.
    with Store.open(root) as writer, Store.open(view) as reader:
        writer.put_record("node", "new", b"v")
        assert reader.get_record("node", "new") == b"v"
        with reader.lease():
            assert writer.gc(max_bytes=0).readers


def test_a_store_that_becomes_read_only_in_the_middle(mount: Mount) -> None:
    top = mount("-t", "tmpfs", "-o", "size=24m,mode=700", "turns")
    with Store.open(f"{top}/store") as store:
        digest = store.put_blob(b"x")
        store.put_record("node", "k", b"v", [blob_ref(digest)])
        subprocess.run(["mount", "-o", "remount,ro", top], check=False)
        if not os.statvfs(top).f_flag & os.ST_RDONLY:
            # Files open for writing hold a file system writable, which is the kernel's protection.
            assert store.get_record("node", "k") == b"v"
            return
        with pytest.raises(HostError, match="(?i)read-only|cannot be written"):
            store.put_record("node", "l", b"v")
        assert store.get_record("node", "k") == b"v"


def test_what_is_mounted_in_the_store_is_never_deleted(mount: Mount, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "letter").write_text("dear")
    with Store.open(str(tmp_path / "store")) as store:
        scratch = store.new_scratch()
        mount("--bind", str(precious), at=f"{scratch.upper}/deep")
        with pytest.raises(HostError, match="is mounted there"):
            scratch.close()
        assert store.sweep() == 0
        report = store.gc(max_bytes=0)
        assert report.stuck == (scratch.path,)
        assert (precious / "letter").read_text() == "dear"
        subprocess.run(["umount", f"{scratch.upper}/deep"], check=True)
        assert store.sweep() == 1


def test_whiteouts_and_other_people_s_files_are_deleted(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "store")) as store:
        with store.new_scratch() as scratch:
            os.mknod(f"{scratch.upper}/gone", 0o020000, os.makedev(0, 0))
            os.mkdir(f"{scratch.upper}/opaque", 0o000)
            os.setxattr(f"{scratch.upper}/opaque", "trusted.overlay.opaque", b"y")
            Path(scratch.upper, "opaque", "f").write_text("f")
            os.chown(f"{scratch.upper}/opaque", 4242, 4242)
            path = store.publish_snapshot("ab" * 32, scratch.upper)
        assert os.getxattr(f"{path}/opaque", "trusted.overlay.opaque") == b"y"
        store.gc(max_bytes=0)
        assert os.listdir(f"{store.root}/snapshots") == []


@pytest.fixture
def open_path() -> Iterator[str]:
    """Return a directory that other users can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        os.chmod(path, 0o755)
        yield path


def test_an_ordinary_user_copes_with_closed_directories(open_path: str) -> None:
    """The same as root cannot show, since root may look everywhere."""
    home = f"{open_path}/home"
    os.mkdir(home)
    os.chown(home, 4242, 4242)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(4242)
            os.setuid(4242)
            with Store.open(f"{home}/store") as store:
                with store.new_scratch() as scratch:
                    os.makedirs(f"{scratch.work}/work/a/b")
                    Path(scratch.work, "work", "a", "f").touch()
                    os.chmod(f"{scratch.work}/work/a", 0)
                    os.chmod(f"{scratch.work}/work", 0)
                assert os.listdir(f"{store.root}/tmp") == []
                store.put_blob(b"x")
                store.gc(max_bytes=0)
                assert store.verify() == []
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
