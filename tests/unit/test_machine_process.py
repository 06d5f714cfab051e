"""lab.machine.process: a QEMU on this machine, with small real processes in its place. Nested ones: see nested_qemu."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lab.errors import CommandError, DeadlineExceeded
from lab.machine.process import LocalQemu, QemuProcess
from lab.model import Level
from lab.wait import Deadline

# Says on the inherited monitor where it runs and for which run, then does what the test wants.
CHILD = """
import os, signal, socket, sys
monitor = socket.socket(fileno=int(sys.argv[1]))
monitor.sendall(f"{os.getcwd()} {os.environ['VDPALAB_RUN']}\\n".encode())
print("harmless", file=sys.stderr, flush=True)
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[LocalQemu]]:
    qemus: list[LocalQemu] = []
    yield qemus
    for qemu in qemus:
        qemu.stop()


def local(folder: Path, started: list[LocalQemu], then: str) -> LocalQemu:
    def argv(fd: int) -> Sequence[str]:
        return [sys.executable, "-I", "-c", CHILD + then, str(fd)]

    machine = folder / "machines" / "l1"
    machine.mkdir(parents=True)
    started.append(LocalQemu(machine, argv, folder))
    return started[-1]


def test_what_a_local_qemu_gets_and_leaves(tmp_path: Path, started: list[LocalQemu]) -> None:
    qemu = local(tmp_path, started, "sys.exit(3)")
    assert (qemu.poll(), qemu.pid, qemu.level) == (None, None, Level.L0_QEMU)
    with qemu.start() as monitor:
        assert monitor.makefile().readline() == f"{qemu.folder} {tmp_path}\n"
        # Its own end is closed here, so that its death is an end of file.
        assert monitor.recv(1) == b""
    assert qemu.wait(Deadline(10)) == qemu.poll() == 3
    assert qemu.stderr.read_text() == "harmless\n"
    assert (qemu.folder / "argv.txt").read_text().startswith(f"{sys.executable} -I -c '")


def test_a_local_qemu_is_killed_by_a_signal(tmp_path: Path, started: list[LocalQemu]) -> None:
    qemu = local(tmp_path, started, "os.kill(os.getpid(), signal.SIGKILL)")
    with qemu.start():
        assert qemu.wait(Deadline(10)) == -9


def test_what_only_a_live_qemu_needs_goes_with_it(tmp_path: Path, started: list[LocalQemu]) -> None:
    left = "[open(name, 'w').close() for name in ('monitor.sock', 'console.sock', 'gdb.sock', 'qemu.pid', 'vf1.pcap')]"
    qemu = local(tmp_path, started, f"{left}; os.kill(os.getpid(), signal.SIGKILL)")
    with qemu.start():
        qemu.wait(Deadline(10))
    qemu.stop()
    assert {path.name for path in qemu.folder.iterdir()} == {"argv.txt", "qemu.log", "vf1.pcap"}


def test_stopping_a_local_qemu(tmp_path: Path, started: list[LocalQemu]) -> None:
    qemu = local(tmp_path, started, "signal.pause()")
    with qemu.start() as monitor:
        monitor.recv(100)
        assert qemu.poll() is None
        with pytest.raises(DeadlineExceeded, match="the end of"):
            qemu.wait(Deadline(0.01))
        qemu.stop()
        assert qemu.poll() == -15
    qemu.stop()


def test_a_qemu_that_is_not_there(tmp_path: Path) -> None:
    qemu = LocalQemu(tmp_path, lambda fd: [str(tmp_path / "absent")], tmp_path)
    with pytest.raises(CommandError, match="ended with 127"):
        qemu.start()
    assert qemu.poll() is None
    qemu.stop()


@pytest.mark.parametrize(
    ("status", "words"), [(-9, "SIGKILL"), (-11, "SIGSEGV"), (0, "exit status 0"), (1, "exit status 1")]
)
def test_the_end_in_words(status: int, words: str) -> None:
    assert QemuProcess.describe_end(status) == words
