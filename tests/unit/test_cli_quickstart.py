"""Quickstart does three things in order, and stops at the first that fails."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lab.artifacts import provide
from lab.artifacts.store import Store
from lab.cli import main, quickstart
from lab.config.catalog import expand
from lab.config.request import ArtifactOptions, RunRequest
from lab.errors import BuildError, LabError


class Steps:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.failing: dict[str, LabError] = {}
        self.status = 0
        monkeypatch.setattr(quickstart, "set_up", lambda: self.step("set up"))
        monkeypatch.setattr(provide, "provide", self.provide)
        monkeypatch.setattr(quickstart, "run_scenarios", self.run)

    def step(self, name: str) -> None:
        if name in self.failing:
            raise self.failing[name]
        self.done.append(name)

    def provide(self, store: Store, options: ArtifactOptions) -> None:
        assert options == ArtifactOptions()
        store._report("kernel: compiling")
        self.step("build")

    def run(self, names: Sequence[str], template: RunRequest, *, as_json: bool) -> int:
        assert template.site == "nested"
        self.step(f"run {' '.join(names)} json={as_json}")
        return self.status


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


@pytest.mark.parametrize("status", [0, 1, 77])
def test_sets_up_builds_and_runs(status: int, steps: Steps, capsys: pytest.CaptureFixture[str]) -> None:
    steps.status = status
    assert main(["quickstart", "--json"]) == status
    assert steps.done == ["set up", "build", "run quickstart json=True"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "kernel: compiling" in captured.err


@pytest.mark.parametrize("step", ["set up", "build"])
def test_nothing_runs_after_a_failure(step: str, steps: Steps) -> None:
    steps.failing[step] = BuildError("no compiler")
    assert main(["quickstart"]) == 3
    assert not [done for done in steps.done if done.startswith("run")]


def test_the_suite_exists() -> None:
    assert len(expand([quickstart.SUITE])) == 4
