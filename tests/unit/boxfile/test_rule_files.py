"""Knows rules that a workspace writes itself: how they are read, what targets of them come to, and
where their mistakes are told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from buildgraph.boxfile.json_schema import boxfile_schema
from buildgraph.boxfile.rule_files import read_rule
from buildgraph.boxfile.target import DockerfileInline, image_target
from buildgraph.boxfile.workspace import Workspace
from buildgraph.dockerfile.instructions import Run
from buildgraph.engine.inline import parse_inline
from buildgraph.errors import InputError
from buildgraph.label import Label

Shown = Callable[[InputError], list[str]]
Write = Callable[[Mapping[str, str]], str]

SERVICE = """\
doc: A service in Python,
  with its smoke test.
attributes:
  module: {doc: What is run., required: true, pattern: "[a-z.]+"}
  port: {type: int, doc: Where it listens., default: 8080}
  packages: {type: list, doc: What else is in it.}
  variables: {type: map, doc: Variables., default: {A: "{{ package }}"}}
  mode: {type: choice, values: [debug, release], doc: How., default: release}
  lock: {type: file, doc: Which versions., default: versions.txt}
  sources: {type: directory, doc: Where.}
  base: {type: label, doc: What it stands on., default: ":python"}
  tests: {type: bool, doc: Whether., default: "{{ 1 < 2 }}"}
image:
  contexts: {base: "{{ base }}"}
  labels: {module: "{{ module }}", mode: "{{ mode }}"}
  network: none
dockerfile: |
  FROM base
  {% for name in packages %}
  RUN get {{ name | quote }}
  {% endfor %}
  COPY {{ lock }} /lock
  {% if tests %}
  RUN test {{ module }}
  {% endif %}
  ENV {% for k, v in variables | items %}{{ k }}={{ v | quote }} {% endfor %}

  EXPOSE {{ port }}
targets:
  smoke:
    rule: smoke
    services: {app: {image: "{{ self }}"}}
    checks: [{exec: {in: app, run: [python3, -c, "import {{ module }}"]}}]
"""
LAUGHS = "doc: a\nx0: &x0 [a, a]\n" + "".join(
    f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
ROOT = 'workspace: {rules: ["//tools/rules"], vars: {X: y}}\n'
PYTHON = "targets:\n  python: {dockerfile_inline: FROM scratch}\n"


def service(files: Mapping[str, str]) -> dict[str, str]:
    return {
        "Boxfile.yaml": ROOT,
        "tools/rules/service.rule.yaml": SERVICE,
        "tools/rules/Boxfile.yaml": PYTHON,
        **files,
    }


def test_a_target_of_a_rule_is_an_image_and_a_smoke(write: Write) -> None:
    root = write(
        service(
            {
                "shop/api/locks/v.txt": "",
                "shop/api/Boxfile.yaml": "targets:\n"
                "  image:\n"
                "    rule: service\n"
                "    doc: The api.\n"
                "    module: shop.api\n"
                "    packages: [one, 'two {{ vars.X }}']\n"
                "    variables: {B: c}\n"
                "    lock: locks/v.txt\n"
                "    labels: {mode: mine}\n"
                "    tags: 'api:{{ port + 1 }}'\n",
            }
        )
    )
    workspace = Workspace.open(root)
    target = workspace.target(Label("shop/api", "image"))
    assert (target.rule, target.kind, target.doc) == ("image", "service", "The api.")
    assert target.rule_file == "tools/rules/service.rule.yaml"
    image = image_target(target)
    assert isinstance(image.dockerfile, DockerfileInline)
    assert image.dockerfile.text == (
        "FROM base\nRUN get one\nRUN get 'two y'\nCOPY locks/v.txt /lock\nRUN test shop.api\n"
        "ENV A=shop/api B=c \nEXPOSE 8080\n"
    )
    assert image.context == "shop/api"
    assert str(image.contexts[0].ref.label) == "//tools/rules:python"  # type: ignore[union-attr]
    assert image.labels == (("module", "shop.api"), ("mode", "mine"))
    assert [tag.text for tag in image.tags] == ["api:8081"]
    assert image.network == "none"
    smoke = workspace.smoke(workspace.target(Label("shop/api", "image.smoke")))
    assert smoke.services[0].image == Label("shop/api", "image")
    closure = [str(one.label) for one in workspace.closure([Label("shop/api", "image.smoke")])]
    assert closure == ["//tools/rules:python", "//shop/api:image", "//shop/api:image.smoke"]
    assert "tools/rules/service.rule.yaml" in workspace.files_read
    assert "tools/rules/" in workspace.files_read


def test_each_line_of_the_dockerfile_is_one_of_the_body(write: Write) -> None:
    root = write(service({"a/Boxfile.yaml": "rule: service\nmodule: m\npackages: [p, q]\n"}))
    image = image_target(Workspace.open(root).target(Label("a", "image")))
    assert isinstance(image.dockerfile, DockerfileInline)
    parsed = parse_inline(image.dockerfile)
    runs = [one for one in parsed.stages[0].body if isinstance(one, Run)]
    lines = SERVICE.split("\n")
    assert {one.where.path for one in runs} == {"tools/rules/service.rule.yaml"}
    assert [lines[one.where.line - 1].strip() for one in runs] == [
        "RUN get {{ name | quote }}",
        "RUN get {{ name | quote }}",
        "RUN test {{ module }}",
    ]


def test_an_error_of_the_dockerfile_says_who_called(write: Write) -> None:
    rule = "doc: x\nattributes: {what: {doc: w}}\ndockerfile: |\n  FROM a\n\n  {{ what }} x\n"
    root = write(
        {
            "Boxfile.yaml": ROOT,
            "tools/rules/r.rule.yaml": rule,
            "a/Boxfile.yaml": "targets:\n  t: {rule: r, what: RUNN}\n",
        }
    )
    image = image_target(Workspace.open(root).target(Label("a", "t")))
    assert isinstance(image.dockerfile, DockerfileInline)
    with pytest.raises(InputError) as caught:
        parse_inline(image.dockerfile)
    assert str(caught.value.where) == "tools/rules/r.rule.yaml:6:3"
    assert (caught.value.hint or "").endswith("called at a/Boxfile.yaml:2:3")


def test_a_matrix_over_a_rule(write: Write) -> None:
    root = write(
        service(
            {
                "a/Boxfile.yaml": "targets:\n  t:\n    rule: service\n    module: m\n"
                "    matrix: {n: [1, 2]}\n    port: '{{ matrix.n }}'\n"
            }
        )
    )
    workspace = Workspace.open(root)
    assert [label.name for label in workspace.expand(["//a:all"])] == [
        "t", "t@n=1", "t.smoke@n=1", "t@n=2", "t.smoke@n=2", "t.smoke",
    ]  # fmt: skip
    members = workspace.members(workspace.target(Label("a", "t.smoke")))
    assert [label.name for label in members] == ["t.smoke@n=1", "t.smoke@n=2"]
    smoke = workspace.smoke(workspace.target(members[1]))
    assert smoke.services[0].image == Label("a", "t@n=2")


def test_mistakes_of_a_call(write: Write, shown: Shown) -> None:
    root = write(
        service(
            {
                "a/Boxfile.yaml": "targets:\n"
                "  a: {rule: service, modul: m}\n"
                "  b: {rule: service, module: M, port: x, dockerfile: D, networ: none}\n"
                "  c: {rule: servic}\n"
                "  d: {rule: service, module: m, network: never, labels: {a: '{{ modul }}'}}\n"
                "  d.smoke: {rule: group, targets: [a]}\n"
            }
        )
    )
    with pytest.raises(InputError) as caught:
        Workspace.open(root).expand(["//a:all"])
    assert shown(caught.value) == [
        "2:3-4 [a] a service target needs 'module'",
        "2:22-27 [modul] a service target has no key 'modul' (did you mean 'module'?)",
        "3:30-31 [M] module: 'M' is not what [a-z.]+ matches",
        "3:39-40 [x] port: expected a whole number, found 'x'",
        "3:42-52 [dockerfile] a service target has no key 'dockerfile'",
        "3:57-63 [networ] a service target has no key 'networ' (did you mean 'network'?)",
        "4:13-19 [servic] there is no rule 'servic' (did you mean 'service'?)",
        "5:42-47 [never] network: expected one of none, host, default, found 'never'",
        "5:65-70 [modul] there is no 'modul' here (did you mean 'module'?)",
        "6:3-10 [d.smoke] there is a target 'd.smoke' already",
    ]


def test_mistakes_of_a_body_say_who_called(write: Write, shown: Shown) -> None:
    rule = (
        "doc: x\nattributes: {n: {doc: w, default: 1}}\nimage: {tags: 'A {{ n }}'}\n"
        "dockerfile: |\n  FROM a\n  LABEL x={{ nn }}\ntargets: {more: {stage: '{{ git.sha }}'}}\n"
    )
    root = write(
        {
            "Boxfile.yaml": ROOT,
            "tools/rules/r.rule.yaml": rule,
            "a/Boxfile.yaml": "targets:\n  t: {rule: r}\n",
            "a/Dockerfile": "FROM scratch\n",
        }
    )
    with pytest.raises(InputError) as caught:
        Workspace.open(root).expand(["//a:all"])
    assert shown(caught.value) == [
        "3:15-26 ['A {{ n }}'] tags: 'A 1' is not an image name (called at a/Boxfile.yaml:2:3)",
        "6:14-16 [nn] there is no 'nn' here (did you mean 'n'?; called at a/Boxfile.yaml:2:3)",
        (
            "7:29-32 [git] stage: what git says is no reason to build, so it cannot stand here "
            "(tags, labels and annotations may hold it; for one build: --build-arg NAME=…; "
            "called at a/Boxfile.yaml:2:3)"
        ),
    ]


def test_mistakes_of_a_rule(shown: Shown) -> None:
    text = """\
name: other
docs: x
attributes:
  tags: {doc: d}
  a: {type: choice, doc: d}
  b: {values: [x], doc: [d]}
  c: {type: list, items: list, doc: d}
  d: {pattern: "(", doc: d, required: true, default: x}
  e: {typ: int}
  F: {doc: d}
image: {dockerfile: x, netwrk: none}
targets: {a b: {}, c: x, d: {matrix: {}}}
"""
    with pytest.raises(InputError) as caught:
        read_rule(text, "r/x.rule.yaml", "x")
    assert [line.partition(" ")[2] for line in shown(caught.value)] == [
        "[] a rule needs 'doc'",
        "[] a rule needs 'dockerfile'",
        "[other] the file is called x.rule.yaml",
        "[docs] a rule has no key 'docs' (did you mean 'doc'?)",
        "[tags] attributes: 'tags' is taken: every target has it already",
        "[choice] a choice has 'values'",
        "[values] 'values' goes with type choice",
        "[[d]] attributes.b.doc: expected text, found a list",
        (
            "[list] attributes.c.items: expected one of text, bool, int, label, file, directory, "
            "platform, found 'list'"
        ),
        '["("] pattern: missing ), unterminated subpattern at position 0',
        "[default] d: what is required has no default",
        "[{typ: int}] an entry of attributes.e needs 'doc'",
        "[typ] an entry of attributes.e has no key 'typ' (did you mean 'type'?)",
        "[F] attributes: 'F' is not a name in small letters",
        "[dockerfile] image has no key 'dockerfile'",
        "[netwrk] image has no key 'netwrk' (did you mean 'network'?)",
        "[a b] 'a b' cannot end a target's name: ' ' cannot be in a name",
        "[x] c: expected a mapping, found 'x'",
        "[matrix] a rule's further target has no 'matrix'",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a rule has 'doc', 'attributes' and 'dockerfile'"),
        ("a: [b", "not valid YAML"),
        ("doc: !!python/object:os.system x\ndockerfile: FROM a", "YAML tags"),
        ("doc: a\ndoc: b\ndockerfile: FROM a", "there twice"),
        ("doc: " + "[" * 70 + "]" * 70, "nested deeper"),
        (LAUGHS, "more than 1"),
    ],
    ids=["empty", "syntax", "tag", "twice", "deep", "bomb"],
)  # fmt: skip
def test_a_rule_has_the_limits_of_a_boxfile(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_rule(text, "r/x.rule.yaml", "x")


BESIDE = """\
doc: x
attributes:
  port: {type: int, doc: p}
  more: {type: list, doc: m}
  base: {type: label, doc: b}
image:
  contexts: {base: "{{ base or beside.base }}"}
  srcs: ["*.c", "{{ more }}", "{{ more | join('+') }}", "{{ ['x', 'y'] if port else [] }}"]
dockerfile: FROM base
targets:
  base:
    when: "{{ not base }}"
    dockerfile_inline: FROM scratch
  smoke:
    when: "{{ port is number }}"
    rule: smoke
    services: {app: {image: "{{ self }}"}}
    checks: [{tcp: "app:{{ port }}"}]
"""


def test_further_targets_on_a_condition_and_lists_in_lists(write: Write) -> None:
    root = write(
        {
            "Boxfile.yaml": ROOT,
            "tools/rules/r.rule.yaml": BESIDE,
            "a/Boxfile.yaml": "targets:\n"
            "  a: {rule: r, port: 80, more: [b.h, '{x}']}\n"
            "  b: {rule: r, base: a}\n"
            "  m: {rule: r, matrix: {n: [1]}}\n",
        }
    )
    workspace = Workspace.open(root)
    assert [label.name for label in workspace.expand(["//a:all"])] == [
        "a", "a.base", "a.smoke", "b", "m", "m@n=1", "m.base@n=1", "m.base",
    ]  # fmt: skip
    image = image_target(workspace.target(Label("a", "a")))
    assert str(image.contexts[0].ref.label) == "//a:a.base"  # type: ignore[union-attr]
    assert workspace.target(Label("a", "a")).texts("srcs") == (
        "*.c", "b.h", "{x}", "b.h+{x}", "x", "y",
    )  # fmt: skip
    assert workspace.target(Label("a", "b")).texts("srcs") == ("*.c", "")
    image = image_target(workspace.target(Label("a", "m@n=1")))
    assert str(image.contexts[0].ref.label) == "//a:m.base@n=1"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{{ not base }}", "{{ port }}", "when: expected true or false, found '80'"),
        ("{{ not base }}", "{{ nobody }}", "there is no 'nobody' here"),
        ("{{ more }}", "{{ mor }}", "there is no 'mor' here"),
        ("{{ more }}", "a {{ more }}", "expected a text, found a list"),
        ("{{ base or beside.base }}", "{{ beside.bas }}", "there is no 'beside.bas'"),
        ("port: {type", "beside: {type", "attributes: 'beside' is taken"),
    ],
)
def test_mistakes_of_conditions_and_lists(old: str, new: str, message: str, write: Write) -> None:
    root = write(
        {
            "Boxfile.yaml": ROOT,
            "tools/rules/r.rule.yaml": BESIDE.replace(old, new),
            "a/Boxfile.yaml": "targets:\n  a: {rule: r, port: 80}\n",
        }
    )
    with pytest.raises(InputError) as caught:
        Workspace.open(root).expand(["//a:all"])
    errors = getattr(caught.value, "errors", (caught.value,))
    assert errors[0].message.startswith(message)
    assert errors[0].where.path == "tools/rules/r.rule.yaml"


def test_rules_are_read_when_somebody_asks(write: Write, shown: Shown) -> None:
    root = write(
        service(
            {
                "tools/rules/broken.rule.yaml": "doc: [\n",
                "a/Boxfile.yaml": "targets:\n  a: {dockerfile_inline: FROM scratch}\n",
                "b/Boxfile.yaml": "rule: broken\n",
            }
        )
    )
    workspace = Workspace.open(root)
    workspace.expand(["//a:all"])
    assert "tools/rules/broken.rule.yaml" not in workspace.files_read
    assert "service" in workspace.rules
    with pytest.raises(InputError, match="not valid YAML") as caught:
        workspace.expand(["//b"])
    assert caught.value.where is not None
    assert caught.value.where.path == "tools/rules/broken.rule.yaml"


def test_files_given_to_a_rule_are_missed_at_the_call(write: Write, shown: Shown) -> None:
    def lacking(call: str) -> list[str]:
        root = write(service({"app/Boxfile.yaml": f"targets: {{app: {{rule: service, {call}}}}}"}))
        try:
            Workspace.open(root).closure([Label("app", "app")])
        except InputError as error:
            return shown(error)
        return []

    write(service({"app/src/x": ""}))
    assert lacking("module: a, sources: src") == []
    assert lacking("module: a, sources: sources, lock: src") == [
        "1:52-59 [sources] there is no directory 'app/sources' in the workspace",
        "1:67-70 [src] 'app/src' is not a file",
    ]
    assert lacking("module: a, lock: none.txt, context: ..") == []


def test_where_rules_are(write: Write, shown: Shown) -> None:
    root = write(
        {
            "Boxfile.yaml": 'workspace: {rules: ["//a", "//a:b", "//none", "//c"]}\n',
            "a/smoke.rule.yaml": "",
            "a/x.rule.yaml": "",
            "c/x.rule.yaml": "",
            "c/X-y.rule.yaml": "",
        }
    )
    with pytest.raises(InputError) as caught:
        Workspace.open(root).expand(["//..."])
    assert sorted(shown(caught.value)) == [
        "0:0-1 [] 'X-y.rule.yaml': a rule is called by small letters, digits and '_'",
        "0:0-1 [] there is a rule 'smoke' already",
        "0:0-1 [] there is a rule 'x' already",
        "1:28-35 [\"//a:b\"] rules: there is no directory 'a'",
        "1:37-45 [\"//none\"] rules: there is no directory 'none'",
    ]


def test_a_root_file_may_use_the_rules_it_names(write: Write) -> None:
    root = write(
        {
            "Boxfile.yaml": ROOT + "targets: {t: {rule: r}}\n",
            "tools/rules/r.rule.yaml": "doc: x\ndockerfile: FROM scratch\n",
        }
    )
    assert [label.name for label in Workspace.open(root).expand(["//:all"])] == ["t"]


def test_the_schema_knows_them(write: Write) -> None:
    workspace = Workspace.open(write(service({})))
    found = boxfile_schema(workspace.rules)["$defs"]["rule.service"]
    assert {"module", "port", "tags", "contexts"} <= found["properties"].keys()
    assert "dockerfile" not in found["properties"]
    assert found["properties"]["port"]["default"] == 8080
    json.dumps(found)


def test_the_worked_case_of_the_readme_works(write: Write) -> None:
    readme = Path(__file__).resolve().parents[3] / "rules" / "README.md"
    files = dict(re.findall(r"```yaml\n# (\S+\.yaml)\n(.*?)```", readme.read_text(), re.DOTALL))
    files["base/Boxfile.yaml"] = PYTHON
    files["api/Boxfile.yaml"] = files["api/Boxfile.yaml"].replace("{{ git.short }}", "1")
    workspace = Workspace.open(write(files))
    labels = [str(label) for label in workspace.expand(["//api:all"])]
    assert labels == ["//api:image", "//api:image.smoke"]
    inline = image_target(workspace.target(Label("api", "image"))).dockerfile
    assert isinstance(inline, DockerfileInline)
    assert 'CMD ["python3", "-m", "shop.api"]' in inline.text
    parse_inline(inline)
    workspace.smoke(workspace.target(Label("api", "image.smoke")))
