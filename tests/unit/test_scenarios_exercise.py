"""lab.scenarios.exercise: the proof is taken around a workload that ends, and around each side of an action."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.actions.migrate import Migration
from lab.actions.unplug import Unplugged
from lab.checks.process import Held
from lab.config.finding import load_findings
from lab.errors import DeadlineExceeded, LabError, ProductFailure
from lab.evidence.record import Record
from lab.host.endpoints import BlockEnd, NetEnd
from lab.host.vdpa import VdpaDevice
from lab.model import Check, DeviceClass, Level, Metric, QemuDevice, Verdict, WorkloadResult
from lab.scenarios import exercise as module
from lab.scenarios.exercise import Findings, exercise
from lab.scenarios.findings import apply
from lab.topology.devices import BlockPath, Devices, NetPath
from tests.fake_lab import did, fake_lab

NODE = "/dev/vhost-vdpa-0"
NIC = QemuDevice({"driver": "virtio-net-pci", "id": "dut"}, {"type": "vhost-vdpa", "id": "dut-back", "vhostdev": NODE})
BLOCK = QemuDevice({"driver": "vhost-vdpa-device-pci", "id": "dut", "vhostdev": NODE})
MAIN = VdpaDevice("v1a", "pci/0000:01:00.1", DeviceClass.NET, 0x1AF4, 2, 256)
SECOND = VdpaDevice("v1b", "pci/0000:01:00.2", DeviceClass.NET, 0x1AF4, 2, 256)
NAMES = {
    "tx bytes",
    "tx_bytes",
    "rx_bytes",
    "kicks",
    "interrupts",
    "rx bytes",
    "tx packets",
    "rx packets",
    "irqs",
    "backend_to",
    "backend_from",
    "wr_bytes",
    "rd_bytes",
}
MOVED = {"to_server": 1000, "from_server": 1000, "written": 1000, "read": 1000}
RAM_KB = 256 << 10


class Traffic:
    """A workload: while it goes on, every counter of the device that carries it grows at each look."""

    def __init__(self, world: World, label: str) -> None:
        self.world, self.label = world, label
        world.did.append(f"start {label}")
        world.flowing = True

    def finish(self, _timeout_s: float | None = None) -> WorkloadResult:
        self.world.did.append(f"finish {self.label}")
        self.world.step(self.label)
        self.world.count()
        self.world.flowing = False
        return WorkloadResult((Metric("tcp", 9.0, "Mbit/s"),), (Check("iperf3", Verdict.PASS, "9", ">= 1"),), MOVED)

    def stop(self) -> None:
        self.world.did.append(f"stop {self.label}")
        self.world.flowing = False

    def rehost(self, old: Any, new: Any) -> None:
        self.world.did.append(f"rehost from {old.name} to {new.name}")


class World:
    """What is below an exercise; ``dead`` names devices whose counters do not move, ``fail`` what raises."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.counted: dict[str, int] = {}
        self.carrier = MAIN.name
        self.dead: set[str] = set()
        self.flowing = False
        self.fail: dict[str, Exception] = {}
        self.held = [Held(0, (NODE,)), Held(RAM_KB, (NODE,)), Held(0, ())]
        self.released = "feature negotiation not complete"
        self.looks: dict[str, str] = {}
        self.kept = 40
        self.kept_per_look = 0
        self.kept_looks = 0
        self.not_asked: set[int] = set()
        self.host: Any = SimpleNamespace(name="l2dst")

    def step(self, name: str) -> None:
        if name in self.fail:
            raise self.fail[name]

    def count(self) -> None:
        if self.carrier not in self.dead:
            self.counted[self.carrier] = self.counted.get(self.carrier, 0) + 5000

    def sample(self, _lab: Any, device: VdpaDevice, *, often: bool = False) -> dict[str, int]:
        assert often is self.flowing, "only who waits for traffic looks often"
        if self.flowing:
            self.count()
        return dict.fromkeys(NAMES, self.counted.get(device.name, 0))

    def describe(self, end: NetEnd) -> str:
        self.did.append(f"describe {end.interface} of {end.host.name}")
        return self.looks.get(end.host.name, "eth1 UP 52:54:00:00:00:01 10.0.0.2/24")

    def kept_by_driver(self, _end: NetEnd) -> int:
        self.kept_looks += 1
        if self.kept_looks in self.not_asked:
            raise LabError("gone")
        self.kept += self.kept_per_look
        return self.kept

    def unplug(self, *_arguments: Any) -> Unplugged:
        self.did.append("unplug")
        self.step("unplug")
        return Unplugged(0.5)

    def migrate(self, *_arguments: Any) -> Migration:
        self.did.append("migrate")
        self.step("migrate")
        self.carrier = SECOND.name
        return Migration(1000, 50, 1)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    seams: dict[str, Any] = {
        "sample": world.sample,
        "released": lambda *_arguments: world.released,
        "iperf3.start": lambda *_arguments, label, level: Traffic(world, label),
        "iperf3.start_background": lambda *_arguments, **_options: Traffic(world, "background"),
        "fio.start": lambda *_arguments, label, level: Traffic(world, label),
        "unplug.run": world.unplug,
        "migrate.run": world.migrate,
        "topology.judge": lambda *_arguments, **_options: [Check("C01", Verdict.PASS, "x", "x")],
        "process.look": lambda *_arguments: world.held.pop(0),
        "bringup.give_to_guest": lambda _lab, _device: NIC,
        "net.describe": world.describe,
        "net.kept_by_driver": world.kept_by_driver,
        "bringup.loop_in_guest": lambda *_arguments: NetPath(
            NetEnd(world.host, "loop0", "10.0.0.2", "n1"), NetEnd(world.host, "loop0", "10.0.0.1", "n2")
        ),
        "bringup.address_in_guest": lambda *_arguments: world.did.append("address"),
        "integrity.write": lambda *_arguments: "digest",
        "integrity.read": lambda *_arguments: "digest",
    }
    for name, seam in seams.items():
        monkeypatch.setattr(f"lab.scenarios.exercise.{name}", seam)
    monkeypatch.setattr(module, "_FLOWING_S", 0.2)
    return world


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with contextlib.closing(Record(tmp_path / "run")) as record:
        yield record


def run(
    record: Record, scenario: str, found: Findings | None = None, *, inuse: dict[int, int] | None = None
) -> tuple[Any, Findings]:
    """Exercise a scenario; what its machines did is noted with everything else."""
    lab: Any = fake_lab(record, scenario)
    found = found if found is not None else Findings()
    guest = lab.plan.guests
    host = lab.guests["l2"].host if guest else lab.host
    path: Any = NetPath(NetEnd(host, "eth1", "10.0.0.2", "n1"), NetEnd(lab.host, "eth2", "10.0.0.1"))
    if scenario.startswith("blk"):
        witness = BlockEnd(lab.host, "/dev/vdb", 1) if "vdpa_sim" in scenario else None
        path = BlockPath(BlockEnd(host, "/dev/vda", 1), witness)
    given = (BLOCK if scenario.startswith("blk") else NIC) if guest else None

    def moved(source: Any, destination: Any) -> Any:
        destination.host = destination.shell = SimpleNamespace(name="l2dst")
        return destination.shell

    lab.guest_moved = moved
    lab.inuse.update(inuse or {})
    exercise(lab, Devices(MAIN, SECOND), path, given, found)
    return lab, found


def failed(found: Findings) -> list[str]:
    return [check.name for check in found.checks if check.verdict is not Verdict.PASS]


def proofs(found: Findings) -> list[str]:
    return [check.name for check in found.checks if check.proof]


def steps(record: Record) -> list[str]:
    events = map(json.loads, (record.path / "events.jsonl").read_text().splitlines())
    return [event["step"] for event in events if event["event"] == "step-begin"]


PLAIN = [
    "net-vp_vdpa-vhost_vdpa-iperf3", "net-vp_vdpa-virtio_vdpa-iperf3", "net-vdpa_sim-vhost_vdpa-loopback",
    "net-vdpa_sim-virtio_vdpa-iperf3", "blk-vdpa_sim-virtio_vdpa-fio", "blk-vdpa_sim-vhost_vdpa-fio",
    "blk-vp_vdpa-vhost_vdpa-fio", "blk-vp_vdpa-virtio_vdpa-fio",
]  # fmt: skip


@pytest.mark.parametrize("scenario", PLAIN)
def test_a_live_device(record: Record, world: World, scenario: str) -> None:
    _, found = run(record, scenario)
    assert failed(found) == []
    assert proofs(found)
    assert [metric.name for metric in found.metrics] == ["tcp"]
    names = [check.name for check in found.checks]
    assert names[0] == "C01"
    assert ("open vhostdev node" in names) == ("vhost" in scenario)
    assert world.did == ["start ", "finish "]


@pytest.mark.parametrize("scenario", [name for name in PLAIN if not name.startswith("blk-vdpa_sim")])
def test_a_dead_device(record: Record, world: World, scenario: str) -> None:
    world.dead.add(MAIN.name)
    _, found = run(record, scenario)
    assert set(proofs(found)) <= set(failed(found))


@pytest.mark.parametrize(
    ("digest", "verdict"), [("another", Verdict.FAIL), (None, Verdict.ERROR), ("digest", Verdict.PASS)]
)
def test_a_simulated_disk_is_read_through_its_witness(
    record: Record, world: World, monkeypatch: pytest.MonkeyPatch, digest: str | None, verdict: Verdict
) -> None:
    monkeypatch.setattr("lab.scenarios.exercise.integrity.read", lambda *_arguments: digest)
    _, found = run(record, "blk-vdpa_sim-vhost_vdpa-fio")
    assert [check.verdict for check in found.checks if check.proof] == [verdict]


def test_what_was_found_before_an_error_is_kept(record: Record, world: World) -> None:
    world.fail[""] = LabError("the client is gone")
    found = Findings()
    with pytest.raises(LabError, match="the client is gone"):
        run(record, "net-vp_vdpa-vhost_vdpa-iperf3", found)
    assert [check.name for check in found.checks] == ["C01", "open vhostdev node"]


def test_unplug(record: Record, world: World) -> None:
    lab, found = run(record, "net-vp_vdpa-vhost_vdpa-unplug")
    assert failed(found) == []
    assert world.did == [
        "start before", "finish before", "start background", "unplug", "stop background", "address",
        "start after", "finish after",
    ]  # fmt: skip
    assert did(lab) == ["plug dut"]
    assert steps(record) == ["unplug", "plug"]
    assert len(proofs(found)) == 6
    assert {"unplug_device_deleted", "tcp"} == {metric.name for metric in found.metrics}
    assert "pinned guest memory" in [check.name for check in found.checks]


@pytest.mark.parametrize(
    ("held", "names"),
    [
        ([Held(RAM_KB, (NODE,)), Held(0, (NODE,))], ["open vhostdev node"]),
        ([Held(RAM_KB, (NODE,)), Held(RAM_KB, ())], ["pinned guest memory"]),
        ([Held(0, (NODE,)), Held(0, ())], ["pinned guest memory"]),
        ([None, None], ["open vhostdev node", "pinned guest memory"]),
    ],
    ids=["still open", "still pinned", "never pinned", "could not look"],
)
def test_a_device_that_is_not_free_again(
    record: Record, world: World, held: list[Held | None], names: list[str]
) -> None:
    world.held[1:] = held  # type: ignore[assignment]
    assert failed(run(record, "net-vp_vdpa-vhost_vdpa-unplug")[1]) == names


def test_nothing_is_unplugged_before_traffic_flows(record: Record, world: World) -> None:
    world.dead.add(MAIN.name)
    with pytest.raises(DeadlineExceeded, match="v1a: irqs to grow"):
        run(record, "net-vp_vdpa-vhost_vdpa-unplug")
    assert "unplug" not in world.did


def test_a_look_that_fails_is_no_counter_of_zero(record: Record, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([{"irqs": 5}, {"irqs": 9}, {}, *[{"irqs": 9}] * 100])
    monkeypatch.setattr(module, "sample", lambda *_arguments, **_options: next(looks))
    with pytest.raises(DeadlineExceeded, match="v1a: irqs to grow"):
        run(record, "net-vp_vdpa-vhost_vdpa-unplug")


def test_a_guest_that_refuses(record: Record, world: World) -> None:
    world.fail["unplug"] = ProductFailure("refused", level=Level.L2_KERNEL, machine="l2")
    found = Findings()
    with pytest.raises(ProductFailure):
        run(record, "net-vp_vdpa-vhost_vdpa-unplug", found)
    assert proofs(found)


def test_migrate(record: Record, world: World) -> None:
    lab, found = run(record, "net-vdpa_sim-vhost_vdpa-migrate")
    assert failed(found) == []
    assert did(lab) == ["start l2dst with 1 devices, incoming"]
    assert world.did == [
        "start source", "finish source", "describe eth1 of l2", "start background", "migrate",
        "rehost from l2 to l2dst", "describe eth1 of l2dst", "stop background", "finish background",
        "start destination", "finish destination",
    ]  # fmt: skip
    assert steps(record) == ["destination", "migrate"]
    assert "traffic goes on at the destination" in proofs(found)
    assert {"migration_total", "migration_downtime", "migration_ram"} <= {metric.name for metric in found.metrics}


def test_a_guest_that_leaves_its_card_keeps_its_interface_and_makes_its_traffic_anew(
    record: Record, world: World
) -> None:
    _, found = run(record, "net-ifcvf-vhost_vdpa-migrate-vdpa_sim")
    assert failed(found) == []
    assert world.did == [
        "start source", "finish source", "describe eth1 of l2", "start background", "migrate",
        "rehost from l2 to l2dst", "describe eth1 of l2dst", "stop background",
        "start destination", "finish destination",
    ]  # fmt: skip
    assert "traffic goes on at the destination" not in proofs(found)


@pytest.mark.parametrize("after", ["eth1 DOWN 52:54:00:00:00:01 10.0.0.2/24", "eth1 UP 52:54:00:00:00:01"])
@pytest.mark.parametrize("scenario", ["net-vdpa_sim-vhost_vdpa-migrate", "net-ifcvf-vhost_vdpa-migrate-vdpa_sim"])
def test_an_interface_that_does_not_survive(record: Record, world: World, scenario: str, after: str) -> None:
    world.looks["l2dst"] = after
    _, found = run(record, scenario)
    assert failed(found) == ["interface survives the migration"]
    [check] = [check for check in found.checks if check.verdict is Verdict.FAIL]
    assert (check.level, check.seen) == (Level.L1_QEMU, after)


def test_a_source_that_still_drives_its_device(record: Record, world: World) -> None:
    world.released = ""
    assert failed(run(record, "net-vdpa_sim-vhost_vdpa-migrate")[1]) == ["source silent after migration"]


def test_traffic_that_does_not_go_on_at_the_destination(record: Record, world: World) -> None:
    world.dead.add(SECOND.name)
    _, found = run(record, "net-vdpa_sim-vhost_vdpa-migrate")
    assert "traffic goes on at the destination" in failed(found)


@pytest.mark.parametrize(("kept", "stalled"), [(2, Verdict.PASS), (0, Verdict.FAIL)])
def test_a_stall_is_known_when_the_guest_waits_for_a_buffer_that_qemu_has_lost(
    record: Record, world: World, kept: int, stalled: Verdict
) -> None:
    world.dead.add(SECOND.name)
    world.kept_per_look = kept
    name = "net-ifcvf-vhost_vdpa-migrate-no_svq"
    _, found = run(record, name, inuse={1: 3})
    stall, lost = "traffic goes on at the destination", "buffers given back"
    checks = {check.name: check for check in found.checks if check.name in (stall, lost)}
    assert {(check.verdict, check.level) for check in checks.values()} == {(Verdict.FAIL, Level.L1_QEMU)}
    after, ids = apply(
        list(checks.values()), load_findings(), scenario=name, kernel="6.12", qemu_l0="11.1.3", qemu_l1="11.1.3"
    )
    assert ids == ("F018",)
    assert {check.name: check.verdict for check in after if check.name in checks} == {
        lost: Verdict.PASS, stall: stalled,
    }  # fmt: skip
    # A queue that is dead for new connections too is no part of the finding.
    dead = [check for check in found.checks if check.name.startswith("data path") and check.verdict is Verdict.FAIL]
    after, _ = apply(found.checks, load_findings(), scenario=name, kernel="6.12", qemu_l0="11.1.3", qemu_l1="11.1.3")
    assert dead
    assert [check for check in after if check in dead] == dead


@pytest.mark.parametrize("gone", [{1, 2}, {1}, {2}])
def test_a_stall_is_one_also_when_the_guest_cannot_be_asked(record: Record, world: World, gone: set[int]) -> None:
    world.dead.add(SECOND.name)
    world.kept_per_look, world.not_asked = 5, gone
    _, found = run(record, "net-vdpa_sim-vhost_vdpa-migrate")
    [check] = [check for check in found.checks if check.name == "traffic goes on at the destination"]
    assert (check.verdict, "TCP" in check.seen) == (Verdict.FAIL, False)


def test_traffic_that_flows_is_no_stall_whatever_tcp_waited_for(record: Record, world: World) -> None:
    world.kept_per_look = 5
    assert failed(run(record, "net-vdpa_sim-vhost_vdpa-migrate")[1]) == []


def test_what_the_device_at_the_destination_counts_and_nobody_can_read_is_unproven(
    record: Record, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(lab: Any, device: VdpaDevice, *, often: bool = False) -> dict[str, int]:
        return {} if device is SECOND and often else world.sample(lab, device, often=often)

    monkeypatch.setattr(module, "sample", sample)
    _, found = run(record, "net-vdpa_sim-vhost_vdpa-migrate")
    [check] = [check for check in found.checks if check.name == "traffic goes on at the destination"]
    assert (check.verdict, check.seen) == (Verdict.ERROR, "v1b: tx bytes could not be read")


def test_a_path_that_was_dead_before_the_migration_is_told(record: Record, world: World) -> None:
    world.dead.add(MAIN.name)
    found = Findings()
    with pytest.raises(DeadlineExceeded):
        run(record, "net-vdpa_sim-vhost_vdpa-migrate", found)
    assert "data path: tx bytes" in failed(found)
    assert "migrate" not in world.did


def test_a_migration_that_fails(record: Record, world: World) -> None:
    world.fail["migrate"] = ProductFailure("blocked", level=Level.L1_QEMU, machine="l2")
    with pytest.raises(ProductFailure, match="blocked"):
        run(record, "net-vdpa_sim-vhost_vdpa-migrate")
