"""Every fault, as the driver sees it; switched off, the device is whole again."""

from __future__ import annotations

import os
import re
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import proc
from lab.ifcvf import faults
from lab.ifcvf.faults import FAULTS
from lab.ifcvf.net import NetDevice
from lab.ifcvf.offload import HEADER_SIZE
from lab.ifcvf.pci import CONFIG_SIZE
from lab.ifcvf.wire import Command, Region
from tests.ifcvf_client import (
    DISK,
    FEATURES_OK,
    IN,
    MACS,
    VF0,
    VF1,
    Bench,
    Closed,
    Driver,
    Memory,
    bench,
    capabilities,
    fill,
    frame,
    received,
    request,
    send,
)

DATA = frame(MACS["vf1"], MACS["vf0"], bytes(range(100)))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, VF0, VF1, DISK) as made:
        yield made


def switch(made: Bench, vf: str, name: str, on: bool = True, **given: int) -> None:
    values, problems = faults.parameters(name, dict(given), net=made.vfs[vf].config.is_net)
    assert not problems
    made.vfs[vf].switch_fault(name, values if on else None)


def struck(made: Bench, vf: str, name: str) -> int:
    return made.vfs[vf].faults.struck[name]


def test_reset_hangs_until_it_is_switched_off(pair: Bench) -> None:
    driver = pair.driver("vf0")
    before = driver.status
    switch(pair, "vf0", "reset-hangs")
    driver.set_status(0)
    assert driver.status == before
    assert pair.vfs["vf0"].events(0)[-1]["what"] == "a reset was asked for and hangs"
    switch(pair, "vf0", "reset-hangs", on=False)
    assert driver.status == 0
    assert struck(pair, "vf0", "reset-hangs") == 1


def test_a_reset_that_came_another_way_is_not_owed_any_more(pair: Bench) -> None:
    driver = pair.driver("vf0")
    switch(pair, "vf0", "reset-hangs")
    driver.set_status(0)
    driver.client.call(Command.RESET)
    driver.set_status(1)
    switch(pair, "vf0", "reset-hangs", on=False)
    assert driver.status == 1


def test_status_reads_as_from_a_card_that_is_gone(pair: Bench) -> None:
    driver = pair.driver("vf0")
    switch(pair, "vf0", "status-ff")
    assert driver.status == 0xFF
    assert driver.common(0x12, 2) == 3
    assert struck(pair, "vf0", "status-ff") == 1
    switch(pair, "vf0", "status-ff", on=False)
    assert driver.status == 15


def test_features_are_refused(pair: Bench) -> None:
    driver = pair.driver("vf0")
    switch(pair, "vf0", "features-refused")
    driver.set_status(0)
    driver.accept(driver.offered)
    driver.set_status(FEATURES_OK | 3)
    assert driver.status == 3
    switch(pair, "vf0", "features-refused", on=False)
    driver.set_status(FEATURES_OK | 3)
    assert driver.status == FEATURES_OK | 3


def test_other_features_are_offered(pair: Bench) -> None:
    driver = pair.driver("vf0")
    offered = driver.offered
    switch(pair, "vf0", "features-changed", clear=1 << 15 | 1, set=1 << 60)
    assert driver.offered == offered & ~(1 << 15 | 1) | 1 << 60
    assert driver.interrupts(3) == 1
    switch(pair, "vf0", "features-changed", on=False)
    assert driver.offered == offered


def test_fewer_vectors_from_the_next_connection_on(tmp_path: Path) -> None:
    with bench(tmp_path, {**VF0, "faults": {"fewer-vectors": {"vectors": 2}}}) as made:
        client = made.client("vf0")
        assert capabilities(client.read(Region.CONFIG, 0, CONFIG_SIZE))["msix"][0] == 1
        reply = client.call(Command.GET_IRQ_INFO, struct.pack("<IIII", 16, 0, 2, 0))
        assert struct.unpack("<IIII", reply)[3] == 2
        driver = Driver(client, Memory(4096))
        driver.set_common(0x10, 2, 2)
        assert driver.common(0x10, 2) == 0xFFFF
        switch(made, "vf0", "fewer-vectors", on=False)
        client.close()
        again = made.client("vf0")
        assert capabilities(again.read(Region.CONFIG, 0, CONFIG_SIZE))["msix"][0] == 3


def test_interrupts_get_lost(pair: Bench) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1")
    fill(other, 40)
    switch(pair, "vf1", "irq-lost", every=3)
    seen = []
    for number in range(9):
        other.queues[0].set_used_event(number)
        send(one, DATA)
        seen.append(other.interrupts(0))
    assert seen == [1, 1, 0] * 3
    assert struck(pair, "vf1", "irq-lost") == 3
    assert len(received(other)) == 9


def test_interrupts_come_without_a_cause(pair: Bench) -> None:
    driver = pair.driver("vf0")
    switch(pair, "vf0", "irq-spurious", period_ms=1)
    pair.wait(lambda: struck(pair, "vf0", "irq-spurious") >= 3)
    assert all(driver.interrupts(vector) >= 2 for vector in range(4))
    switch(pair, "vf0", "irq-spurious", on=False)
    assert all(driver.interrupts(vector) >= 0 for vector in range(4))  # what was still there
    pair.loop.step(0.01)
    assert not any(driver.interrupts(vector) for vector in range(4))


def test_a_queue_stalls_and_goes_on(pair: Bench) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1")
    fill(other)
    switch(pair, "vf0", "queue-stall", queue=1)
    head = one.queues[1].add([bytes(HEADER_SIZE), DATA])
    one.kick(one.queues[1])
    assert one.queues[1].take() == []
    assert struck(pair, "vf0", "queue-stall")
    switch(pair, "vf0", "queue-stall", on=False)
    assert [entry[0] for entry in one.queues[1].take()] == [head]
    assert len(received(other)) == 1


def test_a_receive_queue_stalls_and_goes_on(pair: Bench) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1")
    fill(other)
    switch(pair, "vf1", "queue-stall", queue=0)
    send(one, DATA)
    assert received(other) == []
    assert struck(pair, "vf1", "queue-stall")
    switch(pair, "vf1", "queue-stall", on=False)
    assert len(received(other)) == 1


def test_used_lengths_and_ids_are_wrong(pair: Bench) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1")
    fill(other)
    switch(pair, "vf1", "used-length", queue=0, length=7)
    send(one, DATA)
    assert [entry[1] for entry in other.queues[0].take()] == [7]
    switch(pair, "vf1", "used-id", queue=0, id=60000)
    send(one, DATA)
    assert [entry[:2] for entry in other.queues[0].take()] == [(60000, 7)]
    switch(pair, "vf1", "used-length", on=False)
    switch(pair, "vf1", "used-id", on=False)
    send(one, DATA)
    assert [entry[1] for entry in other.queues[0].take()] == [len(DATA) + HEADER_SIZE]
    assert (struck(pair, "vf1", "used-length"), struck(pair, "vf1", "used-id")) == (2, 1)


def test_what_is_received_is_corrupt(pair: Bench) -> None:
    one, other = pair.driver("vf0"), pair.driver("vf1")
    fill(other)
    switch(pair, "vf1", "corrupt", every=2, offset=20)
    send(one, DATA, DATA, DATA[:19])
    first, second, third = (data[HEADER_SIZE:] for data in received(other))
    assert first == DATA
    assert second == DATA[:20] + bytes([DATA[20] ^ 0xFF]) + DATA[21:]
    assert third == DATA[:19]
    assert struck(pair, "vf1", "corrupt") == 1


def test_what_is_read_is_corrupt(pair: Bench) -> None:
    driver = pair.driver("disk0")
    switch(pair, "disk0", "corrupt", offset=600)
    assert request(driver, IN, 0, room=1024)[1] == bytes(600) + b"\xff" + bytes(423)
    switch(pair, "disk0", "corrupt", on=False)
    assert request(driver, IN, 0, room=1024)[1] == bytes(1024)


def test_a_slow_device_serves_later(pair: Bench) -> None:
    driver = pair.driver("disk0")
    switch(pair, "disk0", "slow", ms=30)
    driver.queues[0].add([struct.pack("<IIQ", 4, 0, 0)], [1])
    driver.kick(driver.queues[0])
    assert driver.queues[0].take() == []
    pair.wait(driver.queues[0].take)
    switch(pair, "disk0", "slow", on=False)
    assert request(driver, 4)[0] == 0


def test_the_link_flaps_and_is_up_afterwards(pair: Bench) -> None:
    driver = pair.driver("vf0")
    device = pair.vfs["vf0"].device
    assert isinstance(device, NetDevice)
    switch(pair, "vf0", "link-flap", period_ms=10)
    pair.wait(lambda: struck(pair, "vf0", "link-flap") >= 3)
    assert driver.interrupts(3) >= 3
    pair.wait(lambda: not device.link_up)
    switch(pair, "vf0", "link-flap", on=False)
    assert device.link_up


def test_the_generation_never_rests(pair: Bench) -> None:
    driver = pair.driver("vf0")
    switch(pair, "vf0", "config-storm", period_ms=1)
    assert len({driver.common(0x15, 1) for _ in range(5)}) == 5
    pair.wait(lambda: driver.interrupts(3))
    switch(pair, "vf0", "config-storm", on=False)
    assert driver.common(0x15, 1) == driver.common(0x15, 1)


@pytest.mark.parametrize(("write", "command", "size"), [(0, Command.DMA_READ, 16), (1, Command.DMA_WRITE, 32)])
@pytest.mark.parametrize("error", [0, 14])
def test_dma_outside_the_map_goes_through_the_client(
    pair: Bench, write: int, command: Command, size: int, error: int
) -> None:
    driver = pair.driver("vf0")
    switch(pair, "vf0", "dma-outside", iova=0x1234000, length=16, write=write)
    message = driver.client.receive()
    assert message is not None
    number, kind, flags, _error, body = message
    assert (kind, flags, len(body)) == (command, 0, size)
    assert struct.unpack_from("<QI", body) == (0x1234000, 16)
    driver.client.answer(number, kind, b"" if error else body, error)
    pair.pump()
    event = pair.vfs["vf0"].events(0)[-1]
    assert (event["what"], event["refused"]) == ("DMA by the device at 0x1234000", bool(error))


def test_the_connection_is_cut(pair: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    driver = pair.driver("vf0")
    switch(pair, "vf0", "disconnect")
    with pytest.raises(Closed):
        driver.client.read(Region.CONFIG, 0, 2)
    assert pair.vfs["vf0"].faults.on == {}
    assert pair.client("vf0").number(Region.CONFIG, 0, 2) == 0x1AF4
    assert "fault: disconnect" in [event.get("why") for event in pair.vfs["vf0"].events(0)]
    assert capsys.readouterr().err == "", "what was commanded is no problem"


def test_the_process_dies(tmp_path: Path) -> None:
    script = "from lab.ifcvf.vf import Vf; Vf._die(None, {}); print('still there')"
    done = proc.run([os.environ.get("PYTHON", "python3"), "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b""


def test_several_faults_at_once_and_one_less(pair: Bench) -> None:
    driver = pair.driver("vf0")
    switch(pair, "vf0", "status-ff")
    switch(pair, "vf0", "irq-lost", every=2)
    switch(pair, "vf0", "status-ff", on=False)
    assert pair.vfs["vf0"].faults.on == {"irq-lost": {"every": 2}}
    assert driver.status == 15


@pytest.mark.parametrize(
    ("name", "given", "net"),
    [
        ("nonsense", {}, True), ("irq-lost", {"every": 0}, True), ("irq-lost", {"every": "3"}, True),
        ("irq-lost", {"every": True}, True), ("irq-lost", {"often": 1}, True), ("link-flap", {}, False),
        ("used-length", {"length": 1 << 32}, True),
    ],
)  # fmt: skip
def test_faults_that_cannot_be(name: str, given: dict[str, Any], net: bool) -> None:
    assert faults.parameters(name, given, net=net)[1]


def test_the_manual_has_every_fault_with_its_parameters() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "ifcvf.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|([^|]*)\|", manual[manual.index("## Faults") :], re.MULTILINE))
    assert {name: set(re.findall(r"`(\w+)`", row)) for name, row in rows.items()} == {
        name: set(fault.parameters) for name, fault in FAULTS.items()
    }


def test_there_is_a_test_for_every_fault() -> None:
    source = Path(__file__).read_text()
    untested: Callable[[str], bool] = lambda name: f'"{name}"' not in source and name != "death"  # noqa: E731
    assert not list(filter(untested, FAULTS))
