"""lab.checks.isolation: what a device may reach, and each way in which it reaches something else."""

from __future__ import annotations

import struct

import pytest

from lab.checks import isolation
from lab.checks.isolation import PAGE, Window
from lab.errors import LabError
from lab.model import Check, Level, Verdict

MEMORY = 2 << 30
# Two huge pages of the guest, which lie apart in L1.
GUEST = {number: (0x40000 if number < 512 else 0x60000) + number % 512 for number in range(1024)}
REACH = [Window(0, 2 << 20, 0x40000 * PAGE), Window(2 << 20, 2 << 20, 0x60000 * PAGE)]


def test_sections_are_the_guests_ram_and_what_else_the_device_reaches_of_it() -> None:
    rom = Window(0xFFFC0000, 0x40000, 0x5000, writable=False)
    assert isolation.sections(256 << 20, [*REACH, rom]) == [(0, 256 << 20), (0xFFFC0000, 0x40000)]


def test_host_address() -> None:
    answer = "Host virtual address for 0x0 (ram) is 0x7f3a40000000\r\n"
    assert isolation.host_address(answer) == 0x7F3A40000000
    with pytest.raises(LabError, match="no address"):
        isolation.host_address("unknown command: 'gpa2hva'\r\n")


@pytest.mark.parametrize(
    "answer", ["No memory is mapped at address 0x40000000\r\n", "Memory at address 0xa0000 is not RAM\r\n"]
)
def test_where_the_guest_has_no_memory(answer: str) -> None:
    assert isolation.host_address(answer) is None


def test_frames() -> None:
    present, soft_dirty = 1 << 63, 1 << 55
    entries = struct.pack("<3Q", present | soft_dirty | 0x12345, 0x777, present)
    assert isolation.frames(entries + b"cut") == [0x12345, None, 0]


@pytest.mark.parametrize(
    ("address", "memory", "offset"),
    [
        (0x1000, 2 << 30, 0x1000),
        (0x7FFFF000, 4 << 30, 0x7FFFF000),
        (1 << 32, 4 << 30, 0x80000000),
        ((1 << 32) + 0x5000, 4 << 30, 0x80005000),
    ],
)
def test_where_an_address_of_l1_is_in_its_ram(address: int, memory: int, offset: int) -> None:
    assert isolation.offset_of(address, memory) == offset


def test_the_guests_pages_and_nothing_else() -> None:
    check = isolation.judge_attached(REACH, GUEST, memory=MEMORY)
    assert (check.verdict, check.seen) == (
        Verdict.PASS, "1024 pages of the guest, 0 others, 0 pages not reachable",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reach", "seen"),
    [
        # L1's own domain: the whole of its memory, each page at its own address.
        ([Window(0, MEMORY, 0)], "0 pages of the guest, 524288 others, 1024 pages not reachable; the first other"),
        ([*REACH, Window(4 << 20, PAGE, 0x1000)], "1024 pages of the guest, 1 others, 0 pages not reachable"),
        ([REACH[0], Window(2 << 20, 2 << 20, 0x60000 * PAGE + PAGE)], "512 pages of the guest, 512 others"),
        ([REACH[0], Window(3 << 20, 2 << 20, 0x60000 * PAGE)], "512 pages of the guest, 512 others"),
        (REACH[:1], "512 pages of the guest, 0 others, 512 pages not reachable"),
    ],
    ids=["everything", "one page more", "shifted in memory", "shifted in address", "half of it"],
)
def test_anything_else_fails(reach: list[Window], seen: str) -> None:
    check = isolation.judge_attached(reach, GUEST, memory=MEMORY)
    assert (check.verdict, check.level) == (Verdict.FAIL, Level.L1_KERNEL)
    assert check.seen.startswith(seen)


@pytest.mark.parametrize(("reach", "guest"), [([], GUEST), (REACH, {})])
def test_without_both_sides_nothing_is_proved(reach: list[Window], guest: dict[int, int]) -> None:
    assert isolation.judge_attached(reach, guest, memory=MEMORY).verdict is Verdict.ERROR


def test_after_release_all_is_as_before() -> None:
    before = [Window(0, MEMORY, 0)]
    assert isolation.judge_released(before, [Window(0, MEMORY, 0)]).verdict is Verdict.PASS
    for after in ([], REACH, [*before, *REACH], [Window(0, MEMORY, PAGE)], [Window(0, MEMORY, 0, writable=False)]):
        check = isolation.judge_released(before, after)
        assert (check.verdict, check.level) == (Verdict.FAIL, Level.L1_KERNEL), after


def test_the_device_models_answer() -> None:
    answer = [{"iova": 4096, "size": 8192, "writable": False, "memory": [1, 2], "offset": 12288}]
    assert isolation.windows(answer) == [Window(4096, 8192, 12288, False)]
    with pytest.raises(LabError, match="not a number"):
        isolation.windows([{"iova": "0x1000", "size": 1, "writable": True}])


RINGS = Window(0x7F0000000000, 2 * PAGE, 0x1000 * PAGE)
# The guest's two huge pages at QEMU's own addresses, one behind the other, and the firmware behind them.
ROM = {0xFFFC0 + number: 0x2000 + number for number in range(64)}
WHOLE = GUEST | ROM
SHADOWED = [
    Window(0x10000, 2 << 20, 0x40000 * PAGE),
    Window(0x210000, 2 << 20, 0x60000 * PAGE),
    Window(0x410000, 64 * PAGE, 0x2000 * PAGE, writable=False),
    RINGS,
]
# Of QEMU's: the guest's RAM, two pages of rings, and a heap.
HEAP = set(range(0x5000, 0x5040))
ITS = {*WHOLE.values(), 0x1000, 0x1001} | HEAP


def shadowed(reach: list[Window], guest: dict[int, int] = WHOLE, own: set[int] = ITS) -> Check:
    return isolation.judge_shadowed(reach, guest, own, 2, memory=MEMORY)


def test_with_shadow_virtqueues_addresses_are_qemus_own() -> None:
    check = shadowed(SHADOWED)
    assert (check.verdict, check.seen) == (
        Verdict.PASS,
        "1088 pages of the guest, 0 twice or out of order, 2 of its QEMU, 0 others, 0 pages not reachable",
    )
    # Sections may lie apart, in whatever order.
    apart = [Window(0x80000000, 2 << 20, 0x40000 * PAGE), *SHADOWED[1:]]
    assert shadowed(apart).verdict is Verdict.PASS


SHIFTED = [Window(0x10000, 2 << 20, 0x60000 * PAGE), Window(0x210000, 2 << 20, 0x40000 * PAGE + PAGE), *SHADOWED[2:]]


@pytest.mark.parametrize(
    ("reach", "own", "seen"),
    [
        (
            SHADOWED,
            ITS - {0x1001},
            "1088 pages of the guest, 0 twice or out of order, 1 of its QEMU, 1 others, 0 pages",
        ),
        (
            [Window(0, MEMORY, 0)],
            ITS,
            "1088 pages of the guest, 0 twice or out of order, 66 of its QEMU, 523134 others",
        ),
        ([RINGS], ITS, "0 pages of the guest, 0 twice or out of order, 2 of its QEMU, 0 others, 1088 pages not"),
        (
            [*SHADOWED, Window(0x7F0000100000, 64 * PAGE, 0x5000 * PAGE)],
            ITS,
            "1088 pages of the guest, 0 twice or out of order, 66 of its QEMU, 0 others, 0 pages not reachable",
        ),
        (
            [*SHADOWED, Window(0x7F0000100000, PAGE, 0x40000 * PAGE)],
            ITS,
            "1088 pages of the guest, 1 twice or out of order, 2 of its QEMU, 0 others, 0 pages not reachable; ",
        ),
        (SHIFTED, ITS, "1087 pages of the guest, 1 twice or out of order, 2 of its QEMU, 1 others, 1 pages not"),
        (
            [Window(0x10000, 1 << 20, 0x40100 * PAGE), Window(0x110000, 1 << 20, 0x40000 * PAGE), *SHADOWED[1:]],
            ITS,
            "1088 pages of the guest, 1 twice or out of order, 2 of its QEMU, 0 others, 0 pages not reachable; ",
        ),
    ],
    ids=["a page of somebody else", "everything", "no RAM", "QEMU's heap", "a page twice", "shifted", "swapped"],
)
def test_and_anything_else_still_fails(reach: list[Window], own: set[int], seen: str) -> None:
    check = shadowed(reach, own=own)
    assert check.seen.startswith(seen)
    assert (check.verdict, check.level) == (Verdict.FAIL, Level.L1_KERNEL)


def test_shadowed_memory_that_nobody_told_proves_nothing() -> None:
    assert shadowed([]).verdict is Verdict.ERROR
    assert shadowed(SHADOWED, guest={}).verdict is Verdict.ERROR


def test_what_shadow_virtqueues_take() -> None:
    # Seen with QEMU 11.1.3: two queues of 256 and a control queue of 64.
    assert isolation.ring_pages([256, 256, 64]) == 10
