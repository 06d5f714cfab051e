"""Reading run directories in every state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.model import Level, Verdict
from lab.report.rundir import last_step, read_run, result_of, scenario_name
from tests.sample_job import PASSED, write_killed_run, write_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path, 1, PASSED)


def test_a_complete_run(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert run.problems == []
    assert run.result.scenario == PASSED.scenario
    assert run.request is not None
    assert run.request.cold
    assert [step.name for step in run.steps] == ["artifacts", "machines", "l1", "l2", "devices", "attach", "workload"]
    assert [(c.host, c.returncode, c.files) for c in run.commands] == [
        ("l1", 0, ("hosts/l1/cmd-001.out",)),
        ("l1", 1, ("hosts/l1/cmd-002.out",)),
    ]
    assert "machines/l1/argv.txt" in run.files
    assert not any(name.startswith("hosts/") for name in run.files)


def test_what_ran_where(run_dir: Path) -> None:
    facts = read_run(run_dir).facts
    assert facts["accel.l1"] == "tcg: /dev/kvm opens, no guest ran"
    assert facts["slowness.l2"] == "1.02"
    assert facts["versions.l0.qemu"] == "10.0.2"
    assert facts["machines.l1.memory_mb"] == "2048"
    assert facts["config.workload.streams.1.protocol"] == "udp"
    assert "lacks" not in facts


def test_throughput_over_time(run_dir: Path) -> None:
    (series,) = read_run(run_dir).series
    assert (series.title, series.unit, len(series.points)) == ("iperf3-tcp", "Mbit/s", 20)
    assert series.points[0] == (0.5, 6.0)


def test_tails_are_the_last_lines_without_escapes(run_dir: Path) -> None:
    tail = read_run(run_dir).tails["machines/l2/console.log"].splitlines()
    assert len(tail) == 40
    assert tail[-1].endswith("line 119 of the console <script>")
    assert list(read_run(run_dir).tails) == ["machines/l1/console.log", "machines/l2/console.log"]


def test_a_killed_runner_is_an_error_that_says_where(tmp_path: Path) -> None:
    result = result_of(write_killed_run(tmp_path, 7))
    assert (result.scenario, result.verdict, result.level) == ("blk-vdpa_sim-vhost_vdpa-fio", Verdict.ERROR, Level.LAB)
    assert result.reason == (
        "the runner was killed by signal 9 during workload and left no result "
        "(result.json: No such file or directory); it last said: last words"
    )
    assert result.duration_s == pytest.approx(32.9)


@pytest.mark.parametrize(
    ("runner", "reason"),
    [
        ('{"pid": 1, "returncode": 3}', "the runner ended with status 3 and left"),
        ('{"pid": 1, "returncode": null}', "the runner vanished and left"),
        ("rubbish", "the runner vanished and left"),
    ],
)
def test_how_a_runner_ended(tmp_path: Path, runner: str, reason: str) -> None:
    (tmp_path / "runner.json").write_text(runner)
    assert result_of(tmp_path).reason.startswith(reason)


def test_the_directory_may_have_moved(tmp_path: Path, run_dir: Path) -> None:
    moved = run_dir.rename(tmp_path / "elsewhere")
    assert result_of(moved).run_dir == str(moved)


@pytest.mark.parametrize(
    "name",
    ["plan.json", "result.json", "request.json", "events.jsonl", "workloads/iperf3-tcp.json", "hosts/l1/cmd-001.json"],
)
@pytest.mark.parametrize("content", [b"{", b"\xff\x00{", b"[1]"])
def test_a_broken_file_is_named_and_nothing_else_is_lost(run_dir: Path, name: str, content: bytes) -> None:
    (run_dir / name).write_bytes(content)
    run = read_run(run_dir)
    assert any(Path(name).name in problem or name in problem for problem in run.problems), run.problems
    assert run.result.verdict is (Verdict.ERROR if name == "result.json" else Verdict.PASS)


@pytest.mark.parametrize("name", ["result.json", "request.json", "workloads/iperf3-tcp.json", "hosts/l1/cmd-001.json"])
def test_json_of_another_kind_is_named(run_dir: Path, name: str) -> None:
    (run_dir / name).write_text('{"intervals": [{"sum": 3}], "returncode": "x"}')
    assert [name.rpartition("/")[2] in problem for problem in read_run(run_dir).problems] == [True]


def test_an_empty_directory(tmp_path: Path) -> None:
    run = read_run(tmp_path)
    assert run.result.verdict is Verdict.ERROR
    assert [problem.partition(":")[0] for problem in run.problems] == [
        "plan.json",
        "result.json",
        "request.json",
        "events.jsonl",
    ]


@pytest.mark.parametrize(
    ("folder", "scenario", "name"),
    [
        ("001-net-a.2", "net-a", "net-a"),
        ("001-mine", "some/where/mine.toml", "mine"),
        ("001-net-b", None, "net-b"),
        ("odd", None, "odd"),
    ],
)
def test_scenario_name(tmp_path: Path, folder: str, scenario: str | None, name: str) -> None:
    (tmp_path / folder).mkdir()
    if scenario:
        (tmp_path / folder / "request.json").write_text(json.dumps({"scenario": scenario}))
    assert scenario_name(tmp_path / folder) == name


def test_last_step(tmp_path: Path, run_dir: Path) -> None:
    assert last_step(run_dir) == ""
    assert last_step(write_killed_run(tmp_path, 2)) == " during workload"
