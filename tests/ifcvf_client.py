"""The other side of the device model: a vfio-user client as QEMU is one, and a virtio driver as Linux has one.

Both run in one thread with the server: whoever waits for it lets its loop take a step (``pump``).
"""

from __future__ import annotations

import array
import contextlib
import json
import mmap
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.ifcvf import wire
from lab.ifcvf.config import parse
from lab.ifcvf.loop import Loop
from lab.ifcvf.offload import HEADER_SIZE
from lab.ifcvf.pci import NOTIFY, NOTIFY_MULTIPLIER
from lab.ifcvf.serve import server
from lab.ifcvf.transport import F_EVENT_IDX, F_VERSION_1
from lab.ifcvf.vf import Vf
from lab.ifcvf.wire import HEADER, Command, Flag, Irq, Region

PAGE = 4096
# The server answers within a step or two of its loop, or it never will.
PATIENCE_S = 2.0

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64
NEXT, WRITE, INDIRECT = 1, 2, 4

# Types of a block device's requests, and what they end with.
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, ERROR, UNSUPPORTED = 0, 1, 2

# The header of a frame without offloads.
NO_HEADER = bytes(HEADER_SIZE)


class Closed(Exception):
    """The server has ended the connection."""


class ErrorReply(Exception):
    """The server has answered with an error."""

    def __init__(self, number: int):
        super().__init__(os.strerror(number))
        self.errno = number


class Client:
    """One vfio-user connection."""

    def __init__(self, path: str, pump: Callable[[], None]):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(path)
        self.sock.setblocking(False)
        self.pump = pump
        self.requests: list[tuple[int, int, bytes]] = []  # what the server asked: id, command, body
        self._received = b""
        self._number = 0

    def close(self) -> None:
        self.sock.close()
        self.pump()

    def send(self, command: int, body: bytes = b"", *, flags: int = 0, fds: Sequence[int] = ()) -> int:
        """Send a message. Returns its id."""
        self._number = (self._number + 1) & 0xFFFF
        self.raw(HEADER.pack(self._number, command, HEADER.size + len(body), flags, 0) + body, fds)
        return self._number

    def raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.sock.sendmsg([data], control)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None
        assert sent == len(data)

    def receive(self) -> tuple[int, int, int, int, bytes] | None:
        """The next message, whole: id, command, flags, error, body; None when there is none now."""
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            data = b""
        except ConnectionResetError:
            raise Closed from None
        else:
            if not data:
                raise Closed
        self._received += data
        if len(self._received) < HEADER.size:
            return None
        number, command, size, flags, error = HEADER.unpack_from(self._received)
        if len(self._received) < size:
            return None
        body, self._received = self._received[HEADER.size : size], self._received[size:]
        return number, command, flags, error, body

    def call(self, command: int, body: bytes = b"", *, fds: Sequence[int] = ()) -> bytes:
        """Send a request and wait for its reply. Raises ErrorReply and Closed."""
        number = self.send(command, body, fds=fds)
        for _ in range(50):
            self.pump()
            while (message := self.receive()) is not None:
                got, kind, flags, error, answer = message
                if not flags & Flag.TYPE:
                    self.requests.append((got, kind, answer))
                    continue
                assert (got, kind) == (number, command)
                if flags & Flag.ERROR:
                    raise ErrorReply(error)
                return answer
        raise AssertionError(f"no reply to {Command(command).name}")

    def answer(self, number: int, command: int, body: bytes = b"", error: int = 0) -> None:
        flags = Flag.REPLY | (Flag.ERROR if error else 0)
        self.raw(HEADER.pack(number, command, HEADER.size + len(body), flags, error) + body)

    def version(self) -> dict[str, Any]:
        capabilities = {"capabilities": {"max_msg_fds": 16, "migration": {"pgsize": PAGE}, "write_multiple": True}}
        reply = self.call(Command.VERSION, struct.pack("<HH", 0, 0) + json.dumps(capabilities).encode() + b"\0")
        document: dict[str, Any] = json.loads(reply[4:].rstrip(b"\0"))
        return document

    def map(self, fd: int, offset: int, iova: int, size: int, flags: int = 3) -> None:
        self.call(Command.DMA_MAP, wire.DMA_MAP.pack(wire.DMA_MAP.size, flags, offset, iova, size), fds=[fd])

    def unmap(self, iova: int, size: int, flags: int = 0) -> None:
        self.call(Command.DMA_UNMAP, wire.DMA_UNMAP.pack(wire.DMA_UNMAP.size, flags, iova, size))

    def read(self, region: int, offset: int, count: int) -> bytes:
        reply = self.call(Command.REGION_READ, wire.ACCESS.pack(offset, region, count))
        return reply[wire.ACCESS.size :]

    def number(self, region: int, offset: int, count: int) -> int:
        return int.from_bytes(self.read(region, offset, count), "little")

    def write(self, region: int, offset: int, data: bytes, *, posted: bool = True) -> None:
        body = wire.ACCESS.pack(offset, region, len(data)) + data
        if posted:
            self.send(Command.REGION_WRITE, body, flags=Flag.NO_REPLY)
            self.pump()
        else:
            self.call(Command.REGION_WRITE, body)

    def set_irqs(self, start: int, fds: Sequence[int], *, index: int = Irq.MSIX, count: int | None = None) -> None:
        flags = wire.SET_EVENTFD | wire.SET_TRIGGER
        body = wire.IRQ_SET.pack(wire.IRQ_SET.size, flags, index, start, len(fds) if count is None else count)
        self.call(Command.SET_IRQS, body, fds=fds)


@dataclass
class Memory:
    """The guest's memory: one file, and where each of its pages is for the device.

    ``scattered``: neighbouring pages of the device's addresses are not neighbours in the file, as a nested guest's are.
    """

    size: int
    base: int = 0x1_0000_0000
    scattered: bool = False
    fd: int = field(init=False)
    next: int = field(init=False)

    def __post_init__(self) -> None:
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, self.size)
        self._map = mmap.mmap(self.fd, self.size)
        self.view = memoryview(self._map)
        self.next = self.base

    def close(self) -> None:
        self.view.release()
        self._map.close()
        os.close(self.fd)

    def give(self, client: Client) -> None:
        """Map all of it for the device."""
        if not self.scattered:
            client.map(self.fd, 0, self.base, self.size)
            return
        for at in range(0, self.size, PAGE):
            client.map(self.fd, self._offset(self.base + at), self.base + at, PAGE)

    def _offset(self, iova: int) -> int:
        at = iova - self.base
        return (at ^ PAGE) if self.scattered else at  # pairs of pages are swapped

    def allocate(self, size: int, align: int = 16) -> int:
        self.next = -(-self.next // align) * align
        iova = self.next
        self.next += size
        assert self.next <= self.base + self.size
        return iova

    def _pieces(self, iova: int, size: int) -> Iterator[tuple[int, int]]:
        while size:
            piece = min(size, PAGE - iova % PAGE)
            yield self._offset(iova), piece
            iova += piece
            size -= piece

    def read(self, iova: int, size: int) -> bytes:
        return b"".join(self._map[at : at + piece] for at, piece in self._pieces(iova, size))

    def write(self, iova: int, data: bytes) -> None:
        done = 0
        for at, piece in self._pieces(iova, len(data)):
            self._map[at : at + piece] = data[done : done + piece]
            done += piece

    def put(self, data: bytes) -> int:
        iova = self.allocate(len(data))
        self.write(iova, data)
        return iova


@dataclass
class Buffer:
    """What one head of the driver stands for."""

    writable: list[tuple[int, int]]
    descriptors: int


class DriverQueue:
    """A split virtqueue from the driver's side."""

    def __init__(self, memory: Memory, index: int, size: int, event_idx: bool):
        self.memory = memory
        self.index = index
        self.size = size
        self.event_idx = event_idx
        self.desc = memory.allocate(16 * size, PAGE)
        self.avail = memory.allocate(6 + 2 * size, 2)
        self.used = memory.allocate(6 + 8 * size, PAGE)
        self.free = list(range(size))
        self.buffers: dict[int, Buffer] = {}
        self.avail_idx = 0
        self.used_idx = 0

    def describe(self, iova: int, length: int, flags: int, following: int = 0) -> bytes:
        return struct.pack("<QIHH", iova, length, flags, following)

    def add(self, readable: Sequence[bytes] = (), writable: Sequence[int] = (), *, indirect: bool = False) -> int:
        """Make one buffer available: bytes to be read, and room to be written. Returns its head."""
        parts = [(self.memory.put(data), len(data), 0) for data in readable]
        room = [(self.memory.allocate(size), size) for size in writable]
        parts += [(iova, size, WRITE) for iova, size in room]
        if indirect:
            table = b"".join(
                self.describe(iova, size, flags | (NEXT if at + 1 < len(parts) else 0), at + 1)
                for at, (iova, size, flags) in enumerate(parts)
            )
            parts = [(self.memory.put(table), len(table), INDIRECT)]
        heads = [self.free.pop(0) for _ in parts]
        for at, (iova, size, flags) in enumerate(parts):
            following = heads[at + 1] if at + 1 < len(heads) else None
            word = flags | (NEXT if following is not None else 0)
            self.set_descriptor(heads[at], self.describe(iova, size, word, following or 0))
        self.buffers[heads[0]] = Buffer(room, len(parts))
        self.chains = {**getattr(self, "chains", {}), heads[0]: heads}
        self.expose(heads[0])
        return heads[0]

    def set_descriptor(self, at: int, descriptor: bytes) -> None:
        self.memory.write(self.desc + 16 * at, descriptor)

    def expose(self, head: int) -> None:
        self.memory.write(self.avail + 4 + 2 * (self.avail_idx % self.size), struct.pack("<H", head))
        self.avail_idx = (self.avail_idx + 1) & 0xFFFF
        self.memory.write(self.avail + 2, struct.pack("<H", self.avail_idx))

    def set_used_event(self, value: int) -> None:
        self.memory.write(self.avail + 4 + 2 * self.size, struct.pack("<H", value & 0xFFFF))

    @property
    def avail_event(self) -> int:
        value: int = struct.unpack("<H", self.memory.read(self.used + 4 + 8 * self.size, 2))[0]
        return value

    @property
    def used_flags(self) -> int:
        value: int = struct.unpack("<H", self.memory.read(self.used, 2))[0]
        return value

    def take(self) -> list[tuple[int, int, bytes]]:
        """What the device has used since the last call: head, length, and that much of what it wrote."""
        (new,) = struct.unpack("<H", self.memory.read(self.used + 2, 2))
        taken: list[tuple[int, int, bytes]] = []
        while self.used_idx != new and len(taken) < self.size:
            entry = self.memory.read(self.used + 4 + 8 * (self.used_idx % self.size), 8)
            head, length = struct.unpack("<II", entry)
            buffer = self.buffers.pop(head, None)
            data = b"".join(self.memory.read(*room) for room in buffer.writable) if buffer else b""
            self.free += self.chains.pop(head, [])
            taken.append((head, length, data[:length]))
            self.used_idx = (self.used_idx + 1) & 0xFFFF
        return taken


class Driver:
    """Brings a device up as virtio says; ``vdpa_order`` as ifcvf under vhost_vdpa does."""

    def __init__(self, client: Client, memory: Memory):
        self.client = client
        self.memory = memory
        self.queues: list[DriverQueue] = []
        self.eventfds: list[int] = []

    def common(self, offset: int, size: int) -> int:
        return self.client.number(Region.BAR0, offset, size)

    def set_common(self, offset: int, size: int, value: int) -> None:
        self.client.write(Region.BAR0, offset, value.to_bytes(size, "little"))

    @property
    def status(self) -> int:
        return self.common(0x14, 1)

    def set_status(self, value: int) -> None:
        self.set_common(0x14, 1, value)

    @property
    def offered(self) -> int:
        words = []
        for word in range(2):
            self.set_common(0x00, 4, word)
            words.append(self.common(0x04, 4))
        return words[0] | words[1] << 32

    def accept(self, features: int) -> None:
        for word in range(2):
            self.set_common(0x08, 4, word)
            self.set_common(0x0C, 4, features >> 32 * word & 0xFFFFFFFF)

    def start(
        self, features: int | None = None, *, size_of_queue: int = 64, numbers: Sequence[int] | None = None,
        vdpa_order: bool = False,
    ) -> None:  # fmt: skip
        """Reset, negotiate (everything by default), set up vectors and queues, and go."""
        self.set_status(0)
        assert self.status == 0
        self.set_status(ACKNOWLEDGE | DRIVER)
        features = self.offered if features is None else features | F_VERSION_1
        self.accept(features)
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
        assert self.status & FEATURES_OK
        numbers = range(self.common(0x12, 2)) if numbers is None else numbers
        self.arm(len(numbers) + 1)
        self.set_common(0x10, 2, len(numbers))
        self.queues = [
            DriverQueue(self.memory, index, size_of_queue, bool(features & F_EVENT_IDX)) for index in numbers
        ]
        if vdpa_order:
            for queue in self.queues:
                self.kick(queue)
            self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        for at, queue in enumerate(self.queues):
            self.place(queue, vector=at)
        if not vdpa_order:
            self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

    def place(self, queue: DriverQueue, vector: int, *, enable: bool = True) -> None:
        self.set_common(0x16, 2, queue.index)
        self.set_common(0x18, 2, queue.size)
        self.set_common(0x1A, 2, vector)
        for offset, iova in ((0x20, queue.desc), (0x28, queue.avail), (0x30, queue.used)):
            self.set_common(offset, 4, iova & 0xFFFFFFFF)
            self.set_common(offset + 4, 4, iova >> 32)
        if enable:
            self.set_common(0x1C, 2, 1)

    def arm(self, vectors: int) -> None:
        for fd in self.eventfds:
            os.close(fd)
        self.eventfds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(vectors)]
        for first in range(0, vectors, 8):
            self.client.set_irqs(first, self.eventfds[first : first + 8])

    def kick(self, queue: DriverQueue) -> None:
        place = NOTIFY + NOTIFY_MULTIPLIER * queue.index
        self.client.write(Region.BAR0, place, queue.index.to_bytes(2, "little"))

    def interrupts(self, vector: int) -> int:
        try:
            return os.eventfd_read(self.eventfds[vector])
        except BlockingIOError:
            return 0

    def close(self) -> None:
        for fd in self.eventfds:
            os.close(fd)


@dataclass
class Bench:
    """A server in this process, and what a test needs of it."""

    loop: Loop
    vfs: dict[str, Vf]
    folder: Path
    stack: contextlib.ExitStack

    def pump(self) -> None:
        """Let the server do what there is to do."""
        for _ in range(3):
            self.loop.step(0)

    def wait(self, condition: Callable[[], object]) -> None:
        """Let the server run until it is so."""
        for _ in range(1000):
            if condition():
                return
            self.loop.step(PATIENCE_S / 1000)
        raise AssertionError("it never became so")

    def client(self, name: str, *, version: bool = True) -> Client:
        client = Client(self.vfs[name].config.socket, self.pump)
        self.stack.callback(client.sock.close)
        if version:
            client.version()
        return client

    def driver(self, name: str, *, size: int = 1 << 22, scattered: bool = False, **start: Any) -> Driver:
        """A driver that is up, with its own memory."""
        memory = Memory(size, scattered=scattered)
        self.stack.callback(memory.close)
        client = self.client(name)
        memory.give(client)
        driver = Driver(client, memory)
        self.stack.callback(driver.close)
        driver.start(**start)
        return driver


@contextlib.contextmanager
def bench(folder: Path, *vfs: dict[str, Any], control: bool = False) -> Iterator[Bench]:
    """A server with these VFs; sockets are in ``folder``, and a network VF is on a switch unless it says otherwise."""
    with contextlib.ExitStack() as stack:
        loop = Loop()
        stack.callback(loop.close)
        entries = [{**DEFAULTS[entry.get("model", "n3000-net")], **entry} for entry in vfs]
        for entry in entries:
            entry.setdefault("socket", str(folder / f"{entry['name']}.sock"))
        document: dict[str, Any] = {"vfs": entries}
        if control:
            document["control"] = str(folder / "control.sock")
        made = stack.enter_context(server(parse(json.dumps(document)), loop))
        yield Bench(loop, made, folder, stack.enter_context(contextlib.ExitStack()))


_NET = {"mac": "52:54:00:00:00:01", "backend": {"kind": "switch", "name": "s0"}}
DEFAULTS: dict[str, dict[str, Any]] = {
    "n3000-net": {"model": "n3000-net", **_NET},
    "c5000x-net": {"model": "c5000x-net", **_NET},
    "c5000x-blk": {"model": "c5000x-blk", "backend": {"kind": "memory", "size": 1 << 20}},
}
VF0 = {"name": "vf0", "mac": "52:54:00:00:00:01"}
VF1 = {"name": "vf1", "mac": "52:54:00:00:00:02", "model": "c5000x-net"}
DISK = {"name": "disk0", "model": "c5000x-blk"}
MACS = {"vf0": bytes.fromhex("525400000001"), "vf1": bytes.fromhex("525400000002")}


def wait_readable(sock: socket.socket) -> Callable[[], None]:
    """A pump for a server in another process: wait until it says something."""
    return lambda: select.select([sock], [], [], PATIENCE_S) and None


def frame(target: bytes, source: bytes, payload: bytes, kind: bytes = b"\x88\xb5") -> bytes:
    """An Ethernet frame, of a type for experiments."""
    return target + source + kind + payload


def fill(driver: Driver, number: int = 20, size: int = 2048, queue: int = 0) -> None:
    for _ in range(number):
        driver.queues[queue].add(writable=[size])
    driver.kick(driver.queues[queue])


def send(driver: Driver, *frames: bytes, header: bytes = NO_HEADER, queue: int = 1) -> None:
    for one in frames:
        driver.queues[queue].add([header, one])
    driver.kick(driver.queues[queue])
    driver.queues[queue].take()


def received(driver: Driver, queue: int = 0) -> list[bytes]:
    """Frames as the driver puts them together, with the header of each."""
    buffers = driver.queues[queue].take()
    frames = []
    while buffers:
        (number,) = struct.unpack_from("<H", buffers[0][2], 10)
        frames.append(b"".join(data for _, _, data in buffers[:number]))
        del buffers[:number]
    return frames


def request(
    driver: Driver, kind: int, sector: int = 0, out: bytes = b"", room: int = 0, queue: int = 0, pieces: int = 1
) -> tuple[int, bytes]:
    """Do one request. Returns its status and what was read; the used length has been checked."""
    ring = driver.queues[queue]
    step = max(1, -(-len(out) // pieces))
    parts = [out[at : at + step] for at in range(0, len(out), step)]
    ring.add([struct.pack("<IIQ", kind, 0, sector), *parts], [*([room] if room else []), 1])
    driver.kick(ring)
    ((_head, length, data),) = ring.take()
    status = data[-1]
    assert length == room + 1
    return status, data[:-1]


def capabilities(space: bytes) -> dict[str, tuple[int, ...]]:
    """As ifcvf_init_hw() walks them: by name the BAR, offset and length."""
    found: dict[str, tuple[int, ...]] = {}
    at = space[0x34]
    for _ in range(48):
        if not at:
            return found
        identifier, following = space[at], space[at + 1]
        if identifier == 0x09:
            kind, bar = space[at + 3], space[at + 4]
            offset, length = struct.unpack_from("<II", space, at + 8)
            found[("", "common", "notify", "isr", "device")[kind]] = (bar, offset, length)
            if kind == 2:
                found["multiplier"] = struct.unpack_from("<I", space, at + 16)
        elif identifier == 0x11:
            found["msix"] = struct.unpack_from("<HII", space, at + 2)
        elif identifier == 0x10:
            found["express"] = struct.unpack_from("<HI", space, at + 2)
        at = following
    raise AssertionError("the list of capabilities has no end")
