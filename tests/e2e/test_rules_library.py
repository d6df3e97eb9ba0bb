"""Knows what the shipped rules promise: applications that run as nobody, a change of the sources
that installs nothing, requirements from private places by secrets; must not know how a rule is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import re
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from e2e.checkouts import EITHER, Checkout, git
from e2e.harness import ROOT, Result
from e2e.images import read_archive

pytestmark = [pytest.mark.slow, pytest.mark.kernel]
RULES = ("c_binary", "jvm_app", "node_app", "python_app", "static_site")
WHEEL = "slugs-1.0-py3-none-any.whl"
PACKAGE = "plural-1.0.0.tgz"


def place(rule: str) -> str:
    return f"//examples/{rule}:image"


def built(result: Result) -> list[str]:
    """Return the steps that were really run, sorted, without their flags and cut short."""
    return sorted(re.sub(r"--\S+ +", "", title)[:40].strip() for title in result.built)


# -- they run ----------------------------------------------------------------------------


@EITHER
@pytest.mark.parametrize("rule", RULES)
def test_the_example_of_a_rule_runs(rule: str, checkout: Checkout) -> None:
    said = checkout.run("test", f"//examples/{rule}:smoke").stdout
    assert said.startswith(f"//examples/{rule}:smoke passed ")


def test_everybody_makes_the_same_bytes(
    examples_in_place: Checkout, examples_elsewhere: Checkout
) -> None:
    one, other = examples_in_place.first, examples_elsewhere.first
    assert one is not None
    assert other is not None
    for rule in RULES:
        for beside in ("", ".base", ".builder"):
            label = place(rule) + beside
            assert one.digests.get(label) == other.digests.get(label), label
        assert place(rule) in one.digests


# -- what a change costs -----------------------------------------------------------------

CHANGES = {
    "c_binary": (
        "main.c",
        ("usage: roman", "usage: Roman"),
        [
            "COPY . .",
            "COPY /out/roman /usr/local/bin/",
            "RUN mkdir /out && gcc -O2 -Wall -Wextra",
            "RUN roman 1984 | grep -qx MCMLXXXIV",
        ],
    ),
    "jvm_app": (
        "src/sums/Main.java",
        ("ask for", "please ask for"),
        [
            "COPY /out/app.jar /app/",
            "COPY src/ .",
            "RUN find . -name '*.java' | LC_ALL=C sor",
            "RUN mkdir /out && cd /classes && find *",
        ],
    ),
    "node_app": ("src/server.js", ("no such", "no such a"), ["COPY src/ /app/"]),
    "python_app": (
        "src/titles/__main__.py",
        ("ask for", "please ask for"),
        ["COPY /app/ /app/", "COPY src/ /app/", 'RUN ["python3", "-B", "-m", "compileall"'],
    ),
    "static_site": (
        "pages/coffee.txt",
        ("yesterday", "last week"),
        ["COPY . .", "COPY /src/site/ /srv/www/", "RUN sh make.sh"],
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_change_of_the_sources_is_a_change_of_their_layer(
    rule: str, copied: Checkout, examples_in_place: Checkout
) -> None:
    path, (old, new), steps = CHANGES[rule]
    assert examples_in_place.first is not None
    copied.edit(f"examples/{rule}/{path}", old, new)
    affected = copied.run("affected", "--since", "HEAD").stdout.split()
    assert affected == [place(rule), f"//examples/{rule}:smoke"]
    result = copied.build(place(rule))
    assert built(result) == steps
    assert result.digests[place(rule)] != examples_in_place.first.digests[place(rule)]


def test_a_comment_is_compiled_again_and_the_jar_is_the_same(
    copied: Checkout, examples_in_place: Checkout
) -> None:
    assert examples_in_place.first is not None
    copied.edit("examples/jvm_app/src/sums/Sum.java", "with pluses", "with a plus")
    result = copied.build(place("jvm_app"))
    assert "COPY /out/app.jar /app/" not in built(result)
    assert result.digests[place("jvm_app")] == examples_in_place.first.digests[place("jvm_app")]


def test_variables_and_ports_are_no_layer(copied: Checkout) -> None:
    copied.edit("examples/python_app/Boxfile.yaml", 'LONGEST: "40"', 'LONGEST: "50", MORE: x')
    result = copied.build(place("python_app"))
    assert built(result) == []
    config = copied.run(
        "run",
        place("python_app"),
        "--",
        "python3",
        "-c",
        "print(open('/proc/self/environ').read())",
    ).stdout
    assert "LONGEST=50\0" in config
    assert "MORE=x\0" in config


# -- who knows them ----------------------------------------------------------------------


def test_every_command_knows_them(copied: Checkout) -> None:
    listed = copied.run("rules").stdout.splitlines()
    assert set(RULES) <= {line.split()[0] for line in listed}
    told = copied.run("rules", "jvm_app").stdout
    assert re.search(r"^  main_class +What runs: shop\.Main\. \(text\) Required\.$", told, re.M)
    for rule in RULES:
        found = copied.run("query", f"kind({rule}, //examples/{rule}/...)").stdout.split()
        assert found == [place(rule)]
        needed = copied.run("query", f"deps(//examples/{rule})").stdout.split()
        assert f"{place(rule)}.builder" in needed
    schema = json.loads(copied.run("schema").stdout)
    assert {f"rule.{rule}" for rule in RULES} <= schema["$defs"].keys()
    line = "buildgraph build //examples/python_app:"
    completed = copied.run("__complete", "fish", line).stdout
    assert "image.builder" in completed


def test_lint_has_nothing_to_say_about_what_they_write(copied: Checkout) -> None:
    patterns = [f"//examples/{rule}" for rule in RULES]
    assert "no warnings in 5 files" in copied.run("lint", *patterns).stdout


def test_a_step_that_fails_is_told_at_its_line_of_the_rule(copied: Checkout) -> None:
    copied.edit("examples/c_binary/Boxfile.yaml", "roman 1984 |", "roman 1985 |")
    said = copied.run("build", place("c_binary"), expect=1).stderr
    path, line = re.search(r"--> (\S+/c_binary\.rule\.yaml):(\d+):3", said).groups()  # type: ignore[union-attr]
    assert Path(path).read_text().splitlines()[int(line) - 1] == "  RUN {{ test }}"
    assert "roman 1985 | grep -qx MCMLXXXIV" in said


# -- requirements from private places ----------------------------------------------------


@dataclass
class Shelf:
    """A server of files that wants a password; `asked` are the paths it gave."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextlib.contextmanager
def shelf(allowed: Callable[[Mapping[str, str]], bool]) -> Iterator[Shelf]:
    """Run a server on loopback for requests whose headers are `allowed`."""
    found = Shelf()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = found.files.get(self.path)
            status = 404 if content is None else 200 if allowed(self.headers) else 401
            (found.asked if status == 200 else found.refused).append(self.path)
            body = content if status == 200 and content is not None else b""
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="shelf"')
            kind = {"{": "application/json", "<": "text/html"}.get(body[:1].decode("latin-1"))
            self.send_header("Content-Type", kind or "application/octet-stream")
            self.send_header("Cache-Control", "max-age=3600")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def outside(checkout: Checkout, rule: str, *without: str) -> None:
    """Let the steps of an example see loopback, and take lines from its Boxfile."""
    path = checkout.path(f"examples/{rule}/Boxfile.yaml")
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not line.strip().startswith((*without, "network:"))]
    kept.insert(kept.index(f"    rule: {rule}") + 1, "    network: host")
    path.write_text("\n".join(kept) + "\n")


def image_without(secret: str, checkout: Checkout, rule: str, *args: str) -> dict[str, bytes]:
    """Build an image that must not hold a text; returns path -> content of its files."""
    archive = checkout.path("out.tar")
    words = (place(rule), "-o", f"type=oci,dest={archive}", "--progress", "plain")
    said = checkout.run("build", *words, *args)
    assert secret not in said.stdout + said.stderr
    image = read_archive(archive)
    archive.unlink()
    assert not [layer for layer in image.layers if secret.encode() in layer]
    assert secret not in json.dumps([image.document, image.manifest])
    return {path: entry.content for path, entry in image.tree.items()}


def test_pip_asks_a_private_index_and_keeps_what_it_got(copied: Checkout) -> None:
    example = copied.path("examples/python_app")
    with shelf(lambda headers: headers["Authorization"] == "Basic cGlwOmtleS1vZi1waXA=") as index:
        index.files[f"/files/{WHEEL}"] = (example / "wheels" / WHEEL).read_bytes()
        index.files["/simple/slugs/"] = f'<a href="/files/{WHEEL}">{WHEEL}</a>'.encode()
        conf = copied.workspace.top / "pip.conf"
        conf.write_text(
            f"[global]\nindex-url = http://pip:key-of-pip@{index.host}/simple\n"
            f"trusted-host = {index.host}\n"
        )
        outside(copied, "python_app", "wheels:")
        secret = ("--allow", "network.host", "--secret", f"id=pip,src={conf}")
        content = image_without("key-of-pip", copied, "python_app", *secret)
        (module,) = [path for path in content if path.endswith("site-packages/slugs.py")]
        assert module.startswith("opt/venv/lib/")
        assert index.asked == ["/simple/slugs/", f"/files/{WHEEL}"]
        lock = example / "requirements.txt"
        lock.write_text("# Read again.\n" + lock.read_text())
        image_without("key-of-pip", copied, "python_app", *secret)
        assert index.asked.count(f"/files/{WHEEL}") == 1, "pip's cache is kept between builds"

        lock.write_text(re.sub("[0-9a-f]{64}", "0" * 64, lock.read_text()))
        said = copied.run("build", place("python_app"), *secret, expect=1).stderr
        assert "THESE PACKAGES DO NOT MATCH THE HASHES" in said
        assert "python_app.rule.yaml:" in said


def test_npm_asks_a_private_registry(copied: Checkout) -> None:
    example = copied.path("examples/node_app")
    with shelf(lambda headers: headers["Authorization"] == "Bearer key-of-npm") as registry:
        data = (example / "vendor" / PACKAGE).read_bytes()
        registry.files[f"/plural/-/{PACKAGE}"] = data
        tarball = f"http://{registry.host}/plural/-/{PACKAGE}"
        version = {"name": "plural", "version": "1.0.0", "dist": {"tarball": tarball}}
        registry.files["/plural"] = json.dumps(
            {"name": "plural", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        ).encode()
        for name in ("package.json", "package-lock.json"):
            manifest = json.loads((example / name).read_text())
            root = manifest["packages"][""] if "packages" in manifest else manifest
            del root["devDependencies"]
            root["dependencies"]["plural"] = "1.0.0"
            if "packages" in manifest:
                del manifest["packages"]["node_modules/checker"]
                del manifest["packages"]["node_modules/plural"]["resolved"]
            (example / name).write_text(json.dumps(manifest))
        conf = copied.workspace.top / "npmrc"
        conf.write_text(
            f"registry=http://{registry.host}/\n//{registry.host}/:_authToken=key-of-npm\n"
        )
        outside(copied, "node_app", "vendor:")
        secret = ("--allow", "network.host", "--secret", f"id=npmrc,src={conf}")
        content = image_without("key-of-npm", copied, "node_app", *secret)
        assert "app/node_modules/plural/index.js" in content
        assert registry.asked[-1] == f"/plural/-/{PACKAGE}"
        assert not registry.refused


def test_jars_come_from_servers_and_are_what_their_hashes_say(copied: Checkout) -> None:
    box = copied.path("examples/jvm_app/Boxfile.yaml")
    with shelf(lambda _: True) as server:
        jar = io.BytesIO()
        zipfile.ZipFile(jar, "w").close()
        server.files["/more-1.0.jar"] = jar.getvalue()
        text = box.read_text()

        def needs(digest: str) -> None:
            line = f'jars: {{"http://{server.host}/more-1.0.jar": {digest}}}'
            box.write_text(text.replace("    minimal:", f"    {line}\n    minimal:"))

        needs(hashlib.sha256(jar.getvalue()).hexdigest())
        result = copied.build(place("jvm_app"))
        assert "COPY / /app/lib/" in built(result)
        needs("0" * 64)
        said = copied.run("build", place("jvm_app"), expect=None)
        assert said.code in (1, 2, 3)
        assert "0" * 12 in said.stderr
        assert "jvm_app.rule.yaml:" in said.stderr


# -- a rule of one's own -----------------------------------------------------------------


def test_the_worked_case_of_the_readme_is_built_and_passes(copied: Checkout) -> None:
    text = (ROOT / "rules" / "README.md").read_text()
    case = text.split("\n## A rule of your own")[1].split("\n## ")[0]
    files = dict(re.findall(r"```yaml\n# (\S+\.yaml)\n(.*?)```", case, re.DOTALL))
    assert sorted(files) == ["Boxfile.yaml", "api/Boxfile.yaml", "tools/rules/service.rule.yaml"]
    files["base/Boxfile.yaml"] = "targets:\n  python: {rule: debian, packages: [python3]}\n"
    files["api/shop/api.py"] = (
        "import http.server as h\nh.ThreadingHTTPServer(('', 8080), h.SimpleHTTPRequestHandler).serve_forever()\n"
    )
    shop = copied.workspace.path(f"{copied.directory}-shop")
    for name, content in files.items():
        (shop / name).parent.mkdir(parents=True, exist_ok=True)
        (shop / name).write_text(content)
    git(shop, "init", "--quiet")
    git(shop, "add", ".")
    git(shop, "commit", "--quiet", "--message", "the shop")
    own = Checkout(copied.workspace, f"{copied.directory}-shop", copied.store, copied.user)
    said = own.run("test", "//api:image.smoke").stdout
    assert said.startswith("//api:image.smoke passed ")
    assert own.run("run", "//api", "--", "curl", "--version").stdout.startswith("curl ")
    own.edit("tools/rules/service.rule.yaml", "WORKDIR /app", "WORKDI /app")
    said = own.run("build", "//api", expect=2).stderr
    line = files["tools/rules/service.rule.yaml"].split("\n").index("  WORKDIR /app") + 1
    assert f"tools/rules/service.rule.yaml:{line}:3" in said
    assert "called at api/Boxfile.yaml:2:3" in said
    shutil.rmtree(shop)
