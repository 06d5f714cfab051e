"""Checksums and segmentation in software, for a receiver that has not negotiated what the sender used.

A packet here is always the 12 bytes of ``struct virtio_net_hdr_v1`` and an Ethernet frame. Sources: virtio 1.2, section
5.1.6; RFC 1071 for the checksum; RFC 9293 and 8200 for what changes from segment to segment.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("<BBHHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
HEADER_SIZE = HEADER.size
ETHERNET_SIZE = 14
# The longest IP packet, in a frame with one VLAN tag.
MAX_PACKET = HEADER_SIZE + ETHERNET_SIZE + 4 + 65535
MIN_PACKET = HEADER_SIZE + ETHERNET_SIZE
PLAIN = HEADER.pack(0, 0, 0, 0, 0, 0, 1)

NEEDS_CSUM = 1
GSO_TCPV4, GSO_TCPV6, GSO_ECN = 1, 4, 0x80

F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_ECN = 1 << 1, 1 << 7, 1 << 8, 1 << 9

_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_VLANS = (b"\x81\x00", b"\x88\xa8")
_TCP = 6
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80


class Malformed(Exception):
    """The sender's header does not fit its frame."""


def adapt(packet: bytes, offloads: int) -> list[bytes]:
    """The packet in a form that a receiver with these GUEST features takes. Raises Malformed."""
    if packet[1] and not _gso_fits(packet[1], offloads):
        return segment(packet)
    if packet[0] & NEEDS_CSUM and not offloads & F_GUEST_CSUM:
        return [complete(packet)]
    return [packet]


def _gso_fits(kind: int, offloads: int) -> bool:
    needed = {GSO_TCPV4: F_GUEST_TSO4, GSO_TCPV6: F_GUEST_TSO6}.get(kind & ~GSO_ECN)
    if needed is None:
        raise Malformed(f"GSO type {kind:#x}")
    if kind & GSO_ECN:
        needed |= F_GUEST_ECN
    return offloads & needed == needed


def checksum(data: bytes) -> int:
    """The Internet checksum. The sum of 16-bit words in ones' complement is the whole number modulo 65535.

    Only zeroes have the sum 0; of its two representations every other multiple has 0xffff.
    """
    total = int.from_bytes(data + b"\0" if len(data) % 2 else data, "big")
    return 0xFFFF - ((total - 1) % 0xFFFF + 1) if total else 0xFFFF


def complete(packet: bytes) -> bytes:
    """Fill in the checksum that the sender left to the device. Raises Malformed."""
    _flags, _gso, _length, _size, start, offset, _buffers = HEADER.unpack_from(packet)
    begin = HEADER_SIZE + start
    field = begin + offset
    if field + 2 > len(packet):
        raise Malformed(f"a checksum at {start}+{offset} of a frame of {len(packet) - HEADER_SIZE} bytes")
    # 0 would say that there is no checksum.
    value = checksum(packet[begin:]) or 0xFFFF
    return PLAIN + packet[HEADER_SIZE:field] + value.to_bytes(2, "big") + packet[field + 2 :]


def segment(packet: bytes) -> list[bytes]:
    """Cut a TCP packet into segments of at most ``gso_size`` bytes, with all their checksums. Raises Malformed."""
    size, tcp = struct.unpack_from("<HH", packet, 4)
    frame = packet[HEADER_SIZE:]
    ip, version = _network(frame)
    if size == 0 or tcp < ip + 20 or tcp + 20 > len(frame) or _protocol(frame, ip, version) != _TCP:
        raise Malformed("no TCP packet to cut")
    payload = tcp + (frame[tcp + 12] >> 4) * 4
    if not tcp + 20 <= payload <= len(frame):
        raise Malformed("a TCP header that is longer than its packet")
    data = frame[payload:]
    parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    return [
        PLAIN + _segment(frame[:payload], part, ip, version, tcp, number, number * size, number == len(parts) - 1)
        for number, part in enumerate(parts)
    ]


def _network(frame: bytes) -> tuple[int, int]:
    """Where the IP header begins, and its version."""
    at = 12
    while frame[at : at + 2] in _VLANS:
        at += 4
    kind = frame[at : at + 2]
    if kind == _IPV4:
        return at + 2, 4
    if kind == _IPV6:
        return at + 2, 6
    raise Malformed("no IP packet to cut")


def _protocol(frame: bytes, ip: int, version: int) -> int:
    return frame[ip + 9] if version == 4 else frame[ip + 6]


def _segment(
    headers: bytes, part: bytes, ip: int, version: int, tcp: int, number: int, offset: int, last: bool
) -> bytes:
    head = bytearray(headers)
    length = len(head) - ip + len(part)
    if version == 4:
        identification = struct.unpack_from(">H", head, ip + 4)[0] + number
        struct.pack_into(">HH", head, ip + 2, length, identification & 0xFFFF)
        struct.pack_into(">H", head, ip + 10, 0)
        struct.pack_into(">H", head, ip + 10, checksum(bytes(head[ip:tcp])))
        addresses = bytes(head[ip + 12 : ip + 20])
    else:
        struct.pack_into(">H", head, ip + 4, length - 40)
        addresses = bytes(head[ip + 8 : ip + 40])
    sequence = struct.unpack_from(">I", head, tcp + 4)[0] + offset
    struct.pack_into(">I", head, tcp + 4, sequence & 0xFFFFFFFF)
    head[tcp + 13] &= ~((0 if last else _FIN | _PSH) | (_CWR if number else 0)) & 0xFF
    struct.pack_into(">H", head, tcp + 16, 0)
    pseudo = addresses + struct.pack(">II", len(head) - tcp + len(part), _TCP)
    struct.pack_into(">H", head, tcp + 16, checksum(pseudo + bytes(head[tcp:]) + part))
    return bytes(head) + part
