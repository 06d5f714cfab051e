"""lab.topology.devices: which devices and attachments each scenario gets, and that they go in the right order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.checks.process import Held
from lab.errors import DeadlineExceeded, HostError, LabError, ProductFailure, SiteLacks, Unreachable
from lab.evidence.record import Record
from lab.host.endpoints import BlockEnd, NetEnd
from lab.host.vdpa import VdpaDevice
from lab.model import DeviceClass, Level, QemuDevice
from lab.topology import devices as module
from lab.topology.devices import BlockPath, Devices, NetPath
from lab.topology.devices import Path as DataPath
from lab.topology.lab import Lab
from tests.fake_lab import did, fake_lab

MAIN, SECOND = "v1a2b3c4da", "v1a2b3c4db"
GIVEN = QemuDevice({"driver": "virtio-net-pci", "id": "dut", "vhostdev": "/dev/vhost-vdpa-0"})
FUNCTIONS = ("0000:01:00.0", "0000:02:00.0")
PARENTS = {"vp_vdpa": ["pci/0000:01:00.1", "pci/0000:01:00.2"], "vdpa_sim": ["vdpasim_net"]}


class Below:
    """Everything that devices are made of, replaced: ``seen`` is what was entered (+), left (-) or asked."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.options: dict[str, dict[str, Any]] = {}
        self.fail: dict[str, Exception] = {}

    def manager(self, label: Callable[..., str], value: Callable[..., Any]) -> Callable[..., Any]:
        @contextlib.contextmanager
        def enter(*arguments: Any, **options: Any) -> Iterator[Any]:
            name = label(*arguments)
            self.options[name] = options
            if name in self.fail:
                raise self.fail[name]
            self.seen.append(f"+{name}")
            yield value(*arguments)
            self.seen.append(f"-{name}")

        return enter

    def asked(self, label: str, value: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any, **options: Any) -> Any:
            self.seen.append(label)
            self.options[label] = options
            if label in self.fail:
                raise self.fail[label]
            return value(*arguments)

        return ask


@pytest.fixture
def below(monkeypatch: pytest.MonkeyPatch) -> Below:
    below = Below()

    def net_end(host: Any, interface: str, address: str) -> NetEnd:
        return NetEnd(host, interface, address)

    def pair(host: Any, interface: str, _names: Any, addresses: tuple[str, str]) -> tuple[NetEnd, NetEnd]:
        return NetEnd(host, interface, addresses[0]), NetEnd(host, interface, addresses[1])

    seams: dict[str, Any] = {
        "vp_vdpa.parent": below.manager(lambda *_: "vp_vdpa", lambda *_: PARENTS["vp_vdpa"]),
        "vdpa_sim.parent": below.manager(lambda *_: "vdpa_sim", lambda *_: PARENTS["vdpa_sim"]),
        "ifcvf.wait_functions": lambda _host, count: FUNCTIONS[:count],
        "ifcvf.parent": below.manager(
            lambda *_: "ifcvf", lambda _host, functions, _class: [f"pci/{f}" for f in functions]
        ),
        "vdpa.device": below.manager(
            lambda _host, name, mgmtdev: f"{name} of {mgmtdev}",
            lambda _host, name, mgmtdev: VdpaDevice(name, mgmtdev, DeviceClass.NET, 0x1AF4, 2, 256),
        ),
        "vhost_vdpa.attach": below.manager(lambda _host, device: f"vhost {device.name}", lambda *_: GIVEN),
        "virtio_vdpa.interface": below.manager(lambda _h, device: f"nic {device.name}", lambda _h, d: f"i{d.name}"),
        "virtio_vdpa.disk": below.manager(
            lambda _host, device: f"disk {device.name}", lambda host, device: BlockEnd(host, f"/dev/{device.name}", 1)
        ),
        "net.configured": below.manager(lambda _host, interface, address: f"{interface} {address}", net_end),
        "net.loopback_pair": below.manager(lambda *_: "loop", pair),
        "net.make_loopback": below.asked("loop in the guest", pair),
        "net.configure": below.asked("address in the guest", net_end),
        "net.find_interface": below.asked("interface in the guest", lambda _host, mac: f"nic-{mac[-2:]}"),
        "wait_disk": below.asked("disk in the guest", lambda host: BlockEnd(host, "/dev/vda", 1)),
    }
    for name, seam in seams.items():
        monkeypatch.setattr(f"lab.topology.devices.{name}", seam)
    return below


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with contextlib.closing(Record(tmp_path / "run")) as record:
        yield record


def bring_up(lab: Lab) -> tuple[Devices, DataPath, QemuDevice | None]:
    devices = module.make_devices(lab)
    return devices, *module.attach(lab, devices)


VP_FIRST, VP_LAST = f"+{MAIN} of pci/0000:01:00.1", f"+{SECOND} of pci/0000:01:00.2"
IFC_FIRST, IFC_LAST = f"+{MAIN} of pci/0000:01:00.0", f"+{SECOND} of pci/0000:02:00.0"
SIM_MAIN, SIM_SECOND = f"+{MAIN} of vdpasim_net", f"+{SECOND} of vdpasim_net"
PEER = [f"+nic {SECOND}", f"+i{SECOND} 10.17.0.1"]

TABLE: dict[str, tuple[list[str], type, int]] = {
    "net-vp_vdpa-vhost_vdpa-iperf3": (
        ["+vp_vdpa", VP_FIRST, VP_LAST, f"+vhost {MAIN}", "interface in the guest", "address in the guest", *PEER],
        NetPath, 1,
    ),
    "net-vp_vdpa-virtio_vdpa-iperf3": (
        ["+vp_vdpa", VP_FIRST, VP_LAST, f"+nic {MAIN}", f"+i{MAIN} 10.17.0.2", *PEER], NetPath, 0,
    ),
    "net-vdpa_sim-vhost_vdpa-loopback": (
        ["+vdpa_sim", SIM_MAIN, f"+vhost {MAIN}", "interface in the guest", "loop in the guest"], NetPath, 1,
    ),
    "net-vdpa_sim-virtio_vdpa-iperf3": (["+vdpa_sim", SIM_MAIN, f"+nic {MAIN}", "+loop"], NetPath, 0),
    "net-vdpa_sim-vhost_vdpa-migrate": (
        ["+vdpa_sim", SIM_MAIN, SIM_SECOND, f"+vhost {MAIN}", "interface in the guest", "loop in the guest"],
        NetPath, 1,
    ),
    "blk-vdpa_sim-virtio_vdpa-fio": (
        ["+vdpa_sim", SIM_MAIN, SIM_SECOND, f"+disk {MAIN}", f"+disk {SECOND}"], BlockPath, 0,
    ),
    "blk-vdpa_sim-vhost_vdpa-fio": (
        ["+vdpa_sim", SIM_MAIN, SIM_SECOND, f"+vhost {MAIN}", "disk in the guest", f"+disk {SECOND}"], BlockPath, 1,
    ),
    "blk-vp_vdpa-vhost_vdpa-fio": (["+vp_vdpa", VP_FIRST, f"+vhost {MAIN}", "disk in the guest"], BlockPath, 1),
    "blk-vp_vdpa-virtio_vdpa-fio": (["+vp_vdpa", VP_FIRST, f"+disk {MAIN}"], BlockPath, 0),
    "net-ifcvf-vhost_vdpa-iperf3": (
        ["+ifcvf", IFC_FIRST, IFC_LAST, f"+vhost {MAIN}", "interface in the guest", "address in the guest", *PEER],
        NetPath, 1,
    ),
    "net-ifcvf-virtio_vdpa-iperf3": (
        ["+ifcvf", IFC_FIRST, IFC_LAST, f"+nic {MAIN}", f"+i{MAIN} 10.17.0.2", *PEER], NetPath, 0,
    ),
    "blk-ifcvf-vhost_vdpa-fio": (["+ifcvf", IFC_FIRST, f"+vhost {MAIN}", "disk in the guest"], BlockPath, 1),
    "blk-ifcvf-virtio_vdpa-fio": (["+ifcvf", IFC_FIRST, f"+disk {MAIN}"], BlockPath, 0),
}  # fmt: skip


@pytest.mark.parametrize("scenario", TABLE)
def test_each_scenario_gets_its_devices_and_all_go_in_reverse(record: Record, below: Below, scenario: str) -> None:
    expected, kind, plugged = TABLE[scenario]
    lab = fake_lab(record, scenario)
    devices, path, given = bring_up(lab)
    assert below.seen == expected
    assert (type(path), devices.main.name) == (kind, MAIN)
    assert [one for one in did(lab) if one != "plug functions"] == ["plug dut"] * plugged
    assert (given is not None) == bool(plugged)
    below.seen.clear()
    assert lab.undo.unwind() == []
    entered = [step[1:] for step in expected if step.startswith("+")]
    assert below.seen == [f"-{step}" for step in reversed(entered)]


@pytest.mark.parametrize("cold", [True, False])
def test_qemu_lets_go_of_a_device_before_it_is_unbound(record: Record, below: Below, cold: bool) -> None:
    lab = fake_lab(record, "net-vp_vdpa-vhost_vdpa-iperf3", cold=cold)
    bring_up(lab)
    assert did(lab) == (["start l2 with 1 devices"] if cold else ["plug dut"])
    below.seen = did(lab)
    below.seen.clear()
    lab.undo.unwind()
    assert below.seen.index("quit l2") < below.seen.index(f"-vhost {MAIN}") < below.seen.index("-vp_vdpa")


def test_a_guest_that_boots_with_its_device_held_nothing_before(record: Record, below: Below) -> None:
    lab = fake_lab(record, "net-vp_vdpa-vhost_vdpa-unplug", cold=True)
    bring_up(lab)
    assert lab.guests["l2"].held_before == Held(0, ())


LATE = DeadlineExceeded("l2: it", 15)
REFUSED = HostError("l1: virtio_vdpa did not take it")


@pytest.mark.parametrize(
    ("scenario", "at", "error", "level"),
    [
        ("net-vp_vdpa-vhost_vdpa-iperf3", VP_FIRST[1:], REFUSED, Level.L1_KERNEL),
        ("net-ifcvf-vhost_vdpa-iperf3", "ifcvf", REFUSED, Level.L1_KERNEL),
        ("net-vdpa_sim-virtio_vdpa-iperf3", SIM_MAIN[1:], REFUSED, Level.L1_KERNEL),
        ("net-vp_vdpa-vhost_vdpa-iperf3", f"vhost {MAIN}", LATE, Level.L1_KERNEL),
        ("net-vp_vdpa-vhost_vdpa-iperf3", f"nic {SECOND}", REFUSED, Level.L1_KERNEL),
        ("net-vp_vdpa-virtio_vdpa-iperf3", f"nic {MAIN}", LATE, Level.L1_KERNEL),
        ("blk-vdpa_sim-virtio_vdpa-fio", f"disk {MAIN}", REFUSED, Level.L1_KERNEL),
        ("blk-vdpa_sim-virtio_vdpa-fio", f"disk {SECOND}", REFUSED, Level.L1_KERNEL),
        ("net-vp_vdpa-vhost_vdpa-iperf3", "interface in the guest", LATE, Level.L2_KERNEL),
        ("net-vp_vdpa-vhost_vdpa-iperf3", "address in the guest", LATE, Level.L2_KERNEL),
        ("net-vdpa_sim-vhost_vdpa-loopback", "interface in the guest", LATE, Level.L2_KERNEL),
        ("blk-vp_vdpa-vhost_vdpa-fio", "disk in the guest", LATE, Level.L2_KERNEL),
    ],
)
def test_what_a_kernel_refuses_or_does_not_do_is_its_fault(
    record: Record, below: Below, scenario: str, at: str, error: Exception, level: Level
) -> None:
    below.fail[at] = error
    with pytest.raises(ProductFailure, match=str(error)) as caught:
        bring_up(fake_lab(record, scenario))
    assert (caught.value.level, caught.value.machine) == (level, level[:2])


@pytest.mark.parametrize("error", [LabError("no ACCESS_PLATFORM"), SiteLacks("vhost_vdpa"), Unreachable("l1 is gone")])
def test_what_is_no_fault_of_the_kernel_stays_what_it_is(record: Record, below: Below, error: Exception) -> None:
    below.fail[f"vhost {MAIN}"] = error
    with pytest.raises(type(error)) as caught:
        bring_up(fake_lab(record, "net-vp_vdpa-vhost_vdpa-iperf3"))
    assert caught.value is error


def test_ends_of_a_network_path(record: Record, below: Below) -> None:
    lab = fake_lab(record, "net-vp_vdpa-vhost_vdpa-iperf3", sets=["attach.mtu=9000"])
    _, path, _ = bring_up(lab)
    assert isinstance(path, NetPath)
    assert (path.server.host.name, path.server.address) == ("l2", "10.17.0.2")
    assert (path.client.host.name, path.client.address) == ("l1", "10.17.0.1")
    assert path.server.interface == "nic-11"
    assert below.options[f"i{SECOND} 10.17.0.1"] == {"mtu": 9000, "netns": "n1a2b3c4db"}
    assert below.options["address in the guest"] == {"mtu": 9000}


def test_simulators_have_the_planned_mac_and_disks_have_none(record: Record, below: Below) -> None:
    lab = fake_lab(record, "net-vdpa_sim-virtio_vdpa-iperf3", sets=["attach.mtu=1400"])
    bring_up(lab)
    assert below.options[SIM_MAIN[1:]] == {"mac": lab.plan.macs["sim"], "mtu": 1400, "features": None}
    assert below.options["vdpa_sim"] == {"shared_backend": False}
    bring_up(fake_lab(record, "blk-vdpa_sim-virtio_vdpa-fio"))
    assert below.options[SIM_MAIN[1:]] == {"mac": None, "mtu": None, "features": None}
    assert below.options["vdpa_sim"] == {"shared_backend": True}


@pytest.mark.parametrize(
    ("scenario", "witness"), [("blk-vdpa_sim-vhost_vdpa-fio", f"/dev/{SECOND}"), ("blk-vp_vdpa-vhost_vdpa-fio", None)]
)
def test_a_disk_has_a_witness_where_the_provider_can_give_one(
    record: Record, below: Below, scenario: str, witness: str | None
) -> None:
    _, path, _ = bring_up(fake_lab(record, scenario))
    assert isinstance(path, BlockPath)
    assert (path.witness.device if path.witness else None) == witness
    assert path.disk.host.name == "l2"


def test_faults_are_injected_where_the_scenario_wants_them(record: Record, below: Below) -> None:
    sets = ["inject.iotlb_entries=16", "inject.rx_queue_size=1024"]
    _, _, given = bring_up(fake_lab(record, "net-vp_vdpa-vhost_vdpa-iperf3", sets=sets))
    assert given
    assert (given.device["rx_queue_size"], below.options[f"vhost {MAIN}"]["iotlb_entries"]) == (1024, 16)
    _, _, given = bring_up(fake_lab(record, "net-vp_vdpa-vhost_vdpa-iperf3"))
    assert given == GIVEN
    assert below.options[f"vhost {MAIN}"]["iotlb_entries"] > 16


@pytest.mark.parametrize(
    ("how", "made"),
    [
        ("delete", [f"+{MAIN} of pci/0000:01:00.0"]),
        ("unbind", ["+ifcvf", f"+{MAIN} of pci/0000:01:00.0"]),
        ("rescan", ["+ifcvf", f"+{MAIN} of pci/0000:01:00.0"]),
        ("unplug-parent", ["+ifcvf", f"+{MAIN} of pci/0000:01:00.0"]),
    ],
)
def test_a_device_that_was_removed_is_made_again_and_its_neighbour_left_alone(
    record: Record, below: Below, how: Any, made: list[str]
) -> None:
    lab: Any = fake_lab(record, f"net-ifcvf-vhost_vdpa-{how}")
    devices, _, _ = bring_up(lab)
    below.seen.clear()
    lab.host.answers = {"*rescan": ""}
    lab.function = lambda name: QemuDevice({"driver": "vfio-user-pci", "id": name})
    plugged: list[str] = []
    lab.l1 = SimpleNamespace(plug=lambda device: plugged.append(device.id))
    again = module.make_again(lab, devices, how)
    assert plugged == (["vf1"] if how == "unplug-parent" else [])
    assert (below.seen, again.main.name, again.second) == (made, MAIN, devices.second)
    assert [command for command in lab.host.commands if "rescan" in command] == (
        ["sh -c 'cat > \"$0\"' /sys/bus/pci/rescan"] if how == "rescan" else []
    )


def test_a_removed_device_that_does_not_come_back_is_the_kernels_fault(
    record: Record, below: Below, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_arguments: Any) -> Any:
        raise DeadlineExceeded("2 IFC functions", 20)

    lab: Any = fake_lab(record, "net-ifcvf-vhost_vdpa-rescan")
    devices, _, _ = bring_up(lab)
    lab.host.answers = {"*rescan": (1, "Input/output error")}
    with pytest.raises(ProductFailure, match="Input/output error") as caught:
        module.make_again(lab, devices, "rescan")
    assert caught.value.level is Level.L1_KERNEL
    lab.host.answers = {"*rescan": ""}
    below.fail["ifcvf"] = HostError("ifcvf did not take 0000:01:00.0")
    with pytest.raises(ProductFailure, match="did not take"):
        module.make_again(lab, devices, "rescan")
    monkeypatch.setattr("lab.topology.devices.ifcvf.wait_functions", absent)
    with pytest.raises(ProductFailure, match="2 IFC functions"):
        module.make_again(lab, devices, "rescan")


@pytest.mark.parametrize("at", ["binding", "address"])
def test_a_neighbour_that_is_refused_is_the_kernels_fault(
    record: Record, below: Below, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    functions = [f"0000:0{number}:00.0" for number in range(1, 5)]
    monkeypatch.setattr("lab.topology.devices.ifcvf.wait_functions", lambda _host, count: functions[:count])
    lab = fake_lab(record, "net-ifcvf-vhost_vdpa-neighbours")
    devices = module.make_devices(lab)
    name = devices.neighbours[0].name
    address = lab.plan.addresses["neighbours"].split()[0]
    below.fail[f"nic {name}" if at == "binding" else f"i{name} {address}"] = HostError("refused")
    with pytest.raises(ProductFailure, match="refused") as caught:
        module.join_neighbours(lab, devices)
    assert caught.value.level is Level.L1_KERNEL


def test_functions_are_plugged_before_they_are_waited_for(record: Record, below: Below) -> None:
    lab = fake_lab(record, "net-ifcvf-vhost_vdpa-iperf3")
    bring_up(lab)
    assert did(lab)[0] == "plug functions"


@pytest.mark.parametrize(("offloads", "more"), [(True, 1 << 0 | 1 << 11), (False, 0)])
def test_a_guest_that_moves_is_given_what_shadow_virtqueues_carry_and_no_offload_that_is_unwanted(
    record: Record, below: Below, monkeypatch: pytest.MonkeyPatch, offloads: bool, more: int
) -> None:
    # A packed ring is nothing that QEMU's shadow virtqueues know.
    card = SimpleNamespace(features=["CSUM", "GUEST_CSUM", "MAC", "HOST_TSO4", "VERSION_1", "RING_PACKED"])
    monkeypatch.setattr(
        "lab.topology.devices.vdpa.mgmtdevs", lambda _host: {f"pci/{function}": card for function in FUNCTIONS}
    )
    lab = fake_lab(record, "net-ifcvf-vhost_vdpa-migrate", sets=[f"action.offloads={str(offloads).lower()}"])
    module.make_devices(lab)
    wanted = 1 << 1 | 1 << 5 | 1 << 32 | more
    assert below.options[IFC_FIRST[1:]]["features"] == wanted
    assert below.options[f"{SECOND} of pci/{FUNCTIONS[1]}"]["features"] == wanted
