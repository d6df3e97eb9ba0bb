"""Knows how to check who signed a Release file, by gpgv; must not know what the file says.

gpgv is the machine's own, found at its absolute path and run with a clean environment, an empty
home and just the keyrings that were named. Its status lines decide, not its exit code: Debian
signs with several keys, and gpgv fails as soon as one of them is unknown to the keyring. As with
apt, one good signature by a sound digest is enough and one bad signature is one too many.
"""

from __future__ import annotations

import base64
import binascii
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from buildgraph.errors import HostError
from buildgraph_rules.debian.sources import Keyring, KeyringFile, KeyringText

GPGV: Final = ("/usr/bin/gpgv", "/usr/local/bin/gpgv", "/bin/gpgv")
_WEAK_DIGESTS: Final = frozenset({"1", "2", "3"})  # MD5, SHA-1, RIPEMD-160 (RFC 4880, 9.4)
_BEGIN: Final = b"-----BEGIN PGP SIGNED MESSAGE-----"
_SIGNATURE: Final = b"-----BEGIN PGP SIGNATURE-----"
_END: Final = b"-----END PGP SIGNATURE-----"
_ARMOUR: Final = re.compile(
    rb"^-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*\r?\n"
    rb"(?:[^\r\n:]+:[^\r\n]*\r?\n)*[ \t]*\r?\n"
    rb"([A-Za-z0-9+/=\s]+?)(?:^=[A-Za-z0-9+/]{4}[ \t]*\r?\n)?"
    rb"-----END PGP PUBLIC KEY BLOCK-----",
    re.MULTILINE,
)


def find_gpgv() -> str:
    """Return the path of gpgv, or raise HostError that says how to get it."""
    for path in GPGV:
        if Path(path).is_file():
            return path
    raise HostError(
        "cannot check the archive's signature: gpgv is not installed",
        hint="install it (apt-get install gpgv), or use a lock file: its hashes need no signature",
    )


def verify_inline(
    message: bytes, keyrings: Sequence[Keyring], signers: Sequence[str], name: str
) -> bytes:
    """Return the text that a clear-signed message signs.

    The text is what gpgv saw, not our own reading of the message. Raises HostError where the
    signature is not good, or anything stands outside the signed text.
    """
    stripped = message.strip()
    framed = (
        stripped.startswith(_BEGIN)
        and stripped.endswith(_END)
        and all(_lines(message, mark) == 1 for mark in (_BEGIN, _SIGNATURE, _END))
    )
    if not framed:
        raise HostError(
            f"{name} is not a signed message",
            hint="a proxy or a login page may have answered in the archive's place",
        )
    with tempfile.TemporaryDirectory(prefix="buildgraph-gpgv-") as directory:
        signed, output = Path(directory, "message"), Path(directory, "text")
        signed.write_bytes(message)
        arguments = ["--output", str(output), str(signed)]
        _check(arguments, Path(directory), keyrings, signers, name)
        return output.read_bytes()


def verify_detached(
    text: bytes, signature: bytes, keyrings: Sequence[Keyring], signers: Sequence[str], name: str
) -> bytes:
    """Return `text` if the detached `signature` over it is good, else raise HostError."""
    with tempfile.TemporaryDirectory(prefix="buildgraph-gpgv-") as directory:
        signed, detached = Path(directory, "text"), Path(directory, "signature")
        signed.write_bytes(text)
        detached.write_bytes(signature)
        _check([str(detached), str(signed)], Path(directory), keyrings, signers, name)
    return text


def dearmour(data: bytes, name: str) -> bytes:
    """Return the binary form of a keyring; one that is binary already comes back as it is.

    gpgv before 2.4.1 cannot read armour. Raises HostError for armour without a key in it.
    """
    if b"-----BEGIN" not in data[:4096]:
        return data
    try:
        blocks = [
            base64.b64decode(b"".join(match[1].split()), validate=True)
            for match in _ARMOUR.finditer(data + b"\n")
        ]
    except binascii.Error as error:
        raise HostError(f"keyring {name} is damaged: {error}") from error
    if not blocks:
        raise HostError(f"keyring {name} holds no public key")
    return b"".join(blocks)


def _check(
    arguments: list[str],
    directory: Path,
    keyrings: Sequence[Keyring],
    signers: Sequence[str],
    name: str,
) -> None:
    command = [find_gpgv(), "--homedir", str(directory), "--status-fd", "1"]
    for number, keyring in enumerate(keyrings):
        file = directory / f"keyring-{number}.gpg"
        file.write_bytes(_read(keyring))
        command += ["--keyring", str(file)]
    if not keyrings:
        raise HostError(
            f"no keyring to check {name} with",
            hint="install debian-archive-keyring, or name a keyring in the target",
        )
    environment = {"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
    try:
        done = subprocess.run(
            [*command, "--", *arguments] if "--output" not in arguments else command + arguments,
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"cannot check the signature of {name}: {error}") from error
    _judge(done.stdout.decode("utf-8", "replace"), signers, name)


def _judge(status: str, signers: Sequence[str], name: str) -> None:
    """Raise HostError unless the status lines show a good signature and no bad one."""
    lines = [line.split()[1:] for line in status.splitlines() if line.startswith("[GNUPG:] ")]
    words = {line[0] for line in lines if line}
    if "BADSIG" in words:
        raise HostError(f"{name}: BAD SIGNATURE: the file was changed after it was signed")
    good_keys = {line[1] for line in lines if line[0] == "GOODSIG" and len(line) > 1}
    valid = [line for line in lines if line[0] == "VALIDSIG" and len(line) > 10]
    sound = [line for line in valid if line[8] not in _WEAK_DIGESTS]
    accepted = [
        line
        for line in sound
        if any(line[1].endswith(key) for key in good_keys)
        and (not signers or any(f.endswith(s) for f in (line[1], line[10]) for s in signers))
    ]
    if accepted:
        return
    missing = ", ".join(line[1] for line in lines if line[0] == "NO_PUBKEY" and len(line) > 1)
    if "EXPKEYSIG" in words or "REVKEYSIG" in words:
        problem = "its key has expired or was revoked"
    elif valid and not sound:
        problem = "it is signed with a broken digest (MD5, SHA-1)"
    elif valid:
        problem = "it is signed by another key than Signed-By asks for"
    elif missing:
        problem = f"it is signed by keys that the keyring does not have ({missing})"
    else:
        problem = "there is no good signature on it"
    raise HostError(
        f"{name}: {problem}",
        hint="install the archive's keyring package, or name its file with `keyring:`",
    )


def _read(keyring: Keyring) -> bytes:
    match keyring:
        case KeyringText(text):
            return dearmour(text.encode(), "in the apt sources")
        case KeyringFile(path):
            try:
                return dearmour(Path(path).read_bytes(), path)
            except OSError as error:
                raise HostError(f"cannot read keyring {path}: {error.strerror}") from error


def _lines(message: bytes, mark: bytes) -> int:
    return sum(line.rstrip() == mark for line in message.split(b"\n"))
