"""The verbs for a lab that another terminal keeps up: shell, exec, logs, clean."""

from __future__ import annotations

import os
import pty
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from lab import proc
from lab.artifacts.store import cache_root
from lab.cli import main
from lab.evidence.jobs import jobs
from lab.evidence.record import Record
from lab.jobs.engine import JobOutcome
from lab.machine.keys import make_key
from lab.topology.attachable import note_entrance
from lab.wait import Deadline, wait_until
from tests.ssh_server import serve

CLI = [sys.executable, "-P", "-m", "lab.cli"]
JOB = "20260101-000000-abcd"


@pytest.fixture
def finished() -> Path:
    """A run that has ended, with its logs."""
    record = Record(cache_root() / "jobs" / JOB / "001-net")
    for machine in ("l1", "l2"):
        for log in ("console.log", "qemu.log", "argv.txt"):
            (record.folder("machines", machine) / log).write_text(f"{machine} {log} 1\n{machine} {log} 2\n")
    record.close()
    return record.path


@pytest.fixture
def up(tmp_path: Path, finished: Path) -> Iterator[Path]:
    """A lab that is up: its owner is this process."""
    with ExitStack() as stack:
        record = stack.enter_context(closing(Record(cache_root() / "jobs" / JOB / "002-net")))
        identity = make_key(record.folder("secrets") / "identity")
        note_entrance(record, "l1", stack.enter_context(serve(tmp_path, identity, "l1")))
        (record.folder("machines", "l1") / "console.log").write_text("booting\n")
        yield record.path


def vdpalab(*arguments: str, data: bytes = b"") -> tuple[int, str, str]:
    done = proc.run([*CLI, *arguments], input=data, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_exec_is_a_pipe_with_a_status(up: Path) -> None:
    script = "cat; echo err >&2; exit 9"
    assert vdpalab("exec", "l1", "--", "sh", "-c", script, data=b"in\n") == (9, "in\n", "err\n")
    assert vdpalab("exec", "--run", str(up), "l1", "echo", "--run", "x") == (0, "--run x\n", "")
    # Nothing of it is evidence of the run.
    assert not (up / "hosts").exists()


def test_a_choice_between_labs_is_told(up: Path) -> None:
    with closing(Record(cache_root() / "jobs" / JOB / "001-older")):
        assert vdpalab("exec", "l1", "true") == (0, "", f"vdpalab: several labs are up; this is --run {up}\n")
        assert vdpalab("exec", "--run", str(up), "l1", "true") == (0, "", "")


@pytest.mark.parametrize("verb", [["exec", "l1", "--", "true"], ["shell", "l1"]])
def test_without_a_lab_there_is_nothing_to_enter(
    verb: list[str], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(verb) == 2
    assert "no lab is up" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["exec", "l7", "--", "true"], ["shell", "l7"]])
def test_unknown_machines_are_bad_input(verb: list[str], up: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(verb) == 2
    assert "there are: l1" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["exec", "l1"], ["exec", "l1", "--"], ["exec"]])
def test_exec_wants_a_command(words: list[str], up: Path) -> None:
    assert main(words) == 2


def test_shell_becomes_ssh(up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def execvp(_file: str, argv: list[str]) -> None:
        called.append(argv)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execvp", execvp)
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/ssh")
    with pytest.raises(SystemExit):
        main(["shell"])
    assert called[0][0] == "ssh"
    assert called[0][-1] == "root@127.0.0.1"
    [known_hosts] = (up / "secrets").glob("known_hosts.*")
    assert known_hosts.read_text().startswith("l1 ssh-ed25519 ")


def test_shell_without_ssh_uses_its_own_terminal(up: Path) -> None:
    code = "import shutil, sys; shutil.which = lambda name: None; from lab.cli import main; sys.exit(main(['shell']))"
    user, terminal = pty.openpty()
    with proc.spawn([sys.executable, "-P", "-c", code], stdin=terminal, stdout=terminal, stderr=terminal) as shell:
        os.write(user, b"hello\n")
        assert shell.wait(Deadline(30)) == 0
    assert b"you said hello" in os.read(user, 4096)


def test_shell_without_ssh_and_terminal_says_so(up: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "which", lambda _name: None)
        patch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115 - closed with the interpreter
        assert main(["shell"]) == 2
    assert "shell needs a terminal" in capsys.readouterr().err


def test_logs_of_everything_of_a_machine_and_of_one_file(finished: Path) -> None:
    everything = vdpalab("logs")[1]
    assert "==> machines/l1/console.log <==\nl1 console.log 1" in everything
    assert "l2 qemu.log 2" in everything
    assert "argv.txt" not in everything
    assert "l2" not in vdpalab("logs", "l1")[1]
    assert vdpalab("logs", "-n", "1", "machines/l2/argv.txt") == (0, "l2 argv.txt 2\n", "")


def test_logs_are_listed_with_their_sizes(finished: Path) -> None:
    lines = vdpalab("logs", "--list")[1].splitlines()
    assert "        34  machines/l1/console.log" in lines
    assert any(line.endswith("  events.jsonl") for line in lines)


def test_unknown_logs_are_bad_input(finished: Path) -> None:
    status, out, err = vdpalab("logs", "l9")
    assert (status, out) == (2, "")
    assert "no machine or log 'l9'" in err
    assert "machines: l1, l2" in err


def test_logs_follow_until_the_lab_ends() -> None:
    run_dir = cache_root() / "jobs" / JOB / "003-net"
    owner_code = (
        "import sys; from pathlib import Path; from lab.evidence.record import Record;"
        f"record = Record(Path({str(run_dir)!r})); record.write('machines/l1/console.log', 'one\\n');"
        "print(flush=True); sys.stdin.readline()"
    )
    with proc.spawn([sys.executable, "-c", owner_code], stdin=proc.PIPE, stdout=proc.PIPE) as owner:
        assert owner.stdout
        assert owner.stdin
        owner.stdout.readline()
        with proc.spawn([*CLI, "logs", "-f", "l1"], stdout=proc.PIPE) as logs:
            assert logs.stdout
            assert logs.stdout.readline() == b"one\n"
            with (run_dir / "machines/l1/console.log").open("a") as console:
                console.write("two\n")
            assert logs.stdout.readline() == b"two\n"
            owner.stdin.close()
            owner.wait(Deadline(20))
            assert logs.wait(Deadline(20)) == 0


def test_following_a_run_that_has_ended_just_shows_it(finished: Path) -> None:
    assert vdpalab("logs", "-f", "machines/l1/qemu.log") == (0, "l1 qemu.log 1\nl1 qemu.log 2\n", "")


def test_clean_says_what_it_does(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = finished / "machines/l1/root.qcow2"
    overlay.touch()
    build = cache_root() / "artifacts/tmp/kernel-default@0123"
    build.mkdir(parents=True)
    with proc.spawn(["sleep", "60"], env={proc.RUN_MARK: str(finished)}) as orphan:
        wait_until(lambda: b"sleep" in Path(f"/proc/{orphan.pid}/cmdline").read_bytes(), Deadline(10), "the orphan")
        assert main(["clean", "--dry-run"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"would go: process {orphan.pid} (sleep) of {finished}",
            f"would go: {overlay}",
            f"would go: {build}",
        ]
        assert orphan.poll() is None
        assert main(["clean"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"ended: process {orphan.pid} (sleep) of {finished}",
            f"removed: {overlay}",
            f"removed: {build}",
        ]
        assert orphan.poll() is not None
    assert main(["clean"]) == 0
    assert capsys.readouterr().out == "nothing to clean\n"


def test_a_run_cleans_up_after_dead_labs_before_and_after(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay, seen = finished / "machines/l1/root.qcow2", []

    def run_job(_runs: object, job_dir: Path, *_rest: object, **_options: object) -> JobOutcome:
        seen.append(overlay.exists())
        overlay.touch()
        return JobOutcome([])

    overlay.touch()
    monkeypatch.setattr("lab.jobs.engine.run_job", run_job)
    main(["run", "net-vp_vdpa-vhost_vdpa-iperf3"])
    assert (seen, overlay.exists()) == ([False], False)
    assert capsys.readouterr().err.count(f"left by a killed lab, removed: {overlay}") == 2


def test_clean_takes_jobs_only_when_asked(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, job = cache_root() / "jobs", finished.parent
    (job / "results.json").touch()
    os.utime(job, (0, 0))
    assert main(["clean"]) == main(["clean", "--max-size", "1G"]) == main(["clean", "--jobs", "--dry-run"]) == 0
    assert jobs(root) == [job]
    assert f"would go: {job}" in capsys.readouterr().out
    assert main(["clean", "--older-than", "7"]) == 0
    assert f"removed: {job}" in capsys.readouterr().out
    assert jobs(root) == []


@pytest.mark.parametrize("words", [["--older-than", "-1"], ["--max-size", "much"], ["--older-than", "week"]])
def test_clean_refuses_what_it_does_not_understand(words: list[str]) -> None:
    assert main(["clean", *words]) == 2


def test_machines_and_logs_are_completed(up: Path) -> None:
    def complete(words: str, index: int) -> list[str]:
        env = {"COMP_WORDS": words, "COMP_CWORD": str(index), "_VDPALAB_COMPLETE": "zsh_complete"}
        return proc.run(CLI, env=env).text.splitlines()

    assert "l1" in complete("vdpalab shell ", 2)
    assert "machines/l1/console.log" in complete("vdpalab logs ma", 2)
