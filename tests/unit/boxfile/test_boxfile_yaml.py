"""Knows how YAML becomes positioned nodes, its traps, and that hostile files end early."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc

import pytest

from buildgraph import limits
from buildgraph.boxfile import yaml
from buildgraph.errors import InputError


def compose(text: str) -> tuple[yaml.Node | None, list[str]]:
    errors: list[InputError] = []
    node = yaml.compose(text, "Boxfile.yaml", errors)
    return node, [f"{error}" for error in errors]


def simple(node: yaml.Node | None) -> object:
    match node:
        case yaml.Scalar():
            return node.text
        case yaml.Sequence():
            return [simple(item) for item in node.items]
        case yaml.Mapping():
            return {entry.key.text: simple(entry.value) for entry in node.entries}
        case None:
            return None


def test_scalars_keep_their_text() -> None:
    node, errors = compose("{a: 3.10, b: yes, c: 0x1F, d: 1_000, e: 2024-01-01, f: 'no', g: ~}")
    assert not errors
    expected = {"a": "3.10", "b": "yes", "c": "0x1F", "d": "1_000", "e": "2024-01-01"}
    assert simple(node) == {**expected, "f": "no", "g": "~"}


def test_a_label_needs_quotes_only_where_it_starts_with_a_colon_in_brackets() -> None:
    node, errors = compose("a: {x: //a/b:c, y: ':d'}\nb: :c\nc: [//x:y, //x/...]\n")
    assert not errors
    assert simple(node) == {
        "a": {"x": "//a/b:c", "y": ":d"},
        "b": ":c",
        "c": ["//x:y", "//x/..."],
    }


def test_positions_count_characters_from_one() -> None:
    node, _ = compose("é: [ü, 'b c']\n")
    assert isinstance(node, yaml.Mapping)
    entry = node.entries[0]
    assert (entry.key.where.line, entry.key.where.column, entry.key.where.end_column) == (1, 1, 2)
    assert isinstance(entry.value, yaml.Sequence)
    assert (entry.value.where.column, entry.value.where.end_column) == (4, 14)
    second = entry.value.items[1].where
    assert (second.line, second.column, second.end_column) == (1, 8, 13)
    assert second.text == "é: [ü, 'b c']"


@pytest.mark.parametrize("break_", ["\n", "\r\n", "\r"])
def test_every_line_break_counts(break_: str) -> None:
    node, _ = compose(f"a: 1{break_}{break_}b: 2{break_}")
    assert isinstance(node, yaml.Mapping)
    where = node.entries[1].value.where
    assert (where.line, where.column, where.text) == (3, 4, "b: 2")


@pytest.mark.parametrize(
    ("text", "line", "indent", "first"),
    [
        ("d: |\n  FROM x\n  RUN y\n", 2, 2, "FROM x"),
        ("d: |-\n\n    FROM x\n", 2, 4, ""),
        ("d: |2\n    FROM x\n  RUN y\n", 2, 2, "  FROM x"),
        ("d: | # why\n   FROM x\n", 2, 3, "FROM x"),
    ],
)
def test_a_literal_block_knows_where_its_text_stands(
    text: str, line: int, indent: int, first: str
) -> None:
    node, errors = compose(text)
    assert not errors
    assert isinstance(node, yaml.Mapping)
    block = node.entries[0].value
    assert isinstance(block, yaml.Scalar)
    assert (block.body_line, block.body_indent) == (line, indent)
    assert block.text.split("\n")[0] == first
    for offset, written in enumerate(block.text.rstrip("\n").split("\n")):
        assert text.split("\n")[line - 1 + offset][indent:] == written


def test_empty_texts_have_no_node() -> None:
    for text in ("", "\n", "# nothing\n", "---\n"):
        node, errors = compose(text)
        assert not errors
        assert node is None or (isinstance(node, yaml.Scalar) and node.empty)


def test_merge_keys_are_shallow_and_what_is_written_wins() -> None:
    node, errors = compose(
        "a: &a {x: 1, n: {p: 1}}\nb: &b {x: 2, y: 2}\n"
        "c: {<<: *a, n: {q: 1}}\nd: {<<: [*b, *a], z: 3}\ne: {'<<': 1}\n"
    )
    assert not errors
    result = simple(node)
    assert isinstance(result, dict)
    assert result["c"] == {"n": {"q": "1"}, "x": "1"}
    assert result["d"] == {"z": "3", "x": "2", "y": "2", "n": {"p": "1"}}
    assert result["e"] == {"<<": "1"}


FILE = "Boxfile.yaml"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", f"{FILE}:3:1: key 'a' is there twice"),
        ("a: {b: 1, b: 2}\n", f"{FILE}:1:11: key 'b' is there twice"),
        ("? [a]\n: b\n", f"{FILE}:1:3: a key must be a text"),
        ("a: !x y\n", f"{FILE}:1:4: YAML tags such as '!x' are not used here"),
        ("a: ! y\n", f"{FILE}:1:4: YAML tags such as '!' are not used here"),
        (
            "a: !!python/object/apply:os.system [id]\n",
            f"{FILE}:1:4: YAML tags such as '!!python/object/apply:os.system' are not used here",
        ),
        ("a: !!str 3\n", f"{FILE}:1:4: YAML tags such as '!!str' are not used here"),
        ("a: *x\n", f"{FILE}:1:4: no anchor '&x' before this alias"),
        ("a: &x [*x]\n", f"{FILE}:1:8: alias '*x' stands inside what it repeats"),
        ("a: 1\n---\nb: 2\n", f"{FILE}:2:1: a second document starts here; a Boxfile is one"),
        ("a: b\x01\n", f"{FILE}:1:5: a control character (U+0001)"),
        ("a: \ud800\n", f"{FILE}:1:4: a control character (U+D800)"),
        ("a: {<<: 1}\n", f"{FILE}:1:9: '<<' takes a mapping or a list of mappings"),
    ],
)
def test_what_is_refused(text: str, expected: str) -> None:
    assert compose(text)[1] == [expected]


def test_all_duplicates_are_told_at_once() -> None:
    _, errors = compose("a: 1\na: 2\nb: {c: 1, c: 2}\n")
    assert errors == [
        f"{FILE}:2:1: key 'a' is there twice",
        f"{FILE}:3:11: key 'c' is there twice",
    ]


@pytest.mark.parametrize(
    ("text", "place", "marked", "hint"),
    [
        ("a: [:b]\n", "1:5", ":b", 'quote the label: ":b"'),
        ("a: [b,:c]\n", "1:7", ":c", 'quote the label: ":c"'),
        ("a: {x: :b}\n", "1:8", ":b", 'quote the label: ":b"'),
        ("a: @r//x\n", "1:4", "@r//x", 'quote the text: "@r//x"'),
        ("a: `x`\n", "1:4", "`x`", 'quote the text: "`x`"'),
        ("a: %x\n", "1:4", "%x", 'quote the text: "%x"'),
        ("a: [//x:y[k=v]]\n", "1:10", "[", "quote a label or text that has '[' in it"),
        ("a: {r: ${v}}\n", "1:9", "{", "quote a text that has '{' in it"),
        ("a:\n\tb: 1\n", "2:1", "\t", "indent with spaces: YAML forbids tabs there"),
        ("a: b: c\n", "1:5", ":", "quote a text that has ': ' in it"),
        ("a: - b\n", "1:4", "-", "start the list on its own line, or write [a, b]"),
        ("a: 'b\n", "1:4", "'", "close the quote"),
        ("x: 1\na: [b\n", "2:4", "[", "close the bracket, or put a comma here"),
        ("a: {b: 1 c: 2}\n", "1:11", ":", None),
    ],
)
def test_syntax_errors_name_the_trap(text: str, place: str, marked: str, hint: str | None) -> None:
    errors: list[InputError] = []
    assert yaml.compose(text, FILE, errors) is None
    (error,) = errors
    assert error.message.startswith("not valid YAML: ")
    where = error.where
    assert where is not None
    assert f"{where.line}:{where.column}" == place
    end = where.end_column or where.column + 1
    assert where.text[where.column - 1 : end - 1] == marked
    if hint is not None:
        assert error.hint == hint


def test_a_template_without_quotes_is_told_as_one() -> None:
    errors: list[InputError] = []
    assert yaml.compose("a: {P: {{ vars.P }}}\n", FILE, errors) is None
    assert [(str(e.where), e.hint) for e in errors] == [
        ("Boxfile.yaml:1:9", 'quote the text: "{{ … }}"')
    ]


def test_bytes_must_be_utf8() -> None:
    assert yaml.decode(b"\xef\xbb\xbfa: \xc3\xa9\n", FILE) == "a: é\n"
    with pytest.raises(InputError) as caught:
        yaml.decode(b"a: 1\nb: \xc3\xa9\xff\n", FILE)
    assert str(caught.value) == f"{FILE}:2:5: not UTF-8"


def test_one_byte_more_than_the_cap_is_refused() -> None:
    fits = b"#" * limits.BOXFILE_BYTES
    assert yaml.decode(fits, FILE)
    assert compose(fits.decode())[0] is None
    with pytest.raises(InputError, match="larger than 1 MiB"):
        yaml.decode(fits + b"#", FILE)
    with pytest.raises(InputError, match="larger than 1 MiB"):
        compose(fits.decode() + "#")


def test_depth_ends_at_the_cap() -> None:
    def nested(levels: int) -> str:
        return "[" * levels + "]" * levels

    assert compose(nested(limits.YAML_DEPTH))[1] == []
    assert compose(nested(limits.YAML_DEPTH + 1))[1] == [
        f"{FILE}:1:65: nested deeper than 64 levels"
    ]


def test_aliases_end_at_the_cap() -> None:
    def repeated(times: int) -> str:
        return "a: &a x\nb: [" + ", ".join(["*a"] * times) + "]\n"

    assert compose(repeated(limits.YAML_ALIASES))[1] == []
    assert compose(repeated(limits.YAML_ALIASES + 1))[1] == [f"{FILE}:2:405: more than 100 aliases"]


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MERGED = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: [*a{i - 1}]}}\n"
    for i in range(1, 10)
)
BOMBS = {
    "billion laughs": (LAUGHS, "more than 100000 values, aliases expanded"),
    "laughs in merge keys": (MERGED, "more than 100000 values, aliases expanded"),
    "10,000 levels": ("[" * 10_000, "nested deeper than 64 levels"),
    "10,000 levels of mappings": ("{a: " * 10_000, "nested deeper than 64 levels"),
    "a level a line": (
        "".join(f"{' ' * i}a:\n" for i in range(1000)),
        "nested deeper than 64 levels",
    ),
    "half a million values": ("[" + "a," * 500_000 + "]", "more than 100000 values"),
    "a tag": ("a: !!python/object/apply:os.system ['false']", "YAML tags such as"),
    "a megabyte of one key": ("a" * 1_000_000 + ": 1\n", ""),
    "many keys, each twice": ("".join(f"k{i}: 1\n" for i in range(20_000)) * 2, "is there twice"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_early_and_small(name: str) -> None:
    text, message = BOMBS[name]
    assert len(text) <= limits.BOXFILE_BYTES
    tracemalloc.start()
    start = time.process_time()
    errors: list[InputError] = []
    yaml.compose(text, FILE, errors)
    taken = time.process_time() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if message:
        assert message in errors[0].message
    # The bar is one second and 100 MiB without the tracing, which slows this down threefold.
    assert taken < 20  # processor seconds; a quarter of one here
    assert peak < 100 * limits.MIB


def test_pyyaml_is_imported_when_a_text_is_read_and_not_before() -> None:
    script = (
        "import sys; from buildgraph.boxfile import workspace, yaml; assert 'yaml' not in "
        "sys.modules; yaml.compose('a: 1', 'x', []); assert 'yaml' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": _path()})


def _path() -> str:
    return ":".join(entry for entry in sys.path if entry)
