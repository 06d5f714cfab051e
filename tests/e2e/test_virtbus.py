"""The virtbus suite on real machines: it passes on the lab's bus, and it bites."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lab.config.catalog import load_suite
from lab.report.requirements import by_requirement
from lab.report.result import from_dict
from tests.e2e.document import Result, assert_evidence
from tests.e2e.driver import ROOT, Cli

ADAPTERS = ROOT / "images" / "kernel" / "virtbus" / "tests"
# An oops, which its L1 survives or not, and a wrong answer.
OOPSES, ANSWERS_WRONG = "mutant-R08-del", "mutant-R09-early"


def assert_passed(result: Result) -> None:
    assert (result.verdict, result.level) == ("PASS", None), result.reason
    assert {check.verdict for check in result.checks} <= {"PASS", "SKIP"}
    assert [check.name for check in result.checks if check.proof and check.verdict == "PASS"]


@pytest.mark.nightly
def test_the_suite_passes_on_the_default_kernel(cli: Cli) -> None:
    ended = cli.run("virtbus", "-j", "1")
    assert ended.status == 0, ended.said
    assert [result.scenario for result in ended.document.results] == load_suite("virtbus").scenarios
    for result in ended.document.results:
        assert_passed(result)
        assert_evidence(result)
    [power] = [result for result in ended.document.results if result.scenario == "virtbus-pm"]
    assert "reboot: Restarting system" in (power.folder / "machines/l1/console.log").read_text()


@pytest.mark.push
def test_one_topic_passes(cli: Cli) -> None:
    ended = cli.run("virtbus-naming")
    assert ended.status == 0, ended.said
    [result] = ended.document.results
    assert_passed(result)
    assert_evidence(result)
    passed = {check.name for check in result.checks if check.verdict == "PASS"}
    assert {"KTAP plan", "R09/hold", "auxiliary: KTAP plan", "auxiliary: R09/hold"} <= passed


@pytest.mark.parametrize(
    ("mutant", "how"),
    [
        pytest.param(OOPSES, "oops", marks=pytest.mark.nightly),
        pytest.param(ANSWERS_WRONG, "not ok", marks=pytest.mark.push),
    ],
)
def test_a_mutant_is_caught(cli: Cli, mutant: str, how: str) -> None:
    ended = cli.run(mutant)
    assert ended.status == 0, ended.said
    [result] = ended.document.results
    assert_passed(result)
    assert result.checks[0].name == mutant.replace("-", " ", 1)
    assert result.checks[0].seen.startswith("caught by R0")
    assert f" ({how}): " in result.checks[0].seen


@pytest.mark.nightly
def test_a_mutant_that_is_not_caught_fails_the_suite(cli: Cli) -> None:
    ended = cli.run(ANSWERS_WRONG, "--set", 'only=["R01/test"]')
    [result] = ended.document.results
    assert (ended.status, result.verdict, result.level) == (1, "FAIL", "lab"), ended.said
    assert "not caught" in result.reason


@pytest.mark.nightly
@pytest.mark.timeout(2400)
def test_the_suite_passes_on_the_debug_kernel(cli: Cli) -> None:
    with cli.running("virtbus", "--kernel", "debug") as running:
        ended = running.end(2400)
    assert ended.status == 0, ended.said
    for result in ended.document.results:
        assert_passed(result)
    skipped = {check.name for r in ended.document.results for check in r.checks if check.verdict == "SKIP"}
    assert not {name for name in skipped if not name.startswith("auxiliary: ")}


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_every_mutant_is_caught(cli: Cli) -> None:
    with cli.running("virtbus-mutants") as running:
        ended = running.end(7200)
    escaped = {result.scenario: result.reason for result in ended.document.results if result.verdict != "PASS"}
    assert not escaped
    assert ended.status == 0, ended.said


@pytest.mark.nightly
def test_a_test_that_does_not_end_behind_a_dead_one_is_skipped_and_says_so(cli: Cli) -> None:
    """X02 dies, and X03, which takes five times the limit, has a tenth of it then."""
    load = "insmod /run/vdpalab/vbt/vbt_test_virtbus.ko only=X02,X03 limit=4"
    with cli.running("virtbus-errors", "--set", 'only=["R26/can-fail"]', "--keep") as running:
        run_dir = running.wait_event(lambda event: event["event"] == "kept", "the kept lab")
        lines = cli.inside(run_dir, "l1", f"dmesg -C; {load}; dmesg").stdout.decode().splitlines()
        running.interrupt()
        running.end()
    assert [line.rpartition("] ")[2] for line in lines if "ok 1 X02" in line] == ["not ok 1 X02 a test that oopses"]
    [last] = [line.rpartition("] ")[2] for line in lines if "ok 2 X03" in line]
    assert last == "ok 2 X03 a test that takes too long # SKIP it does not end, after X02 died"


@pytest.mark.nightly
def test_a_bus_of_the_shape_that_was_proposed(cli: Cli) -> None:
    """Through its adapter, like anybody's: the table says what it does not meet, and the runs say it by failing."""
    topics = ["api", "naming", "lifetime", "errors"]
    ended = cli.run(*(f"virtbus-{topic}" for topic in topics), "-j", "1", "--set", 'adapters=["v2shape"]')
    assert ended.status == 1, ended.said
    document = json.loads((ended.document.folder / "results.json").read_text())
    judged = {item.requirement.id: item for item in by_requirement(map(from_dict, document["results"]))}
    unmet = {name for name, item in judged.items() if item.verdict == "FAIL"}
    api = {"R01", "R04", "R05", "R06", "R14", "U02", "U09"}
    assert unmet == api | {"R09", "R16", "U07", "U08"} | {"R10", "U03", "U10"} | {"R08", "U04"}
    assert {name for name in unmet if "cannot: " in judged[name].what} == {"R14", "U04"}
    assert all((ended.document.folder / item.worst[0].run_dir).is_dir() for item in judged.values())


def _somebodys_series(cli: Cli, folder: Path, adapter: Path) -> None:
    """The lab's bus as a stranger would post it, whose numbers are free when a device is deleted; and an adapter."""
    author = "A Stranger <stranger@example.org>"
    made = cli.call("kernel", "export-series", str(folder), "--version", "6.12", "--author", author)
    assert made.returncode == 0, made.stderr
    [bus] = folder.glob("0002-*")
    freed, deleted = "+\tida_free(&name->ids, vdev->id);\n", "+\tdevice_del(&vdev->dev);\n"
    text = bus.read_text()
    assert text.count(freed) == text.count(deleted) == 1
    # The file is all new, so the hunk keeps its length.
    bus.write_text(text.replace(freed, "").replace(deleted, deleted + freed.replace("name->ids", "vdev->name->ids")))
    shutil.copy2(ADAPTERS / "adapter-virtbus.h", adapter)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_somebody_who_posts_a_series_gets_a_table_from_one_command(cli: Cli, tmp_path: Path) -> None:
    series, adapter = tmp_path / "series", tmp_path / "adapter-mine.h"
    _somebodys_series(cli, series, adapter)
    words = ["virtbus-naming", "virtbus-build", "--virtbus", str(series), "--virtbus-adapter", str(adapter)]
    ended = cli.call("run", *words, timeout_s=3000)
    text = ended.stdout.decode()
    assert ended.returncode == 1, text + ended.stderr.decode()
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line[:1] in ("R", "U")}
    assert {name for name, row in rows.items() if row[1] == "FAIL"} == {"R09"}
    log, paragraph = rows["R09"][-2:]
    assert "is used again while a reference to the first is held" in Path(log).read_text()
    page, _, anchor = paragraph.partition("#")
    assert f"### {anchor.upper()}\n" in (ROOT / page).read_text()
