"""Knows Dockerfiles that hold many small questions each, since building is what takes time; must not
know how builders are compared.

Where every line is a step docker alone is asked, as buildah takes long for it. Every line is a question of its own: what it makes has a name that no other line makes.
"""

from __future__ import annotations

import io
import tarfile

import zstandard

from e2e.building import Files, Hard, Mode
from e2e.differential_cases import TREE, Case, Deviation, archive


def odd_archive() -> bytes:
    """Return a tar with what is rare: long names, a name twice, times, nodes, dots in paths."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, data: bytes = b"", **fields: object) -> None:
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o644, len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))

        add("./dots/./in/../f", b"dots")
        add("late/file", b"before its directory")
        add("late", type=tarfile.DIRTYPE, mode=0o700, uid=7, gid=8)
        add("twice", b"first", mode=0o600)
        add("twice", b"second", mode=0o4755)
        add("n" * 150 + "/" + "m" * 120, b"long", uid=1 << 22)
        add("was-a-file", b"x")
        add("fifo", type=tarfile.FIFOTYPE, mode=0o622)
        add("link", type=tarfile.SYMTYPE, linkname="late")
        add("absolute", type=tarfile.SYMTYPE, linkname="/etc/nowhere")
        add("hard", type=tarfile.LNKTYPE, linkname="twice", mode=0o4755)
        add("empty-name-dir/", type=tarfile.DIRTYPE, mode=0o1777)
        add("ünïcode", b"u")
        add("old", b"old", mtime=-5)
    return out.getvalue()


ODD: Files = {
    **TREE,
    "[odd]": "brackets",
    "a b": "blank",
    "back\\slash": "back",
    "star*": "star",
    "other/foo": "foo of other",
    "other/dir1/file": "file of other",
    "other/more": Hard("other/foo"),
    "deep/1/x": "1x",
    "deep/2/x": "2x",
    "deep/2/y/z": "2yz",
    "mode0": Mode(0o000, "no rights"),
    "wide": Mode(0o777),
    "wide/f": Mode(0o666, "f"),
}

BATCHES = [
    Case(
        "quotes and escapes of variables and labels",
        r"""
ENV A="a b" B='a b' C=a\ b D="a\"b" E='a"b' F="a'b" G=\"a\" H=a"b c"d I="" J='' K=\\ L="\\"
ENV M="a\nb" N=a\nb O='a\nb' P="$A" Q='$A' R=\$A S="\$A" T=${A} U=x${A}y V="${A:-z}" X=${Z:+no}
ENV W=${Z:-"d e"} Y=a=b=c AA="a  b" AB= AC=$A$B AD=$A/$Z/end AE="  x  " AF=a#b AG="#"
ENV AH a   b
ENV AI "a b"  c
ENV AJ 'x' \"y\"
ENV AK a\ b
ENV AL $A and ${B}
ENV AM=1 \
    # a comment
    AN=2 \

    AO="3 \
4"
ENV	AP=tab	AQ=tab
ENV AR=${A:+"${B:-c}"} AS=${Z:-${A:-x}} AT='it''s' AU="$$" AV=$
LABEL a="a b" b='a b' c=a\ b d="a\"b" "e f"=g h.i-j_k=l m='$A' n="$A" o=$A p= "q"="r" s=\$A
LABEL t u  v
LABEL w="1 \
2" x=a=b
""",
        accepted=(
            Deviation("buildah", r"^config Env AU: ", "to it $$ is a process id; 1.2: empty"),
        ),
    ),
    Case(
        "ports, volumes, signals, checks, users",
        r"""
ARG p=8000
ARG many="8001 8002/udp"
EXPOSE 80 80/tcp 80/udp $p ${p}/udp 90-92/udp 100-100 5/sctp
EXPOSE $many
EXPOSE 80
VOLUME a /b/ /c//d /b/
VOLUME ["/e f", "/g"]
VOLUME $p/x
VOLUME ["[h"]
STOPSIGNAL ${none:-SIGRTMIN+3}
HEALTHCHECK --interval=1.5s --timeout=1h2m3s --retries=7 CMD a  $p "b c"
USER $p:app
MAINTAINER  some  body
""",
        accepted=(
            Deviation("buildah", r"^config ExposedPorts (9|100)", "it keeps a range as it is"),
        ),
    ),
    Case(
        "which of two variables wins",
        """ARG g=global
ARG h=global
ARG i=global
FROM base AS x0
ARG g
ARG h=stage
ARG early=$late
ARG late=l
ARG both=arg
ENV both=env
ENV other=env
ARG other=arg
ARG cli=no
ARG more=$cli$g
ENV kept=$more none=$i
ARG a1=1 a2=$late a3
ENV PATH=/new:$PATH
RUN env | grep -vE '^(HOME|PWD|SHLVL|HOSTNAME|SOURCE_DATE_EPOCH|container)=' | sort >/env
FROM x0
ARG i
RUN env | grep -E '^(g|h|i|both|other|more|kept|late|cli)=' | sort >/inherits
LABEL x="$both $other $cli $more $i $late"
""",
        args=("--build-arg=cli=yes", "--build-arg=a3=given"),
        peers=("docker",),  # to buildah an ARG is no variable of a child
    ),
    Case(
        "commands of a child",
        'CMD ["a"]\nENTRYPOINT ["b"]\nSHELL ["/bin/sh", "-xc"]\nHEALTHCHECK CMD h\nUSER app\nWORKDIR /w\n'
        "VOLUME /v\nEXPOSE 1\nLABEL l=1\nSTOPSIGNAL 3\nENV e=1\n"
        "FROM x0\nCMD c  d\nLABEL m=2\nEXPOSE 2\nENV f=$e\nVOLUME /y\n",
        accepted=(
            Deviation("buildah", r"^config Cmd: ", "it forgets SHELL here"),
            Deviation("buildah", r"^file [vy]: nothing", "it makes a directory of a volume"),
        ),
    ),
    Case("no commands at all", 'CMD ["a"]\nENTRYPOINT ["b"]\nFROM x0\nENTRYPOINT []\nCMD []\n'),
    Case("forms of commands", "ENTRYPOINT ['a', \"b\"]\nCMD [\"a\", 'b']\n"),
    Case(
        "sources and destinations",
        """
COPY ./foo /s/1
COPY /foo /s/2
COPY ../../foo /s/3
COPY sub/../foo /s/4
COPY sub//dir1 /s/5
COPY sub/./top /s/6
COPY other sub /s/7/
COPY sub/dir1 other foo /s/8/
COPY foo bar foo /s/9/
COPY ["a b", "foo", "/s/10 11/"]
COPY wide /s/12
COPY wide/ /s/13/14
COPY mode0 /s/15
COPY other/foo other/more /s/16/
COPY other /s/17
COPY ./ /s/18/
COPY private/. /s/19/.
COPY to-dir/ /s/20
WORKDIR /d/here
COPY foo .
COPY foo ./1
COPY foo ../2
COPY foo ./3/
COPY foo 4/../5
COPY foo //d//6
COPY foo /d/./7/../8
COPY foo ../../../../d/9
COPY foo "10"
COPY foo ./11/.
COPY sub .
""",
        ODD,
        (Deviation("docker", r"^file d/here/11", "20.10 cuts /. off; later ones keep it"),),
    ),
    Case(
        "globs and owners",
        r"""
COPY * /g/1/
COPY .* /g/2/
COPY [^a-z]* /g/3/
COPY f?o /g/4
COPY deep/* /g/5/
COPY deep/*/x /g/6/
COPY deep/?/[x-z] /g/7/
COPY [[]odd] /g/8/
COPY star\* /g/9/
COPY ["a *", "/g/10/"]
COPY to-* /g/11/
COPY nothing* foo /g/12/
COPY sub/l* /g/13/
COPY */foo /g/14/
COPY */*/file /g/15/
COPY b*r /g/16
ARG who=app id=12
COPY --chown=$who foo /o/1
COPY --chown=$id:$who sub /o/2/3
COPY --chown=app:0 sub/dir1 /o/4/
COPY --chown=0 foo /o/5
COPY --chown=70000:1 foo /o/6
RUN mkdir -p /o/7 && chown 3:4 /o/7
COPY --chown=5:6 foo sub /o/7/
COPY --chown=root:root foo /o/8/9/10
FROM x0
COPY --from=0 --chown=app /o /p
COPY --from=x0 /g/4 /o/[12] /q/
COPY --from=x0 /o/2 /r
""",
        ODD,
        peers=("docker",),  # buildah takes a matched name for a pattern again
    ),
    Case(
        "onto links, files and directories",
        """
RUN mkdir -p /a/real /b/real/dir1 /c /d /e /f && cd /a && ln -s real link && ln -s /a/real abs \\
 && ln -s ../a/real up && echo old >file && ln -s file tofile && ln -s nowhere dangling \\
 && ln -s /a/new/dir todir && mkdir -m 1777 sticky && mkdir -m 700 closed && chown 9:9 closed
RUN cd /b && echo old >real/top && ln -s real link && echo 1 >real/dir1/file && chmod 600 real/dir1/file \\
 && ln real/dir1/file other && mkdir real/link && echo f >real/foo && ln -s /b/other real/hard
COPY foo /a/link
COPY bar /a/link/
COPY foo /a/abs/1
COPY foo /a/up/2
COPY foo /a/tofile
COPY foo /a/dangling
COPY foo /a/todir/
COPY foo bar /a/sticky/
COPY sub/dir1 /a/closed
COPY sub/dir1 /a/closed/again
COPY deep /b/link
COPY other /b/real/
COPY foo /a/file
COPY sub/dir1 /c/./
COPY to-file /a/sticky/foo
RUN cat /a/closed/file /b/other >/read; stat -c '%n %a %u %F' /a/* >/stats
""",
        ODD,
        (
            Deviation(
                "buildah", r"^file (a/nowhere|a/tofile|stats)", "it follows no link at the end"
            ),
        ),
    ),
    Case(
        "archives of every kind",
        "ADD odd.tar /1/\nADD odd.zst /2\nADD a.tar.zst notes /3/\nADD --chown=3:4 odd.tar /4\n"
        "ADD a.gz odd.tar /5/\nRUN mkdir -p /6/top/f2 && echo x >/6/top/f\n"
        "ADD a.tar /6\nADD a*.xz /7\nADD twice.gz /8\nADD cut.gz /9\nCOPY odd.tar /10\nADD d /11\n",
        {
            "odd.tar": odd_archive(),
            "odd.zst": zstandard.compress(odd_archive()),
            "a.tar.zst": zstandard.compress(archive("")),
            "a.tar": archive(""),
            "a.gz": archive("gz"),
            "a.xz": archive("xz"),
            "notes": "no archive",
            "twice.gz": zstandard.compress(archive("gz")),
            "cut.gz": b"\x1f\x8b",
            "d/inner.tar": archive(""),
        },
        (
            Deviation("docker", r"^file [23][/:]", "20.10 does not know zstd"),
            Deviation("both", r"^file 4/", "1.5: owners from the archive unless --chown"),
        ),
    ),
    Case(
        "lines of an ignore file",
        "COPY . /x\n",
        {
            **{
                name: name
                for name in (
                    "a.md b.md keep.md c.txt d.txt temp1 tempx sub/temp1 sub/deeper/temp1 sub/a.md q/r/s/t "
                    "q/t q/r/t lead/x trail/x blank/x dots/x slash/a/b star/a star/.h #hash cls/a cls/b cls/- "
                    "neg/a neg/b/c neg/b/d up/x crlf/x crlf/y any/1/2/3 any/4 esc/* esc/a"
                ).split()
            },
            ".dockerignore": (
                "# comment\n  # not in the first column\n*.md\n!keep.md\ntemp?\n*/temp*\nq/**/t\n/lead\ntrail/\n"
                "  blank  \n./dots\nslash//a/\nstar/*\n\\#hash\ncls/[a-b]\nneg/*\n!neg/b\nneg/b/c\n../up\n"
                "crlf/x\r\n\r\nany/**\n!any/1/2/3\n[cd].txt\n!d.txt\nesc/\\*\nDockerfile\n.dockerignore\n"
            ),
        },
    ),
    Case(
        "an ignore file that leaves out everything but",
        "COPY . /x\nCOPY a/b* /y/\n",
        {
            **{n: n for n in ("a/b/c/d", "a/b/e", "a/f", "g/h", "g/i/j", "k", "l/m/n", "l/m/o")},
            ".dockerignore": "**\n!a/b\na/b/e\n!g/*/j\n!**/n\n",
        },
        (Deviation("both", r"^file x/(g|l)", "older ones look for wildcards in nothing left out"),),
    ),
    Case(
        "lines of a Dockerfile",
        "\ufeff# a comment\r\n\r\n  FROM base AS x0\r\n  run  echo  a   b >/1\r\nRUN\techo x \\\r\n   # inside\r\n\r\n   y >/2\r\n"
        "rUn echo '# kept' \"#\" >/3 # and not\nRUN echo a\\\\ b >/4\nRUN echo one \\  \n two\\\n three >/5\n"
        'RUN [ "/bin/sh" , "-c", "echo $HOME \\"q\\" \\u0041 >/6" ]\nRUN ["/bin/true"\\\n, "x"]\n'
        "RUN [ -n x ] && echo test >/7; echo \"a\\\nb\" 'c\\\nd' >/8\nENV x=\\\n1\nLABEL a=b \\\n c=d\\\ne\n"
        "RUN echo $x ${x} '$x' \\$x >/9\nRUN echo $((1 + 2)) `echo sub` >/10\nRUN false || \\\n#c\n#d\ntrue\n",
        peers=("docker",),
    ),
    Case(
        "directories to work in",
        """
ARG d="v w"
USER app
WORKDIR /1/2
WORKDIR 3
USER 7:8
WORKDIR /1/4/
WORKDIR $d
WORKDIR "/5 6"
USER app:root
WORKDIR /tmp/../7/./8
RUN pwd >/tmp/pwd && id -u >/tmp/u && id -G >/tmp/g
USER root
RUN mkdir -m 700 /9 && chown 5:5 /9 && ln -s /9 /10 && mkdir /11
WORKDIR /9
WORKDIR /10/12
WORKDIR ../13
RUN pwd >/14
USER 12345
WORKDIR /15
RUN id >/tmp/id; touch here
""",
        peers=("docker",),
    ),
    Case(
        "what triggers may say",
        "ONBUILD ENV a=$b\nONBUILD WORKDIR /t\nONBUILD COPY --chown=app foo ./\nONBUILD ADD a.tar /u/\n"
        'ONBUILD RUN ["/bin/sh", "-c", "echo $a >x"]\nONBUILD LABEL q="r s"\nONBUILD CMD from trigger\n'
        "ENV b=2\nFROM x0\nCMD own\nONBUILD RUN echo never\n",
        {"foo": "foo", "a.tar": archive("")},
        peers=("docker",),
    ),
    Case(
        "steps that undo one another",
        "RUN mkdir -p /a/b/c /k && echo 1 >/a/b/c/1 && echo 2 >/a/2 && ln /a/2 /a/3 && ln -s b /a/l\n"
        "RUN chmod 700 /a/b && touch -d @1 /a/2 && chown 3 /a/b/c\nRUN mv /a/b /moved\n"
        "RUN rm /a/2 && mkdir /a/2 && echo in >/a/2/f\nRUN rm -r /a/2 && ln -s /etc /a/2\n"
        "RUN cp -a /moved /a/b && rm -r /moved/c && mkdir /moved/c\nRUN echo x >>/etc/passwd && rm /etc/group\n"
        "RUN mkdir /k/new && rmdir /k/new && mkfifo /k/p && chmod 4755 /k/p\nRUN ln /etc/passwd /k/hard\n"
        "RUN rm /k/p; :\nRUN truncate -s 100000 /k/sparse && echo end >>/k/sparse\n",
        peers=("docker",),
    ),
]
