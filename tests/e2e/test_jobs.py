"""The job engine for real: avocado, its processes and signals; only what a run does inside is a stand-in."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lab import proc
from lab.config.request import RunRequest
from lab.errors import DeadlineExceeded
from lab.evidence.record import owner_alive
from lab.jobs.engine import JobOutcome, PlannedRun, run_job
from lab.jobs.watch import RunState
from lab.model import Verdict
from lab.wait import Deadline, wait_until

pytestmark = pytest.mark.push

ROOT = Path(__file__).parents[2]
CLI = [sys.executable, "-P", "-m", "lab.cli"]
FIRST, SECOND, THIRD = "net-vp_vdpa-vhost_vdpa-iperf3", "blk-vp_vdpa-vhost_vdpa-fio", "net-vp_vdpa-vhost_vdpa-unplug"


class Lines:
    """A display that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.most_at_once = 0

    def say(self, line: str) -> None:
        self.lines.append(line)

    def show(self, runs: Sequence[RunState]) -> None:
        self.most_at_once = max(self.most_at_once, sum(bool(run.began and not run.ended) for run in runs))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDPALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}/tests/standin:{ROOT}")


@pytest.fixture
def job_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    return folder


@pytest.fixture
def display() -> Lines:
    return Lines()


def script(monkeypatch: pytest.MonkeyPatch, **runs: list[str]) -> None:
    monkeypatch.setenv("STANDIN", json.dumps(runs))


def planned(name: str, *, ram_mb: int = 64, cores: int = 1, estimate_s: float = 1) -> PlannedRun:
    return PlannedRun(name, RunRequest(scenario=name), ram_mb, cores, estimate_s)


def verdicts(outcome: JobOutcome) -> dict[str, Verdict]:
    return {result.scenario: result.verdict for result in outcome.results}


def events(run_dir: Path) -> list[float]:
    lines = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [lines[0]["t"], lines[-1]["t"]]


@contextlib.contextmanager
def vdpalab(folder: Path, *arguments: str) -> Iterator[proc.Process]:
    """The CLI in the background; what it prints is in ``out`` and ``err`` of the folder."""
    with (
        (folder / "out").open("wb") as out,
        (folder / "err").open("wb") as err,
        proc.spawn([*CLI, *arguments], stdout=out, stderr=err, grace_s=60) as process,
    ):
        yield process


def said(folder: Path, text: str) -> None:
    wait_until(lambda: text in (folder / "err").read_text(), Deadline(30), f"the line {text!r}")


def test_two_at_once_each_with_its_own_verdict(
    monkeypatch: pytest.MonkeyPatch, job_dir: Path, display: Lines, capfd: pytest.CaptureFixture[str]
) -> None:
    script(
        monkeypatch,
        good=["step:machines", "step:l1", "progress:kernel 40 %", "wait:1"],
        bad=["wait:1", "verdict:FAIL"],
        lacking=["verdict:SKIP"],
        defect=["step:attach", "raise:oops"],
    )
    outcome = run_job([planned(n) for n in ("good", "bad", "lacking", "defect")], job_dir, display, max_parallel=2)
    assert verdicts(outcome) == {"good": "PASS", "bad": "FAIL", "lacking": "SKIP", "defect": "ERROR"}
    assert display.most_at_once == 2
    assert "good: machines > l1" in display.lines
    assert "good: kernel 40 %" in display.lines
    assert outcome.results[3].reason == "defect of the lab: RuntimeError: oops"
    assert not (job_dir.parent / "avocado").exists(), "avocado wrote into the home directory"
    assert "RuntimeError: oops" in (job_dir / "004-defect" / "runner.log").read_text()
    # avocado said nothing on our streams, and left them to us.
    print("still ours")
    assert capfd.readouterr().out == "still ours\n"


def test_a_killed_runner_is_an_error_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, job_dir: Path, display: Lines
) -> None:
    script(monkeypatch, dies=["step:attach", "kill"])
    outcome = run_job([planned("dies"), planned("good")], job_dir, display)
    died = outcome.results[0]
    assert verdicts(outcome) == {"dies": "ERROR", "good": "PASS"}
    assert died.level == "lab"
    assert died.reason.startswith("the runner was killed by signal 9 during attach and left no result")


def test_the_longest_starts_first_and_big_ones_run_alone(
    monkeypatch: pytest.MonkeyPatch, job_dir: Path, display: Lines
) -> None:
    script(monkeypatch, short=["wait:0.3"], big=["wait:0.3"], long=["wait:0.3"])
    runs = [planned("short"), planned("big", ram_mb=1 << 30, estimate_s=2), planned("long", estimate_s=3)]
    outcome = run_job(runs, job_dir, display, max_parallel=3)
    assert [result.scenario for result in outcome.results] == ["short", "big", "long"]
    short, big, long = (events(job_dir / f"00{n}-{name}") for n, name in enumerate(("short", "big", "long"), 1))
    assert big[0] >= max(short[1], long[1]), "nothing runs beside the one that is bigger than the machine"
    assert long[0] <= short[1], "the others ran together"


def test_until_fail_starts_nothing_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, job_dir: Path, display: Lines
) -> None:
    script(monkeypatch, flaky=["verdict:FAIL"])
    outcome = run_job([planned("flaky")], job_dir, display, max_parallel=1, repeat=5, until_fail=True)
    assert [result.verdict for result in outcome.results] == ["FAIL"]
    assert len(outcome.not_started) == 4
    assert outcome.engine_failed == []


def test_repeat_runs_each_so_often(monkeypatch: pytest.MonkeyPatch, job_dir: Path, display: Lines) -> None:
    outcome = run_job([planned("good")], job_dir, display, max_parallel=1, repeat=3)
    assert [result.verdict for result in outcome.results] == ["PASS"] * 3
    assert sorted(path.name for path in job_dir.glob("0*")) == ["001-good.1", "002-good.2", "003-good.3"]


def test_an_engine_that_does_not_start_is_an_error_of_every_run(
    monkeypatch: pytest.MonkeyPatch, job_dir: Path, display: Lines
) -> None:
    broken = job_dir.parent / "broken"
    (broken / "avocado").mkdir(parents=True)
    (broken / "avocado" / "__init__.py").write_text("raise ImportError('no avocado here')\n")
    monkeypatch.setenv("PYTHONPATH", f"{broken}:{ROOT}")
    outcome = run_job([planned("good")], job_dir, display)
    assert outcome.results == []
    assert [result.verdict for result in outcome.engine_failed] == ["ERROR"]
    assert "no avocado here" in (job_dir / "avocado" / "controller.log").read_text()


def test_a_killed_controller_leaves_results(monkeypatch: pytest.MonkeyPatch, job_dir: Path, display: Lines) -> None:
    script(monkeypatch, long=["step:attach", "wait:60", "undo:1"])

    class Killer(Lines):
        def say(self, line: str) -> None:
            super().say(line)
            if line == "long: attach":
                runner = json.loads((job_dir / "001-long" / "runner.json").read_text())["pid"]
                controller = int(Path(f"/proc/{runner}/stat").read_text().rpartition(")")[2].split()[1])
                os.kill(controller, signal.SIGKILL)

    outcome = run_job([planned("long"), planned("next")], job_dir, Killer(), max_parallel=1)
    assert (job_dir / "001-long" / "undone").exists()
    assert outcome.results[0].reason == "interrupted"
    assert [result.scenario for result in outcome.engine_failed] == ["next"]


def test_json_is_the_only_thing_on_stdout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(monkeypatch, **{FIRST: ["verdict:FAIL"]})
    with vdpalab(tmp_path, "run", FIRST, SECOND, "--json") as process:
        assert process.wait(Deadline(60)) == 1
    document = json.loads((tmp_path / "out").read_text())
    assert document["schema"] == 1
    assert [element["verdict"] for element in document["results"]] == ["FAIL", "PASS"]
    assert (Path(document["job_dir"]) / "report.html").exists()
    assert FIRST in (tmp_path / "err").read_text()


def test_interrupt_ends_every_lab_and_a_second_one_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(
        monkeypatch,
        **{
            FIRST: ["verdict:PASS"],
            SECOND: ["step:go", "wait:60", "undo:1"],
            THIRD: ["step:attach", "wait:60", "undo:2"],
        },
    )
    with vdpalab(tmp_path, "run", FIRST, SECOND, THIRD, "-j", "2", "--json") as process:
        said(tmp_path, f"{THIRD}: attach")
        said(tmp_path, f"{SECOND}: go")
        process.signal(signal.SIGINT)
        said(tmp_path, "interrupted: ending every lab cleanly")
        process.signal(signal.SIGINT)
        said(tmp_path, "still ending")
        assert process.wait(Deadline(60)) == 130
    results = {element["scenario"]: element for element in json.loads((tmp_path / "out").read_text())["results"]}
    assert results[THIRD]["verdict"] == results[SECOND]["verdict"] == "ERROR"
    assert results[THIRD]["reason"] == "interrupted"
    for name in (SECOND, THIRD):
        assert (Path(results[name]["run_dir"]) / "undone").exists()
        assert not owner_alive(Path(results[name]["run_dir"]))


def test_a_killed_command_leaves_no_lab_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(monkeypatch, **{FIRST: ["step:attach", "wait:60", "undo:1"]})
    with vdpalab(tmp_path, "run", FIRST) as process:
        said(tmp_path, f"{FIRST}: attach")
        process.signal(signal.SIGKILL)
        process.wait(Deadline(10))
    run_dir = next((tmp_path / "cache" / "jobs").glob("*/001-*"))
    wait_until(lambda: not owner_alive(run_dir), Deadline(30), "the end of the orphaned run")
    assert (run_dir / "undone").exists()


def test_keep_says_how_to_enter_and_ends_with_the_scenarios_own_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(monkeypatch, **{FIRST: ["verdict:FAIL", "kept"]})
    with vdpalab(tmp_path, "run", "--keep", FIRST) as process:
        said(tmp_path, "vdpalab shell l1")
        with pytest.raises(DeadlineExceeded):
            process.wait(Deadline(1))
        process.signal(signal.SIGINT)
        assert process.wait(Deadline(60)) == 1
    assert "FAIL" in (tmp_path / "out").read_text()


def test_bad_input_starts_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with vdpalab(tmp_path, "run", "no-such", FIRST, "--kernel", "no-kernel", "--set", "a.b.c=1") as process:
        assert process.wait(Deadline(60)) == 2
    told = (tmp_path / "err").read_text()
    assert "no-such" in told
    assert "no-kernel" in told
    assert not (tmp_path / "cache" / "jobs").exists()
