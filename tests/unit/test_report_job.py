"""A whole job: read, written, found."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lab.errors import InputError
from lab.model import Verdict
from lab.report.job import find_job, job_command, read_job, stored_results, write_reports
from tests.sample_job import BEGAN, FAILED, write_job

NAMES = ["20261119-080000-0001", "20261120-090000-0002", "20261120-100000-0003"]


@pytest.fixture
def job_dir(tmp_path: Path) -> Path:
    return write_job(tmp_path / "jobs" / NAMES[2])


def test_reports_are_written_from_the_run_directories(job_dir: Path) -> None:
    job = write_reports(job_dir)
    assert (job.command, job.began) == ("vdpalab run smoke -j 2", BEGAN)
    assert [result.verdict for result in job.results] == ["PASS", "FAIL", "SKIP", "ERROR"]
    for name in (
        "results.json",
        "junit.xml",
        "results.tap",
        "report.html",
        "004-blk-vdpa_sim-vhost_vdpa-fio/report.html",
    ):
        assert (job_dir / name).stat().st_size
    document = json.loads((job_dir / "results.json").read_text())
    assert document["schema"] == 1
    assert [r["verdict"] for r in document["results"]] == ["PASS", "FAIL", "SKIP", "ERROR"]
    assert stored_results(job_dir) == job.results


def test_a_second_time_gives_the_same(job_dir: Path) -> None:
    write_reports(job_dir)
    first = {path: path.read_bytes() for path in job_dir.rglob("*") if path.is_file()}
    write_reports(job_dir)
    assert {path: path.read_bytes() for path in job_dir.rglob("*") if path.is_file()} == first


def test_runs_that_never_started_are_kept_when_the_report_is_rebuilt(job_dir: Path) -> None:
    lost = replace(FAILED, verdict=Verdict.ERROR, run_dir=str(job_dir / "005-lost"))
    write_reports(job_dir, [lost])
    assert write_reports(job_dir).results[-1] == lost


def test_a_job_that_says_nothing_about_itself(job_dir: Path) -> None:
    (job_dir / "job.json").write_text("[")
    assert (job_command(job_dir), read_job(job_dir).began) == ("", BEGAN)


def test_results_of_a_job_without_results_file(job_dir: Path) -> None:
    assert len(stored_results(job_dir)) == 4
    (job_dir / "results.json").write_text('{"results": [{}]}')
    assert len(stored_results(job_dir)) == 4


def test_an_empty_job_has_reports(tmp_path: Path) -> None:
    assert write_reports(tmp_path).results == []
    assert "no run was started" in (tmp_path / "report.html").read_text()


def test_find_job(job_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = job_dir.parent
    for name in NAMES[:2]:
        shutil.copytree(job_dir, root / name)
    assert find_job(root, "latest").name == NAMES[2]
    assert find_job(root, "20261119").name == NAMES[0]
    assert find_job(root, str(root / NAMES[1])).name == NAMES[1]
    assert find_job(root, str(root / NAMES[1] / "001-net-vp_vdpa-vhost_vdpa-iperf3")).name == NAMES[1]
    monkeypatch.chdir(root / NAMES[0])
    assert find_job(root, ".").name == NAMES[0]
    with pytest.raises(InputError, match="begins the names of 2 jobs"):
        find_job(root, "20261120")
    with pytest.raises(InputError, match="no job 'x'"):
        find_job(root, "x")


def test_there_is_no_job_yet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no job in .* yet"):
        find_job(tmp_path, "latest")
