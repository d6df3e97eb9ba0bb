"""Builds real base images from this machine's own apt sources, with no sandbox but unshare and
chroot, and asks dpkg what it thinks of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from buildgraph.boxfile.target import Target
from buildgraph.boxfile.workspace import Workspace
from buildgraph.errors import BuildgraphError, HostError
from buildgraph.label import parse_label
from buildgraph.oci.types import Platform
from buildgraph_cache.store import Store
from buildgraph_rules.debian import rule
from buildgraph_rules.debian.lock import read_lock, write_lock
from buildgraph_rules.debian.pins import Resolution

BOXFILE = """\
workspace: {name: e2e}
targets:
  base:
    rule: debian
    packages: [apt, ca-certificates, adduser]
  bare:
    rule: debian
    packages: [base-files, base-passwd, ca-certificates, libc6, tzdata]
    essential: false
    configure: false
"""
_ENTER = """
set -e
umask 022
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=755,size=1m tmpfs "$1/dev"
for node in null zero full random urandom tty; do
    touch "$1/dev/$node"
    mount --bind "/dev/$node" "$1/dev/$node"
done
root=$1
shift
exec chroot "$root" "$@"
"""


def enter(argv: Sequence[str], env: Mapping[str, str], root: str) -> str:
    """Run a command in a root; what it mounts goes away with its namespace."""
    command = ["/usr/bin/unshare", "-mpfui", "--propagation", "private", "/bin/sh", "-c", _ENTER]
    done = subprocess.run(
        [*command, "sh", root, *argv],
        env=dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{argv} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def run(argv: Sequence[str], env: Mapping[str, str], root: str) -> None:
    enter(argv, env, root)


def machine() -> Platform:
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    return Platform("linux", names.get(os.uname().machine, os.uname().machine))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to enter a chroot")
    if not shutil.which("unshare"):
        pytest.skip("needs unshare (util-linux)")
    directory = tmp_path_factory.mktemp("debian")
    (directory / "Boxfile.yaml").write_text(BOXFILE)
    yield directory
    shutil.rmtree(directory)  # several systems: too much to keep, as pytest would


@pytest.fixture(scope="module")
def store(place: Path) -> Iterator[Store]:
    with Store.open(str(place / "store")) as opened:
        yield opened


def target(place: Path, name: str) -> Target:
    workspace = Workspace.open(str(place), {rule.SPEC.name: rule.SPEC})
    return workspace.target(parse_label(f"//:{name}", ""))


@pytest.fixture(scope="module")
def resolution(place: Path, store: Store) -> Resolution:
    try:
        return rule.resolve(target(place, "base"), machine(), store=store)
    except HostError as error:
        pytest.skip(f"no Debian archive within reach: {error}")


def make(place: Path, store: Store, found: Resolution, name: str, where: str) -> Path:
    directory = place / where
    directory.mkdir()
    wanted = target(place, name)
    op = rule.packages_op(wanted, found)
    debs = rule.fetch(found, store)
    rule.build_root(found, debs, str(directory), run, op=op, where=wanted.where)
    return directory


@pytest.fixture(scope="module")
def root(place: Path, store: Store, resolution: Resolution) -> Path:
    return make(place, store, resolution, "base", "root")


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for above, folders, names in os.walk(top):
        for name in folders + names:
            path = Path(above, name)
            info = path.lstat()
            what: object = ""
            if stat.S_ISREG(info.st_mode):
                what = hashlib.sha256(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                what = os.readlink(path)
            found[str(path.relative_to(top))] = (oct(info.st_mode), info.st_uid, info.st_gid, what)
    return found


def dpkg(root: Path, *arguments: str) -> str:
    return enter(["/usr/bin/dpkg", *arguments], {"PATH": rule.PATH, "LC_ALL": "C"}, str(root))


def test_dpkg_finds_nothing_amiss(root: Path, resolution: Resolution) -> None:
    assert dpkg(root, "--audit") == ""
    assert dpkg(root, "--verify") == ""
    lines = dpkg(root, "-l").splitlines()[5:]
    assert len(lines) == len(resolution.pins)
    assert {line[:2] for line in lines} == {"ii"}


def test_the_same_packages_give_the_same_tree(
    root: Path, place: Path, store: Store, resolution: Resolution
) -> None:
    time.sleep(1.1)  # a date written anywhere would differ
    again = tree(make(place, store, resolution, "base", "again"))
    assert {k: (v, again.get(k)) for k, v in tree(root).items() if again.get(k) != v} == {}
    assert len(again) > 5000


def test_the_root_is_usable(root: Path) -> None:
    environment = {"PATH": rule.PATH, "LC_ALL": "C"}
    assert (root / "etc/passwd").read_text().startswith("root:x:0:0:root:/root:/bin/bash\n")
    assert os.readlink(root / "bin") == "usr/bin"
    assert enter(["/bin/sh", "-c", "awk 'BEGIN { print 6 * 7 }'"], environment, str(root)) == "42\n"
    assert (root / "etc/ssl/certs/ca-certificates.crt").stat().st_size > 100_000
    lines = (root / "etc/apt/sources.list").read_text().splitlines()
    assert lines
    assert all(line.startswith("deb [signed-by=/usr/share/keyrings/") for line in lines)


def test_stand_ins_and_leftovers_are_gone(root: Path) -> None:
    daemon = root / "usr/sbin/start-stop-daemon"
    assert daemon.read_bytes().startswith(b"\x7fELF")
    for path in (
        "usr/sbin/policy-rc.d",
        "usr/sbin/start-stop-daemon.buildgraph",
        "var/cache/buildgraph",
        "var/lib/dpkg/status-old",
        "var/log/dpkg.log",
        "etc/passwd-",
        "etc/.pwd.lock",
    ):
        assert not os.path.lexists(root / path), path
    assert not list(root.rglob("*.dpkg-new"))


def test_apt_goes_on_from_here(root: Path, place: Path) -> None:
    """apt in the image reads the archives it was built from, and finds nothing to complain of."""
    copy = place / "apt"
    shutil.copytree(root, copy, symlinks=True)
    shutil.copy("/etc/resolv.conf", copy / "etc/resolv.conf")
    shutil.copy("/etc/hosts", copy / "etc/hosts")
    environment = {
        "PATH": rule.PATH,
        "LC_ALL": "C",
        "DEBIAN_FRONTEND": "noninteractive",
        **{k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")},
    }
    script = "apt-get update && apt-get install -y --no-install-recommends hello && hello"
    output = enter(["/bin/sh", "-c", f"chmod 755 / && {script}"], environment, str(copy))
    assert "Hello, world!" in output


def test_a_lock_needs_no_index(
    place: Path, store: Store, resolution: Resolution, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = read_lock(write_lock([resolution]), "Boxfile.lock")
    monkeypatch.setattr("buildgraph_rules.debian.mirrors.Mirrors.read", None)
    locked = rule.resolve(
        target(place, "base"), machine(), store=store, lock=lock, offline=True, refresh=True
    )
    assert locked.locked
    assert (locked.pins, locked.archives) == (resolution.pins, resolution.archives)


def test_a_resolution_is_remembered(place: Path, store: Store, resolution: Resolution) -> None:
    again = rule.resolve(target(place, "base"), machine(), store=store, offline=True)
    assert again == resolution
    with pytest.raises(BuildgraphError, match="never resolved here"):
        rule.resolve(target(place, "bare"), Platform("linux", "s390x"), store=store, offline=True)


def test_files_alone(place: Path, store: Store, resolution: Resolution) -> None:
    """Nothing is run, and what scanners, TLS and USER need is there all the same."""
    found = rule.resolve(target(place, "bare"), machine(), store=store)
    directory = place / "bare"
    directory.mkdir()
    op = rule.packages_op(target(place, "bare"), found)

    def never(argv: Sequence[str], env: Mapping[str, str], root: str) -> None:
        raise AssertionError(f"ran {argv}")

    where = target(place, "bare").where
    debs = rule.fetch(found, store)
    rule.build_root(found, debs, str(directory), never, op=op, where=where)
    entries = {p.name for p in (directory / "var/lib/dpkg/status.d").iterdir()}
    assert {"base-files", "libc6", "libc6.md5sums"} <= entries
    assert not (directory / "var/lib/dpkg/status").exists()
    assert "nobody:*:65534:" in (directory / "etc/passwd").read_text()
    bundle = (directory / "etc/ssl/certs/ca-certificates.crt").read_bytes()
    assert bundle.count(b"-----BEGIN CERTIFICATE-----") > 100
    assert (directory / "etc/ld.so.conf.d").is_dir()
    assert not list(directory.rglob("*.dpkg-new"))
    assert rule.config(target(place, "bare"), machine(), found).cmd is None
