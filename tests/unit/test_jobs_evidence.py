"""Job directories: made once, pruned on request, never under a lab that is up."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from pathlib import Path

import pytest

from lab.evidence.jobs import jobs, new_job, outdated, prune, run_dirs, size
from lab.evidence.record import Record

DAY = 86400
MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three finished jobs of 1 MiB: 9, 2 and 0 days old."""
    root = tmp_path / "jobs"
    for name, days in (("20260101-000000-aaaa", 9), ("20260108-000000-bbbb", 2), ("20260110-000000-cccc", 0)):
        job = root / name
        Record(job / "001-net").close()
        (job / "001-net" / "console.log").write_bytes(b"x" * MIB)
        (job / "results.json").touch()
        then = time.time() - days * DAY
        os.utime(job, (then, then))
    return root


def pruned(root: Path, days: float, mib: float) -> list[str]:
    return [job.name[-4:] for job in prune(root, keep_days=days, keep_bytes=int(mib * MIB))]


def test_age(root: Path) -> None:
    assert pruned(root, 7, 100) == ["aaaa"]
    assert [job.name[-4:] for job in jobs(root)] == ["bbbb", "cccc"]


def test_size_takes_the_oldest(root: Path) -> None:
    assert pruned(root, 365, 2.5) == ["aaaa"]
    assert pruned(root, 365, 0) == ["bbbb", "cccc"]


def test_age_and_size(root: Path) -> None:
    assert pruned(root, 7, 1.5) == ["aaaa", "bbbb"]


def test_looking_removes_nothing(root: Path) -> None:
    assert len(outdated(root, keep_days=0, keep_bytes=0)) == 3
    assert len(jobs(root)) == 3


def test_a_job_that_is_running_stays(root: Path) -> None:
    with contextlib.closing(Record(root / "20260101-000000-aaaa" / "001-net")):
        assert pruned(root, 0, 0) == ["bbbb", "cccc"]


def test_a_job_between_two_runs_stays(root: Path) -> None:
    (root / "20260110-000000-cccc" / "results.json").unlink()
    assert pruned(root, 0, 0) == ["aaaa", "bbbb"]


def test_sparse_files_count_what_they_take(tmp_path: Path) -> None:
    with (tmp_path / "disk.raw").open("wb") as disk:
        disk.truncate(MIB)
    assert size(tmp_path) == 0


def test_new_jobs_never_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the same second may draw the same tail: then one draws again."""
    tails = itertools.chain(["beef"] * 3, ["cafe"])
    monkeypatch.setattr("lab.evidence.jobs.secrets.token_hex", lambda _size: next(tails))
    monkeypatch.setattr("lab.evidence.jobs.time.strftime", lambda _format: "20260102-030405")
    assert [new_job(tmp_path).name for _ in range(2)] == ["20260102-030405-beef", "20260102-030405-cafe"]


def test_run_directories_are_numbered_in_order() -> None:
    job = Path("/jobs/j")
    assert run_dirs(job, ["a", "b"]) == [("a", job / "001-a"), ("b", job / "002-b")]
    assert [path.name for _, path in run_dirs(job, ["a"], 2)] == ["001-a.1", "002-a.2"]
