"""One VF: its vfio-user socket, the QEMU that is connected to it, and the device behind.

What a client does wrong is answered with an error where the protocol has one, or ends its connection. The VF is then in
its reset state, without memory, and can be connected to again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from lab.ifcvf import wire
from lab.ifcvf.blk import BlkDevice
from lab.ifcvf.config import VfConfig
from lab.ifcvf.dma import DmaMap
from lab.ifcvf.faults import Faults
from lab.ifcvf.loop import Loop, Timer
from lab.ifcvf.net import NetDevice
from lab.ifcvf.pci import BAR_SIZES, CONFIG_SIZE, Function, MsixTable
from lab.ifcvf.ring import Queue
from lab.ifcvf.transport import Transport
from lab.ifcvf.wire import Command, Connection, Flag, Gone, Irq, ProtocolError, Refused, Region

_REGION_SIZES = {**BAR_SIZES, int(Region.CONFIG): CONFIG_SIZE}
# As plain numbers: an operation on an IntFlag costs as much as a packet.
_BAR0, _BAR4, _CONFIG = int(Region.BAR0), int(Region.BAR4), int(Region.CONFIG)
_TYPE, _NO_REPLY, _VERSION = int(Flag.TYPE), int(Flag.NO_REPLY), int(Command.VERSION)
_REPLY, _ERROR_REPLY = int(Flag.REPLY), int(Flag.REPLY | Flag.ERROR)
_REGIONS, _IRQS = 9, 5
_READ_WRITE = 3
_KEPT_EVENTS = 256
# Replies of QEMU to DMA by the device that are still to come.
_MAX_OUTSTANDING = 64

_NET_COUNTERS = ("tx_packets", "tx_bytes", "tx_dropped", "rx_packets", "rx_bytes", "rx_dropped")
_BLK_COUNTERS = (
    *("reads", "read_bytes", "writes", "written_bytes", "flushes", "discards", "discarded_bytes"),
    *("write_zeroes", "zeroed_bytes", "errors"),
)
_TRANSPORT_COUNTERS = ("kicks", "interrupts", "resets", "ring_errors", "dma_refused")


class Vf:
    """A VF and its socket."""

    def __init__(self, config: VfConfig, loop: Loop, device: NetDevice | BlkDevice, faults: Faults):
        self.config = config
        self.device = device
        self.faults = faults
        self.connections = self.messages = self.dma_maps = self.dma_unmaps = 0
        self._loop = loop
        self._dma = DmaMap()
        self._events: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVENTS)
        self._sequence = 0
        self._connection: Connection | None = None
        self._versioned = False
        self._eventfds: list[int] = []
        self._timers: dict[str, Timer] = {}
        self._late: set[Queue] = set()
        self._requests: dict[int, str] = {}
        self._next_request = 0
        queues = 2 * config.pairs + 1 if config.is_net else config.queues
        self.vectors = config.vectors or queues + 1
        self.transport = Transport(
            device, queues, config.queue_size, self.vectors, self._dma, faults, self._signal, self.note, loop.soon
        )
        self._plug()
        self._handlers: dict[int, Callable[[bytes], bytes]] = {
            Command.VERSION: self._version,
            Command.DMA_UNMAP: self._unmap,
            Command.GET_INFO: self._info,
            Command.GET_REGION_INFO: self._region_info,
            Command.GET_IRQ_INFO: self._irq_info,
            Command.REGION_READ: self._region_read,
            Command.REGION_WRITE: self._region_write,
            Command.WRITE_MULTI: self._write_multi,
            Command.RESET: self._reset,
        }
        self._fd_handlers: dict[int, Callable[[bytes, list[int]], bytes]] = {
            Command.DMA_MAP: self._map,
            Command.SET_IRQS: self._set_irqs,
        }

    # The socket

    def listen(self) -> None:
        """Make the socket. Raises OSError when somebody listens on its path, or it cannot be made."""
        self._listener = listen(self.config.socket)
        self._loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """End the connection and remove the socket."""
        self._disconnect("the server ends")
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(self.config.socket)

    def _accept(self) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:
            return
        if self._connection is not None:
            self.note("a second client was turned away")
            sock.close()
            return
        self._plug()
        self.connections += 1
        self._connection = Connection(sock, lambda wanted: self._watch(sock, wanted))
        self._watch(sock, False)
        self.note("connected")

    def _watch(self, sock: socket.socket, wanted: bool) -> None:
        self._loop.watch(sock.fileno(), self._readable, self._writable if wanted else None)

    def _plug(self) -> None:
        """A card fresh from its box: what QEMU sees of it until the next connection."""
        vectors = min(self.vectors, self.faults.on.get("fewer-vectors", {}).get("vectors", self.vectors))
        if vectors < self.vectors:
            self.faults.strike("fewer-vectors")
        own = self.config.msix == "device"
        length = len(self.device.config())
        self._function = Function(self.config.model.identity, length, vectors, own_msix=own, reset=self.transport.reset)
        self._msix = MsixTable(self._function, vectors, self._send_message)
        self.transport.vectors = vectors
        self._eventfds = [-1] * vectors

    def _readable(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            if not connection.receive(self._message):
                self._disconnect("the client has gone")
        except ProtocolError as error:
            self._break_off(error)

    def _writable(self) -> None:
        if self._connection is not None:
            try:
                self._connection.flush()
            except ProtocolError as error:
                self._break_off(error)

    def _break_off(self, error: ProtocolError) -> None:
        self._disconnect(str(error), problem=not isinstance(error, Gone))

    def _disconnect(self, why: str, *, problem: bool = False) -> None:
        """End the connection, and say so when the client is to blame; all else is for the control socket only."""
        connection = self._connection
        if connection is None:
            return
        self._connection = None
        self._versioned = False
        self._loop.forget(connection.sock.fileno())
        connection.close()
        self._requests.clear()
        self._drop_eventfds(0, len(self._eventfds))
        self._msix.clear()
        self.transport.reset()
        self._dma.clear()
        self.note("disconnected", why=why)
        if problem:
            print(f"{self.config.name}: {why}", file=sys.stderr, flush=True)

    # Messages

    def _message(self, number: int, command: int, flags: int, body: bytes, fds: list[int]) -> None:
        if self._connection is None:
            return  # a message before this one in the same read ended the connection
        self.messages += 1
        if flags & _TYPE:
            self._answered(number, flags, body)
            return
        if not self._versioned and command != _VERSION:
            raise ProtocolError("the first message is not VERSION")
        error, answer = 0, b""
        try:
            if (handler := self._handlers.get(command)) is not None:
                answer = handler(body)
            elif (fd_handler := self._fd_handlers.get(command)) is not None:
                answer = fd_handler(body, fds)
            else:
                error = errno.EOPNOTSUPP
        except Refused as refused:
            error = refused.errno
            self.note("refused", command=command, error=str(refused))
        if not flags & _NO_REPLY and self._connection is not None:
            self._connection.send(number, command, _ERROR_REPLY if error else _REPLY, answer, error)

    def _version(self, body: bytes) -> bytes:
        if self._versioned:
            raise ProtocolError("VERSION came twice")
        wire.parse_version(body)
        self._versioned = True
        return wire.version_reply()

    def _map(self, body: bytes, fds: list[int]) -> bytes:
        _argsz, flags, offset, iova, size = wire.unpack(wire.DMA_MAP, body)
        if len(fds) > 1:
            raise Refused(errno.EINVAL, f"{len(fds)} file descriptors for one range")
        self.dma_maps += 1
        if fds:  # what comes without is no memory that a device could be given, such as ROM
            self._dma.map(fds[0], offset, iova, size, bool(flags & wire.DMA_WRITABLE))
        return b""

    def _unmap(self, body: bytes) -> bytes:
        _argsz, flags, iova, size = wire.unpack(wire.DMA_UNMAP, body)
        self.dma_unmaps += 1
        if flags & wire.DMA_UNMAP_ALL:
            self._dma.clear()
        else:
            self._dma.unmap(iova, size)
        return body

    def _info(self, _body: bytes) -> bytes:
        return wire.DEVICE_INFO.pack(wire.DEVICE_INFO.size, wire.DEVICE_RESETS | wire.DEVICE_IS_PCI, _REGIONS, _IRQS)

    def _region_info(self, body: bytes) -> bytes:
        _argsz, _flags, index, *_ = wire.unpack(wire.IRQ_INFO, body)
        if index >= _REGIONS:
            raise Refused(errno.EINVAL, f"region {index}")
        size = _REGION_SIZES.get(index, 0)
        return wire.REGION_INFO.pack(wire.REGION_INFO.size, _READ_WRITE if size else 0, index, 0, size, 0)

    def _irq_info(self, body: bytes) -> bytes:
        _argsz, _flags, index, _count = wire.unpack(wire.IRQ_INFO, body)
        if index >= _IRQS:
            raise Refused(errno.EINVAL, f"interrupt {index}")
        count = len(self._eventfds) if index == Irq.MSIX and not self._function.own_msix else 0
        return wire.IRQ_INFO.pack(wire.IRQ_INFO.size, wire.IRQ_EVENTFD if count else 0, index, count)

    def _set_irqs(self, body: bytes, fds: list[int]) -> bytes:
        _argsz, flags, index, start, count = wire.unpack(wire.IRQ_SET, body)
        if count == 0:
            if index == Irq.MSIX:
                self._drop_eventfds(0, len(self._eventfds))
            return b""
        if index != Irq.MSIX or start + count > len(self._eventfds):
            raise Refused(errno.EINVAL, f"vectors {start} to {start + count - 1} of interrupt {index}")
        if flags & wire.SET_EVENTFD:
            if fds and len(fds) != count:
                raise Refused(errno.EINVAL, f"{len(fds)} file descriptors for {count} vectors")
            self._drop_eventfds(start, count)
            for at in range(count if fds else 0):
                fd = fds.pop(0)
                with contextlib.suppress(OSError):
                    os.set_blocking(fd, False)
                self._eventfds[start + at] = fd
        return b""

    def _drop_eventfds(self, start: int, count: int) -> None:
        for vector in range(start, start + count):
            if self._eventfds[vector] >= 0:
                os.close(self._eventfds[vector])
                self._eventfds[vector] = -1

    def _region_read(self, body: bytes) -> bytes:
        offset, region, count = wire.unpack(wire.ACCESS, body)
        self._check(region, offset, count)
        if region == _BAR0:
            data = self.transport.read(offset, count)
        elif region == _CONFIG:
            data = self._function.read(offset, count)
        elif region == _BAR4:
            data = self.transport.read_lm(offset, count)
        else:
            data = self._msix.read(offset, count)
        return body[: wire.ACCESS.size] + data

    def _region_write(self, body: bytes) -> bytes:
        offset, region, count = wire.unpack(wire.ACCESS, body)
        data = body[wire.ACCESS.size :]
        if len(data) != count:
            raise Refused(errno.EINVAL, f"{len(data)} bytes for a write of {count}")
        self._write(region, offset, data)
        return body[: wire.ACCESS.size]

    def _write_multi(self, body: bytes) -> bytes:
        (number,) = wire.unpack(wire.MULTI_COUNT, body)
        entries = body[wire.MULTI_COUNT.size :]
        if number * wire.MULTI_WRITE.size > len(entries):
            raise Refused(errno.EINVAL, f"{number} writes in {len(entries)} bytes")
        for offset, region, count, data in wire.MULTI_WRITE.iter_unpack(entries[: number * wire.MULTI_WRITE.size]):
            if count > len(data):
                raise Refused(errno.EINVAL, f"a write of {count} bytes among several")
            self._write(region, offset, data[:count])
        return wire.MULTI_COUNT.pack(number)

    def _write(self, region: int, offset: int, data: bytes) -> None:
        self._check(region, offset, len(data))
        if region == _BAR0:
            self.transport.write(offset, data)
        elif region == _CONFIG:
            self._function.write(offset, data)
            self._msix.deliver()
        elif region == _BAR4:
            self.transport.write_lm(offset, data)
        else:
            self._msix.write(offset, data)

    def _check(self, region: int, offset: int, count: int) -> None:
        if offset + count > _REGION_SIZES.get(region, 0) or not 0 < count <= wire.MAX_TRANSFER:
            raise Refused(errno.EINVAL, f"{count} bytes at {offset:#x} of region {region}")

    def _reset(self, _body: bytes) -> bytes:
        self._function.clear()
        self._msix.clear()
        self.transport.reset()
        return b""

    # Interrupts and DMA by way of QEMU

    def _signal(self, vector: int) -> None:
        if self._function.own_msix:
            self._msix.raise_vector(vector)
        elif vector < len(self._eventfds) and self._eventfds[vector] >= 0:
            with contextlib.suppress(OSError):
                os.eventfd_write(self._eventfds[vector], 1)

    def _send_message(self, address: int, data: int) -> None:
        self._dma_write(address, struct.pack("<I", data), Flag.NO_REPLY)

    def _dma_write(self, address: int, data: bytes, flags: int) -> None:
        # QEMU takes the data at once after the 32-bit count, and wants the structure's padding to be there too.
        self._send(Command.DMA_WRITE, flags, wire.DMA_ACCESS.pack(address, len(data)) + data + bytes(4))

    def _send(self, command: Command, flags: int, body: bytes) -> int:
        number = self._next_request
        self._next_request = (number + 1) & 0xFFFF
        if self._connection is not None:
            try:
                self._connection.send(number, command, flags, body)
            except ProtocolError as error:
                why = error
                self._loop.soon(lambda: self._break_off(why))
        return number

    def _answered(self, number: int, flags: int, body: bytes) -> None:
        what = self._requests.pop(number, None)
        if what is None:
            raise ProtocolError("a reply to nothing")
        self.note(what, refused=bool(flags & Flag.ERROR), bytes=len(body))

    # Faults

    def switch_fault(self, name: str, values: dict[str, int] | None) -> None:
        """Switch a fault on with all its parameters, or off with None."""
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()
        self.faults.switch(name, values)
        self.note("fault on" if values is not None else "fault off", name=name, **(values or {}))
        if values is not None and "period_ms" in values:
            self._repeat(name, values["period_ms"] / 1000)
        self._twist_queues()
        effect = _EFFECTS.get(name)
        if effect is not None:
            effect(self, values)

    def _repeat(self, name: str, period: float) -> None:
        def again() -> None:
            _PERIODIC[name](self)
            if name in self.faults.on:
                self._timers[name] = self._loop.after(period, again)

        self._timers[name] = self._loop.after(period, again)

    def _twist_queues(self) -> None:
        on = self.faults.on
        stalled = on.get("queue-stall", {}).get("queue")
        for queue in self.transport.queues:
            queue.twist = self._twist(queue)
            was, queue.stalled = queue.stalled, queue.index == stalled
            if was and not queue.stalled:
                self.transport.schedule(queue)
        self.transport.schedule = self._serve_later if "slow" in on else self.transport.serve

    def _twist(self, queue: Queue) -> Callable[[int, int], tuple[int, int]] | None:
        on, faults = self.faults.on, self.faults
        length = on.get("used-length", {}) if on.get("used-length", {}).get("queue") == queue.index else {}
        identifier = on.get("used-id", {}) if on.get("used-id", {}).get("queue") == queue.index else {}
        if not length and not identifier:
            return None

        def twisted(head: int, written: int) -> tuple[int, int]:
            for name, values in (("used-length", length), ("used-id", identifier)):
                if values:
                    faults.strike(name)
            return identifier.get("id", head), length.get("length", written)

        return twisted

    def _serve_later(self, queue: Queue) -> None:
        if queue in self._late:
            return
        self.faults.strike("slow")
        self._late.add(queue)
        self._loop.after(self.faults.on["slow"]["ms"] / 1000, lambda: self._serve_late(queue))

    def _serve_late(self, queue: Queue) -> None:
        self._late.discard(queue)
        self.transport.serve(queue)

    def _end_of_reset(self, values: dict[str, int] | None) -> None:
        if values is None and self.faults.reset_owed:
            self.transport.reset()

    def _offer_changed(self, _values: dict[str, int] | None) -> None:
        self.faults.strike("features-changed")
        self.transport.config_changed()

    def _end_of_flaps(self, values: dict[str, int] | None) -> None:
        if values is None and isinstance(self.device, NetDevice):
            self.device.set_link(True)

    def _dma_outside(self, values: dict[str, int] | None) -> None:
        if values is None or self._connection is None or len(self._requests) >= _MAX_OUTSTANDING:
            return
        self.faults.strike("dma-outside")
        iova, length = values["iova"], values["length"]
        what = f"DMA by the device at {iova:#x}"
        if values["write"]:
            self._requests[self._next_request] = what
            self._dma_write(iova, bytes(length), 0)
        else:
            self._requests[self._next_request] = what
            self._send(Command.DMA_READ, 0, wire.DMA_ACCESS.pack(iova, length) + bytes(4))

    def _cut_connection(self, values: dict[str, int] | None) -> None:
        if values is not None:
            self.faults.strike("disconnect")
            self.faults.switch("disconnect", None)
            self._disconnect("fault: disconnect")

    def _die(self, values: dict[str, int] | None) -> None:
        if values is not None:
            os.kill(os.getpid(), signal.SIGKILL)

    def _spurious(self) -> None:
        self.faults.strike("irq-spurious")
        for vector in range(self.transport.vectors):
            self._signal(vector)

    def _flap(self) -> None:
        if isinstance(self.device, NetDevice):
            self.faults.strike("link-flap")
            self.device.set_link(not self.device.link_up)

    def _storm(self) -> None:
        self.transport.config_changed()

    # What is shown

    def note(self, what: str, **details: object) -> None:
        """Keep a remarkable thing for the control socket."""
        self._sequence += 1
        self._events.append({"seq": self._sequence, "time": time.monotonic(), "what": what, **details})

    def events(self, since: int) -> list[dict[str, Any]]:
        """What was remarkable after that number."""
        return [event for event in self._events if event["seq"] > since]

    def state(self) -> dict[str, Any]:
        """Everything that is not a counter."""
        transport = self.transport
        armed = self._msix.armed if self._function.own_msix else sum(fd >= 0 for fd in self._eventfds)
        state: dict[str, Any] = {
            "model": self.config.model.value,
            "socket": self.config.socket,
            "connected": self._connection is not None,
            "status": transport.status,
            "features": transport.features,
            "negotiated": transport.negotiated,
            "generation": transport.generation,
            "faults": self.faults.on,
            "dma_ranges": len(self._dma),
            "dma_bytes": self._dma.bytes,
            "vectors": armed,
            "queues": [
                {
                    "index": queue.index,
                    "size": queue.size,
                    "enabled": queue.enabled,
                    "last_avail": queue.last_avail,
                    "used": queue.used_idx,
                    "vector": vector,
                    "error": queue.error,
                }
                for queue, vector in zip(transport.queues, transport.queue_vectors, strict=True)
            ],
        }
        if isinstance(self.device, NetDevice):
            state |= {"link": self.device.link_up, "mac": self.device.mac.hex(":"), "mtu": self.device.mtu}
        else:
            state |= {"size": self.device.disk.size, "read_only": self.device.disk.read_only}
        return state

    def counters(self) -> dict[str, int]:
        """Everything that only grows."""
        names = _NET_COUNTERS if self.config.is_net else _BLK_COUNTERS
        own = ("connections", "messages", "dma_maps", "dma_unmaps")
        return {
            **{name: getattr(self.device, name) for name in names},
            **{name: getattr(self.transport, name) for name in _TRANSPORT_COUNTERS},
            **{name: getattr(self, name) for name in own},
        }

    def dma(self, detail: bool) -> list[dict[str, Any]]:
        """The DMA map. Without ``detail``, neighbours are one whatever is behind them."""
        ranges = self._dma.ranges()
        if detail:
            return [asdict(entry) for entry in ranges]
        joined: list[dict[str, Any]] = []
        for entry in ranges:
            last = joined[-1] if joined else None
            if last and last["iova"] + last["size"] == entry.iova and last["writable"] == entry.writable:
                last["size"] += entry.size
            else:
                joined.append({"iova": entry.iova, "size": entry.size, "writable": entry.writable})
        return joined


_EFFECTS: dict[str, Callable[[Vf, dict[str, int] | None], None]] = {
    "reset-hangs": Vf._end_of_reset,
    "features-changed": Vf._offer_changed,
    "link-flap": Vf._end_of_flaps,
    "dma-outside": Vf._dma_outside,
    "disconnect": Vf._cut_connection,
    "death": Vf._die,
}
_PERIODIC: dict[str, Callable[[Vf], None]] = {
    "irq-spurious": Vf._spurious,
    "link-flap": Vf._flap,
    "config-storm": Vf._storm,
}


def listen(path: str) -> socket.socket:
    """A listening UNIX socket. A file that nobody listens on is replaced. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _remove_dead(path)
        sock.bind(path)
        sock.listen(4)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_dead(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, f"somebody listens on {path}")
