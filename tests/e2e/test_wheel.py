"""Knows that what we ship works where nothing of this tree is; must not know what is inside."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from e2e.harness import ROOT, Workspace

PACKAGES = ("buildgraph", "cache/buildgraph_cache", "rules/buildgraph_rules")
pytestmark = pytest.mark.slow


def _run(*command: object, **more: object) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
        **more,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the program in an environment that has the wheel and its dependencies alone."""
    where = tmp_path_factory.mktemp("venv")
    _run(sys.executable, "-m", "venv", where)
    _run(where / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    return where / "bin" / "buildgraph"


def test_everything_in_the_packages_is_in_the_wheel(wheel: Path) -> None:
    shipped = set(zipfile.ZipFile(wheel).namelist())
    ours = {
        str(Path(package).name / file.relative_to(ROOT / package))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert ours <= shipped
    for package in PACKAGES:
        assert f"{Path(package).name}/py.typed" in shipped
    rest = {name for name in shipped - ours if ".dist-info/" not in name}
    assert not rest, "what is this doing in the wheel?"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in shipped)


def test_the_installed_program_says_its_version(installed: Path, tmp_path: Path) -> None:
    said = _run(installed, "--version", cwd=tmp_path)
    version = _run(
        installed.parent / "python",
        "-c",
        "import buildgraph, buildgraph_cache, buildgraph_rules, importlib.metadata as m;"
        "assert buildgraph.__version__ == m.version('buildgraph'); print(buildgraph.__version__)",
        cwd=tmp_path,
    )
    assert version.strip() in said


@pytest.mark.kernel
def test_the_installed_program_builds_the_example(installed: Path, workspace: Workspace) -> None:
    if not (ROOT / "examples" / "hello" / "Dockerfile").exists():
        pytest.skip("machine: the example is not in this tree")
    workspace.write("Boxfile.yaml", "workspace: {name: elsewhere}\n")
    workspace.copy_example("hello")
    command = (installed, "build", "--progress", "quiet", "--store", workspace.store())
    assert _run(*command, "//examples/hello:image", cwd=workspace.root).startswith("sha256:")
