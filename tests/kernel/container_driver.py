"""Runs scenarios of containers in a process of the right user: names in, a JSON line out for each.

A scenario asserts; its traceback is the answer where it does not hold.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pty
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from buildgraph.errors import HostError
from buildgraph.sandbox.container import Container
from buildgraph.sandbox.host import ExitStatus, SandboxHost
from buildgraph.sandbox.spec import Limits, SandboxSpec
from buildgraph.sandbox.userns import enter

SCENARIOS: dict[str, Callable[[Bench], None]] = {}
_LOOP = "while :; do sleep 0.02; done"


class Bench:
    """A host, an image, and what was written."""

    def __init__(self, store: str, image: str, host: SandboxHost):
        self.store = store
        self.image = image
        self.host = host
        self.count = 0

    def spec(self, command: str | list[str], **fields: Any) -> SandboxSpec:
        self.count += 1
        top = f"{self.store}/c{os.getpid()}-{self.count}"
        for name in ("", "/up", "/work"):
            os.mkdir(top + name)
        args = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
        fields = {"network": "none", "no_new_privs": True, "init": False, **fields}
        return SandboxSpec(
            lowers=(self.image,), args=args, upper=f"{top}/up", work=f"{top}/work", **fields
        )

    def run(self, command: str | list[str], **fields: Any) -> tuple[int, str]:
        out: list[bytes] = []
        with self.host.start(self.spec(command, **fields), out.append) as container:
            status = container.wait(20)
        assert status is not None
        return status.code, b"".join(out).decode()


def scenario(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
    SCENARIOS[function.__name__] = function
    return function


def inside(container: Container, *args: str, **more: Any) -> tuple[ExitStatus, str]:
    out: list[bytes] = []
    status = container.exec(args, output=out.append, **more)
    return status, b"".join(out).decode()


def until(said: list[bytes], text: bytes) -> None:
    end = time.monotonic() + 10
    while text not in b"".join(said):
        assert time.monotonic() < end, said
        time.sleep(0.01)


@scenario
def the_command_is_process_1(bench: Bench) -> None:
    assert bench.run("echo $$") == (0, "1\n")
    assert bench.run("echo $$", init=True) == (0, "2\n")


@scenario
def errors_come_apart(bench: Bench) -> None:
    out: list[bytes] = []
    err: list[bytes] = []
    spec = bench.spec("echo out; echo err >&2")
    with bench.host.start(spec, out.append, errors=err.append) as container:
        container.wait(10)
    assert (b"".join(out), b"".join(err)) == (b"out\n", b"err\n")


@scenario
def a_user_may_open_its_own_output(bench: Bench) -> None:
    code, said = bench.run("echo a > /dev/stdout; echo b > /dev/stderr", uid=1000, gid=1000)
    assert (code, said) == (0, "a\nb\n")


@scenario
def start_says_what_could_not_be_started(bench: Bench) -> None:
    for init in (False, True):
        assert bench.run(["/no/such"], init=init)[0] == 127
        assert bench.run(["no-such"], init=init)[0] == 127
        assert bench.run(["/etc"], init=init)[0] == 126


@scenario
def processes_join_with_the_same_rights(bench: Bench) -> None:
    look = "grep -E '^(Cap|Sec|NoNew|Groups)' /proc/self/status; hostname; for f in /proc/self/ns/*; do readlink $f; done"
    spec = bench.spec(f"{look}; {_LOOP}", hostname="one", groups=(7,), cap_drop=("CHOWN",))
    said: list[bytes] = []
    with bench.host.start(spec, said.append) as container:
        until(said, b"uts:")
        status, found = inside(container, "/bin/sh", "-c", look)
        assert status.ok
        assert found == b"".join(said).decode()
        _, found = inside(container, "id", uid=1002, gid=1001, groups=(5,))
        assert found == "uid=1002 gid=1001 groups=5\n", found
        _, found = inside(container, "/bin/sh", "-c", "pwd; echo $X", cwd="/tmp", env={"X": "1"})
        assert found == "/tmp\n1\n"


@scenario
def exec_has_the_exit_codes_of_run(bench: Bench) -> None:
    with bench.host.start(bench.spec(_LOOP), lambda _: None) as container:
        codes = [inside(container, *args)[0].code for args in (("no",), ("/etc",))]
        codes += [inside(container, "sh", "-c", text)[0].code for text in ("exit 7", "kill -9 $$")]
        assert codes == [127, 126, 7, 137]
        status, _ = inside(container, "sleep", "60", timeout=0.2)
        assert status.timed_out
        assert status.code == 143
        cancel = threading.Event()
        threading.Timer(0.2, cancel.set).start()
        assert inside(container, "sleep", "60", cancel=cancel)[0].cancelled


@scenario
def exec_takes_input_and_many_at_once(bench: Bench) -> None:
    with bench.host.start(bench.spec(_LOOP), lambda _: None) as container:
        reader, writer = os.pipe()
        os.write(writer, b"typed")
        os.close(writer)
        assert inside(container, "cat", stdin=reader)[1] == "typed"
        os.close(reader)
        found: list[str] = []
        threads = [
            threading.Thread(
                target=lambda n=n: found.append(
                    inside(container, "sh", "-c", f"sleep .2; echo {n}")[1]
                )
            )
            for n in range(6)
        ]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [f"{n}\n" for n in range(6)]
        assert time.monotonic() - began < 1.1


@scenario
def exec_has_a_terminal_of_the_callers_size(bench: Bench) -> None:
    _, terminal = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 33, 77, 0, 0))
    with bench.host.start(bench.spec(_LOOP), lambda _: None) as container:
        status, found = inside(container, "sh", "-c", "tty; stty size", tty=terminal)
    assert status.ok, found
    assert found == "/dev/pts/0\r\n33 77\r\n"


@scenario
def who_joined_ends_with_the_container(bench: Bench) -> None:
    ended: list[ExitStatus] = []
    with bench.host.start(bench.spec("sleep 1000"), lambda _: None) as container:
        thread = threading.Thread(target=lambda: ended.append(inside(container, "sleep", "999")[0]))
        thread.start()
        time.sleep(0.2)
        container.close()
        thread.join(5)
    assert ended[0].code == 137
    try:
        inside(container, "true")
    except HostError as error:
        assert "has ended" in str(error)
    else:
        raise AssertionError("there is nobody to join")


@scenario
def stop_asks_waits_and_kills(bench: Bench) -> None:
    said: list[bytes] = []
    spec = bench.spec(f"trap 'echo bye; exit 5' TERM; echo ready; {_LOOP}")
    with bench.host.start(spec, said.append) as container:
        until(said, b"ready")
        assert container.wait(0) is None
        assert container.stop(grace=5).code == 5
        assert container.stop(grace=5).code == 5, "again is no harm"
    with bench.host.start(bench.spec(["sleep", "60"]), lambda _: None) as container:
        began = time.monotonic()
        assert container.stop(grace=0.3).code == 137, "process 1 without a handler ignores it"
        assert 0.25 < time.monotonic() - began < 3
    with bench.host.start(bench.spec(["sleep", "60"], init=True), lambda _: None) as container:
        assert container.stop(grace=5).code == 143, "under our process 1 it does not"


@scenario
def terminals(bench: Bench) -> None:
    said: list[bytes] = []
    reader, writer = os.pipe()
    spec = bench.spec("stty size; tty; cat; stty size", tty=True)
    with bench.host.start(spec, said.append, stdin=reader) as container:
        until(said, b"/dev/pts/0")
        container.resize(12, 34)
        os.write(writer, b"x" * 3000 + b"\n")
        os.write(writer, b"\x04")
        os.close(writer)
        status = container.wait(10)
    text = b"".join(said)
    assert status is not None
    assert status.ok, text
    assert text.endswith(b"12 34\r\n"), text[-100:]
    assert text.count(b"x" * 3000) == 2, "echoed, and what cat writes"


@scenario
def the_terminal_is_its_own(bench: Bench) -> None:
    for init in (False, True):
        said: list[bytes] = []
        spec = bench.spec("echo ready; exec sleep 60", tty=True, init=init)
        reader, writer = os.pipe()
        with bench.host.start(spec, said.append, stdin=reader) as container:
            until(said, b"ready")
            os.write(writer, b"\x03")
            status = container.wait(0.5)
            # As process 1, without a handler, it does not take the signal of Ctrl-C.
            assert (status is not None and status.code == 130) == init, status
        os.close(writer)
        os.close(reader)


@scenario
def limits_by_name(bench: Bench) -> None:
    limits = Limits(ulimits=(("nofile", 50, 60), ("stack", 1 << 20, -1)))
    assert bench.run("ulimit -Sn; ulimit -Hn; ulimit -Ss", limits=limits)[1] == "50\n60\n1024\n"


@scenario
def insecure_has_every_right_inside(bench: Bench) -> None:
    text = "mount -t tmpfs x /tmp && grep -c ' /tmp tmpfs' /proc/mounts; hostname new; hostname"
    code, said = bench.run(text, insecure=True, no_new_privs=False)
    assert (code, said) == (0, "1\nnew\n")
    _, said = bench.run("grep -E 'CapBnd|Seccomp:' /proc/self/status", insecure=True)
    assert int(said.split()[1], 16) > 1 << 39
    _, said = bench.run("grep -E ' /proc/(keys|acpi|sys) ' /proc/mounts; true", insecure=True)
    assert said == ""
    assert bench.run("mount -t tmpfs x /tmp")[0] != 0


@scenario
def a_missing_working_directory_is_made(bench: Bench) -> None:
    spec = {"cwd": "/a/b/c", "make_cwd": True, "uid": 1000, "gid": 1000}
    assert bench.run("pwd; stat -c '%u:%g %a' . ..", **spec)[1] == "/a/b/c\n0:0 755\n0:0 755\n"
    assert bench.run("pwd", cwd="/a/b", make_cwd=True, read_only_root=True)[1] == "/a/b\n"


@scenario
def the_root_is_seen_from_outside(bench: Bench) -> None:
    spec = bench.spec(f"mkdir /here; ln -s / /here/up; echo ready; {_LOOP}")
    said: list[bytes] = []
    with bench.host.start(spec, said.append) as container:
        until(said, b"ready")
        root = container.open_root()
        assert os.listdir(f"/proc/self/fd/{root}/here") == ["up"]
        os.close(root)
    try:
        container.open_root()
    except HostError:
        pass
    else:
        raise AssertionError("it has ended")


@scenario
def a_failing_output_ends_the_container(bench: Bench) -> None:
    def output(_: bytes) -> None:
        raise ValueError("full")

    with bench.host.start(bench.spec("echo x; sleep 60"), output) as container:
        try:
            container.wait(10)
        except ValueError as error:
            assert str(error) == "full"
        else:
            raise AssertionError("nobody was told")


@scenario
def the_interpreter_cannot_be_written_to(bench: Bench) -> None:
    """A44, and CVE-2019-5736: what the zygote runs is on a read-only mount."""
    with bench.host.start(bench.spec(["sleep", "60"]), lambda _: None) as container:
        slot = parent_of(container.pid)
        for pid in (slot, parent_of(slot)):
            assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
        assert os.readlink(f"/proc/{container.pid}/exe") == "/bin/busybox"


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[1])


@scenario
def a_hundred_leave_nothing(bench: Bench) -> None:
    host = SandboxHost(bench.store)
    seen: list[int] = []
    with host:
        for _ in range(10):
            many = [host.start(bench.spec(["sleep", "99"]), lambda _: None) for _ in range(10)]
            seen += [one.pid for one in many]
            assert inside(many[0], "true")[0].ok
            for one in many[::2]:
                one.signal(signal.SIGKILL)
            for one in many:
                one.close()
        groups = groups_of(os.getpid())
    assert len(seen) == 100
    assert not [pid for pid in seen if os.path.exists(f"/proc/{pid}")]
    assert not host_mounts(bench.store)
    assert groups_of(os.getpid()) != groups or not groups


def groups_of(pid: int) -> set[str]:
    found = set()
    for where, directories, _ in os.walk("/sys/fs/cgroup"):
        found |= {f"{where}/{name}" for name in directories if name.startswith(f"bg-{pid}-")}
    return found


def host_mounts(directory: str) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        return [line for line in file if f" {directory}/" in line]


def hold(bench: Bench) -> None:
    """Start containers with company and say their processes; does not end."""
    said: list[bytes] = []
    spec = bench.spec("(sleep 500 &); setsid sleep 501 & echo ready; sleep 502")
    containers = [
        bench.host.start(spec if n == 0 else bench.spec(["sleep", "503"]), said.append)
        for n in range(4)
    ]
    until(said, b"ready")
    threading.Thread(target=lambda: inside(containers[1], "sleep", "504"), daemon=True).start()
    time.sleep(0.2)
    pids = [one.pid for one in containers]
    pids += [parent_of(pid) for pid in pids]
    say({"pids": pids, "pid": os.getpid()})
    time.sleep(1000)


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    store, image, names = sys.argv[1], sys.argv[2], sys.argv[3:]
    enter()
    faulthandler.dump_traceback_later(60, exit=True)  # a hang must not be everybody's
    with SandboxHost(store) as host:
        bench = Bench(store, image, host)
        if names == ["hold"]:
            hold(bench)
        for name in names or SCENARIOS:
            answer = ""
            try:
                SCENARIOS[name](bench)
            except BaseException:
                answer = traceback.format_exc()
            say({"name": name, "error": answer})


if __name__ == "__main__":
    main()
