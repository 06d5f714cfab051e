"""lab.checks.counters: real formats, and broken ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab.checks import counters
from lab.errors import LabError

INTERRUPTS = """\
            CPU0       CPU1
   0:         37          0   IO-APIC   2-edge      timer
   9:          0          1   IO-APIC   9-fasteoi   acpi
  30:          0          0  PCI-MSIX-0000:01:00.0   0-edge      virtio2-config
  45:       1204         17  PCI-MSIX-0000:01:00.1   0-edge      vp-vdpa[0000:01:00.1]-0
  46:       2000          3  PCI-MSIX-0000:01:00.1   1-edge      vp-vdpa[0000:01:00.1]-1
  47:          9          9  PCI-MSIX-0000:01:00.2   1-edge      vp-vdpa[0000:01:00.2]-0
 NMI:          0          0   Non-maskable interrupts
 LOC:      10234       9322   Local timer interrupts
 ERR:          0
"""

BLOCKSTATS = [
    {
        "device": "",
        "node-name": "root",
        "qdev": "/machine/peripheral-anon/device[2]/virtio-backend",
        "stats": {"rd_bytes": 7, "wr_bytes": 8},
    },
    {
        "device": "d1",
        "node-name": "#block123",
        "qdev": "/machine/peripheral/blk0/virtio-backend",
        "stats": {"rd_bytes": 4096, "wr_bytes": 8192, "rd_operations": 1},
    },
]
VF, PEER = "02:00:00:00:00:01", "02:00:00:00:00:02"


def test_interrupts() -> None:
    assert counters.irqs(INTERRUPTS, "vp-vdpa[0000:01:00.1]-") == {"irqs": 1204 + 17 + 2000 + 3}
    assert counters.irqs(INTERRUPTS, "vp-vdpa[0000:01:00.2]-") == {"irqs": 18}
    assert counters.irqs(INTERRUPTS, "ERR") == {}


def test_interrupts_that_are_not_there() -> None:
    assert counters.irqs(INTERRUPTS, "vp-vdpa[0000:09:00.1]-") == {}
    assert counters.irqs("", "vp-vdpa") == {}


@pytest.mark.parametrize("name", ["blk0", "d1", "#block123"])
def test_blockstats_by_any_name(name: str) -> None:
    assert counters.blockstats(BLOCKSTATS, name) == {"rd_bytes": 4096, "wr_bytes": 8192}


def test_blockstats_of_a_disk_that_is_not_there() -> None:
    assert counters.blockstats(BLOCKSTATS, "blk1") == {}
    assert counters.blockstats([], "blk0") == {}


def frame(target: str, source: str, full: int, captured: int = 64, order: str = "<") -> bytes:
    data = bytes.fromhex((target + source).replace(":", "")) + bytes(captured - 12)
    return struct.pack(f"{order}IIII", 1, 2, captured, full) + data


def capture(path: Path, frames: Sequence[bytes], *, order: str = "<", magic: int = 0xA1B2C3D4) -> Path:
    path.write_bytes(struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 64, 1) + b"".join(frames))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D])
def test_full_lengths_by_direction(tmp_path: Path, order: str, magic: int) -> None:
    frames = [
        frame(VF, PEER, 1514, order=order),
        frame(VF, PEER, 1000, order=order),
        frame(PEER, VF, 66, order=order),
        frame("ff:ff:ff:ff:ff:ff", PEER, 42, 42, order=order),
    ]
    path = capture(tmp_path / "x.pcap", frames, order=order, magic=magic)
    assert counters.pcap_bytes(path, VF) == {"to": 2514, "from": 66, "frames": 4}
    assert counters.backend(path, VF.upper()) == {"backend_to": 2514, "backend_from": 66}


def test_a_capture_without_frames(tmp_path: Path) -> None:
    assert counters.pcap_bytes(capture(tmp_path / "x", []), VF) == {"to": 0, "from": 0, "frames": 0}


@pytest.mark.parametrize("cut", [1, 63, 65, 79])
def test_a_last_record_that_is_not_complete(tmp_path: Path, cut: int) -> None:
    path = capture(tmp_path / "x", [frame(VF, PEER, 1514), frame(VF, PEER, 1514)])
    path.write_bytes(path.read_bytes()[:-cut])
    assert counters.pcap_bytes(path, VF) == {"to": 1514, "from": 0, "frames": 1}


@pytest.mark.parametrize("content", [b"", b"short", b"not a capture at all, but long enough"])
def test_what_is_no_capture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(LabError):
        counters.pcap_bytes(tmp_path / "x", VF)


def test_a_capture_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabError):
        counters.pcap_bytes(tmp_path / "x", VF)
