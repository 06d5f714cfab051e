"""Split rings: chains of any shape, notifications either way, and rings that nobody may build."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.ifcvf.dma import DmaFault, DmaMap
from lab.ifcvf.ring import MAX_CHAIN, Queue, RingError
from tests.ifcvf_client import INDIRECT, NEXT, PAGE, WRITE, DriverQueue, Memory


class Pair:
    """A driver's and a device's queue on the same memory."""

    def __init__(self, size: int = 8, *, event_idx: bool = True, scattered: bool = False, memory: int = 1 << 21):
        self.memory = Memory(memory, scattered=scattered)
        self.dma = DmaMap()
        for at in range(0, memory, PAGE if scattered else memory):
            iova = self.memory.base + at
            self.dma.map(self.memory.fd, self.memory._offset(iova), iova, PAGE if scattered else memory, True)
        self.interrupts = 0
        self.device = Queue(0, 1024, self.dma, self._interrupt)
        self.driver = DriverQueue(self.memory, 0, size, event_idx)
        self.device.size, self.device.event_idx = size, event_idx
        self.device.desc, self.device.avail, self.device.used = self.driver.desc, self.driver.avail, self.driver.used
        self.device.enable()

    def _interrupt(self, queue: Queue) -> None:
        self.interrupts += 1

    def echo(self) -> None:
        """Serve everything: what can be read is written back, doubled in value."""
        for _ in range(self.device.waiting()):
            chain = self.device.pop()
            data = bytes((2 * byte) & 0xFF for part in chain.readable for byte in part)
            at = 0
            for window in chain.writable:
                part = data[at : at + len(window)]
                window[: len(part)] = part
                at += len(part)
            self.device.push(chain.head, at)
        self.device.publish()


@pytest.fixture(params=[False, True], ids=["plain", "scattered"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(scattered=request.param)
    yield made
    made.memory.close()


chain = st.tuples(
    st.lists(st.binary(min_size=1, max_size=6000), max_size=3),
    st.lists(st.integers(1, 6000), max_size=3),
    st.booleans(),
).filter(lambda parts: parts[0] or parts[1])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(chain, min_size=1, max_size=2), min_size=1, max_size=12),
    st.booleans(),
    st.booleans(),
    st.sampled_from([8, 256, 1024]),
)
def test_what_goes_in_comes_out(
    rounds: list[list[tuple[list[bytes], list[int], bool]]], event_idx: bool, scattered: bool, size: int
) -> None:
    pair = Pair(size, event_idx=event_idx, scattered=scattered, memory=1 << 22)
    for chains in rounds:
        expected = []
        for readable, writable, indirect in chains:
            if len(pair.driver.free) < len(readable) + len(writable):
                continue
            head = pair.driver.add(readable, writable, indirect=indirect)
            data = bytes((2 * byte) & 0xFF for part in readable for byte in part)[: sum(writable)]
            expected.append((head, len(data), data))
        pair.echo()
        assert pair.driver.take() == expected
    pair.memory.close()


def test_indices_go_round(pair: Pair) -> None:
    for index in (pair.driver.avail_idx, pair.driver.used_idx):
        assert index == 0
    start = 0xFFFC
    for place in (pair.driver.avail + 2, pair.driver.used + 2):
        pair.memory.write(place, struct.pack("<H", start))
    pair.driver.avail_idx = pair.driver.used_idx = start
    pair.device.last_avail = start
    pair.device.disable()
    pair.device.enable()
    for number in range(10):
        head = pair.driver.add([bytes([number])], [1])
        pair.echo()
        assert pair.driver.take() == [(head, 1, bytes([2 * number]))]
    assert pair.device.last_avail == pair.device.used_idx == (start + 10) & 0xFFFF


def test_the_driver_says_when_it_wants_to_be_interrupted() -> None:
    pair = Pair()
    pair.driver.set_used_event(2)
    wanted = []
    for _ in range(5):
        pair.driver.add([b"x"])
        pair.echo()
        wanted.append(pair.interrupts)
    assert wanted == [0, 0, 1, 1, 1]
    pair.memory.close()


def test_without_event_index_there_is_a_flag() -> None:
    pair = Pair(event_idx=False)
    pair.driver.add([b"x"])
    pair.echo()
    assert pair.interrupts == 1
    pair.memory.write(pair.driver.avail, struct.pack("<H", 1))
    pair.driver.add([b"x"])
    pair.echo()
    assert pair.interrupts == 1
    pair.memory.close()


def test_the_device_says_when_it_wants_to_be_notified() -> None:
    pair = Pair(event_idx=True)
    pair.driver.add([b"x"])
    assert pair.device.listen(1) is False
    assert pair.driver.avail_event == 1
    quiet = Pair(event_idx=False)
    quiet.device.quiet()
    assert quiet.driver.used_flags == 1
    quiet.device.listen(0)
    assert quiet.driver.used_flags == 0
    for made in (pair, quiet):
        made.memory.close()


@pytest.mark.parametrize("event_idx", [True, False])
def test_what_comes_between_looking_and_listening_is_not_missed(event_idx: bool) -> None:
    """The driver need not notify of it: the device had not asked yet. A device that misses it waits for ever."""
    pair = Pair(event_idx=event_idx)
    number = pair.device.waiting()
    assert number == 0
    pair.driver.add([b"x"])
    assert pair.device.listen(number) is True
    pair.memory.close()


def test_buffers_given_back_are_the_next_again(pair: Pair) -> None:
    heads = [pair.driver.add([bytes([n])]) for n in range(3)]
    assert [pair.device.pop().head for _ in range(3)] == heads
    pair.device.unpop(2)
    assert pair.device.pop().head == heads[1]


def test_a_queue_that_is_enabled_before_its_ring_is_mapped(pair: Pair) -> None:
    """QEMU's generic vDPA device does so: the guest's memory is mapped after that, and DRIVER_OK comes last."""
    mapped = pair.dma.ranges()
    pair.device.disable()
    pair.dma.clear()
    pair.device.enable()
    with pytest.raises(RingError, match="outside the DMA map"):
        pair.device.waiting()
    for one in mapped:
        pair.dma.map(pair.memory.fd, one.offset, one.iova, one.size, one.writable)
    head = pair.driver.add([bytes([21])], [1])
    pair.echo()
    assert pair.driver.take() == [(head, 1, bytes([42]))]


def test_a_ring_that_is_unmapped_is_not_touched_any_more(pair: Pair) -> None:
    pair.driver.add([b"x"])
    page = pair.driver.used // PAGE * PAGE
    pair.dma.unmap(page, PAGE)
    with pytest.raises(RingError):
        pair.device.waiting()


def test_a_ring_that_moves_is_followed(pair: Pair) -> None:
    """Unmapping something else makes the device look where its rings are; it finds them where they were."""
    last = pair.memory.base + pair.memory.size - PAGE
    pair.dma.unmap(last, PAGE)
    head = pair.driver.add([b"x"], [1])
    pair.echo()
    assert pair.driver.take() == [(head, 1, bytes([2 * ord("x") & 0xFF]))]


def loop_of_two(pair: Pair) -> None:
    iova = pair.memory.put(b"x")
    pair.driver.set_descriptor(0, pair.driver.describe(iova, 1, NEXT, 1))
    pair.driver.set_descriptor(1, pair.driver.describe(iova, 1, NEXT, 0))


def next_outside(pair: Pair) -> None:
    pair.driver.set_descriptor(0, pair.driver.describe(pair.memory.put(b"x"), 1, NEXT, 8))


def outside_the_map(pair: Pair) -> None:
    pair.driver.set_descriptor(0, pair.driver.describe(pair.memory.base - 1, 2, 0))


def over_the_end(pair: Pair) -> None:
    pair.driver.set_descriptor(0, pair.driver.describe(pair.memory.base + pair.memory.size - 1, 2, WRITE))


def to_the_end_of_the_world(pair: Pair) -> None:
    pair.driver.set_descriptor(0, pair.driver.describe(2**64 - 1, 2**32 - 1, 0))


def longer_than_any_may_be(pair: Pair) -> None:
    for at in range(8):
        pair.driver.set_descriptor(at, pair.driver.describe(pair.memory.base, 1 << 23, NEXT, at + 1))


def readable_after_writable(pair: Pair) -> None:
    iova = pair.memory.put(b"x")
    pair.driver.set_descriptor(0, pair.driver.describe(iova, 1, NEXT | WRITE, 1))
    pair.driver.set_descriptor(1, pair.driver.describe(iova, 1, 0))


def indirect_inside_indirect(pair: Pair) -> None:
    inner = pair.memory.put(pair.driver.describe(pair.memory.put(b"x"), 1, 0))
    outer = pair.memory.put(pair.driver.describe(inner, 16, INDIRECT))
    pair.driver.set_descriptor(0, pair.driver.describe(outer, 16, INDIRECT))


def indirect_with_next(pair: Pair) -> None:
    table = pair.memory.put(pair.driver.describe(pair.memory.put(b"x"), 1, 0))
    pair.driver.set_descriptor(0, pair.driver.describe(table, 16, INDIRECT | NEXT, 1))


def indirect_of_odd_length(pair: Pair) -> None:
    pair.driver.set_descriptor(0, pair.driver.describe(pair.memory.put(bytes(32)), 24, INDIRECT))


def indirect_of_nothing(pair: Pair) -> None:
    pair.driver.set_descriptor(0, pair.driver.describe(pair.memory.put(bytes(32)), 0, INDIRECT))


def indirect_too_long(pair: Pair) -> None:
    pair.driver.set_descriptor(0, pair.driver.describe(pair.memory.base, 16 * (MAX_CHAIN + 1), INDIRECT))


def indirect_not_aligned(pair: Pair) -> None:
    pair.driver.set_descriptor(0, pair.driver.describe(pair.memory.put(bytes(32)) + 4, 16, INDIRECT))


def indirect_outside(pair: Pair) -> None:
    pair.driver.set_descriptor(0, pair.driver.describe(0x1000, 16, INDIRECT))


def indirect_loop(pair: Pair) -> None:
    iova = pair.memory.put(b"x")
    table = pair.memory.put(pair.driver.describe(iova, 1, NEXT, 1) + pair.driver.describe(iova, 1, NEXT, 0))
    pair.driver.set_descriptor(0, pair.driver.describe(table, 32, INDIRECT))


@pytest.mark.parametrize(
    "build",
    [
        loop_of_two, next_outside, outside_the_map, over_the_end, to_the_end_of_the_world, longer_than_any_may_be,
        readable_after_writable,
        indirect_inside_indirect, indirect_with_next, indirect_of_odd_length, indirect_of_nothing, indirect_too_long,
        indirect_not_aligned, indirect_outside, indirect_loop,
    ],
)  # fmt: skip
def test_chains_that_cannot_be(build: object, pair: Pair) -> None:
    assert callable(build)
    build(pair)
    pair.driver.expose(0)
    assert pair.device.waiting() == 1
    with pytest.raises((RingError, DmaFault)):
        pair.device.pop()


def test_a_head_outside_the_ring(pair: Pair) -> None:
    pair.driver.expose(8)
    with pytest.raises(RingError):
        pair.device.pop()


def test_more_buffers_than_the_ring_has(pair: Pair) -> None:
    pair.memory.write(pair.driver.avail + 2, struct.pack("<H", 9))
    with pytest.raises(RingError):
        pair.device.waiting()


@pytest.mark.parametrize(("area", "by"), [("desc", 8), ("avail", 1), ("used", 2)])
def test_rings_that_are_not_aligned(area: str, by: int, pair: Pair) -> None:
    setattr(pair.device, area, getattr(pair.device, area) + by)
    with pytest.raises(RingError):
        pair.device.enable()


def test_a_ring_may_be_spread_over_pages_that_are_no_neighbours() -> None:
    pair = Pair(1024, scattered=True, memory=1 << 22)
    heads = [pair.driver.add([bytes([n & 0x7F])], [1], indirect=True) for n in range(1000)]
    pair.echo()
    taken = pair.driver.take()
    assert [head for head, _, _ in taken] == heads
    assert all(one[2] != other[2] for one, other in pairwise(taken))
    pair.memory.close()
