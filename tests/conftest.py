"""Knows what every test may ask for; must not know any room's own values."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")
_MARKED = {"kernel": "kernel", "e2e": "e2e"}  # directory below tests/ -> marker


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite the expected files of tests/golden from what the code says now",
    )


def pytest_configure(config: pytest.Config) -> None:
    # useradd, ip and runc live where an ordinary user's path does not look.
    paths = os.environ.get("PATH", os.defpath).split(os.pathsep)
    extra = [path for path in ("/usr/local/sbin", "/usr/sbin", "/sbin") if path not in paths]
    os.environ["PATH"] = os.pathsep.join(paths + extra)
    # A shell without job control starts what runs beside it with SIGINT ignored, and every program
    # that a test starts would inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A deadline per example measures the neighbours on a shared machine, not us. In CI the
    # examples are the same in every run, so that a red run can be had again.
    from hypothesis import settings

    kept = {} if os.access(ROOT, os.W_OK) and "SUDO_USER" not in os.environ else {"database": None}
    settings.register_profile("buildgraph", deadline=None, derandomize=_CI, **kept)
    settings.load_profile("buildgraph")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parts = item.path.relative_to(ROOT / "tests").parts
        if parts[0] in _MARKED:
            item.add_marker(getattr(pytest.mark, _MARKED[parts[0]]))


def _forbidden_skip(reason: object) -> bool:
    """Say whether CI, being root, must not accept this skip of a kernel test."""
    if not _CI or os.geteuid() != 0:
        return False
    text = reason[2] if isinstance(reason, tuple) else str(reason)
    return not text.removeprefix("Skipped: ").startswith("machine:")


def _refuse(report: Any) -> None:
    report.outcome = "failed"
    report.longrepr = (
        f"{report.nodeid}: CI runs kernel tests as root and must not skip them: {report.longrepr}\n"
        "(a reason that starts with 'machine:' says that this kernel cannot do it)"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    is_skip = report.skipped and not hasattr(report, "wasxfail")
    if is_skip and item.get_closest_marker("kernel") and _forbidden_skip(report.longrepr):
        _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    in_kernel = (ROOT / "tests" / "kernel") in collector.path.parents
    if report.skipped and in_kernel and _forbidden_skip(report.longrepr):
        _refuse(report)
    return report


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Say whether expected files are to be rewritten rather than compared."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def workspace() -> Iterator[Any]:
    """Return an empty e2e.harness.Workspace with a store of its own."""
    from e2e.harness import Workspace

    with Workspace() as made:
        yield made


@pytest.fixture(scope="session")
def as_user() -> Iterator[Any]:
    """Return an ordinary user (e2e.harness.User) with ranges of subordinate ids.

    As root a throw-away one is made and removed again; otherwise it is whoever runs the tests.
    """
    from e2e.harness import ordinary_user

    with ordinary_user() as user:
        yield user


@pytest.fixture(scope="session")
def as_lone_user() -> Iterator[Any]:
    """Return an ordinary user without subordinate ids; skips where one cannot be made."""
    from e2e.harness import ordinary_user

    if os.geteuid() != 0:
        pytest.skip("machine: only root can make a user without ranges")
    with ordinary_user(ranges=False) as user:
        yield user


@pytest.fixture(scope="session")
def users_have_networks() -> Iterator[None]:
    """Have /dev/net/tun as udev makes it, which a minimal machine does not."""
    device = Path("/dev/net/tun")
    if not device.exists() or not (shutil.which("pasta") or shutil.which("slirp4netns")):
        pytest.skip("machine: pasta or slirp4netns and /dev/net/tun are needed")
    if os.geteuid() != 0:
        if not os.access(device, os.R_OK | os.W_OK):
            pytest.skip("machine: /dev/net/tun is not for ordinary users here")
        yield
        return
    mode = stat.S_IMODE(device.stat().st_mode)
    device.chmod(0o666)
    yield
    device.chmod(mode)
