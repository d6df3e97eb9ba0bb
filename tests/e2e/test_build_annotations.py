"""Annotations stand on the part of an image they are meant for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from e2e.building import Bench

TEXT = "FROM scratch\nCOPY f /f\n"
CREATED = "org.opencontainers.image.created"


def documents(bench: Bench, *words: str, env: dict[str, str] | None = None) -> tuple[Any, ...]:
    """Build into a layout; return its entry, the top document, and manifests by architecture."""
    directory = bench.directory({"f": "x"}, TEXT)
    dest = bench.workspace.path(f"{directory}-out")
    words = (directory, "-o", f"type=oci,tar=false,dest={dest}", *words)
    bench.run("build", *words, env=env)
    (entry,) = json.loads((dest / "index.json").read_text())["manifests"]
    top = _blob(dest, entry["digest"])
    below = {
        each["platform"]["architecture"]: (each, _blob(dest, each["digest"]))
        for each in top.get("manifests", ())
    }
    return entry, top, below


def _blob(layout: Path, digest: str) -> Any:
    return json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())


def given(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--annotation", text)]


def test_each_part_gets_its_own(root_bench: Bench) -> None:
    words = given(
        "all=manifests",
        "manifest[linux/arm64]:one=arm",
        "index:top=index",
        "index,manifest-descriptor:both=yes",
        "index-descriptor:outside=1",
    )
    entry, top, below = documents(root_bench, "--platform=linux/amd64,linux/arm64", *words)
    assert entry["annotations"]["outside"] == "1"
    assert top["annotations"] == {"both": "yes", "top": "index"}
    assert {a: d["annotations"] for a, (d, _) in below.items()} == {
        "amd64": {"both": "yes"},
        "arm64": {"both": "yes"},
    }
    assert below["amd64"][1]["annotations"] == {"all": "manifests"}
    assert below["arm64"][1]["annotations"] == {"all": "manifests", "one": "arm"}


def test_created_is_there_where_it_is_asked_for(root_bench: Bench) -> None:
    entry, top, _ = documents(root_bench, *given("manifest-descriptor:a=b"))
    assert "annotations" not in top
    assert entry["annotations"]["a"] == "b"
    epoch = {"SOURCE_DATE_EPOCH": "1700000000"}
    _, top, _ = documents(root_bench, *given(CREATED), env=epoch)
    assert top["annotations"] == {CREATED: "2023-11-14T22:13:20Z"}


def test_an_index_annotation_needs_an_index(root_bench: Bench) -> None:
    failed = root_bench.fail(TEXT, {"f": "x"}, "--annotation", "index:a=b")
    assert "has one platform and no index" in failed.stderr
    failed = root_bench.fail(TEXT, {"f": "x"}, "--annotation", "layer:a=b")
    assert "there is no part 'layer'" in failed.stderr


def test_a_boxfile_names_parts_too(root_bench: Bench) -> None:
    box = {
        "targets": {
            "image": {
                "platforms": ["linux/amd64", "linux/arm64"],
                "annotations": {"a": "1", "index:b": "2"},
            }
        }
    }
    directory = root_bench.directory({"f": "x", "Boxfile.yaml": json.dumps(box)}, TEXT)
    dest = root_bench.workspace.path(f"{directory}-out")
    root_bench.run("build", directory, "-o", f"type=oci,tar=false,dest={dest}")
    (entry,) = json.loads((dest / "index.json").read_text())["manifests"]
    top = _blob(dest, entry["digest"])
    assert top["annotations"] == {"b": "2"}
    assert _blob(dest, top["manifests"][0]["digest"])["annotations"] == {"a": "1"}
    box["targets"]["image"] = {"annotations": {"wrong:b": "2"}}
    root_bench.workspace.write(f"{directory}/Boxfile.yaml", json.dumps(box))
    failed = root_bench.run("build", directory, expect=2)
    assert f"{directory}/Boxfile.yaml:1:" in failed.stderr
    assert "there is no part 'wrong'" in failed.stderr
