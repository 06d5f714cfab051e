"""lab.actions.remove: what is begun, whether it waits, and that it has to end."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab import proc
from lab.actions import remove
from lab.config.scenario import Remove
from lab.errors import DeadlineExceeded, ProductFailure
from lab.host.detached import Detached
from lab.host.fake import FakeHost
from lab.host.vdpa import VdpaDevice
from lab.model import Completed, DeviceClass, Level, QemuDevice
from lab.wait import Deadline

DEVICE = VdpaDevice("v1a", "pci/0000:01:00.0", DeviceClass.NET, 0x8086, 2, 1024)


def removal(host: FakeHost, kind: Any) -> remove.Removal:
    return remove.start(host, DEVICE, Remove(kind=kind))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("delete", "vdpa dev del v1a"),
        ("unbind", r"0000:01:00\.0.*|driver/unbind"),
        ("rescan", r"/remove.*0000:01:00\.0"),
    ],
)
def test_what_is_begun(tmp_path: Path, kind: str, words: str) -> None:
    host = FakeHost({"*": ""}, tmp_path, "l1")
    begun = removal(host, kind)
    assert re.search(words, host.commands[-1])
    assert re.search(words, " ".join(begun.job.argv))


@pytest.mark.parametrize(("printed", "states"), [("Ss\nD\n", "Ss D"), ("", "")])
def test_whether_it_waits(tmp_path: Path, printed: str, states: str) -> None:
    host = FakeHost({"*ps -o*": printed, "*": ""}, tmp_path, "l1")
    assert removal(host, "delete").waits(Deadline(1)) == states


def finish(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: Completed | Exception) -> remove.Removed:
    def finished(_job: Detached, _host: Any, _timeout_s: float) -> Completed:
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(Detached, "finish", finished)
    begun = removal(FakeHost({"*": ""}, tmp_path, "l1"), "unbind")
    return begun.finish(Remove(kind="unbind"), time.monotonic() - 5)


def test_it_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = finish(monkeypatch, tmp_path, Completed(("sh",), 0, b"", b"", 0.0))
    assert [(metric.name, metric.unit) for metric in record.metrics()] == [("removal_after_release", "s")]
    assert 5 <= record.seconds < 10, "it is from when the guest let go, not from when somebody asked"


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (DeadlineExceeded("l1: the end of sh", 30), "unbind has not ended 30 s after its user let go"),
        (Completed(("sh",), 1, b"", b"No such device", 0.0), "unbind failed: No such device"),
    ],
)
def test_one_that_does_not_end_or_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: Completed | Exception, words: str
) -> None:
    with pytest.raises(ProductFailure, match=words) as caught:
        finish(monkeypatch, tmp_path, end)
    assert (caught.value.level, caught.value.machine) == (Level.L1_KERNEL, "l1")


class Slot:
    """A machine with a function in a slot, which goes after ``looks`` looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.asked: list[str] = []
        self.limits: list[float] = []

    def begin_unplug(self, function: QemuDevice) -> Any:
        self.asked.append(function.id)
        return SimpleNamespace(machine=self, device=function, finish=self.finish)

    def has(self, _function: QemuDevice, *, timeout_s: float) -> bool:
        self.limits.append(timeout_s)
        self.looks -= 1
        return self.looks >= 0

    def finish(self, deadline: Deadline) -> float:
        if self.looks:
            raise ProductFailure(f"not after {deadline.seconds:.0f} s", level=Level.L1_KERNEL, machine="l1")
        return 0.1


FUNCTION = QemuDevice({"driver": "vfio-user-pci", "id": "vf1"})


def unplugging(host: FakeHost, looks: int) -> tuple[Any, remove.ParentUnplug]:
    slot: Any = Slot(looks)
    return slot, remove.unplug(host, slot, FUNCTION)


def test_an_unplug_waits_in_the_kernel_until_the_function_is_gone(tmp_path: Path) -> None:
    host = FakeHost({"*": ""}, tmp_path, "l1")
    slot, begun = unplugging(host, 2)
    assert slot.asked == ["vf1"]
    assert begun.waits(Deadline(40)) == "-", "nobody has come to the wait"
    host.answers = {"*vhost_vdpa_remove*": "D\n"}
    assert begun.waits(Deadline(40)) == "D"
    assert begun.waits(Deadline(0)) == "", "it has ended"
    assert slot.limits == pytest.approx([40, 40, 5], abs=1), "the last look, when the time is up, has some too"


@pytest.mark.parametrize("looks", [0, 1])
def test_an_unplug_has_to_end(tmp_path: Path, looks: int) -> None:
    _, begun = unplugging(FakeHost({"*": ""}, tmp_path, "l1"), looks)
    if not looks:
        assert begun.finish(Remove(kind="unplug-parent"), time.monotonic() - 5).seconds >= 5
        return
    with pytest.raises(ProductFailure, match="not after 30 s") as caught:
        begun.finish(Remove(kind="unplug-parent"), time.monotonic())
    assert caught.value.level is Level.L1_KERNEL


def test_who_waits_is_seen_by_the_stack(tmp_path: Path) -> None:
    for pid, stack, state in (
        (7, "[<0>] vhost_vdpa_remove+0x9f/0x110\n", "D"),
        (8, "[<0>] do_epoll_wait+0x1/0x2\n", "S"),
    ):
        folder = tmp_path / "proc" / str(pid)
        folder.mkdir(parents=True)
        (folder / "stack").write_text(stack)
        (folder / "stat").write_text(f"{pid} (kworker/0:1 (x)) {state} 2 0 0\n")
    script = remove._WAITING.replace("/proc/", f"{tmp_path}/proc/")
    done = proc.run(["sh", "-ec", script], check=False)
    assert (done.returncode, done.text) == (1, ""), "nobody may read stacks here: that is not nobody who waits"
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/self/stack").write_text("[<0>] proc_pid_stack+0x1/0x2\n")
    assert proc.run(["sh", "-ec", script]).text.split() == ["D"]
