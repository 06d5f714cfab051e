"""``vdpalab list`` and ``vdpalab report``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lab.artifacts.store import cache_root
from lab.cli import main
from lab.config import catalog
from lab.evidence.record import Record
from lab.model import Verdict
from lab.report.job import write_reports
from tests.sample_job import FAILED, write_job, write_run

OLD, NEW = "20261119-080000-0001", "20261120-090000-0002"


@pytest.fixture
def jobs() -> Path:
    """Two jobs in the cache; in the second the failure is gone."""
    root = cache_root() / "jobs"
    write_reports(write_job(root / OLD))
    (root / NEW).mkdir()
    (root / NEW / "job.json").write_text("{}")
    write_run(root / NEW, 1, replace(FAILED, verdict=Verdict.PASS, level=None))
    write_reports(root / NEW)
    return root


def test_list_shows_scenarios_and_suites(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "iperf3 between an L2 guest on a VF" in out
    assert "smoke" in out


def test_list_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json", "scenarios", "sites", "kernels"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["schema", "scenarios", "sites", "kernels"]
    assert len(document["scenarios"]) == len(catalog.names("scenarios"))
    assert all(row["summary"] for row in document["scenarios"] + document["sites"] + document["kernels"])


def test_a_broken_file_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("scenarios", "suites", "sites"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "broken.toml").write_text("[")
    (tmp_path / "sites" / "good.toml").write_text('summary = "a good one"\n')
    monkeypatch.setattr(catalog, "CONFIGS", tmp_path)
    assert main(["list", "scenarios", "suites", "sites"]) == 0
    out = capsys.readouterr().out
    assert out.count("broken: ") == 3
    assert "a good one" in out


def test_list_by_tag_shows_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "scenarios", "--tag", "no-such-tag"]) == 0
    assert capsys.readouterr().out == "scenarios: none\n"


def test_list_jobs(jobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = Record(jobs / NEW / "002-going")
    assert main(["list", "jobs", "--json"]) == 0
    record.close()
    old, new = json.loads(capsys.readouterr().out)["jobs"]
    assert (old["name"], old["verdicts"]) == (OLD, {"PASS": 1, "FAIL": 1, "SKIP": 1, "ERROR": 1})
    assert old["command"] == "vdpalab run smoke -j 2"
    assert (new["running"], new["summary"]) == (True, "running")


def test_list_of_something_else_is_bad_input() -> None:
    assert main(["list", "cars"]) == 2


@pytest.mark.usefixtures("jobs")
def test_report_rebuilds_the_latest_job(capsys: pytest.CaptureFixture[str]) -> None:
    report = cache_root() / "jobs" / NEW / "report.html"
    report.unlink()
    assert main(["report"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report  {report}"
    assert report.exists()


@pytest.mark.usefixtures("jobs")
def test_report_names_what_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", OLD[:8]]) == 0
    captured = capsys.readouterr()
    assert "004-blk-vdpa_sim-vhost_vdpa-fio: plan.json: No such file" in captured.err
    assert "FAIL" in captured.out


@pytest.mark.usefixtures("jobs")
def test_report_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--json"]) == 0
    assert [r["verdict"] for r in json.loads(capsys.readouterr().out)["results"]] == ["PASS"]


@pytest.mark.usefixtures("jobs")
def test_compare(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--compare", OLD, "latest"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == [FAILED.scenario, "FAIL", "PASS"] for line in lines)
    assert any(line.split()[-4:] == ["14.81", "14.81", "Mbit/s", "1.000"] for line in lines)
    assert main(["report", "--compare", OLD, NEW, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new"].endswith(NEW)


def test_report_of_no_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert main(["report", "x", "--compare", "a", "b"]) == 2
    assert "vdpalab list jobs" in capsys.readouterr().err


def test_findings_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "findings"]) == 0
    assert "\nF001      vp_vdpa: " in capsys.readouterr().out
