"""Builds one graph for several platforms: what runs once, what ARGs say, which emulator runs what,
and what comes out. Foreign programs are written here by the byte."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from buildgraph.sandbox.binfmt import elf
from e2e.building import BOTH, Bench, Mode, as_root, call, needs
from e2e.images import read_archive

HOST = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")
FOREIGN = "arm64" if HOST == "amd64" else "amd64"
emulated = pytest.mark.skipif(
    HOST != "amd64" or shutil.which("qemu-aarch64-static") is None,
    reason="machine: qemu-user-static on x86_64 is needed",
)


def arm64_writer(path: str, text: str) -> bytes:
    """Return an arm64 program that writes a file and ends with status 0."""

    def adr(at: int, register: int) -> int:  # the address of a byte of the data, position-free
        offset = data + at - 4 * len(words)
        return 0x10000000 | (offset & 3) << 29 | (offset >> 2) << 5 | register

    def mov(value: int, register: int) -> int:
        return 0xD2800000 | value << 5 | register

    words: list[int] = []
    data = 4 * 16
    content = os.fsencode(path) + b"\0" + text.encode()
    words += [0x92800C60]  # x0 = AT_FDCWD
    words += [adr(0, 1)]
    words += [mov(0o101, 2), mov(0o644, 3), mov(56, 8), 0xD4000001]  # openat, svc
    words += [adr(len(os.fsencode(path)) + 1, 1)]
    words += [mov(len(text), 2), mov(64, 8), 0xD4000001]  # write
    words += [mov(0, 0), mov(93, 8), 0xD4000001]  # exit
    words += [0] * (16 - len(words))
    return elf("arm64", b"".join(w.to_bytes(4, "little") for w in words) + content)


def i386_uname(path: str) -> bytes:
    """Return a 32-bit x86 program that writes the machine's name of uname(2) to a file."""
    base, size = 0x400000 + 52 + 32, 64
    place = (base + size).to_bytes(4, "little")
    room = base + size + len(path) + 1
    buffer = room.to_bytes(4, "little")
    machine = (room + 4 * 65).to_bytes(4, "little")
    code = b"\xb8\x7a\0\0\0\xbb" + buffer + b"\xcd\x80"  # newuname
    code += b"\xb8\x08\0\0\0\xbb" + place + b"\xb9\xa4\x01\0\0\xcd\x80"  # creat
    code += b"\x89\xc3\xb8\x04\0\0\0\xb9" + machine + b"\xba\x04\0\0\0\xcd\x80"  # write
    code += b"\xb8\x01\0\0\0\x31\xdb\xcd\x80"  # exit
    return elf("386", code.ljust(size, b"\0") + path.encode() + bytes(1 + 6 * 65))


def started(events: list[dict[str, Any]], word: str) -> list[str]:
    """Return the titles of the nodes that were executed and hold a word."""
    return [e["title"] for e in events if e["event"] == "node_started" and word in e["title"]]


def layout_of(who: Bench, dockerfile: str, files: Any, *args: str, **more: Any) -> Any:
    """Build into an OCI layout; return the result and the documents by digest."""
    directory = who.directory(files, dockerfile)
    dest = who.workspace.path(f"{directory}-out")
    words = [directory, "-o", f"type=oci,tar=false,dest={dest}", "--progress", "json", *args]
    result = who.run("build", *who.base(words), *words, **more)
    return result, dest


def documents(layout: Path) -> tuple[dict[str, Any], dict[str, tuple[Any, Any]]]:
    """Return the top document of a layout, and manifest and config of each platform."""

    def blob(digest: str) -> Any:
        return json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())

    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    top = blob(entry["digest"])
    found = {}
    for each in top.get("manifests", ()):
        platform = "/".join(
            each["platform"][k] for k in ("os", "architecture", "variant")[: len(each["platform"])]
        )
        manifest = blob(each["digest"])
        found[platform] = (manifest, blob(manifest["config"]["digest"]))
    return top, found


TWICE = """\
FROM --platform=$BUILDPLATFORM base AS tools
RUN echo made here > /tool
FROM scratch
ARG TARGETARCH
ENV ARCH=$TARGETARCH
WORKDIR /w
COPY --from=tools /tool /tool
COPY data /data
"""


def test_a_stage_of_the_build_platform_runs_once(root_bench: Bench) -> None:
    platforms = "linux/amd64,linux/arm64,linux/arm/v6"
    files = {"data": "the same for all\n"}
    result, layout = layout_of(root_bench, TWICE, files, "--platform", platforms)
    assert started(result.events, "RUN") == ["RUN echo made here > /tool"]
    copied = [e for e in result.events if e["event"] == "node_finished" and "data" in e["title"]]
    assert sorted(e["cached"] for e in copied) == [False, True, True], "one copy, three platforms"
    top, found = documents(layout)
    assert top["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert list(found) == ["linux/amd64", "linux/arm64", "linux/arm/v6"]
    layers = {tuple(layer["digest"] for layer in m["layers"]) for m, _ in found.values()}
    assert len(layers) == 1, "files are copied alike for all"
    for platform, (_, config) in found.items():
        assert config["architecture"] == platform.split("/")[1]
        assert f"ARCH={platform.split('/')[1]}" in config["config"]["Env"]
    assert found["linux/arm/v6"][1]["variant"] == "v6"
    assert "variant" not in found["linux/arm64"][1]


def test_a_target_below_is_lowered_for_what_needs_it(root_bench: Bench) -> None:
    """A tool for this machine alone serves an image of others: nobody asks for it elsewhere."""
    layout = os.path.relpath(root_bench.layout, root_bench.workspace.root)
    boxfile = f"""\
targets:
  tool: {{dockerfile: Tool, contexts: {{base: "oci-layout://../{layout}"}}}}
  image: {{dockerfile: App, contexts: {{tool: ":tool"}}, platforms: [linux/{HOST}, linux/s390x]}}
"""
    app = """\
FROM --platform=$BUILDPLATFORM tool AS t
RUN cat /tool > /made
FROM scratch
COPY --from=t /made /
"""
    tool = "FROM base\nRUN echo tool > /tool\n"
    name = root_bench.directory({"Boxfile.yaml": boxfile, "Tool": tool, "App": app})
    result = root_bench.run("build", f"//{name}:image", "--progress", "json")
    assert started(result.events, "RUN") == ["RUN echo tool > /tool", "RUN cat /tool > /made"]
    (image,) = [e for e in result.events if e["event"] == "image_built"]
    assert image["platform"] == f"linux/{HOST},linux/s390x"


ARGS = """\
ARG BUILDARCH TARGETVARIANT
ARG FLAVOUR=on-$BUILDARCH-for-$TARGETARCH$TARGETVARIANT
FROM --platform=$BUILDPLATFORM base AS first
RUN env | grep -cE '^(TARGET|BUILD)' > /undeclared || true
ARG TARGETPLATFORM TARGETOS TARGETOSVERSION TARGETARCH TARGETVARIANT TARGETSTAGE
ARG BUILDPLATFORM BUILDOS BUILDOSVERSION BUILDARCH BUILDVARIANT FLAVOUR
RUN env | grep -E '^(TARGET|BUILD|FLAVOUR)' | sort > /declared
FROM first AS last
"""


def test_platform_arguments(root_bench: Bench) -> None:
    built = root_bench.build(ARGS, {}, "--platform", "linux/arm")
    assert built.content("undeclared") == "0\n"
    expected = {
        "BUILDARCH": HOST,
        "BUILDOS": "linux",
        "BUILDOSVERSION": "",
        "BUILDPLATFORM": f"linux/{HOST}",
        "BUILDVARIANT": "",
        "FLAVOUR": f"on-{HOST}-for-armv7",
        "TARGETARCH": "arm",
        "TARGETOS": "linux",
        "TARGETOSVERSION": "",
        "TARGETPLATFORM": "linux/arm/v7",
        "TARGETSTAGE": "last",
        "TARGETVARIANT": "v7",
    }
    assert built.content("declared") == "".join(f"{k}={v}\n" for k, v in expected.items())
    assert built.image.document["architecture"] == "arm"


def test_platform_arguments_may_be_given(root_bench: Bench) -> None:
    args = ("--build-arg", "TARGETARCH=mine", "--build-arg", "BUILDVARIANT=v0")
    built = root_bench.build(ARGS, {}, "--target", "first", *args)
    lines = built.content("declared").splitlines()
    assert {"TARGETARCH=mine", "BUILDVARIANT=v0", "TARGETSTAGE=first"} <= set(lines)
    assert f"TARGETPLATFORM=linux/{HOST}" in lines
    assert f"FLAVOUR=on-{HOST}-for-mine" in lines
    named = root_bench.build("FROM base\nARG TARGETSTAGE\nRUN echo $TARGETSTAGE > /stage\n")
    assert named.content("stage") == "default\n"


@emulated
@BOTH
def test_a_step_of_another_architecture_runs_under_an_emulator(who: Bench) -> None:
    """The emulator is seen by the kernel alone: no file of it, and no handler, is inside."""
    files = {"program": Mode(0o755, arm64_writer("/made", "by arm64\n"))}
    dockerfile = 'FROM scratch\nCOPY program /program\nRUN ["/program"]\n'
    built = who.build(dockerfile, files, "--platform", "linux/arm64")
    assert built.content("made") == "by arm64\n"
    assert sorted(built.image.tree) == ["made", "program"]
    assert not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists()


@emulated
def test_a_step_can_neither_see_nor_make_handlers(root_bench: Bench) -> None:
    program = Mode(0o755, arm64_writer("/made", "x"))
    dockerfile = """\
FROM --platform=linux/arm64 scratch AS foreign
COPY program /program
RUN ["/program"]
FROM base
COPY --from=foreign / /
RUN ls -A /proc/sys/fs/binfmt_misc > /seen; \\
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc 2>/mounted; \\
    echo x > /proc/sys/fs/binfmt_misc/register; \\
    rm /made && /program && cat /made >> /seen
"""
    built = root_bench.build(dockerfile, {"program": program})
    assert built.content("seen") == "x"
    assert "mount" in built.content("mounted")


@pytest.mark.skipif(HOST != "amd64", reason="machine: runs 32-bit x86 on x86_64 only")
@BOTH
def test_32_bit_x86_runs_by_itself(who: Bench) -> None:
    files = {"program": Mode(0o755, i386_uname("/machine"))}
    dockerfile = 'FROM scratch\nCOPY program /program\nRUN ["/program"]\n'
    built = who.build(dockerfile, files, "--platform", "linux/386")
    assert built.content("machine") == "i686"
    assert built.image.document["architecture"] == "386"


def test_nothing_runs_an_architecture(root_bench: Bench) -> None:
    """What can be done is done and kept; then it is said what is missing."""
    dockerfile = """\
FROM base AS native
RUN sleep 0.2; echo done > /done
FROM --platform=linux/mips scratch
ARG TARGETARCH
COPY --from=native /done /done
RUN ["/done"]
"""
    name = root_bench.directory(
        {},
        f"{dockerfile}\nFROM native\nRUN echo more > /more\n"
        + ("FROM scratch\nCOPY --from=2 /done /a\nCOPY --from=1 /done /b\n").replace(
            "--from=2", "--from=native"
        ),
    )
    words = ["build", *root_bench.base([]), name, "--progress", "json"]
    first = root_bench.run(*words, expect=3)
    failed = [e for e in first.events if e["event"] == "node_failed"]
    assert [e["title"] for e in failed] == ['RUN ["/done"] [linux/mips]']
    assert "mips cannot be run on this machine" in first.stderr + first.stdout
    assert f"{name}/Dockerfile:6" in first.stderr + first.stdout
    again = root_bench.run(*words, expect=3)
    assert started(again.events, "RUN") == ['RUN ["/done"] [linux/mips]'], "the rest was kept"


def test_outputs_of_several_platforms(root_bench: Bench) -> None:
    name = root_bench.directory(
        {"data": "x"}, "FROM scratch\nARG TARGETARCH\nENV A=$TARGETARCH\nCOPY data /\n"
    )
    place = root_bench.workspace.path(f"{name}-files")
    words = ["build", name, "--platform", "linux/amd64,linux/arm/v7"]
    ids, metadata = (root_bench.workspace.path(f"{name}-{n}") for n in ("iid", "metadata"))
    both = ["--iidfile", str(ids), "--metadata-file", str(metadata), "--progress", "json"]
    result = root_bench.run(*words, "-o", f"type=local,dest={place}", *both)
    assert sorted(p.relative_to(place).as_posix() for p in place.rglob("*")) == [
        "linux_amd64",
        "linux_amd64/data",
        "linux_arm_v7",
        "linux_arm_v7/data",
    ]
    (digest,) = result.digests.values()
    assert ids.read_text() == digest
    told = json.loads(metadata.read_text())
    assert told["containerimage.digest"] == digest
    assert told["containerimage.descriptor"]["mediaType"].endswith("image.index.v1+json")
    assert "containerimage.config.digest" not in told
    archive = root_bench.workspace.path(f"{name}.tar")
    root_bench.run(*words, "-o", f"type=tar,dest={archive}")
    with tarfile.open(archive) as tar:
        assert tar.getnames() == [
            "linux_amd64",
            "linux_amd64/data",
            "linux_arm_v7",
            "linux_arm_v7/data",
        ]
    for refused in (f"type=docker,dest={archive}", f"type=local,platform-split=false,dest={place}"):
        said = root_bench.run(*words, "-o", refused, expect=2)
        assert "has 2 platforms and type=" in said.stderr
    one = root_bench.workspace.path(f"{name}-one")
    root_bench.run("build", name, "-o", f"type=local,dest={one}")
    assert [p.name for p in one.iterdir()] == ["data"]
    split = root_bench.workspace.path(f"{name}-split")
    root_bench.run("build", name, "-o", f"type=local,dest={split},platform-split=true")
    assert [p.name for p in split.iterdir()] == [f"linux_{HOST}"]


def test_an_index_for_one_platform(root_bench: Bench) -> None:
    dockerfile = "FROM scratch\nCOPY data /\n"
    args = ("--build-arg", "BUILDKIT_MULTI_PLATFORM=1")
    result, layout = layout_of(root_bench, dockerfile, {"data": "x"}, *args)
    _, found = documents(layout)
    assert list(found) == [f"linux/{HOST}"]
    assert not [e for e in result.events if e.get("level") == "warning"]


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        ("linux/../../pwn", "not a platform"),
        ("linux/amd46", "did you mean 'amd64'?"),
        ("windows/amd64", "only for linux"),
    ],
)
def test_what_is_no_platform(root_bench: Bench, platform: str, message: str) -> None:
    place = root_bench.workspace.path("nothing")
    more = ("--platform", platform, "-o", f"type=local,platform-split=true,dest={place}")
    said = root_bench.fail("FROM scratch\nCOPY Dockerfile /\n", {}, *more)
    assert message in said.stderr
    assert not place.exists()


def test_a_wrong_platform_has_a_place(root_bench: Bench) -> None:
    said = root_bench.fail("FROM --platform=linux/arm46 base\n")
    assert "unknown architecture 'arm46'" in said.stderr
    assert "Dockerfile:1" in said.stderr
    name = root_bench.directory(
        {"Boxfile.yaml": "targets:\n  image:\n    platforms: [linux/arm46]\n"}, "FROM scratch\n"
    )
    said = root_bench.run("build", f"//{name}", expect=2)
    assert f"{name}/Boxfile.yaml:3:17" in said.stderr


@needs("skopeo")
def test_others_read_the_index(root_bench: Bench) -> None:
    """skopeo finds each platform's image in the index, under the words it has for it."""
    _, layout = layout_of(
        root_bench,
        TWICE,
        {"data": "x"},
        "--platform",
        "linux/amd64,linux/arm64,linux/arm/v7",
        "-t",
        "app:1",
    )
    (name,) = [
        e["annotations"]["org.opencontainers.image.ref.name"]
        for e in json.loads((layout / "index.json").read_text())["manifests"]
    ]
    image = f"oci:{layout}:{name}"
    raw = json.loads(call("skopeo", "inspect", "--raw", image).stdout)
    assert [m["platform"]["architecture"] for m in raw["manifests"]] == ["amd64", "arm64", "arm"]
    for arch, variant in (("arm64", ""), ("amd64", ""), ("arm", "v7")):
        words = ["--override-arch", arch, *(["--override-variant", variant] if variant else [])]
        found = json.loads(call("skopeo", *words, "inspect", image).stdout)
        assert found["Architecture"] == arch
        assert f"ARCH={arch}" in found["Env"]


@emulated
@as_root
def test_a_debian_base_of_another_architecture(root_bench: Bench) -> None:
    """Packages of arm64 are resolved, unpacked and configured, and RUN goes on from there."""
    boxfile = """\
targets:
  base:
    rule: debian
    essential: false
    packages: [base-files, base-passwd, coreutils, dash, diffutils, dpkg, grep, libc-bin, sed]
    platforms: linux/arm64
  image: {contexts: {base: ":base"}, platforms: linux/arm64}
"""
    dockerfile = """\
FROM base
RUN dpkg --audit && dpkg --print-architecture > /said && uname -m >> /said && ls /usr/bin/qemu* || true
"""
    name = root_bench.directory({"Boxfile.yaml": boxfile}, dockerfile)
    archive = root_bench.workspace.path(f"{name}.tar")
    result = root_bench.run(
        "build", f"//{name}", "-o", f"type=oci,dest={archive}", "--progress", "json", expect=None
    )
    if result.code == 3:
        pytest.skip(f"no Debian archive within reach: {result.stderr[-300:]}")
    assert result.code == 0, result.stderr
    assert started(result.events, "packages")[0].endswith("[linux/arm64]")
    image = read_archive(archive)
    assert image.tree["said"].content == b"arm64\naarch64\n"
    assert not [path for path in image.tree if "qemu" in path]
    assert image.document["architecture"] == "arm64"
