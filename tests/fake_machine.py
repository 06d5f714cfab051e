"""A QEMU that is not there: its monitor answers, its files are in a folder, and it ends when a test says so."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from lab.evidence.record import Record
from lab.machine.machine import Machine
from lab.machine.process import QemuProcess
from lab.model import Level
from tests.fake_qmp import FakeQmp

USERNET = """Hub -1 (mgmt):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  14       127.0.0.1 {port}       10.0.2.15    22     0     0
"""


class FakeProcess(QemuProcess):
    """``status`` is what it ended with; ``forced`` whether it had to be killed."""

    def __init__(self, folder: Path, level: Level = Level.L0_QEMU, *, obeys: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, level)
        self.status: int | None = None
        self.started = 0
        self.forced = False
        self.qmp = FakeQmp({"quit": self._quit, "human-monitor-command": USERNET.format(port=40022)})
        self._obeys = obeys
        self.stderr.touch()

    def says(self, text: str) -> None:
        """The guest writes a line to its console."""
        with self.console.open("a") as console:
            console.write(text + "\n")

    def dies(self, status: int, words: str = "") -> None:
        """It ends by itself, after ``words`` on its standard error."""
        self.stderr.write_text(words)
        self.status = status
        self.qmp.hang_up()

    def _quit(self, _arguments: Mapping[str, object]) -> object:
        if self._obeys:
            self.status = 0
        return {}

    def start(self) -> socket.socket:
        self.started += 1
        return self.qmp.client

    def poll(self) -> int | None:
        return self.status

    def stop(self) -> bool:
        ran = bool(self.started) and self.status is None
        if ran:
            self.status, self.forced = -15, True
        self.qmp.hang_up()
        return ran


def make_machine(record: Record, name: str = "l1", *, obeys: bool = True) -> tuple[Machine, FakeProcess]:
    """A machine that is defined, and its QEMU."""
    inner, kernel = (Level.L0_QEMU, Level.L1_KERNEL) if name == "l1" else (Level.L1_QEMU, Level.L2_KERNEL)
    process = FakeProcess(record.folder("machines", name), inner, obeys=obeys)
    return Machine(name, process, record, kernel), process
