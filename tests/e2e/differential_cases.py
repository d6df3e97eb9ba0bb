"""Knows Dockerfiles that several builders build, and where a builder may differ and why; must not
know how they are compared.

Each uses only what the oldest builder at hand knows (docker 20.10, buildah 1.28). Every image
starts from `base`, a static busybox with the users root and app (1000:1000).
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field

from e2e.building import Capable, Files, Hard, Link, Mode

BOTH = ("docker", "buildah")


def archive(kind: str) -> bytes:
    """Return a small tar, compressed as `kind` says."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{kind}") as tar:  # type: ignore[call-overload]
        for name, mode, owner in (
            ("top", 0o750, 3),
            ("top/f", 0o4711, 5),
            ("etc/passwd", 0o600, 0),
        ):
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.gid, info.mtime = mode, owner, owner + 1, 1_600_000_000
            info.type = tarfile.DIRTYPE if name == "top" else tarfile.REGTYPE
            data = b"" if name == "top" else name.encode()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("top/h")
        link.type, link.linkname = tarfile.LNKTYPE, "top/f"
        link.mode, link.uid, link.gid = 0o4711, 5, 6
        tar.addfile(link)
        soft = tarfile.TarInfo("top/l")
        soft.type, soft.linkname = tarfile.SYMTYPE, "f"
        tar.addfile(soft)
    return out.getvalue()


@dataclass(frozen=True)
class Deviation:
    """A difference that is accepted: `peer` says otherwise than we about `what`, because `why`."""

    peer: str
    what: str  # a regular expression over a line of the comparison
    why: str


@dataclass(frozen=True)
class Case:
    """A Dockerfile and its context; `peers` that can build it."""

    name: str
    dockerfile: str
    files: Files = field(default_factory=dict)
    accepted: tuple[Deviation, ...] = ()
    peers: tuple[str, ...] = BOTH
    args: tuple[str, ...] = ()


TREE: Files = {
    "foo": "foo",
    "bar": Mode(0o640, "bar"),
    ".hidden": "h",
    "run.sh": Mode(0o755, "#!/bin/sh\n"),
    "suid": Mode(0o4755, "s"),
    "sub/dir1/dir2/foo": "deep",
    "sub/dir1/file": "file",
    "sub/top": "top",
    "sub/link": Link("dir1/file"),
    "sub/dangling": Link("/nowhere/at/all"),
    "sub/hard": Hard("sub/top"),
    "to-file": Link("foo"),
    "to-dir": Link("sub/dir1"),
    "empty/": "",
    "private/x": "x",
    "private": Mode(0o700),
}
CASES = [
    Case("nothing but a base", "FROM base\n"),
    Case(
        "files to every kind of destination",
        "COPY foo /\nCOPY foo /one\nCOPY foo /new/\nCOPY foo /a/b/c\nCOPY foo bar run.sh /many/\n"
        "COPY suid /suid\nCOPY .hidden /x/\n",
        TREE,
    ),
    Case(
        "directories give their contents",
        "COPY sub /1\nCOPY sub/ /2/\nCOPY sub/dir1/. /3\nCOPY empty /4\nCOPY private /5\nCOPY . /6\n",
        TREE,
    ),
    Case(
        "globs",
        "COPY f* /1/\nCOPY s* /2/\nCOPY s/*/dir2/foo /d/bar\nCOPY [a-c]ar /3/\nCOPY ?? [^b]* /4/\n",
        {
            "foo": "foo",
            "fop": "p",
            "bar": "bar",
            "s/dir1/dir2/foo": "deep",
            "s/dir3/x": "x",
            "zz": "z",
        },
    ),
    Case("sources that are links", "COPY to-file /1\nCOPY to-dir /2\nCOPY sub/link /3\n", TREE),
    Case(
        "over what is there",
        "RUN mkdir -m 700 /old && chown 5:6 /old && echo o >/old/foo && mkdir /old/dir1 && echo f >/file"
        " && ln -s old /link && mkdir -p /deep/er && ln -s /deep/er /abs\n"
        "COPY foo /old\nCOPY sub /old\nCOPY bar /file\nCOPY bar /link/\nCOPY bar /abs/bar\n",
        TREE,
    ),
    Case(
        "owners",
        "COPY --chown=7 foo /1\nCOPY --chown=7:8 sub /2\nCOPY --chown=app foo /3/4\n"
        "COPY --chown=app:root foo /5\nCOPY --chown=0:app foo /6\n",
        TREE,
    ),
    Case(
        "modes",
        "COPY --chmod=0640 foo /1\nCOPY --chmod=711 sub/dir1 /2\nCOPY --chmod=4755 foo /3\n",
        TREE,
        (
            Deviation(
                "both",
                r"^file 2: d 711 .* d 755",
                "1.5: --chmod is for what is made on the way too",
            ),
            Deviation(
                "docker", r"^file 3: f 4755 .* f 755", "20.10 cuts modes to 0777; 1.5: 0-07777"
            ),
        ),
    ),
    Case(
        "capabilities of files",
        "COPY server /1\nCOPY . /2\nFROM base\nCOPY --from=0 /1 /3\n"
        "COPY --from=0 --chown=app /2/server /4\nRUN cp /3 /5 && mv /3 /6\n",
        {"server": Capable("x"), ".dockerignore": "Dockerfile\n"},
        (
            Deviation(
                "docker", r"^file [46]: .* security.capability=", "20.10 loses it; 1.5: copied"
            ),
        ),
    ),
    Case(
        "from another stage",
        "RUN mkdir -p /src/dir/in && cd /src/dir && echo x >in/f && ln -s in/f l && ln in/f in/g &&"
        " chown -hR 100:200 /src/dir && chmod 750 in && chmod 6755 in/f\n"
        "FROM base\nRUN mkdir -m 711 /old && chown 7:7 /old\nWORKDIR /w\n"
        "COPY --from=0 /src/dir /new\nCOPY --from=0 src/dir/ /old\nCOPY --from=0 /src/dir/in/f .\n",
    ),
    Case(
        "working directories",
        "WORKDIR /w\nWORKDIR x/y\nCOPY foo ./b/baz\nWORKDIR ..\nWORKDIR /\nUSER app\nWORKDIR /mine/too\n",
        TREE,
    ),
    Case(
        "archives",
        "ADD plain.tar /1\nADD a.gz /2\nADD b.bin /3\nADD c.xz /4/\nADD --chown=app plain.tar /5\n"
        "COPY a.gz /6\nADD foo /7\nADD notes.tar /8/\n",
        {
            "plain.tar": archive(""),
            "a.gz": archive("gz"),
            "b.bin": archive("bz2"),
            "c.xz": archive("xz"),
            "foo": "foo",
            "notes.tar": "no archive",
        },
        (
            Deviation(
                "both", r"^file 5/(etc/passwd|top)", "1.5: owners from the archive unless --chown"
            ),
            Deviation(
                "buildah",
                r"^file 5/etc: ",
                "it does give a directory that is only implied to --chown",
            ),
        ),
    ),
    Case("an archive over a base", "ADD a.tar /\nADD a.tar /tmp/\n", {"a.tar": archive("")}),
    Case(
        "an ignore file",
        "COPY . /x\n",
        {
            **TREE,
            "a.md": "",
            "sub/b.md": "",
            "sub/keep.md": "",
            "Dockerfile.md": "",
            ".dockerignore": "# x\n**/*.md\n!sub/keep.md\nsub/dir1/d*\n/foo\nprivate\n",
        },
    ),
    Case(
        "what steps change",
        "RUN mkdir -p /d/e && echo 1 >/d/1 && echo 2 >/d/e/2 && ln /d/1 /d/hard && ln -s 1 /d/soft\n"
        "RUN rm -r /d/e && mkdir /d/e && echo new >/d/e/new && rm /d/soft /bin/vi /etc/group\n"
        "RUN chmod 4750 /d/1 && chown 12:34 /d/e/new && mv /d/e/new /moved && mkfifo /fifo\n"
        "RUN mkdir -m 1777 /sticky && mkdir -m 2755 /setgid && mv /d /renamed\n",
        accepted=(
            Deviation(
                "buildah", r"^file renamed/hard: ", "it makes one layer of all steps, so links hold"
            ),
        ),
    ),
    Case(
        "a file becomes a directory, and a directory a file",
        "RUN mkdir /a && echo x >/a/x && echo f >/b && ln -s /a /c\n"
        "RUN rm -r /a /b /c && echo f >/a && mkdir /b && echo y >/b/y && mkdir /c\n",
    ),
    Case(
        "who runs where and sees what",
        'ENV A=1 B="two words"\nARG GIVEN=def\nARG EMPTY=\nARG NONE\nWORKDIR /w\nRUN pwd >/tmp/pwd;'
        " env | grep -e ^A= -e ^B -e GIVEN -e EMPTY -e NONE -e PATH | sort >/tmp/env\n"
        "USER app\nRUN id -u >/tmp/u; id -g >/tmp/g; echo $HOME >/tmp/h\nUSER 5:6\nRUN id -u >/tmp/5\n",
        args=("--build-arg=GIVEN=cli",),
    ),
    Case(
        "forms of run",
        'RUN ["/bin/sh", "-c", "echo $0 $1 >/1", "a", "b"]\nRUN echo one \\\n  # a comment\n  two >/2\n'
        'SHELL ["/bin/sh", "-e", "-c"]\nRUN echo $- >/3\n',
    ),
    Case(
        "mounts of steps",
        "RUN mkdir /s && echo s >/s/f\nFROM base\n"
        "RUN --mount=from=x0,source=/s,target=/m cat /m/f >/1\n"
        "RUN --mount=type=tmpfs,target=/t touch /t/x && ls /t >/2\n"
        "RUN --mount=type=cache,target=/c touch /c/x && ls /c >/3\n",
        accepted=(
            Deviation("docker", r"^file [cmt]: nothing", "1.6: mount points leave no trace"),
        ),
    ),
    Case(
        "variables",
        "ENV a=x b=$a c=\"q $a\" d='$a' e=w\\ x\nENV a=y\nENV f $a and $a\nENV g=${a:-d} h=${n:-d} i=${a:+s}"
        " j=${n:+s} k=\\$a l=${a}z PATH=/x:$PATH\n",
        accepted=(
            Deviation("buildah", r"^config Env order: ", "it moves a changed variable to the end"),
        ),
    ),
    Case(
        "arguments",
        "ARG plain\nARG own=own\nENV ONE=$plain TWO=$own THREE=${late}\nARG late=l\nARG own=again\n"
        "ENV FOUR=$own\nLABEL l=$own $own=v\nUSER $own\nWORKDIR /$own\nEXPOSE ${port:-80}\n",
        args=("--build-arg=plain=p",),
    ),
    Case(
        "labels",
        'LABEL a=b "c d"=e f="g\\\nh"\nLABEL a=later\nLABEL one two three\nMAINTAINER x <y>\n',
    ),
    Case(
        "ports and volumes",
        'EXPOSE 80 443/tcp 53/udp 7000-7002\nVOLUME /a b\nVOLUME ["/c d"]\n',
        accepted=(
            Deviation("buildah", r"^config ExposedPorts 700", "it keeps a range as it is"),
            Deviation("buildah", r"^file c d: nothing", "it makes a directory of a volume"),
        ),
    ),
    Case(
        "after a volume",
        "VOLUME /v\nRUN mkdir -p /v && echo kept >/v/f\nCOPY foo /v/foo\n",
        TREE,
        (Deviation("buildah", r"^file v/f: ", "it throws away what steps write there; 1.4: kept"),),
    ),
    Case("a command, then an entrypoint", 'CMD a b\nENTRYPOINT ["c", "d"]\n'),
    Case("an entrypoint clears a command", "CMD a\nFROM x0\nENTRYPOINT b\n"),
    Case(
        "the last one wins",
        'CMD a\nCMD ["b"]\nENTRYPOINT c\nENTRYPOINT ["d"]\nSTOPSIGNAL 9\nSTOPSIGNAL SIGUSR1\n',
    ),
    Case(
        "a shell is kept",
        'SHELL ["/bin/sh", "-x", "-c"]\nCMD a b\nENTRYPOINT c\n',
        accepted=(Deviation("buildah", r"^config (Cmd|Entrypoint): ", "it forgets SHELL here"),),
    ),
    Case(
        "a health check",
        "HEALTHCHECK --interval=30s --timeout=1m30s --start-period=500ms --retries=4 CMD curl -f x\n",
    ),
    Case("a health check of a list", 'HEALTHCHECK CMD ["a", "b c"]\n'),
    Case("no health check", "HEALTHCHECK CMD a\nHEALTHCHECK NONE\n"),
    Case("triggers are kept", "ONBUILD RUN echo $x >/x\nONBUILD COPY a /b\n"),
    Case(
        "triggers run",
        "ONBUILD ARG who=w\nONBUILD RUN echo $who >/trigger\nONBUILD COPY foo /copied\nFROM x0\nRUN cat /trigger >/again\n",
        TREE,
    ),
    Case(
        "another escape character",
        "# escape=`\nFROM base\nRUN echo a `\n  b >/1\nENV a=c:\\x b=`$z\nCOPY foo c:\\dir/\n",
        TREE,
        (
            Deviation(
                "buildah", r"^(file c:|config Env )", "it knows the character for lines alone"
            ),
        ),
    ),
    Case(
        "only what is needed",
        "RUN exit 1\nFROM base AS two\nRUN echo 2 >/2\nFROM base AS three\nRUN exit 3\nFROM base\nCOPY --from=TWO /2 /\n",
        peers=("docker",),  # to buildah names of stages have cases
    ),
]
# What a builder does in many cases.
ANY = (
    Deviation(
        "docker", r"^file (dev|sys): nothing", "it leaves the directories it mounts things on"
    ),
    Deviation("buildah", r"^file (dev|sys|run): nothing", "it leaves what it mounts things on"),
    Deviation("buildah", r"^file etc/hostname: nothing", "it leaves the file it mounts a file on"),
    Deviation("buildah", r"^config Labels io\.buildah\.version: ", "it signs its images"),
    Deviation(
        "buildah", r"^file \S*suid: f 4755 .* f 755", "it takes setuid bits of a context away"
    ),
)
