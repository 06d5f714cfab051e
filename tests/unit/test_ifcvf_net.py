"""The network device: frames between two drivers, offloads, the control queue, and each back end."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab.ifcvf import net, offload
from lab.ifcvf.net import MAX_BACKLOG, NetDevice
from lab.ifcvf.offload import HEADER, HEADER_SIZE, Malformed, adapt, checksum, complete, segment
from lab.ifcvf.wire import Region
from tests.ifcvf_client import MACS, NO_HEADER, VF0, VF1, Bench, Driver, bench, fill, frame, received, send

ALL = NetDevice.all_features(8)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, VF0, VF1) as made:
        yield made


@settings(max_examples=25, deadline=None)
@example([(46, 1), (46, 1), (1175, 1), (2375, 1), (6575, 1), (8975, 1), (8975, 1)], False, 300, 0)
@example([(9000, 3)] * 10, True, 300, 12)
@given(
    st.lists(st.tuples(st.integers(46, 9000), st.integers(1, 3)), min_size=1, max_size=10),
    st.booleans(),
    st.sampled_from([300, 1526, 4096]),
    st.sampled_from([0, 7, 12]),
)
def test_frames_arrive_as_they_were_sent(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]], scattered: bool, room: int, split: int
) -> None:
    with bench(tmp_path_factory.mktemp("net"), VF0, VF1) as made:
        one = made.driver("vf0", scattered=not scattered, size=1 << 20)
        other = made.driver("vf1", scattered=scattered, size=1 << 20, size_of_queue=1024)
        frames = []
        for size, pieces in sizes:
            data = frame(MACS["vf1"], MACS["vf0"], bytes(n & 0xFF for n in range(size)))
            step = -(-len(data) // pieces)
            one.queues[1].add([NO_HEADER, *(data[at : at + step] for at in range(0, len(data), step))])
            frames.append(data)
        for _ in range(sum(len(data) // room + 2 for data in frames)):
            other.queues[0].add(writable=[split, room] if split else [room])
        other.kick(other.queues[0])
        one.kick(one.queues[1])
        assert [data[HEADER_SIZE:] for data in received(other)] == frames
        counters = made.vfs["vf1"].counters()
        assert counters["rx_packets"] == made.vfs["vf0"].counters()["tx_packets"] == len(frames)
        assert counters["rx_bytes"] == made.vfs["vf0"].counters()["tx_bytes"] == sum(map(len, frames))


def test_without_merged_buffers_one_buffer_has_the_whole_frame(pair: Bench) -> None:
    one = pair.driver("vf0")
    other = pair.driver("vf1", features=ALL & ~net.F_MRG_RXBUF & ~net.F_MQ)
    for _ in range(3):
        other.queues[0].add(writable=[12, 700, 900])
    other.kick(other.queues[0])
    send(one, frame(MACS["vf1"], MACS["vf0"], b"x" * 1486), frame(MACS["vf1"], MACS["vf0"], b"y" * 2000))
    send(one, frame(MACS["vf1"], MACS["vf0"], b"z" * 100))
    assert [len(data) for data in received(other)] == [1512, 126]
    assert pair.vfs["vf1"].counters()["rx_dropped"] == 1


def test_a_receive_buffer_without_room_breaks_the_queue_and_not_the_senders(pair: Bench) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1")
    other.queues[0].add([b"for reading"])
    other.kick(other.queues[0])
    send(one, frame(MACS["vf1"], MACS["vf0"], b"x" * 50))
    assert other.status & 0x40
    assert not one.status & 0x40
    assert pair.vfs["vf1"].state()["queues"][0]["error"] == "a receive buffer without room"


def test_frames_wait_for_buffers_and_then_come_in_order(pair: Bench) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1")
    frames = [frame(MACS["vf1"], MACS["vf0"], bytes([n]) * 100) for n in range(10)]
    send(one, *frames[:5])
    assert received(other) == []
    assert other.queues[0].avail_event == 0
    fill(other, 3)
    fill(other, 20)
    send(one, *frames[5:])
    assert [data[HEADER_SIZE:] for data in received(other)] == frames


def test_what_nobody_takes_is_lost_at_last_and_bounded(pair: Bench) -> None:
    one, other = pair.driver("vf0", size=1 << 24), pair.driver("vf1")
    data = frame(MACS["vf1"], MACS["vf0"], b"x" * 60000)
    for _ in range(40):
        send(one, data)
    device = pair.vfs["vf1"].device
    assert isinstance(device, NetDevice)
    assert device._backlog_bytes <= MAX_BACKLOG
    assert pair.vfs["vf1"].counters()["rx_dropped"] == 40 - MAX_BACKLOG // (len(data) + HEADER_SIZE)
    assert other.status & 4


def test_a_device_that_is_not_running_loses_frames(pair: Bench) -> None:
    one = pair.driver("vf0")
    send(one, frame(MACS["vf1"], MACS["vf0"], b"x" * 100))
    assert pair.vfs["vf1"].counters()["rx_dropped"] == 1


@pytest.mark.parametrize("length", [0, 12, 25, 70000])
def test_what_is_no_frame_is_dropped_and_given_back(pair: Bench, length: int) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1")
    fill(other)
    head = one.queues[1].add([bytes(max(1, length))])
    one.kick(one.queues[1])
    assert [entry[:2] for entry in one.queues[1].take()] == [(head, 0)]
    assert pair.vfs["vf0"].counters()["tx_dropped"] == 1
    assert received(other) == []


def test_the_switch_learns_and_floods(tmp_path: Path) -> None:
    third = {"name": "vf2", "mac": "52:54:00:00:00:03"}
    with bench(tmp_path, VF0, VF1, third) as made:
        drivers = {name: made.driver(name) for name in ("vf0", "vf1", "vf2")}
        for driver in drivers.values():
            fill(driver)
        send(drivers["vf0"], frame(MACS["vf1"], MACS["vf0"], b"unknown" * 10))
        assert [len(received(drivers[name])) for name in ("vf0", "vf1", "vf2")] == [0, 1, 1]
        send(drivers["vf1"], frame(MACS["vf0"], MACS["vf1"], b"known" * 10))
        assert [len(received(drivers[name])) for name in ("vf0", "vf1", "vf2")] == [1, 0, 0]
        send(drivers["vf0"], frame(MACS["vf1"], MACS["vf0"], b"known" * 10))
        assert [len(received(drivers[name])) for name in ("vf0", "vf1", "vf2")] == [0, 1, 0]
        send(drivers["vf2"], frame(b"\xff" * 6, b"\x02" * 6, b"to all" * 10))
        assert [len(received(drivers[name])) for name in ("vf0", "vf1", "vf2")] == [1, 1, 0]


def control(driver: Driver, group: int, command: int, data: bytes) -> int:
    queue = driver.queues[-1]
    queue.add([bytes([group, command]), data], [1])
    driver.kick(queue)
    ((_head, length, answer),) = queue.take()
    assert length == 1
    return answer[0]


def table(*addresses: bytes) -> bytes:
    return struct.pack("<I", len(addresses)) + b"".join(addresses)


def test_filters_of_the_control_queue(pair: Bench) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1")
    fill(other, 30)
    group, second = b"\x01\x00\x5e\x00\x00\x01", b"\x52\x54\x00\x00\x00\x99"

    def arrives(target: bytes) -> bool:
        send(one, frame(target, MACS["vf0"], b"x" * 50))
        return bool(received(other))

    assert all(map(arrives, (MACS["vf1"], group, second)))  # until the driver says otherwise
    assert control(other, 0, 0, b"\0") == control(other, 0, 1, b"\0") == 0
    assert list(map(arrives, (MACS["vf1"], b"\xff" * 6, group, second))) == [True, True, False, False]
    assert control(other, 1, 0, table(second) + table(group)) == 0
    assert list(map(arrives, (group, second))) == [True, True]
    assert control(other, 1, 0, table() + table()) == control(other, 0, 1, b"\1") == 0
    assert list(map(arrives, (group, second))) == [True, False]
    assert control(other, 1, 1, second) == 0
    assert list(map(arrives, (MACS["vf1"], second))) == [False, True]
    assert other.client.read(Region.BAR0, 0x2000, 6) == second
    assert control(other, 0, 0, b"\1") == 0
    assert arrives(MACS["vf1"])


def test_vlans_are_filtered(pair: Bench) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1")
    fill(other)
    assert control(other, 0, 0, b"\0") == 0

    def arrives(vlan: int) -> bool:
        tagged = MACS["vf1"] + MACS["vf0"] + b"\x81\x00" + vlan.to_bytes(2, "big") + b"\x88\xb5" + b"x" * 50
        send(one, tagged)
        return bool(received(other))

    assert not arrives(5)
    assert control(other, 2, 0, struct.pack("<H", 5)) == 0
    assert (arrives(5), arrives(6)) == (True, False)
    assert control(other, 2, 1, struct.pack("<H", 5)) == 0
    assert not arrives(5)


@pytest.mark.parametrize(
    ("group", "command", "data"),
    [
        (0, 0, b""), (0, 0, b"\0\0"), (0, 9, b"\0"), (9, 0, b"\0"), (1, 0, b"\1"), (1, 0, table() + b"\xff" * 4),
        (1, 0, struct.pack("<I", 2**32 - 1)), (1, 1, b"\0" * 5), (2, 0, b"\0"), (4, 0, b"\0\0"), (4, 0, b"\2\0"),
        (5, 0, b"\xff" * 8), (5, 0, b"\0"), (1, 0, table(*[b"\2" * 6] * 3000) + table()),
    ],
)  # fmt: skip
def test_commands_that_cannot_be(pair: Bench, group: int, command: int, data: bytes) -> None:
    driver = pair.driver("vf0")
    assert control(driver, group, command, data or b"\0") == 1 if data else True
    assert driver.status & 0x40 == 0


def test_a_command_without_room_for_its_answer_breaks_the_queue(pair: Bench) -> None:
    driver = pair.driver("vf0")
    driver.queues[2].add([b"\0\0\0"])
    driver.kick(driver.queues[2])
    assert driver.status & 0x40


def test_several_queue_pairs(tmp_path: Path) -> None:
    with bench(tmp_path, {**VF0, "pairs": 4}, {**VF1, "pairs": 4}) as made:
        one = made.driver("vf0", size=1 << 22, size_of_queue=256)
        other = made.driver("vf1", size=1 << 22, size_of_queue=256)
        assert one.client.number(Region.BAR0, 0x2000 + 8, 2) == 4
        for queue in (0, 2, 4, 6):
            fill(other, 100, queue=queue)
        flows = [
            frame(MACS["vf1"], MACS["vf0"], bytes(12) + os.urandom(12) + bytes(40), b"\x08\x00") for _ in range(20)
        ]
        send(one, *flows, queue=3)
        assert len(received(other)) == 20  # only the first pair is in use before the driver says so
        assert control(other, 4, 0, struct.pack("<H", 5)) == 1
        assert control(other, 4, 0, struct.pack("<H", 4)) == 0
        send(one, *flows, *flows, queue=7)
        by_queue = [received(other, queue) for queue in (0, 2, 4, 6)]
        assert sum(map(len, by_queue)) == 40
        assert sum(bool(queue) for queue in by_queue) > 1
        for seen in by_queue:  # a flow stays in its queue
            assert all(seen.count(data) == 2 for data in seen)


def test_link_and_configuration(pair: Bench) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1")
    fill(other)
    config = net.CONFIG.unpack(one.client.read(Region.BAR0, 0x2000, net.CONFIG.size))
    assert config[:4] == (MACS["vf0"], 1, 1, 1500)
    device, generation = pair.vfs["vf0"].device, one.common(0x15, 1)
    assert isinstance(device, NetDevice)
    device.set_link(False)
    assert one.client.number(Region.BAR0, 0x2006, 2) == 0
    assert one.common(0x15, 1) == generation + 1
    assert one.interrupts(3) == 1
    assert one.client.number(Region.BAR0, 0x1000, 1) & 2
    assert one.client.number(Region.BAR0, 0x1000, 1) == 0
    send(one, frame(MACS["vf1"], MACS["vf0"], b"x" * 50))
    send(other, frame(MACS["vf0"], MACS["vf1"], b"x" * 50))
    assert pair.vfs["vf0"].counters()["tx_dropped"] == pair.vfs["vf0"].counters()["rx_dropped"] == 1
    device.set_link(True)
    send(one, frame(MACS["vf1"], MACS["vf0"], b"x" * 50))
    assert len(received(other)) == 1
    one.client.write(Region.BAR0, 0x2000, b"\xee" * 6)
    assert one.client.read(Region.BAR0, 0x2000, 6) == MACS["vf0"]


# Offloads


def tcp(version: int, payload: bytes, *, tagged: bool = False, flags: int = 0x19) -> tuple[bytes, int]:
    """An Ethernet frame with a TCP packet whose checksum is left to the device, and where its TCP header is."""
    kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
    ethernet = MACS["vf1"] + MACS["vf0"] + (b"\x81\x00\x00\x05" if tagged else b"") + kind
    header = struct.pack(">HHIIBBHHH", 4000, 5000, 0xFFFFFF00, 7, 8 << 4, flags, 1000, 0, 0) + b"\1" * 12
    length = len(header) + len(payload)
    if version == 4:
        addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0xFFFF, 0, 64, 6, 0) + addresses
        ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
    else:
        addresses = bytes(range(32))
        ip = struct.pack(">IHBB", 6 << 28, length, 6, 64) + addresses
    pseudo = ~checksum(addresses + struct.pack(">II", length, 6)) & 0xFFFF
    header = header[:16] + pseudo.to_bytes(2, "big") + header[18:]
    return ethernet + ip + header + payload, len(ethernet) + len(ip)


def check_tcp(data: bytes, version: int, at: int) -> tuple[int, int, bytes]:
    """Verify all checksums of a frame, as its receiver does. Returns sequence number, flags and payload."""
    ip = at - (20 if version == 4 else 40)
    length = len(data) - at
    if version == 4:
        assert checksum(data[ip:at]) == 0
        assert struct.unpack_from(">H", data, ip + 2)[0] == len(data) - ip
        pseudo = data[ip + 12 : ip + 20]
    else:
        assert struct.unpack_from(">H", data, ip + 4)[0] == length
        pseudo = data[ip + 8 : ip + 40]
    assert checksum(pseudo + struct.pack(">II", length, 6) + data[at:]) == 0
    return struct.unpack_from(">I", data, at + 4)[0], data[at + 13], data[at + 32 :]


@given(st.binary(max_size=100))
def test_the_checksum_is_the_sum_of_words(data: bytes) -> None:
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    # 0 and 0xffff are the same number in ones' complement.
    assert checksum(data) % 0xFFFF == (~total & 0xFFFF) % 0xFFFF


@settings(deadline=None)
@given(st.sampled_from([4, 6]), st.binary(min_size=1, max_size=5000), st.integers(1, 1500), st.booleans())
def test_segments_are_whole_tcp_packets(version: int, payload: bytes, size: int, tagged: bool) -> None:
    data, at = tcp(version, payload, tagged=tagged)
    kind = offload.GSO_TCPV4 if version == 4 else offload.GSO_TCPV6
    parts = segment(HEADER.pack(1, kind, 0, size, at, 16, 1) + data)
    assert all(part[:HEADER_SIZE] == offload.PLAIN for part in parts)
    seen = [check_tcp(part[HEADER_SIZE:], version, at) for part in parts]
    assert b"".join(piece for _, _, piece in seen) == payload
    assert all(0 < len(piece) <= size for _, _, piece in seen)
    assert [number for number, _, _ in seen] == [(0xFFFFFF00 + size * n) & 0xFFFFFFFF for n in range(len(seen))]
    assert {flags for _, flags, _ in seen[:-1]} <= {0x10}
    assert seen[-1][1] == 0x19


def test_only_the_first_segment_says_that_the_window_was_reduced() -> None:
    data, at = tcp(4, b"x" * 300, flags=0x90)
    parts = segment(HEADER.pack(1, 1 | 0x80, 0, 100, at, 16, 1) + data)
    assert [check_tcp(part[HEADER_SIZE:], 4, at)[1] for part in parts] == [0x90, 0x10, 0x10]


@given(st.sampled_from([4, 6]), st.binary(max_size=300))
def test_a_checksum_is_completed(version: int, payload: bytes) -> None:
    data, at = tcp(version, payload)
    done = complete(HEADER.pack(1, 0, 0, 0, at, 16, 1) + data)
    assert check_tcp(done[HEADER_SIZE:], version, at)[2] == payload


@settings(max_examples=200)
@given(st.binary(min_size=10, max_size=10), st.binary(min_size=14, max_size=120), st.integers(0, 0x3FF))
def test_headers_of_any_kind_give_packets_or_a_refusal(header: bytes, data: bytes, offloads: int) -> None:
    with contextlib.suppress(Malformed):
        for part in adapt(header + b"\1\0" + data, offloads):
            assert len(part) >= HEADER_SIZE


def test_offloads_go_through_when_the_receiver_has_them(pair: Bench) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1", size_of_queue=256)
    fill(other, 60, 1526)
    data, at = tcp(4, b"x" * 30000)
    header = HEADER.pack(1, 1, at + 32, 1448, at, 16, 0)
    send(one, data, header=header)
    (packet,) = received(other)
    assert packet[HEADER_SIZE:] == data
    assert packet[:10] == header[:10]


@pytest.mark.parametrize(
    ("missing", "frames"),
    [(net.GUEST_OFFLOADS, 21), (net.F_GUEST_TSO4, 21), (net.F_GUEST_ECN, 1)],
    ids=["everything", "TSO4", "ECN"],
)
def test_what_the_receiver_has_not_is_done_for_it(pair: Bench, missing: int, frames: int) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1", size_of_queue=256, features=ALL & ~net.F_MQ & ~missing)
    fill(other, 60, 1526)
    data, at = tcp(4, b"x" * 30000)
    send(one, data, header=HEADER.pack(1, 1, at + 32, 1448, at, 16, 0))
    packets = received(other)
    assert len(packets) == frames
    if frames > 1:
        assert b"".join(check_tcp(packet[HEADER_SIZE:], 4, at)[2] for packet in packets) == b"x" * 30000


def test_the_driver_can_switch_its_offloads(pair: Bench) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1", size_of_queue=256)
    fill(other, 100, 1526)
    data, at = tcp(4, b"x" * 3000)
    header = HEADER.pack(1, 1, at + 32, 1448, at, 16, 0)
    assert control(other, 5, 0, bytes(8)) == 0
    send(one, data, header=header)
    assert len(received(other)) == 3
    assert control(other, 5, 0, struct.pack("<Q", net.GUEST_OFFLOADS)) == 0
    send(one, data, header=header)
    assert len(received(other)) == 1


def test_a_packet_that_lies_about_itself_is_dropped(pair: Bench) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1", features=ALL & ~net.F_MQ & ~net.GUEST_OFFLOADS)
    fill(other)
    data = frame(MACS["vf1"], MACS["vf0"], b"x" * 100)
    for header in (
        HEADER.pack(1, 0, 0, 0, 200, 16, 0),
        HEADER.pack(1, 1, 0, 0, 34, 16, 0),
        HEADER.pack(0, 3, *[0] * 5),
    ):
        send(one, data, header=header)
    assert received(other) == []
    assert pair.vfs["vf1"].counters()["rx_dropped"] == 3


# Peers


def peers(folder: Path, kind: str, vnet_hdr: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    a, b = str(folder / "a"), str(folder / "b")
    if kind == "dgram":
        ends = ({"local": a, "remote": b}, {"local": b, "remote": a})
    else:
        ends = ({"listen": a}, {"connect": a})
    one, other = ({"kind": kind, "vnet_hdr": vnet_hdr, **end} for end in ends)
    return {**VF0, "backend": one}, {**VF1, "backend": other}


@pytest.mark.parametrize("kind", ["dgram", "stream"])
@pytest.mark.parametrize(("vnet_hdr", "frames"), [(True, 1), (False, 21)])
def test_a_peer_behind_a_socket(tmp_path: Path, kind: str, vnet_hdr: bool, frames: int) -> None:
    with bench(tmp_path, *peers(tmp_path, kind, vnet_hdr)) as made:
        one, other = made.driver("vf0"), made.driver("vf1", size_of_queue=256)
        fill(other, 100, 1526)
        fill(one)
        data, at = tcp(4, b"x" * 30000)
        send(one, data, header=HEADER.pack(1, 1, at + 32, 1448, at, 16, 0))
        made.wait(lambda: made.vfs["vf1"].counters()["rx_packets"] == frames)
        assert len(received(other)) == frames
        send(other, frame(MACS["vf0"], MACS["vf1"], b"back" * 20))
        made.wait(lambda: made.vfs["vf0"].counters()["rx_packets"] == 1)


def test_a_stream_speaks_as_qemus_netdev_does_and_survives_a_bad_peer(tmp_path: Path) -> None:
    path = str(tmp_path / "wire")
    backend = {"kind": "stream", "listen": path, "vnet_hdr": False}
    with bench(tmp_path, {**VF0, "backend": backend}) as made:
        driver = made.driver("vf0")
        fill(driver)
        send(driver, frame(MACS["vf1"], MACS["vf0"], b"to nobody" * 9))
        assert made.vfs["vf0"].counters()["tx_dropped"] == 1
        for bad in (struct.pack(">I", 1 << 31), b""):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(path)
                made.pump()
                peer.sendall(bad) if bad else peer.shutdown(socket.SHUT_WR)
                made.pump()
                assert peer.recv(1) == b""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(path)
            made.pump()
            data = frame(MACS["vf0"], MACS["vf1"], b"hello" * 20)
            peer.sendall(struct.pack(">I", len(data)) + data[:10])
            made.pump()
            peer.sendall(data[10:] + struct.pack(">I", 3) + b"bad")
            made.pump()
            assert [got[HEADER_SIZE:] for got in received(driver)] == [data]
            assert made.vfs["vf0"].counters()["rx_dropped"] == 1
            send(driver, data)
            made.pump()
            assert peer.recv(1000) == struct.pack(">I", len(data)) + data


def test_a_cable_that_leads_nowhere(tmp_path: Path) -> None:
    with bench(tmp_path, {**VF0, "backend": {"kind": "none"}}) as made:
        driver = made.driver("vf0")
        send(driver, frame(MACS["vf1"], MACS["vf0"], b"x" * 50))
        assert made.vfs["vf0"].counters()["tx_packets"] == 1
