"""Knows how each builder is started, told to build, made to forget, and stopped, ours among them;
must not know what is built or what a run costs.

Every tool keeps all that it writes below the directory it is given. Docker's daemon is started
here, with its own roots and socket, with no bridge and no packet filter rule, in a mount
namespace where /run and /etc/docker are its own; it is stopped by its process id.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from measure import Command, RunFailed
from workloads import Job

ROOT = Path(__file__).resolve().parents[2]
TRASH = "trash"
_NAME = "bench"


class Tool(ABC):
    """One builder. `start` raises RunFailed or OSError where it cannot be used on this machine."""

    name: str
    needs: tuple[str, ...] = ()  # programs
    builds = True
    only_files = False  # has a part only where files are copied, cold

    def __init__(self, home: Path):
        self.home = home

    def lacks(self) -> str:
        """Return why this tool cannot be used here, or nothing."""
        missing = [program for program in self.needs if not shutil.which(program)]
        if missing:
            return f"{', '.join(missing)} not installed"
        return "needs root" if self.needs and os.geteuid() != 0 else ""

    @property
    def env(self) -> dict[str, str]:
        """Return the environment of its commands: nothing of the caller's that could tell."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "LANG": "C.UTF-8",
        }

    @property
    def daemons(self) -> tuple[int, ...]:
        """Return the processes that do its work beside its commands."""
        return ()

    @abstractmethod
    def version(self) -> str:
        """Return what it calls itself."""

    def start(self) -> None:  # noqa: B027 - most tools are just there
        """Start what has to run."""

    def stop(self) -> None:  # noqa: B027
        """Stop what `start` started."""

    @abstractmethod
    def forget(self) -> None:
        """Put everything built so far aside, so that the next build is cold."""

    def _put_aside(self, *names: str) -> None:
        """Move parts of the home to the trash and drop the archive.

        Trees are removed at the end of the suite only: on ext4 without a journal, files made
        within minutes of many removals cost up to a hundred times as much, whoever removed them
        (fs/ext4/ialloc.c: recently_deleted).
        """
        trash = self.home.parent / TRASH
        trash.mkdir(exist_ok=True)
        for name in names:
            if (self.home / name).exists():
                os.rename(self.home / name, trash / f"{self.name}-{name}-{len(os.listdir(trash))}")
        self.archive.unlink(missing_ok=True)

    @abstractmethod
    def build(self, job: Job) -> tuple[str, ...]:
        """Return the command that builds a job, run in the job's directory."""

    def container(self, job: Job) -> tuple[str, ...] | None:
        """Return the command that runs `true` in the built image, or None."""
        return None

    def planned(self, job: Job) -> tuple[str, ...] | None:
        """Return the command that says what a build would do, or None."""
        return None

    def single(self, job: Job) -> tuple[str, ...] | None:
        """Return the command that builds one package of many alone, or None."""
        return None

    def command(self, argv: Sequence[str], cwd: Path) -> Command:
        """Return a command of this tool with its environment and daemons."""
        return Command(tuple(argv), cwd, self.env, self.daemons)

    @property
    def archive(self) -> Path:
        """Where an archive goes."""
        return self.home / "out.tar"


def _said(argv: Sequence[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(
        argv, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return (done.stdout or done.stderr).strip().split("\n")[0]


def _each(job: Job, first: str, one: str) -> tuple[str, ...]:
    """Return a command that builds the base and then each package, as many at once as we do."""
    jobs = max(2, len(os.sched_getaffinity(0)))
    names = " ".join(job.packages)
    loop = f"printf '%s\\n' {names} | xargs -P {jobs} -I@ {one}"
    return ("/bin/sh", "-ec", f"{first}\n{loop}")


class Ours(Tool):
    """buildgraph, as it is in this tree, from the environment that runs the suite."""

    name = "buildgraph"

    def __init__(self, home: Path):
        super().__init__(home)
        script = Path(sys.executable).with_name("buildgraph")
        self._installed = script.exists()
        self._argv = (str(script),) if self._installed else (sys.executable, "-m", "buildgraph")

    @property
    def argv(self) -> tuple[str, ...]:
        """Return the words that start us."""
        return self._argv

    @property
    def env(self) -> dict[str, str]:
        # PYTHONDONTWRITEBYTECODE is left out: with it every run would compile all of us again.
        mine = super().env | {"BUILDGRAPH_STORE": str(self.home / "store")}
        if not self._installed:
            mine["PYTHONPATH"] = os.pathsep.join(str(ROOT / p) for p in (".", "cache", "rules"))
        return mine

    def version(self) -> str:
        return _said((*self._argv, "--version"), self.env)

    def start(self) -> None:
        """Compile the modules, as an installed wheel has them compiled."""
        places = (ROOT / "buildgraph", ROOT / "cache", ROOT / "rules")
        subprocess.run([sys.executable, "-m", "compileall", "-q", *places], check=False)

    def forget(self) -> None:
        self._put_aside("store")

    def build(self, job: Job) -> tuple[str, ...]:
        what = "//..." if job.packages else "."
        out = ("-o", f"type=oci,dest={self.archive}") if job.archive else ()
        return (*self._argv, "build", what, "--network", "none", *out)

    def container(self, job: Job) -> tuple[str, ...]:
        return (*self._argv, "run", ".", "--", "/bin/true")

    def planned(self, job: Job) -> tuple[str, ...]:
        return (*self._argv, "plan", "//...")

    def single(self, job: Job) -> tuple[str, ...]:
        return (*self._argv, "build", job.one, "--network", "none")


class Docker(Tool):
    """docker with the BuildKit inside its own daemon."""

    name = "docker"
    needs = ("dockerd", "docker", "unshare")
    _CGROUP = "bgbench-docker"

    def __init__(self, home: Path):
        super().__init__(home)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._docker = ""

    @property
    def env(self) -> dict[str, str]:
        return super().env | {
            "DOCKER_BUILDKIT": "1",
            "DOCKER_HOST": f"unix://{self.home}/socket",
            "DOCKER_CONFIG": str(self.home / "config"),
        }

    @property
    def daemons(self) -> tuple[int, ...]:
        return (self._daemon.pid,) if self._daemon else ()

    def version(self) -> str:
        return _said((self._docker, "version", "-f", "docker {{.Server.Version}}"), self.env)

    def start(self) -> None:
        self._start_daemon()
        self._docker = self._client()

    def _start_daemon(self) -> None:
        (self.home / "daemon.json").write_text("{}\n")
        options = {
            "config-file": "daemon.json",
            "data-root": "data",
            "exec-root": "exec",
            "pidfile": "pid",
        }
        words = [f"--{name}={self.home / value}" for name, value in options.items()]
        words += [f"--host=unix://{self.home}/socket", "--bridge=none", "--iptables=false"]
        words += ["--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        words += ["--userland-proxy=false", f"--cgroup-parent=/{self._CGROUP}"]
        private = (
            "mount -t tmpfs none /run; ! [ -d /etc/docker ] || mount -t tmpfs none /etc/docker"
        )
        line = f"{private}; exec dockerd {shlex.join(words)}"
        with (self.home / "daemon.log").open("wb") as log:
            self._daemon = subprocess.Popen(
                ["unshare", "--mount", "--propagation=private", "/bin/sh", "-ec", line],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=super().env,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while subprocess.run(
            ["docker", "info"], env=self.env, capture_output=True, check=False
        ).returncode:
            if time.monotonic() > deadline or (self._daemon and self._daemon.poll() is not None):
                tail = (self.home / "daemon.log").read_text(errors="replace").splitlines()[-3:]
                raise RunFailed("its daemon does not answer: " + " / ".join(tail))
            time.sleep(0.1)

    def _client(self) -> str:
        """Return a client that knows BuildKit; newer ones want a plugin that may not be there."""
        places = [Path(p) / "docker" for p in self.env["PATH"].split(":")]
        clients = [str(p) for p in (*places, Path("/usr/bin/docker")) if os.access(p, os.X_OK)]
        trial = self.home / "trial"
        trial.mkdir()
        (trial / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        for client in dict.fromkeys(clients):
            tried = [client, "build", "-q", str(trial)]
            if not subprocess.run(tried, env=self.env, capture_output=True, check=False).returncode:
                return client
        raise RunFailed("no client that can use BuildKit")

    def stop(self) -> None:
        if self._daemon is None:
            return
        self._daemon.terminate()
        try:
            self._daemon.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._daemon.pid, signal.SIGKILL)
            self._daemon.wait()
        self._daemon = None
        remove_cgroups(self._CGROUP)

    def forget(self) -> None:
        self.stop()
        self._put_aside("data")
        self._start_daemon()

    def build(self, job: Job) -> tuple[str, ...]:
        build = (self._docker, "build", "--network", "none")
        if job.packages:
            quiet = shlex.join((*build, "-q"))
            return _each(job, f"{quiet} -t base base", f"{quiet} -t {_NAME}-@ @")
        if not job.archive:
            return (*build, "-t", _NAME, ".")
        save = (self._docker, "save", "-o", str(self.archive), _NAME)
        line = f"{shlex.join((*build, '-t', _NAME, '.'))} && {shlex.join(save)}"
        return ("/bin/sh", "-ec", line)

    def container(self, job: Job) -> tuple[str, ...]:
        return (self._docker, "run", "--rm", "--network", "none", _NAME, "/bin/true")


class Buildah(Tool):
    """buildah with a cache of layers, in containers of runc."""

    name = "buildah"
    needs = ("buildah", "runc")
    _program: tuple[str, ...] = ("buildah",)
    # crun 1.8 refuses hybrid cgroups; runc does not.
    _build = ("bud", "--runtime", "runc")

    def _with_roots(self) -> tuple[str, ...]:
        roots = ("--root", str(self.home / "root"), "--runroot", str(self.home / "run"))
        return (*self._program, *roots)

    @property
    def env(self) -> dict[str, str]:
        return super().env | {"XDG_RUNTIME_DIR": str(self.home / "xdg")}

    def version(self) -> str:
        return " ".join(_said((*self._program, "--version"), self.env).split()[::2][:2])

    def start(self) -> None:
        (self.home / "xdg").mkdir(mode=0o700)

    def forget(self) -> None:
        unmount_below(self.home)
        self._put_aside("root", "run")

    def build(self, job: Job) -> tuple[str, ...]:
        build = (*self._with_roots(), *self._build, "--layers", "--isolation", "oci")
        build += ("--network", "none", "--pull-never")
        if job.packages:
            text = shlex.join((*build, "-q"))
            return _each(job, f"{text} -t base base", f"{text} -t {_NAME}-@ @")
        line = shlex.join((*build, "-t", _NAME, "."))
        if job.archive:
            # It would add to an archive that is there.
            push = (*self._with_roots(), "push", _NAME, f"oci-archive:{self.archive}")
            line += f" && rm -f {shlex.quote(str(self.archive))} && {shlex.join(push)}"
        return ("/bin/sh", "-ec", line)


class Podman(Buildah):
    """podman: builds with buildah's code, so it is asked to only where buildah is not there."""

    name = "podman"
    needs = ("podman", "runc")

    def __init__(self, home: Path):
        super().__init__(home)
        self._program = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
        self._program += ("--events-backend", "none", "--tmpdir", str(home / "tmp"))
        self._build = ("build",)
        self.builds = not shutil.which("buildah")

    def version(self) -> str:
        return _said(("podman", "--version"), self.env).replace(" version", "")

    def container(self, job: Job) -> tuple[str, ...]:
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
        run = ("run", "--rm", "--network", "none", *limits, _NAME, "/bin/true")
        return (*self._with_roots(), *run)

    def stop(self) -> None:
        remove_cgroups("libpod_parent")


class Buildkit(Tool):
    """BuildKit by itself: buildctl with a buildkitd that is started here."""

    name = "buildkit"
    needs = ("buildctl", "buildkitd", "runc")

    def __init__(self, home: Path):
        super().__init__(home)
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        return super().env | {"BUILDKIT_HOST": f"unix://{self.home}/socket"}

    @property
    def daemons(self) -> tuple[int, ...]:
        return (self._daemon.pid,) if self._daemon else ()

    def version(self) -> str:
        return " ".join(["buildkit", *_said(("buildctl", "--version"), self.env).split()[2:3]])

    def start(self) -> None:
        argv = ["buildkitd", "--root", str(self.home / "root")]
        argv += ["--addr", self.env["BUILDKIT_HOST"], "--containerd-worker=false"]
        argv += ["--config", str(self.home / "none.toml"), "--oci-worker-net=host"]
        (self.home / "none.toml").write_text("")
        with (self.home / "daemon.log").open("wb") as log:
            self._daemon = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=super().env
            )
        deadline = time.monotonic() + 30
        ask = ["buildctl", "debug", "workers"]
        while subprocess.run(ask, env=self.env, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline or self._daemon.poll() is not None:
                raise RunFailed("its daemon does not answer")
            time.sleep(0.1)

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(20)
            self._daemon = None

    def forget(self) -> None:
        self.stop()
        self._put_aside("root")
        self.start()

    def build(self, job: Job) -> tuple[str, ...]:
        if job.packages:
            return ("/bin/sh", "-c", "echo 'FROM base needs a registry here' >&2; exit 1")
        out = f"type=oci,dest={self.archive}" if job.archive else f"type=image,name={_NAME}"
        build = ("buildctl", "build", "--frontend", "dockerfile.v0", "--local", "context=.")
        mode = ("--opt", "force-network-mode=none")
        return (*build, "--local", "dockerfile=.", *mode, "--output", out)


class Runc(Tool):
    """runc alone: the floor of starting a container. It builds nothing."""

    name = "runc"
    needs = ("runc",)
    builds = False
    _CGROUP = "bgbench-runc"  # a container's name is that of its control group

    def version(self) -> str:
        return " ".join(_said(("runc", "--version"), self.env).split()[::2][:2])

    def forget(self) -> None:
        self._put_aside("bundle")

    def build(self, job: Job) -> tuple[str, ...]:
        """Make a bundle whose root file system is what the image holds."""
        bundle = self.home / "bundle"
        (bundle / "rootfs").mkdir(parents=True)
        shutil.copytree(job.directory / "bin", bundle / "rootfs" / "bin", symlinks=True)
        subprocess.run(["runc", "spec"], cwd=bundle, check=True)
        config = json.loads((bundle / "config.json").read_text())
        config["process"] |= {"terminal": False, "args": ["/bin/true"]}
        (bundle / "config.json").write_text(json.dumps(config))
        return ("true",)

    def container(self, job: Job) -> tuple[str, ...]:
        words = ("runc", "--root", str(self.home / "state"), "run", "--bundle")
        return (*words, str(self.home / "bundle"), self._CGROUP)

    def stop(self) -> None:
        remove_cgroups(self._CGROUP)


class Copy(Tool):
    """cp -r of the files that a job copies: what the file system takes for them at the least."""

    name = "cp"
    only_files = True

    def version(self) -> str:
        return _said(("cp", "--version"), self.env)

    def forget(self) -> None:
        self._put_aside("copy")

    def build(self, job: Job) -> tuple[str, ...]:
        return ("cp", "-r", "src", str(self.home / "copy"))


PEERS: tuple[type[Tool], ...] = (Docker, Buildah, Podman, Buildkit, Runc, Copy)


@contextlib.contextmanager
def tools(top: Path, wanted: frozenset[str] | None) -> Iterator[tuple[list[Tool], dict[str, str]]]:
    """Yield ours and the peers that work here, started, and why the others are not among them."""
    usable: list[Tool] = []
    absent: dict[str, str] = {}
    try:
        for kind in (Ours, *PEERS):
            if wanted is not None and kind is not Ours and kind.name not in wanted:
                continue
            home = top / kind.name
            home.mkdir(parents=True)
            tool = kind(home)
            reason = tool.lacks()
            if not reason:
                usable.append(tool)
                reason = _begin(tool)
            if reason:
                absent[tool.name] = reason
                _end(usable, tool)
        yield usable, absent
    finally:
        while usable:
            _end(usable, usable[-1])


def _begin(tool: Tool) -> str:
    try:
        tool.start()
    except (RunFailed, OSError) as error:
        if isinstance(tool, Ours):
            raise
        return str(error)
    return ""


def _end(usable: list[Tool], tool: Tool) -> None:
    if tool in usable:
        usable.remove(tool)
        tool.stop()
        unmount_below(tool.home)


def remove_cgroups(name: str) -> None:
    """Remove the control groups that a tool left behind, where they are empty."""
    for top in (*Path("/sys/fs/cgroup").glob(f"*/{name}"), Path("/sys/fs/cgroup", name)):
        for where, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(where)


def unmount_below(top: Path) -> None:
    """Detach every mount below a directory, so that it can be removed."""
    with open("/proc/self/mountinfo") as lines:
        points = [line.split()[4] for line in lines]
    for point in sorted((p for p in points if p.startswith(f"{top}/")), reverse=True):
        subprocess.run(["umount", "-l", point], check=False)
