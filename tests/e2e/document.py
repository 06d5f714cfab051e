"""What `run --json` prints, as its readers may rely on it (design.md section 4), and what must hold of every run."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from pydantic import BaseModel, ConfigDict

from lab.model import Level
from lab.report.events import read_events

Verdict = Literal["PASS", "FAIL", "ERROR", "SKIP"]
_STATUS = {"ERROR": 3, "FAIL": 1, "PASS": 0, "SKIP": 77}
_MACHINE_FILES = ("argv.txt", "qemu.log", "console.log", "qmp.jsonl")


class _Exact(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CheckRow(_Exact):
    name: str
    verdict: Verdict
    seen: str
    expected: str
    level: str | None
    machine: str | None
    proof: bool


class MetricRow(_Exact):
    name: str
    value: float
    unit: str


class Accelerators(_Exact):
    l1: Literal["kvm", "tcg"] | None
    l2: Literal["kvm", "tcg"] | None


class Result(_Exact):
    scenario: str
    verdict: Verdict
    level: str | None
    machine: str | None
    reason: str
    known: list[str]
    duration_s: float
    run_dir: str
    warm: bool
    accel: Accelerators
    checks: list[CheckRow]
    metrics: list[MetricRow]

    @property
    def folder(self) -> Path:
        """The run directory."""
        return Path(self.run_dir)


class Document(_Exact):
    schema_: Literal[1]
    job_dir: str
    results: list[Result]

    model_config = ConfigDict(
        extra="forbid", strict=True, alias_generator=lambda name: name.rstrip("_"), validate_by_alias=True
    )

    @property
    def folder(self) -> Path:
        """The job directory."""
        return Path(self.job_dir)


def status_for(document: Document) -> int:
    """The exit status that a job with these results has when nobody interrupted it."""
    verdicts = {result.verdict for result in document.results}
    if "ERROR" in verdicts or not verdicts:
        return _STATUS["ERROR"]
    return next(_STATUS[verdict] for verdict in ("FAIL", "PASS", "SKIP") if verdict in verdicts)


def assert_consistent(document: Document) -> None:
    """The results agree with themselves and with what the job directory holds."""
    for result in document.results:
        assert (result.level is None) == (result.verdict == "PASS"), result
        assert result.level is None or result.level in set(Level)
        for check in result.checks:
            assert (check.level is None) == (check.verdict in ("PASS", "SKIP")), check
    job = document.folder
    assert json.loads((job / "results.json").read_text()) == document.model_dump(by_alias=True)
    cases = ElementTree.parse(job / "junit.xml").getroot().findall(".//testcase")
    assert len(cases) == len(document.results)
    tap = (job / "results.tap").read_text()
    assert f"1..{len(document.results)}" in tap.splitlines()
    assert all(result.verdict in (job / "report.html").read_text() for result in document.results)


def assert_evidence(result: Result) -> None:
    """The run directory tells what happened without a rerun."""
    run = result.folder
    events, broken = read_events(run)
    assert not broken
    assert json.loads((run / "result.json").read_text()) == result.model_dump()
    for name in ("request.json", "plan.json", "runner.json"):
        json.loads((run / name).read_text())
    report = html.unescape((run / "report.html").read_text())
    assert f"vdpalab run {json.loads((run / 'request.json').read_text())['scenario']}" in report, "how to repeat it"
    assert result.reason.splitlines()[0] in report
    launched = {e["machine"] for e in events if e["event"] == "machine-state" and e["state"] == "launched"}
    for machine in launched:
        folder = run / "machines" / machine
        assert all((folder / name).exists() for name in _MACHINE_FILES), machine
        assert "qemu-system-x86_64" in (folder / "argv.txt").read_text()
        assert f"machines/{machine}/argv.txt" in report
        if result.verdict in ("FAIL", "ERROR"):
            assert _last_line(folder / "console.log") in report, f"the last words of {machine}"


def _last_line(console: Path) -> str:
    """The last line that is plain text; terminals are steered by the others."""
    lines = [line.strip() for line in console.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line.isprintable() and len(line) > 10), "")
