"""lab.checks.integrity, on a file that stands for a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.checks import integrity
from lab.errors import LabError
from lab.evidence.record import Record
from lab.host.endpoints import BlockEnd
from lab.host.fake import FakeHost
from lab.host.local import LocalHost


@pytest.fixture
def disk(tmp_path: Path) -> BlockEnd:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    return BlockEnd(LocalHost("here", Record(tmp_path / "record")), str(path), 1 << 20)


def test_every_sector_of_the_pattern_differs() -> None:
    data = integrity.pattern("run 4711")
    sectors = {data[i : i + 512] for i in range(0, len(data), 512)}
    assert len(data) == integrity.PATTERN_BYTES
    assert len(sectors) == len(data) // 512
    assert len(integrity.pattern("x", 1000)) == 1000
    assert integrity.pattern("a") != integrity.pattern("b")


def test_written_and_read_back(disk: BlockEnd) -> None:
    written = integrity.write(disk, integrity.pattern("run"))
    assert written
    assert integrity.read(disk.host, disk.device) == written


def test_one_flipped_bit(disk: BlockEnd) -> None:
    written = integrity.write(disk, integrity.pattern("run"))
    path = Path(disk.device)
    data = bytearray(path.read_bytes())
    data[70_000] ^= 1
    path.write_bytes(data)
    assert integrity.read(disk.host, disk.device) not in (written, None)


def test_a_pattern_that_does_not_fit(disk: BlockEnd) -> None:
    with pytest.raises(LabError, match="do not fit"):
        integrity.write(BlockEnd(disk.host, disk.device, 512), integrity.pattern("run"))


def test_a_disk_that_is_not_there(disk: BlockEnd, tmp_path: Path) -> None:
    assert integrity.read(disk.host, str(tmp_path / "nothing")) is None
    assert integrity.read(FakeHost({}, tmp_path / "fake"), "/dev/vdb") is None


@pytest.mark.parametrize("text", ["", "sha256sum: not found", integrity.digest(b"") + "  -"])
def test_an_output_without_a_digest(text: str) -> None:
    assert integrity.parse(text) is None
