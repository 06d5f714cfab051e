"""The DMA map, against a plain model of single bytes."""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.ifcvf.dma import MAX_FILES, DmaFault, DmaMap
from lab.ifcvf.wire import Refused

UNIT = 16
SPACE = 64


@pytest.fixture(scope="module")
def files() -> Iterator[list[int]]:
    """Three files; each unit of each has its own content."""
    fds = []
    for number in range(3):
        fd = os.memfd_create(f"f{number}")
        os.write(fd, b"".join(bytes([number]) * 8 + unit.to_bytes(8, "little") for unit in range(SPACE)))
        fds.append(fd)
    yield fds
    for fd in fds:
        os.close(fd)


def content(file: int, unit: int) -> bytes:
    return bytes([file]) * 8 + unit.to_bytes(8, "little")


place = st.integers(0, SPACE - 1)
operation = st.one_of(
    st.tuples(st.just("map"), place, st.integers(1, 8), st.integers(0, 2), place, st.booleans()),
    st.tuples(st.just("unmap"), place, st.integers(1, 40)),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(operation, max_size=30))
def test_it_holds_exactly_what_was_mapped(files: list[int], operations: list[tuple[object, ...]]) -> None:
    dma, model = DmaMap(), dict[int, tuple[int, int, bool]]()
    for entry in operations:
        match entry:
            case ("map", int(at), int(size), int(file), int(offset), bool(write)):
                wanted = {at + n: (file, offset + n, write) for n in range(size)}
                taken = {unit: model[unit] for unit in wanted if unit in model}
                try:
                    dma.map(files[file], offset * UNIT, at * UNIT, size * UNIT, write)
                except Refused:
                    assert offset + size > SPACE or taken
                else:
                    assert offset + size <= SPACE
                    assert all(model[unit] == wanted[unit] for unit in taken)
                    model |= wanted
            case ("unmap", int(at), int(size)):
                generation = dma.generation
                gone = [unit for unit in range(at, at + size) if model.pop(unit, None)]
                dma.unmap(at * UNIT, size * UNIT)
                assert (dma.generation != generation) == bool(gone)
        check(dma, model)


def check(dma: DmaMap, model: dict[int, tuple[int, int, bool]]) -> None:
    assert dma.bytes == len(model) * UNIT
    ranges = dma.ranges()
    for one, other in itertools.pairwise(ranges):
        assert one.iova + one.size <= other.iova
        joined = (one.iova + one.size, one.offset + one.size, one.memory, one.writable)
        assert joined != (other.iova, other.offset, other.memory, other.writable)
    for unit in range(SPACE + 8):
        if unit in model:
            file, offset, write = model[unit]
            assert bytes(dma.window(unit * UNIT, UNIT, False)) == content(file, offset)
            parts = dma.windows(unit * UNIT + 3, UNIT - 3, False)
            assert b"".join(parts) == content(file, offset)[3:]
            if not write:
                with pytest.raises(DmaFault):
                    dma.windows(unit * UNIT, 1, True)
        else:
            for length in (1, UNIT):
                with pytest.raises(DmaFault):
                    dma.window(unit * UNIT, length, False)
                with pytest.raises(DmaFault):
                    dma.windows(unit * UNIT, length, False)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, SPACE - 1), unique=True, min_size=1), st.integers(0, SPACE * UNIT), st.data())
def test_an_access_over_several_ranges(files: list[int], pages: list[int], begin: int, data: st.DataObject) -> None:
    dma = DmaMap()
    for at, page in enumerate(pages):
        dma.map(files[0], page * UNIT, at * UNIT, UNIT, True)
    length = data.draw(st.integers(1, SPACE * UNIT))
    expected = b"".join(content(0, page) for page in pages)
    if begin + length <= len(expected):
        assert b"".join(dma.windows(begin, length, True)) == expected[begin : begin + length]
    else:
        with pytest.raises(DmaFault):
            dma.windows(begin, length, True)


def test_one_file_is_mapped_once_and_let_go_with_its_last_range(files: list[int]) -> None:
    dma = DmaMap()
    for at in range(20):
        dma.map(os.dup(files[0]) if at == 0 else files[0], 2 * at * UNIT, at * 1024, UNIT, True)
    assert len(dma) == 20
    assert len(dma._files) == 1
    dma.clear()
    assert not dma._files


@pytest.mark.parametrize(
    ("iova", "size"), [(0, 0), (2**63, 1), (2**64 - 1, 1), (1, 2**64 - 1), (0, SPACE * UNIT + 1), (0, 2**62)]
)
def test_ranges_that_cannot_be(files: list[int], iova: int, size: int) -> None:
    with pytest.raises(Refused):
        DmaMap().map(files[0], 0, iova, size, True)


def test_what_is_no_memory_is_refused(tmp_path: object) -> None:
    dma = DmaMap()
    reader, writer = os.pipe()
    empty = os.memfd_create("empty")
    for fd in (reader, empty):
        with pytest.raises(Refused):
            dma.map(fd, 0, 0, 4096, True)
    for fd in (reader, writer, empty):
        os.close(fd)


def test_there_are_not_more_files_than_allowed() -> None:
    dma = DmaMap()
    for number in range(MAX_FILES + 1):
        fd = os.memfd_create("one")
        os.ftruncate(fd, 4096)
        if number == MAX_FILES:
            with pytest.raises(Refused):
                dma.map(fd, 0, number * 4096, 4096, True)
        else:
            dma.map(fd, 0, number * 4096, 4096, True)
        os.close(fd)


def test_a_file_that_may_only_be_read_is_not_written(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("ro") / "rom"
    path.write_bytes(b"r" * 4096)
    fd = os.open(path, os.O_RDONLY)
    dma = DmaMap()
    with pytest.raises(Refused):
        dma.map(fd, 0, 0, 4096, True)
    dma.map(fd, 0, 0, 4096, False)
    assert bytes(dma.window(0, 4, False)) == b"rrrr"
    os.close(fd)


def test_memory_cannot_be_shortened_under_the_device() -> None:
    fd = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 8192)
    dma = DmaMap()
    dma.map(fd, 0, 0, 8192, True)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 4096)
    assert dma.bytes >= mmap.PAGESIZE
    os.close(fd)


def test_memory_may_grow() -> None:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 4096)
    dma = DmaMap()
    dma.map(fd, 0, 0, 4096, True)
    os.ftruncate(fd, 8192)
    dma.map(fd, 4096, 4096, 4096, True)
    dma.window(4096, 4096, True)[:1] = b"x"
    assert os.pread(fd, 1, 4096) == b"x"
    os.close(fd)
