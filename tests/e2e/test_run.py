"""`buildgraph run` and `shell` from outside: streams, terminal, signals, volumes, what is kept and
what is refused. What a process sees inside is compared with docker's in test_run_table.py.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import termios
import time
from pathlib import Path

import pytest

from e2e.building import BOTH, Bench

LOOP = "while :; do sleep 0.05; done"
DOCKERFILE = """FROM base AS first
ENV A=1
RUN echo one > /one
WORKDIR /w
ENV A=2
RUN echo two > /two
FROM first
USER app
VOLUME /data
COPY --chown=app:app f /data/f
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo $0"]
"""
BOXFILE = """workspace: {name: w}
targets:
  image:
    contexts: {base: "oci-layout://busybox-layout"}
    network: none
"""


class Place:
    """A workspace with one target, and the program on it."""

    def __init__(self, who: Bench):
        self.who = who
        files = {"Dockerfile": DOCKERFILE, "Boxfile.yaml": BOXFILE, "f": "data\n", "sub/x": "x\n"}
        self.directory = who.directory(files)
        self.path = who.workspace.path(self.directory)
        (self.path / "busybox-layout").symlink_to(who.layout)
        who.run("build", ":image", cwd=self.directory)

    def run(self, *words: str, expect: int = 0, stdin: str | None = None) -> tuple[str, str]:
        more = {"stdin": stdin} if stdin is not None else {}
        done = self.who.run(*words, cwd=self.directory, expect=expect, **more)
        return done.stdout, done.stderr

    def start(self, *words: str, **more: object) -> subprocess.Popen[str]:
        return self.who.workspace.start(*words, user=self.who.user, cwd=self.directory, **more)


@pytest.fixture(scope="module")
def places() -> dict[str, Place]:
    return {}


@pytest.fixture
def place(who: Bench, places: dict[str, Place]) -> Place:
    name = who.user.name if who.user else "root"
    if name not in places:
        places[name] = Place(who)
    return places[name]


@BOTH
def test_streams_and_exit_code(place: Place) -> None:
    out, err = place.run("run", ":image", "echo out; echo err >&2; exit 7", expect=7)
    assert (out, err) == ("out\n", "err\n")
    assert place.run("run", "-i", ":image", "--", "cat", stdin="typed\n")[0] == "typed\n"
    assert place.run("run", ":image", "cat", stdin="typed\n")[0] == "", "not without -i"
    place.run("run", "--entrypoint", "/no", ":image", expect=127)
    place.run("run", "--entrypoint", "/etc", ":image", expect=126)
    _, err = place.run("run", "-u", "nobody-here", ":image", expect=125)
    assert "has no user 'nobody-here'" in err


def test_what_run_has_built_is_written_down(root_bench: Bench) -> None:
    place = Place(root_bench)

    def builds() -> list[str]:
        return place.run("history", ":image", "--json")[0].splitlines()

    before = builds()  # other tests have built a target of this name, too
    (place.path / "f").write_text("more\n")
    place.run("run", ":image", "--", "true")
    after = builds()
    assert after[1:] == before
    place.run("run", ":image", "--", "true")
    assert builds() == after


@BOTH
def test_volumes_live_on_by_name(place: Place) -> None:
    look = "cat /data/f; stat -c '%u %a' /data/f; echo more >> /data/f"
    for _ in range(2):
        assert place.run("run", ":image", look)[0] == "data\n1000 644\n", "anonymous: anew"
    assert place.run("run", "-v", "kept:/data", ":image", look)[0] == "data\n1000 644\n"
    assert place.run("run", "-v", "kept:/data", ":image", look)[0] == "data\nmore\n1000 644\n"
    assert "cache mounts" in place.run("cache", "du")[0]


@BOTH
def test_directories_of_the_host(place: Place) -> None:
    assert place.run("run", "-v", "./sub:/s", ":image", "cat /s/x")[0] == "x\n"
    out, err = place.run("run", "-u", "0", "-v", "./sub:/s", ":image", "echo y > /s/y", expect=1)
    assert "Read-only" in out + err
    place.run("run", "-u", "0", "-v", "./sub:/s:rw", ":image", "echo y > /s/y")
    made = (place.path / "sub/y").stat()
    assert made.st_uid == (place.who.user.uid if place.who.user else 0)
    _, err = place.run("run", "-v", "./gone:/s", ":image", "true", expect=125)
    assert "is not there" in err
    _, err = place.run("run", "-v", "./sub:/proc/x", ":image", "true", expect=125)
    assert "/proc, /sys and /dev are ours" in err


def test_what_it_wrote_can_be_kept(place: Place) -> None:
    text = "mkdir /new; echo n > /new/f; ln -s f /new/l; rm /two; echo changed > /one"
    _, err = place.run("run", "-u", "0", "--keep", "kept", ":image", text)
    assert "1 file of the image it removed" in err
    found = sorted(
        str(p.relative_to(place.path / "kept")) for p in (place.path / "kept").rglob("*")
    )
    assert found == ["new", "new/f", "new/l", "one"]
    assert (place.path / "kept/one").read_text() == "changed\n"
    _, err = place.run("run", "--keep", "kept", ":image", "true", expect=125)
    assert "already there" in err


def test_limits_are_said(place: Place) -> None:
    hog = "a=x; while true; do a=$a$a; done"
    _, err = place.run("run", "-m", "24m", "--memory-swap", "24m", ":image", hog, expect=137)
    assert "out of memory (limit 24 MiB)" in err
    _, err = place.run("run", "--privileged", ":image", "true")
    assert "nothing is hidden" in err
    _, err = place.run("run", "--ulimit", "nofiles=1", ":image", expect=125)
    assert "unknown limit 'nofiles'" in err
    _, err = place.run("run", "--security-opt", "label=x", ":image", expect=2)
    assert "seccomp=unconfined" in err


@pytest.mark.parametrize(
    ("text", "number", "code"),
    [
        (f"trap 'echo bye; exit 3' TERM; echo ready; {LOOP}", signal.SIGTERM, 3),
        ("echo ready; exec sleep 60", signal.SIGTERM, 143),
        ("echo ready; exec sleep 60", signal.SIGINT, 130),
        (f"trap 'echo usr' USR1; echo ready; {LOOP}", signal.SIGUSR1, 137),
    ],
)
def test_signals_are_the_containers(place: Place, text: str, number: int, code: int) -> None:
    process = place.start("run", ":image", text)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    program = python_of(process)
    os.kill(program, number)
    if number == signal.SIGUSR1:
        assert process.stdout.readline() == "usr\n"
        for _ in range(2):  # the second time without mercy
            time.sleep(0.3)
            os.kill(program, signal.SIGQUIT)
    assert process.wait(10) == code
    assert time.monotonic() - began < 5
    process.stdout.close()
    if process.stderr:
        process.stderr.close()


def python_of(process: subprocess.Popen[str]) -> int:
    """Return the program itself: an ordinary user's is below `su`."""
    pid = process.pid
    while Path(f"/proc/{pid}/comm").read_text().strip() in ("su", "sh", "setpriv"):
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return pid


class Typist:
    """Somebody at a terminal who runs a program."""

    def __init__(self, place: Place, *words: str):
        self.master, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (33, 77))
        self.before = termios.tcgetattr(terminal)
        self.terminal = terminal
        self.said = ""
        self.process = place.start(*words, stdin=terminal, stdout=terminal, stderr=terminal)

    def until(self, pattern: str) -> None:
        end = time.monotonic() + 15
        while not re.search(pattern, self.said):
            assert time.monotonic() < end, self.said
            if select.select([self.master], [], [], 0.1)[0]:
                self.said += os.read(self.master, 4096).decode()

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        while self.process.poll() is None:
            if select.select([self.master], [], [], 0.05)[0]:
                with contextlib.suppress(OSError):
                    self.said += os.read(self.master, 4096).decode()
        restored = termios.tcgetattr(self.terminal)
        os.close(self.master)
        os.close(self.terminal)
        assert restored == self.before
        return self.process.returncode


def test_terminal(place: Place) -> None:
    at = Typist(place, "run", "-it", ":image", "stty size; tty; trap 'echo int' INT; exec sh")
    at.until("33 77\r\n/dev/pts/0\r\n")
    termios.tcsetwinsize(at.master, (12, 34))
    at.process.send_signal(signal.SIGWINCH)
    time.sleep(0.3)
    at.type("stty size; echo $TERM; sleep 30\n")
    at.until("12 34\r\nxterm\r\n")
    time.sleep(0.5)
    at.type("\x03")  # the container's, and of its foreground process
    at.type("exit 9\n")
    assert at.end() == 9


def test_terminal_is_given_back_after_kill(place: Place) -> None:
    at = Typist(place, "run", "-it", ":image", "trap '' HUP TERM; echo ready; exec sleep 60")
    at.until("ready")
    at.process.send_signal(signal.SIGTERM)
    at.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    at.process.send_signal(signal.SIGTERM)
    assert at.end() == 137


def test_a_port_is_published_on_loopback_alone(place: Place) -> None:
    serve = "while :; do echo hello | nc -l -p 8000; done"
    process = place.start("run", "-p", "0:8000", ":image", serve)
    assert process.stderr is not None
    found = re.match(r"buildgraph: 127\.0\.0\.1:(\d+) -> 8000", process.stderr.readline())
    assert found
    answer = ""
    end = time.monotonic() + 10
    while not answer and time.monotonic() < end:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", int(found[1]))) as s,
        ):
            s.settimeout(1)
            answer = s.recv(100).decode()
    assert answer == "hello\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)


@BOTH
def test_shell_in_any_step(place: Place) -> None:
    def see(step: str) -> str:
        look = "pwd; echo $A; id -un; ls /one /two 2>/dev/null; true"
        return place.run("shell", f":image{step}", "--network=none", "-c", look)[0]

    assert see("@3") == "/\n1\nroot\n/one\n"
    assert see("@5") == "/w\n2\nroot\n/one\n"
    assert see("@first") == "/w\n2\nroot\n/one\n/two\n"
    assert see("") == "/w\n2\napp\n/one\n/two\n"
    script = "echo $((6*7)); exit 4\n"
    out, _ = place.run("shell", ":image", "--network=none", stdin=script, expect=4)
    assert out == "42\n"
    _, err = place.run("shell", ":image@0", "-c", "true", expect=2)
    assert "first line" in err
    _, err = place.run("shell", ":image@none", "-c", "true", expect=2)
    assert "no stage" in err


def test_shell_where_a_step_failed(place: Place) -> None:
    failing = "FROM base\nENV A=5\nWORKDIR /here\nUSER app\nRUN echo half > /tmp/half; exit 6\n"
    (place.path / "Failing").write_text(failing)
    words = [
        "build",
        ".",
        "-f",
        "Failing",
        "--on-error=shell",
        "--network=none",
        "--progress=plain",
    ]
    words += ["--build-context", f"base=oci-layout://{place.who.layout}"]
    _, err = place.run(*words, expect=1)
    assert "there is no terminal" in err
    at = Typist(place, *words)
    at.until("leave it with `exit`")
    at.type("cat /tmp/half; pwd; echo $A $(id -un)\n")
    at.until("half\r\n/here\r\n5 app\r\n")
    at.type("exit\n")
    assert at.end() == 1


@BOTH
def test_the_same_command_again_looks_at_nothing_but_stats(who: Bench) -> None:
    directory = who.directory(
        {
            "Dockerfile": "FROM base\nCOPY f /f\n",
            "Boxfile.yaml": BOXFILE,
            "f": "first\n",
        }
    )
    top = who.workspace.path(directory)
    (top / "busybox-layout").symlink_to(who.layout)
    words = ("run", ":image", "/bin/sh", "-c", "cat /f; hostname; cat /etc/hosts; exit 3")
    time.sleep(0.05)  # files as young as the clock's grain are not trusted

    def run() -> tuple[str, bool]:
        more = {"env": {"PYTHONPROFILEIMPORTTIME": "1"}}
        said = who.run(*words, cwd=directory, expect=3, **more)
        first, host, *rest = said.stdout.splitlines()
        assert f"127.0.0.1\t{host}" in rest
        return f"{first} {host}", "buildgraph.boxfile" in said.stderr

    texts = [run() for _ in range(3)]
    assert [whole for _, whole in texts] == [True, False, False]
    assert len({text for text, _ in texts}) == 3, "each has a host name of its own"
    (top / "f").write_text("second\n")
    text, whole = run()
    assert whole
    assert text.startswith("second ")
