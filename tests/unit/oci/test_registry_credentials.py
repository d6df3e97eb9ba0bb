"""Whose name and password go to which registry, and how they are kept."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from buildgraph import limits
from buildgraph.errors import HostError, InputError
from buildgraph.oci.registry.credentials import Credentials, CredentialStore


def basic(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def store(home: Path, config: Any = None, **environ: str) -> CredentialStore:
    if config is not None:
        path = home / ".docker" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(config if isinstance(config, str) else json.dumps(config))
    return CredentialStore({"HOME": str(home), "PATH": str(home / "bin")} | environ)


def helper(home: Path, name: str, script: str) -> Path:
    path = home / "bin" / f"docker-credential-{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return path


def test_nobody_is_known_without_a_file(tmp_path: Path) -> None:
    assert store(tmp_path).find("example.com") is None


@pytest.mark.parametrize(
    ("key", "domain", "found"),
    [
        ("example.com", "example.com", True),
        ("https://example.com", "example.com", True),
        ("https://example.com/v2/", "example.com", True),
        ("EXAMPLE.com", "example.com", True),
        ("example.com:5000", "example.com:5000", True),
        ("example.com:5000", "example.com", False),
        ("example.com", "example.com:5000", False),
        ("example.com", "example.com.evil", False),
        ("example.com", "notexample.com", False),
        ("https://index.docker.io/v1/", "docker.io", True),
        ("docker.io", "docker.io", True),
        ("index.docker.io", "docker.io", True),
    ],
)
def test_a_password_is_for_its_own_host(tmp_path: Path, key: str, domain: str, found: bool) -> None:
    known = store(tmp_path, {"auths": {key: basic("me", "pa:ss")}}).find(domain)
    assert known == (Credentials("me", "pa:ss") if found else None)


def test_the_longest_name_counts(tmp_path: Path) -> None:
    auths = {"h": basic("a", "1"), "h/team": basic("b", "2"), "h/team/app": basic("c", "3")}
    known = store(tmp_path, {"auths": auths})
    users = {name: known.find("h", name) for name in ("x", "team/y", "team/app", "teamwork")}
    assert {name: c.username for name, c in users.items() if c} == {
        "x": "a",
        "team/y": "b",
        "team/app": "c",
        "teamwork": "a",
    }


def test_an_identity_token(tmp_path: Path) -> None:
    auths = {"h": {**basic("me", ""), "identitytoken": "t0k"}}
    found = store(tmp_path, {"auths": auths}).find("h")
    assert found == Credentials("me", "", "t0k")
    assert "t0k" not in repr(found)


def test_where_the_file_is(tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"auths": {"h": basic("you", "x")}}))
    known = store(tmp_path, {"auths": {"h": basic("me", "y")}}, DOCKER_CONFIG=str(other))
    assert known.find("h") == Credentials("you", "x")


def test_podmans_file_is_read_after_dockers(tmp_path: Path) -> None:
    auth = tmp_path / "auth.json"
    auth.write_text(json.dumps({"auths": {"h": basic("p", "x"), "i": basic("q", "y")}}))
    known = store(tmp_path, {"auths": {"h": basic("d", "z")}}, REGISTRY_AUTH_FILE=str(auth))
    assert known.find("h") == Credentials("d", "z")
    assert known.find("i") == Credentials("q", "y")


def test_a_helper_is_asked_by_the_name_docker_uses(tmp_path: Path) -> None:
    helper(
        tmp_path,
        "own",
        'read server; [ "$1" = get ] || exit 9\n'
        'printf \'{"ServerURL":"%s","Username":"u","Secret":"%s"}\' "$server" "$server"',
    )
    known = store(tmp_path, {"credHelpers": {"h:1": "own", "docker.io": "own"}})
    assert known.find("h:1") == Credentials("u", "h:1")
    assert known.find("docker.io") == Credentials("u", "https://index.docker.io/v1/")
    assert known.find("other") is None


def test_a_helper_may_hold_a_token_or_nothing(tmp_path: Path) -> None:
    helper(tmp_path, "t", 'printf \'{"Username":"<token>","Secret":"abc"}\'')
    assert store(tmp_path, {"credsStore": "t"}).find("h") == Credentials(identity_token="abc")
    helper(tmp_path, "t", "echo 'credentials not found in native keychain'; exit 1")
    assert store(tmp_path, {"credsStore": "t"}).find("h") is None


def test_a_helper_that_has_nothing_leaves_it_to_the_file(tmp_path: Path) -> None:
    helper(tmp_path, "t", "echo 'credentials not found in native keychain'; exit 1")
    config = {"credsStore": "t", "auths": {"h": basic("a", "b")}}
    assert store(tmp_path, config).find("h") == Credentials("a", "b")


@pytest.mark.parametrize("name", ["../x", "a/b", "", "A", "x y", "-x", "x;y", 3, "$(x)"])
def test_a_helpers_name_is_a_name(tmp_path: Path, name: Any) -> None:
    known = store(tmp_path, {"credsStore": name})
    if not name:
        assert known.find("h") is None
        return
    with pytest.raises(InputError, match="credential helper"):
        known.find("h")


def test_a_failing_helper_is_named_and_not_quoted(tmp_path: Path) -> None:
    helper(tmp_path, "t", "echo s3cret >&2; echo s3cret; exit 3")
    with pytest.raises(HostError, match="docker-credential-t get failed") as failure:
        store(tmp_path, {"credsStore": "t"}).find("h")
    assert "s3cret" not in str(failure.value)
    helper(tmp_path, "t", "echo s3cret")
    with pytest.raises(HostError, match="unknown answer") as failure:
        store(tmp_path, {"credsStore": "t"}).find("h")
    assert "s3cret" not in str(failure.value)


def test_a_missing_helper(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="docker-credential-gone is not installed"):
        store(tmp_path, {"credsStore": "gone"}).find("h")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"auths":{"h":{"auth":"%%%"}}}', '{"auths":{"h":{"auth":"bm9jb2xvbg=="}}}']
)
def test_a_damaged_file_is_named_and_not_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"config\.json") as failure:
        store(tmp_path, text).find("h")
    assert "bm9j" not in str(failure.value)


def test_a_file_of_passwords_has_a_size(tmp_path: Path) -> None:
    text = json.dumps({"auths": {"h": basic("me", "x")}})
    most = store(tmp_path, text + " " * (limits.AUTH_FILE_BYTES - len(text)))
    assert most.find("h") == Credentials("me", "x")
    with pytest.raises(InputError, match="more than"):
        store(tmp_path, text + " " * (limits.AUTH_FILE_BYTES - len(text) + 1)).find("h")


def test_login_keeps_what_the_file_says(tmp_path: Path) -> None:
    known = store(tmp_path, {"psFormat": "x", "auths": {"https://h": basic("old", "1")}})
    assert known.save("h", Credentials("new", "2")).endswith("config.json")
    path = tmp_path / ".docker" / "config.json"
    assert json.loads(path.read_text()) == {"psFormat": "x", "auths": {"h": basic("new", "2")}}
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["config.json"]
    assert known.find("h") == Credentials("new", "2")
    assert known.erase("h")
    assert not known.erase("h")
    assert known.find("h") is None


def test_login_makes_the_file_and_follows_its_link(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").symlink_to(tmp_path / "dotfiles.json")
    store(tmp_path).save("docker.io", Credentials("me", "p"))
    written = json.loads((tmp_path / "dotfiles.json").read_text())
    assert written == {"auths": {"https://index.docker.io/v1/": basic("me", "p")}}
    assert (tmp_path / ".docker" / "config.json").is_symlink()


def test_login_by_a_helper(tmp_path: Path) -> None:
    log = tmp_path / "log"
    helper(tmp_path, "t", f'echo "$1" >> {log}; /bin/cat >> {log}; echo >> {log}')
    known = store(tmp_path, {"credsStore": "t"})
    assert known.save("h", Credentials("u", "p")) == "docker-credential-t"
    assert log.read_text().split("\n")[0] == "store"
    assert json.loads(log.read_text().split("\n")[1]) == {
        "ServerURL": "h",
        "Username": "u",
        "Secret": "p",
    }
    assert "auths" not in json.loads((tmp_path / ".docker" / "config.json").read_text())
