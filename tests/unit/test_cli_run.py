"""``vdpalab run``: options, selection, what is printed, exit statuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.artifacts.store import cache_root
from lab.cli import main
from lab.cli.live import LiveDisplay, PlainDisplay, job_display, table
from lab.cli.run import exit_code, run_scenarios, select
from lab.config.request import RunRequest
from lab.errors import InputError, LabError
from lab.jobs import engine
from lab.jobs.engine import JobOutcome, PlannedRun
from lab.jobs.watch import RunState
from lab.model import RunResult, Verdict
from lab.report.result import write_result
from tests.sample_job import FAILED, PASSED, SKIPPED

FIRST, SECOND = "net-vp_vdpa-vhost_vdpa-iperf3", "blk-vp_vdpa-vhost_vdpa-fio"
ERROR = replace(FAILED, verdict=Verdict.ERROR)
TEMPLATE = RunRequest(scenario="")


class Engine:
    """Stands in for run_job: notes what it was asked, writes the results that a test wants."""

    def __init__(self) -> None:
        self.runs: list[PlannedRun] = []
        self.options: dict[str, Any] = {}
        self.results: list[RunResult] = [PASSED]
        self.interrupted = False
        self.not_started: list[str] = []
        self.engine_failed: list[RunResult] = []

    def run_job(self, runs: Sequence[PlannedRun], job_dir: Path, _display: object, **options: Any) -> JobOutcome:
        self.runs, self.options = list(runs), options
        stored_results = []
        for number, result in enumerate(self.results, 1):
            run_dir = job_dir / f"{number:03d}-{result.scenario}"
            run_dir.mkdir()
            stored = replace(result, run_dir=str(run_dir))
            write_result(run_dir, stored)
            (run_dir / "request.json").write_text(self.runs[0].request.model_dump_json())
            stored_results.append(stored)
        return JobOutcome(stored_results, self.interrupted, self.not_started, self.engine_failed)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Engine:
    own = Engine()
    monkeypatch.setattr(engine, "run_job", own.run_job)
    return own


@pytest.mark.parametrize(
    ("results", "interrupted", "status"),
    [
        ([PASSED], False, 0),
        ([PASSED, SKIPPED], False, 0),
        ([SKIPPED, SKIPPED], False, 77),
        ([PASSED, FAILED, SKIPPED], False, 1),
        ([FAILED, ERROR, PASSED], False, 3),
        ([ERROR], False, 3),
        ([], False, 3),
        ([], True, 130),
        ([PASSED], True, 130),
        ([FAILED, ERROR], True, 130),
    ],
)
def test_exit_code(results: list[RunResult], interrupted: bool, status: int) -> None:
    assert exit_code(results, interrupted) == status


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that options name need not be what they shall be."""
    monkeypatch.setattr("lab.topology.plan.artifact_problems", lambda *_: [])


@pytest.mark.usefixtures("unchecked")
def test_every_option_reaches_the_request(fake: Engine, tmp_path: Path) -> None:
    (tmp_path / "p").touch()
    argv = f"""run {FIRST} -j 3 --keep=on-fail --stop-at attach --set workload.min_mbit_s=2 --accel tcg
        --kernel default --kernel-tree {tmp_path} --kernel-ref v6.12 --patch {tmp_path}/p --patch {tmp_path}/p
        --qemu-l0 {tmp_path}/p --qemu-l1 {tmp_path}/p --cold --pcap --update --site nested""".split()
    assert main(argv) == 0
    (run,) = fake.runs
    request = run.request
    assert (request.scenario, request.keep, request.stop_at, request.accel) == (FIRST, "on-fail", "attach", "tcg")
    assert (request.cold, request.pcap, request.overrides) == (True, True, ("workload.min_mbit_s=2",))
    artifacts = request.artifacts
    assert (artifacts.kernel_tree, artifacts.kernel_ref, artifacts.update) == (tmp_path, "v6.12", True)
    assert artifacts.patches == (tmp_path / "p",) * 2
    assert artifacts.qemu_l0 == artifacts.qemu_l1 == tmp_path / "p"
    assert fake.options == {"max_parallel": 3, "repeat": 1, "until_fail": False}
    assert run.ram_mb > 1000


@pytest.mark.usefixtures("unchecked")
def test_virtbus_is_a_series_or_none(fake: Engine, tmp_path: Path) -> None:
    (tmp_path / "series").touch()
    for word, wanted in (("none", "none"), (f"{tmp_path}/series", tmp_path / "series")):
        assert main(["run", FIRST, "--virtbus", word]) == 0
        assert fake.runs[0].request.artifacts.virtbus == wanted


@pytest.mark.usefixtures("unchecked")
def test_a_finished_kernel_and_its_modules(fake: Engine, tmp_path: Path) -> None:
    (tmp_path / "image").touch()
    argv = ["run", FIRST, "--kernel-image", str(tmp_path / "image"), "--kernel-modules", str(tmp_path)]
    assert main(argv) == 0
    artifacts = fake.runs[0].request.artifacts
    assert (artifacts.kernel_image, artifacts.kernel_modules) == (tmp_path / "image", tmp_path)


@pytest.mark.parametrize(
    ("words", "keep"),
    [
        (["--keep", FIRST], "always"),
        ([FIRST, "--keep"], "always"),
        (["--keep=on-fail", FIRST], "on-fail"),
        ([FIRST], "never"),
    ],
)
def test_keep_may_stand_alone(fake: Engine, words: list[str], keep: str) -> None:
    assert main(["run", *words]) == 0
    assert fake.runs[0].request.keep == keep


@pytest.mark.parametrize(
    ("words", "repeat"),
    [([], 1), (["--repeat", "4"], 4), (["--until-fail"], 999), (["--until-fail", "--repeat", "7"], 7)],
)
def test_repetition(fake: Engine, words: list[str], repeat: int) -> None:
    assert main(["run", FIRST, *words]) == 0
    assert (fake.options["repeat"], fake.options["until_fail"]) == (repeat, "--until-fail" in words)


def test_a_suite_and_its_member_run_once_each(fake: Engine) -> None:
    assert main(["run", "smoke", FIRST]) == 0
    assert len(fake.runs) == 10


def test_json_is_all_of_stdout(fake: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.results = [PASSED, FAILED]
    assert main(["run", FIRST, SECOND, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [r["verdict"] for r in document["results"]] == ["PASS", "FAIL"]
    assert json.loads((Path(document["job_dir"]) / "results.json").read_text()) == document
    assert Path(document["job_dir"]).parent == cache_root() / "jobs"


def test_a_failure_says_where_to_look_and_what_to_type(fake: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.results = [PASSED, FAILED]
    assert main(["run", FIRST, "--cold"]) == 1
    out = capsys.readouterr().out
    assert "report.html" in out
    assert f"next  vdpalab run {FIRST} --cold --keep" in out
    assert f"  log   {cache_root()}" in out
    assert out.count("  log ") == 1


def test_an_interrupted_job_tells_what_it_has(fake: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.interrupted, fake.not_started = True, [SECOND]
    assert main(["run", FIRST, SECOND, "--json"]) == 130
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["results"]) == 1
    assert f"not started: {SECOND}" in captured.err


def test_rounds_that_were_not_started_are_counted(fake: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.results, fake.not_started = [FAILED], [FIRST] * 998
    assert main(["run", FIRST, "--until-fail"]) == 1
    assert f"not started: {FIRST} (998 times)\n" in capsys.readouterr().err


def test_runs_that_never_started_are_errors(fake: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.engine_failed = [replace(ERROR, scenario="lost", run_dir="/job/002-lost")]
    assert main(["run", FIRST, "--json"]) == 3
    assert [r["scenario"] for r in json.loads(capsys.readouterr().out)["results"]] == [FIRST, "lost"]


def test_a_full_disk_does_not_hide_the_results(
    fake: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lab.report.job.write_reports", full)
    assert main(["run", FIRST]) == 3
    captured = capsys.readouterr()
    assert "PASS" in captured.out
    assert "No space left on device" in captured.err


def test_all_problems_at_once_and_nothing_is_touched(fake: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["run", "smok", FIRST, "--kernel", "none", "--set", "workload.x=1"]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "did you mean smoke?" in err
    assert "no kernel is called 'none'" in err
    assert fake.runs == []
    assert not (cache_root() / "jobs").exists()
    assert main([*argv[:1], *argv[2:]]) == 2
    assert "workload" in capsys.readouterr().err


def test_what_is_not_what_it_shall_be_is_told_before_anything_is_started(
    fake: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README").write_text("words\n")
    options = {"--kernel-tree": str(tmp_path), "--patch": f"{tmp_path}/README", "--qemu-l0": "/bin/true"}
    for names in ([FIRST], ["smok"]):
        for verb in ("run", "plan"):
            assert main([verb, *names, *(word for pair in options.items() for word in pair)]) == 2
            err = capsys.readouterr().err
            assert f"--kernel-tree {tmp_path}: not the top of a kernel source tree" in err
            assert f"--patch {tmp_path}/README: holds no patch" in err
            assert "/bin/true is not a QEMU system emulator" in err
    assert main(["run", FIRST, "--kernel-image", "/bin/true"]) == 2
    assert "/bin/true: the ELF file is no kernel" in capsys.readouterr().err
    assert fake.runs == []
    assert not cache_root().exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name a scenario"),
        (["smoke", "--keep"], "this would run 10"),
        ([FIRST, "--keep", "--repeat", "2"], "this would run 2"),
        ([FIRST, "--stop-at", "lunch"], "lunch"),
        ([FIRST, "--accel", "xen"], "xen"),
        ([FIRST, "-j", "0"], "0"),
        ([FIRST, "--patch", "/no/such.patch"], "--patch /no/such.patch: No such file"),
        ([FIRST, "--site", "nowhere"], "nowhere"),
        (["--tag", "no-such-tag"], "no scenario has the tag no-such-tag"),
    ],
)
def test_bad_input(fake: Engine, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *words]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""
    assert fake.runs == []


def test_tags_select(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "configs" / "scenarios" / f"{FIRST}.toml").read_text()
    for name, tags in (("a", ["x", "y"]), ("b", ["y"]), ("c", [])):
        body = "\n".join(line for line in text.splitlines() if not line.startswith("tags"))
        (tmp_path / f"{name}.toml").write_text(f"tags = {json.dumps(tags)}\n{body}\n")
    files = [str(tmp_path / f"{name}.toml") for name in "abc"]
    assert [plan.name for plan in select(files, ["x"], TEMPLATE)] == ["a"]
    assert [plan.name for plan in select(files, ["x", "y"], TEMPLATE)] == ["a", "b"]
    assert [plan.name for plan in select(files, [], TEMPLATE)] == ["a", "b", "c"]
    with pytest.raises(InputError, match="no scenario has the tag z") as caught:
        select(files, ["z"], TEMPLATE)
    assert caught.value.hint == "tags: iperf3, net, vhost_vdpa, vp_vdpa, x, y"


def test_a_cache_that_cannot_be_written(fake: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDPALAB_CACHE", "/proc/no")
    with pytest.raises(LabError, match="no job directory"):
        run_scenarios([FIRST], TEMPLATE)


def test_plain_display_has_a_line_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    with job_display() as display:
        display.say("a\nb")
        display.show([])
    assert [line.partition("s] ")[2] for line in capsys.readouterr().err.splitlines()] == ["a", "b"]


def test_live_display_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with job_display() as display:
        assert isinstance(display, LiveDisplay)
        display.say("net-a: PASS after 3 s")
        display.say("net-a: machines")
        display.show(
            [RunState("net-a", Path("/x"), began=1.0, step="[machines]", note="40 %"), RunState("b", Path("/y"))]
        )


def test_live_table_has_what_goes_on() -> None:
    runs = [
        RunState("going", Path("/a"), began=1.0),
        RunState("done", Path("/b"), began=1.0, ended=2.0),
        RunState("waiting", Path("/c")),
    ]
    assert table(runs).row_count == 2
    assert isinstance(PlainDisplay(print), PlainDisplay)


def test_the_list_is_pointed_at_for_a_name_that_is_not_there() -> None:
    for name, overrides, hint in (("net-nonsense", (), "vdpalab list"), (FIRST, ("device.vfs=9",), "")):
        with pytest.raises(InputError) as caught:
            select([name], [], TEMPLATE.model_copy(update={"overrides": overrides}))
        assert caught.value.hint == hint
