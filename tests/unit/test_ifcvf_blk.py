"""The block device: requests, against a plain model of its content."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.ifcvf import blk, disk
from lab.ifcvf.blk import BlkDevice
from lab.ifcvf.wire import Region
from tests.ifcvf_client import (
    DISCARD,
    DISK,
    ERROR,
    FLUSH,
    GET_ID,
    IN,
    OK,
    OUT,
    UNSUPPORTED,
    WRITE_ZEROES,
    Bench,
    bench,
    request,
)

SECTORS = 64
SMALL = {**DISK, "backend": {"kind": "memory", "size": SECTORS * 512}}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, SMALL) as one:
        yield one


write = st.tuples(st.just("write"), st.integers(0, SECTORS - 1), st.integers(1, 8), st.integers(1, 4))
read = st.tuples(st.just("read"), st.integers(0, SECTORS + 2), st.integers(1, 8), st.just(1))
zero = st.tuples(st.just("zero"), st.integers(0, SECTORS), st.integers(1, 20), st.integers(0, 1))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(write, read, zero), max_size=25), st.booleans())
def test_a_disk_holds_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int, int, int]], scattered: bool
) -> None:
    folder = tmp_path_factory.mktemp("blk")
    image = folder / "image"
    image.write_bytes(bytes(SECTORS * 512))
    content = bytearray(SECTORS * 512)
    with bench(folder, {**DISK, "backend": {"kind": "file", "path": str(image)}}) as one:
        driver = one.driver("disk0", size=1 << 20, scattered=scattered)
        for number, (kind, sector, count, how) in enumerate(operations):
            begin, end = sector * 512, (sector + count) * 512
            expected = OK if end <= len(content) else ERROR
            if kind == "write":
                data = bytes([number + 1]) * (count * 512)
                assert request(driver, OUT, sector, data, pieces=how)[0] == expected
            elif kind == "read":
                status, data = request(driver, IN, sector, room=count * 512)
                assert status == expected
                assert expected == ERROR or data == content[begin:end]
                continue
            else:
                data = bytes(count * 512)
                assert request(driver, WRITE_ZEROES, 0, struct.pack("<QII", sector, count, how))[0] == expected
            if expected == OK:
                content[begin:end] = data
        assert request(driver, FLUSH)[0] == OK
    assert image.read_bytes() == content


def test_configuration(made: Bench) -> None:
    config = blk.CONFIG.unpack(made.driver("disk0").client.read(Region.BAR0, 0x2000, blk.CONFIG.size))
    assert (config[0], config[2], config[6], config[13]) == (SECTORS, 126, 512, 1)
    assert blk.CONFIG.size == 60  # struct virtio_blk_config up to write zeroes


def test_a_small_queue_has_short_requests(tmp_path: Path) -> None:
    with bench(tmp_path, {**SMALL, "queue_size": 64}) as made:
        assert blk.CONFIG.unpack(made.client("disk0").read(Region.BAR0, 0x2000, blk.CONFIG.size))[2] == 62


def test_it_tells_its_serial(made: Bench) -> None:
    driver = made.driver("disk0")
    assert request(driver, GET_ID, room=20) == (OK, b"disk0".ljust(20, b"\0"))
    assert request(driver, GET_ID, room=4) == (OK, b"disk")


def test_several_queues_count_together(tmp_path: Path) -> None:
    with bench(tmp_path, {**SMALL, "queues": 3}) as made:
        driver = made.driver("disk0")
        for queue in range(3):
            assert request(driver, OUT, queue, bytes([queue + 1]) * 512, queue=queue)[0] == OK
            assert driver.interrupts(queue) == 1
        assert request(driver, IN, 0, room=3 * 512, queue=2)[1] == b"\1" * 512 + b"\2" * 512 + b"\3" * 512
        assert request(driver, DISCARD, 0, struct.pack("<QII", 0, 8, 0))[0] == OK
        counters = made.vfs["disk0"].counters()
        assert counters["writes"] == 3
        assert (counters["written_bytes"], counters["read_bytes"]) == (3 * 512, 3 * 512)
        assert (counters["discards"], counters["discarded_bytes"], counters["errors"]) == (1, 8 * 512, 0)


def test_discarded_and_zeroed_space_is_given_back(made: Bench) -> None:
    driver, device = made.driver("disk0"), made.vfs["disk0"].device
    assert isinstance(device, BlkDevice)

    def blocks() -> int:
        return os.fstat(device.disk._fd).st_blocks

    assert request(driver, OUT, 0, b"x" * 32 * 512)[0] == OK
    used = blocks()
    assert request(driver, DISCARD, 0, struct.pack("<QII", 0, 16, 0))[0] == OK
    assert blocks() < used
    assert request(driver, WRITE_ZEROES, 0, struct.pack("<QII", 16, 16, 1))[0] == OK
    assert blocks() == 0
    assert request(driver, IN, 16, room=16 * 512) == (OK, bytes(16 * 512))


@pytest.mark.parametrize(
    ("kind", "sector", "out", "room", "status"),
    [
        (IN, 0, b"", 100, ERROR), (IN, SECTORS, b"", 512, ERROR), (IN, 2**64 - 1, b"", 512, ERROR),
        (OUT, 0, b"x" * 100, 0, ERROR), (OUT, SECTORS - 1, b"x" * 1024, 0, ERROR), (99, 0, b"", 0, UNSUPPORTED),
        (DISCARD, 0, b"", 0, ERROR), (DISCARD, 0, b"x" * 17, 0, ERROR),
        (DISCARD, 0, struct.pack("<QII", 0, 8, 1), 0, UNSUPPORTED),
        (WRITE_ZEROES, 0, struct.pack("<QII", 0, 8, 2), 0, UNSUPPORTED),
        (WRITE_ZEROES, 0, struct.pack("<QII", 2**63, 8, 0), 0, ERROR),
        (WRITE_ZEROES, 0, struct.pack("<QII", 0, 2**32 - 1, 0), 0, ERROR),
        (DISCARD, 0, struct.pack("<QII", 0, 1, 0) * 17, 0, ERROR),
    ],
)  # fmt: skip
def test_requests_that_cannot_be(made: Bench, kind: int, sector: int, out: bytes, room: int, status: int) -> None:
    driver = made.driver("disk0")
    assert request(driver, kind, sector, out, room)[0] == status
    assert made.vfs["disk0"].counters()["errors"] == (status == ERROR)
    assert request(driver, IN, 0, room=512)[0] == OK  # and the device goes on


@pytest.mark.parametrize(
    ("readable", "writable"), [([b"x" * 15], [1]), ([b"x" * 16], []), ([], [1])], ids=["short", "no status", "nothing"]
)
def test_what_is_no_request_breaks_the_queue(made: Bench, readable: list[bytes], writable: list[int]) -> None:
    driver = made.driver("disk0")
    driver.queues[0].add(readable, writable)
    driver.kick(driver.queues[0])
    assert driver.status & 0x40
    assert made.vfs["disk0"].counters()["ring_errors"] == 1


def test_the_header_may_be_in_pieces_and_the_status_with_the_data(made: Bench) -> None:
    driver = made.driver("disk0")
    header = struct.pack("<IIQ", OUT, 0, 3)
    driver.queues[0].add([header[:5], header[5:] + b"y" * 512], [1])
    driver.queues[0].add([struct.pack("<IIQ", IN, 0, 3)], [513])
    driver.kick(driver.queues[0])
    (_, first, _), (_, second, data) = driver.queues[0].take()
    assert (first, second) == (1, 513)
    assert data == b"y" * 512 + b"\0"


def test_a_disk_that_may_only_be_read(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"r" * 4096)
    with bench(tmp_path, {**DISK, "backend": {"kind": "file", "path": str(image), "read_only": True}}) as made:
        driver = made.driver("disk0")
        assert made.vfs["disk0"].state()["features"] & (blk.F_RO | blk.F_DISCARD) == blk.F_RO
        assert request(driver, IN, 0, room=512) == (OK, b"r" * 512)
        assert request(driver, OUT, 0, b"w" * 512)[0] == ERROR
        assert request(driver, WRITE_ZEROES, 0, struct.pack("<QII", 0, 1, 0))[0] == ERROR
    assert image.read_bytes() == b"r" * 4096


def test_an_image_that_shrinks_gives_zeroes_and_errors(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"r" * 4096)
    with bench(tmp_path, {**DISK, "backend": {"kind": "file", "path": str(image)}}) as made:
        driver = made.driver("disk0")
        os.truncate(image, 700)
        status, data = request(driver, IN, 0, room=2048)
        assert (status, data) == (OK, b"r" * 700 + bytes(2048 - 700))


def test_more_buffers_than_one_system_call_takes() -> None:
    one = disk.memory_disk(1 << 20)
    buffers = [memoryview(bytearray([n & 0xFF]) * 16) for n in range(3000)]
    one.write(512, buffers)
    back = [memoryview(bytearray(16)) for _ in range(3000)]
    one.read(512, back)
    assert back == buffers
    one.close()
