"""lab.topology.isolation: a device that reaches where its guest has no memory is a failed check, not one that broke."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest

from lab.checks.isolation import PAGE
from lab.config.site import NestedSite
from lab.model import Check, Completed, DeviceClass, Level, Verdict
from lab.topology import isolation

RAM = 1 << 20
PAGES = RAM // PAGE
PAGEMAP = struct.pack(f"<{PAGES}Q", *(1 << 63 | 0x1000 + number for number in range(PAGES)))
OWN = {"iova": 0, "size": RAM, "offset": 0x1000 * PAGE, "writable": True}


def judged(windows: list[dict[str, Any]], beyond: str) -> Check:
    def human(line: str) -> str:
        return "Host virtual address for 0x0 (ram) is 0x7f3a40000000" if line == "gpa2hva 0x0" else beyond

    lab: Any = SimpleNamespace(
        device_model=SimpleNamespace(ask=lambda _op, **_fields: windows),
        host=SimpleNamespace(run=lambda argv: Completed(tuple(argv), 0, PAGEMAP, b"", 0.0)),
        plan=SimpleNamespace(
            site=NestedSite(kind="nested", summary="here"),
            shadows=False,
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
