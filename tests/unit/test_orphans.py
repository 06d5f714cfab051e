"""Cleaning up after dead labs: real processes that carry the mark, real locks."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import proc
from lab.evidence.marks import marked
from lab.evidence.orphans import clean_orphans, find_orphans
from lab.evidence.record import OWNER_LOCK, Record, disowned, owner_alive
from lab.evidence.scratch import scratch
from lab.wait import Deadline, wait_until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def run_dir(root: Path) -> Path:
    """A run that has ended, with everything in it that a lab has while it is up."""
    path = root / "20260101-000000-abcd" / "001-net"
    Record(path).close()
    machine = path / "machines" / "l1"
    machine.mkdir(parents=True)
    for name in ("root.qcow2", "vpblk0.raw", "monitor.sock", "console.log", "argv.txt", "vf1.pcap"):
        (machine / name).touch()
    (path / "secrets").mkdir()
    (path / "secrets" / "identity").touch()
    return path


@pytest.fixture
def child(run_dir: Path) -> Iterator[proc.Process]:
    with proc.spawn(["sleep", "60"], env={proc.RUN_MARK: str(run_dir)}) as process:
        wait_until(
            lambda: process.pid in marked(run_dir.parents[1], proc.RUN_MARK).get(run_dir, {}), Deadline(10), "the mark"
        )
        yield process


def test_a_dead_lab_is_cleaned_and_its_evidence_kept(root: Path, run_dir: Path, child: proc.Process) -> None:
    said: list[str] = []
    [cleaned] = clean_orphans(root, said.append)
    assert child.poll() is not None
    assert cleaned.processes == {child.pid: "sleep"}
    assert f"ended: process {child.pid} (sleep) of {run_dir}" in said
    assert f"removed: {run_dir}/secrets" in said
    kept = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}
    evidence = {"console.log", "argv.txt", "vf1.pcap"}
    assert kept == {"owner.lock", "events.jsonl"} | {f"machines/l1/{name}" for name in evidence}
    assert clean_orphans(root, said.append) == []


def test_a_living_lab_is_left_alone(root: Path, run_dir: Path, child: proc.Process) -> None:
    owner = Record(run_dir)
    assert clean_orphans(root, print) == []
    assert child.poll() is None
    assert (run_dir / "secrets" / "identity").exists()
    owner.close()
    assert [found.run_dir for found in find_orphans(root)] == [run_dir]


def test_looking_touches_nothing(root: Path, run_dir: Path, child: proc.Process) -> None:
    [found] = find_orphans(root)
    assert f"process {child.pid} (sleep) of {run_dir}" in found.describe()
    assert str(run_dir / "machines/l1/root.qcow2") in found.describe()
    assert child.poll() is None
    assert (run_dir / "machines/l1/root.qcow2").exists()


def program_of(root: Path, run_dir: Path, pid: int) -> str | None:
    return marked(root, proc.RUN_MARK).get(run_dir, {}).get(pid)


def test_a_bundled_qemu_is_called_by_its_name(root: Path, run_dir: Path) -> None:
    argv = ["sh", "-c", "read line", "--library-path", "/q/lib", "/q/bin/qemu-system-x86_64", "-name", "l1"]
    with proc.spawn(argv, env={proc.RUN_MARK: str(run_dir)}, stdin=proc.PIPE) as child:
        wait_until(lambda: program_of(root, run_dir, child.pid) == "qemu-system-x86_64", Deadline(10), "it")


def test_what_a_process_removes_itself_is_not_news(root: Path, run_dir: Path) -> None:
    sock = run_dir / "machines/l1/monitor.sock"
    script = f"trap 'rm {sock}; exit' TERM; echo; while :; do sleep 0.05; done"
    with proc.spawn(["sh", "-c", script], env={proc.RUN_MARK: str(run_dir)}, stdout=proc.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        said: list[str] = []
        clean_orphans(root, said.append)
    assert not [line for line in said if "monitor.sock" in line or "could not" in line]


def test_what_ignores_sigterm_is_killed(root: Path, run_dir: Path) -> None:
    ignoring = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    argv = [sys.executable, "-c", ignoring]
    with proc.spawn(argv, env={proc.RUN_MARK: str(run_dir)}, stdout=proc.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        clean_orphans(root, print, grace_s=0.2)
        assert child.wait(Deadline(10)) == -9


def test_what_cannot_be_removed_is_said_and_the_rest_goes(
    root: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("lab.evidence.orphans.shutil.rmtree", refuse)
    said: list[str] = []
    clean_orphans(root, said.append)
    assert f"could not be removed: {run_dir}/secrets: Operation not permitted" in said
    assert not (run_dir / "machines/l1/root.qcow2").exists()


def test_a_run_whose_directory_is_gone_is_dead(root: Path) -> None:
    gone = root / "20260101-000000-abcd" / "001-gone"
    root.mkdir()
    with proc.spawn(["sleep", "60"], env={proc.RUN_MARK: str(gone)}) as child:
        wait_until(lambda: marked(root, proc.RUN_MARK), Deadline(10), "the mark")
        assert [cleaned.run_dir for cleaned in clean_orphans(root, print)] == [gone]
        assert child.wait(Deadline(10)) == -15


def test_temporary_files_of_a_killed_job_go(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.evidence.scratch._LONGEST", 4096)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch(root) as folder:
        (folder / "avocado_x").mkdir()
        assert clean_orphans(root, print) == [], "its job lives"
    assert not folder.exists()
    folder.mkdir()
    assert find_orphans(root) == [], "it is just being made"
    (folder / OWNER_LOCK).touch()
    assert clean_orphans(tmp_path / "other", print) == [], "another cache's"
    said: list[str] = []
    clean_orphans(root, said.append)
    assert said == [f"removed: {folder}"]
    assert not folder.exists()


def test_temporary_files_have_room_for_a_sockets_path(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    with scratch(root) as folder, contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        place = folder / "avocado_12345678" / ".status_server.sock"
        place.parent.mkdir()
        server.bind(str(place))
    assert not folder.exists()


def test_other_jobs_and_unmarked_processes_are_none_of_ours(root: Path, tmp_path: Path) -> None:
    root.mkdir()
    elsewhere = {proc.RUN_MARK: str(tmp_path / "elsewhere" / "job" / "run")}
    with proc.spawn(["sleep", "60"], env=elsewhere) as other, proc.spawn(["sleep", "60"]) as unmarked:
        wait_until(lambda: marked(tmp_path, proc.RUN_MARK), Deadline(10), "the mark")
        assert clean_orphans(root, print) == []
        assert [other.poll(), unmarked.poll()] == [None, None]


def test_the_cleaner_never_ends_itself(root: Path, run_dir: Path) -> None:
    code = (
        "from pathlib import Path; from lab.evidence.marks import marked; from lab.proc import RUN_MARK; "
        f"print(marked(Path({str(root)!r}), RUN_MARK))"
    )
    assert proc.run([sys.executable, "-c", code], env={proc.RUN_MARK: str(run_dir)}).text == "{}"


def test_nothing_at_all(root: Path) -> None:
    assert clean_orphans(root, print) == []


def test_a_lab_that_begins_while_somebody_looks_waits_for_the_lock(run_dir: Path) -> None:
    code = (
        f"from pathlib import Path; from lab.evidence.record import OWNER_LOCK, Record; Record(Path({str(run_dir)!r}))"
    )
    with contextlib.ExitStack() as looking:
        assert looking.enter_context(disowned(run_dir))
        with proc.spawn([sys.executable, "-c", code]) as lab:
            wait_until(lambda: _has_open(lab.pid, run_dir / "owner.lock"), Deadline(20), "the lab at the lock")
            assert lab.poll() is None
            looking.close()
            assert lab.wait(Deadline(20)) == 0


def test_a_second_owner_is_refused(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.evidence.record._OWN_S", 0.1)
    owner = Record(run_dir)
    with pytest.raises(Exception, match="which another lab holds"):
        Record(run_dir)
    assert owner_alive(run_dir)
    owner.close()
    assert not owner_alive(run_dir)


def _has_open(pid: int, lock: Path) -> bool:
    links = Path(f"/proc/{pid}/fd")
    return any(os.path.realpath(link) == str(lock) for link in links.iterdir()) if links.exists() else False
