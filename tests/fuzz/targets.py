"""Knows what of ours reads a stranger's bytes, and what may come of any bytes: a value that keeps
its promises, or an error in the user's words. Must not know where the bytes come from.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from buildgraph.boxfile import loader, schema
from buildgraph.boxfile.compose import read_compose
from buildgraph.boxfile.yaml import decode as decode_yaml
from buildgraph.context.ignore import IgnoreRules
from buildgraph.dockerfile.checks import check
from buildgraph.dockerfile.dump import dump
from buildgraph.dockerfile.expand import expand_traced, expand_words, heredoc_expand, referenced
from buildgraph.dockerfile.mounts import expand_mount, parse_mount, parse_size
from buildgraph.dockerfile.parser import parse, parse_onbuild
from buildgraph.errors import BuildgraphError, HostError, InputError, InputErrors, Location
from buildgraph.fetch.git_url import check_ref, is_git_url, parse_git, submodule_url
from buildgraph.graph.stage_ir import BuildArgs, SourceRef
from buildgraph.graph.stages import Unfolder
from buildgraph.limits import EXPANDED_VALUE_BYTES
from buildgraph.oci.config import config_json, parse_config, parse_index, parse_manifest
from buildgraph.oci.reference import parse_reference
from buildgraph.oci.registry.challenge import parse_challenges, parse_token, token_request
from buildgraph.oci.tarread import TarReader
from buildgraph.oci.types import ImageConfig, Platform
from buildgraph.oci.unpack import member_path

HERE = Location("here", 1, 1)
_PLATFORM = Platform("linux", "amd64")
_GOLDEN = Path(__file__).resolve().parents[1] / "golden"
_OCI = "application/vnd.oci.image."
_DIGEST = "sha256:" + 64 * "a"


@dataclass(frozen=True)
class Target:
    """One reader: what it does with any bytes, bytes to start from, and words it knows."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[str, ...] = ()


def text_of(data: bytes) -> str:
    """Return bytes as the text that our readers see."""
    return data.decode("utf-8", "surrogateescape")


def hold(error: BuildgraphError, *, place: bool = True) -> None:
    """Assert what a user may expect of an error."""
    for one in error.errors if isinstance(error, InputErrors) else (error,):
        assert one.message
        # Messages quote little of what they were given; what is quoted may be all escapes.
        assert len(one.message) < 4000, len(one.message)
        assert one.hint is None or len(one.hint) < 4000
        assert one.where is not None or not place, one.message


def _dockerfile(data: bytes) -> None:
    try:
        file = parse(data, "Dockerfile")
    except InputError as error:
        hold(error)
        return
    dump(file)
    for warning in check(file):
        assert warning.where is not None
    lines = data.removeprefix(b"\xef\xbb\xbf").decode().split("\n")
    for stage in file.stages:
        for one in (stage.from_, *stage.body):
            assert one.where.text == lines[one.where.line - 1].rstrip("\r")
            assert one.where.line <= one.end_line <= len(lines)


def _stages(data: bytes) -> None:
    try:
        file = parse(data, "Dockerfile")
    except InputError:
        return
    args = BuildArgs({"A": "given", "B": ""}, _PLATFORM, _PLATFORM, 7, frozenset({"named"}))
    try:
        unfolded = Unfolder(file, args, _config_of).unfold(None)
    except InputError as error:
        hold(error)
        return
    assert unfolded.stages[-1].index == unfolded.target
    for stage in unfolded.stages:
        assert stage.config.working_dir.startswith("/")
        assert config_json(stage.config, ())


def _config_of(ref: SourceRef, platform: Platform, where: Location) -> ImageConfig:
    return ImageConfig(platform=platform, env=(("PATH", "/bin"), ("A", "base")), cmd=("sh",))


def _trigger(data: bytes) -> None:
    try:
        parse_onbuild(text_of(data), "image", HERE)
    except InputError as error:
        hold(error)


def _expansion(data: bytes) -> None:
    word = text_of(data)
    env = {"a": "aab", "b": "", "_": "x y", "long": "ab" * 2000}
    for escape in "\\`":
        try:
            found = expand_traced(word, env, escape, where=HERE)
            assert len(found.text) <= max(EXPANDED_VALUE_BYTES, len(word))
            assert set(found.unset) <= set(found.used)
            assert set(found.used) <= {*referenced(word, escape, where=HERE), *found.used}
        except InputError as error:
            hold(error)
        try:
            assert all(isinstance(one, str) for one in expand_words(word, env, escape, where=HERE))
        except InputError as error:
            hold(error)
    try:
        heredoc_expand(word, env, where=HERE)
    except InputError as error:
        hold(error)


def _mount(data: bytes) -> None:
    text = text_of(data)
    try:
        mount = parse_mount(text, HERE)
        expand_mount(mount, lambda word: word)
    except InputError as error:
        hold(error)
    try:
        assert parse_size(text, HERE) >= 0
    except InputError as error:
        hold(error)


def _ignore(data: bytes) -> None:
    text = text_of(data)
    try:
        rules = IgnoreRules.parse(text)
    except InputError as error:
        hold(error)
        return
    paths = ["a", "a/b", "a/b/c.md", ".git", "x y", "é", *text.splitlines()[:4]]
    for path in paths:
        clean = path.strip("/")
        if not clean or "//" in clean or {".", ".."} & set(clean.split("/")):
            continue
        # The two ways to ask: by the whole path, and by going down.
        above, _, name = clean.rpartition("/")
        if not above:
            assert rules.below("").excludes(name) == rules.excludes(clean)
        elif not rules.excludes(above, is_dir=True):
            assert rules.below(above).excludes(name) == rules.excludes(clean)
        reason = rules.excluded_by(clean)
        assert (reason is not None) == rules.excludes(clean)


def _boxfile(data: bytes) -> None:
    try:
        loader.load(decode_yaml(data, "Boxfile.yaml"), "app", schema.BUILT_IN, "Dockerfile")
    except InputError as error:
        hold(error)


def _compose(data: bytes) -> None:
    errors: list[InputError] = []
    try:
        read_compose(decode_yaml(data, "compose.yaml"), "compose.yaml", errors)
    except InputError as error:
        errors.append(error)
    for error in errors:
        hold(error)


def _tar(data: bytes) -> None:
    for bodies in (True, False):
        reader = TarReader(_pieces(data), bodies=bodies, total=1 << 20)
        try:
            for number, member in enumerate(reader):
                assert member.size >= 0
                assert 0 <= member.mode <= 0o7777
                assert "\0" not in member_path(member.path)
                if bodies and member.size and number % 2:
                    assert sum(map(len, reader.chunks())) == member.size
                elif bodies and member.size and number % 3:
                    assert len(reader.read()) == member.size
        except InputError as error:
            hold(error, place=False)


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield a stream in uneven pieces, as a decompressor does."""
    size = 1
    while data:
        yield data[:size]
        data, size = data[size:], size * 3 % 997 + 1


def _reference(data: bytes) -> None:
    try:
        found = parse_reference(text_of(data))
    except InputError as error:
        hold(error, place=False)
        return
    again = parse_reference(str(found))
    assert again == found
    assert parse_reference(found.familiar) == found


def _documents(data: bytes) -> None:
    for read in (
        lambda: parse_manifest(data, _OCI + "manifest.v1+json"),
        lambda: parse_index(data),
        lambda: parse_config(data),
    ):
        try:
            read()
        except InputError as error:
            hold(error, place=False)
    try:
        config, diff_ids = parse_config(data)
    except InputError:
        return
    # Some are not written as they were read, an empty health check for instance; ours are.
    ours, diff_ids = parse_config(config_json(config, diff_ids))
    assert parse_config(config_json(ours, diff_ids)) == (ours, diff_ids)


def _challenge(data: bytes) -> None:
    header = data.decode("latin-1")
    for challenge in parse_challenges([header, header[::-1]]):
        assert challenge.scheme == challenge.scheme.lower()
        for registry in ("https://registry.example.com", "http://127.0.0.1:5000"):
            try:
                asked = token_request(challenge, registry, ["repository:a:pull"], None)
            except HostError as error:
                hold(error, place=False)
                continue
            assert not set("\r\n ") & set(asked.url)
    try:
        assert parse_token(data, "https://auth.example.com").seconds >= 0
    except HostError as error:
        hold(error, place=False)


def _git(data: bytes) -> None:
    text = text_of(data)
    is_git_url(text)
    parent = parse_git("https://git.example.com/a/b.git#main")
    for read in (parse_git, check_ref, lambda word: submodule_url(parent, word)):
        try:
            found = read(text)
        except InputError as error:
            hold(error, place=False)
            continue
        if not isinstance(found, str):
            # Nothing of it can be an option, a second line or the name of a helper.
            assert not found.remote.startswith("-")
            assert not found.ref.startswith("-")
            assert re.match(r"[A-Za-z0-9+.-]*::", found.remote) is None
            assert not set("\r\n\0") & set(found.full_remote + found.ref + found.subdir)
            assert ".." not in found.subdir.split("/")


def _tar_seeds() -> Iterator[bytes]:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for number, name in enumerate(("a", "d/", "n" * 90 if form == 0 else "n" * 150)):
                info = tarfile.TarInfo(name)
                info.size = number
                info.mtime, info.uid = 1_600_000_000, 1 << (10 if form == 0 else 24)
                tar.addfile(info, BytesIO(b"x" * number))
            link = tarfile.TarInfo("l")
            link.type, link.linkname = tarfile.SYMTYPE, "a"
            if form == tarfile.PAX_FORMAT:
                link.pax_headers = {"SCHILY.xattr.user.a": "b", "mtime": "1.5"}
            tar.addfile(link)
        yield out.getvalue()[:4096]


def _texts(*seeds: str) -> tuple[bytes, ...]:
    return tuple(seed.encode() for seed in seeds)


def _files(paths: Iterable[Path]) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted(paths))


_WORDS = (
    "FROM a AS b\n", "RUN ", "COPY ", "ADD ", "--from=b ", "--mount=type=cache,target=/x ",
    "--parents ", "--exclude=x ", "--link ", "--chmod=u+x ", "--chown=a:b ", "ENV A=$B ",
    "ARG A=b\n", "ONBUILD ", "<<EOF", "<<-'E'", "\nEOF\n", "\tE", "\\\n", "# escape=`\n",
    "# check=skip=all\n", '["a", "b"]', "HEALTHCHECK --interval=1s CMD ", "HEALTHCHECK NONE\n",
    "EXPOSE 80-90/udp ", "LABEL a=b ", "STOPSIGNAL 9\n", "SHELL ", "VOLUME ", "WORKDIR ../x\n",
    "USER $A\n", "${A:-", "${A#", "${A//", "}", "COPY --from=named / /\n",
)  # fmt: skip
_CONFIG = (
    '{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Cmd":["a"],"Healthcheck":'
    '{"Test":["CMD","a"],"Interval":1},"ExposedPorts":{"80/tcp":{}},"Labels":{"a":"b"}},'
    f'"rootfs":{{"type":"layers","diff_ids":["{_DIGEST}"]}},"history":[{{"created_by":"x"}}]}}'
)
_MANIFEST = (
    f'{{"schemaVersion":2,"mediaType":"{_OCI}manifest.v1+json","config":{{"mediaType":'
    f'"{_OCI}config.v1+json","digest":"{_DIGEST}","size":2}},"layers":[{{"mediaType":'
    f'"{_OCI}layer.v1.tar+gzip","digest":"{_DIGEST}","size":3}}]}}'
)
_INDEX = (
    f'{{"schemaVersion":2,"manifests":[{{"mediaType":"{_OCI}manifest.v1+json","digest":'
    f'"{_DIGEST}","size":9,"platform":{{"os":"linux","architecture":"arm64","variant":"v8"}},'
    '"annotations":{"a":"b"}}]}'
)
_BOXFILE = (
    "workspace: {name: shop, vars: {PY: '3.12'}}\ntargets:\n  base: {rule: group, members: [':a']}\n"
    "  image:\n    dockerfile: Dockerfile\n    contexts: {base: ':base'}\n    args: {A: \"{{ vars.PY }}\"}\n"
    "    platforms: [linux/amd64]\n    secrets: [{id: a, env: B}]\n  x: &a\n    extends: ':image'\n"
    "    matrix: {py: ['1', '2']}\n  y: *a\n"
)
_COMPOSE = (
    "services:\n  db:\n    image: postgres:16\n    ports: ['80:80']\n    environment: {A: '${B:-c}'}\n"
    "    healthcheck: {test: [CMD, a], interval: 5s}\n  app:\n    build: {context: ., args: [A=b]}\n"
    "    depends_on: {db: {condition: service_healthy}}\n    volumes: ['./a:/b:ro', c:/d]\nvolumes: {c: {}}\n"
)
TARGETS = {
    target.name: target
    for target in (
        Target("dockerfile", _dockerfile, _files(_GOLDEN.glob("*/Dockerfile")), _WORDS),
        Target("stages", _stages, _files(_GOLDEN.glob("*/Dockerfile")), _WORDS),
        Target("trigger", _trigger, _texts("RUN a", "COPY --from=a <<E /b\nx\nE", "ENV a=b"), _WORDS),
        Target(
            "expansion",
            _expansion,
            _texts("${a:-b}", "${a#*b}${long%%a?}", "\"$a\" '$b' \\$c", "${a//b/${b:-c}}", "${b:?m}"),
            ("${a", "${long", ":-", ":+", ":?", "##", "%%", "//", "\\", "`", "}", "*", "?", '"', "'"),
        ),
        Target(
            "mount",
            _mount,
            _texts(
                "type=cache,target=/x,id=a,sharing=locked,mode=0755,uid=1,gid=1",
                '"type=bind,""source=a,b",target=$x,rw,from=b',
                "type=secret,id=a,env=B,required", "type=tmpfs,target=/x,size=1.5g", "type=ssh",
            ),
            ("type=", "target=", "source=", "from=", "readonly", "required=false", "size=64m", '"'),
        ),
        Target(
            "dockerignore",
            _ignore,
            _texts("**/*.md\n!a/b/c.md\n#x\n/a/[b-c]*\n", "*\n!a\na/**/c\n", "[^a-z]?\\*\n**/b/**\n"),
            ("**/", "/**", "!", "[a-z]", "[^", "\\", "*.md", "a/b", "?"),
        ),
        Target(
            "boxfile",
            _boxfile,
            (_BOXFILE.encode(), b"args: {A: b}\n", *_texts("? a\n: |\n  b\n", "a: !!int '1'\n")),
            ("targets:", "rule: ", "extends: ", "{{ ", " }}", "&a ", "*a", "<<: ", "- ", "|\n", ": "),
        ),
        Target("compose", _compose, (_COMPOSE.encode(),), ("services:", "image: ", "${A", "}", "- ")),
        Target("tar", _tar, tuple(_tar_seeds()), ("ustar", "././@LongLink", "SCHILY.xattr.", "path=")),
        Target(
            "reference",
            _reference,
            _texts("alpine", "a.b:5000/c/d:e@" + _DIGEST, "localhost/a", "[::1]:5000/a", "docker.io/a"),
            ("docker.io/", "library/", ":latest", "@sha256:", "localhost", "index.docker.io/"),
        ),
        Target(
            "documents",
            _documents,
            _texts(_CONFIG, _MANIFEST, _INDEX),
            ('"config":', '"layers":[', '"Env":[', '"digest":"', '"size":', "null", '{"a":', "1e9"),
        ),
        Target(
            "challenge",
            _challenge,
            _texts(
                'Bearer realm="https://auth.example.com/token",service="s",scope="a\\"b"',
                'Basic realm=x, Bearer realm="http://127.0.0.1/",error=e',
                '{"token":"a","expires_in":60}',
            ),
            ("Bearer ", "Basic ", 'realm="', 'service="', 'scope="', '"token":"', '"expires_in":'),
        ),
        Target(
            "git",
            _git,
            _texts(
                "https://u:p@git.example.com/a/b.git#v1:sub?x", "git@git.example.com:a/b",
                "ssh://git@h:22/a.git?ref=x&subdir=y&checksum=abc", "../c.git", "git://h/a.git#:d",
            ),
            ("https://", "ssh://", "ext::", ".git", "?ref=", "&subdir=", "#", "..", "-u", "%0a", "::"),
        ),
    )
}  # fmt: skip
