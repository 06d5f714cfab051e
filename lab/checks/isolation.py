"""What a device in a guest can reach of its host's memory: the guest's own, page by page, and nothing else.

The device model knows where each address of the device leads: to an offset in the memory of L1. The other side is the
guest's QEMU: which page of L1 is behind each page of the guest, as its page table says (kernel:
Documentation/admin-guide/mm/pagemap.rst). Two answers that have nothing in common but the truth. Everything is pure.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lab.errors import LabError
from lab.model import Check, Level

PAGE = 4096
# Where a q35 guest has its firmware (hw/i386/x86-common.c of QEMU: it ends at 4 GiB; SeaBIOS has 256 KiB).
FIRMWARE_ADDRESS, FIRMWARE_BYTES = 0xFFFC0000, 0x40000

# Bits of an entry of /proc/PID/pagemap.
_PRESENT = 1 << 63
_FRAME = (1 << 55) - 1
# hw/i386/pc_q35.c of QEMU: RAM that does not fit below the second goes above 4 GiB, from the first on.
_LOW_IF_MORE, _LOW = 0x80000000, 0xB0000000
_HIGH = 1 << 32

_ATTACHED = "isolation while attached"
_HVA = re.compile(r"\bis (0x[0-9a-f]+)")
# gpa2hva() of QEMU (monitor/hmp-cmds.c).
_NO_MEMORY = re.compile(r"No memory is mapped at address|Memory at address \S+ is not RAM")


@dataclass(frozen=True)
class Window:
    """A range of a device's addresses, and where in L1's memory it leads; sizes and offsets are bytes."""

    iova: int
    size: int
    offset: int = 0
    writable: bool = True


def windows(answer: Iterable[Mapping[str, object]]) -> list[Window]:
    """The answer of the device model to ``dma`` (docs/ifcvf.md)."""
    return [
        Window(_int(row["iova"]), _int(row["size"]), _int(row.get("offset", 0)), bool(row["writable"]))
        for row in answer
    ]


def sections(ram: int, reach: Sequence[Window]) -> list[tuple[int, int]]:
    """What a q35 guest with ``ram`` bytes, below 2 GiB and without a VGA, has memory at, as (address, size).

    That is its RAM, and what else of it the device reaches, such as the firmware's ROM: vhost-vdpa maps whatever is
    memory and no device's (hw/virtio/vhost-vdpa.c).

    The guest's own monitor could tell: `info mtree -f`. But asking keeps each device in it from going away
    (lab/DECISIONS.md, "Isolation is compared page by page").
    """
    more = [(window.iova, window.size) for window in reach if window.iova >= ram]
    return [(0, ram), *more]


def host_address(answer: str) -> int | None:
    """The virtual address in the monitor's answer to ``gpa2hva``; None where the guest has no memory.

    Raises LabError for any other answer.
    """
    if _NO_MEMORY.search(answer):
        return None
    found = _HVA.search(answer)
    if not found:
        raise LabError(f"no address in the monitor's answer to gpa2hva: {answer!r}")
    return int(found[1], 16)


def frames(pagemap: bytes) -> list[int | None]:
    """The page frame of each page in a piece of /proc/PID/pagemap; None for a page that is not in memory."""
    entries = struct.unpack(f"<{len(pagemap) // 8}Q", pagemap[: len(pagemap) // 8 * 8])
    return [entry & _FRAME if entry & _PRESENT else None for entry in entries]


def offset_of(address: int, memory: int) -> int:
    """Where in the RAM of a q35 machine with ``memory`` bytes of it a physical address is."""
    low = _LOW_IF_MORE if memory >= _LOW else _LOW
    return address if address < _HIGH else address - _HIGH + low


def ring_pages(sizes: Iterable[int]) -> int:
    """How many pages of its own QEMU maps for shadow virtqueues of these lengths and the control queue's two buffers.

    Each queue has an area that the driver writes, descriptors and available ring, and one that the device does
    (vhost_svq_driver_area_size() and vhost_svq_device_area_size() in hw/virtio/vhost-shadow-virtqueue.c,
    vhost_vdpa_net_cvq_cmd_page_len() in net/vhost-vdpa.c of QEMU).
    """
    areas = [area for size in sizes for area in (16 * size + 6 + 2 * size, 6 + 8 * size)]
    return sum(-(-area // PAGE) for area in areas) + 2


def judge_attached(reach: Sequence[Window], guest: Mapping[int, int], *, memory: int) -> Check:
    """Hold what the device can reach while a guest has it against the guest's memory.

    ``guest`` is the page frame in L1 of each page number of the guest; ``memory`` the bytes of L1's RAM.
    """
    expected = "each page of the guest at its own address, and no other memory of l1"
    if not guest or not reach:
        return _nothing(reach, guest, expected)
    right, foreign = 0, []
    for number, offset in _pages(reach):
        frame = guest.get(number)
        if frame is not None and offset_of(frame * PAGE, memory) == offset:
            right += 1
        else:
            foreign.append((number, offset))
    missing = len(guest) - right
    seen = f"{right} pages of the guest, {len(foreign)} others, {max(0, missing)} pages not reachable"
    return _attached(not foreign and not missing, seen, foreign, expected)


def judge_shadowed(
    reach: Sequence[Window], guest: Mapping[int, int], own: Collection[int], rings: int, *, memory: int
) -> Check:
    """The same with shadow virtqueues: QEMU chooses the device's addresses and adds at most ``rings`` pages of its own.

    Where a device address goes on, so must the guest's pages, up to the end of its RAM or ROM; each page is there once.
    ``own`` has the page frames in L1 of all that the guest's QEMU can write to.
    """
    expected = f"each page of the guest once and in order, at most {rings} of its QEMU's, and no other memory of l1"
    if not guest or not reach:
        return _nothing(reach, guest, expected)
    numbers = {offset_of(frame * PAGE, memory): number for number, frame in guest.items()}
    pages = [(at, offset, numbers.get(offset)) for at, offset in _pages(sorted(reach, key=lambda w: w.iova))]
    displaced = _displaced(pages, {number for number in guest if number - 1 not in guest})
    more = {offset_of(frame * PAGE, memory) for frame in own}
    rest = [(at, offset) for at, offset, number in pages if number is None]
    foreign = [(at, offset) for at, offset in rest if offset not in more]
    theirs, missing = len(rest) - len(foreign), len(guest) - len({n for *_, n in pages if n is not None})
    seen = f"{len(guest) - missing} pages of the guest, {len(displaced)} twice or out of order, {theirs} of its QEMU"
    seen += f", {len(foreign)} others, {missing} pages not reachable"
    right = not displaced and not foreign and not missing and theirs <= rings
    return _attached(right, seen, foreign or displaced, expected)


def _displaced(pages: Iterable[tuple[int, int, int | None]], starts: Collection[int]) -> list[tuple[int, int]]:
    """Of device pages in order, with where they lead, those at guest pages that are not the next, or are there again.

    Any page may follow a gap, and one of ``starts`` any page.
    """
    found, met = [], set()
    before: tuple[int, int] | None = None
    for at, offset, number in pages:
        if number is None:
            continue
        goes_on = before is not None and at == before[0] + 1
        if number in met or (goes_on and before != (at - 1, number - 1) and number not in starts):
            found.append((at, offset))
        met.add(number)
        before = (at, number)
    return found


def _nothing(reach: Sequence[Window], guest: Collection[int], expected: str) -> Check:
    seen = f"nothing to compare: {len(guest)} pages of the guest, {len(reach)} ranges of the device"
    return Check.unproven(_ATTACHED, seen, expected, machine="l2")


def _attached(right: bool, seen: str, others: Sequence[tuple[int, int]], expected: str) -> Check:
    if others:
        at, offset = others[0]
        seen += f"; the first other: device address {at * PAGE:#x} leads to {offset:#x} in l1's memory"
    return Check.judged(_ATTACHED, right, seen, expected, level=Level.L1_KERNEL, machine="l2")


def judge_released(before: Sequence[Window], after: Sequence[Window]) -> Check:
    """What the device can reach after the guest has let go must be what it could reach before it had it.

    Both are the device model's, so that the offsets too are of the same memory.
    """
    first, last = list(before), list(after)
    seen = f"{_ranges(last)} after, {_ranges(first)} before"
    changed = next((window for window in last if window not in first), None)
    if changed:
        seen += f"; the first other: {changed.size:#x} bytes at {changed.iova:#x} lead to {changed.offset:#x}"
    return Check.judged(
        "isolation after release",
        first == last,
        seen,
        "the ranges of before, in L1's own domain",
        level=Level.L1_KERNEL,
        machine="l2",
    )


def _pages(reach: Iterable[Window]) -> Iterator[tuple[int, int]]:
    """Each page number of the device's addresses with the offset that it leads to."""
    for window in reach:
        for at in range(0, window.size, PAGE):
            yield (window.iova + at) // PAGE, window.offset + at


def _ranges(found: Sequence[Window]) -> str:
    return f"{len(found)} ranges of {sum(window.size for window in found) >> 20} MiB"


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise LabError(f"not a number in the device model's answer: {value!r}")
    return value
