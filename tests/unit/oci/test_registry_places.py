"""Where a registry is spoken to: each file's say, which one decides, and plain HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from buildgraph import limits
from buildgraph.errors import InputError
from buildgraph.oci.registry.places import (
    Places,
    RegistrySetting,
    is_loopback,
    schemes_of,
)


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Places]:
    def make(
        files: dict[str, str] | None = None,
        settings: dict[str, RegistrySetting] | None = None,
        **environ: str,
    ) -> Places:
        for name, text in (files or {}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        home = {"HOME": str(tmp_path / "home")}
        return Places(home | environ, settings, etc=str(tmp_path / "etc"))

    return make


LOOK_ALIKES = [
    ("localhost", True),
    ("localhost:5000", True),
    ("127.0.0.1", True),
    ("127.0.0.1:5000", True),
    ("127.255.0.3:1", True),
    ("[::1]", True),
    ("[::1]:5000", True),
    ("localhost.evil", False),
    ("localhost.evil:5000", False),
    ("evil.localhost", False),
    ("localhost.localdomain", False),
    ("127.0.0.1.evil", False),
    ("127.0.0.1.nip.io:443", False),
    ("0.0.0.0", False),
    ("[::]", False),
    ("10.0.0.1", False),
    ("192.168.1.1:5000", False),
    ("169.254.169.254", False),
    ("example.com", False),
    ("1.127.0.0:80", False),
]


@pytest.mark.parametrize(("host", "plain"), LOOK_ALIKES)
def test_plain_http_is_for_loopback_alone(host: str, plain: bool) -> None:
    assert is_loopback(host) is plain
    assert ("http" in schemes_of(host)) is plain


def test_nothing_said(machine: Callable[..., Places]) -> None:
    (own,) = machine().endpoints("registry.example.com", "shop/app")
    assert own.base("https") == "https://registry.example.com/v2"
    assert (own.schemes, own.repository, own.push, own.verify) == (
        ("https",),
        "shop/app",
        True,
        True,
    )


def test_docker_hub_lives_elsewhere(machine: Callable[..., Places]) -> None:
    (own,) = machine().endpoints("docker.io", "library/debian")
    assert own.host == "registry-1.docker.io"


CONF = """
[[registry]]
prefix = "example.com/team"
location = "internal.example.net/all/team"
[[registry.mirror]]
location = "mirror.example.net/cache"
[[registry.mirror]]
location = "localhost:5000"
insecure = true
pull-from-mirror = "digest-only"

[[registry]]
location = "lab.example.com:5000"
insecure = true

[[registry]]
prefix = "*.bad.example"
blocked = true
"""


def test_registries_conf_rewrites_and_mirrors(machine: Callable[..., Places]) -> None:
    places = machine({"etc/containers/registries.conf": CONF})
    first, second, own = places.endpoints("example.com", "team/app")
    assert (first.host, first.repository, first.push) == ("mirror.example.net", "cache/app", False)
    assert (second.host, second.use, second.verify) == ("localhost:5000", "digest", False)
    assert (own.host, own.repository, own.push) == ("internal.example.net", "all/team/app", True)
    assert own.said_by.endswith("registries.conf")
    (lab,) = places.endpoints("lab.example.com:5000", "x")
    assert lab.schemes == ("https", "http")
    assert not lab.verify
    (other,) = places.endpoints("example.com", "teamwork/app")
    assert other.host == "example.com"


def test_a_blocked_registry_is_refused(machine: Callable[..., Places]) -> None:
    places = machine({"etc/containers/registries.conf": CONF})
    with pytest.raises(InputError, match="blocked"):
        places.endpoints("x.bad.example", "app")
    places.endpoints("bad.example", "app")


def test_drop_ins_and_the_users_own_file(machine: Callable[..., Places]) -> None:
    one = '[[registry]]\nlocation = "a.example"\ninsecure = true\n'
    two = '[[registry]]\nlocation = "a.example"\ninsecure = false\n'
    files = {
        "etc/containers/registries.conf": one,
        "etc/containers/registries.conf.d/10.conf": two,
        "etc/containers/registries.conf.d/skipped.txt": "not TOML [",
    }
    assert machine(files).endpoints("a.example", "x")[0].verify
    files["home/.config/containers/registries.conf"] = one
    assert not machine(files).endpoints("a.example", "x")[0].verify


def test_the_variable_replaces_every_file(machine: Callable[..., Places], tmp_path: Path) -> None:
    files = {"etc/containers/registries.conf": CONF, "own.conf": ""}
    places = machine(files, CONTAINERS_REGISTRIES_CONF=str(tmp_path / "own.conf"))
    assert len(places.endpoints("example.com", "team/app")) == 1


HOSTS = """
server = "https://upstream.example"
[host."https://mirror.example:8443/v2/"]
  capabilities = ["pull", "resolve"]
  ca = "ca.crt"
  client = [["c.cert", "c.key"]]
  [host."https://mirror.example:8443/v2/".header]
    x-team = ["shop"]
[host."http://cache.example/proxy"]
  capabilities = ["pull"]
  override_path = true
"""


def test_hosts_toml(machine: Callable[..., Places], tmp_path: Path) -> None:
    name = "etc/containerd/certs.d/example.com/hosts.toml"
    mirror, cache, own = machine({name: HOSTS}).endpoints("example.com", "app")
    assert mirror.base("https") == "https://mirror.example:8443/v2"
    assert not mirror.push
    base = str((tmp_path / name).parent)
    assert mirror.ca == (f"{base}/ca.crt",)
    assert mirror.client == ((f"{base}/c.cert", f"{base}/c.key"),)
    assert mirror.headers == (("x-team", "shop"),)
    assert cache.base("http") == "http://cache.example/proxy"
    assert (cache.resolve, cache.schemes) == (False, ("http",))
    assert (own.host, own.push, own.mirror) == ("upstream.example", True, False)


def test_hosts_toml_names_ports_and_defaults(machine: Callable[..., Places]) -> None:
    text = '[host."https://m.example"]\ncapabilities = ["pull"]\n'
    places = machine({"etc/containerd/certs.d/example.com_5000_/hosts.toml": text})
    mirror, own = places.endpoints("example.com:5000", "app")
    assert (mirror.host, own.host) == ("m.example", "example.com:5000")
    places = machine({"etc/containerd/certs.d/_default/hosts.toml": text})
    assert len(places.endpoints("other.example", "app")) == 2


def test_certificates_lie_in_directories(machine: Callable[..., Places], tmp_path: Path) -> None:
    files = {
        "etc/docker/certs.d/example.com:5000/ca.crt": "",
        "etc/docker/certs.d/example.com:5000/me.cert": "",
        "etc/docker/certs.d/example.com:5000/me.key": "",
    }
    (own,) = machine(files).endpoints("example.com:5000", "app")
    top = tmp_path / "etc/docker/certs.d/example.com:5000"
    assert own.ca == (str(top / "ca.crt"),)
    assert own.client == ((str(top / "me.cert"), str(top / "me.key")),)
    (tmp_path / "etc/docker/certs.d/example.com:5000/me.key").unlink()
    del files["etc/docker/certs.d/example.com:5000/me.key"]
    with pytest.raises(InputError, match="no key"):
        machine(files).endpoints("example.com:5000", "app")


def test_the_boxfile_decides_and_is_trusted_with_less(machine: Callable[..., Places]) -> None:
    settings = {
        "example.com": RegistrySetting(("mirror.example", "http://10.0.0.9:80/x"), ca="/w/ca.crt"),
        "lab.example": RegistrySetting(insecure=True),
        "localhost:5000": RegistrySetting(insecure=True),
    }
    places = machine({"etc/containerd/certs.d/example.com/hosts.toml": HOSTS}, settings)
    one, two, own = places.endpoints("example.com", "app")
    assert (one.host, one.trusted) == ("mirror.example", True)
    assert (two.host, two.schemes, two.trusted) == ("10.0.0.9:80", ("http",), False)
    assert two.repository == "x/app"
    assert own.ca == ("/w/ca.crt",)
    assert own.trusted
    (lab,) = places.endpoints("lab.example", "app")
    assert not lab.trusted
    assert places.endpoints("localhost:5000", "app")[0].trusted


@pytest.mark.parametrize(
    "text",
    [
        "not toml",
        'registry = "x"',
        "[[registry]]\n",
        '[[registry]]\nlocation = "a"\n[[registry.mirror]]\n',
        '[[registry]]\nlocation = "a"\n[[registry.mirror]]\nlocation="b"\npull-from-mirror="no"\n',
        "a = " + "[" * 5000,
    ],
)
def test_a_damaged_file_is_named(machine: Callable[..., Places], text: str) -> None:
    with pytest.raises(InputError, match=r"registries\.conf"):
        machine({"etc/containers/registries.conf": text})


def test_a_file_about_registries_has_a_size(machine: Callable[..., Places]) -> None:
    name = "etc/containers/registries.conf"
    most = CONF + "#" * (limits.REGISTRY_CONFIG_BYTES - len(CONF))
    assert len(machine({name: most}).endpoints("example.com", "team/app")) == 3
    with pytest.raises(InputError, match="more than"):
        machine({name: most + "#"})


@pytest.mark.parametrize(
    "text",
    [
        'server = "ftp://x"',
        'host = "x"',
        '[host."https://u:p@h"]',
        '[host."https://h"]\ncapabilities = ["fly"]',
        '[host."https://h"]\nca = 3',
        '[host."https://h"]\nclient = [["a", "b", "c"]]',
    ],
)
def test_a_damaged_hosts_file_is_named(machine: Callable[..., Places], text: str) -> None:
    with pytest.raises(InputError, match=r"hosts\.toml"):
        machine({"etc/containerd/certs.d/h/hosts.toml": text}).endpoints("h", "app")
