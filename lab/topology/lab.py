"""The machines of a run: L1 and the guests in it, brought up in the order of design.md section 6.

"Machines up" is a state that can be reached by booting or, later, by restoring; nothing after it may care which.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import proc
from lab.artifacts.guestimage import dropbear_host_key
from lab.artifacts.provide import Artifacts
from lab.artifacts.store import cache_root
from lab.checks.isolation import Window
from lab.checks.process import Held
from lab.config.scenario import Device, Ifcvf, VdpaScenario, VirtbusScenario, VpVdpa
from lab.config.site import NestedSite, SshSite
from lab.errors import LabError
from lab.evidence.record import Record
from lab.host import memory
from lab.host.kmsg import KernelLog
from lab.host.local import LocalHost
from lab.host.ssh import SshAddress, SshHost, connect
from lab.machine import accel
from lab.machine.argv import (
    SPARE_PORTS,
    BlockFunction,
    Boot,
    Disk,
    Guest2,
    Host1,
    Sriov,
    VfioUserFunction,
    guest_argv,
    host_argv,
    spare_port,
)
from lab.machine.device_model import NAME as DEVICE_MODEL
from lab.machine.device_model import DeviceModel
from lab.machine.keys import KeyPair, make_key
from lab.machine.machine import Machine
from lab.machine.process import LocalQemu, NestedQemu
from lab.model import DeviceClass, Level, Metric, QemuDevice
from lab.topology.attachable import forget_entrance, note_entrance
from lab.topology.plan import BLOCK_BYTES, Plan
from lab.topology.preflight import check_programs
from lab.topology.undo import Undo
from lab.wait import Deadline

# Seconds on the reference machine (2 cores, TCG at both levels); what is slower than that stretches every limit.
L1_READY_S = 2.0
L2_READY_S = 20.0
# How long a boot may take before anything has been measured; KASAN and lockdep make L1 ten times slower.
_L1_LIMIT_S = 120.0
_L2_LIMIT_S = 180.0
# A command in a guest of nested emulation costs several times one in L1.
_L2_COMMAND_FACTOR = 3.0

BLOCK_SERIAL = "vpblk0"

# The kernel's own watchdogs, from the measured slowness (Documentation/admin-guide/sysctl/kernel.rst).
_WATCHDOGS = """
sysctl -q -w kernel.watchdog_thresh="$1" kernel.hung_task_timeout_secs="$2" || :
echo "$3" >/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout
"""


@dataclass
class Guest:
    """An L2: its machine, its QEMU in L1, and once it answers its host."""

    name: str
    machine: Machine
    process: NestedQemu
    key: KeyPair
    host: SshHost | None = None
    # What its QEMU held before it was given a device.
    held_before: Held | None = None
    # What the device under test could reach before the guest had it.
    reach_before: list[Window] = field(default_factory=list)

    @property
    def shell(self) -> SshHost:
        """The guest as a host. Raises LabError before it answers."""
        if self.host is None:
            raise LabError(f"{self.name} does not answer yet")
        return self.host


class Lab:
    """The machines of one run. ``host`` is L1: the lab's own VM or a real machine."""

    def __init__(self, plan: Plan, artifacts: Artifacts, record: Record, undo: Undo) -> None:
        self.plan = plan
        self.artifacts = artifacts
        self.record = record
        self.undo = undo
        self.l1: Machine | None = None
        self.device_model: DeviceModel | None = None
        # Set when a scenario has left something in L1 that nobody can undo.
        self.expendable = False
        self.guests: dict[str, Guest] = {}
        self.accel: dict[str, accel.Acceleration] = {}
        self.slowness: dict[str, float] = {}
        self._host: SshHost | None = None
        self._identity: KeyPair | None = None
        self._files_put = False
        # What this machine's own kernel says from now on.
        self.l0_log = KernelLog()
        undo.callback("the log of l0", self.l0_log.close)
        # On a machine that was up before: the line in its kernel log with which this run begins.
        self.log_mark: str | None = None

    @property
    def host(self) -> SshHost:
        """L1 as a host. Raises LabError before it answers."""
        if self._host is None:
            raise LabError("l1 does not answer yet")
        return self._host

    @property
    def connected(self) -> bool:
        """Whether there is a connection to L1."""
        return self._host is not None

    def metrics(self) -> list[Metric]:
        """How long each machine took from power-on to its sshd, in seconds, and the factors that came of it."""
        ready = [Metric(f"{name}_ready", m.ready_s, "s") for name, m in self.machines.items() if m.ready_s]
        return ready + [Metric(f"{name}_slowness", factor, "factor") for name, factor in self.slowness.items()]

    @property
    def machines(self) -> dict[str, Machine]:
        """Every QEMU of the run by its name."""
        own = {"l1": self.l1} if self.l1 else {}
        return own | {name: guest.machine for name, guest in self.guests.items()}

    def start_host(self) -> None:
        """Boot L1, or log in to the machine that is one."""
        secrets = self.record.folder("secrets")
        self._identity = make_key(secrets / "identity")
        self.undo.callback("secrets", lambda: _remove_tree(secrets))
        site = self.plan.site
        self._host = self._real_host(site) if isinstance(site, SshSite) else self._boot_l1(site)
        self.undo.callback("SSH to l1", self.host.close)
        if isinstance(site, SshSite):
            self._begin_on_real_host()
            check_programs(self.plan, site, self.host)
        else:
            self._set_watchdogs()

    def start_guest(self, name: str, devices: Sequence[QemuDevice] = (), *, incoming: bool = False) -> Guest:
        """Start an L2 in L1; an incoming one waits for its migration, any other is booted until it answers."""
        secrets = self.record.folder("secrets")
        # A migrated guest keeps the key that it booted with.
        key = next((guest.key for guest in self.guests.values()), None) or make_key(secrets / f"{name}-host-key")
        self._choose_l2_accel()
        if self.plan.huge_pages:
            size = self.plan.l2.memory_mb
            self.undo.enter(f"huge pages of {name}", memory.huge_pages(self.host, size))
        folder = self.record.folder("machines", name)
        process = NestedQemu(folder, self.host)
        process.argv = guest_argv(self._guest_spec(process, key, name, devices, incoming), self._qemu_in_l1())
        machine = Machine(name, process, self.record, Level.L2_KERNEL)
        guest = self.guests[name] = Guest(name, machine, process, key)
        self.undo.callback(f"QEMU {name}", machine.quit)
        machine.launch(incoming=incoming, slowness=self.slowness["l1"])
        if not incoming:
            machine.wait_ready(Deadline(_L2_LIMIT_S * self.slowness["l1"]))
            self.slowness["l2"] = max(1.0, machine.ready_s / L2_READY_S)
            self.record.event("slowness", **self.slowness)
            self.log_in(guest)
        return guest

    def log_in(self, guest: Guest) -> SshHost:
        """Open the SSH connection of a guest through L1."""
        assert self._identity is not None
        address = SshAddress(
            "127.0.0.1", guest.machine.forwarded_port(), "root", self._identity.private, guest.key.public
        )
        guest.host = guest.machine.log_in(address, Deadline(60 * self.slowness["l1"]), jump=self.host)
        note_entrance(self.record, guest.name, address, jump="l1")
        guest.host.slowness = _L2_COMMAND_FACTOR * self.slowness["l2"]
        guest.host.watch = self._watch
        self.undo.callback(f"SSH to {guest.name}", guest.host.close)
        return guest.host

    def plug_functions(self) -> None:
        """Hot-plug into L1 what its device model makes, unless L1 has booted with it."""
        if self.l1 and not self.plan.cold:
            for function in self._functions():
                self.l1.plug(function.device())

    def function(self, name: str) -> QemuDevice:
        """What QEMU was given for one of the device model's functions (``vf1``)."""
        return next(function.device() for function in self._functions() if function.id == name)

    def stop_watching(self) -> None:
        """From now on a dead device model ends no command: what it left is collected and undone."""
        for host in (self._host, *(guest.host for guest in self.guests.values())):
            if host:
                host.watch = None

    def abandon_if_expendable(self) -> None:
        """End L1 now when its hardware has gone or hangs for good: undoing anything in it would only wait for that."""
        gone = self.device_model is not None and self.device_model.poll() is not None
        if self.l1 and (gone or self.expendable):
            self.record.event("abandoned", machine="l1")
            self.l1.quit()

    def guest_moved(self, source: Guest, destination: Guest) -> SshHost:
        """The guest runs at ``destination`` now; what was reached through ``source`` answers nobody any more."""
        source.shell.close()
        source.host = None
        forget_entrance(self.record, source.name)
        return self.log_in(destination)

    def host_left(self) -> None:
        """L1 has rebooted, as it was told to: there is nobody to ask any more."""
        self.host.close()
        self._host = None

    def _boot_l1(self, site: NestedSite) -> SshHost:
        folder = self.record.folder("machines", "l1")
        qemu = self.artifacts.qemu_l0
        local = LocalHost("l0", self.record)
        cache = cache_root() / "accel.json"
        self.accel["l1"] = accel.choose(
            self.plan.request.accel, local, qemu.argv, str(self.artifacts.kernel.bzimage), cache
        )
        self.record.event("accel", level="l1", accel=self.accel["l1"].accel, reason=self.accel["l1"].reason)
        key = make_key(self.record.folder("secrets") / "l1-host-key")
        self._start_device_model()
        spec = self._host_spec(site, folder, key)
        process = LocalQemu(folder, lambda fd: host_argv(spec, qemu.argv, fd), self.record.path)
        if not self.plan.request.pcap:
            # Kept for the proof only while the run lasts: the counts are in the checks.
            self.undo.callback("captures", lambda: _remove(folder.glob("*.pcap")))
        machine = self.l1 = Machine("l1", process, self.record, Level.L1_KERNEL)
        self.undo.callback("QEMU l1", machine.quit)
        machine.launch()
        machine.wait_ready(Deadline(_L1_LIMIT_S))
        machine.slowness = self.slowness["l1"] = max(1.0, machine.ready_s / L1_READY_S)
        self.record.event("slowness", **self.slowness)
        assert self._identity is not None
        address = SshAddress("127.0.0.1", machine.forwarded_port(), "root", self._identity.private, key.public)
        host = machine.log_in(address, Deadline(30 * self.slowness["l1"]))
        note_entrance(self.record, "l1", address)
        host.slowness = self.slowness["l1"]
        host.watch = self._watch
        return host

    @property
    def _watch(self) -> Callable[[], object] | None:
        return self.device_model.check_alive if self.device_model else None

    def _start_device_model(self) -> None:
        """Before L1, so that it outlives it: a kernel whose hardware goes away first has reason to complain."""
        if not self.plan.functions:
            return
        folder = self.record.folder("machines", DEVICE_MODEL)
        model = self.device_model = DeviceModel(folder, self.record.path, self.plan.device_model())
        self.undo.callback("device model", model.stop)
        model.start()

    def _functions(self) -> tuple[VfioUserFunction, ...]:
        names = self.device_model.names if self.device_model else ()
        return tuple(
            VfioUserFunction(name, f"../{DEVICE_MODEL}/{name}.sock", spare_port(number))
            for number, name in enumerate(names)
        )

    def _host_spec(self, site: NestedSite, folder: Path, key: KeyPair) -> Host1:
        plan, scenario = self.plan, self.plan.scenario
        device = scenario.device if isinstance(scenario, VdpaScenario) else None
        net = isinstance(scenario, VdpaScenario) and scenario.device_class is DeviceClass.NET
        return Host1(
            name=f"l1-{plan.run_id}",
            accel=self.accel["l1"].accel,
            memory_mb=plan.l1_memory_mb,
            cpus=site.l1.cpus,
            boot=Boot(
                str(self.artifacts.kernel.bzimage),
                # On a busy machine a vCPU of TCG misses the ticks by which the kernel tests its timer, and panics.
                "console=ttyS0 root=/dev/vda rw init=/lab/init quiet loglevel=5 intel_iommu=on "
                f"{'' if _translates(device) else 'iommu=pt '}panic=-1 "
                f"no_timer_check lab.name=l1 lab.mgmt={plan.macs['l1']}",
            ),
            disks=(
                Disk("root", str(self._overlay(folder)), qcow2=True),
                Disk("kernel", str(self.artifacts.kernel.disk)),
                Disk("guest", str(self.artifacts.guest_image.disk)),
                *([Disk("qemu", str(self.artifacts.qemu_l1.disk))] if self.artifacts.qemu_l1.disk else []),
            ),
            mgmt_mac=plan.macs["l1"],
            secrets=self._local_secrets(key),
            sriov=Sriov(
                plan.macs["pf"],
                tuple(mac for name, mac in plan.macs.items() if name.startswith("vf")),
                device.access_platform,
            )
            if isinstance(device, VpVdpa) and net
            else None,
            blocks=(self._block_function(folder, device.access_platform),)
            if isinstance(device, VpVdpa) and not net
            else (),
            edus=2 if isinstance(scenario, VirtbusScenario) else 0,
            functions=self._functions() if plan.cold else (),
            spare_ports=max(SPARE_PORTS, plan.functions),
            pcap_bytes=65535 if plan.request.pcap else 64,
        )

    def _guest_spec(
        self, process: NestedQemu, key: KeyPair, name: str, devices: Sequence[QemuDevice], incoming: bool
    ) -> Guest2:
        kernel, initrd = self._boot_files()
        thresh, stall, _ = _watchdogs(_L2_COMMAND_FACTOR * self.slowness["l1"])
        return Guest2(
            name=f"{name}-{self.plan.run_id}",
            accel=self.accel["l2"].accel,
            memory_mb=self.plan.l2.memory_mb,
            cpus=self.plan.l2.cpus,
            boot=Boot(
                kernel,
                "console=ttyS0 quiet loglevel=5 panic=-1 tsc=reliable no_timer_check "
                f"watchdog_thresh={thresh} rcupdate.rcu_cpu_stall_timeout={stall} "
                f"lab.name=l2 lab.mgmt={self.plan.macs['l2']}",
                initrd,
            ),
            mgmt_mac=self.plan.macs["l2"],
            secrets=self._remote_secrets(process.remote, key),
            devices=tuple(devices),
            incoming=incoming,
            shared_ram=not self.plan.vdpa_scenario.inject.private_ram,
            huge_pages=self.plan.huge_pages,
        )

    def _boot_files(self) -> tuple[str, str]:
        """Where L1 finds L2's kernel and initramfs: on its disks, or put there once when it is a real machine."""
        if isinstance(self.plan.site, NestedSite):
            return "/lab/kernel/boot/vmlinux", "/lab/guest/guest.cpio"
        folder = self.host.scratch
        if not self._files_put:
            self._files_put = True
            self.host.put(self.artifacts.kernel.vmlinux.read_bytes(), f"{folder}/vmlinux")
            self.host.put(self.artifacts.guest_image.cpio.read_bytes(), f"{folder}/guest.cpio")
        return f"{folder}/vmlinux", f"{folder}/guest.cpio"

    def _overlay(self, folder: Path) -> Path:
        overlay = folder / "root.qcow2"
        base = self.artifacts.host_image.path
        proc.run(
            [*self.artifacts.qemu_l0.img, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(overlay)]
        )
        self.undo.callback("overlay of l1", lambda: overlay.unlink(missing_ok=True))
        return overlay

    def _block_function(self, folder: Path, access_platform: bool) -> BlockFunction:
        backing = folder / f"{BLOCK_SERIAL}.raw"
        with backing.open("wb") as file:
            file.truncate(BLOCK_BYTES)
        self.undo.callback("backing file", lambda: backing.unlink(missing_ok=True))
        return BlockFunction(BLOCK_SERIAL, str(backing), access_platform)

    def _local_secrets(self, key: KeyPair) -> dict[str, str]:
        assert self._identity is not None
        return {"authorized_keys": str(self._identity.private.with_suffix(".pub")), "host_key": str(key.private)}

    def _remote_secrets(self, folder: str, key: KeyPair) -> dict[str, str]:
        assert self._identity is not None
        self.host.run(["mkdir", "-p", folder])
        self.host.put(self._identity.public.encode() + b"\n", f"{folder}/authorized_keys")
        self.host.put(dropbear_host_key(key.load()), f"{folder}/host_key", mode="600")
        return {name: f"{folder}/{name}" for name in ("authorized_keys", "host_key")}

    def _choose_l2_accel(self) -> None:
        if "l2" not in self.accel:
            self.host.run(["modprobe", "-a", "-q", "kvm_intel", "kvm_amd"], check=False)
            cache, below = None, ""
            if self.l1:
                cache = cache_root() / "accel.json"
                below = f"{self.accel['l1'].accel} {self.artifacts.qemu_l0.digest} {self.artifacts.kernel.key}"
            self.accel["l2"] = accel.choose(
                "tcg" if self.plan.request.accel == "tcg" else "auto",
                self.host,
                self._qemu_in_l1(),
                self._boot_files()[0],
                cache,
                machine=below,
            )
            self.record.event("accel", level="l2", accel=self.accel["l2"].accel, reason=self.accel["l2"].reason)

    def _real_host(self, site: SshSite) -> SshHost:
        self.slowness["l1"] = 1.0
        address = SshAddress(site.address, site.port, site.user, site.identity, site.host_key)
        note_entrance(self.record, "l1", address)
        host = connect("l1", self.record, address, Deadline(60))
        host.scratch = f"{host.scratch}/{self.plan.run_id}"
        return host

    def _begin_on_real_host(self) -> None:
        """Make the run's own directory, and a mark in a kernel log that tells of more than this run."""
        scratch, mark = self.host.scratch, f"vdpalab: run {self.plan.run_id} begins"
        self.undo.callback("files on l1", lambda: self.host.run(["rm", "-rf", scratch]))
        self.host.run(["mkdir", "-p", scratch])
        self.host.put(f"{mark}\n".encode(), "/dev/kmsg")
        self.log_mark = mark

    def _qemu_in_l1(self) -> Sequence[str]:
        site = self.plan.site
        return (site.qemu,) if isinstance(site, SshSite) else self.artifacts.qemu_l1.argv

    def _set_watchdogs(self) -> None:
        thresh, stall, hung = _watchdogs(self.slowness["l1"])
        self.host.run(["sh", "-c", _WATCHDOGS, "watchdogs", str(thresh), str(hung), str(stall)], check=False)


def _translates(device: Device | None) -> bool:
    """Whether L1's kernel shall map and unmap what its own devices access, instead of passing it through."""
    return isinstance(device, Ifcvf) and device.iommu == "translated"


def _remove_tree(folder: Path) -> None:
    _remove(folder.iterdir())
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _watchdogs(slowness: float) -> tuple[int, int, int]:
    """Seconds for the kernel's own watchdogs: watchdog_thresh (the kernel takes 60 at most), RCU stall, hung task."""
    return min(60, round(20 * slowness)), min(300, round(60 * slowness)), round(60 * slowness)
