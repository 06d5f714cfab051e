"""``bench``: statistics, bounds, measuring from outside, reading times off a run's events. Nothing is judged here."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab import proc
from lab.cli import bench as verb
from lab.cli import main
from lab.cli.measure import Memory, descendants, peak_kb, run_measured, seconds
from lab.errors import CommandError, InputError, LabError, SiteLacks
from lab.machine.accel import Acceleration
from lab.model import Accel, Metric, RunResult, Verdict
from lab.report.bench import BOUNDS, Measured, Row, bound_of, text
from lab.report.result import document
from lab.scenarios.bench import boot_vng, kernel_to_init, since_power_on
from lab.wait import Deadline, wait_until

EVENTS: list[dict[str, Any]] = [
    {"t": 100.0, "event": "begin"},
    {"t": 100.5, "event": "command", "host": "l0"},
    {"t": 101.0, "event": "command", "host": "l1", "note": "before its power-on: of an earlier life"},
    {"t": 102.6, "event": "machine-ready", "machine": "l1", "seconds": 1.6},
    {"t": 102.7, "event": "machine-ready", "machine": "l2", "seconds": 9.0},
    {"t": 102.8, "event": "machine-login", "machine": "l1", "seconds": 1.8},
    {"t": 103.0, "event": "command", "host": "l1"},
    {"t": 109.0, "event": "command", "host": "l1"},
]


def test_times_from_power_on() -> None:
    assert since_power_on(EVENTS, "l1") == pytest.approx({"sshd": 1.6, "ready": 2.0})
    assert since_power_on(EVENTS, "l2") == pytest.approx({"sshd": 9.0})
    assert since_power_on(EVENTS[:3], "l1") == {}


def test_the_kernel_s_own_clock() -> None:
    dmesg = "[    0.000000] Linux version 6.12\n[    0.812345] Run /lab/init as init process\n[    0.9] x"
    assert kernel_to_init(dmesg) == 0.812345
    assert kernel_to_init("[    0.000000] Linux version 6.12") is None


def measured(**values: list[float]) -> Measured:
    return Measured([Metric(name.replace("_", "-"), value, "s") for name, all_of in values.items() for value in all_of])


def test_rows_have_median_spread_and_bound() -> None:
    [row] = measured(help=[0.5, 0.1, 0.2]).rows()
    assert (row.median, min(row.values), max(row.values)) == (0.2, 0.1, 0.5)
    assert (row.bound, row.met) == (0.3, True)
    assert Row("help", "s", (0.4, 0.4, 0.1), 0.3).met is False
    assert Row("anything", "s", (1.0,)).met is None


def test_what_has_to_be_at_least_so_much() -> None:
    rows = {row.name: row for row in measured(ifcvf_udp_64=[39.0, 41.0, 55.0], ifcvf_ping_f=[0.7]).rows()}
    assert (rows["ifcvf-udp-64"].bound, rows["ifcvf-udp-64"].least, rows["ifcvf-udp-64"].met) == (40.0, True, True)
    assert measured(ifcvf_udp_64=[39.0]).rows()[0].met is False
    assert (rows["ifcvf-ping-f"].least, rows["ifcvf-ping-f"].met) == (False, False)
    assert ">= 40" in text(rows.values())


def test_l1_must_also_be_faster_than_vng() -> None:
    rows = {row.name: row for row in measured(l1_ready=[2.0], vng=[1.5, 1.9]).rows()}
    assert (rows["l1-ready"].bound, rows["l1-ready"].met) == (1.7, False)
    assert measured(l1_ready=[2.0], vng=[4.0]).rows()[0].bound == BOUNDS["l1-ready"]
    assert rows["vng"].bound is None


def test_the_memory_of_every_scenario_is_bound() -> None:
    assert bound_of("blk-vp_vdpa-vhost_vdpa-fio rss", {}) == 6144.0


def test_bounds_are_of_what_can_be_measured() -> None:
    assert {bench.name for bench in verb.choose(list(BOUNDS))} == set(BOUNDS)


def test_the_table() -> None:
    lines = text([Row("help", "s", (0.0512, 0.4), 0.3), Row("x rss", "MiB", (2345.6,), 6144)]).splitlines()
    assert lines[0].split() == ["name", "n", "min", "median", "max", "unit", "bound"]
    assert lines[1].split() == ["help", "2", "0.0512", "0.226", "0.4", "s", "<=", "0.3", "met"]
    assert lines[2].split() == ["x", "rss", "1", "2346", "2346", "2346", "MiB", "<=", "6144", "met"]
    assert "MISSED" in text([Row("help", "s", (0.5,), 0.3)])


def test_a_command_is_timed_and_must_end_well() -> None:
    assert seconds(["true"]) > 0
    with pytest.raises(CommandError):
        seconds(["false"])


def test_memory_of_the_whole_tree_is_seen() -> None:
    hog = "data = bytearray(64 << 20); print(flush=True); input()"
    with proc.spawn(["sh", "-c", f"{sys.executable} -c '{hog}'; :"], stdin=proc.PIPE, stdout=proc.PIPE) as shell:
        assert shell.stdout
        shell.stdout.readline()
        memory = Memory()
        memory.look(shell.pid)
    assert 64 < memory.peak_mb < 500


def test_a_command_is_run_whatever_its_status() -> None:
    done, memory = run_measured(["sh", "-c", "echo out; sleep 1; exit 4"])
    assert (done.returncode, done.stdout) == (4, b"out\n")
    assert memory.peak_mb > 0


def test_descendants_and_those_that_have_ended() -> None:
    with proc.spawn(["sh", "-c", "sleep 60 & wait"]) as shell:
        wait_until(lambda: len(descendants(shell.pid)) == 2, Deadline(10), "the shell's child")
        pid = shell.pid
    assert peak_kb(pid) == 0
    memory = Memory({pid: 1024})
    memory.look(pid)
    assert memory.peak_mb == 1.0


def test_unknown_names_are_all_told() -> None:
    with pytest.raises(InputError) as error:
        verb.choose(["help", "helf", "l3-ready"])
    assert len(error.value.problems) == 2


def test_any_scenario_can_be_measured() -> None:
    assert [b.name for b in verb.choose(["blk-vp_vdpa-vhost_vdpa-fio", "help"])] == [
        "blk-vp_vdpa-vhost_vdpa-fio",
        "help",
    ]


def fake(monkeypatch: pytest.MonkeyPatch, *benches: verb.Bench) -> None:
    monkeypatch.setattr(verb, "_BENCHES", benches)


def test_the_verb_measures_each_as_often_as_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = iter([0.1, 0.3, 0.2])
    fake(monkeypatch, verb.Bench("help", "", 1, lambda _around: [Metric("help", next(values), "s")]))
    assert main(["bench", "-n", "3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    [row] = document["rows"]
    assert document["schema"] == 1
    assert row["values"] == [0.1, 0.3, 0.2]
    assert (row["n"], row["min"], row["median"], row["max"], row["bound"], row["met"]) == (3, 0.1, 0.2, 0.3, 0.3, True)


def test_a_bound_that_is_missed_is_a_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake(monkeypatch, verb.Bench("help", "", 1, lambda _around: [Metric("help", 0.31, "s")]))
    assert main(["bench"]) == 1
    assert "MISSED" in capsys.readouterr().out


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    assert verb.surroundings() == {"cores": 2, "load": 1.5}
    assert "busy (load 1.5 on 2 cores)" in capsys.readouterr().err
    monkeypatch.setattr(os, "getloadavg", lambda: (0.2, 9.0, 9.0))
    assert verb.surroundings() == {"cores": 2, "load": 0.2}
    assert capsys.readouterr().err == ""


def test_what_cannot_be_measured_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def lacks(_around: verb.Surroundings) -> list[Metric]:
        raise SiteLacks("vng")

    def fails(_around: verb.Surroundings) -> list[Metric]:
        raise LabError("no kernel")

    good = verb.Bench("help", "", 1, lambda _around: [Metric("help", 0.1, "s")])
    fake(monkeypatch, verb.Bench("vng", "", 1, lacks), good)
    assert main(["bench"]) == 0
    captured = capsys.readouterr()
    assert "vng: not measured: this machine lacks vng" in captured.err
    fake(monkeypatch, verb.Bench("l1-ready", "", 1, fails), good)
    assert main(["bench"]) == 3
    captured = capsys.readouterr()
    assert "l1-ready: not measured: no kernel" in captured.err
    assert "help" in captured.out


def standin(folder: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, status: int) -> None:
    result = RunResult("s", verdict, None, None, "why", 1.0, "/run")
    program = folder / "vdpalab"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(document(folder, [result]))}'\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setattr(verb, "_VDPALAB", str(program))


def test_a_scenario_s_time_counts_only_when_it_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standin(tmp_path, monkeypatch, Verdict.PASS, 0)
    assert [metric.name for metric in verb._run("s", ["run", "s"])] == ["s", "s rss"]
    standin(tmp_path, monkeypatch, Verdict.FAIL, 1)
    with pytest.raises(LabError, match="s: FAIL: why"):
        verb._run("s", ["run", "s"])
    standin(tmp_path, monkeypatch, Verdict.PASS, 3)
    with pytest.raises(LabError, match="exit status 3"):
        verb._run("s", ["run", "s"])


ARTIFACTS: Any = SimpleNamespace(kernel=SimpleNamespace(bzimage=Path("/k/bzImage")), qemu_l0=SimpleNamespace(argv=()))


def vng(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    program = folder / "vng"
    program.write_text(f'#!/bin/sh\necho "$*" >"{folder}/argv"\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("lab.machine.accel.choose", lambda *_arguments: Acceleration(Accel.TCG, "asked for"))
    return folder / "run"


def test_vng_is_timed_until_its_command_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = vng(tmp_path, monkeypatch, "echo SeaBIOS; for last; do :; done; $last; touch -d @1234.5 ${last#touch }")
    monkeypatch.setattr("lab.scenarios.bench.time", SimpleNamespace(time=lambda: 1232.0))
    assert boot_vng(ARTIFACTS, run_dir) == [Metric("vng", 2.5, "s")]
    assert (tmp_path / "argv").read_text().startswith("--run /k/bzImage --disable-kvm ")
    assert (run_dir / "vng.log").read_text() == "SeaBIOS\n"


def test_vng_that_does_not_get_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = vng(tmp_path, monkeypatch, "echo no 9p")
    with pytest.raises(LabError, match="did not get to the command") as error:
        boot_vng(ARTIFACTS, run_dir)
    assert error.value.log
    assert error.value.log.read_text() == "no 9p\n"


def test_vng_is_measured_only_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(SiteLacks, match="vng"):
        boot_vng(ARTIFACTS, tmp_path)
