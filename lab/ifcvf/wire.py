"""The vfio-user protocol as its server sees it: messages, the file descriptors that come with them, limits.

Sources: ``docs/interop/vfio-user.rst`` of QEMU; where that text is older than the code, ``hw/vfio-user/protocol.h``
(RESET is 13, WRITE_MULTI is 15). Numbers of VFIO are those of ``include/uapi/linux/vfio.h``.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
import struct
from collections.abc import Callable
from enum import IntEnum, IntFlag

HEADER = struct.Struct("<HHIII")  # id, command, size with the header, flags, error

MAX_MESSAGE = 16384
MAX_FDS = 16
# A bulk read of the whole configuration space is the longest transfer there is.
MAX_TRANSFER = 8192
MAX_UNSENT = 1 << 20
_RECEIVE = 65536
_CONTROL = socket.CMSG_SPACE(MAX_FDS * 4)


class Command(IntEnum):
    """Commands, by either side."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    GET_INFO = 4
    GET_REGION_INFO = 5
    GET_REGION_IO_FDS = 6
    GET_IRQ_INFO = 7
    SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    RESET = 13
    DIRTY_PAGES = 14
    WRITE_MULTI = 15


class Flag(IntFlag):
    """Flags of a header. The type is the low four bits: 0 is a request."""

    REPLY = 0x1
    TYPE = 0xF
    NO_REPLY = 0x10
    ERROR = 0x20


class Region(IntEnum):
    """Indices of regions: BARs 0 to 5 come first."""

    BAR0 = 0
    BAR2 = 2
    BAR4 = 4
    ROM = 6
    CONFIG = 7
    VGA = 8


class Irq(IntEnum):
    """Indices of interrupts."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


DMA_MAP = struct.Struct("<IIQQQ")  # argsz, flags, offset in the file, iova, size
DMA_UNMAP = struct.Struct("<IIQQ")  # argsz, flags, iova, size
DMA_READABLE, DMA_WRITABLE = 1, 2
DMA_UNMAP_ALL = 2
DEVICE_INFO = struct.Struct("<IIII")  # argsz, flags, regions, irqs
DEVICE_RESETS, DEVICE_IS_PCI = 1, 2
REGION_INFO = struct.Struct("<IIIIQQ")  # argsz, flags, index, offset of capabilities, size, offset
IRQ_INFO = struct.Struct("<IIII")  # argsz, flags, index, count
IRQ_EVENTFD = 1
IRQ_SET = struct.Struct("<IIIII")  # argsz, flags, index, start, count
SET_NONE, SET_BOOL, SET_EVENTFD, SET_TRIGGER = 1, 2, 4, 32
ACCESS = struct.Struct("<QII")  # offset, region, count; data follows
MULTI_COUNT = struct.Struct("<Q")
MULTI_WRITE = struct.Struct("<QII8s")
DMA_ACCESS = struct.Struct("<QI")  # address, count; data follows

CAPABILITIES = {
    "capabilities": {
        "max_msg_fds": MAX_FDS,
        "max_data_xfer_size": MAX_TRANSFER,
        "pgsizes": 4096,
        "max_dma_maps": 65535,
        "write_multiple": True,
    }
}


class ProtocolError(Exception):
    """The client broke the protocol so that nothing after it can be trusted: the connection ends."""


class Gone(ProtocolError):
    """There is no client any more to send to, which is nobody's fault."""


class Refused(Exception):
    """A well-formed request that cannot be served. ``errno`` is what the client is told."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.errno = number


Handler = Callable[[int, int, int, bytes, "list[int]"], None]


class Connection:
    """One client. Messages go to a handler with the descriptors that came with them.

    ``handler(id, command, flags, body, fds)`` takes what it keeps out of ``fds``; the rest is closed after it.
    """

    def __init__(self, sock: socket.socket, want_write: Callable[[bool], None]):
        sock.setblocking(False)
        self.sock = sock
        self._want_write = want_write
        self._data = b""
        self._fds: list[int] = []
        self._unsent = bytearray()

    def close(self) -> None:
        """End the connection and close descriptors that no message has taken."""
        self._close_fds()
        self.sock.close()

    def receive(self, handler: Handler) -> bool:
        """Take what has arrived, once. Returns False when the client has gone.

        Raises ProtocolError for what is no message, for too many descriptors, and for a message that is too long.
        """
        try:
            data, control, flags, _address = self.sock.recvmsg(_RECEIVE, _CONTROL, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if control:
            self._take_fds(control)
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError(f"more than {MAX_FDS} file descriptors in a message")
        if not data:
            return False
        self._dispatch(self._data + data if self._data else data, handler)
        return True

    def _take_fds(self, control: list[tuple[int, int, bytes]]) -> None:
        unclaimed = bool(self._fds)
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self._fds.extend(fds)
        if unclaimed:
            raise ProtocolError("file descriptors came twice for one message")

    def _dispatch(self, data: bytes, handler: Handler) -> None:
        """Hand over whole messages. Descriptors belong to the last message of a read, whole or not."""
        begin, end = 0, len(data)
        while end - begin >= HEADER.size:
            number, command, size, flags, _error = HEADER.unpack_from(data, begin)
            if not HEADER.size <= size <= MAX_MESSAGE:
                raise ProtocolError(f"a message of {size} bytes")
            if end - begin < size:
                break
            body = data[begin + HEADER.size : begin + size]
            begin += size
            if self._fds and begin == end:
                self._handle_with_fds(handler, number, command, flags, body)
            else:
                handler(number, command, flags, body, [])
        self._data = data[begin:]

    def _handle_with_fds(self, handler: Handler, number: int, command: int, flags: int, body: bytes) -> None:
        try:
            handler(number, command, flags, body, self._fds)
        finally:
            self._close_fds()

    def _close_fds(self) -> None:
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds = []

    def send(self, number: int, command: int, flags: int, body: bytes = b"", error: int = 0) -> None:
        """Queue one message and send what the socket takes. A client that does not read is a ProtocolError."""
        message = HEADER.pack(number, command, HEADER.size + len(body), flags, error) + body
        if self._unsent:
            if len(self._unsent) + len(message) > MAX_UNSENT:
                raise ProtocolError("the client does not read its replies")
            self._unsent += message
            return
        sent = self._try(message)
        if sent < len(message):
            self._unsent += message[sent:]
            self._want_write(True)

    def flush(self) -> None:
        """The socket takes data again."""
        del self._unsent[: self._try(self._unsent)]
        if not self._unsent:
            self._want_write(False)

    def _try(self, data: bytes | bytearray) -> int:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Gone(f"the client has gone: {error.strerror}") from None


def parse_version(body: bytes) -> None:
    """Check a VERSION request. Raises ProtocolError when it is none, or for another major version."""
    if len(body) < 4:
        raise ProtocolError("VERSION is too short")
    major, _minor = struct.unpack_from("<HH", body)
    if major != 0:
        raise ProtocolError(f"protocol version {major} is not known")
    text = body[4:].rstrip(b"\0")
    try:
        document = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        raise ProtocolError("VERSION has no JSON") from None
    if not isinstance(document, dict):
        raise ProtocolError("VERSION has no JSON object")


def version_reply() -> bytes:
    """What the server can: version 0.0 and its limits."""
    return struct.pack("<HH", 0, 0) + json.dumps(CAPABILITIES).encode() + b"\0"


def unpack(layout: struct.Struct, body: bytes) -> tuple[int, ...]:
    """The fields at the beginning of a body. Raises Refused when it is too short for them."""
    if len(body) < layout.size:
        raise Refused(errno.EINVAL, f"a body of {len(body)} bytes instead of {layout.size}")
    return layout.unpack_from(body)
