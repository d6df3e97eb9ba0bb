"""Knows what ADD makes of files of servers, and what it asks of them; must not know how bytes
travel (tests/unit/transport).
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from e2e.building import BOTH, Bench
from e2e.images import listing, text
from e2e.test_build_add import ARCHIVE, UNPACKED
from unit.transport.scripted_server import End, Seen, Server, head, ranged, reply

MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"
MOMENT = 1_700_000_000


@dataclass
class Files:
    """A server of files, each with an ETag of its content."""

    files: dict[str, bytes] = field(default_factory=dict)
    fields: Mapping[str, object] = field(default_factory=dict)
    etags: bool = True

    def __call__(self, seen: Seen) -> Iterable[bytes | End]:
        data = self.files.get(seen.target)
        if data is None:
            return reply(404)
        fields = dict(self.fields)
        if self.etags:
            fields["ETag"] = f'"{hashlib.sha256(data).hexdigest()[:8]}"'
        if self.etags and seen.headers.get("if-none-match") == fields["ETag"]:
            return reply(304, b"", fields)
        return reply(200, b"" if seen.method == "HEAD" else data, fields)


@pytest.fixture
def files() -> Files:
    return Files({"/a/f.txt": b"data"})


@pytest.fixture
def server(files: Files) -> Iterator[Server]:
    with Server(files) as made:
        yield made


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def add(server: Server, path: str = "/a/f.txt", flags: str = "", dest: str = "/d/") -> str:
    return f"FROM scratch\nADD {flags} {server.url(path)} {dest}\n"


@BOTH
def test_a_file_of_a_server_is_private_and_roots(who: Bench, server: Server, files: Files) -> None:
    files.files |= {"/a/g%5b1%5d?token=x": b"g", "/": b"index"}
    url = server.url()
    built = who.build(
        f"""
        FROM base
        ADD {url}a/f.txt {url}a/g%5b1%5d?token=x /d/
        ADD {url}a/f.txt /e/exact
        ADD {url} /named
        ADD --chmod=755 --chown=app {url}a/f.txt /owned
        ADD --link --chown=7:8 {url}a/f.txt /linked
        """
    )
    assert built.made == text("""
        d 755 0:0 d
        f 600 0:0 d/f.txt = 'data'
        f 600 0:0 d/g[1] = 'g'
        d 755 0:0 e
        f 600 0:0 e/exact = 'data'
        f 600 7:8 linked = 'data'
        f 600 0:0 named = 'index'
        f 755 1000:1000 owned = 'data'
    """)
    # One question a file and a build, however often it is added.
    assert sorted(server.targets) == ["GET /", "GET /a/f.txt", "GET /a/g%5b1%5d?token=x"]
    assert built.image.tree["d/f.txt"].mtime == 315532800
    assert "token=x" not in built.result.stderr


def test_local_and_remote_sources_side_by_side(
    root_bench: Bench, server: Server, files: Files
) -> None:
    built = root_bench.build(
        f"FROM scratch\nADD l {server.url('/a/f.txt')} m <<h /d/\nin\nh\n", {"l": "l", "m": "m"}
    )
    assert sorted(built.image.tree) == ["d", "d/f.txt", "d/h", "d/l", "d/m"]


def test_an_unchanged_file_costs_one_question(
    root_bench: Bench, server: Server, files: Files
) -> None:
    first = root_bench.build(add(server))
    second = root_bench.build(add(server))
    assert first.digest == second.digest
    assert second.result.built == []
    assert "if-none-match" in server.seen[1].headers
    files.files["/a/f.txt"] = b"new"
    third = root_bench.build(add(server))
    assert third.content("d/f.txt") == "new"
    files.files["/a/f.txt"] = b"data"  # as it was: its layers are known
    assert root_bench.build(add(server)).digest == first.digest
    assert len(server.seen) == 4


def test_a_server_that_knows_no_validators_is_believed_by_digest(
    root_bench: Bench, server: Server, files: Files
) -> None:
    files.etags = False
    files.files["/a/f.txt"] = b"no validators"
    root_bench.build(add(server))
    second = root_bench.build(add(server))
    assert second.result.built == []
    assert len(server.seen) == 2


def test_a_date_alone_is_a_validator(root_bench: Bench, server: Server, files: Files) -> None:
    files.etags = False
    files.fields = {"Last-Modified": MODIFIED}
    files.files["/a/f.txt"] = b"dated"
    root_bench.build(add(server))
    root_bench.build(add(server))
    assert server.seen[1].headers["if-modified-since"] == MODIFIED


def test_a_pinned_file_is_asked_for_once(root_bench: Bench, server: Server, files: Files) -> None:
    data = os.urandom(32)
    files.files["/a/f.txt"] = data
    flags = f"--checksum={sha256(data)}"
    first = root_bench.build(add(server, flags=flags))
    second = root_bench.build(add(server, flags=flags, dest="/elsewhere/"))
    assert second.image.tree["elsewhere/f.txt"].content == data
    assert server.targets == ["GET /a/f.txt"]
    # Nor does another server, or none, make a difference.
    moved = add(server, flags=flags).replace(str(server.port), "1")
    assert root_bench.build(moved).result.built == []
    assert first.result.built


def test_a_wrong_checksum_is_an_error(root_bench: Bench, server: Server, files: Files) -> None:
    files.files["/a/f.txt"] = b"tampered with"
    said = root_bench.fail(add(server, flags=f"--checksum={sha256(b'as it was')}"))
    assert "has not the content that --checksum says" in said.stderr
    assert sha256(b"tampered with") in said.stderr
    assert "Dockerfile:2:" in said.stderr
    said = root_bench.fail(add(server, flags=f"--checksum={sha256(b'as it was')}"))
    assert "has not the content" in said.stderr


def test_the_date_of_a_server_is_kept_up_to_the_epoch(
    root_bench: Bench, server: Server, files: Files
) -> None:
    files.fields = {"Last-Modified": MODIFIED}
    pinned = f"--checksum={sha256(b'data')}"
    for epoch, flags, mtime in (
        (MOMENT + 10, "", MOMENT),
        (MOMENT - 10, "", MOMENT - 10),
        (MOMENT + 10, pinned, MOMENT),
    ):
        env = {"SOURCE_DATE_EPOCH": str(epoch)}
        built = root_bench.build(add(server, flags=flags), env=env)
        assert built.image.tree["d/f.txt"].mtime == mtime


def test_archives_are_unpacked_only_where_asked_for(
    root_bench: Bench, server: Server, files: Files
) -> None:
    files.files["/a.tgz"] = gzip.compress(ARCHIVE)
    built = root_bench.build(add(server, "/a.tgz", dest="/d/"))
    assert sorted(built.image.tree) == ["d", "d/a.tgz"]
    built = root_bench.build(add(server, "/a.tgz", "--unpack=true", "/d/"))
    assert listing(built.image.tree) == text(UNPACKED)


def test_offline_takes_what_is_known(root_bench: Bench, server: Server, files: Files) -> None:
    files.files["/a/f.txt"] = b"for offline"
    built = root_bench.build(add(server))
    again = root_bench.build(add(server), None, "--offline")
    assert again.digest == built.digest
    assert len(server.seen) == 1
    said = root_bench.fail(add(server, "/other"), None, "--offline", expect=3)
    assert "--offline fetches nothing" in said.stderr
    assert "Dockerfile:2:" in said.stderr
    assert len(server.seen) == 1


def test_nothing_unpinned_is_answered_without_asking(
    root_bench: Bench, server: Server, files: Files
) -> None:
    data = os.urandom(16)
    files.files["/a/f.txt"] = data
    pin = f"--checksum={sha256(data)}"
    for flags, more, questions in (("", (), 3), (pin, (), 0), ("", ("--offline",), 0)):
        directory = root_bench.directory({}, add(server, flags=flags))
        words = ["build", directory, "-o", "type=cacheonly", *more]
        time.sleep(0.03)  # files of this very moment are not trusted
        before = len(server.seen)
        for _ in range(3):
            root_bench.run(*words)
        assert len(server.seen) - before == questions


def test_plans_ask_but_fetch_nothing(root_bench: Bench, server: Server, files: Files) -> None:
    files.files["/a/f.txt"] = os.urandom(16)
    directory = root_bench.directory({}, add(server))
    words = ["build", directory, "-o", "type=cacheonly"]
    assert "what its server has now is not in the store" in root_bench.run(*words, "-n").stdout
    root_bench.run(*words)
    assert "2 hit" in root_bench.run(*words, "-n").stdout
    asked = len(server.seen)
    assert "2 hit" in root_bench.run(*words, "-n", "--offline").stdout
    assert len(server.seen) == asked
    files.files["/a/f.txt"] = os.urandom(16)
    assert "1 build, 1 depends" in root_bench.run(*words, "-n").stdout
    root_bench.run(*words)
    files.files["/a/f.txt"] = os.urandom(16)


def test_a_server_without_the_file(root_bench: Bench, server: Server) -> None:
    said = root_bench.fail(add(server, "/missing"), expect=3)
    assert f"{server.url('/missing')} does not exist (HTTP 404" in said.stderr
    assert "Dockerfile:2:" in said.stderr
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "place",
    ["file:///etc/passwd", "http://169.254.169.254/latest/meta-data/", "ftp://127.0.0.1/x"],
)
def test_redirects_to_elsewhere_are_refused(root_bench: Bench, place: str) -> None:
    with Server(lambda seen: reply(302, b"", {"Location": place})) as server:
        said = root_bench.fail(add(server), expect=3)
        assert len(server.seen) == 1
    assert "redirects to" in said.stderr or "link-local" in said.stderr
    assert "Dockerfile:2:" in said.stderr


def test_a_server_names_no_file(root_bench: Bench, server: Server, files: Files) -> None:
    files.fields = {"Content-Disposition": 'attachment; filename="../../etc/passwd"'}
    files.files["/a/f.txt"] = b"named by its url"
    with Server(lambda s: reply(302, b"", {"Location": server.url("/a/f.txt")})) as first:
        built = root_bench.build(add(first, "/mine"))
    assert sorted(built.image.tree) == ["d", "d/mine"]


@BOTH
def test_a_secret_goes_to_its_server_and_nowhere_else(who: Bench) -> None:
    word = f"tok-{os.urandom(8).hex()}"
    with Server(lambda seen: reply(200, b"open")) as other:

        def answer(seen: Seen) -> Iterable[bytes]:
            if seen.headers.get("authorization") != f"Bearer {word}":
                return reply(401)
            if seen.target == "/moved":
                return reply(302, b"", {"Location": other.url("/x")})
            return reply(200, b"guarded")

        with Server(answer) as server:
            dockerfile = add(server, "/f") + f"ADD {server.url('/moved')} /d/\n"
            secret = f"id=HTTP_AUTH_TOKEN_127.0.0.1:{server.port},env=WORD"
            built = who.build(dockerfile, None, "--secret", secret, env={"WORD": word})
            assert built.content("d/f") == "guarded"
            assert built.content("d/moved") == "open"
            said = who.fail(dockerfile, expect=3)
            assert "401" in said.stderr
        assert [seen.headers.get("authorization") for seen in other.seen] == [None]
        # A secret of one port is none of another.
        secret = "id=HTTP_AUTH_TOKEN_127.0.0.1,env=WORD"
        who.build(add(other, "/y"), None, "--secret", secret, env={"WORD": word})
        assert [seen.headers.get("authorization") for seen in other.seen] == [None, None]
    assert word not in built.result.stdout + built.result.stderr
    assert not _holds(who.workspace.store(who.user), word.encode())


def test_a_secret_is_not_sent_in_the_clear(root_bench: Bench) -> None:
    said = root_bench.fail(
        "FROM scratch\nADD http://files.invalid/f /\n",
        None,
        "--secret",
        "id=HTTP_AUTH_TOKEN_files.invalid,env=WORD",
        env={"WORD": "hunter2"},
    )
    assert "is not sent over plain http" in said.stderr
    assert "hunter2" not in said.stderr


def test_a_login_in_the_url_is_shown_and_kept_nowhere(root_bench: Bench, server: Server) -> None:
    word = f"pw-{os.urandom(8).hex()}"
    dockerfile = "FROM scratch\nARG U\nADD $U /d/\n"
    url = server.url("/a/f.txt").replace("//", f"//me:{word}@")
    built = root_bench.build(dockerfile, None, "--build-arg", f"U={url}")
    assert server.seen[0].headers["authorization"].startswith("Basic ")
    assert word not in built.result.stdout + built.result.stderr
    missing = url.replace("f.txt", "missing")
    said = root_bench.fail(dockerfile, None, "--build-arg", f"U={missing}", expect=3)
    assert word not in said.stdout + said.stderr
    written = add(server).replace("//", f"//me:{word}@", 1)
    built = root_bench.build(written)
    assert word not in built.result.stdout + built.result.stderr
    assert not _holds(root_bench.workspace.store(), word.encode())


@pytest.mark.parametrize("pinned", [False, True])
def test_a_download_that_was_killed_goes_on(root_bench: Bench, pinned: bool) -> None:
    data = os.urandom(4_000_000)

    def answer(seen: Seen) -> Iterable[bytes | End]:
        if len(server.seen) > 1:
            yield from ranged(seen, data)
            return
        yield head(200, {"Content-Length": len(data), "ETag": '"v1"'})
        yield data[:3_000_000]
        yield End.STALL

    with Server(answer) as server:
        flags = f"--checksum={sha256(data)}" if pinned else ""
        directory = root_bench.directory({}, add(server, flags=flags))
        process = root_bench.workspace.start("build", directory, "-o", "type=cacheonly")
        partial = root_bench.workspace.store() / "partial"
        for _ in range(500):
            with contextlib.suppress(OSError):
                if any(one.stat().st_size == 3_000_000 for one in partial.iterdir()):
                    break
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        built = root_bench.build_in(directory)
        assert built.image.tree["d/f.txt"].content == data
        assert server.seen[-1].offset == 3_000_000


def _holds(store: Path, word: bytes) -> bool:
    """Say whether any file of a store has these bytes in it."""
    for top, _, names in os.walk(store):
        for name in names:
            path = Path(top, name)
            if path.is_file() and not path.is_symlink() and word in path.read_bytes():
                return True
    return False
