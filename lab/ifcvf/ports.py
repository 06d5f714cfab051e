"""What a network device's cable leads to: a switch between VFs, a peer behind a UNIX socket, a tap, or nothing.

A peer is not trusted more than a driver: lengths are checked, reading has a budget, and what cannot be taken is lost,
as on a cable.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections import deque

from lab.ifcvf.loop import Loop, Timer
from lab.ifcvf.net import BUDGET, NetDevice
from lab.ifcvf.offload import HEADER_SIZE, MAX_PACKET, MIN_PACKET, PLAIN, Malformed, adapt

_MAX_ADDRESSES = 4096
_LENGTH = struct.Struct(">I")
_SOCKET_BUFFER = 1 << 20
_RETRY_S = 0.001


class Switch:
    """Learns which address is behind which device, and floods what it does not know."""

    def __init__(self) -> None:
        self._devices: list[NetDevice] = []
        self._table: dict[bytes, NetDevice] = {}

    def attach(self, device: NetDevice) -> None:
        """One more device on the switch."""
        self._devices.append(device)

    def send(self, source: NetDevice, packet: bytes) -> None:
        """A packet from a device."""
        table = self._table
        address = packet[18:24]
        if table.get(address) is not source and (address in table or len(table) < _MAX_ADDRESSES):
            table[address] = source
        target = table.get(packet[12:18]) if not packet[12] & 1 else None
        if target is None:
            for device in self._devices:
                if device is not source:
                    device.receive(packet)
        elif target is not source:
            target.receive(packet)

    def flush(self) -> None:
        """Tell the receivers' drivers."""
        for device in self._devices:
            device.publish()


class Nowhere:
    """A cable that ends nowhere."""

    def send(self, source: NetDevice, packet: bytes) -> None:
        """The packet is lost."""

    def flush(self) -> None:
        """Nobody has to be told."""


class _Peer:
    """What the ports with one peer share: the form of a packet on the cable."""

    def __init__(self, device: NetDevice, vnet_hdr: bool):
        self._device = device
        self._vnet_hdr = vnet_hdr

    def _outgoing(self, packet: bytes) -> list[bytes]:
        if self._vnet_hdr:
            return [packet]
        try:
            return [part[HEADER_SIZE:] for part in adapt(packet, 0)]
        except Malformed:
            return []

    def _incoming(self, data: bytes) -> None:
        packet = data[: HEADER_SIZE - 2] + PLAIN[-2:] + data[HEADER_SIZE:] if self._vnet_hdr else PLAIN + data
        if MIN_PACKET <= len(packet) <= MAX_PACKET:
            self._device.receive(packet)
        else:
            self._device.rx_dropped += 1

    def flush(self) -> None:
        """What was sent is on its way already."""


class Datagrams(_Peer):
    """A UNIX datagram socket: ``local`` is ours, ``remote`` the peer's."""

    def __init__(self, loop: Loop, device: NetDevice, local: str, remote: str, vnet_hdr: bool):
        super().__init__(device, vnet_hdr)
        self._remote = remote
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(local)
        self._socket.bind(local)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        self._loop = loop
        self._local = local
        self._waiting: deque[bytes] = deque()
        self._retry: Timer | None = None
        loop.watch(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Remove the socket."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        with contextlib.suppress(OSError):
            os.unlink(self._local)

    def send(self, source: NetDevice, packet: bytes) -> None:
        """Send a packet; it is lost when nobody is there or the peer is far behind."""
        for data in self._outgoing(packet):
            if len(self._waiting) >= BUDGET:
                source.tx_dropped += 1
            else:
                self._waiting.append(data)
        if self._retry is None:
            self._flush()

    def _flush(self) -> None:
        """Send what waits. A UNIX datagram socket holds few frames and does not tell when it has room again."""
        self._retry = None
        while self._waiting:
            try:
                self._socket.sendto(self._waiting[0], self._remote)
            except BlockingIOError:
                self._retry = self._loop.after(_RETRY_S, self._flush)
                return
            except OSError:
                self._device.tx_dropped += 1
            self._waiting.popleft()

    def _readable(self) -> None:
        with contextlib.suppress(OSError):
            for _ in range(BUDGET):
                self._incoming(self._socket.recv(MAX_PACKET + 1))
        self._device.publish()


class Stream(_Peer):
    """A UNIX stream socket; each packet comes after its length. One peer at a time, the newest."""

    def __init__(self, loop: Loop, device: NetDevice, path: str, listen: bool, vnet_hdr: bool):
        super().__init__(device, vnet_hdr)
        self._loop = loop
        self._path = path
        self._peer: socket.socket | None = None
        self._received = bytearray()
        self._unsent = bytearray()
        self._listener: socket.socket | None = None
        if listen:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._listener.bind(path)
            self._listener.listen(1)
            loop.watch(self._listener.fileno(), self._accept)
        else:
            self._connect()

    def close(self) -> None:
        """Let go of the peer and remove the socket."""
        self._drop()
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def _accept(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._use(self._listener.accept()[0])

    def _connect(self) -> None:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            peer.connect(self._path)
        except OSError:
            peer.close()
        else:
            self._use(peer)

    def _use(self, peer: socket.socket) -> None:
        self._drop()
        peer.setblocking(False)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        self._peer = peer
        self._loop.watch(peer.fileno(), self._readable)

    def _drop(self) -> None:
        if self._peer is not None:
            self._loop.forget(self._peer.fileno())
            self._peer.close()
            self._peer = None
        self._received.clear()
        self._unsent.clear()

    def send(self, source: NetDevice, packet: bytes) -> None:
        """Send a packet; it is lost when nobody is there or the peer is behind."""
        if self._peer is None and self._listener is None:
            self._connect()
        for data in self._outgoing(packet):
            if self._peer is None or len(self._unsent) > _SOCKET_BUFFER:
                source.tx_dropped += 1
            else:
                self._unsent += _LENGTH.pack(len(data)) + data
        if self._peer is not None:
            self._writable()

    def _writable(self) -> None:
        if self._peer is None:
            return
        try:
            del self._unsent[: self._peer.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop()
            return
        self._loop.watch(self._peer.fileno(), self._readable, self._writable if self._unsent else None)

    def _readable(self) -> None:
        if self._peer is None:
            return
        try:
            data = self._peer.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += data
        if not data or not self._cut():
            self._drop()
        self._device.publish()

    def _cut(self) -> bool:
        """Take whole packets out of what has been received. Returns False when it cannot be packets."""
        at = 0
        while len(self._received) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received, at)
            if length > MAX_PACKET:
                return False
            begin = at + _LENGTH.size
            if len(self._received) - begin < length:
                break
            at = begin + length
            self._incoming(bytes(self._received[begin:at]))
        del self._received[:at]
        return True


_TUNSETIFF, _TUNSETVNETHDRSZ, _TUNSETOFFLOAD = 0x400454CA, 0x400454D8, 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_TUN_CSUM, _TUN_TSO4, _TUN_TSO6, _TUN_ECN = 1, 2, 4, 8


class Tap(_Peer):
    """A tap, with the kernel's offloads. Sources: ``include/uapi/linux/if_tun.h``."""

    def __init__(self, loop: Loop, device: NetDevice, ifname: str):
        super().__init__(device, vnet_hdr=True)
        self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        request = struct.pack("16sH22x", ifname.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(self._fd, _TUNSETIFF, request)
        fcntl.ioctl(self._fd, _TUNSETVNETHDRSZ, struct.pack("i", HEADER_SIZE))
        fcntl.ioctl(self._fd, _TUNSETOFFLOAD, _TUN_CSUM | _TUN_TSO4 | _TUN_TSO6 | _TUN_ECN)
        self._loop = loop
        loop.watch(self._fd, self._readable)

    def close(self) -> None:
        """Let go of the interface."""
        self._loop.forget(self._fd)
        os.close(self._fd)

    def send(self, source: NetDevice, packet: bytes) -> None:
        """Give a packet to the kernel; it is lost when the interface is down."""
        try:
            os.write(self._fd, packet)
        except OSError:
            source.tx_dropped += 1

    def _readable(self) -> None:
        try:
            for _ in range(BUDGET):
                self._incoming(os.read(self._fd, MAX_PACKET + 1))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EIO):
                raise
        self._device.publish()
