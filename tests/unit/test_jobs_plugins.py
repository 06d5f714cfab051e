"""What avocado is told: resolver, configuration of a job, the spawner's processes."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from avocado.core.nrunner.runnable import Runnable
from avocado.core.resolver import ReferenceResolutionResult

from lab.config.catalog import CONFIGS
from lab.jobs import spawner
from lab.jobs.controller import job_config
from lab.jobs.plugins import ScenarioResolver, is_scenario_file
from lab.jobs.runner import KIND, ScenarioRunner, _echo, _request
from lab.jobs.spawner import LabSpawner
from lab.report.result import write_result
from tests.sample_job import FAILED, PASSED

FIRST = CONFIGS / "scenarios" / "net-vp_vdpa-vhost_vdpa-iperf3.toml"


def test_a_scenario_becomes_a_runnable_with_its_weight() -> None:
    resolution = ScenarioResolver().resolve(str(FIRST))
    assert resolution.result is ReferenceResolutionResult.SUCCESS
    (runnable,) = resolution.resolutions
    assert (runnable.kind, runnable.uri, runnable.identifier) == (KIND, str(FIRST), FIRST.stem)
    assert runnable.kwargs["ram_mb"] > 1000
    assert runnable.kwargs["cores"] >= 1
    assert ScenarioRunner.name == KIND


@pytest.mark.parametrize("reference", ["no-such.toml", "tests/unit", "pyproject.toml", "lab/model.py"])
def test_what_is_no_scenario_is_left_to_others(reference: str) -> None:
    root = Path(__file__).parents[2]
    assert ScenarioResolver().resolve(str(root / reference)).result is ReferenceResolutionResult.NOTFOUND


@pytest.mark.parametrize(
    ("change", "told"),
    [(("[device]", "[device"), "not TOML"), (('"vhost_vdpa"', '"glue"'), "attach"), (("class =", "klass ="), "klass")],
)
def test_a_wrong_scenario_is_corrupt(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    path = tmp_path / "scenarios" / "wrong.toml"
    path.parent.mkdir()
    path.write_text(FIRST.read_text().replace(*change))
    resolution = ScenarioResolver().resolve(str(path))
    assert resolution.result is ReferenceResolutionResult.CORRUPT
    assert told in resolution.info


def test_broken_toml_elsewhere_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("[")
    assert not is_scenario_file(str(tmp_path / "x.toml"))


def test_request_of_a_runnable() -> None:
    assert _request(Runnable(KIND, "a.toml")).scenario == "a.toml"
    assert _request(Runnable(KIND, "001-a", request='{"scenario": "a", "cold": true}')).cold


def test_only_answers_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    _echo({"status": "running"})
    _echo("{}")
    assert capsys.readouterr().out == "{}\n"


def test_configuration_of_a_job(tmp_path: Path) -> None:
    config = job_config({"runs": [{}] * 3, "max_parallel": None, "until_fail": True}, tmp_path)
    assert config["run.max_parallel_tasks"] == 3
    assert (config["vdpalab.runs"], config["vdpalab.until_fail"]) == (0, True)
    assert config["runner.task.interval.from_soft_to_hard_termination"] >= 60
    assert config["run.results_dir"] == str(tmp_path / "avocado")


class FakeTask:
    """As much of avocado's task as the spawner touches; its runner is a program of the test."""

    def __init__(self, folder: Path, program: list[str], **kwargs: object) -> None:
        self.identifier, self.job_id = "1-a", "job"
        self.posted: list[dict[str, Any]] = []
        self.status_services = [SimpleNamespace(post=self.posted.append)]
        self.runnable = SimpleNamespace(
            kwargs={"run_dir": str(folder / "run"), **kwargs},
            output_dir=str(folder / "out"),
            runner_command=lambda: program,
        )

    def get_command_args(self) -> list[str]:
        return []

    def setup_output_dir(self, _path: str) -> None:
        pass


def spawned(task: FakeTask, then: FakeTask | None = None, **config: object) -> SimpleNamespace:
    """Run one task to its end under the spawner, then try to start another."""
    own = LabSpawner({"vdpalab.ram_mb": 100, **config})
    runtime = SimpleNamespace(task=task, spawner_handle=None)

    async def story() -> None:
        runtime.started = await own.spawn_task(runtime)
        if runtime.started:
            assert own.is_task_alive(runtime)
            await own.wait_task(runtime)
            assert not own.is_task_alive(runtime)
        if then:
            runtime.second = await own.spawn_task(SimpleNamespace(task=then, spawner_handle=None))
        await own.stop()

    asyncio.run(story())
    return runtime


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_a_runner_that_ends_well_speaks_for_itself(tmp_path: Path) -> None:
    task = FakeTask(tmp_path, shell("echo hello; exit 0"))
    spawned(task)
    assert task.posted == []
    assert (tmp_path / "run" / "runner.log").read_text() == "hello\n"
    assert json.loads((tmp_path / "run" / "runner.json").read_text())["returncode"] == 0


@pytest.mark.parametrize(("script", "status"), [("kill -9 $$", -9), ("exit 3", 3)])
def test_a_runner_that_dies_is_reported(tmp_path: Path, script: str, status: int) -> None:
    task = FakeTask(tmp_path, shell(script))
    spawned(task)
    message = task.posted[0]
    assert (message["status"], message["result"], message["id"]) == ("finished", "error", "1-a")
    assert f"exit status {status}" in message["fail_reason"]


def test_a_runner_over_its_limit_is_stopped(tmp_path: Path) -> None:
    task = FakeTask(tmp_path, shell("sleep 60"), limit_s=0.2)
    spawned(task)
    assert f"exit status {-signal.SIGTERM}" in task.posted[0]["fail_reason"]
    assert "did not end within" in (tmp_path / "run" / "runner.log").read_text()


def test_a_runner_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawner, "GRACE_S", 0.3)
    task = FakeTask(tmp_path, shell("trap '' TERM; while :; do sleep 1; done"), limit_s=1)
    spawned(task)
    assert f"exit status {-signal.SIGKILL}" in task.posted[0]["fail_reason"]


@pytest.mark.parametrize(("result", "second"), [(PASSED, True), (FAILED, False)])
def test_until_fail_closes_the_gate(tmp_path: Path, result: Any, second: bool) -> None:
    (tmp_path / "run").mkdir()
    write_result(tmp_path / "run", result)
    task = FakeTask(tmp_path, shell("exit 0"))
    runtime = spawned(task, FakeTask(tmp_path / "then", shell("exit 0")), **{"vdpalab.until_fail": True})
    assert (runtime.started, runtime.second) == (True, second)


def test_configured_budget() -> None:
    own = LabSpawner({"vdpalab.ram_mb": 123, "vdpalab.cores": 7})._budget
    assert (own.ram_mb, own.cores, own.runs) == (123, 7, None)
    assert LabSpawner({"vdpalab.runs": 2})._budget.runs == 2
