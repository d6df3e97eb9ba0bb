"""An archive on disk, signed by keys made here, and what happens when anything of it is changed."""

from __future__ import annotations

import email.utils
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from buildgraph.errors import HostError
from buildgraph_cache.store import Store
from buildgraph_rules.debian import signature
from buildgraph_rules.debian.archive import load_indices, load_release
from buildgraph_rules.debian.control import Index
from buildgraph_rules.debian.mirrors import Mirrors
from buildgraph_rules.debian.signature import dearmour, find_gpgv
from buildgraph_rules.debian.sources import ArchiveSource, KeyringFile, KeyringText
from unit.rules.debian_world import Package, write_archive

PACKAGES = (Package("one", fields={"Depends": "two"}), Package("two"))
NOW = 1_800_000_000.0


@dataclass(frozen=True)
class Key:
    """A key of a home directory of gpg."""

    home: Path
    name: str

    def gpg(self, *arguments: str, data: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--quiet"]
        command += ["--no-autostart"] if arguments[0] == "--export" else []
        return subprocess.run(
            [*command, *arguments], input=data, capture_output=True, check=True
        ).stdout

    def export(self, armour: bool = False) -> bytes:
        return self.gpg("--export", *(["--armor"] if armour else []), self.name)

    def sign(self, text: str, *how: str) -> bytes:
        return self.gpg("--local-user", self.name, *how, data=text.encode())


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Key, Key]]:
    if not shutil.which("gpg") or not any(os.path.exists(path) for path in signature.GPGV):
        pytest.skip("needs gpg to make keys and gpgv to check them")
    home = Path("/tmp") / f"bg-gpg-{os.getpid()}"  # a socket's path must be short
    home.mkdir(mode=0o700)
    made = []
    try:
        for name in ("archive@example.org", "stranger@example.org"):
            key = Key(home, name)
            key.gpg("--passphrase", "", "--quick-gen-key", name, "ed25519", "sign", "never")
            made.append(key)
        yield made[0], made[1]
    finally:
        subprocess.run(
            ["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True
        )
        shutil.rmtree(home, ignore_errors=True)


class Archive:
    """A signed archive below a directory; `source` trusts its key."""

    def __init__(self, place: Path, key: Key, **fields: str):
        self.place = place
        self.key = key
        self.release = write_archive(
            place,
            PACKAGES,
            fields={name.replace("_", "-"): value for name, value in fields.items()},
        )
        self.suite = place / "dists/test"
        self.sign_inline(self.release)
        keyring = place / "keyring.gpg"
        keyring.write_bytes(key.export())
        self.source = ArchiveSource(
            f"file:{place}/", "test", ("main",), (KeyringFile(str(keyring)),)
        )

    def sign_inline(self, text: str) -> None:
        (self.suite / "InRelease").write_bytes(self.key.sign(text, "--clearsign"))

    def sign_detached(self) -> None:
        (self.suite / "InRelease").unlink()
        signed = self.key.sign(self.release, "--detach-sign", "--armor")
        (self.suite / "Release.gpg").write_bytes(signed)

    def edit(self, name: str, change: Callable[[bytes], bytes]) -> None:
        file = self.suite / name
        file.write_bytes(change(file.read_bytes()))


@pytest.fixture
def archive(tmp_path: Path, keys: tuple[Key, Key]) -> Archive:
    return Archive(tmp_path / "archive", keys[0])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store")) as opened:
        yield opened


def load(source: ArchiveSource, store: Store) -> list[Index]:
    return load_indices([source], "amd64", store, Mirrors(), lambda *_: None, NOW)


def refused(source: ArchiveSource) -> HostError:
    with pytest.raises(HostError) as caught:
        load_release(source, Mirrors(), NOW)
    return caught.value


def test_a_signed_archive(archive: Archive, store: Store) -> None:
    (index,) = load(archive.source, store)
    assert list(index.names()) == ["one", "two"]


def test_a_detached_signature(archive: Archive, store: Store) -> None:
    archive.sign_detached()
    assert len(load(archive.source, store)) == 1
    archive.edit("Release", lambda data: data.replace(b"Origin: Test", b"Origin: Tess"))
    assert "BAD SIGNATURE" in refused(archive.source).message


def test_an_armoured_key_in_a_file_or_in_the_sources(archive: Archive) -> None:
    armoured = archive.key.export(armour=True)
    file = archive.place / "key.asc"
    file.write_bytes(armoured)
    for keyring in (KeyringFile(str(file)), KeyringText(armoured.decode())):
        load_release(replace(archive.source, keyrings=(keyring,)), Mirrors(), NOW)
    assert dearmour(armoured, "x") == archive.key.export()
    assert dearmour(armoured + armoured, "x") == archive.key.export() * 2


def test_one_changed_byte(archive: Archive) -> None:
    archive.edit("InRelease", lambda data: data.replace(b"Origin: Test", b"Origin: Tess"))
    assert "BAD SIGNATURE" in refused(archive.source).message


def test_a_strangers_signature(archive: Archive, keys: tuple[Key, Key]) -> None:
    archive.key = keys[1]
    archive.sign_inline(archive.release)
    error = refused(archive.source)
    assert "keys that the keyring does not have" in error.message
    assert "keyring" in (error.hint or "")


def test_a_stranger_beside_the_archives_own(archive: Archive, keys: tuple[Key, Key]) -> None:
    """Debian signs with several keys, and a keyring need not have all of them."""
    both = keys[0].gpg(
        "--local-user", keys[0].name, "--local-user", keys[1].name, "--clearsign",
        data=archive.release.encode(),
    )  # fmt: skip
    archive.edit("InRelease", lambda _: both)
    load_release(archive.source, Mirrors(), NOW)


def test_only_the_signer_that_was_named(archive: Archive) -> None:
    listing = archive.key.gpg("--with-colons", "--fingerprint", archive.key.name).decode()
    own = next(line for line in listing.splitlines() if line.startswith("fpr:")).split(":")[9]
    load_release(replace(archive.source, signers=(own,)), Mirrors(), NOW)
    other = replace(archive.source, signers=("0" * 40,))
    assert "another key than Signed-By" in refused(other).message


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"Suite: evil\n" + data,
        lambda data: data + b"Suite: evil\n",
        lambda data: data + data,
        lambda data: b"",
        lambda data: b"<html>please log in</html>",
    ],
)
def test_nothing_stands_outside_the_signature(
    archive: Archive, change: Callable[[bytes], bytes]
) -> None:
    archive.edit("InRelease", change)
    assert "not a signed message" in refused(archive.source).message


def test_an_unsigned_archive(archive: Archive, store: Store) -> None:
    (archive.suite / "InRelease").unlink()
    assert "is not signed" in refused(archive.source).message
    assert len(load(replace(archive.source, trusted=True), store)) == 1


def test_no_archive_at_all(archive: Archive) -> None:
    assert "has no suite 'gone'" in refused(replace(archive.source, suite="gone")).message


@pytest.mark.parametrize("name", ["Packages", "Packages.gz"])
def test_a_changed_index(archive: Archive, store: Store, name: str) -> None:
    if name == "Packages":  # what is preferred is gone from the list, not from the disk
        archive.sign_inline(
            "".join(line for line in archive.release.splitlines(True) if ".gz" not in line)
        )
    archive.edit(f"main/binary-amd64/{name}", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(HostError, match="digest"):
        load(archive.source, store)


def test_another_suites_release(archive: Archive) -> None:
    shutil.copytree(archive.suite, archive.place / "dists/stable")
    error = refused(replace(archive.source, suite="stable"))
    assert "Release file of another suite: test" in error.message


@pytest.mark.parametrize("days", [-1, 1])
def test_valid_until(tmp_path: Path, keys: tuple[Key, Key], days: int) -> None:
    until = email.utils.formatdate(NOW + days * 86_400, usegmt=True)
    archive = Archive(tmp_path / "dated", keys[0], Valid_Until=until)
    if days > 0:
        load_release(archive.source, Mirrors(), NOW)
        return
    assert f"valid until {until}" in refused(archive.source).message
    load_release(replace(archive.source, check_valid_until=False), Mirrors(), NOW)


def test_indices_by_hash(tmp_path: Path, keys: tuple[Key, Key], store: Store) -> None:
    archive = Archive(tmp_path / "hashed", keys[0], Acquire_By_Hash="yes")
    folder = archive.suite / "main/binary-amd64"
    digest = next(line.split()[0] for line in archive.release.splitlines() if ".gz" in line)
    (folder / "by-hash/SHA256").mkdir(parents=True)
    (folder / "Packages.gz").rename(folder / f"by-hash/SHA256/{digest}")
    assert len(load(archive.source, store)) == 1


def test_components_and_architectures(archive: Archive, store: Store) -> None:
    with pytest.raises(HostError, match="has no component 'contrib'"):
        load(replace(archive.source, components=("main", "contrib")), store)
    with pytest.raises(HostError, match="no archive has packages for s390x"):
        load_indices([archive.source], "s390x", store, Mirrors(), lambda *_: None, NOW)


def test_without_gpgv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "GPGV", ("/nonexistent/gpgv",))
    with pytest.raises(HostError) as caught:
        find_gpgv()
    assert "apt-get install gpgv" in (caught.value.hint or "")


def test_a_keyring_without_keys() -> None:
    with pytest.raises(HostError, match="holds no public key"):
        dearmour(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n", "x.asc")


def test_a_broken_digest_does_not_count(keys: tuple[Key, Key]) -> None:
    long = "4CB50190207B4758A3F73A796ED0E7B82643E131"
    good = f"[GNUPG:] GOODSIG {long[-16:]} somebody\n"
    valid = f"[GNUPG:] VALIDSIG {long} 2026-07-11 1 0 4 0 1 {{}} 01 {long}"
    signature._judge(good + valid.format(8), (), "x")
    with pytest.raises(HostError, match="broken digest"):
        signature._judge(good + valid.format(2), (), "x")
