"""lab.report.requirements: the tables by requirement and by mutant, in words, on a terminal and in the job's page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lab.cli.run import _print_virtbus
from lab.model import Check, Level, RunResult, Verdict
from lab.report.job import write_reports
from lab.report.requirements import by_requirement, log_file, mutant_rows, requirement_rows
from lab.scenarios import mutants
from tests.sample_job import PASSED, write_job
from tests.unit.test_scenarios_mutants import BAD, GOOD, MUTANT


def check(name: str, verdict: Verdict = Verdict.PASS, seen: str = "ok") -> Check:
    return Check(name, verdict, seen, "ok", None if verdict in (Verdict.PASS, Verdict.SKIP) else Level.L1_KERNEL)


def run(*checks: Check, scenario: str = "virtbus-naming", run_dir: Path | str = "") -> RunResult:
    return replace(PASSED, scenario=scenario, checks=checks, run_dir=str(run_dir))


RESULT = run(
    check("R09 a number is free after the last put", Verdict.FAIL, "vbt_test.c:9: 3, expected 4\n  the log"),
    check("R09/hold"),
    check("R14.release refused", Verdict.SKIP, "why"),
    check("R14 embedded"),
    check("R16/twin", Verdict.ERROR, "no perl"),
    check("U03", Verdict.SKIP, "why"),
    check("auxiliary: R15 kept", Verdict.FAIL),
    check("kernel log"),
    check("R99 none"),
)


def test_the_worst_check_is_the_requirements() -> None:
    assert {item.requirement.id: item.verdict for item in by_requirement([RESULT])} == {
        "R09": Verdict.FAIL,
        "R14": Verdict.PASS,
        "R16": Verdict.ERROR,
        "U03": Verdict.SKIP,
    }


def test_rows_tell_what_was_seen_where_and_why_it_is_asked_for(tmp_path: Path) -> None:
    log = tmp_path / log_file("R09 a number is free after the last put")
    log.parent.mkdir()
    log.touch()
    rows = {row[0]: row for row in requirement_rows([replace(RESULT, run_dir=str(tmp_path))])}
    name = "R09 a number is free after the last put: vbt_test.c:9: 3, expected 4"
    assert rows["R09"] == ("R09", "FAIL", "1/2", name, str(log), "docs/virtbus.md#r09")
    assert rows["R14"][1:4] == ("PASS", "1/2", "the creator embeds the device; the bus carries no data pointer")
    assert rows["R14"][4:] == ("", "")
    assert rows["R16"][4:] == ("", "docs/virtbus.md#r16")
    assert rows["U03"][1:4] == ("SKIP", "0/1", "U03: why")


def test_a_requirement_of_two_scenarios_has_one_row() -> None:
    both = [run(check("U01/freeze")), run(check("U01 unbound", Verdict.FAIL), scenario="virtbus-races")]
    assert [row[:3] for row in requirement_rows(both)] == [("U01", "FAIL", "1/2")]


def test_jobs_without_the_suite_have_no_tables() -> None:
    assert (requirement_rows([PASSED]), mutant_rows([PASSED])) == ([], [])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("R08 a failed add", "collect/R08.log"),
        ("R14.release words", "collect/R14.release.log"),
        ("R18/freeze", "collect/R18-freeze.log"),
        ("auxiliary: R08 a failed add", "collect/auxiliary-R08.log"),
    ],
)
def test_log_files(name: str, file: str) -> None:
    assert log_file(name) == file


def test_mutants() -> None:
    caught = run(*mutants.judge([GOOD, BAD], MUTANT), scenario="mutant-R08-deletes")
    missed = run(*mutants.judge([GOOD], MUTANT), scenario="mutant-R08-deletes")
    missed = replace(missed, verdict=Verdict.FAIL)
    early = replace(
        run(scenario="mutant-R08-deletes"), verdict=Verdict.ERROR, reason="conformance-mutant: does not compile"
    )
    rows = mutant_rows([caught, missed, early])
    assert [row.verdict for row in rows] == [Verdict.PASS, Verdict.FAIL, Verdict.ERROR]
    assert [row.cells for row in rows] == [
        ("R08-deletes", "?", "?", "R08 a failed add (oops)", "BUG: kernel NULL pointer dereference"),
        ("R08-deletes", "?", "?", "NOT CAUGHT", "not caught: deletes what was never added"),
        ("R08-deletes", "?", "?", "not judged", "conformance-mutant: does not compile"),
    ]
    assert requirement_rows([caught]) == []


def test_the_tables_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    _print_virtbus([PASSED])
    assert capsys.readouterr().out == ""
    _print_virtbus([RESULT, run(*mutants.judge([BAD], MUTANT), scenario="mutant-R08-deletes")])
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line] == [
        *("requirement", "R09", "R14", "R16", "U03"),
        *("mutant", "R08-deletes"),
    ]


def test_the_jobs_page_has_them(tmp_path: Path) -> None:
    job_dir = write_job(tmp_path / "20261120-101010-ab12")
    assert "Requirements" not in (write_reports(job_dir).path / "report.html").read_text()
    run_dir = job_dir / "009-virtbus-naming"
    (run_dir / "collect").mkdir(parents=True)
    (run_dir / log_file("R09 a number")).touch()
    write_reports(job_dir, [replace(RESULT, run_dir=str(run_dir))])
    page = (job_dir / "report.html").read_text()
    assert "<h2>Requirements</h2>" in page
    assert "docs/virtbus.md#r09" in page
    assert 'href="009-virtbus-naming/collect/R09.log"' in page
    assert "Its name stays taken until the last reference goes." in page
    assert page.count("<details open>") == 2


@pytest.mark.parametrize(("verdict", "bad"), [(Verdict.PASS, 0), (Verdict.FAIL, 1), (Verdict.ERROR, 1)])
def test_a_mutant_is_marked_by_its_verdict_and_not_by_a_word(tmp_path: Path, verdict: Verdict, bad: int) -> None:
    job_dir = write_job(tmp_path / "20261120-101010-ab12")
    mutant = replace(run(scenario="mutant-R08-deletes"), verdict=verdict, reason="NOT CAUGHT")
    write_reports(job_dir, [mutant])
    page = (job_dir / "report.html").read_text().partition("<h2>Mutants</h2>")[2].partition("</section>")[0]
    assert page.count('"text bad"') == bad


def test_who_asked_is_told_from_what_was_read() -> None:
    who = {item.requirement.id: item.who for item in by_requirement([run(check("R26"), check("R27"))])}
    assert who["R26"].startswith("Seen when reading the patch, ")
    assert who["R27"].startswith("Asked for by: Jason Wang, ")
