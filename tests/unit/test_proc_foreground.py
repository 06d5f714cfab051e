"""Commands that own the terminal: their status, their output, and an end that leaves them time."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from lab import proc
from lab.errors import CommandError
from lab.wait import Deadline, wait_until

# Notes that it cleaned up when it is interrupted.
CHILD = """
import pathlib, signal, sys
here = pathlib.Path(sys.argv[1])
try:
    (here / "up").touch()
    signal.pause()
except KeyboardInterrupt:
    (here / "cleaned").touch()
"""

# Runs the child in the foreground, with a SIGTERM that becomes an exception, as in the command line.
PARENT = """
import sys
from lab import cli, proc
from lab.cli import group
group._invoke = lambda words: proc.foreground([sys.executable, "-c", words[0], words[1]])
sys.exit(cli.main(sys.argv[1:]))
"""


def test_status_directory_environment_and_stdout(tmp_path: Path) -> None:
    with tempfile.TemporaryFile() as out:
        argv = ["sh", "-c", "pwd; echo $WORD; exit 7"]
        assert proc.foreground(argv, cwd=tmp_path, env={"WORD": "hello"}, stdout=out) == 7
        out.seek(0)
        assert out.read().decode() == f"{tmp_path}\nhello\n"


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CommandError):
        proc.foreground([str(tmp_path / "absent")])


# As a shell without job control starts what it puts into the background, and CI with it.
IGNORING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.mark.parametrize("before", [[], [sys.executable, "-c", IGNORING]], ids=["", "in the background"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_lets_the_command_clean_up(number: signal.Signals, before: list[str], tmp_path: Path) -> None:
    with proc.spawn([*before, sys.executable, "-P", "-c", PARENT, CHILD, str(tmp_path)]) as parent:
        wait_until(lambda: (tmp_path / "up").exists(), Deadline(20), "the child")
        os.kill(parent.pid, number)
        assert parent.wait(Deadline(20)) == 130
    assert (tmp_path / "cleaned").exists()
