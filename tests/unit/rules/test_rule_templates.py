"""Knows the rules of the library that are templates: what targets of them come to, and where their
mistakes are told; builds nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from buildgraph.boxfile.json_schema import boxfile_schema
from buildgraph.boxfile.target import DockerfileInline, ImageTarget, Target, image_target
from buildgraph.boxfile.workspace import Workspace
from buildgraph.dockerfile.instructions import Copy, Run
from buildgraph.engine.inline import parse_inline
from buildgraph.errors import InputError, InputErrors
from buildgraph.label import Label
from buildgraph_rules import registry
from buildgraph_rules.registry import TEMPLATES, rule_specs

SHIPPED = Path(registry.__file__).parent
LEAST = {
    "c_binary": "",
    "jvm_app": ", main_class: a.Main",
    "node_app": ", command: [node, a.js]",
    "python_app": ", command: [python3, -m, a]",
    "static_site": "",
}
ALL_WORDS = {
    "c_binary": "static: false, packages: [zlib1g], libs: [-lz], test: 'a --test', port: 80, "
    "environment: {A: 'b \"c'}, command: [x], build_packages: [zlib1g-dev], compiler: g++",
    "jvm_app": "main_class: a.Main, resources: r, libraries: l, java: 21, release: 17, port: 80, "
    "jars: {'https://a.example/b.jar': sha256:" + "0" * 64 + "}, javac_options: [-Xlint], "
    "environment: {A: b}, command: [x], health: /up",
    "node_app": "command: [node, a.js], build: npm run build, vendor: v, scripts: false, port: 80, "
    "packages: [curl], entrypoint: [tini, --], environment: {A: b}, health: /up, minimal: true",
    "python_app": "command: [a], requirements: lock/r.txt, wheels: w, port: 80, packages: [curl], "
    "entrypoint: [tini, --], environment: {A: b}, health: /up, build_packages: [gcc]",
    "static_site": "build: make, output: out, build_packages: [make], port: 80, health: /, "
    "cache_control: max-age=60, environment: {A: b}",
}
Make = Callable[[Mapping[str, str]], Workspace]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that opens a workspace of Boxfiles."""

    def open_one(files: Mapping[str, str]) -> Workspace:
        for name, text in {"Boxfile.yaml": "workspace: {name: shop}\n", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Workspace.open(str(tmp_path), rule_specs())

    return open_one


def image_of(workspace: Workspace, name: str = "image", package: str = "a") -> ImageTarget:
    return image_target(workspace.target(Label(package, name)))


def text_of(image: ImageTarget) -> str:
    assert isinstance(image.dockerfile, DockerfileInline)
    parse_inline(image.dockerfile)
    return image.dockerfile.text


def names(workspace: Workspace) -> dict[str, str]:
    return {label.name: workspace.target(label).rule for label in workspace.expand(["//a:all"])}


def packages(target: Target) -> tuple[str, ...]:
    return target.texts("packages")


@pytest.mark.parametrize("rule", TEMPLATES)
@pytest.mark.parametrize("words", [LEAST, ALL_WORDS], ids=["least", "most"])
def test_a_target_is_an_image_whose_dockerfile_can_be_read(
    rule: str, words: Mapping[str, str], make: Make
) -> None:
    given = words[rule].removeprefix(", ")
    named = dict.fromkeys(("a/lock/r.txt", "a/w/x", "a/r/x", "a/l/x", "a/v/x"), "")
    boxfile = f"targets:\n  image: {{rule: {rule}, {given}}}\n"
    workspace = make({**named, "a/Boxfile.yaml": boxfile})
    image = image_of(workspace)
    text = text_of(image)
    assert "{{" not in text
    assert "{%" not in text
    lines = text.rstrip("\n").split("\n")
    assert not [line for line in lines if line.rstrip() != line], "blanks at the end of lines"
    assert not [
        i for i, line in enumerate(lines) if line.endswith("\\") and not lines[i + 1].strip()
    ]
    assert "\nUSER 65534:65534\n" in text
    assert text.rindex("USER 65534") > text.rindex("COPY")
    for label in workspace.expand(["//a:all"]):
        target = workspace.target(label)
        if target.rule == "smoke":
            assert workspace.smoke(target).checks
    assert workspace.closure([Label("a", "image")])


@pytest.mark.parametrize("rule", TEMPLATES)
def test_what_is_a_default_need_not_be_said(rule: str, make: Make) -> None:
    spec = rule_specs()[rule]
    assert spec.body is not None
    assert spec.body.path == str(SHIPPED / f"{rule}.rule.yaml")
    own = [one for one in spec.attributes if one.name in spec.body.own]
    assert {"base", "builder", "user", "port", "environment", "command"} <= set(spec.body.own)
    assert all(one.doc.endswith(".") for one in own)
    found = boxfile_schema(rule_specs())["$defs"][f"rule.{rule}"]["properties"]
    assert found.keys() >= {one.name for one in own} | {"tags", "labels", "secrets", "srcs"}


def test_nothing_of_a_rule_is_read_that_nobody_uses(tmp_path: Path) -> None:
    rules = rule_specs(str(tmp_path / "not there"))
    (tmp_path / "Boxfile.yaml").write_text(
        "workspace: {name: x}\ntargets:\n  a: {dockerfile_inline: FROM scratch}\n"
        "  b: {rule: debian, packages: [c]}\n  c: {rule: none}\n"
    )
    workspace = Workspace.open(str(tmp_path), rules)
    with pytest.raises(InputError, match="there is no rule 'none'"):
        workspace.expand(["//..."])
    assert set(TEMPLATES) <= set(workspace.rules)
    assert workspace.files_read == ["./", "Boxfile.yaml"]


def test_a_rule_that_is_used_is_among_what_was_read(make: Make, tmp_path: Path) -> None:
    workspace = make({"a/Boxfile.yaml": "targets: {image: {rule: static_site}}\n"})
    workspace.expand(["//a:all"])
    (read,) = [path for path in workspace.files_read if path.endswith(".rule.yaml")]
    assert (tmp_path / read).resolve() == SHIPPED / "static_site.rule.yaml"


def test_another_text_of_a_rule_is_the_same_image_as_far_as_the_dockerfile_is(
    make: Make, tmp_path: Path
) -> None:
    make({"a/Boxfile.yaml": "targets: {image: {rule: static_site}}\n"})
    copies = tmp_path / "rules"
    copies.mkdir()
    for rule in TEMPLATES:
        shutil.copy(SHIPPED / f"{rule}.rule.yaml", copies)
    file = copies / "static_site.rule.yaml"
    said = []
    for old, new in (("", ""), ("doc: ", "# A note.\ndoc: "), ("nosniff", "no-sniff")):
        file.write_text(file.read_text().replace(old, new, 1))
        image = image_of(Workspace.open(str(tmp_path), rule_specs(str(copies))))
        said.append((text_of(image), parse_inline(image.dockerfile)))  # type: ignore[arg-type]
    assert said[0][0] == said[1][0] != said[2][0]
    assert said[0][1].stages[0].from_.where.line + 1 == said[1][1].stages[0].from_.where.line


@pytest.mark.parametrize("rule", TEMPLATES)
def test_a_copy_in_a_directory_of_ones_own_does_the_same(rule: str, make: Make) -> None:
    files = {"a/Boxfile.yaml": f"targets:\n  image: {{rule: {rule}{LEAST[rule]}}}\n"}
    workspace = make(files)
    text, there = text_of(image_of(workspace)), names(workspace)
    copy = (SHIPPED / f"{rule}.rule.yaml").read_text()
    root = {"Boxfile.yaml": "workspace: {name: shop, rules: ['//r/s']}\n"}
    workspace = make({**files, **root, f"r/s/{rule}.rule.yaml": copy})
    assert (text_of(image_of(workspace)), names(workspace)) == (text, there)
    assert workspace.target(Label("a", "image")).rule_file == f"r/s/{rule}.rule.yaml"


def test_a_rule_of_ones_own_takes_the_place_of_a_template_and_of_nothing_else(make: Make) -> None:
    files = {
        "Boxfile.yaml": "workspace: {name: shop, rules: ['//r']}\n",
        "r/static_site.rule.yaml": "doc: Mine.\nattributes: {x: {doc: X.}}\ndockerfile: FROM scratch\n",
        "a/Boxfile.yaml": "targets: {image: {rule: static_site, x: y}}\n",
    }
    workspace = make(files)
    assert text_of(image_of(workspace)) == "FROM scratch"
    assert sorted(workspace.rules).count("static_site") == 1
    for name in ("debian", "smoke"):
        workspace = make({**files, f"r/{name}.rule.yaml": files["r/static_site.rule.yaml"]})
        with pytest.raises(InputError, match="already"):
            workspace.expand(["//a"])
        Path(workspace.root, f"r/{name}.rule.yaml").unlink()
    workspace = make(
        {
            **files,
            "Boxfile.yaml": "workspace: {name: shop, rules: ['//r', '//s']}\n",
            "s/static_site.rule.yaml": "doc: Other.\ndockerfile: FROM scratch\n",
        }
    )
    with pytest.raises(InputError, match="there is a rule 'static_site' already"):
        workspace.expand(["//a"])


# -- what is beside ----------------------------------------------------------------------


def test_a_target_has_beside_it_what_it_does_not_name(make: Make) -> None:
    workspace = make(
        {
            "a/Boxfile.yaml": """\
targets:
  image: {rule: python_app, command: [x]}
  locked: {rule: python_app, command: [x], requirements: r.txt, packages: [libpq5]}
  mine: {rule: python_app, command: [x], requirements: r.txt, base: "//b", port: 80, health: /}
  both: {rule: python_app, command: [x], requirements: r.txt, base: "//b", builder: "//b:build"}
""",
            "b/Boxfile.yaml": "targets: {image: {dockerfile_inline: FROM scratch}}\n",
        }
    )
    assert names(workspace) == {
        "image": "image",
        "image.base": "debian",
        "locked": "image",
        "locked.base": "debian",
        "locked.builder": "debian",
        "mine": "image",
        "mine.smoke": "smoke",
        "both": "image",
    }
    base = workspace.target(Label("a", "locked.base"))
    assert packages(base) == ("ca-certificates", "python3", "libpq5")
    contexts = {c.name: str(c.ref.label) for c in image_of(workspace, "mine").contexts}  # type: ignore[union-attr]
    assert contexts == {"base": "//b:image", "builder": "//b:image"}
    contexts = {c.name: str(c.ref.label) for c in image_of(workspace, "both").contexts}  # type: ignore[union-attr]
    assert contexts == {"base": "//b:image", "builder": "//b:build"}


def test_a_matrix_has_what_is_beside_for_each(make: Make) -> None:
    workspace = make(
        {
            "a/Boxfile.yaml": "targets:\n  t:\n    rule: c_binary\n    matrix: {s: ['true', 'false']}\n"
            "    static: '{{ matrix.s }}'\n"
        }
    )
    assert names(workspace) == {
        "t": "group",
        "t@s=true": "image",
        "t.builder@s=true": "debian",
        "t@s=false": "image",
        "t.builder@s=false": "debian",
        "t.base@s=false": "debian",
        "t.builder": "group",
        "t.base": "group",
    }
    assert workspace.target(Label("a", "t.base")).visibility is None
    members = workspace.members(workspace.target(Label("a", "t.base")))
    assert [label.name for label in members] == ["t.base@s=false"]


def test_paths_and_labels_are_those_of_the_target(make: Make) -> None:
    workspace = make(
        {
            "a/b/Boxfile.yaml": "targets:\n  image: {rule: python_app, command: [x], requirements: "
            "../r.txt, sources: src, base: ':own'}\n  own: {dockerfile_inline: FROM scratch}\n"
        }
    )
    image = image_of(workspace, package="a/b")
    assert "source=../r.txt" in text_of(image)
    assert "COPY --exclude=.* --exclude=Boxfile.yaml" in text_of(image)
    assert " src/ /app/\n" in text_of(image)
    assert {str(c.ref.label) for c in image.contexts} == {"//a/b:own"}  # type: ignore[union-attr]


# -- how it is layered -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "words", "first", "last"),
    [
        ("python_app", "command: [x], requirements: r.txt", "/opt/venv", "/app/"),
        ("node_app", "command: [x]", "/app/node_modules/", "/app/"),
        ("jvm_app", "main_class: a.B, libraries: l", "/app/lib/", "/app/"),
    ],
)
def test_what_is_needed_is_a_layer_below_the_sources(
    rule: str, words: str, first: str, last: str, make: Make
) -> None:
    workspace = make({"a/Boxfile.yaml": f"targets: {{image: {{rule: {rule}, {words}}}}}\n"})
    inline = image_of(workspace).dockerfile
    assert isinstance(inline, DockerfileInline)
    stages = parse_inline(inline).stages
    copies = [one for one in stages[-1].body if isinstance(one, Copy)]
    assert [one.dest for one in copies] == [first, last]
    assert all(one.link for one in copies)
    installing = [
        one
        for stage in stages
        for one in stage.body
        if isinstance(one, Run) and any(mount.type == "cache" for mount in one.mounts)
    ]
    assert all(
        dict(mount.options).get("required") in (None, "false")
        for one in installing
        for mount in one.mounts
        if mount.type == "secret"
    )


# -- mistakes ----------------------------------------------------------------------------


def errors(raised: InputError) -> list[str]:
    each = raised.errors if isinstance(raised, InputErrors) else (raised,)
    return [f"{one.where}: {one.message} ({one.hint})" for one in each]


def test_mistakes_of_a_call_are_told_at_the_call(make: Make) -> None:
    workspace = make(
        {
            "a/Boxfile.yaml": """\
targets:
  a: {rule: python_app}
  b: {rule: python_ap, command: [x]}
  c: {rule: static_site, por: 80}
  d: {rule: c_binary, compiler: tcc, static: yes}
  e: {rule: jvm_app, main_class: a b, jars: [x]}
"""
        }
    )
    with pytest.raises(InputError) as caught:
        workspace.expand(["//a:all"])
    assert errors(caught.value) == [
        "a/Boxfile.yaml:2:3: a python_app target needs 'command' (None)",
        "a/Boxfile.yaml:3:13: there is no rule 'python_ap' (did you mean 'python_app'?)",
        "a/Boxfile.yaml:4:26: a static_site target has no key 'por' (did you mean 'port'?)",
        "a/Boxfile.yaml:5:33: compiler: expected one of gcc, g++, clang, clang++, found 'tcc' (did you mean 'gcc'?)",
        "a/Boxfile.yaml:5:46: static: expected true or false, found 'yes' (write true)",
        "a/Boxfile.yaml:6:34: main_class: 'a b' is not what [A-Za-z_$][A-Za-z0-9_.$]* matches (None)",
        "a/Boxfile.yaml:6:45: jars: expected a mapping, found a list (None)",
    ]


def test_a_mistake_of_the_dockerfile_is_told_at_its_line_with_the_call(make: Make) -> None:
    call = "targets:\n  image: {rule: python_app, command: [x], environment: {'=': x}}\n"
    inline = image_of(make({"a/Boxfile.yaml": call})).dockerfile
    assert isinstance(inline, DockerfileInline)
    with pytest.raises(InputError) as caught:
        parse_inline(inline)
    where = caught.value.where
    assert where is not None
    assert where.path == str(SHIPPED / "python_app.rule.yaml")
    assert (
        Path(where.path).read_text().split("\n")[where.line - 1]
        == "  ENV {{ name }}={{ value | tojson }}"
    )
    assert (caught.value.hint or "").endswith("called at a/Boxfile.yaml:2:3")
