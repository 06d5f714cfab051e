"""Where everything lies: against the kernel's structures and what ifcvf asks for."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.ifcvf import pci, transport
from lab.ifcvf.pci import BAR_SIZES, CONFIG_SIZE, MAX_QUEUES, NOTIFY_MULTIPLIER, Function, Model, MsixTable
from lab.ifcvf.wire import Command, Region
from tests.ifcvf_client import (
    ACKNOWLEDGE,
    DISK,
    DRIVER,
    FEATURES_OK,
    VF0,
    VF1,
    Bench,
    Driver,
    DriverQueue,
    Memory,
    bench,
    capabilities,
)

# struct virtio_pci_common_cfg (include/uapi/linux/virtio_pci.h) as offset and size of each member, in order.
COMMON_CFG = {
    "device_feature_select": (0x00, 4), "device_feature": (0x04, 4), "guest_feature_select": (0x08, 4),
    "guest_feature": (0x0C, 4), "msix_config": (0x10, 2), "num_queues": (0x12, 2), "device_status": (0x14, 1),
    "config_generation": (0x15, 1), "queue_select": (0x16, 2), "queue_size": (0x18, 2), "queue_msix_vector": (0x1A, 2),
    "queue_enable": (0x1C, 2), "queue_notify_off": (0x1E, 2), "queue_desc_lo": (0x20, 4), "queue_desc_hi": (0x24, 4),
    "queue_avail_lo": (0x28, 4), "queue_avail_hi": (0x2C, 4), "queue_used_lo": (0x30, 4), "queue_used_hi": (0x34, 4),
}  # fmt: skip
# struct ifcvf_lm_cfg (drivers/vdpa/ifcvf/ifcvf_base.h): control, status, lm_mem_log_start_addr, lm_mem_log_end_addr,
# each __le64, and vq_state_region, a __le16. The driver takes `&vq_state_region + qid * 2`: every 4 bytes one.
LM_CFG = {"control": 0x00, "status": 0x08, "log_start": 0x10, "log_end": 0x18, "vq_state_region": 0x20}

HEADER = Path("/usr/include/linux/virtio_pci.h")
SIZES = {"__le32": 4, "__le16": 2, "__u8": 1}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, VF0, VF1, DISK) as one:
        yield one


def driver_of(made: Bench, name: str) -> Driver:
    memory = Memory(1 << 20)
    made.stack.callback(memory.close)
    return Driver(made.client(name), memory)


@pytest.mark.skipif(not HEADER.exists(), reason="the kernel's headers for programs are not installed")
def test_the_table_here_is_the_kernels() -> None:
    body = re.search(r"struct virtio_pci_common_cfg \{(.*?)\};", HEADER.read_text(), re.DOTALL)
    assert body
    at, found = 0, {}
    for kind, name in re.findall(r"^\s*(__le32|__le16|__u8) (\w+);", body[1], re.MULTILINE):
        found[name] = (at, SIZES[kind])
        at += SIZES[kind]
    assert found == COMMON_CFG


def test_common_configuration_is_the_kernels_structure() -> None:
    layout = transport.COMMON_CFG
    fields = re.findall(r"[A-Z]", layout.format.upper())
    sizes = [{"I": 4, "H": 2, "B": 1, "Q": 8}[field] for field in fields]
    offsets = [sum(sizes[:at]) for at in range(len(sizes))]
    ours = list(zip(offsets, sizes, strict=True))
    for name, (offset, size) in COMMON_CFG.items():
        if name.endswith("_lo"):
            assert (offset, 8) in ours
        elif not name.endswith("_hi"):
            assert (offset, size) in ours


def test_live_migration_registers(made: Bench) -> None:
    assert struct.calcsize(transport.LM_CFG.format) == LM_CFG["vq_state_region"] == transport.LM_STATE
    client = made.client("vf0")
    for queue in range(3):
        client.write(Region.BAR4, LM_CFG["vq_state_region"] + 4 * queue, struct.pack("<H", 100 + queue))
    assert [queue["last_avail"] for queue in made.vfs["vf0"].state()["queues"]] == [100, 101, 102]
    assert client.read(Region.BAR4, 0x20, 12) == struct.pack("<HHHHHH", 100, 0, 101, 0, 102, 0)
    client.write(Region.BAR4, LM_CFG["log_start"], struct.pack("<Q", 0x1234))
    assert client.number(Region.BAR4, LM_CFG["log_start"], 8) == 0x1234
    client.call(Command.RESET)
    assert client.read(Region.BAR4, 0, 0x40) == bytes(0x40)


def test_a_queue_starts_where_its_state_says(made: Bench) -> None:
    driver = driver_of(made, "vf0")
    driver.memory.give(driver.client)
    driver.start(numbers=[])
    queue = DriverQueue(driver.memory, 1, 64, event_idx=True)
    queue.avail_idx = queue.used_idx = 77
    for place in (queue.avail + 2, queue.used + 2):
        driver.memory.write(place, struct.pack("<H", 77))
    driver.client.write(Region.BAR4, 0x20 + 4, struct.pack("<H", 77))
    driver.place(queue, vector=0)
    head = queue.add([bytes(100)])
    driver.kick(queue)
    assert [entry[0] for entry in queue.take()] == [head]
    assert driver.client.number(Region.BAR4, 0x24, 2) == 78
    driver.client.write(Region.BAR4, 0x24, b"\0\0")  # not while it runs
    assert driver.client.number(Region.BAR4, 0x24, 2) == 78
    driver.set_common(0x16, 2, 1)
    driver.set_common(0x1C, 2, 0)
    assert driver.client.number(Region.BAR4, 0x24, 2) == 78


def place_of(capability: int, read: Callable[[int], int]) -> int:
    """Where a capability is, as a guest finds it: byte by byte."""
    at = read(0x34)
    while read(at) != capability:
        at = read(at + 1)
        assert at
    return at


@pytest.mark.parametrize(
    ("name", "ids", "code"),
    [
        ("vf0", (0x1AF4, 0x1041, 0x8086, 0x001A), 0x0200),
        ("vf1", (0x1AF4, 0x1000, 0x8086, 0x0001), 0x0200),
        ("disk0", (0x1AF4, 0x1001, 0x8086, 0x0002), 0x0100),
    ],
)
def test_ids_and_capabilities_are_what_ifcvf_binds_to(made: Bench, name: str, ids: tuple[int, ...], code: int) -> None:
    space = made.client(name).read(Region.CONFIG, 0, CONFIG_SIZE)
    assert struct.unpack_from("<HH", space, 0) + struct.unpack_from("<HH", space, 0x2C) == ids
    assert struct.unpack_from("<H", space, 0x0A) == (code,)
    assert space[0x06] & 0x10
    found = capabilities(space)
    assert {"common", "notify", "isr", "device", "msix", "express"} <= set(found)
    for structure in ("common", "notify", "isr", "device"):
        bar, offset, length = found[structure]
        assert bar in BAR_SIZES
        assert offset + length <= BAR_SIZES[bar]
    assert found["common"][2] >= 56
    assert found["notify"][2] >= MAX_QUEUES * NOTIFY_MULTIPLIER
    # vhost_vdpa maps a doorbell into a guest only when it has a page of its own.
    assert found["multiplier"] == (4096,)
    _control, table, pending = found["msix"]
    assert (table & 7, pending & 7) == (2, 2)
    assert (pending & ~7) >= (table & ~7) + 16 * pci.MAX_VECTORS
    assert found["express"][1] & 1 << 28
    for bar in (0, 2, 4):
        assert struct.unpack_from("<I", space, 0x10 + 4 * bar)[0] & 0xF == 0xC  # 64 bit, prefetchable


def test_the_network_header_has_room_for_every_queue() -> None:
    assert BAR_SIZES[0] >= pci.NOTIFY + MAX_QUEUES * NOTIFY_MULTIPLIER


def test_features_are_read_in_halves_and_negotiated(made: Bench) -> None:
    driver = driver_of(made, "vf0")
    offered = made.vfs["vf0"].state()["features"]
    assert driver.offered == offered
    driver.set_status(ACKNOWLEDGE | DRIVER)
    driver.accept(offered)
    driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
    assert driver.status == ACKNOWLEDGE | DRIVER | FEATURES_OK
    driver.accept(0)  # too late
    assert made.vfs["vf0"].state()["negotiated"] == offered


@pytest.mark.parametrize("features", [0, 1 << 33, 1 << 32 | 1 << 50], ids=["none", "no VERSION_1", "not offered"])
def test_features_that_cannot_be_are_not_accepted(made: Bench, features: int) -> None:
    driver = driver_of(made, "vf0")
    driver.set_status(ACKNOWLEDGE | DRIVER)
    driver.accept(features)
    driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
    assert driver.status == ACKNOWLEDGE | DRIVER


def test_the_order_of_vhost_vdpa(made: Bench) -> None:
    """FEATURES_OK without ACKNOWLEDGE and DRIVER, doorbells before DRIVER_OK, and that before the queues."""
    driver = made.driver("vf0", numbers=[], features=1 << 33)
    driver.set_status(0)
    driver.accept(1 << 32 | 1 << 33)
    driver.set_status(FEATURES_OK)
    assert driver.status == FEATURES_OK
    other = made.driver("vf1", vdpa_order=True)
    head = other.queues[1].add([bytes(64)])
    other.kick(other.queues[1])
    assert [entry[0] for entry in other.queues[1].take()] == [head]


@pytest.mark.parametrize("size", [0, 3, 63, 2048, 65535])
def test_sizes_that_no_queue_has_are_left_alone(made: Bench, size: int) -> None:
    driver = driver_of(made, "vf0")
    driver.set_common(0x18, 2, size)
    assert driver.common(0x18, 2) == 1024


def test_what_is_no_queue(made: Bench) -> None:
    driver = driver_of(made, "vf0")
    driver.set_common(0x16, 2, 3)
    assert driver.common(0x18, 2) == 0
    for offset, size, value in ((0x18, 2, 64), (0x1A, 2, 0), (0x1C, 2, 1), (0x20, 4, 1)):
        driver.set_common(offset, size, value)
    driver.client.write(Region.BAR0, pci.NOTIFY + 3 * NOTIFY_MULTIPLIER, b"\3\0")
    assert driver.common(0x1C, 2) == 0


def test_vectors_that_are_not_there_read_back_as_none(made: Bench) -> None:
    driver = driver_of(made, "vf0")
    for offset in (0x10, 0x1A):
        driver.set_common(offset, 2, 4)
        assert driver.common(offset, 2) == 0xFFFF
        driver.set_common(offset, 2, 3)
        assert driver.common(offset, 2) == 3


def test_parts_of_registers_are_not_written(made: Bench) -> None:
    driver = driver_of(made, "vf0")
    driver.client.write(Region.BAR0, 0x09, b"\1")
    driver.client.write(Region.BAR0, 0x00, bytes(56))
    assert driver.common(0x08, 4) == 0


def test_addresses_may_be_written_at_once(made: Bench) -> None:
    driver = driver_of(made, "vf0")
    driver.set_common(0x28, 8, 0x1_2345_6780)
    assert driver.common(0x28, 8) == 0x1_2345_6780


@pytest.mark.parametrize("how", ["status", "message", "function level"])
def test_every_reset_forgets_everything(made: Bench, how: str) -> None:
    driver = made.driver("vf0")
    client = driver.client
    client.write(Region.CONFIG, 4, b"\x06\x00", posted=False)
    if how == "status":
        driver.set_status(0)
    elif how == "message":
        client.call(Command.RESET)
    else:
        express = place_of(0x10, lambda at: client.number(Region.CONFIG, at, 1))
        client.write(Region.CONFIG, express + 8, b"\x00\x80", posted=False)
        assert client.number(Region.CONFIG, express + 8, 2) == 0
    state = made.vfs["vf0"].state()
    assert (state["status"], state["negotiated"]) == (0, 0)
    assert not any(queue["enabled"] or queue["last_avail"] for queue in state["queues"])
    assert client.number(Region.CONFIG, 4, 2) == (6 if how == "status" else 0)
    assert driver.common(0x10, 2) == 0xFFFF


def test_bars_can_be_sized_through_configuration_space(made: Bench) -> None:
    client = made.client("vf0")
    for bar, size in BAR_SIZES.items():
        client.write(Region.CONFIG, 0x10 + 4 * bar, b"\xff" * 8)
        assert client.number(Region.CONFIG, 0x10 + 4 * bar, 8) == (1 << 64) - size | 0xC
    client.write(Region.CONFIG, 0, b"\xff" * 4)
    assert client.number(Region.CONFIG, 0, 2) == 0x1AF4


def own_msix(vectors: int = 2) -> tuple[Function, MsixTable, list[tuple[int, int]]]:
    sent: list[tuple[int, int]] = []
    function = Function(Model.N3000_NET.identity, 24, vectors, own_msix=True, reset=lambda: None)
    return function, MsixTable(function, vectors, lambda *message: sent.append(message)), sent


def test_own_msix_is_hidden_from_who_reads_everything_at_once() -> None:
    function, _table, _sent = own_msix()
    found = capabilities(function.read(0, 256))
    assert "msix" not in found
    byte_by_byte = b"".join(function.read(at, 1) for at in range(256))
    assert capabilities(byte_by_byte)["msix"][0] == 1


def test_own_msix_sends_a_message_when_it_may() -> None:
    function, table, sent = own_msix()
    at = place_of(0x11, lambda at: function.read(at, 1)[0])
    table.raise_vector(1)
    table.write(16, struct.pack("<QII", 0xFEE01000, 0x4041, 0))
    assert sent == []  # MSI-X is not enabled
    assert table.armed == 0
    function.write(at + 2, struct.pack("<H", 0xC000))
    table.deliver()
    assert sent == []  # all are masked
    assert table.read(pci.MSIX_PENDING, 8) == b"\2" + bytes(7)
    function.write(at + 2, struct.pack("<H", 0x8000))
    table.deliver()
    assert sent == [(0xFEE01000, 0x4041)]
    assert table.armed == 1
    assert table.read(pci.MSIX_PENDING, 8) == bytes(8)
    table.raise_vector(0)
    assert len(sent) == 1  # it is masked, and sent when it is not
    table.write(12, struct.pack("<I", 0))
    assert sent[1:] == [(0, 0)]
    table.raise_vector(2)
    assert len(sent) == 2


def test_own_msix_goes_to_the_client_as_a_write_to_memory(tmp_path: Path) -> None:
    with bench(tmp_path, {**VF0, "msix": "device"}) as made:
        client = made.client("vf0")
        at = place_of(0x11, lambda at: client.number(Region.CONFIG, at, 1))
        client.write(Region.CONFIG, at + 2, struct.pack("<H", 0x8000), posted=False)
        client.write(Region.BAR2, 0, struct.pack("<QII", 0xFEE00000, 0x31, 0))
        assert made.vfs["vf0"].state()["vectors"] == 1
        made.vfs["vf0"]._signal(0)
        message = client.receive()
        assert message is not None
        assert message[1:3] == (Command.DMA_WRITE, 0x10)
        assert message[4] == struct.pack("<QII", 0xFEE00000, 4, 0x31) + bytes(4)
