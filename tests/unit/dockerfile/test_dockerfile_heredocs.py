"""Here-documents: section 1.7."""

from __future__ import annotations

from typing import Any

import pytest

from buildgraph.dockerfile import instructions as ast
from buildgraph.dockerfile.expand import heredoc_expand
from buildgraph.dockerfile.heredoc import find_markers
from buildgraph.dockerfile.parser import parse
from buildgraph.errors import InputError, InputErrors, Location

HERE = Location("here")


def one(text: str) -> Any:
    (instruction,) = parse(f"FROM scratch\n{text}", "Dockerfile").stages[0].body
    return instruction


def shape(text: str) -> list[tuple[str, bool, bool, int | None]]:
    return [(one.name, one.expand, one.chomp, one.fd) for one in find_markers(text)]


@pytest.mark.parametrize(
    ("text", "markers"),
    [
        ("<<EOF", [("EOF", True, False, None)]),
        ("3<<EOF", [("EOF", True, False, 3)]),
        ("<<-EOF", [("EOF", True, True, None)]),
        ("<<'EOF'", [("EOF", False, False, None)]),
        ('<<-"EOF"', [("EOF", False, True, None)]),
        ("<<eo'f'", [("eof", False, False, None)]),
        ("<<eo\\'f", [("eo'f", True, False, None)]),
        ("<<'e'o\\'f", [("eo'f", False, False, None)]),
        ("<<'one two'", [("one two", False, False, None)]),
        ("<<$EOF", [("$EOF", True, False, None)]),
        ("<<  EOF  > foo", [("EOF", True, False, None)]),
        ("<<- EOF", [("EOF", True, True, None)]),
        ("<< -EOF", [("-EOF", True, False, None)]),
        ("a <<A b <<B", [("A", True, False, None), ("B", True, False, None)]),
        ("'<<EOF'", []),
        ('"<<EOF"', []),
        ("a<<EOF", []),
        ("<<<EOF", []),
        ("<<", []),
        ("<<''", []),
        ("it's <<EOF", []),
        ("<<'EOF", []),
        ("<<EOF'", []),
        ("echo $((1 << 2))", []),
        ("echo $((1 << 2)) <<E", [("E", True, False, None)]),
    ],
)
def test_markers(text: str, markers: list[object]) -> None:
    assert shape(text) == markers


def test_run_of_only_a_heredoc_is_a_script() -> None:
    run = one("RUN --network=none <<-EOF\n\techo hi\n\t  x\n\tEOF\n")
    assert run.script
    assert run.shell == "echo hi\n  x\n"
    assert run.end_line == 5
    assert one("RUN <<E\nE\n").shell == ""
    assert one("RUN <<E\n#!/bin/x\n$y\nE").shell == "#!/bin/x\n$y\n"


def test_run_with_text_is_left_to_the_shell() -> None:
    run = one("RUN cat <<A <<-B > x\n$a\nA\n\tb\n\tB\n")
    assert not run.script
    assert run.shell == "cat <<A <<-B > x\n$a\nA\n\tb\nB"
    assert [heredoc.body for heredoc in run.heredocs] == ["$a\n", "b\n"]


def test_bodies_in_order_and_terminator_is_the_whole_line() -> None:
    copy = one("COPY <<X <<Y /d\nY\n X\nX \nX\nX\nY\n")
    assert [heredoc.body for heredoc in copy.heredocs] == ["Y\n X\nX \n", "X\n"]
    assert (copy.sources, copy.dest) == ((), "/d")


def test_copy_heredoc_among_sources() -> None:
    copy = one("COPY --chmod=0700 a <<'my file' b /d/\n$x\nmy file\n")
    assert (copy.sources, copy.dest) == (("a", "b"), "/d/")
    (heredoc,) = copy.heredocs
    assert (heredoc.name, heredoc.body, heredoc.expand) == ("my file", "$x\n", False)
    assert heredoc.where.text[heredoc.where.column - 1 : heredoc.where.end_column - 1] == (
        "<<'my file'"
    )


def test_body_is_text_not_instructions() -> None:
    run = one("RUN <<E\n# kept\n\nRUN x \\\n  y\nE")
    assert run.shell == "# kept\n\nRUN x \\\n  y\n"


def test_continuation_comes_before_the_body() -> None:
    run = one("RUN cat <<E \\\n  && x\nbody\nE")
    assert run.shell == "cat <<E   && x\nbody\nE"


def test_instructions_without_heredocs() -> None:
    assert one("USER <<E").user == "<<E"
    assert one('RUN ["<<E"]').exec == ("<<E",)
    assert one('COPY ["<<E", "/x"]').sources == ("<<E",)
    assert one("CMD <<E").shell == "<<E"


def test_errors() -> None:
    with pytest.raises(InputError, match="'EOF' does not end") as caught:
        parse("FROM a\nRUN <<EOF\nEOF \n", "Dockerfile")
    assert caught.value.where is not None
    assert (caught.value.where.line, caught.value.where.column) == (2, 5)
    with pytest.raises(InputError, match="does not end") as caught:
        parse("FROM a\nRUN cat <<EOF>x\nEOF\n", "Dockerfile")
    assert caught.value.hint == "put a blank after the name of the heredoc"
    with pytest.raises(InputError, match="cannot be the destination"):
        parse("FROM a\nCOPY x <<EOF\nEOF\n", "Dockerfile")


def test_a_misspelt_keyword_takes_its_bodies_along() -> None:
    with pytest.raises(InputError, match="unknown instruction 'RUNN'") as caught:
        parse("FROM a\nRUNN <<E\nnonsense\nE\n", "Dockerfile")
    assert not isinstance(caught.value, InputErrors)


def test_crlf_terminates_and_is_kept_out_of_bodies() -> None:
    assert one("RUN <<E\r\na\r\nE\r\n").shell == "a\r\n"


@pytest.mark.parametrize(
    ("body", "expanded"),
    [
        ("a $X ${X:-y} ${Y:-y}\n", "a 1 1 y\n"),
        ("\"$X\" '$X'\n", "\"1\" '1'\n"),
        ("it's\n", "it's\n"),
        ("\\$X \\\\ \\n `x`\n", "$X \\ n `x`\n"),
        ('${Y:-"q"}', '"q"'),
        ("100$ ", "100$ "),
    ],
)
def test_expansion_of_bodies(body: str, expanded: str) -> None:
    assert heredoc_expand(body, {"X": "1"}, where=HERE) == expanded


def test_fields() -> None:
    assert isinstance(one("ADD <<E /x\nE"), ast.Add)
