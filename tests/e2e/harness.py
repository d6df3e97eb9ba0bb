"""Knows how to run the program from outside, as root and as somebody else, and what a run must not
leave behind; must not know how the program does anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT, ROOT / "cache", ROOT / "rules")
BUSYBOX = Path("/bin/busybox")
# Top-level modules that take their time: what has to be quick loads none of them.
HEAVY = {
    "click",
    "dataclasses",
    "jinja2",
    "msgspec",
    "networkx",
    "pyroute2",
    "rich",
    "urllib3",
    "yaml",
}
_ALL = 0o777


@dataclass(frozen=True)
class Result:
    """What one run of the program said."""

    args: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON lines of a run with `--progress json`."""
        return [json.loads(line) for line in self.stdout.splitlines() if line.startswith("{")]

    @property
    def digests(self) -> dict[str, str]:
        """Label -> image digest, of a run with `--progress json`."""
        return {e["label"]: e["digest"] for e in self.events if e["event"] == "image_built"}

    @property
    def built(self) -> list[str]:
        """Titles of the nodes that were not cached, of a run with `--progress json`."""
        ended = [e for e in self.events if e["event"] == "node_finished"]
        return [e["title"] for e in ended if not e["cached"]]


@dataclass(frozen=True)
class User:
    """Somebody who runs programs; `python` and `pythonpath` are what they can read."""

    name: str
    uid: int
    gid: int
    home: Path
    python: str
    pythonpath: str

    @property
    def is_me(self) -> bool:
        return self.uid == os.geteuid()

    def popen(self, args: list[str], **more: Any) -> subprocess.Popen[str]:
        """Start a program as this user."""
        if not self.is_me:
            more |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        more.setdefault("env", clean_environment(self))
        more.setdefault("cwd", self.home)
        return subprocess.Popen(args, text=True, errors="surrogateescape", **more)

    def run(self, *args: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a program as this user; its output is captured, its code not checked."""
        started = self.popen(
            list(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        out, err = started.communicate(timeout=more.pop("timeout", 120))
        return subprocess.CompletedProcess(args, started.returncode, out, err)


def me() -> User:
    """Return whoever runs the tests."""
    entry = pwd.getpwuid(os.geteuid())
    path = os.pathsep.join(map(str, SOURCES))
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir), sys.executable, path)


def clean_environment(user: User) -> dict[str, str]:
    """Return our environment without what would change what a build does or shows."""
    drop = re.compile(
        r"(BUILDGRAPH|BUILDKIT|DOCKER|XDG|PYTEST|SUDO)_.*|SOURCE_DATE_EPOCH|CI|COLUMNS|TERM"
        r"|NO_COLOR|FORCE_COLOR|CLICOLOR.*|VIRTUAL_ENV|PYTHONHOME"
    )
    kept = {name: value for name, value in os.environ.items() if not drop.fullmatch(name)}
    return kept | {
        "HOME": str(user.home),
        "USER": user.name,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": user.pythonpath,
        "PYTHONDONTWRITEBYTECODE": "1",
    }


class Workspace:
    """A directory to build in, with a store beside it; everything goes when it is closed.

    Each user has a store of their own, or all share $BUILDGRAPH_TEST_STORE. The place is one that
    every user can reach, which a test's tmp_path is not.
    """

    def __init__(self, top: Path | None = None):
        if top is None or not _reachable(top.parent):
            top = Path(tempfile.mkdtemp(prefix="bg-test-"))
        top.mkdir(parents=True, exist_ok=True)
        top.chmod(0o755)
        self.top = top
        self.root = top / "work"
        self.root.mkdir()
        self.root.chmod(_ALL)  # so that any user's outputs have a place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything; a mount that is still there is taken away and is an error."""
        left = [point for point in _mount_points() if _is_below(point, str(self.top))]
        for point in sorted(left, reverse=True):
            subprocess.run(["umount", "-l", point], check=False)
        remove_tree(self.top)
        assert not left, f"still mounted: {left}"

    # -- files -------------------------------------------------------------------------

    def path(self, path: str) -> Path:
        """Return where a file of the workspace is."""
        return self.root / path

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> Path:
        """Write a file, with its directories."""
        where = self.path(path)
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(content.encode() if isinstance(content, str) else content)
        where.chmod(mode)
        return where

    def read(self, path: str) -> str:
        """Return the text of a file."""
        return self.path(path).read_text()

    def touch(self, path: str) -> None:
        """Change a file's times and nothing else."""
        later = time.time() + 60
        os.utime(self.path(path), (later, later))

    def copy_example(self, name: str) -> None:
        """Copy examples/<name> to the same place in this workspace."""
        shutil.copytree(ROOT / "examples" / name, self.path(f"examples/{name}"), symlinks=True)

    # -- running -----------------------------------------------------------------------

    def store(self, user: User | None = None) -> Path:
        """Return the store of `user`."""
        shared = os.environ.get("BUILDGRAPH_TEST_STORE")
        if shared and (user is None or user.is_me):
            return Path(shared)
        who = user or me()
        where = self.top / f"store-{who.name}"
        if not where.exists():
            where.mkdir(mode=0o700)
            if not who.is_me:
                os.chown(where, who.uid, who.gid)
        return where

    def start(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        user: User | None = None,
        cwd: str = "",
        **more: Any,
    ) -> subprocess.Popen[str]:
        """Start the program in a session of its own, with its output in pipes; for kills."""
        who = user or me()
        adopt_orphans()
        environment = clean_environment(who) | {"BUILDGRAPH_STORE": str(self.store(user))}
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        more = {"stdin": subprocess.DEVNULL} | more
        return who.popen(
            [who.python, "-m", "buildgraph", *args],
            env=environment | dict(env or {}),
            cwd=self.path(cwd),
            start_new_session=True,
            **more,
        )

    def run(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        expect: int | None = 0,
        user: User | None = None,
        cwd: str = "",
        timeout: float = 300,
        stdin: str | None = None,
    ) -> Result:
        """Run the program and return what it said; its exit code must be `expect` (None: any)."""
        begun = time.monotonic()
        more = {} if stdin is None else {"stdin": subprocess.PIPE}
        process = self.start(*args, env=env, user=user, cwd=cwd, **more)
        try:
            out, err = process.communicate(stdin, timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        result = Result(args, process.returncode, out, err, time.monotonic() - begun)
        if expect is not None:
            assert result.code == expect, (
                f"buildgraph {' '.join(args)}: exit code {result.code}, not {expect}\n"
                f"{result.stdout}\n{result.stderr}"
            )
        return result

    def build(self, *args: str, **more: Any) -> Result:
        """Run `build --progress json`."""
        return self.run("build", "--progress", "json", *args, **more)

    # -- bases -------------------------------------------------------------------------

    def busybox_target(self, package: str = "busybox") -> str:
        """Write a package whose image is a static busybox FROM scratch; return its label."""
        _busybox_root(self.path(package) / "rootfs")
        self.write(f"{package}/Dockerfile", "FROM scratch\nCOPY rootfs/ /\nENV PATH=/bin\n")
        return f"//{package}:image"

    def busybox_layout(self, path: str = "busybox-layout") -> Path:
        """Write the same as an OCI image layout, without the program; return its directory."""
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) / "rootfs"
            _busybox_root(root)
            return write_layout(self.path(path), root)


# -- bases -----------------------------------------------------------------------------


@functools.cache
def _applets() -> tuple[str, ...]:
    done = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    return tuple(sorted(set(done.stdout.split()) - {"busybox"}))


def _busybox_root(root: Path) -> None:
    (root / "bin").mkdir(parents=True)
    for name, mode in {"tmp": 0o1777, "root": 0o700, "etc": 0o755, "proc": 0o755}.items():
        (root / name).mkdir()
        (root / name).chmod(mode)
    shutil.copyfile(BUSYBOX, root / "bin" / "busybox")
    (root / "bin" / "busybox").chmod(0o755)
    for applet in _applets():
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"
    )
    (root / "etc" / "group").write_text("root:x:0:\napp:x:1000:\n")


def write_layout(layout: Path, root: Path, tag: str = "latest") -> Path:
    """Write a one-layer OCI image layout of the tree `root`; return `layout`."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    def normal(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(root.rglob("*")):
            archive.add(path, str(path.relative_to(root)), recursive=False, filter=normal)
    kind = "application/vnd.oci.image"
    layer = put(buffer.getvalue(), f"{kind}.layer.v1.tar")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = {
        "architecture": machine,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": put(json.dumps(config).encode(), f"{kind}.config.v1+json"),
        "layers": [layer],
    }
    descriptor = put(json.dumps(manifest).encode(), f"{kind}.manifest.v1+json")
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    return layout


# -- what is left behind ---------------------------------------------------------------


@dataclass(frozen=True)
class Leftovers:
    """What a run could leave on the machine."""

    mounts: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()  # named network namespaces
    links: frozenset[str] = frozenset()  # network interfaces
    cgroups: frozenset[str] = frozenset()
    processes: frozenset[str] = frozenset()  # below the test's own process

    def __sub__(self, before: Leftovers) -> Leftovers:
        names = self.__dataclass_fields__
        return Leftovers(**{n: getattr(self, n) - getattr(before, n) for n in names})

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__dataclass_fields__)


# Other programs of the machine mount things meanwhile; ours do so below a store or in /run/netns.
_OURS = re.compile(r"/bg-|/bgtest|buildgraph")


def leftovers() -> Leftovers:
    """Return what is there now."""
    adopt_orphans()
    return Leftovers(
        frozenset(point for point in _mount_points() if _OURS.search(point)),
        frozenset(_names(Path("/run/netns"))),
        frozenset(_names(Path("/sys/class/net"))),
        frozenset(_cgroups()),
        frozenset(_descendants()),
    )


def assert_nothing_left(before: Leftovers, within: float = 5.0) -> None:
    """Wait until nothing is there that was not there `before`; fail after `within` seconds."""
    end = time.monotonic() + within
    while left := leftovers() - before:
        assert time.monotonic() < end, f"left behind: {left}"
        time.sleep(0.05)


@functools.cache
def adopt_orphans() -> None:
    """Become the parent of whatever a run leaves running, so that it is found (prctl(2))."""
    set_child_subreaper = 36
    ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)


def _mount_points() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), x.split()[4]) for x in lines]


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top + "/")


def _names(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.is_dir() else []


def _cgroups() -> Iterator[str]:
    for parent, directories, _ in os.walk("/sys/fs/cgroup"):
        for name in directories:
            if name.startswith(("bg-", "buildgraph")) and not _is_owned(name):
                yield os.path.join(parent, name)


def _is_owned(name: str) -> bool:
    """Say whether a control group is that of a live process: bg-<pid>-<its start time>."""
    found = re.match(r"bg-(\d+)-(\d+)", name)
    if found is None:
        return False
    try:
        fields = Path(f"/proc/{found[1]}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[19] == found[2] and fields[0] != "Z"


def _descendants() -> Iterator[str]:
    parents: dict[int, tuple[int, str]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{name}/stat").read_text()
                command, rest = (
                    text[text.index("(") + 1 : text.rindex(")")],
                    text.rpartition(")")[2],
                )
                state, parent = rest.split()[:2]
                if state != "Z":
                    parents[int(name)] = (int(parent), command)
    for pid, (parent, command) in parents.items():
        while parent in parents and parent != os.getpid():
            parent = parents[parent][0]
        if parent == os.getpid():
            yield f"{pid} ({command})"


# -- users -----------------------------------------------------------------------------


@contextlib.contextmanager
def ordinary_user(*, ranges: bool = True) -> Iterator[User]:
    """Make an ordinary user and remove them again; yields ourselves where we are not root.

    With `ranges` they have subordinate ids (subuid(5)), otherwise they have none.
    """
    if os.geteuid() != 0:
        yield me()
        return
    name = f"bgtest{os.getpid()}x{secrets.token_hex(2)}"
    adopt_orphans()
    home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/var/tmp"))
    try:
        _admin("useradd", "--no-create-home", "--home-dir", str(home), "--shell", "/bin/sh", name)
        entry = pwd.getpwnam(name)
        try:
            _set_ranges(name, ranges)
            os.chown(home, entry.pw_uid, entry.pw_gid)
            home.chmod(0o755)
            yield _with_interpreter(User(name, entry.pw_uid, entry.pw_gid, home, "", ""))
        finally:
            _end_processes(entry.pw_uid)
            _admin("userdel", name)
    finally:
        remove_tree(home)


def _end_processes(uid: int) -> None:
    """End what `uid` left running below the test's own process."""
    for found in list(_descendants()):
        pid = int(found.split()[0])
        with contextlib.suppress(OSError):  # ended by itself meanwhile
            if os.stat(f"/proc/{pid}").st_uid == uid:
                os.kill(pid, signal.SIGKILL)


def _admin(*command: str) -> None:
    """Run a program that takes the lock of /etc/passwd, which another one may hold just now."""
    for attempt in range(20):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        # "currently used": what was killed just now takes a moment to go.
        if not re.search("lock|currently used", done.stderr) or attempt == 19:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        time.sleep(0.25)


def _set_ranges(name: str, wanted: bool) -> None:
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        lines = path.read_text().splitlines() if path.exists() else []
        mine = [line for line in lines if line.startswith(f"{name}:")]
        letter = "uids" if path.name == "subuid" else "gids"
        if wanted and not mine:
            taken = [int(a) + int(n) for _, a, n in (line.split(":") for line in lines if line)]
            first = max([200_000, *taken])
            _admin("usermod", f"--add-sub{letter}", f"{first}-{first + 65535}", name)
        for line in mine if not wanted else ():
            _, first_text, count = line.split(":")
            last = int(first_text) + int(count) - 1
            _admin("usermod", f"--del-sub{letter}", f"{first_text}-{last}", name)


def _with_interpreter(user: User) -> User:
    """Find a Python that `user` may run with all our code; copies what they may not read."""
    names = "buildgraph, buildgraph_cache, buildgraph_rules"
    probe = (
        f"import {names}, click, isal, jinja2, msgspec, networkx, pyroute2, rich, urllib3, xxhash, "
        "yaml, zstandard"
    )
    for python, path in _interpreters(user):
        found = User(user.name, user.uid, user.gid, user.home, python, path)
        with contextlib.suppress(OSError):  # not allowed to execute it at all
            if found.run(python, "-c", probe).returncode == 0:
                return found
    raise RuntimeError("machine: no Python here that an ordinary user may run")


def _interpreters(user: User) -> Iterator[tuple[str, str]]:
    sources = os.pathsep.join(map(str, SOURCES))
    yield sys.executable, sources
    copy = user.home / "python-path"
    _copy_code(copy)
    yield sys.executable, str(copy)
    yield f"/usr/bin/python3.{sys.version_info.minor}", str(copy)


def _copy_code(where: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    for package in ("buildgraph", "cache/buildgraph_cache", "rules/buildgraph_rules"):
        shutil.copytree(ROOT / package, where / Path(package).name, ignore=ignore)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [re.split(r"[^\w.-]", text)[0] for text in project["dependencies"]]
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        distribution = importlib.metadata.distribution(name)
        for requirement in distribution.requires or []:
            if ";" not in requirement:
                match = re.match(r"[\w.-]+", requirement)
                wanted += [match[0]] if match else []
        for file in distribution.files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = where / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)


def _reachable(directory: Path) -> bool:
    """Say whether everybody may pass through `directory`."""
    places = (directory, *directory.parents)
    return all(place.exists() and place.stat().st_mode & stat.S_IXOTH for place in places)


def remove_tree(top: Path) -> None:
    """Remove a tree, also one with files of our subordinate ids or directories without rights."""
    subprocess.run(["rm", "-rf", "--one-file-system", str(top)], check=False, capture_output=True)
    if top.exists() and os.geteuid() != 0:
        inside = ["unshare", "--user", "--map-root-user", "--map-auto", "rm", "-rf", str(top)]
        subprocess.run(inside, check=False, capture_output=True)
    assert not top.exists(), f"could not remove {top}"
