"""Pictures: boxes that never overlap, texts that are never markup, and a page that fetches nothing."""

from __future__ import annotations

import json
import re
import xml.dom.minidom
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from buildgraph.graph.picture import Box, Picture, picture
from buildgraph.graph.picture_layout import layered
from buildgraph.graph.picture_page import page
from buildgraph.graph.picture_svg import svg

EVIL = "</script><script>alert(1)</script>\"'&<!--\x00\x1b[31m\ud800]]>"


def _made(text: str = "RUN make") -> Picture:
    steps = [
        Box("base", "FROM x", target="//a", verdict="hit", seconds=1.0, size=5_000_000),
        Box("one", text, text, ("base",), "//a", "build", "a/Dockerfile:2", "hit", 3.0, 1200),
        Box("two", text, "", ("base",), "//a", "test", "a/Dockerfile:5", "build", 2.0),
        Box("end", text, "", ("one", "two"), "//b", "last", "b/Dockerfile:2", "depends", 1.5),
    ]
    targets = [Box("//a", "//a", "image"), Box("//b", text, "image", ("//a", "//gone"))]
    return picture("shop", steps, targets)


def test_levels_sum_up_their_steps_and_the_longest_way_is_marked() -> None:
    made = _made()
    assert [box.id for box in made.levels["step"] if box.critical] == ["base", "one", "end"]
    assert (made.longest, made.total) == (5.5, 7.5)
    a, b = made.levels["target"]
    assert (a.verdict, a.seconds, a.size, b.needs) == ("build", 6.0, 5_001_200, ("//a",))
    stages = {box.id: box for box in made.levels["stage"]}
    assert stages["//b last"].needs == ("//a build", "//a test")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.integers(0, 30), max_size=4), max_size=25))
def test_boxes_keep_their_distance_and_lines_lead_to_the_right(edges: list[set[int]]) -> None:
    needs = {str(i): [str(j) for j in sorted(found) if j < i] for i, found in enumerate(edges)}
    layout = layered(list(needs), needs, box=(100, 40), gap=(50, 10))
    for (ax, ay), (bx, by) in combinations(layout.boxes.values(), 2):
        assert ax + 150 <= bx + 1e-6 or bx + 150 <= ax + 1e-6 or abs(ay - by) >= 50 - 1e-6
    for (needed, user), points in layout.lines.items():
        assert layout.boxes[needed][0] < layout.boxes[user][0]
        assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert all(0 <= y <= layout.height - 40 + 1e-6 for _, y in layout.boxes.values())


def test_texts_of_others_are_text_everywhere() -> None:
    for made in (_made(EVIL), picture(EVIL, (), ())):
        for level in ("target", "stage", "step"):
            drawn = svg(made, level)
            xml.dom.minidom.parseString(drawn.encode())
            assert "<script" not in drawn
        text = page(made)
        assert "alert(1)</script>" not in text
        assert len(re.findall(r"<script", text)) == 2
        assert "\x00" not in text
        assert "\x1b" not in text
        data = re.search(r'id="data">(.*?)</script>', text)
        assert data is not None
        assert set(json.loads(data[1])) == {"target", "stage", "step"}
        text.encode()


def test_a_page_is_closed_to_the_network_and_small() -> None:
    text = page(_made())
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=", text)
    assert re.findall(r"https?://[^\"]*", text) == []
    assert len(text) < 20_000


def test_the_same_picture_is_the_same_text() -> None:
    assert page(_made()) == page(_made())


def test_drawing_many_boxes_is_linear() -> None:
    sizes = []
    for count in (200, 400):
        steps = [
            Box(f"s{i:04}", "RUN x", needs=(f"s{i // 2:04}",) if i else (), target="//a")
            for i in range(count)
        ]
        sizes.append(len(page(picture("big", steps, [Box("//a", "//a")]))))
    assert sizes[1] < 2.2 * sizes[0]
