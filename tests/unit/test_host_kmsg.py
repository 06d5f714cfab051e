"""lab.host.kmsg: records as /dev/kmsg gives them, from a file that stands in for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.host.kmsg import KernelLog

BEFORE = b"6,1,100,-;before the run\n"
WARNING = (
    b"4,2,12345678,-;WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:01.0\n"
)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "kmsg"
    path.write_bytes(BEFORE)
    return path


def says(device: Path, record: bytes) -> None:
    with device.open("ab") as file:
        file.write(record)


def test_only_what_came_since_is_read_in_the_form_of_dmesg(device: Path) -> None:
    log = KernelLog(device)
    assert log.read() == ""
    says(device, WARNING)
    line = "[   12.345678] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2\n"
    assert log.read() == line
    says(device, b"6,3,13000000,-;later\n")
    assert log.read() == line + "[   13.000000] later\n"
    log.close()
    assert log.read().endswith("later\n")
    assert not log.lack


def test_a_record_that_was_overwritten_is_passed_over(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = KernelLog(device)
    answers: Iterator[OSError | bytes] = iter([BrokenPipeError(), WARNING, BlockingIOError()])

    def read(_fd: int, _size: int) -> bytes:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(os, "read", read)
    assert log.read().count("WARNING") == 1


def test_one_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    log = KernelLog(tmp_path / "absent")
    assert log.lack == f"{tmp_path}/absent: No such file or directory"
    assert log.read() == ""
    log.close()
