"""lab.host.detached: really started here, in a folder of the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import proc
from lab.errors import CommandError, DeadlineExceeded
from lab.evidence.record import Record
from lab.host import detached
from lab.host.base import Host
from lab.host.local import LocalHost
from lab.wait import Deadline, wait_until


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHost:
    monkeypatch.setattr(Host, "scratch", str(tmp_path))
    monkeypatch.setattr(detached, "_LOOK_S", 0.02)
    return LocalHost("here", Record(tmp_path / "record"))


def _started(job: detached.Detached) -> None:
    out = Path(job.folder) / "out"
    wait_until(lambda: out.exists() and "ready" in out.read_text(), Deadline(10), "the job to run")


def test_output_error_and_status_arrive_apart(host: LocalHost) -> None:
    job = detached.start(host, ["sh", "-c", 'printf "out\\n\\n"; printf err >&2; exit 3'])
    done = job.finish(host, 10)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n\n", b"err")


def test_a_job_without_output(host: LocalHost) -> None:
    done = detached.start(host, ["true"]).finish(host, 10)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_one_that_does_not_end_is_reported_and_can_be_stopped(host: LocalHost) -> None:
    job = detached.start(host, ["sh", "-c", "echo ready; exec sleep 60"])
    _started(job)
    with pytest.raises(DeadlineExceeded, match="the end of sh"):
        job.finish(host, 0.2)
    job.stop(host)
    assert job.finish(host, 10).returncode == 128 + 15


def test_what_is_printed_on_the_way_out_is_kept(host: LocalHost) -> None:
    job = detached.start(
        host, ["sh", "-c", "trap 'echo last words; exit 0' TERM; echo ready; while :; do sleep 0.05; done"]
    )
    _started(job)
    assert job.stop(host)
    done = job.finish(host, 10)
    assert (done.returncode, done.stdout) == (0, b"ready\nlast words\n")
    assert not job.stop(host)


def test_the_group_of_a_job_that_has_ended_is_not_signalled(host: LocalHost) -> None:
    """Its number may be somebody else's by then; here it is this test's own."""
    job = detached.start(host, ["true"])
    job.finish(host, 10)
    with proc.spawn(["sleep", "60"]) as other:
        (Path(job.folder) / "pid").write_text(f"{other.pid}\n")
        job.stop(host)
        job.kill(host)
        assert other.poll() is None


def test_a_job_whose_files_are_gone(host: LocalHost, tmp_path: Path) -> None:
    job = detached.start(host, ["true"])
    job.finish(host, 10)
    (Path(job.folder) / "out").unlink()
    with pytest.raises(CommandError):
        job.finish(host, 1)
