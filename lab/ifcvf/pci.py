"""The PCI function: ids, configuration space, capabilities, MSI-X.

Sources: PCI Local Bus 3.0 and PCI Express Base for the registers; virtio 1.2, section 4.1.4 for virtio's capabilities;
``drivers/vdpa/ifcvf`` for what the driver wants: BARs 0, 2 and 4, all of them there, and its state of live migration at
the beginning of BAR 4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

CONFIG_SIZE = 4096

# BAR 0, one page for each structure of virtio, and one for each queue's doorbell, which a guest can then map.
COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
STRUCTURE_SIZE = 0x1000
NOTIFY_MULTIPLIER = 0x1000
MAX_QUEUES = 17
BAR_SIZES = {0: 0x20000, 2: 0x1000, 4: 0x1000}
# BAR 2
MSIX_TABLE, MSIX_PENDING = 0x000, 0x800
MAX_VECTORS = 64

_COMMAND, _STATUS, _CAPABILITY_LIST, _INTERRUPT_LINE = 0x04, 0x06, 0x34, 0x3C
_BAR0 = 0x10
_STATUS_CAPABILITIES = 0x10
_COMMAND_WRITABLE = 0x0546  # memory, master, parity, SERR, INTx disable
_BAR_64BIT_PREFETCH = 0xC
_CAP_NONE, _CAP_VENDOR, _CAP_EXPRESS, _CAP_MSIX = 0x00, 0x09, 0x10, 0x11
_EXPRESS_ENDPOINT_V2 = 0x0002
_DEVCAP_FLR = 1 << 28
_DEVCTL_FLR = 1 << 15
_LINK = 0x11  # 2.5 GT/s, one lane
_MSIX_ENABLE, _MSIX_MASK_ALL = 0x8000, 0x4000
_VECTOR_MASKED = 1


@dataclass(frozen=True)
class Identity:
    """What a driver's id table matches on, and the class code."""

    vendor: int
    device: int
    subsystem_vendor: int
    subsystem: int
    class_code: int


class Model(Enum):
    """The cards of ifcvf's id table (``drivers/vdpa/ifcvf/ifcvf_main.c``)."""

    N3000_NET = "n3000-net"
    C5000X_NET = "c5000x-net"
    C5000X_BLK = "c5000x-blk"

    @property
    def identity(self) -> Identity:
        """Its ids."""
        return _IDENTITIES[self]


_IDENTITIES = {
    Model.N3000_NET: Identity(0x1AF4, 0x1041, 0x8086, 0x001A, 0x020000),
    Model.C5000X_NET: Identity(0x1AF4, 0x1000, 0x8086, 0x0001, 0x020000),
    Model.C5000X_BLK: Identity(0x1AF4, 0x1001, 0x8086, 0x0002, 0x010000),
}


class Function:
    """Configuration space, and MSI-X when the device itself has it.

    ``own_msix``: QEMU sees no MSI-X capability when it reads the whole space to build its own device, and the guest,
    which reads four bytes or fewer, does. Vectors are then messages that the device writes to memory, as a card does
    (``docs/ifcvf.md``). Otherwise MSI-X is QEMU's work and this only says where the table lies.
    """

    def __init__(
        self, identity: Identity, config_length: int, vectors: int, *, own_msix: bool, reset: Callable[[], None]
    ):
        self.own_msix = own_msix
        self._reset = reset
        self.space = bytearray(CONFIG_SIZE)
        self._writable = bytearray(CONFIG_SIZE)
        self._put_header(identity)
        self._msix = 0
        self._express = 0
        self._next = 0x40
        self._link = _CAPABILITY_LIST
        self._put_capabilities(config_length, vectors)

    def _put_header(self, identity: Identity) -> None:
        code = identity.class_code
        struct.pack_into("<HHHH", self.space, 0, identity.vendor, identity.device, 0, _STATUS_CAPABILITIES)
        struct.pack_into("<BBBB", self.space, 8, 1, code & 0xFF, code >> 8 & 0xFF, code >> 16)
        struct.pack_into("<HH", self.space, 0x2C, identity.subsystem_vendor, identity.subsystem)
        struct.pack_into("<H", self._writable, _COMMAND, _COMMAND_WRITABLE)
        self._writable[_INTERRUPT_LINE] = 0xFF
        for bar, size in BAR_SIZES.items():
            at = _BAR0 + 4 * bar
            struct.pack_into("<Q", self.space, at, _BAR_64BIT_PREFETCH)
            struct.pack_into("<Q", self._writable, at, ~(size - 1) & 0xFFFFFFFFFFFFFFFF)

    def _put_capabilities(self, config_length: int, vectors: int) -> None:
        self._express = self._add(_CAP_EXPRESS, _express())
        for kind, offset, length in (
            (1, COMMON, 0x38 + 8),
            (2, NOTIFY, MAX_QUEUES * NOTIFY_MULTIPLIER),
            (3, ISR, 4),
            (4, DEVICE, config_length),
        ):
            self._add(_CAP_VENDOR, _virtio(kind, offset, length))
        self._msix = self._add(_CAP_MSIX, struct.pack("<HII", vectors - 1, MSIX_TABLE | 2, MSIX_PENDING | 2))
        struct.pack_into("<H", self._writable, self._msix + 2, _MSIX_ENABLE | _MSIX_MASK_ALL)
        struct.pack_into("<H", self._writable, self._express + 8, 0x7FFF)

    def _add(self, identifier: int, body: bytes) -> int:
        at = self._next
        self.space[self._link] = at
        self.space[at] = identifier
        self.space[at + 2 : at + 2 + len(body)] = body
        self._link = at + 1
        self._next = (at + 2 + len(body) + 3) & ~3
        return at

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of configuration space; the caller has checked that they are in it."""
        data = bytes(self.space[offset : offset + count])
        if self.own_msix and count > 4 and offset <= self._msix < offset + count:
            at = self._msix - offset
            data = data[:at] + bytes([_CAP_NONE]) + data[at + 1 :]
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Write what is writable of it. Function-level reset happens here."""
        for at, value in enumerate(data, offset):
            mask = self._writable[at]
            self.space[at] = self.space[at] & ~mask | value & mask
        control = self._express + 9
        if offset <= control < offset + len(data) and data[control - offset] & _DEVCTL_FLR >> 8:
            self.clear()
            self._reset()

    def clear(self) -> None:
        """What a reset does to it."""
        for at in (_COMMAND, _COMMAND + 1, self._msix + 3):
            self.space[at] &= ~self._writable[at]

    @property
    def msix_enabled(self) -> bool:
        """Whether the guest has enabled MSI-X."""
        return bool(self._msix_control & _MSIX_ENABLE)

    @property
    def msix_masked(self) -> bool:
        """Whether the guest has masked all vectors at once."""
        return bool(self._msix_control & _MSIX_MASK_ALL)

    @property
    def _msix_control(self) -> int:
        return self.space[self._msix + 2] | self.space[self._msix + 3] << 8


def _virtio(kind: int, offset: int, length: int) -> bytes:
    """A capability of virtio without its first two bytes; NOTIFY's says how far doorbells are apart."""
    body = struct.pack("<BBBBBBII", 16 if kind != 2 else 20, kind, 0, 0, 0, 0, offset, length)
    return body + (struct.pack("<I", NOTIFY_MULTIPLIER) if kind == 2 else b"")


def _express() -> bytes:
    """A PCI Express endpoint that can be reset by function."""
    body = bytearray(0x3C - 2)
    struct.pack_into("<HI", body, 0, _EXPRESS_ENDPOINT_V2, _DEVCAP_FLR)
    struct.pack_into("<I", body, 10, _LINK)
    struct.pack_into("<H", body, 16, _LINK)
    return bytes(body)


class MsixTable:
    """The MSI-X table and pending bits in BAR 2, for a device that sends its own messages."""

    def __init__(self, function: Function, vectors: int, send: Callable[[int, int], None]):
        self._function = function
        self._send = send
        self.vectors = vectors
        self._table = bytearray(16 * vectors)
        self._pending: set[int] = set()
        self.clear()

    def clear(self) -> None:
        """Every vector is masked, none is pending."""
        self._table[:] = struct.pack("<QII", 0, 0, _VECTOR_MASKED) * self.vectors
        self._pending.clear()

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of BAR 2."""
        if offset >= MSIX_PENDING:
            bits = sum(1 << vector for vector in self._pending).to_bytes(8, "little")
            return (bits + bytes(count))[offset - MSIX_PENDING :][:count].ljust(count, b"\0")
        return bytes(self._table[offset : offset + count]).ljust(count, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Write to the table; nothing else of BAR 2 is writable."""
        room = len(self._table) - offset
        if room > 0:
            self._table[offset : offset + min(len(data), room)] = data[:room]
            self.deliver()

    def raise_vector(self, vector: int) -> None:
        """Send the vector's message, now or when it is unmasked."""
        if vector < self.vectors:
            self._pending.add(vector)
            self.deliver()

    def deliver(self) -> None:
        """Send what is pending and not masked any more."""
        if not self._pending or not self._function.msix_enabled or self._function.msix_masked:
            return
        for vector in sorted(self._pending):
            address, data, control = struct.unpack_from("<QII", self._table, 16 * vector)
            if not control & _VECTOR_MASKED:
                self._pending.discard(vector)
                self._send(address, data)

    @property
    def armed(self) -> int:
        """How many vectors the guest has set up."""
        if not self._function.msix_enabled:
            return 0
        return sum(
            not struct.unpack_from("<I", self._table, 16 * v + 12)[0] & _VECTOR_MASKED for v in range(self.vectors)
        )
