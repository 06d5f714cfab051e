"""``avocado run X.toml`` from the virtual environment: the same statuses; only what a run does inside is a stand-in."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from lab import proc
from lab.evidence.record import owner_alive
from lab.model import Completed
from lab.wait import Deadline, wait_until

pytestmark = pytest.mark.push

ROOT = Path(__file__).parents[2]
SCENARIOS = ROOT / "configs" / "scenarios"
AVOCADO = str(Path(sys.executable).with_name("avocado"))
FIRST, SECOND, THIRD = "net-vp_vdpa-vhost_vdpa-iperf3", "blk-vp_vdpa-vhost_vdpa-fio", "net-vp_vdpa-vhost_vdpa-unplug"


@pytest.fixture(autouse=True)
def _own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDPALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}/tests/standin:{ROOT}")
    # Where avocado writes when nobody tells it.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(tmp_path)


def script(monkeypatch: pytest.MonkeyPatch, **runs: list[str]) -> None:
    monkeypatch.setenv("STANDIN", json.dumps(runs))


def scenario_files(*names: str) -> list[str]:
    return [str(SCENARIOS / f"{name}.toml") for name in names]


def avocado(*arguments: str) -> Completed:
    return proc.run([AVOCADO, *arguments], check=False, timeout_s=120)


def statuses(results_dir: Path) -> dict[str, str]:
    tests = json.loads((results_dir / "latest" / "results.json").read_text())["tests"]
    return {test["name"]: test["status"] for test in tests}


def test_same_statuses_and_a_dying_runner_does_not_hang_the_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(
        monkeypatch,
        **{
            SECOND: ["step:attach", "kill"],
            THIRD: ["verdict:SKIP"],
            "net-vdpa_sim-vhost_vdpa-migrate": ["verdict:FAIL"],
        },
    )
    files = scenario_files(FIRST, SECOND, THIRD, "net-vdpa_sim-vhost_vdpa-migrate")
    done = avocado("run", "--job-results-dir", str(tmp_path / "results"), *files)
    assert done.returncode == 1
    assert statuses(tmp_path / "results") == {
        FIRST: "PASS", SECOND: "ERROR", THIRD: "SKIP", "net-vdpa_sim-vhost_vdpa-migrate": "FAIL"
    }  # fmt: skip
    # Each is a job of the lab too, with its report.
    passed = next((tmp_path / "cache" / "jobs").glob(f"*/001-{FIRST}"))
    assert (passed.parent / "report.html").exists()
    killed = next((tmp_path / "cache" / "jobs").glob(f"*/001-{SECOND}"))
    assert json.loads((killed / "runner.json").read_text())["returncode"] == -9


def test_interrupt_ends_the_lab_cleanly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(monkeypatch, **{FIRST: ["step:attach", "wait:60", "undo:2"]})
    argv = [AVOCADO, "run", "--job-results-dir", str(tmp_path / "results"), *scenario_files(FIRST)]
    jobs = tmp_path / "cache" / "jobs"
    with proc.spawn(argv, grace_s=60) as process:
        wait_until(lambda: _step_begun(jobs), Deadline(30), "the step attach")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(Deadline(60)) != 0
    run_dir = next(jobs.glob("*/001-*"))
    assert (run_dir / "undone").exists()
    assert not owner_alive(run_dir)
    assert statuses(tmp_path / "results") == {FIRST: "ERROR"}


def _step_begun(jobs: Path) -> bool:
    return any("attach" in path.read_text() for path in jobs.glob("*/001-*/events.jsonl"))


@pytest.mark.parametrize(
    ("change", "told"),
    [(("iperf3", "fio"), "unknown key"), (("class", "klass"), "klass"), (('"net"', '"blk"'), "iperf3 needs a network")],
)
def test_a_wrong_scenario_is_refused_with_its_problems(change: tuple[str, str], told: str, tmp_path: Path) -> None:
    text = (SCENARIOS / f"{FIRST}.toml").read_text().replace(*change)
    (tmp_path / "wrong.toml").write_text(text)
    done = avocado("run", "wrong.toml")
    assert done.returncode == 2
    assert told in done.stdout.decode() + done.stderr.decode()
    assert not (tmp_path / "cache" / "jobs").exists()


def test_list_knows_scenarios_from_other_files(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[tool]\nclass = 1\n")
    done = avocado("list", "other.toml", *scenario_files(FIRST))
    assert done.text.splitlines() == [f"vdpalab-scenario {FIRST}"]
