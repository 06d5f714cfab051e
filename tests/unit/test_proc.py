"""lab.proc: children end when they should, with everything they started. Those with the terminal: proc_foreground."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from lab import proc
from lab.errors import CommandError, DeadlineExceeded
from lab.wait import Deadline, wait_until


def gone(pid: int) -> bool:
    """Whether a process has ended; one that waits for its parent to notice has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except FileNotFoundError:
        return True


def test_output_status_and_duration() -> None:
    done = proc.run(["sh", "-c", "cat; echo err >&2; exit 0"], input=b"in\n")
    assert (done.returncode, done.text, done.stderr) == (0, "in", b"err\n")
    assert done.duration_s > 0
    assert done.command == "sh -c 'cat; echo err >&2; exit 0'"


def test_environment_and_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "1")
    done = proc.run(["sh", "-c", "echo $INHERITED $ADDED; pwd"], env={"ADDED": "2"}, cwd=tmp_path)
    assert done.text == f"1 2\n{tmp_path}"


def test_a_status_is_an_error_unless_it_is_wanted() -> None:
    with pytest.raises(CommandError, match="ended with 2\nbecause"):
        proc.run(["sh", "-c", "echo because >&2; exit 2"])
    assert proc.run(["sh", "-c", "exit 2"], check=False).returncode == 2
    assert proc.run(["sh", "-c", "kill -TERM $$"], check=False).returncode == -15


@pytest.mark.parametrize("start", [proc.run, proc.start])
def test_a_program_that_is_not_there(start: object, tmp_path: Path) -> None:
    for argv in ([str(tmp_path / "absent")], [str(tmp_path)]):
        with pytest.raises(CommandError, match="ended with 127"):
            start(argv)  # type: ignore[operator]


def test_a_command_that_is_late_is_ended_with_everything_it_started(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! >{tmp_path}/pid; wait"
    with pytest.raises(DeadlineExceeded, match="the end of sh"):
        proc.run(["sh", "-c", script], timeout_s=0.3)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: gone(pid), Deadline(10), "the grandchild's end")


def test_a_child_ends_with_its_block() -> None:
    def run() -> proc.Process:
        with proc.spawn(["sleep", "60"]) as child:
            assert child.poll() is None
            with pytest.raises(DeadlineExceeded, match=f"the end of sleep .pid {child.pid}."):
                child.wait(Deadline(0.01))
            return child

    assert run().poll() == -15


def test_a_child_is_ended_by_an_exception_too() -> None:
    children: list[proc.Process] = []

    def run() -> None:
        with proc.spawn(["sleep", "60"]) as child:
            children.append(child)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert children[0].poll() == -15


def test_what_ignores_sigterm_is_killed_after_its_grace() -> None:
    ignoring = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    with proc.spawn([sys.executable, "-I", "-c", ignoring], stdout=proc.PIPE, grace_s=0.1) as child:
        assert child.stdout
        child.stdout.readline()
    assert child.poll() == -9


def test_children_left_by_a_child_that_ended_are_killed(tmp_path: Path) -> None:
    with proc.spawn(["sh", "-c", f"sleep 60 & echo $! >{tmp_path}/pid"]) as child:
        assert child.wait(Deadline(10)) == 0
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: gone(pid), Deadline(10), "the grandchild's end")


def test_ctrl_c_on_the_terminal_does_not_reach_children() -> None:
    with proc.spawn(["sleep", "60"]) as child:
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)


def test_a_signal_to_a_group_that_is_gone_is_fine() -> None:
    with proc.spawn(["true"]) as child:
        child.wait(Deadline(10))
        child.signal(signal.SIGTERM)
    assert child.stop() == 0


def test_a_group_that_has_ended_is_never_signalled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be somebody else's by then."""
    with proc.spawn(["true"]) as child:
        child.wait(Deadline(10))
        signalled: list[int] = []
        monkeypatch.setattr(os, "killpg", lambda group, _number: signalled.append(group))
        child.signal(signal.SIGTERM)
    assert child.stop() == 0
    assert not signalled


def test_a_long_command_is_logged_line_by_line(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    lines: list[str] = []
    log.write_text("before\n")
    script = 'echo one; echo two >&2; printf "\\377three"; exit 4'
    assert proc.run_logged(["sh", "-c", script], log, on_line=lines.append) == 4
    assert lines == ["one", "two", "\ufffdthree"]
    assert log.read_bytes() == b"before\none\ntwo\n\xffthree"


def test_a_pump_copies_until_either_side_ends() -> None:
    source = iter([b"one", b"two", b""])
    got: list[bytes] = []
    proc.pump(lambda _size: next(source), got.append, "test").join(10)
    assert got == [b"one", b"two"]

    def broken(_data: bytes) -> None:
        raise BrokenPipeError

    thread = proc.pump(lambda _size: b"x", broken, "test")
    thread.join(10)
    assert not thread.is_alive()
