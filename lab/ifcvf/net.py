"""The network device: virtio 1.2, section 5.1.

Frames go from one driver's buffers to another's through one copy in between, so that either side may have any layout.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

from lab.ifcvf.dma import DmaFault
from lab.ifcvf.faults import Faults
from lab.ifcvf.offload import HEADER_SIZE, MAX_PACKET, MIN_PACKET, Malformed, adapt
from lab.ifcvf.ring import Chain, Queue, RingError
from lab.ifcvf.transport import RING_FEATURES, Transport

F_CSUM, F_GUEST_CSUM, F_CTRL_GUEST_OFFLOADS, F_MTU, F_MAC = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 5
F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_ECN = 1 << 7, 1 << 8, 1 << 9
F_HOST_TSO4, F_HOST_TSO6, F_HOST_ECN = 1 << 11, 1 << 12, 1 << 13
F_MRG_RXBUF, F_STATUS, F_CTRL_VQ, F_CTRL_RX, F_CTRL_VLAN = 1 << 15, 1 << 16, 1 << 17, 1 << 18, 1 << 19
F_MQ, F_CTRL_MAC_ADDR = 1 << 22, 1 << 23
GUEST_OFFLOADS = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN
NET_FEATURES = (
    *(F_CSUM, F_CTRL_GUEST_OFFLOADS, F_MTU, F_MAC, GUEST_OFFLOADS, F_HOST_TSO4, F_HOST_TSO6, F_HOST_ECN),
    *(F_MRG_RXBUF, F_STATUS, F_CTRL_VQ, F_CTRL_RX, F_CTRL_VLAN, F_MQ, F_CTRL_MAC_ADDR),
)

# struct virtio_net_config: mac, status, pairs, mtu, speed, duplex; then RSS, which is not offered.
CONFIG = struct.Struct("<6sHHHIBBHI")
LINK_UP = 1
_SPEED_UNKNOWN, _DUPLEX_UNKNOWN = 0xFFFFFFFF, 0xFF

_ONE_BUFFER = b"\x01\x00"
_BROADCAST = b"\xff" * 6
_VLAN = b"\x81\x00"

# Chains a queue may have served before the others have a turn.
BUDGET = 256
# Frames that wait for the receiver's buffers, in bytes.
MAX_BACKLOG = 1 << 20
MAX_ADDRESSES = 1024
_MAX_COMMAND = 16384

_OK, _ERROR = b"\x00", b"\x01"


class Link(Protocol):
    """What the device's cable leads to."""

    def send(self, source: NetDevice, packet: bytes) -> None:
        """Take a packet; those that nobody takes are lost."""

    def flush(self) -> None:
        """No more packets for the moment."""


class NetDevice:
    """A network device with ``pairs`` queue pairs and a control queue."""

    def __init__(self, mac: bytes, mtu: int, pairs: int, features: int, faults: Faults):
        self.mac = self.first_mac = mac
        self.mtu = mtu
        self.pairs = pairs
        self.features = features
        self.faults = faults
        self.link_up = True
        self.tx_packets = self.tx_bytes = self.tx_dropped = 0
        self.rx_packets = self.rx_bytes = self.rx_dropped = 0
        self._transport: Transport
        self._link: Link
        self.reset()

    @staticmethod
    def all_features(pairs: int) -> int:
        """Everything that a device with so many queue pairs can offer."""
        offered = RING_FEATURES
        for feature in NET_FEATURES:
            offered |= feature
        return offered if pairs > 1 else offered & ~F_MQ

    def connect(self, transport: Transport, link: Link) -> None:
        """Put the device between its driver and its cable."""
        self._transport = transport
        self._link = link

    def reset(self) -> None:
        """Forget what the driver has set."""
        self.mac = self.first_mac
        self._merge = False
        self._offloads = 0
        self._control = 2
        self._pairs_used = 1
        self._promiscuous = self._all_multicast = True
        self._addresses: set[bytes] = set()
        self._vlans: set[int] | None = None
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0

    def accept(self, negotiated: int) -> None:
        """The driver's features are settled."""
        self._merge = bool(negotiated & F_MRG_RXBUF)
        self._offloads = negotiated & GUEST_OFFLOADS
        self._control = 2 * self.pairs if negotiated & F_MQ else 2
        self._vlans = set() if negotiated & F_CTRL_VLAN else None

    # Configuration

    def config(self) -> bytes:
        """``struct virtio_net_config``."""
        status = LINK_UP if self.link_up else 0
        return CONFIG.pack(self.mac, status, self.pairs, self.mtu, _SPEED_UNKNOWN, _DUPLEX_UNKNOWN, 0, 0, 0)

    def write_config(self, offset: int, data: bytes) -> None:
        """Nothing of it is writable since virtio 1.0; the address has a command."""

    def set_link(self, up: bool) -> None:
        """Plug the cable in or out."""
        if up != self.link_up:
            self.link_up = up
            self._transport.config_changed()

    # Transmitting

    def serve(self, queue: Queue) -> bool:
        """Buffers may be waiting in a queue. Returns True when there were more than fit one turn."""
        if queue.index == self._control:
            return self._serve_control(queue)
        if queue.index % 2:
            return self._transmit(queue)
        self._drain()
        self.publish()
        return False

    def _transmit(self, queue: Queue) -> bool:
        try:
            return queue.serve(self._send, BUDGET)
        finally:
            self._link.flush()
            queue.publish()

    def _send(self, chain: Chain) -> int:
        """Send a frame. Returns the used length: nothing is written to its buffers."""
        parts = chain.readable
        length = sum(map(len, parts))
        if not MIN_PACKET <= length <= MAX_PACKET or not self.link_up:
            self.tx_dropped += 1
            return 0
        head = parts[0]
        if len(head) < HEADER_SIZE:
            joined = b"".join(parts)
            packet = joined[: HEADER_SIZE - 2] + _ONE_BUFFER + joined[HEADER_SIZE:]
        else:
            packet = b"".join((head[: HEADER_SIZE - 2], _ONE_BUFFER, head[HEADER_SIZE:], *parts[1:]))
        self.tx_packets += 1
        self.tx_bytes += length - HEADER_SIZE
        self._link.send(self, packet)
        return 0

    # Receiving

    def receive(self, packet: bytes) -> None:
        """A packet comes in from the cable; the driver is told at ``publish``."""
        if not self._transport.running or not self.link_up:
            self.rx_dropped += 1
            return
        if not self._promiscuous and not self._is_wanted(packet):
            return
        if packet[0] or packet[1]:
            try:
                for part in adapt(packet, self._offloads):
                    self._enqueue(part)
            except Malformed:
                self.rx_dropped += 1
        else:
            self._enqueue(packet)

    def _is_wanted(self, packet: bytes) -> bool:
        target = packet[12:18]
        if self._vlans is not None and packet[24:26] == _VLAN and _vlan(packet) not in self._vlans:
            return False
        if target == self.mac or target in self._addresses:
            return True
        return bool(target[0] & 1) and (self._all_multicast or target == _BROADCAST)

    def _enqueue(self, packet: bytes) -> None:
        if self.faults.corrupt_every:
            packet = self._corrupt(packet)
        if not self._backlog and self._put(packet):
            return
        if self._backlog_bytes + len(packet) > MAX_BACKLOG:
            self.rx_dropped += 1
            return
        self._backlog.append(packet)
        self._backlog_bytes += len(packet)

    def _corrupt(self, packet: bytes) -> bytes:
        at = self.faults.corrupted(len(packet) - HEADER_SIZE)
        if at is None:
            return packet
        at += HEADER_SIZE
        return packet[:at] + bytes([packet[at] ^ 0xFF]) + packet[at + 1 :]

    def _drain(self) -> None:
        while self._backlog and self._put(self._backlog[0]):
            self._backlog_bytes -= len(self._backlog.popleft())

    def _put(self, packet: bytes) -> bool:
        """Give the driver a packet. Returns False when it has to wait for buffers."""
        queue = self._receive_queue(packet)
        try:
            if not queue.enabled:
                return False
            if queue.stalled:
                self.faults.strike("queue-stall")
                return False
            while True:
                waiting = queue.waiting()
                if waiting and self._put_into(queue, packet, waiting):
                    return True
                if not queue.listen(waiting):
                    return False
        except (RingError, DmaFault) as error:
            self._transport.broken(queue, error)
            return False

    def _receive_queue(self, packet: bytes) -> Queue:
        if self._pairs_used == 1:
            return self._transport.queues[0]
        # Addresses and ports of IPv4: a flow stays in its queue.
        return self._transport.queues[2 * (hash(packet[38:50]) % self._pairs_used)]

    def _put_into(self, queue: Queue, packet: bytes, waiting: int) -> bool:
        """Use the first of the waiting buffers. Returns False when the packet needs more than there are."""
        length = len(packet)
        chain = queue.pop()
        if not chain.writable:
            raise RingError("a receive buffer without room")
        room = chain.writable[0]
        if len(room) >= length:
            room[:length] = packet
            queue.push(chain.head, length)
        else:
            chains = self._room(queue, chain, length, waiting)
            if chains is None:
                return False
            if not chains:
                self.rx_dropped += 1
                return True
            _scatter(queue, chains, packet)
        self.rx_packets += 1
        self.rx_bytes += length - HEADER_SIZE
        return True

    def _room(self, queue: Queue, chain: Chain, length: int, waiting: int) -> list[Chain] | None:
        """As many buffers as a packet needs; none when it will never fit, None when there may be more later."""
        chains = [chain]
        room = sum(map(len, chain.writable))
        while room < length and self._merge and len(chains) < waiting:
            chains.append(queue.pop())
            room += sum(map(len, chains[-1].writable))
        if room >= length:
            return chains
        queue.unpop(len(chains))
        return None if self._merge and waiting < queue.size else []

    def publish(self) -> None:
        """Tell the driver of what it has received."""
        for queue in self._transport.queues[: 2 * self._pairs_used : 2]:
            try:
                queue.publish()
            except RingError as error:
                self._transport.broken(queue, error)

    # Control queue

    def _serve_control(self, queue: Queue) -> bool:
        try:
            for _ in range(BUDGET):
                if not queue.waiting() and not queue.listen(0):
                    return False
                chain = queue.pop()
                answer = self._command(chain)
                if not chain.writable:
                    raise RingError("a control command without room for its answer")
                chain.writable[0][:1] = answer
                queue.push(chain.head, 1)
            return True
        finally:
            queue.publish()

    def _command(self, chain: Chain) -> bytes:
        if sum(map(len, chain.readable)) > _MAX_COMMAND:
            return _ERROR
        data = b"".join(chain.readable)
        command = _COMMANDS.get((data[0], data[1])) if len(data) >= 2 else None
        return _OK if command is not None and command(self, data[2:]) else _ERROR

    def _set_promiscuous(self, data: bytes) -> bool:
        self._promiscuous = data[:1] == b"\x01"
        return len(data) == 1

    def _set_all_multicast(self, data: bytes) -> bool:
        self._all_multicast = data[:1] == b"\x01"
        return len(data) == 1

    def _set_table(self, data: bytes) -> bool:
        """Two lists of addresses, unicast and multicast, each after its length."""
        addresses: set[bytes] = set()
        for _ in range(2):
            if len(data) < 4:
                return False
            number = int.from_bytes(data[:4], "little")
            if number > MAX_ADDRESSES or len(data) < 4 + 6 * number:
                return False
            addresses |= {data[4 + 6 * at : 10 + 6 * at] for at in range(number)}
            data = data[4 + 6 * number :]
        self._addresses = addresses
        return True

    def _set_mac(self, data: bytes) -> bool:
        if len(data) != 6:
            return False
        self.mac = data
        return True

    def _add_vlan(self, data: bytes) -> bool:
        if len(data) != 2 or self._vlans is None:
            return False
        self._vlans.add(int.from_bytes(data, "little") & 0xFFF)
        return True

    def _remove_vlan(self, data: bytes) -> bool:
        if len(data) != 2 or self._vlans is None:
            return False
        self._vlans.discard(int.from_bytes(data, "little") & 0xFFF)
        return True

    def _set_pairs(self, data: bytes) -> bool:
        number = int.from_bytes(data, "little")
        if len(data) != 2 or not 1 <= number <= self.pairs:
            return False
        self._pairs_used = number
        return True

    def _set_offloads(self, data: bytes) -> bool:
        wanted = int.from_bytes(data, "little")
        if len(data) != 8 or wanted & ~(self._transport.negotiated & GUEST_OFFLOADS):
            return False
        self._offloads = wanted
        return True


def _vlan(packet: bytes) -> int:
    return int.from_bytes(packet[26:28], "big") & 0xFFF


def _scatter(queue: Queue, chains: list[Chain], packet: bytes) -> None:
    """Write a packet over several descriptors or buffers, each filled before the next."""
    if len(chains) > 1 and len(chains[0].writable[0]) < HEADER_SIZE:
        packet = packet[: HEADER_SIZE - 2] + len(chains).to_bytes(2, "little") + packet[HEADER_SIZE:]
    source = memoryview(packet)  # slices of it are no copies
    at = 0
    for chain in chains:
        begin = at
        for window in chain.writable:
            part = source[at : at + len(window)]
            window[: len(part)] = part
            at += len(part)
        queue.push(chain.head, at - begin)
    if len(chains) > 1 and len(chains[0].writable[0]) >= HEADER_SIZE:
        chains[0].writable[0][HEADER_SIZE - 2 : HEADER_SIZE] = len(chains).to_bytes(2, "little")


_COMMANDS: dict[tuple[int, int], Callable[[NetDevice, bytes], bool]] = {
    (0, 0): NetDevice._set_promiscuous,
    (0, 1): NetDevice._set_all_multicast,
    (1, 0): NetDevice._set_table,
    (1, 1): NetDevice._set_mac,
    (2, 0): NetDevice._add_vlan,
    (2, 1): NetDevice._remove_vlan,
    (4, 0): NetDevice._set_pairs,
    (5, 0): NetDevice._set_offloads,
}
