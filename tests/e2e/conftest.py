"""What the end-to-end tests share: a tier for each, the artifacts, and the lab in a job root of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.artifacts.store import cache_root
from tests.e2e.driver import Cli

_UNIT = Path(__file__).parents[1] / "unit"
_TIERS = ("push", "nightly")
# Artifacts from nothing: a kernel and two images on two slow cores.
_BUILD_S = 7200
_TEST_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test that is in no tier: it would never run. A test's time limit does not count what fixtures build."""
    # pytest gives all tests of a session to each conftest.py; those without machines are in every tier.
    items = [item for item in items if not item.path.is_relative_to(_UNIT)]
    lost = [item.nodeid for item in items if not any(item.get_closest_marker(tier) for tier in _TIERS)]
    if lost:
        raise pytest.UsageError(f"mark these tests with one of {', '.join(_TIERS)}: {', '.join(lost)}")
    for item in items:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_TEST_S, func_only=True))


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything that a lab is made of, built in the shared cache if it is not there: plan.json's ``artifacts``.

    Workers that come to this together share one build.
    """
    cli = Cli(tmp_path_factory.mktemp("artifacts"), cache_root().resolve())
    with cli.running("net-vdpa_sim-virtio_vdpa-iperf3", "--stop-at", "artifacts") as running:
        ended = running.end(_BUILD_S)
    assert ended.status == 77, ended.said
    assert not cli.left_behind()
    [result] = ended.document.results
    found: dict[str, Any] = json.loads((result.folder / "plan.json").read_text())["artifacts"]
    return found


@pytest.fixture
def cli(artifacts: dict[str, Any], tmp_path: Path) -> Iterator[Cli]:
    """``./vdpalab`` with the shared artifacts; what a test leaves behind fails it."""
    assert artifacts
    lab = Cli(tmp_path, cache_root().resolve())
    yield lab
    left = lab.left_behind()
    assert not left, "\n".join(["left behind:", *left])
