"""Holds what `lock` does for packages when what is pinned and what is asked for part ways."""

from __future__ import annotations

from e2e.building import Bench
from e2e.harness import Workspace


def _targets(packages: str) -> str:
    rule = f"{{rule: debian, packages: [{packages}], configure: false, essential: false}}"
    return f"workspace: {{name: w}}\ntargets:\n  one: {rule}\n"


def test_a_lock_that_is_out_of_date_is_renewed_by_lock(root_bench: Bench) -> None:
    store = ["--store", str(root_bench.workspace.store(root_bench.user))]
    with Workspace() as place:
        place.write("Boxfile.yaml", _targets("netbase"))
        place.run("lock", *store)
        assert "nothing has changed" in place.run("lock", "--check", *store).stdout
        place.write("Boxfile.yaml", _targets("media-types"))
        said = place.run("build", "//:one", *store, expect=2).stderr
        assert "the lock file is out of date" in said
        assert "media-types new -> " in place.run("lock", "--check", *store, expect=1).stdout
        renewed = place.run("lock", *store).stdout
        assert "netbase" in renewed
        assert "-> gone" in renewed
        place.run("build", "//:one", *store)
