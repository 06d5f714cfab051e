"""lab.topology.isolation: a device that reaches where its guest has no memory is a failed check, not one that broke."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab import proc
from lab.checks.isolation import PAGE, frames
from lab.config.site import NestedSite
from lab.model import Check, Completed, DeviceClass, Level, Verdict
from lab.topology import isolation

RAM = 1 << 20
PAGES = RAM // PAGE
PAGEMAP = struct.pack(f"<{PAGES}Q", *(1 << 63 | 0x1000 + number for number in range(PAGES)))
NO_FIRMWARE = "No memory is mapped at address 0xfffc0000\r\n"
QUEUES = {"queues": [{"size": 64, "enabled": True}, {"size": 1024, "enabled": False}]}
OWN = {"iova": 0, "size": RAM, "offset": 0x1000 * PAGE, "writable": True}


def judged(windows: list[dict[str, Any]], beyond: str, own: bytes = b"") -> Check:
    def human(line: str) -> str:
        return "Host virtual address for 0x0 (ram) is 0x7f3a40000000" if line == "gpa2hva 0x0" else beyond

    def run(argv: Sequence[str], **_options: Any) -> Completed:
        return Completed(tuple(argv), 0, own if "maps" in argv[2] else PAGEMAP, b"", 0.0)

    lab: Any = SimpleNamespace(
        device_model=SimpleNamespace(ask=lambda op, **_fields: QUEUES if op == "state" else windows),
        host=SimpleNamespace(run=run),
        plan=SimpleNamespace(
            site=NestedSite(kind="nested", summary="here"),
            shadows=bool(own),
            l2=SimpleNamespace(memory_mb=RAM >> 20),
            function_of=lambda _name: "vf1",
        ),
    )
    guest: Any = SimpleNamespace(
        name="l2", machine=SimpleNamespace(qmp=SimpleNamespace(human=human)), process=SimpleNamespace(pid=4711)
    )
    device: Any = SimpleNamespace(name="v1a", device_class=DeviceClass.NET)
    [check] = isolation.judge_attached(lab, device, guest)
    return check


def test_the_guests_memory_and_no_more() -> None:
    assert judged([OWN], "").verdict is Verdict.PASS


@pytest.mark.parametrize("window", [RAM, 1 << 32])
def test_a_window_where_the_guest_has_no_memory_is_foreign(window: int) -> None:
    beyond = {"iova": window, "size": PAGE, "offset": 0, "writable": True}
    check = judged([OWN, beyond], f"No memory is mapped at address {window:#x}\r\n")
    assert (check.verdict, check.level) == (Verdict.FAIL, Level.L1_KERNEL)
    assert check.seen.startswith(f"{PAGES} pages of the guest, 1 others")


def test_a_monitor_that_does_not_answer_proves_nothing() -> None:
    beyond = {"iova": RAM, "size": PAGE, "offset": 0, "writable": True}
    assert judged([OWN, beyond], "unknown command: 'gpa2hva'").verdict is Verdict.ERROR


def test_what_a_qemu_can_write_to_is_read_area_by_area() -> None:
    areas = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    done = proc.run(["sh", "-ec", isolation._WRITABLE, "sh", str(os.getpid())])
    sizes = [int(end, 16) - int(begin, 16) for begin, end in (a[0].split("-") for a in areas if a[1].startswith("rw"))]
    # Between the looks the interpreter may have taken or given back some memory.
    assert abs(len(done.stdout) // 8 - sum(sizes) // PAGE) < 0.2 * sum(sizes) // PAGE
    assert any(frame is not None for frame in frames(done.stdout))


@pytest.mark.parametrize(("own", "verdict"), [(0x1000 + PAGES, Verdict.PASS), (0x9999, Verdict.FAIL)])
def test_shadow_rings_are_its_qemus(own: int, verdict: Verdict) -> None:
    rings = {"iova": 0x7F0000000000, "size": PAGE, "offset": (0x1000 + PAGES) * PAGE, "writable": True}
    check = judged([{**OWN, "iova": 0x10000}, rings], NO_FIRMWARE, own=struct.pack("<Q", 1 << 63 | own))
    assert check.verdict is verdict
