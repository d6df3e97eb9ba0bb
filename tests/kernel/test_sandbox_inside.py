"""What a process sees and may do inside: the rows of the sandbox bar, from inside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from buildgraph.sandbox.spec import Bind, FileMount, Limits, OverlayMount, Tmpfs

DOCKER_DEFAULT_CAPS = "00000000a80425fb"


def test_capabilities(box: Any) -> None:
    got = dict(line.split() for line in box.run("grep ^Cap /proc/self/status").out.splitlines())
    assert got == {
        "CapInh:": "0" * 16,
        "CapPrm:": DOCKER_DEFAULT_CAPS,
        "CapEff:": DOCKER_DEFAULT_CAPS,
        "CapBnd:": DOCKER_DEFAULT_CAPS,
        "CapAmb:": "0" * 16,
    }


def test_capabilities_of_another_user(box: Any) -> None:
    out = box.run("grep ^Cap /proc/self/status", uid=1000, gid=1000).out
    assert [line.split()[1] for line in out.splitlines()] == [
        "0" * 16,
        "0" * 16,
        "0" * 16,
        DOCKER_DEFAULT_CAPS,
        "0" * 16,
    ]


def test_capabilities_dropped_and_added(box: Any) -> None:
    out = box.run("grep CapBnd /proc/self/status", cap_drop=("ALL",), cap_add=("CAP_KILL",)).out
    assert out.split()[1] == f"{1 << 5:016x}"


def test_ids_and_groups_are_exactly_those_asked_for(box: Any) -> None:
    result = box.run(
        "id -u; id -g; grep Groups /proc/self/status", uid=1000, gid=1001, groups=(5, 6)
    )
    assert result.out.split() == ["1000", "1001", "Groups:", "5", "6"]
    assert box.run("grep Groups /proc/self/status").out.split() == ["Groups:"]


def test_seccomp_is_on(box: Any) -> None:
    assert "Seccomp:\t2" in box.run("cat /proc/self/status").out


def test_setuid_works_unless_no_new_privileges(box: Any) -> None:
    assert "NoNewPrivs:\t0" in box.run("cat /proc/self/status").out
    assert "NoNewPrivs:\t1" in box.run("cat /proc/self/status", no_new_privs=True).out


def test_user_namespace_maps_a_range(rootbox: Any) -> None:
    inside, outside, count = rootbox.run("cat /proc/self/uid_map").out.split()
    assert inside == "0"
    assert int(outside) >= 65536
    assert int(outside) + int(count) < 2**32


def test_ids_far_above_the_usual(rootbox: Any) -> None:
    result = rootbox.run("touch /f; chown 1000660000:501000000 /f; stat -c %u:%g /f")
    assert result.out == "1000660000:501000000\n"
    info = (result.upper / "f").stat()
    assert (info.st_uid, info.st_gid) == (1000660000, 501000000)


def test_an_unknown_user_is_said(userbox: Any) -> None:
    assert "does not exist in the sandbox" in userbox.run("true", uid=2_000_000).error


def test_files_on_disk_have_unshifted_ids(box: Any) -> None:
    result = box.run("touch /mine; touch /theirs; chown 1000:1001 /theirs")
    assert result.code == 0, result.out
    info = (result.upper / "mine").stat()
    assert (info.st_uid, info.st_gid) == (box.uid, box.gid)
    info = (result.upper / "theirs").stat()
    if not box.user:
        assert (info.st_uid, info.st_gid) == (1000, 1001)
    else:
        assert info.st_uid > 65536, "as a user ids are those of its range on disk"


def test_file_descriptors(box: Any) -> None:
    # ls itself holds one more: the directory it reads
    assert box.run("ls /proc/self/fd").out.split() == ["0", "1", "2", "3"]
    assert box.run("readlink /proc/self/fd/0").out.strip() == "/dev/null"


def test_no_terminal_and_a_session_of_its_own(box: Any) -> None:
    assert "not a tty" in box.run("tty").out
    assert box.run("echo x > /dev/tty").code != 0
    # process 2 is the main one; field 6 of its stat is the session
    assert box.run("cut -d' ' -f1,6,7 /proc/self/stat; true").out.split()[1:] == ["2", "0"]


def test_terminal_on_request(box: Any) -> None:
    result = box.run("tty; test -t 0 && echo yes; echo hi > /dev/tty", tty=True)
    assert result.out.split() == ["/dev/pts/0", "yes", "hi"]


def test_stdin_on_request(box: Any) -> None:
    assert box.run("cat", stdin="typed\n").out == "typed\n"


def test_environment_is_made_from_nothing(box: Any) -> None:
    result = box.run(["/bin/env"], env=(("A", "1"), ("PATH", "/bin")))
    assert sorted(result.out.split()) == ["A=1", "PATH=/bin"]


def test_dev_has_exactly_these(box: Any) -> None:
    names = box.run("ls /dev").out.split()
    assert names == sorted(
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero".split()
    )
    out = box.run("stat -c '%t:%T' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty")
    assert out.out.split() == ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0"]
    assert box.run("echo a > /dev/null && head -c2 /dev/zero | wc -c").out.strip() == "2"


def test_devices_cannot_be_made_or_used(box: Any) -> None:
    assert "not permitted" in box.run("mknod /x c 1 3").out
    assert "not permitted" in box.run("mknod /dev/x b 8 0").out
    assert box.run("mkfifo /f && rm /f").code == 0


def test_device_nodes_of_an_image_are_dead(rootbox: Any) -> None:
    layer = rootbox.lower({"x": None})
    os.mknod(Path(layer, "disk"), 0o060666, os.makedev(8, 0))
    os.mknod(Path(layer, "null"), 0o020666, os.makedev(1, 3))
    result = rootbox.run("head -c1 /disk; head -c1 /null", lowers=(layer, rootbox.image))
    assert result.code != 0
    assert result.out.count("ermission denied") == 2


def test_every_mount_but_dev_is_nodev(box: Any) -> None:
    for line in box.run("cat /proc/self/mounts").out.splitlines():
        _, place, kind, options, *_ = line.split()
        if not place.startswith("/dev") and kind not in ("tmpfs", "devtmpfs"):
            assert "nodev" in options.split(","), line


MASKED = "/proc/kcore /proc/keys /proc/timer_list /proc/interrupts /proc/sched_debug".split()


@pytest.mark.parametrize("path", MASKED)
def test_masked_files_are_empty(box: Any, path: str) -> None:
    assert box.run(f"cat {path} | wc -c; true").out.split()[-1] == "0"


@pytest.mark.parametrize(
    "path",
    ["/proc/acpi", "/proc/scsi", "/sys/firmware", "/sys/dev", "/sys/devices/virtual/powercap"],
)
def test_masked_directories_are_empty(box: Any, path: str) -> None:
    result = box.run(f"test ! -e {path} || ls -A {path}; touch {path}/x")
    assert result.out.count("\n") == 1
    assert result.code != 0


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
    ],
)
def test_kernel_files_cannot_be_written(box: Any, path: str) -> None:
    result = box.run(f"test ! -e {path} || echo x > {path}")
    assert result.out == "" or "ead-only" in result.out or "denied" in result.out, result.out
    assert box.run(f"test -e {path} && echo x > {path}").code != 0


def test_no_cgroup_file_system(box: Any) -> None:
    assert "cgroup" not in box.run("cut -d' ' -f3 /proc/self/mounts").out
    assert box.run("ls /sys/fs/cgroup | wc -l").out.strip() == "0"
    assert all(line.endswith(":/") for line in box.run("cat /proc/self/cgroup").out.split())


def test_host_processes_are_not_there(box: Any) -> None:
    pids = [name for name in box.run("ls /proc").out.split() if name.isdigit()]
    assert len(pids) <= 3
    assert box.run(f"kill -0 {os.getpid()}").code != 0


def test_first_process_is_out_of_reach(box: Any) -> None:
    for command in (
        "echo x > /proc/1/exe",
        "cat /proc/1/exe",
        "cat /proc/1/environ",
        "cat /proc/1/fd/0",
        "ls /proc/1/root/",
        "cat /proc/1/mem",
    ):
        result = box.run(command)
        assert result.code != 0, (command, result.out)
        assert "denied" in result.out or "not permitted" in result.out, (command, result.out)


def test_first_process_survives_signals_from_inside(box: Any) -> None:
    assert (
        box.run("trap '' TERM; kill -9 1; kill -15 1; sleep 0.1; echo alive")
        .out.strip()
        .endswith("alive")
    )


def test_hostname_hosts_and_resolver(box: Any) -> None:
    result = box.run(
        "hostname; cat /etc/hostname; cat /etc/hosts; cat /etc/resolv.conf",
        hostname="builder-1",
        hosts=("10.0.0.1 db",),
        dns=("nameserver 10.0.0.2",),
    )
    assert result.out.split()[:2] == ["builder-1", "builder-1"]
    assert "127.0.0.1\tlocalhost" in result.out
    assert "10.0.0.1 db" in result.out
    assert "nameserver 10.0.0.2" in result.out
    assert list(result.upper.iterdir()) == [], "no trace in the layer"


def test_mount_points_leave_no_trace(box: Any) -> None:
    source = box.lower({"hello": "hello"})
    result = box.run(
        "cat /deep/er/still/hello /run/secrets/token; ls -ld /var/cache/x; "
        "grep /data/t /proc/self/mounts",
        mounts=(
            Bind(source, "/deep/er/still"),
            FileMount("/run/secrets/token", b"s3cret"),
            Tmpfs("/data/t", 1 << 20),
            Bind(source, "/var/cache/x", read_only=False),
        ),
    )
    assert result.code == 0, result.out
    assert result.out.startswith("hellos3cret")
    assert list(result.upper.iterdir()) == []


def test_mount_points_hidden_by_whiteouts_and_links(rootbox: Any) -> None:
    source = rootbox.lower({"hello": "hello"})
    top = rootbox.lower(
        {
            "etc/hosts": ("whiteout",),
            "opt": ("whiteout",),
            "run": ("link", "var/run"),
            "var/run/.k": "",
        }
    )
    Path(top, "var/run").chmod(0o710)
    result = rootbox.run(
        "cat /etc/hosts /opt/x/hello /run/secrets/t; echo; "
        "stat -c %a /var/run; readlink /run; ls /etc",
        lowers=(top, rootbox.image),
        mounts=(Bind(source, "/opt/x"), FileMount("/run/secrets/t", b"token")),
    )
    assert result.code == 0, result.out
    assert "localhost" in result.out
    assert "hellotoken" in result.out
    assert result.out.split()[-6:-4] == ["710", "var/run"]
    assert list(result.upper.iterdir()) == []


def test_bind_read_only_and_writable(box: Any) -> None:
    source = box.lower({"f": "f"})
    assert "ead-only" in box.run("touch /m/x", mounts=(Bind(source, "/m"),)).out
    assert box.run("touch /m/x", mounts=(Bind(source, "/m", read_only=False),)).code == 0
    info = Path(source, "x").stat()
    assert (info.st_uid, info.st_gid) == (box.uid, box.gid)


def test_overlay_mount_discards_writes(box: Any) -> None:
    a, b = box.lower({"a": "top"}), box.lower({"a": "bottom", "b": "b"})
    result = box.run(
        "cat /m/a /m/b; echo new > /m/a; rm /m/b; cat /m/a", mounts=(OverlayMount((a, b), "/m"),)
    )
    assert result.out == "topbnew\n"
    assert Path(a, "a").read_text() == "top"
    assert Path(b, "b").exists()
    assert list(result.upper.iterdir()) == []


def test_secret_file_has_its_owner_and_mode(box: Any) -> None:
    result = box.run(
        "stat -c '%u %g %a' /s; cat /s", mounts=(FileMount("/s", b"x" * 300_000, 0o440, 1000, 5),)
    )
    assert result.out.startswith("1000 5 440\n")
    assert len(result.out) == 300_000 + len("1000 5 440\n")


def test_read_only_root(box: Any) -> None:
    assert "ead-only" in box.run("touch /x", read_only_root=True).out
    assert "ead-only" in box.run("touch /x", upper=None, work=None).out
    assert (
        box.run("touch /dev/shm/x /tmp/x", mounts=(Tmpfs("/tmp"),), read_only_root=True).code == 0
    )


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
def test_links_of_the_image_are_refused(box: Any, name: str) -> None:
    layer = box.lower({"bin": ("link", "b"), "b/x": "", name: ("link", "/tmp")})
    result = box.run("true", lowers=(layer, box.image))
    assert f"/{name} of the image is a symbolic link" in result.error


def test_etc_as_a_link_stays_inside(box: Any, image: dict[str, Any]) -> None:
    layer = box.lower({"etc": ("link", "/host/etc")})
    base = {name: what for name, what in image.items() if not name.startswith("etc")}
    bottom = box.lower(base)
    host = Path("/etc/hosts").read_bytes()
    result = box.run("cat /host/etc/hostname", lowers=(layer, bottom), hostname="inside")
    assert result.out == "inside\n"
    assert Path("/etc/hosts").read_bytes() == host
    assert list(result.upper.iterdir()) == []


def test_working_directory(box: Any) -> None:
    assert box.run("pwd", cwd="/tmp").out == "/tmp\n"
    assert "working directory" in box.run("true", cwd="/missing").error
    for path in ("/proc/self/fd/3", "/proc/self/fd/7", "/proc/1/root"):
        assert "working directory" in box.run("true", cwd=path).error


def test_working_directory_link_to_the_host(box: Any) -> None:
    layer = box.lower({"w": ("link", "/../../../../../../root")})
    assert box.run("pwd", cwd="/w", lowers=(layer, box.image)).out == "/root\n"


def test_exec_errors_have_dockers_codes(box: Any) -> None:
    missing = box.run(["nosuch"])
    assert (missing.code, "not found in $PATH" in missing.out) == (127, True)
    gone = box.run(["/bin/nosuch"])
    assert (gone.code, "no such file" in gone.out) == (127, True)
    denied = box.run(["/etc"])
    assert denied.code == 126
    layer = box.lower({"script": "#!/no/such/interpreter\n", "junk": "\0\0\0"})
    assert box.run(["/script"], lowers=(layer, box.image)).code == 127
    assert box.run(["/junk"], lowers=(layer, box.image)).code == 126


def test_exit_codes_and_signals(box: Any) -> None:
    assert box.run("exit 7").code == 7
    result = box.run("kill -9 $$")
    assert (result.code, result.status["signal"]) == (137, 9)
    assert "SIGKILL" in result.answer["words"]


def test_umask_and_limits(box: Any) -> None:
    assert box.run("umask; ulimit -Sn; ulimit -Sc").out.split() == ["0022", "1024", "0"]
    limits = Limits(nofile=(256, 512))
    assert box.run("ulimit -Sn; ulimit -Hn", limits=limits).out.split() == ["256", "512"]


def test_shared_memory_size(box: Any) -> None:
    out = box.run("df -k /dev/shm | tail -1", limits=Limits(shm=8 << 20)).out
    assert out.split()[1] == "8192"


def test_network_none_has_loopback_alone(box: Any) -> None:
    assert [line.split(":")[1].strip() for line in box.run("ip -o link").out.splitlines()] == ["lo"]
    assert box.run("nc 127.0.0.1 9 </dev/null; ping -c1 127.0.0.1").code == 0


def test_abstract_sockets_of_the_host_are_out_of_reach(box: Any) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("\0bg-abstract-test")
        sock.listen()
        assert "bg-abstract-test" not in box.run("cat /proc/net/unix").out


def test_ipc_of_the_host_is_not_seen(box: Any) -> None:
    assert box.run("cat /proc/sysvipc/shm | wc -l").out.strip() == "1"
