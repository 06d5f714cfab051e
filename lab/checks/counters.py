"""Device-side counters, read from what a host or QEMU shows. All pure but :func:`pcap_bytes`, which reads a file.

Each returns a mapping with the names that :mod:`lab.checks.datapath` uses, so that they can be merged; a counter that
is not there is left out, and then counts as "could not look". The counters of vdpa_sim come from
:func:`lab.host.vdpa.vstats` under the driver's own names.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.errors import LabError

# Magic numbers of the pcap file format with microseconds and nanoseconds (pcap-savefile(5)), as they are read
# little-endian from files of either byte order.
_LITTLE = (0xA1B2C3D4, 0xA1B23C4D)
_BIG = (0xD4C3B2A1, 0x4D3CB2A1)
_FILE_HEADER = 24
_RECORD_HEADER = 16
_MAC_BYTES = 6


def irqs(text: str, prefix: str) -> dict[str, int]:
    """``irqs``: interrupts of all CPUs in /proc/interrupts whose action starts with ``prefix`` (``vp-vdpa[BDF]-``)."""
    counts = [_row_sum(line) for line in text.splitlines() if _has_action(line, prefix)]
    return {"irqs": sum(counts)} if counts else {}


def _has_action(line: str, prefix: str) -> bool:
    # Handlers that share a line are separated by ", ".
    return any(word.startswith(prefix) for word in line.split()[1:])


def _row_sum(line: str) -> int:
    total = 0
    for word in line.split()[1:]:
        if not word.isdecimal():
            break
        total += int(word)
    return total


def blockstats(answer: Sequence[Mapping[str, Any]], device: str) -> dict[str, int]:
    """``rd_bytes``, ``wr_bytes`` of a disk in the answer of QMP ``query-blockstats``.

    ``device`` is the id of the front end, the name of its drive, or of its block node.
    """
    for entry in answer:
        names = {entry.get("device"), entry.get("node-name"), *str(entry.get("qdev", "")).split("/")}
        if device in names:
            return {key: int(entry["stats"][key]) for key in ("rd_bytes", "wr_bytes")}
    return {}


def backend(path: Path, mac: str) -> dict[str, int]:
    """``backend_to``, ``backend_from``: bytes to and from ``mac`` at a net back end, from its headers-only capture."""
    counted = pcap_bytes(path, mac)
    return {"backend_to": counted["to"], "backend_from": counted["from"]}


def pcap_bytes(path: Path, mac: str) -> dict[str, int]:
    """Bytes ``to`` and ``from`` a MAC, and all ``frames``, in a capture of Ethernet frames; full lengths are counted.

    A record at the end that is not complete, because QEMU still writes, is left out. Raises LabError when the file
    cannot be read or is no capture.
    """
    address = bytes.fromhex(mac.replace(":", ""))
    counted = {"to": 0, "from": 0, "frames": 0}
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for target, source, length in _frames(data, path):
                counted["frames"] += 1
                counted["to"] += length if target == address else 0
                counted["from"] += length if source == address else 0
    except (OSError, ValueError) as error:
        raise LabError(f"{path}: cannot be read as a capture: {error}") from error
    return counted


def _frames(data: mmap.mmap, path: Path) -> Iterator[tuple[bytes, bytes, int]]:
    """Destination, source and full length of each complete frame."""
    (magic,) = struct.unpack_from("<I", data) if len(data) >= _FILE_HEADER else (0,)
    if magic not in (*_LITTLE, *_BIG):
        raise LabError(f"{path}: is no pcap file")
    # Time stamp in two words, captured length, full length.
    header = struct.Struct("<IIII" if magic in _LITTLE else ">IIII")
    offset = _FILE_HEADER
    while offset + _RECORD_HEADER <= len(data):
        _, _, captured, full = header.unpack_from(data, offset)
        offset += _RECORD_HEADER
        if offset + captured > len(data):
            return
        if captured >= 2 * _MAC_BYTES:
            yield data[offset : offset + _MAC_BYTES], data[offset + _MAC_BYTES : offset + 2 * _MAC_BYTES], full
        offset += captured
