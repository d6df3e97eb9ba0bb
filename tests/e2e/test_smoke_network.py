"""Knows what checks make of TLS, and what a test's network leads to, on real containers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from e2e.building import BOTH, Bench, Files
from e2e.smoking import WEB, smoke

pytestmark = pytest.mark.kernel

SERVER = """\
  server:
    dockerfile_inline: |
      FROM base
      COPY --chmod=755 tls/ /
      WORKDIR /srv
      CMD ["/openssl", "s_server", "-accept", "8443", "-cert", "/cert", "-key", "/key", "-WWW"]
    contexts: {base: "oci-layout://LAYOUT"}
"""
SECURE = """\
services: {web: {image: ":server", networks: {default: {aliases: [other]}}}}
checks:
"""


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A TLS server that runs anywhere, with a certificate for `web` alone."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("machine: openssl is not installed")
    made = tmp_path_factory.mktemp("tls")
    form = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=web"
    where = ["-keyout", str(made / "key"), "-out", str(made / "cert")]
    subprocess.run(
        [openssl, *form.split(), "-addext", "subjectAltName=DNS:web", *where],
        check=True,
        capture_output=True,
    )
    files: Files = {
        "tls/openssl": Path(openssl).read_bytes(),
        "tls/srv/hello": "HTTP/1.0 200 ok\r\nContent-Type: text/plain\r\n\r\nhello\n",
        "ca.pem": (made / "cert").read_text(),
        "tls/cert": (made / "cert").read_text(),
        "tls/key": (made / "key").read_text(),
    }
    needed = subprocess.run(["ldd", openssl], check=True, capture_output=True, text=True).stdout
    for library in re.findall(r"(/\S+) \(0x", needed):
        files[f"tls{library}"] = Path(library).read_bytes()
    return files


@BOTH
def test_a_certificate_is_looked_at(who: Bench, tls: Files) -> None:
    url = 'get: "https://web:8443/hello"'
    checks = [
        f"{url}, ca: ca.pem, contains: hello, within: 10s",
        f"{url}, verify: false, contains: hello",
        f"{url}",
        'get: "https://other:8443/hello", ca: ca.pem',
        'get: "http://web:8443/hello"',
    ]
    body = SECURE + "".join(f"  - http: {{{check}}}\n" for check in checks)
    made = smoke(who, body, tls, SERVER)
    found = made.report("--progress", "quiet", expect=1)["checks"]
    assert [check["ok"] for check in found] == [True, True, False, False, False]
    assert "self-signed certificate" in " ".join(found[2]["complaints"])
    assert "'other'" in " ".join(found[3]["complaints"])


@BOTH
def test_only_the_default_network_leads_out(who: Bench, users_have_networks: None) -> None:
    asks = 'checks:\n  - exec: {in: web, run: "ip route; echo end", stdout: {contains: end, '
    inside = smoke(who, f"{WEB}{asks}excludes: default via}}}}\n")
    assert inside.report()["ok"]
    outside = smoke(who, f'network: default\n{WEB}{asks}matches: "(?m)^default via"}}}}\n')
    assert outside.report()["ok"]
