"""The block device: virtio 1.2, section 5.2."""

from __future__ import annotations

import struct

from lab.ifcvf.disk import SECTOR, Disk
from lab.ifcvf.faults import Faults
from lab.ifcvf.ring import Chain, Queue, RingError
from lab.ifcvf.transport import RING_FEATURES

F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH, F_MQ = 1 << 2, 1 << 5, 1 << 6, 1 << 9, 1 << 12
F_DISCARD, F_WRITE_ZEROES = 1 << 13, 1 << 14
BLK_FEATURES = (F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH, F_MQ, F_DISCARD, F_WRITE_ZEROES)

# struct virtio_blk_config, as far as the features above reach: capacity, size_max, seg_max, geometry, blk_size,
# topology, wce, num_queues; limits of discard (sectors, segments, alignment) and of write zeroes (sectors, segments,
# may unmap).
CONFIG = struct.Struct("<QIIHBBIBBHIBBHIIIIIB3x")
_REQUEST = struct.Struct("<IIQ")
_RANGE = struct.Struct("<QII")

_IN, _OUT, _FLUSH, _GET_ID, _DISCARD, _WRITE_ZEROES = 0, 1, 4, 8, 11, 13
_STATUS_OK, _STATUS_ERROR, _STATUS_UNSUPPORTED = 0, 1, 2
_ID_SIZE = 20
_UNMAP = 1

MAX_SEGMENTS = 16
MAX_DISCARD_SECTORS = 1 << 17
MAX_REQUEST = 16 << 20
# Requests a queue may have served before the others have a turn.
BUDGET = 128


class _Failed(Exception):
    """A request that ends with this status."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


class BlkDevice:
    """A block device on a disk."""

    def __init__(self, disk: Disk, serial: bytes, queues: int, queue_size: int, features: int, faults: Faults):
        self.disk = disk
        self.serial = serial
        self.queues = queues
        self.seg_max = min(126, queue_size - 2)
        self.features = features
        self.faults = faults
        self.reads = self.read_bytes = self.writes = self.written_bytes = self.flushes = self.errors = 0
        self.discards = self.discarded_bytes = self.write_zeroes = self.zeroed_bytes = 0

    @staticmethod
    def all_features(queues: int, read_only: bool) -> int:
        """Everything that a device with so many queues can offer."""
        offered = RING_FEATURES
        for feature in BLK_FEATURES:
            offered |= feature
        if queues == 1:
            offered &= ~F_MQ
        return offered & ~(F_DISCARD | F_WRITE_ZEROES) if read_only else offered & ~F_RO

    def reset(self) -> None:
        """The driver has set nothing that would have to be forgotten."""

    def accept(self, negotiated: int) -> None:
        """Nothing depends on the features: what was not negotiated is not asked for."""

    def config(self) -> bytes:
        """``struct virtio_blk_config``."""
        limits = (MAX_DISCARD_SECTORS, MAX_SEGMENTS, 8, MAX_DISCARD_SECTORS, MAX_SEGMENTS, 1)
        return CONFIG.pack(
            *(self.disk.size // SECTOR, 0, self.seg_max, 0, 0, 0, SECTOR, 0, 0, 0, 0, 0, 0, self.queues), *limits
        )

    def write_config(self, offset: int, data: bytes) -> None:
        """Nothing of it is writable: the write cache is always on."""

    def serve(self, queue: Queue) -> bool:
        """Requests may be waiting. Returns True when there were more than fit one turn. Raises RingError, DmaFault."""
        try:
            return queue.serve(self._request, BUDGET)
        finally:
            queue.publish()

    def _request(self, chain: Chain) -> int:
        """Do one request. Returns the used length: up to the status, which is the last byte that can be written."""
        if not chain.writable:
            raise RingError("a request without room for its status")
        last = chain.writable[-1]
        data_in = [*chain.writable[:-1], last[:-1]] if len(last) > 1 else chain.writable[:-1]
        try:
            self._do(chain.readable, data_in)
            status = _STATUS_OK
        except _Failed as failure:
            status = failure.status
        except OSError:
            status = _STATUS_ERROR
        if status == _STATUS_ERROR:
            self.errors += 1
        last[-1:] = bytes([status])
        return sum(map(len, chain.writable))

    def _do(self, readable: list[memoryview], data_in: list[memoryview]) -> None:
        header, data_out = _split(readable, _REQUEST.size)
        kind, _reserved, sector = _REQUEST.unpack(header)
        if kind == _IN:
            self._read(sector, data_in)
        elif kind == _OUT:
            self._write(sector, data_out)
        elif kind == _FLUSH:
            self.disk.flush()
            self.flushes += 1
        elif kind == _GET_ID:
            self._identify(data_in)
        elif kind in (_DISCARD, _WRITE_ZEROES):
            self._ranges(kind, data_out)
        else:
            raise _Failed(_STATUS_UNSUPPORTED)

    def _place(self, sector: int, length: int) -> int:
        """Where a request is on the disk. Raises _Failed when it is not on it, or longer than any may be."""
        offset = sector * SECTOR
        if length % SECTOR or length > MAX_REQUEST or offset + length > self.disk.size:
            raise _Failed(_STATUS_ERROR)
        return offset

    def _read(self, sector: int, buffers: list[memoryview]) -> None:
        length = sum(map(len, buffers))
        self.disk.read(self._place(sector, length), buffers)
        if self.faults.corrupt_every:
            self._corrupt(buffers, length)
        self.reads += 1
        self.read_bytes += length

    def _corrupt(self, buffers: list[memoryview], length: int) -> None:
        at = self.faults.corrupted(length)
        for buffer in buffers:
            if at is None:
                return
            if at < len(buffer):
                buffer[at] ^= 0xFF
                return
            at -= len(buffer)

    def _write(self, sector: int, buffers: list[memoryview]) -> None:
        length = sum(map(len, buffers))
        offset = self._place(sector, length)
        if self.disk.read_only:
            raise _Failed(_STATUS_ERROR)
        self.disk.write(offset, buffers)
        self.writes += 1
        self.written_bytes += length

    def _identify(self, buffers: list[memoryview]) -> None:
        answer = self.serial.ljust(_ID_SIZE, b"\0")
        for buffer in buffers:
            part = answer[: len(buffer)]
            buffer[: len(part)] = part
            answer = answer[len(part) :]

    def _ranges(self, kind: int, buffers: list[memoryview]) -> None:
        length = sum(map(len, buffers))
        if length == 0 or length % _RANGE.size or length > _RANGE.size * MAX_SEGMENTS:
            raise _Failed(_STATUS_ERROR)
        if self.disk.read_only:
            raise _Failed(_STATUS_ERROR)
        ranges = [(sector, count, flags) for sector, count, flags in _RANGE.iter_unpack(b"".join(buffers))]
        for sector, count, flags in ranges:
            bad = flags & ~_UNMAP or (kind == _DISCARD and flags)
            if bad:
                raise _Failed(_STATUS_UNSUPPORTED)
            if count > MAX_DISCARD_SECTORS or (sector + count) * SECTOR > self.disk.size:
                raise _Failed(_STATUS_ERROR)
        for sector, count, flags in ranges:
            if kind == _DISCARD:
                self.disk.discard(sector * SECTOR, count * SECTOR)
                self.discards += 1
                self.discarded_bytes += count * SECTOR
            else:
                self.disk.zero(sector * SECTOR, count * SECTOR, bool(flags & _UNMAP))
                self.write_zeroes += 1
                self.zeroed_bytes += count * SECTOR


def _split(buffers: list[memoryview], length: int) -> tuple[bytes, list[memoryview]]:
    """The first bytes of what was read, and the rest. Raises RingError when there are not so many."""
    first = buffers[0] if buffers else memoryview(b"")
    if len(first) == length:
        return bytes(first), buffers[1:]
    head = b""
    rest = list(buffers)
    while len(head) < length:
        if not rest:
            raise RingError(f"a request of {len(head)} bytes")
        part = rest.pop(0)
        missing = length - len(head)
        head += bytes(part[:missing])
        if len(part) > missing:
            rest.insert(0, part[missing:])
    return head, rest
