"""Containers seen from inside, as root and as an ordinary user, by the same tests."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from buildgraph.sandbox.spec import SandboxSpec, to_json

REPOSITORY = Path(__file__).resolve().parents[2]
APPLETS = (
    "sh ls cat id true false mount env sleep touch ps head readlink setsid tty find mknod chown "
    "hostname ip ping stat rm ln nc echo test mkdir chmod dd yes seq kill grep wc tail cp mv "
    "sync uname awk ulimit nproc df tr od printf cut sort mkfifo chroot unshare mountpoint su ipcs"
).split()


@dataclasses.dataclass
class Result:
    """What a container left behind."""

    answer: dict[str, Any]
    upper: Path | None

    @property
    def out(self) -> str:
        return base64.b64decode(self.answer["output"]).decode(errors="replace")

    @property
    def code(self) -> int:
        assert "status" in self.answer, self.answer
        return int(self.answer["status"]["code"])

    @property
    def status(self) -> dict[str, Any]:
        assert "status" in self.answer, self.answer
        return dict(self.answer["status"])

    @property
    def error(self) -> str:
        assert "error" in self.answer, (self.answer, self.out)
        return str(self.answer["error"])


class Driver:
    """A process of some user that runs sandboxes over `store`."""

    running: ClassVar[list[Driver]] = []
    program: ClassVar[str] = "sandbox_driver.py"

    def __init__(self, directory: Path, user: str = ""):
        self.user = user
        self.directory = directory
        self.store = directory / "store"
        self.uid = self.gid = 0
        self.store.mkdir()
        if user:
            entry = pwd.getpwnam(user)
            self.uid, self.gid = entry.pw_uid, entry.pw_gid
            os.chown(self.store, self.uid, self.gid)
        self.count = itertools.count()
        self.process: subprocess.Popen[str] | None = None
        self.hello: dict[str, Any] = {}
        self.image = self.lower(BUSYBOX_IMAGE)

    def start(self, *extra: str) -> Driver:
        program = [str(Path(__file__).with_name(self.program)), str(self.store), *extra]
        env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
        paths = [
            str(REPOSITORY),
            str(REPOSITORY / "cache"),
            *(p for p in sys.path if "site-pa" in p),
        ]
        env["PYTHONPATH"] = ":".join(paths)
        command = [sys.executable, *program]
        if self.user:
            words = [f"{key}={value}" for key, value in env.items()]
            line = shlex.join(["env", *words, user_python(), *program])
            command = ["su", "-", self.user, "-c", f"cd / && exec {line}"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        assert self.process.stdout is not None
        Driver.running.append(self)
        self.hello = json.loads(self.process.stdout.readline())
        return self

    def stop(self) -> None:
        if self in Driver.running:
            Driver.running.remove(self)
        if self.process is not None:
            assert self.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait(20)
            self.process.stdout.close()  # type: ignore[union-attr]
            self.process = None

    def lower(self, files: dict[str, Any]) -> str:
        """Make a layer: str or bytes = file, None = directory, ("link", to), ("whiteout",)."""
        root = self.store / f"layer{next(self.count)}"
        root.mkdir()
        for name, what in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if what is None:
                path.mkdir(exist_ok=True)
            elif isinstance(what, tuple) and what[0] == "link":
                path.symlink_to(what[1])
            elif isinstance(what, tuple) and what[0] == "whiteout":
                os.mknod(path, 0o20000, 0)
            elif isinstance(what, Path):
                shutil.copy(what, path)
            else:
                path.write_bytes(what.encode() if isinstance(what, str) else what)
                path.chmod(0o755)
        self.own(root)
        return str(root)

    def own(self, root: Path) -> None:
        for where, directories, files in os.walk(root):
            for name in [".", *directories, *files]:
                os.chown(os.path.join(where, name), self.uid, self.gid, follow_symlinks=False)

    def spec(self, command: str | list[str], **fields: Any) -> SandboxSpec:
        args = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
        fields.setdefault("lowers", (self.image,))
        fields.setdefault("network", "none")
        if "upper" not in fields:
            place = self.store / f"step{next(self.count)}"
            for name in ("", "up", "work"):
                (place / name).mkdir()
            self.own(place)
            fields |= {"upper": str(place / "up"), "work": str(place / "work")}
        return SandboxSpec(args=args, **fields)

    def run(
        self,
        command: str | list[str] | SandboxSpec,
        *,
        cancel_after: float | None = None,
        stdin: str | None = None,
        **fields: Any,
    ) -> Result:
        return self.run_many([command], cancel_after=cancel_after, stdin=stdin, **fields)[0]

    def run_many(
        self,
        commands: list[Any],
        *,
        cancel_after: float | None = None,
        stdin: str | None = None,
        **fields: Any,
    ) -> list[Result]:
        specs = [c if isinstance(c, SandboxSpec) else self.spec(c, **fields) for c in commands]
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        for number, spec in enumerate(specs):
            request = {
                "id": number,
                "spec": to_json(spec),
                "cancel_after": cancel_after,
                "stdin": stdin,
            }
            self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        results: dict[int, Result] = {}
        for _ in specs:
            answer = json.loads(self.process.stdout.readline())
            upper = specs[answer["id"]].upper
            results[answer["id"]] = Result(answer, Path(upper) if upper else None)
        return [results[number] for number in range(len(specs))]


BUSYBOX_IMAGE: dict[str, Any] = {"tmp": None, "root": None, "home/.keep": ""}


def user_python() -> str:
    """Return an interpreter that an ordinary user may run; the environment's may be root's."""
    for candidate in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if os.path.exists(candidate):
            asked = [candidate, "-c", "import sys; print(sys.version_info >= (3, 11))"]
            if (
                subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
                == "True"
            ):
                return candidate
    return ""


@pytest.fixture(scope="session")
def ordinary_user() -> Iterator[str]:
    """The name of an ordinary user with ranges of ids, removed again at the end."""
    name = f"bg-test-{os.getpid()}"
    if os.geteuid() != 0 or shutil.which("useradd") is None or shutil.which("su") is None:
        pytest.skip("machine: useradd and su are needed, as root")
    if not user_python():
        pytest.skip("machine: no Python 3.11 that an ordinary user may run")
    with open("/run/bg-test-user.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["useradd", "-m", "-s", "/bin/sh", name], check=True)
    try:
        probe = REPOSITORY / "buildgraph" / "kernel.py"
        if subprocess.run(["su", "-", name, "-c", f"test -r {probe}"], check=False).returncode:
            pytest.skip(f"machine: {REPOSITORY} is not readable by other users")
        yield name
    finally:
        with open("/run/bg-test-user.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            subprocess.run(["userdel", "-r", name], check=False, capture_output=True)


@pytest.fixture(scope="session")
def busybox() -> Path:
    found = shutil.which("busybox")
    if found is None:
        pytest.skip("machine: busybox is not installed (package busybox-static)")
    return Path(found)


@pytest.fixture(scope="session")
def image(busybox: Path) -> dict[str, Any]:
    if os.geteuid() != 0:
        pytest.skip("machine: kernel tests start as root and become others from there")
    BUSYBOX_IMAGE.setdefault("bin/busybox", busybox)
    for applet in APPLETS:
        BUSYBOX_IMAGE.setdefault(f"bin/{applet}", ("link", "busybox"))
    BUSYBOX_IMAGE.setdefault(
        "etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"
    )
    return BUSYBOX_IMAGE


@pytest.fixture(scope="module", params=["root", "user"])
def box(request: pytest.FixtureRequest, image: dict[str, Any]) -> Iterator[Driver]:
    """A driver with a store and an image of busybox; `run` gives a `Result`."""
    user = request.getfixturevalue("ordinary_user") if request.param == "user" else ""
    yield from driver(user)


@pytest.fixture(scope="module")
def userbox(ordinary_user: str, image: dict[str, Any]) -> Iterator[Driver]:
    """As `box`, for what only an ordinary user meets."""
    yield from driver(ordinary_user)


@pytest.fixture(scope="module")
def rootbox(image: dict[str, Any]) -> Iterator[Driver]:
    """As `box`, for what only root can have."""
    yield from driver("")


@pytest.fixture
def open_tmp() -> Iterator[Path]:
    """A directory that other users may enter; pytest's own are closed to them.

    Drivers whose stores are below it end with the test, however it went.
    """
    directory = Path(tempfile.mkdtemp(prefix="bg-kernel-"))
    directory.chmod(0o755)
    yield directory
    for one in list(Driver.running):
        if directory in (one.directory, *one.directory.parents):
            one.stop()
    shutil.rmtree(directory, ignore_errors=True)


def driver(user: str) -> Iterator[Driver]:
    directory = Path(tempfile.mkdtemp(prefix="bg-kernel-"))
    directory.chmod(0o755)
    one = Driver(directory, user).start()
    yield one
    one.stop()
    shutil.rmtree(directory, ignore_errors=True)
