"""A QEMU inside another host: when it counts as alive, and what asking costs."""

from __future__ import annotations

import queue
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from lab.errors import Unreachable
from lab.evidence.record import Record
from lab.host.base import Host, Stream
from lab.machine.process import NestedQemu
from lab.model import Completed
from lab.wait import Deadline, wait_until


class Pipe(Stream):
    """A stream whose far end is the test."""

    def __init__(self) -> None:
        self.says: queue.Queue[bytes] = queue.Queue()

    def recv(self, size: int) -> bytes:
        return self.says.get()

    def send(self, data: bytes) -> None:
        """Nobody listens."""

    def close(self) -> None:
        self.says.put(b"")


class Inside(Host):
    """Where the QEMU runs: ``status`` is what it ended with, ``monitor`` the stream of its QMP socket."""

    def __init__(self, folder: Path) -> None:
        super().__init__("l1", Record(folder / "record"))
        self.status: str | None = None
        self.monitor = Pipe()
        self.words = b""
        self.asked = 0
        self.gone = False
        self.killed: Callable[[], object] = lambda: None

    def _execute(self, argv: Sequence[str], data: bytes, deadline: Deadline) -> Completed:
        if self.gone:
            raise Unreachable("gone")
        if "kill" in shlex.join(argv):
            self.killed()
        status = 0
        if argv[0] == "cat" and argv[-1].endswith("/err"):
            return Completed(tuple(argv), 0, self.words, b"", 0.0)
        if argv[0] == "cat":
            self.asked += 1
            status = 0 if self.status is not None else 1
        return Completed(tuple(argv), status, (self.status or "").encode(), b"", 0.0)

    def _start(self, argv: Sequence[str]) -> Stream:
        return self.monitor if argv[0] == "socat" else Pipe()


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    return Inside(tmp_path)


@pytest.fixture
def qemu(tmp_path: Path, inside: Inside) -> Iterator[NestedQemu]:
    folder = tmp_path / "l2"
    folder.mkdir()
    qemu = NestedQemu(folder, inside)
    qemu.argv = ["qemu-system-x86_64"]
    with qemu.start():
        yield qemu
    inside.status = inside.status or "0"
    inside.monitor.close()
    qemu.stop()


def ends(qemu: NestedQemu) -> int:
    """Its status, which is 0 too."""
    return wait_until(lambda: (status,) if (status := qemu.poll()) is not None else None, Deadline(10), "its end")[0]


def test_a_qemu_that_refuses_to_start_is_noticed_before_it_ever_spoke(qemu: NestedQemu, inside: Inside) -> None:
    assert qemu.poll() is None
    inside.status = "1"
    assert qemu.poll() == 1


def test_who_speaks_on_the_monitor_is_not_asked_for(qemu: NestedQemu, inside: Inside) -> None:
    inside.monitor.says.put(b"{}")
    wait_until(lambda: qemu._heard, Deadline(10), "the greeting")
    asked = inside.asked
    assert [qemu.poll() for _ in range(100)] == [None] * 100
    assert inside.asked == asked


@pytest.mark.parametrize(("status", "meaning"), [("0", 0), ("137", -9), ("1", 1)])
def test_who_hung_up_is_asked_for(qemu: NestedQemu, inside: Inside, status: str, meaning: int) -> None:
    inside.monitor.says.put(b"{}")
    wait_until(lambda: qemu._heard, Deadline(10), "the greeting")
    inside.status = status
    inside.monitor.close()
    assert ends(qemu) == meaning


def test_its_last_words_are_fetched(qemu: NestedQemu, inside: Inside) -> None:
    inside.words, inside.status = b"vhost vdpa unmap fail!\n", "0"
    assert qemu.stop() is False
    assert qemu.stderr.read_bytes() == inside.words


def test_one_that_goes_on_is_ended_and_was_seen_to_run(qemu: NestedQemu, inside: Inside) -> None:
    inside.killed = lambda: setattr(inside, "status", "143")
    assert qemu.stop() is True


def test_one_that_nobody_can_see_is_not_said_to_run(
    qemu: NestedQemu, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.gone = True
    monkeypatch.setattr("lab.machine.process._STOP_S", 0.1)
    assert qemu.stop() is False
    inside.gone = False


def test_nobody_can_tell_when_the_host_is_gone(qemu: NestedQemu, inside: Inside) -> None:
    inside.monitor.close()
    inside.gone = True
    assert qemu.poll() is None
    inside.gone = False
