"""Progress goes to stderr: plain lines with the elapsed time, or a live line on a terminal."""

from __future__ import annotations

import os
import pty
import re
import sys

import pytest

from lab import proc
from lab.cli.progress import progress

CODE = """
from lab.cli.progress import progress
with progress() as report:
    report('kernel: [brackets]\\nx')
    print('result')
"""


def test_plain_lines_carry_the_elapsed_time(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as report:
        report("kernel: configuring")
        report("kernel: building")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"\[ +0\.\d s\] kernel: configuring\n\[ +0\.\d s\] kernel: building\n", captured.err)


def test_a_terminal_gets_a_live_line_and_stdout_only_results() -> None:
    controller, terminal = pty.openpty()
    with proc.spawn([sys.executable, "-P", "-c", CODE], env={"TERM": "xterm"}, stdout=-1, stderr=terminal) as child:
        os.close(terminal)
        out, _ = child._popen.communicate()
    seen = os.read(controller, 65536).decode()
    os.close(controller)
    assert out == b"result\n"
    assert "kernel: [brackets] x" in seen
