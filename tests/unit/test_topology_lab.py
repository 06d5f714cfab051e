"""lab.topology.lab: what is started with what, in which order, and that all of it is undone in reverse."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.config.catalog import load_scenario
from lab.config.request import RunRequest
from lab.config.site import NestedSite, SshSite
from lab.errors import LabError, MachineDied, SiteLacks
from lab.evidence.record import Record
from lab.host.fake import FakeHost
from lab.host.ssh import SshAddress
from lab.machine.accel import Acceleration
from lab.machine.argv import Guest2, Host1
from lab.machine.keys import make_key
from lab.model import Accel, Level, QemuDevice
from lab.topology import lab as module
from lab.topology.attachable import entrances
from lab.topology.lab import Lab
from lab.topology.plan import plan
from lab.topology.undo import Undo

NIC = QemuDevice({"driver": "virtio-net-pci", "id": "dut"}, {"type": "vhost-vdpa", "id": "dut-back"})


class Shell(FakeHost):
    """A machine that was logged in to."""

    def __init__(self, name: str, world: World) -> None:
        super().__init__({"*": ""}, world.folder / f"shell-{name}", name)
        self.world = world

    def close(self) -> None:
        self.world.did.append(f"close {self.name}")


class FakeMachine:
    """Stands for lab.machine.machine.Machine."""

    world: World

    def __init__(self, name: str, process: Any, record: Record, level: Level) -> None:
        self.name, self.process, self.level = name, process, level
        self.ready_s = 0.0

    def launch(self, *, incoming: bool = False, slowness: float = 1.0) -> None:
        self.world.step(f"launch {self.name}{' incoming' if incoming else ''}")
        self.world.slowness[self.name] = slowness

    def wait_ready(self, _deadline: object) -> None:
        self.world.step(f"ready {self.name}")
        self.ready_s = self.world.ready_s[self.name]

    def forwarded_port(self) -> int:
        return 40000 + len(self.world.did)

    def log_in(self, address: SshAddress, _deadline: object, *, jump: Any = None) -> Shell:
        self.world.step(f"login {self.name}{f' through {jump.name}' if jump else ''}")
        self.world.addresses[self.name] = address
        return Shell(self.name, self.world)

    def quit(self) -> None:
        self.world.did.append(f"quit {self.name}")


class World:
    """Everything below a Lab, replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.did: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.ready_s = {"l1": 5.0, "l2": 50.0}
        self.slowness: dict[str, float] = {}
        self.addresses: dict[str, SshAddress] = {}
        self.host_spec: Host1 | None = None
        self.guest_specs: list[Guest2] = []
        self.qemus: list[Sequence[str]] = []
        self.probed: list[tuple[str, str]] = []

    def step(self, name: str) -> None:
        self.did.append(name)
        if name in self.fail:
            raise self.fail[name]

    def host_argv(self, spec: Host1, _qemu: Sequence[str], _fd: int) -> list[str]:
        self.host_spec = spec
        return ["qemu"]

    def guest_argv(self, spec: Guest2, qemu: Sequence[str]) -> list[str]:
        self.qemus.append(qemu)
        self.guest_specs.append(spec)
        return ["qemu"]

    def choose(self, want: str, host: Any, _qemu: object, kernel: str, *_cache: object, **_of: str) -> Acceleration:
        self.probed.append((host.name, want))
        if "accel" in self.fail:
            raise self.fail["accel"]
        return Acceleration(Accel.TCG, f"probed with {kernel}")


def local_qemu(folder: Path, argv: Any, run_dir: Path) -> Any:
    argv(7)
    return SimpleNamespace(folder=folder, run_dir=run_dir)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    FakeMachine.world = world
    remote = {"NestedQemu": lambda folder, host: SimpleNamespace(folder=folder, remote=f"{host.scratch}/{folder.name}")}
    seams = {"Machine": FakeMachine, "LocalQemu": local_qemu, "host_argv": world.host_argv} | remote
    seams |= {"guest_argv": world.guest_argv, "connect": lambda name, *_arguments: Shell(name, world)}
    for name, seam in seams.items():
        monkeypatch.setattr(module, name, seam)
    monkeypatch.setattr("lab.machine.accel.choose", world.choose)
    monkeypatch.setattr("lab.proc.run", lambda argv, **_options: Path(argv[-1]).touch())
    return world


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with contextlib.closing(Record(tmp_path / "run")) as record:
        yield record


def artifacts(folder: Path, *, qemu_in_l1: Path | None = None) -> Any:
    for name in ("vmlinux", "guest.cpio"):
        (folder / name).write_text(name)
    return SimpleNamespace(
        kernel=SimpleNamespace(
            bzimage=folder / "bzImage", vmlinux=folder / "vmlinux", key="k", disk=folder / "kernel.squashfs"
        ),
        host_image=SimpleNamespace(path=folder / "root.ext4"),
        guest_image=SimpleNamespace(disk=folder / "guest.squashfs", cpio=folder / "guest.cpio"),
        qemu_l0=SimpleNamespace(argv=("qemu",), img=("qemu-img",), digest="d"),
        qemu_l1=SimpleNamespace(argv=("qemu",), disk=qemu_in_l1),
    )


def make(
    record: Record, world: World, name: str = "net-vp_vdpa-vhost_vdpa-iperf3", *, real: bool = False,
    sets: Sequence[str] = (), qemu_in_l1: Path | None = None, **options: Any,
) -> Lab:  # fmt: skip
    site: NestedSite | SshSite = NestedSite(kind="nested", summary="here")
    if real:
        key = make_key(world.folder / "key")
        site = SshSite(kind="ssh", summary="there", address="192.0.2.1", identity=key.private, host_key=key.public)
    request = RunRequest(scenario=name, **options)
    made = plan(name, load_scenario(name, sets)[1], site, request, "1a2b3c4d")
    return Lab(made, artifacts(world.folder, qemu_in_l1=qemu_in_l1), record, Undo(record))


def files(record: Record) -> set[str]:
    return {str(path.relative_to(record.path)) for path in record.path.rglob("*") if path.is_file()}


def test_up_and_down(record: Record, world: World) -> None:
    lab = make(record, world)
    assert not lab.connected
    lab.start_host()
    guest = lab.start_guest("l2")
    assert world.did == ["launch l1", "ready l1", "login l1", "launch l2", "ready l2", "login l2 through l1"]
    assert (lab.host.name, guest.shell.name, list(lab.machines)) == ("l1", "l2", ["l1", "l2"])
    assert {"machines/l1/root.qcow2", "secrets/identity"} <= files(record)
    assert set(entrances(record.path)) == {"l1", "l2"}
    world.did.clear()
    assert lab.undo.unwind() == []
    assert world.did == ["close l2", "quit l2", "close l1", "quit l1"]
    assert not {name for name in files(record) if name.startswith("secrets/") or name.endswith(("qcow2", "raw"))}


def test_keys_are_made_for_the_run_and_pinned(record: Record, world: World) -> None:
    lab = make(record, world)
    lab.start_host()
    lab.start_guest("l2")
    of_l1, of_l2 = world.addresses["l1"], world.addresses["l2"]
    assert of_l1.identity == of_l2.identity == record.path / "secrets" / "identity"
    assert of_l1.host_key == (record.path / "secrets" / "l1-host-key.pub").read_text().strip()
    assert len({of_l1.host_key, of_l2.host_key}) == 2
    assert of_l1.host == "127.0.0.1"
    assert world.host_spec
    assert world.host_spec.secrets["host_key"] == str(record.path / "secrets" / "l1-host-key")
    assert isinstance(lab.host, FakeHost)
    assert "sh -c 'cat > \"$0\"' /run/vdpalab/l2/host_key" in lab.host.commands
    assert "chmod 600 /run/vdpalab/l2/host_key" in lab.host.commands


@pytest.mark.parametrize(
    ("l1", "l2", "slowness"), [(1.0, 10.0, (1.0, 1.0)), (2.0, 20.0, (1.0, 1.0)), (20.0, 50.0, (10.0, 2.5))]
)
def test_slowness_is_measured_and_stretches_every_limit(
    record: Record, world: World, l1: float, l2: float, slowness: tuple[float, float]
) -> None:
    world.ready_s = {"l1": l1, "l2": l2}
    lab = make(record, world)
    lab.start_host()
    guest = lab.start_guest("l2")
    assert (lab.slowness["l1"], lab.slowness["l2"]) == slowness
    assert (lab.host.slowness, guest.shell.slowness) == (slowness[0], 3 * slowness[1])
    assert world.slowness["l2"] == slowness[0]
    assert {(m.name, m.value) for m in lab.metrics()} == {
        ("l1_ready", l1), ("l2_ready", l2), ("l1_slowness", slowness[0]), ("l2_slowness", slowness[1]),
    }  # fmt: skip


@pytest.mark.parametrize("ready_s", [1.0, 4.0, 600.0])
def test_watchdogs_of_the_kernel_are_set_and_within_what_it_takes(record: Record, world: World, ready_s: float) -> None:
    world.ready_s["l1"] = ready_s
    lab = make(record, world)
    lab.start_host()
    assert isinstance(lab.host, FakeHost)
    [command] = [command for command in lab.host.commands if "watchdog_thresh" in command]
    thresh, hung, stall = map(int, command.split()[-3:])
    # kernel/watchdog.c and kernel/rcu/tree_stall.h: no more is taken.
    assert 20 <= thresh <= 60
    assert 60 <= stall <= 300
    assert hung >= max(60, min(ready_s, 120) / 2 * 60)


def test_an_incoming_guest_has_the_key_of_the_one_that_moves(record: Record, world: World) -> None:
    lab = make(record, world, "net-vdpa_sim-vhost_vdpa-migrate")
    lab.start_host()
    source, destination = lab.start_guest("l2"), lab.start_guest("l2dst", [NIC], incoming=True)
    assert world.did[-1] == "launch l2dst incoming"
    assert source.key == destination.key
    assert [(spec.incoming, spec.devices) for spec in world.guest_specs] == [(False, ()), (True, (NIC,))]
    with pytest.raises(LabError, match="l2dst does not answer yet"):
        destination.shell  # noqa: B018
    moved = lab.guest_moved(source, destination)
    assert world.did[-2:] == ["close l2", "login l2dst through l1"]
    assert (destination.shell, source.host) == (moved, None)
    assert set(entrances(record.path)) == {"l1", "l2dst"}, "`shell l2` would lead to nobody"
    assert world.addresses["l2dst"].port != world.addresses["l2"].port


@pytest.mark.parametrize(
    ("name", "sets", "vfs", "blocks", "offered"),
    [
        ("net-vp_vdpa-vhost_vdpa-iperf3", ["device.vfs=5"], 5, 0, True),
        ("net-vp_vdpa-vhost_vdpa-iperf3", ["device.access_platform=false"], 2, 0, False),
        ("blk-vp_vdpa-virtio_vdpa-fio", [], 0, 1, True),
        ("blk-vp_vdpa-virtio_vdpa-fio", ["device.access_platform=false"], 0, 1, False),
        ("net-vdpa_sim-vhost_vdpa-loopback", [], 0, 0, True),
    ],
)
def test_hardware_of_l1(
    record: Record, world: World, name: str, sets: list[str], vfs: int, blocks: int, offered: bool
) -> None:
    lab = make(record, world, name, sets=sets)
    lab.start_host()
    spec = world.host_spec
    assert spec
    assert (len(spec.sriov.vf_macs) if spec.sriov else 0, len(spec.blocks)) == (vfs, blocks)
    assert all(part.access_platform is offered for part in (spec.sriov, *spec.blocks) if part)
    if spec.sriov:
        assert spec.sriov.vf_macs[0] == lab.plan.macs["vf1"]
    for block in spec.blocks:
        assert Path(block.path).stat().st_size == 128 << 20
    assert lab.undo.unwind() == []
    assert "machines/l1/vpblk0.raw" not in files(record)


@pytest.mark.parametrize(("disk", "serials"), [(None, ["root", "kernel", "guest"]), (Path("/q"), [
    "root", "kernel", "guest", "qemu"])])  # fmt: skip
def test_disks_of_l1(record: Record, world: World, disk: Path | None, serials: list[str]) -> None:
    make(record, world, qemu_in_l1=disk).start_host()
    assert world.host_spec
    assert [disk.serial for disk in world.host_spec.disks] == serials
    assert [disk.qcow2 for disk in world.host_spec.disks] == [True] + [False] * (len(serials) - 1)


class FakeModel:
    """Stands for the device model; ``did`` is the world's."""

    world: World

    def __init__(self, folder: Path, _run_dir: Path, vfs: Sequence[Any]) -> None:
        self.names = tuple(vf["name"] for vf in vfs)
        self.folder = folder

    def start(self) -> None:
        self.world.step("start model")

    def stop(self) -> None:
        self.world.did.append("stop model")

    def poll(self) -> int | None:
        return None

    def check_alive(self) -> bool:
        return True


@pytest.mark.parametrize("cold", [False, True])
def test_functions_of_the_device_model(
    record: Record, world: World, monkeypatch: pytest.MonkeyPatch, cold: bool
) -> None:
    FakeModel.world = world
    monkeypatch.setattr(module, "DeviceModel", FakeModel)
    plugged: list[Any] = []
    monkeypatch.setattr(FakeMachine, "plug", lambda _self, device: plugged.append(device.device), raising=False)
    lab = make(record, world, "net-ifcvf-vhost_vdpa-iperf3", sets=["device.vfs=3"], cold=cold)
    lab.start_host()
    lab.plug_functions()
    assert world.did[0] == "start model", "QEMU connects when the device is made"
    assert world.host_spec
    functions = [f.device().device for f in world.host_spec.functions] or plugged
    assert (len(world.host_spec.functions), len(plugged)) == ((3, 0) if cold else (0, 3))
    assert [f["socket"] for f in functions] == [
        {"type": "unix", "path": f"../ifcvf/vf{n}.sock"} for n in (1, 2, 3)
    ]  # fmt: skip
    assert len({f["bus"] for f in functions}) == 3 <= world.host_spec.spare_ports
    assert lab.host.watch
    lab.stop_watching()
    assert lab.host.watch is None
    world.did.clear()
    assert lab.undo.unwind() == []
    assert world.did[-1] == "stop model", "it outlives the kernel that has it for hardware"


@pytest.mark.parametrize(("iommu", "passes"), [("passthrough", True), ("translated", False)])
def test_the_iommu_of_l1(
    record: Record, world: World, monkeypatch: pytest.MonkeyPatch, iommu: str, passes: bool
) -> None:
    FakeModel.world = world
    monkeypatch.setattr(module, "DeviceModel", FakeModel)
    make(record, world, "net-ifcvf-virtio_vdpa-iperf3", sets=[f"device.iommu={iommu}"]).start_host()
    assert world.host_spec
    words = world.host_spec.boot.append.split()
    assert ("intel_iommu=on" in words, "iommu=pt" in words) == (True, passes)


def test_a_guest_in_huge_pages(record: Record, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeModel.world = world
    monkeypatch.setattr(module, "DeviceModel", FakeModel)

    @contextlib.contextmanager
    def huge_pages(_host: Any, megabytes: int) -> Iterator[None]:
        world.did.append(f"+{megabytes} MiB")
        yield
        world.did.append(f"-{megabytes} MiB")

    monkeypatch.setattr("lab.host.memory.huge_pages", huge_pages)
    lab = make(record, world, "net-ifcvf-vhost_vdpa-iperf3")
    lab.start_host()
    lab.start_guest("l2")
    assert [spec.huge_pages for spec in world.guest_specs] == [True]
    assert world.did.index("+256 MiB") < world.did.index("launch l2")
    world.did.clear()
    lab.undo.unwind()
    assert world.did.index("quit l2") < world.did.index("-256 MiB"), "pages in use cannot be given back"


@pytest.mark.parametrize(("dead", "expendable", "ends"), [(False, False, 0), (True, False, 1), (False, True, 1)])
def test_what_nobody_can_undo_is_ended_first(
    record: Record, world: World, monkeypatch: pytest.MonkeyPatch, dead: bool, expendable: bool, ends: int
) -> None:
    FakeModel.world = world
    monkeypatch.setattr(module, "DeviceModel", FakeModel)
    monkeypatch.setattr(FakeModel, "poll", lambda _self: -9 if dead else None)
    lab = make(record, world, "net-ifcvf-vhost_vdpa-iperf3")
    lab.start_host()
    lab.expendable = expendable
    world.did.clear()
    lab.abandon_if_expendable()
    assert world.did == ["quit l1"] * ends


@pytest.mark.parametrize(("pcap", "size"), [(False, 64), (True, 65535)])
def test_pcap(record: Record, world: World, pcap: bool, size: int) -> None:
    make(record, world, pcap=pcap).start_host()
    assert world.host_spec
    assert world.host_spec.pcap_bytes == size


def test_a_guest_with_private_ram(record: Record, world: World) -> None:
    lab = make(record, world, sets=["inject.private_ram=true"])
    lab.start_host()
    lab.start_guest("l2")
    assert [spec.shared_ram for spec in world.guest_specs] == [False]


@pytest.mark.parametrize(("want", "of_l2"), [("auto", "auto"), ("kvm", "auto"), ("tcg", "tcg")])
def test_kvm_is_demanded_of_l1_and_welcome_in_l2(record: Record, world: World, want: str, of_l2: str) -> None:
    lab = make(record, world, accel=want)
    lab.start_host()
    lab.start_guest("l2")
    lab.start_guest("l2dst", incoming=True)
    assert world.probed == [("l0", want), ("l1", of_l2)]
    assert set(lab.accel) == {"l1", "l2"}
    said = [json.loads(line) for line in (record.path / "events.jsonl").read_text().splitlines()]
    assert [event["level"] for event in said if event["event"] == "accel"] == ["l1", "l2"]


def test_without_the_accelerator_that_is_demanded_nothing_starts(record: Record, world: World) -> None:
    world.fail["accel"] = SiteLacks("usable KVM")
    lab = make(record, world, accel="kvm")
    with pytest.raises(SiteLacks):
        lab.start_host()
    assert world.did == []
    assert lab.undo.unwind() == []
    assert not any(name.startswith("secrets") for name in files(record))


@pytest.mark.parametrize(
    ("at", "undone"),
    [
        ("launch l1", ["quit l1"]),
        ("ready l1", ["quit l1"]),
        ("login l1", ["quit l1"]),
        ("launch l2", ["quit l2", "close l1", "quit l1"]),
        ("login l2 through l1", ["quit l2", "close l1", "quit l1"]),
    ],
)
def test_what_fails_halfway_is_undone(record: Record, world: World, at: str, undone: list[str]) -> None:
    world.fail[at] = MachineDied("l1", -9, "", level=Level.L0_QEMU)
    lab = make(record, world)

    def up() -> None:
        lab.start_host()
        lab.start_guest("l2")

    with pytest.raises(MachineDied):
        up()
    world.did.clear()
    assert lab.undo.unwind() == []
    assert world.did == undone


def test_a_real_host_is_logged_in_to_and_gets_the_boot_files_once(record: Record, world: World) -> None:
    lab = make(record, world, "net-vdpa_sim-vhost_vdpa-migrate", real=True)
    lab.start_host()
    assert (world.did, lab.l1, lab.slowness["l1"]) == ([], None, 1.0)
    assert not [name for name in lab.accel if name == "l1"], "what a real machine is accelerated by is not ours to say"
    lab.start_guest("l2")
    lab.start_guest("l2dst", incoming=True)
    assert [spec.boot.kernel for spec in world.guest_specs] == ["/run/vdpalab/1a2b3c4d/vmlinux"] * 2
    assert isinstance(lab.host, FakeHost)
    host = lab.host
    put = [command.rpartition(" ")[2] for command in host.commands if "cat >" in command]
    assert put.pop(0) == "/dev/kmsg"
    assert [path for path in put if path.endswith(("vmlinux", "cpio"))] == put[:2]
    assert all(path.startswith("/run/vdpalab/1a2b3c4d/") for path in put), "two runs at once do not meet there"
    assert {qemu[0] for qemu in world.qemus} == {"qemu-system-x86_64"}, "the site's, not the host image's"
    assert not [command for command in host.commands if "watchdog" in command], "not ours"
    assert lab.undo.unwind() == []
    assert "rm -rf /run/vdpalab/1a2b3c4d" in host.commands
    assert world.did[-1] == "close l1"


def test_a_real_host_without_a_program_is_left_as_it_was(
    record: Record, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make(record, world, "net-vdpa_sim-vhost_vdpa-loopback", real=True)
    host = Shell("l1", world)
    host.answers = {"sh -ec *command -v*": "vdpa\nsocat\n", **host.answers}
    monkeypatch.setattr(module, "connect", lambda *_arguments: host)
    with pytest.raises(SiteLacks, match=r"vdpa, socat on 192\.0\.2\.1"):
        lab.start_host()
    # So that what its kernel had said before is not taken for this run's.
    assert lab.log_mark
    assert lab.undo.unwind() == []
    assert "rm -rf /run/vdpalab/1a2b3c4d" in host.commands


def test_nothing_answers_before_it_is_up(record: Record, world: World) -> None:
    lab = make(record, world)
    with pytest.raises(LabError, match="l1 does not answer yet"):
        lab.host  # noqa: B018
    assert (lab.machines, lab.metrics()) == ({}, [])
