"""The vfio-user protocol: framing, descriptors, limits, and what each command answers."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.ifcvf import wire
from lab.ifcvf.pci import BAR_SIZES, CONFIG_SIZE
from lab.ifcvf.wire import HEADER, MAX_MESSAGE, Command, Flag, Irq, Region
from tests.ifcvf_client import VF0, Bench, Client, Closed, ErrorReply, Memory, bench


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, VF0) as made:
        yield made


def test_version_says_what_the_server_takes(one: Bench) -> None:
    client = one.client("vf0", version=False)
    capabilities = client.version()["capabilities"]
    assert capabilities == {
        "max_msg_fds": 16,
        "max_data_xfer_size": 8192,
        "pgsizes": 4096,
        "max_dma_maps": 65535,
        "write_multiple": True,
    }


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(struct.pack("<HH", 1, 0) + b"{}\0", id="another major version"),
        pytest.param(struct.pack("<HH", 0, 0) + b"{no json\0", id="no JSON"),
        pytest.param(struct.pack("<HH", 0, 0) + b"[]\0", id="no object"),
        pytest.param(struct.pack("<HH", 0, 0) + b"[" * 10000 + b"\0", id="nested for ever"),
        pytest.param(struct.pack("<HH", 0, 0) + b"\xff\xfe\0", id="no text"),
    ],
)
def test_a_version_that_cannot_be_understood_ends_the_connection(one: Bench, body: bytes) -> None:
    client = one.client("vf0", version=False)
    with pytest.raises(Closed):
        client.call(Command.VERSION, body)
    one.client("vf0")  # and the next one is served


def test_nothing_is_answered_before_version(one: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Closed):
        one.client("vf0", version=False).call(Command.GET_INFO, bytes(16))
    assert capsys.readouterr().err == "vf0: the first message is not VERSION\n"


@pytest.mark.parametrize("asked", [0, 3], ids=["idle", "before its answers"])
def test_a_client_that_goes_is_no_problem(one: Bench, capsys: pytest.CaptureFixture[str], asked: int) -> None:
    client = one.client("vf0")
    # Not raw(): that would let the server answer before the client has gone.
    client.sock.sendall(HEADER.pack(1, Command.RESET, HEADER.size, 0, 0) * asked)
    client.sock.close()
    one.pump()
    assert one.vfs["vf0"].events(0)[-1]["why"].startswith("the client has gone")
    assert capsys.readouterr().err == ""


def test_version_comes_once(one: Bench) -> None:
    client = one.client("vf0")
    with pytest.raises(Closed):
        client.version()


def test_device_and_regions(one: Bench) -> None:
    client = one.client("vf0")
    _argsz, flags, regions, irqs = wire.DEVICE_INFO.unpack(client.call(Command.GET_INFO, bytes(16)))
    assert (flags, regions, irqs) == (wire.DEVICE_RESETS | wire.DEVICE_IS_PCI, 9, 5)
    sizes = {}
    for index in range(regions):
        reply = client.call(Command.GET_REGION_INFO, struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0))
        _argsz, flags, got, _capabilities, size, _offset = wire.REGION_INFO.unpack(reply)
        assert got == index
        assert flags == (3 if size else 0)
        sizes[index] = size
    assert {index: size for index, size in sizes.items() if size} == {**BAR_SIZES, Region.CONFIG: CONFIG_SIZE}
    with pytest.raises(ErrorReply):
        client.call(Command.GET_REGION_INFO, struct.pack("<IIIIQQ", 32, 0, 9, 0, 0, 0))


def test_only_msix_can_interrupt_and_has_a_vector_for_each_queue_and_one_more(one: Bench) -> None:
    client = one.client("vf0")
    counts = {}
    for index in range(5):
        reply = client.call(Command.GET_IRQ_INFO, struct.pack("<IIII", 16, 0, index, 0))
        counts[index] = wire.IRQ_INFO.unpack(reply)[3]
    assert counts == {Irq.INTX: 0, Irq.MSI: 0, Irq.MSIX: 4, Irq.ERR: 0, Irq.REQ: 0}


@pytest.mark.parametrize(
    ("region", "offset", "count"),
    [(0, BAR_SIZES[0], 1), (0, BAR_SIZES[0] - 1, 2), (1, 0, 4), (9, 0, 1), (7, 0, 0), (7, 2**64 - 1, 8), (0, 0, 8193)],
)
def test_accesses_outside_a_region_are_refused(one: Bench, region: int, offset: int, count: int) -> None:
    client = one.client("vf0")
    with pytest.raises(ErrorReply) as refusal:
        client.read(region, offset, count)
    assert refusal.value.errno == errno.EINVAL
    assert client.number(Region.CONFIG, 0, 2) == 0x1AF4


def test_posted_writes_are_not_answered_and_others_are(one: Bench) -> None:
    client = one.client("vf0")
    client.write(Region.BAR4, 0x20, b"\x07\x00", posted=False)
    client.write(Region.BAR4, 0x24, b"\x08\x00")
    assert client.receive() is None
    assert client.read(Region.BAR4, 0x20, 8) == b"\x07\0\0\0\x08\0\0\0"


def test_a_posted_write_that_is_refused_is_not_answered_either(one: Bench) -> None:
    client = one.client("vf0")
    client.write(Region.BAR4, 1 << 40, b"\0")
    assert client.number(Region.CONFIG, 0, 2) == 0x1AF4
    assert one.vfs["vf0"].events(0)[-1]["what"] == "refused"


def test_many_writes_in_one_message(one: Bench) -> None:
    client = one.client("vf0")
    entry = struct.Struct("<QII8s")
    writes = [entry.pack(0x20 + 4 * at, Region.BAR4, 2, bytes([at + 1, 0])) for at in range(3)]
    assert client.call(Command.WRITE_MULTI, struct.pack("<Q", 3) + b"".join(writes)) == struct.pack("<Q", 3)
    assert client.read(Region.BAR4, 0x20, 12) == b"\1\0\0\0\2\0\0\0\3\0\0\0"
    for bad in (struct.pack("<Q", 4) + b"".join(writes), struct.pack("<Q", 2**63), struct.pack("<Q", 1) + b"\xff" * 24):
        with pytest.raises(ErrorReply):
            client.call(Command.WRITE_MULTI, bad)


@pytest.mark.parametrize("command", [0, 6, 11, 12, 14, 16, 65535])
def test_commands_that_the_server_does_not_have(one: Bench, command: int) -> None:
    client = one.client("vf0")
    number = client.send(command, bytes(64))
    one.pump()
    message = client.receive()
    assert message is not None
    assert message[:4] == (number, command, Flag.REPLY | Flag.ERROR, errno.EOPNOTSUPP)


@pytest.mark.parametrize("command", [c for c in Command if c not in (Command.VERSION, Command.GET_INFO, Command.RESET)])
def test_a_body_that_is_too_short_is_refused(one: Bench, command: Command) -> None:
    client = one.client("vf0")
    with pytest.raises(ErrorReply):
        client.call(command, b"\0")


@pytest.mark.parametrize("size", [0, HEADER.size - 1, MAX_MESSAGE + 1, 2**32 - 1])
def test_a_size_that_no_message_has_ends_the_connection(one: Bench, size: int) -> None:
    client = one.client("vf0")
    client.raw(HEADER.pack(1, Command.RESET, size, 0, 0))
    one.pump()
    with pytest.raises(Closed):
        client.receive()


def test_a_reply_to_nothing_ends_the_connection(one: Bench) -> None:
    client = one.client("vf0")
    client.raw(HEADER.pack(1, Command.DMA_READ, HEADER.size, Flag.REPLY, 0))
    one.pump()
    with pytest.raises(Closed):
        client.receive()


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(1, 200), max_size=12))
def test_messages_may_come_in_any_pieces(cuts: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    with bench(tmp_path_factory.mktemp("cut"), VF0) as made:
        client = made.client("vf0")
        write = wire.ACCESS.pack(0x20, Region.BAR4, 2) + b"\x05\x00"
        read = wire.ACCESS.pack(0x20, Region.BAR4, 2)
        stream = HEADER.pack(7, Command.REGION_WRITE, HEADER.size + len(write), Flag.NO_REPLY, 0) + write
        stream += HEADER.pack(8, Command.REGION_READ, HEADER.size + len(read), 0, 0) + read
        at = 0
        for cut in [*sorted(cuts), len(stream)]:
            if at < cut:
                client.raw(stream[at:cut])
                made.pump()
                at = min(cut, len(stream))
        message = client.receive()
        assert message is not None
        assert (message[0], message[4][-2:]) == (8, b"\x05\x00")


def fds_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_descriptors_that_no_message_wants_are_closed(one: Bench) -> None:
    client = one.client("vf0")
    before = fds_open()
    with open(os.devnull) as null:
        for _ in range(20):
            client.call(Command.GET_INFO, bytes(16), fds=[null.fileno()] * 5)
    assert fds_open() == before


def test_too_many_descriptors_end_the_connection_and_leave_none(one: Bench) -> None:
    client = one.client("vf0")
    before = fds_open()
    with open(os.devnull) as null, pytest.raises(Closed):
        client.call(Command.GET_INFO, bytes(16), fds=[null.fileno()] * 40)
    client.sock.close()
    assert fds_open() == before - 2  # the connection's two ends


def test_descriptors_twice_for_one_message_end_the_connection(one: Bench) -> None:
    client = one.client("vf0")
    with open(os.devnull) as null:
        message = HEADER.pack(1, Command.GET_INFO, HEADER.size + 16, 0, 0) + bytes(16)
        client.raw(message[:8], [null.fileno()])
        one.pump()
        client.raw(message[8:12], [null.fileno()])
        one.pump()
    with pytest.raises(Closed):
        client.receive()


def test_a_descriptor_belongs_to_the_message_it_came_with(one: Bench) -> None:
    """A DMA_MAP whose bytes come in two pieces keeps its memory."""
    client = one.client("vf0")
    memory = Memory(1 << 16)
    body = wire.DMA_MAP.pack(32, 3, 0, 0x10000, 0x1000)
    message = HEADER.pack(9, Command.DMA_MAP, HEADER.size + len(body), 0, 0) + body
    client.raw(message[:10], [memory.fd])
    one.pump()
    client.raw(message[10:])
    one.pump()
    assert client.receive() is not None
    assert one.vfs["vf0"].dma(False) == [{"iova": 0x10000, "size": 0x1000, "writable": True}]
    memory.close()


@pytest.mark.parametrize(
    ("fds", "start", "count", "index"),
    [(2, 0, 1, Irq.MSIX), (1, 0, 2, Irq.MSIX), (1, 4, 1, Irq.MSIX), (1, 2**32 - 1, 1, Irq.MSIX), (1, 0, 1, Irq.INTX)],
)
def test_interrupts_that_do_not_fit_are_refused(one: Bench, fds: int, start: int, count: int, index: Irq) -> None:
    client = one.client("vf0")
    before = fds_open()
    with open(os.devnull) as null, pytest.raises(ErrorReply):
        client.set_irqs(start, [null.fileno()] * fds, count=count, index=index)
    assert fds_open() == before


def test_interrupts_are_let_go(one: Bench) -> None:
    client = one.client("vf0")
    before = fds_open()
    fd = os.eventfd(0)
    client.set_irqs(0, [fd, fd])
    assert one.vfs["vf0"].state()["vectors"] == 2
    client.set_irqs(0, [], count=1)
    assert one.vfs["vf0"].state()["vectors"] == 1
    client.call(Command.SET_IRQS, wire.IRQ_SET.pack(20, wire.SET_NONE | wire.SET_TRIGGER, Irq.MSIX, 0, 0))
    assert one.vfs["vf0"].state()["vectors"] == 0
    os.close(fd)
    assert fds_open() == before


def test_a_second_client_is_turned_away_and_the_first_not_disturbed(one: Bench) -> None:
    first = one.client("vf0")
    second = Client(one.vfs["vf0"].config.socket, one.pump)
    one.pump()
    with pytest.raises(Closed):
        second.receive()
    second.sock.close()
    assert first.number(Region.CONFIG, 0, 2) == 0x1AF4


def test_a_client_that_does_not_read_is_given_up(one: Bench) -> None:
    client = one.client("vf0")
    body = wire.ACCESS.pack(0, Region.CONFIG, 4096)
    message = HEADER.pack(1, Command.REGION_READ, HEADER.size + len(body), 0, 0) + body

    def ask_for_ever() -> None:
        for _ in range(100):
            client.raw(message * 100)
            one.pump()

    with pytest.raises(Closed):
        ask_for_ever()
    assert not one.vfs["vf0"].state()["connected"]


def test_a_new_client_finds_the_device_reset_and_without_memory(one: Bench) -> None:
    driver = one.driver("vf0")
    assert one.vfs["vf0"].state()["status"]
    driver.client.close()
    state = one.vfs["vf0"].state()
    assert (state["connected"], state["status"], state["dma_ranges"], state["vectors"]) == (False, 0, 0, 0)
    assert one.client("vf0").number(Region.CONFIG, 0, 2) == 0x1AF4
