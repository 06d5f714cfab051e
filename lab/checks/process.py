"""What a QEMU process holds of a vDPA device: pinned guest memory and the open vhostdev node.

Both are necessary for a live data path and must be gone after release; neither is sufficient (nested.md section 6).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lab.errors import LabError
from lab.host.base import Host
from lab.model import Check, Level

_LOOK = 'grep ^VmPin: "/proc/$0/status"; for fd in "/proc/$0/fd/"*; do readlink "$fd"; done; exit 0'
_PINNED = re.compile(r"^VmPin:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Held:
    """Pinned memory in kB (VmPin in /proc/PID/status; None: not told) and what its file descriptors are open on."""

    pinned_kb: int | None
    files: tuple[str, ...]


def look(host: Host, pid: int) -> Held | None:
    """What a process of ``host`` holds now; None when it could not be looked at."""
    try:
        text = host.run(["sh", "-c", _LOOK, str(pid)]).text
    except LabError:
        return None
    return parse(text)


def parse(text: str) -> Held | None:
    """What :func:`look` prints; None when the process does not exist."""
    if not text.strip():
        return None
    found = _PINNED.search(text)
    return Held(int(found[1]) if found else None, tuple(line for line in text.splitlines() if line.startswith("/")))


def vm_pinned(before: Held | None, during: Held | None, after: Held | None, *, ram_kb: int, machine: str) -> Check:
    """Judge the memory that the L2 QEMU of ``machine`` has pinned before, during and after it had the device.

    ``ram_kb`` is the guest's RAM for a parent that uses the platform's IOMMU (and vdpa_sim with use_va=0), 0 for one
    that maps by virtual address and must pin nothing.
    """
    name = "pinned guest memory"
    expected = f"{'>= ' if ram_kb else ''}{ram_kb} kB more while attached, what it was after release"
    values = [held.pinned_kb if held else None for held in (before, during, after)]
    if None in values:
        return Check.unproven(name, f"VmPin before, during, after: {values} kB", expected, machine=machine)
    first, middle, last = (value or 0 for value in values)
    grown = middle - first
    good = (grown >= ram_kb if ram_kb else grown == 0) and last == first
    seen = f"{first} kB before, {middle} kB while attached, {last} kB after release"
    return Check.judged(name, good, seen, expected, level=Level.L1_QEMU, machine=machine)


def open_node(held: Held | None, node: str, *, machine: str, attached: bool = True) -> Check:
    """Judge whether the QEMU has ``node`` (``/dev/vhost-vdpa-N``) open once, or not any more when not ``attached``."""
    name, expected = "open vhostdev node", f"{node} open {'once' if attached else 'no more'}"
    if held is None:
        return Check.unproven(name, "the process could not be looked at", expected, machine=machine)
    # A node that was removed while open is shown with this suffix.
    count = sum(file in (node, f"{node} (deleted)") for file in held.files)
    seen = f"{node} open {count} times among {len(held.files)} files"
    return Check.judged(name, count == int(attached), seen, expected, level=Level.L1_QEMU, machine=machine)
