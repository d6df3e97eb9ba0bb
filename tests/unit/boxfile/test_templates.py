"""Knows what templates are and are not: what they come to, where they fail, and that none of them
gets out or goes on for long (A67).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildgraph import limits
from buildgraph.boxfile import loader, schema
from buildgraph.boxfile.evaluate import Missing, render
from buildgraph.boxfile.loader import Package
from buildgraph.boxfile.rendering import Surroundings
from buildgraph.boxfile.target import DockerfileInline, image_target
from buildgraph.boxfile.template import TemplateError, is_template, parse_template
from buildgraph.errors import InputError, InputErrors

Load = Callable[..., Package]
NAMES: dict[str, Any] = {
    "vars": {"PY": "3.12", "EMPTY": ""},
    "words": ["b", "a", "b"],
    "pairs": {"k": "v", "l": "w"},
    "no": False,
    "nothing": None,
    "seven": 7,
}


def made(text: str) -> str:
    return render(parse_template(text), NAMES).text


@pytest.mark.parametrize(
    ("text", "comes_to"),
    [
        ("{{ vars.PY }}", "3.12"),
        ("{{ vars['PY'] }}-{{ words[0] }}{{ words[-1] }}", "3.12-bb"),
        ("{{ words | join(',') }} {{ words | unique | sort | join }}", "b,a,b ab"),
        ("{{ vars.PY | replace('.', '-') | upper }}", "3-12"),
        ("{{ vars.XX | default('none') }} {{ vars.EMPTY | default('e', true) }}", "none e"),
        ("{{ 'a b' | quote }} {{ words | tojson }}", "'a b' [\"b\", \"a\", \"b\"]"),
        ("{{ pairs | tojson }}", '{"k": "v", "l": "w"}'),
        ("{% for k, v in pairs | items %}{{ k }}={{ v }}{{ ',' if not loop.last }}{% endfor %}",
         "k=v,l=w"),
        ("{% for w in words if w != 'a' %}{{ loop.index }}{{ w }}{% else %}x{% endfor %}", "1b2b"),
        ("{% for w in [] %}{% else %}x{% endfor %}", "x"),
        ("{% if no %}1{% elif seven > 6 and 'a' in words %}2{% else %}3{% endif %}", "2"),
        ("{% set x = vars.PY ~ '-slim' %}{{ x }} {{ seven // 2 + 1 }} {{ -seven % 4 }}",
         "3.12-slim 4 1"),
        ("{{ vars.PY | split('.') | last | int + 1 }}", "13"),
        ("{{ range(3) | join(' ') }} {{ 'y' if nothing is none else 'n' }}", "0 1 2 y"),
        ("{{ no }} {{ vars.Q is defined }} {{ 'a/b/c' | basename }}", "false false c"),
        ("{% raw %}{{ a }}{% endraw %}{# gone #}", "{{ a }}"),
        ("{{ 1 < 2 < 3 and not 2 == 3 }}", "true"),
        ("{% for a in range(2) %}{% set s = a %}{% endfor %}{{ s | default('kept in') }}", "kept in"),
    ],
)  # fmt: skip
def test_what_templates_come_to(text: str, comes_to: str) -> None:
    assert made(text) == comes_to


# What is known to break out of template engines, and what eats the machine.
PAYLOADS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ 'x'.format }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '%s' % words }}",
    "{{ '%999999999d' % 1 }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ joiner }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ namespace() }}",
    "{{ dict() }}",
    "{{ config }}",
    "{{ request.application.__globals__ }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ url_for.__globals__ }}",
    "{{ words.append(1) }}",
    "{{ pairs.clear() }}",
    "{{ vars.update({'a': 1}) }}",
    "{% import 'os' as os %}",
    "{% include '/etc/passwd' %}",
    "{% extends 'x' %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% call x() %}{% endcall %}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% set ns = namespace(a=1) %}",
    "{{ words | map('attr', '__class__') | list }}",
    "{{ words | groupby('__class__') }}",
    "{{ words | sort(attribute='__class__') }}",
    "{{ git.__class__ }}",
    "{{ range.__self__ }}",
    "{{ loop.__class__ }}",
    '{{ "x"*10**9 }}',
    '{{ "x" * 1000000000 }}',
    "{{ 9**9**9 }}",
    "{{ 9 ** 99999999 }}",
    "{{ " + "9" * 5000 + " }}",
    "{{ 0x" + "f" * 5000 + " * 2 }}",
    "{{ range(10**9) | list }}",
    "{{ range(1000000000) }}",
    "{% for a in range(1000) %}" * 3 + "{% endfor %}" * 3,
    "{% set a = 'xxxxxxxxxx' %}" + "{% set a = a ~ a %}" * 60 + "{{ a }}",
    "{% set a = words %}" + "{% set a = a + a %}" * 60 + "{{ a | length }}",
    "{% set a = 7 %}" + "{% set a = a * a %}" * 60 + "{{ a }}",
    "{% set a = [words, words] %}",
    "{{ ('x' | replace('', 'y' * 1000)) }}",
    "{% set a = 'x' | indent(1000000) %}",
    "{% set a %}" + "x" * 1000 + "{% endset %}",
    "{{ " + "(" * 50_000 + ")" * 50_000 + " }}",
    "{{ " + "not " * 50_000 + "1 }}",
    "{{ " + "[" * 50_000 + " }}",
    "{{ " + "+".join(["x"] * 50_000) + " }}",
    "{% if x %}" * 20_000,
    "{{ words[0:1] }}",
    "{{ 1 / 3 }}",
    "{{ debug }}{% debug %}",
    "{% do words.append(1) %}",
    "{% for x in words %}{% break %}{% endfor %}",
]  # fmt: skip


@pytest.mark.parametrize("text", PAYLOADS, ids=range(len(PAYLOADS)))
def test_no_template_gets_out_or_goes_on(text: str) -> None:
    start = time.process_time()
    with pytest.raises(TemplateError) as caught:
        made(text)
    assert time.process_time() - start < 2
    assert 0 < len(caught.value.message) < 120
    assert 0 <= caught.value.start <= len(text)


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(900) %}{{ a }}" + "x" * 2000 + "{% endfor %}",
        "{% set a = 'xxxxxxxxxxxxxxxx' %}" + "{% set a = a ~ a %}" * 12
        + "{% for i in range(999) %}{% for j in range(99) %}{% if a == a ~ '' %}{% endif %}"
        "{% endfor %}{% endfor %}",
        "{% set l = range(1000) %}" + "{% set l = l + l %}" * 5
        + "{% for i in range(999) %}{% for j in range(99) %}{% if -1 in l %}{% endif %}"
        "{% endfor %}{% endfor %}",
    ],
    ids=["output", "texts", "lists"],
)  # fmt: skip
def test_what_is_long_ends(text: str) -> None:
    start = time.process_time()
    with pytest.raises(TemplateError):
        made(text)
    assert time.process_time() - start < 2


@given(st.text(alphabet="{}% abx.|()[]'\"+-~,=\n0123456789rangeforinifsetend", max_size=80))
def test_any_text_is_a_template_or_an_error(text: str) -> None:
    try:
        result = made(text)
    except TemplateError as error:
        assert 0 <= error.start <= len(text)
    else:
        assert isinstance(result, str)


@given(st.text(max_size=60).filter(lambda text: "{" not in text))
def test_a_text_without_braces_is_itself(text: str) -> None:
    assert not is_template(text)
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    assert made(text) == plain


def test_each_line_knows_what_it_was_made_from() -> None:
    text = "FROM a\n{% for w in words %}\nRUN {{ w }}\n  {# not #}\n\n{% endfor %}\nCMD {{ x }}\n"
    out = render(parse_template(text), {**NAMES, "x": "1\n2"})
    pairs = zip(out.text.split("\n"), out.lines, strict=True)
    assert [pair for pair in pairs if pair[0].strip()] == [
        ("FROM a", 1),
        ("RUN b", 3),
        ("RUN a", 3),
        ("RUN b", 3),
        ("CMD 1", 7),
        ("2", 7),
    ]


def test_what_is_missing_is_no_other_error() -> None:
    with pytest.raises(Missing):
        made("{{ vars.PYY }}")
    with pytest.raises(TemplateError) as caught:
        made("{{ words.x | default('') }}")
    assert not isinstance(caught.value, Missing)


def test_names_of_a_target(load: Load) -> None:
    package = load(
        "workspace: {name: shop, vars: {A: a, B: '{{ vars.A }}{{ workspace.name }}'}, registry: r/x,"
        " env: CI_JOB}\n"
        "targets:\n"
        "  t:\n"
        "    args: {A: '{{ vars.B }} {{ package }} {{ target }} {{ env.CI_JOB }}'}\n"
        "    tags: '{{ workspace.registry }}/{{ target }}:{{ workspace.name }}'\n",
        package="",
    )
    image = image_target(package.targets["t"])
    assert image.args[0].value == "ashop  t 7"
    assert [tag.text for tag in image.tags] == ["r/x/t:shop"]


def test_a_template_may_come_to_a_number_or_a_label(load: Load) -> None:
    package = load(
        "rule: system\npackages: ['{{ target }}']\njobs: '{{ 1 + 2 }}'\nconfigure: '{{ 1 > 2 }}'\n"
        "after: ':{{ target }}-x'\n"
    )
    target = package.targets["image"]
    assert (target.number("jobs"), target.flag("configure")) == (3, False)
    assert str(target.value("after").data) == "//app:image-x"


def test_a_block_keeps_its_lines(load: Load) -> None:
    package = load(
        "targets:\n"
        "  t:\n"
        "    dockerfile_inline: |\n"
        "      FROM scratch\n"
        "      {% for x in [1, 2] %}\n"
        "      RUN {{ x }}\n"
        "      {% endfor %}\n"
        "      CMD a\n"
    )
    inline = image_target(package.targets["t"]).dockerfile
    assert isinstance(inline, DockerfileInline)
    assert inline.text == "FROM scratch\nRUN 1\nRUN 2\nCMD a\n"
    assert (inline.first_line, inline.indent, inline.lines[:4]) == (4, 6, (1, 3, 3, 5))


def test_stamps_are_asked_for_when_they_are_needed(load: Load) -> None:
    package = load("tags: ['a:{{ git.sha }}', 'a:1']\nlabels: {c: '{{ git.branch | default(1) }}'}")
    target = package.targets["image"]
    assert target.pairs("labels") == (("c", "1"),)
    with pytest.raises(InputError) as caught:
        target.texts("tags")
    assert caught.value.message == "this is in no git repository"
    assert (caught.value.where.line, caught.value.where.column) == (1, 14)  # type: ignore[union-attr]


@pytest.mark.parametrize("where", ["args: {A: X}", "stage: X", "contexts: {a: X}", "network: X"])
def test_a_stamp_builds_nothing_again(load: Load, where: str) -> None:
    with pytest.raises(InputError, match="no reason to build"):
        load(where.replace("X", "'{{ git.short }}'"))


def test_without_surroundings_braces_are_text() -> None:
    package = loader.load("args: {A: '{{ x }}'}", "app", schema.BUILT_IN, "Dockerfile")
    assert package.targets["image"].pairs("args") == (("A", "{{ x }}"),)


def test_plain_boxfiles_pay_nothing() -> None:
    """1,000 of them import neither Jinja nor what evaluates it."""
    code = (
        "import sys\n"
        "from buildgraph.boxfile import loader, schema\n"
        "from buildgraph.boxfile.rendering import Surroundings\n"
        "around = Surroundings({}, '/nowhere')\n"
        "for i in range(1000):\n"
        "    loader.load('args: {A: \"${x} {y}\"}', f'p{i}', schema.BUILT_IN, 'D', around=around)\n"
        "print('jinja2' in sys.modules, 'buildgraph.boxfile.evaluate' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_a_text_that_many_have_is_read_once() -> None:
    around = Surroundings({}, "/nowhere")
    for i in range(50):
        loader.load("args: {A: '{{ package }}'}", f"p{i}", schema.BUILT_IN, "D", around=around)
    assert len(around.read) == 1


def test_errors_of_all_values_are_told_at_once(load: Load) -> None:
    with pytest.raises(InputErrors) as caught:
        load("args: {A: '{{ a }}', B: '{{ b }}', C: '{{ c }}'}")
    assert len(caught.value.errors) == 3


def test_the_caps_are_what_they_are_said_to_be() -> None:
    assert len(made(f"{{{{ range({limits.TEMPLATE_RANGE}) | join(' ') }}}}").split()) == 1000
    with pytest.raises(TemplateError, match="at most 1000"):
        made(f"{{{{ range({limits.TEMPLATE_RANGE + 1}) | join }}}}")
    with pytest.raises(TemplateError, match="too long"):
        parse_template("x" * (limits.DOCKERFILE_BYTES + 1))
