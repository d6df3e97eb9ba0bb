"""Knows the table of images and options whose containers are compared with docker's, and every
difference that is meant, with its reason; must not know how either container is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGE: dict[str, Any] = {"Cmd": ["/probe"]}

# What a container of ours shows otherwise on purpose, in every case.
MEANT = {
    "no_new_privs": "containers get no new privileges unless asked; docker leaves setuid working",
    "masked": "the union of what moby, BuildKit and buildah hide is hidden",
    "resolv": "without a network there is nobody to ask; docker copies the host's file",
}

# Of the mounts: no /sys/fs/cgroup on version 1, more is masked, and ours may have more of nosuid,
# nodev and noexec than docker's, never less.
MORE_MASKED = {"/proc/interrupts", "/sys/dev"}
NOT_MOUNTED = "/sys/fs/cgroup"


@dataclass(frozen=True)
class Case:
    """An image config's changes, options as both command lines spell them, and arguments.

    `differs` are more meant differences, with reasons. `stop` sends STOPSIGNAL once the container
    has said `ready`.
    """

    name: str
    options: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    image: Mapping[str, Any] = field(default_factory=dict)
    differs: Mapping[str, str] = field(default_factory=dict)
    probe: bool = True  # what it prints is the probe's answer, else compared as it is
    stop: bool = False


def sh(text: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", text)


def waits(trap: str) -> tuple[str, ...]:
    return sh(f"{trap}; echo ready; i=0; while [ $i -lt 200 ]; do sleep 0.05; i=$((i+1)); done")


_LIMIT = "ulimit -n; ulimit -c; ulimit -u"

CASES = (
    # -- who ---------------------------------------------------------------------------------
    Case("plain"),
    Case("user-name", image={"User": "app"}),
    Case("user-number", image={"User": "1000"}),
    Case("user-unknown-number", image={"User": "4242"}),
    Case("user-name-group", image={"User": "app:audio"}),
    Case("user-number-group", image={"User": "1000:1000"}),
    Case("user-option", ("-u", "app"), image={"User": "0"}),
    Case("user-option-numbers", ("-u", "7:8")),
    Case("user-in-many-groups", ("-u", "many")),
    Case("user-named-by-number", ("-u", "1234")),
    Case("root-by-name-group", ("-u", "root:app")),
    # -- what runs -----------------------------------------------------------------------------
    Case("args-replace-cmd", args=("/probe", "a b", "")),
    Case("entrypoint-and-cmd", image={"Entrypoint": ["/probe"], "Cmd": ["from", "cmd"]}),
    Case("entrypoint-and-args", args=("x",), image={"Entrypoint": ["/probe"], "Cmd": ["cmd"]}),
    Case("entrypoint-option", ("--entrypoint", "/probe"), ("y",), {"Entrypoint": ["/no"]}),
    Case("entrypoint-option-drops-cmd", ("--entrypoint", "/probe"), image={"Cmd": ["gone"]}),
    Case("entrypoint-reset", ("--entrypoint", ""), ("/probe",), {"Entrypoint": ["/no"]}),
    Case("found-in-path", args=("probe2",), image={"Env": ["PATH=/opt/x:/bin"]}),
    # -- where and with what -------------------------------------------------------------------
    Case("workdir", image={"WorkingDir": "/srv"}),
    Case("workdir-is-made", image={"WorkingDir": "/made/by/us", "User": "app"}),
    Case("workdir-link", image={"WorkingDir": "/link/deeper"}),
    Case("workdir-option", ("-w", "/tmp"), image={"WorkingDir": "/srv"}),
    Case("env", image={"Env": ["A=1", "B=x y", "EMPTY="]}),
    Case("env-option", ("-e", "A=2", "-e", "C=3"), image={"Env": ["A=1"]}),
    Case("env-path", image={"Env": ["PATH=/bin:/sbin"]}),
    Case("env-home", ("-e", "HOME=/elsewhere"), image={"User": "app"}),
    Case("env-taken-away", ("-e", "NOBODY_HAS_THIS"), image={"Env": ["NOBODY_HAS_THIS=1"]}),
    Case("home-of-nobody", ("-u", "4242")),
    Case("hostname", ("-h", "box.example")),
    Case("add-host", ("--add-host", "db:10.1.2.3", "--add-host", "v6:2001:db8::1")),
    # -- rights --------------------------------------------------------------------------------
    Case("cap-drop-all", ("--cap-drop", "ALL")),
    Case("cap-drop-one", ("--cap-drop", "CHOWN", "--cap-drop", "CAP_KILL")),
    Case("cap-add", ("--cap-add", "NET_ADMIN", "--cap-add", "SYS_TIME")),
    Case("cap-only-one", ("--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE")),
    Case("cap-add-user", ("--cap-add", "SYS_PTRACE", "-u", "app")),
    Case("no-new-privileges", ("--security-opt", "no-new-privileges")),
    Case("seccomp-off", ("--security-opt", "seccomp=unconfined")),
    Case("read-only", ("--read-only",)),
    Case("read-only-tmpfs", ("--read-only", "--tmpfs", "/tmp")),
    # -- mounts and limits ---------------------------------------------------------------------
    Case("tmpfs-options", ("--tmpfs", "/t:size=2m,mode=750,uid=1000,exec")),
    Case("volume-of-image", image={"Volumes": {"/data": {}}}),
    Case("volume-empty", image={"Volumes": {"/fresh": {}}, "User": "app"}),
    Case("volume-named", ("-v", "bg-table:/data")),
    Case("volume-read-only", ("-v", "bg-table-ro:/data:ro")),
    Case("shm-size", ("--shm-size", "8m")),
    Case("ulimit", ("--ulimit", "nofile=100:200", "--ulimit", "core=0"), sh(_LIMIT), probe=False,
         differs={"out": "nproc: docker's daemon has its own"}),
    Case("ulimit-one-number", ("--ulimit", "nofile=77"), sh("ulimit -Sn; ulimit -Hn"), probe=False),
    Case("pids-limit", ("--pids-limit", "30"), sh(
        "i=0; while [ $i -lt 40 ]; do sleep 1 & i=$((i+1)); done; echo all"
    ), probe=False, differs={"err": "the words of a shell that may not fork"}),
    Case("memory", ("-m", "24m", "--memory-swap", "24m"),
         sh("a=x; while true; do a=$a$a; done"), probe=False,
         differs={"err": "we say that it was the memory, on our own stderr"}),
    # -- how it ends ---------------------------------------------------------------------------
    Case("exit-code", args=sh("echo out; echo err >&2; exit 42"), probe=False),
    Case("killed", args=sh("sh -c 'kill -9 $$'; exit $?"), probe=False),
    Case("process-1-takes-no-signal", args=sh("kill -TERM $$; echo still here"), probe=False),
    Case("not-found", args=("/no/such",), probe=False, differs={"err": "words"}),
    Case("not-in-path", args=("no-such",), probe=False, differs={"err": "words"}),
    Case("no-program", args=("/etc/passwd",), probe=False, differs={"err": "words"}),
    Case("a-directory", args=("/etc",), probe=False, differs={"err": "words"}),
    Case("no-shebang", args=("/plain",), probe=False,
         differs={"err": "words", "code": "docker 20.10 says 1; 126 as for every other no program"}),
    Case("user-is-missing", ("-u", "nobody-here"), probe=False, differs={"err": "words"}),
    Case("stdin-is-empty", args=("/bin/cat",), probe=False),
    Case("stop-handled", ("--stop-timeout", "5"), waits("trap 'echo bye; exit 9' TERM"),
         probe=False, stop=True),
    Case("stop-signal", ("--stop-timeout", "5"), waits("trap 'echo usr; exit 3' USR1"),
         {"StopSignal": "SIGUSR1"}, probe=False, stop=True),
    Case("stop-signal-option", ("--stop-signal", "SIGRTMIN+3", "--stop-timeout", "5"),
         waits("trap 'echo rt; exit 4' 37"), probe=False, stop=True),
    Case("stop-ignored", ("--stop-timeout", "1"), waits("true"), probe=False, stop=True),
    Case("init-reaps-and-forwards", ("--init", "--stop-timeout", "5"), waits("true"), probe=False,
         stop=True),
)  # fmt: skip

# Prints what a process sees, `## name` before each part.
PROBE = r"""#!/bin/sh
p() { echo "## $1"; }
p argv; for a in "$0" "$@"; do echo "[$a]"; done
p pid; echo $$
p ids; id -u; id -g; grep -E '^(Uid|Gid):' /proc/self/status
p groups; grep Groups /proc/self/status
p capabilities; grep -E '^Cap' /proc/self/status
p seccomp; grep -E '^Seccomp:' /proc/self/status
p no_new_privs; grep NoNewPrivs /proc/self/status
p cwd; pwd; ls -ld . | cut -c1-10
p env; env | grep -v -E '^(SHLVL|PWD|OLDPWD|_)=' | sort
p hostname; hostname; cat /etc/hostname
p hosts; cat /etc/hosts
p resolv; cat /etc/resolv.conf
p dev; ls /dev
p masked; for f in /proc/acpi /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/scsi \
  /sys/firmware /proc/latency_stats /proc/asound /proc/interrupts /sys/dev; do
  if [ -d $f ]; then n=$(ls $f | wc -l); [ $n = 0 ] && echo "$f empty" || echo "$f open"
  elif [ -e $f ]; then [ -c $f ] && echo "$f null" || echo "$f open"; fi; done
p protected; for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq /proc/bus /proc/fs; do
  [ -e $f ] && { [ -w $f ] && echo "$f w" || echo "$f ro"; }; done 2>/dev/null
p mounts; awk '{ print $5, $6 }' /proc/self/mountinfo | sed 's/,relatime//;s/,noatime//' | sort
p tmpfs; grep -E ' /(t|tmp|dev/shm) tmpfs' /proc/mounts | cut -d' ' -f2- \
  | sed -E 's/,uid=[0-9]+//;s/,gid=[0-9]+//;s/relatime//' | sort
p writable; for d in / /etc /tmp /data /dev/shm /srv; do
  [ -d $d ] && { (: > $d/.w) 2>/dev/null && echo "$d yes" || echo "$d no"; }; done
p data; ls -ldn /t 2>/dev/null | cut -c1-30; ls -lnR /data /fresh /t 2>&1 | grep -v '^total' | awk '{ print $1, $3, $4, $9, $10 }'
p umask; umask
p fds; ls /proc/self/fd | wc -l
p session; cut -d' ' -f6,7 /proc/self/stat
p stdin; readlink /proc/self/fd/0
"""
