"""scenario + site + what the user asked -> a frozen plan. Pure: nothing is touched, everything is decided.

The plan names every device, address and machine of the run. All names carry the run id, so that two runs on one
machine never collide and `vdpalab clean` knows what belongs to whom.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from lab.artifacts.provide import problems as artifact_problems
from lab.config.catalog import load_scenario, load_site
from lab.config.request import RunRequest
from lab.config.scenario import Fault, Fio, Ifcvf, Iperf3, Migrate, Neighbours, Remove, Scenario, VdpaSim, VpVdpa
from lab.config.site import MachineSize, NestedSite, SshSite
from lab.errors import InputError
from lab.ifcvf.faults import parameters
from lab.model import AttachMode, DeviceClass

# Bytes of the backing file behind an emulated virtio-blk function; vdpa_sim_blk has as much.
BLOCK_BYTES = 128 << 20

# What QEMU needs beside the guest's RAM, in MiB; measured as RSS minus touched RAM.
_QEMU_MB = 300

# Seconds that scenarios take on the reference machine with everything cached, for "longest first".
_BASE_S = {AttachMode.VHOST_VDPA: 45.0, AttachMode.VIRTIO_VDPA: 15.0}


@dataclass(frozen=True)
class VdpaNames:
    """Names of the vDPA devices: under test; migration destination, witness or peer; more of ifcvf's VFs."""

    main: str
    second: str
    third: str
    fourth: str


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before anything is touched. Sizes in MiB, times in seconds."""

    run_id: str
    name: str
    scenario: Scenario
    site_name: str
    site: NestedSite | SshSite
    request: RunRequest
    guests: tuple[str, ...]
    cold: bool
    macs: dict[str, str]
    addresses: dict[str, str]
    vdpa: VdpaNames
    lacks: tuple[str, ...]

    @property
    def l2(self) -> MachineSize:
        """Size of each guest."""
        return self.site.l2

    @property
    def huge_pages(self) -> bool:
        """Whether guests have their RAM in huge pages: mapping a page costs 25-37 µs over vfio-user (ifc-vf.md 5)."""
        return isinstance(self.scenario.device, Ifcvf) and not self.scenario.inject.private_ram

    @property
    def functions(self) -> int:
        """PCI functions that the lab's own device model makes for the run."""
        device = self.scenario.device
        if not isinstance(device, Ifcvf):
            return 0
        return device.vfs if self.scenario.device_class is DeviceClass.NET else 1

    def function_of(self, device: str) -> str:
        """The device model's name of the VF under a vDPA device: the first is under test, the last is the peer's."""
        names = self.vdpa
        peer = names.third if self.migrates else names.second
        between = (names.second, "") if self.migrates else (names.third, names.fourth)
        return dict(zip((names.main, *between, peer), ("vf1", "vf2", "vf3", f"vf{self.functions}"), strict=True))[
            device
        ]

    @property
    def migrates(self) -> bool:
        """Whether the guest moves from one device to another."""
        return isinstance(self.scenario.action, Migrate)

    def device_model(self) -> list[dict[str, Any]]:
        """What the device model is asked for (docs/ifcvf.md): the VFs of the run, called like their MACs."""
        device = self.scenario.device
        if not isinstance(device, Ifcvf):
            return []
        net = self.scenario.device_class is DeviceClass.NET
        nic = {"model": f"{device.card}-net", "backend": {"kind": "switch", "name": "lab"}}
        disk = {"model": "c5000x-blk", "backend": {"kind": "memory", "size": BLOCK_BYTES}}
        names = [f"vf{number}" for number in range(1, self.functions + 1)]
        vfs: list[dict[str, Any]] = [
            {"name": name, "socket": f"{name}.sock", **({**nic, "mac": self.macs[name]} if net else disk)}
            for name in names
        ]
        if self.migrates:
            vfs[1]["mac"] = vfs[0]["mac"]  # a NIC keeps its address when its guest moves
        action = self.scenario.action
        if isinstance(action, Fault) and action.when == "start":
            vfs[0]["faults"] = {action.name: action.parameters}
        return vfs

    @property
    def ram_mb(self) -> int:
        """RAM that the run takes on this machine, in MiB."""
        return self.site.l1.memory_mb + _QEMU_MB if isinstance(self.site, NestedSite) else 64

    @property
    def cores(self) -> int:
        """Processors of this machine that the run keeps busy."""
        return self.site.l1.cpus if isinstance(self.site, NestedSite) else 1

    @property
    def estimate_s(self) -> float:
        """How long it will roughly take, to start the longest first."""
        action = 25.0 if self.scenario.action else 0.0
        return _BASE_S[self.scenario.attach.mode] + action

    def _boot(self) -> str:
        if not self.guests:
            return "L1 alone, which uses the device itself"
        return "cold: L2 boots with its device" if self.cold else "L2 boots without devices; they are hot-plugged"

    def to_json(self) -> dict[str, Any]:
        """What `plan` prints and plan.json keeps."""
        return {
            "run_id": self.run_id,
            "scenario": self.name,
            "site": self.site_name,
            "summary": self.scenario.summary,
            "machines": {"l1": _size(self.site), **{guest: self.l2.model_dump() for guest in self.guests}},
            "boot": self._boot(),
            "vdpa": {"main": self.vdpa.main, "second": self.vdpa.second},
            "macs": self.macs,
            "addresses": self.addresses,
            "ram_mb": self.ram_mb,
            "cores": self.cores,
            "estimate_s": self.estimate_s,
            "lacks": list(self.lacks),
            "config": self.scenario.model_dump(mode="json", by_alias=True),
            "site_config": self.site.model_dump(mode="json"),
            "request": self.request.model_dump(mode="json"),
        }


def make_plan(request: RunRequest) -> Plan:
    """Read the scenario and the site that a request names and plan it. Raises InputError with all problems."""
    problems: list[str] = []
    name, scenario, site = request.scenario, None, None
    try:
        name, scenario = load_scenario(request.scenario, request.overrides)
    except InputError as error:
        problems += error.problems
    try:
        site = load_site(request.site)
    except InputError as error:
        problems += error.problems
    problems += artifact_problems(request.artifacts)
    if isinstance(site, SshSite) and not site.identity.exists():
        problems.append(f"site {request.site}: identity: {site.identity} does not exist")
    if scenario:
        problems += [f"{name}: {problem}" for problem in contradictions(scenario, request)]
    if problems or scenario is None or site is None:
        raise InputError(problems)
    return plan(name, scenario, site, request, secrets.token_hex(4))


def plan(name: str, scenario: Scenario, site: NestedSite | SshSite, request: RunRequest, run_id: str) -> Plan:
    """Decide everything. ``run_id`` is eight hexadecimal digits."""
    net = 0x10 + int(run_id[:1], 16)
    return Plan(
        run_id=run_id,
        name=name,
        scenario=scenario,
        site_name=request.site,
        site=site,
        request=request,
        guests=guests(scenario),
        cold=request.cold or scenario.cold,
        macs=_macs(scenario, run_id),
        addresses={
            "server": f"10.{net}.0.2",
            "client": f"10.{net}.0.1",
            "neighbours": f"10.{net}.1.2 10.{net}.1.1",
            "prefix": "24",
        },
        vdpa=VdpaNames(main=f"v{run_id}a", second=f"v{run_id}b", third=f"v{run_id}c", fourth=f"v{run_id}d"),
        lacks=_lacks(scenario, site),
    )


def guests(scenario: Scenario) -> tuple[str, ...]:
    """Names of the L2 guests that a scenario needs."""
    if isinstance(scenario.action, Migrate):
        return ("l2", "l2dst")
    return ("l2",) if scenario.attach.mode is AttachMode.VHOST_VDPA else ()


def contradictions(scenario: Scenario, request: RunRequest) -> list[str]:
    """What cannot go together, each as one sentence; configs/matrix.toml tells why."""
    found: list[str] = []
    workload, action, vhost = scenario.workload, scenario.action, scenario.attach.mode is AttachMode.VHOST_VDPA
    if isinstance(workload, Fio) and scenario.device_class is DeviceClass.NET:
        found.append("fio needs a block device, this one is a network device")
    if isinstance(workload, Iperf3) and scenario.device_class is DeviceClass.BLK:
        found.append("iperf3 needs a network device, this one is a block device")
    if action and not vhost:
        found.append(f"{action.kind} acts on a guest's device, and virtio_vdpa uses it in L1: attach by vhost_vdpa")
    if isinstance(action, Migrate):
        found += _unmovable(scenario, action)
    if action and not isinstance(action, Migrate) and scenario.device_class is not DeviceClass.NET:
        found.append(f"{action.kind} is written for network devices")
    if isinstance(action, Fault):
        net = scenario.device_class is DeviceClass.NET
        found += [f"fault: {problem}" for problem in parameters(action.name, dict(action.parameters), net=net)[1]]
    if isinstance(action, Remove | Fault | Neighbours) and not isinstance(scenario.device, Ifcvf):
        found.append(f"{action.kind} is written for ifcvf, whose device model is the lab's own")
    if isinstance(action, Neighbours) and isinstance(scenario.device, Ifcvf) and scenario.device.vfs < 4:
        found.append("neighbours needs four VFs of ifcvf: under test, its peer, and two more")
    if isinstance(action, Migrate) and (scenario.cold or request.cold):
        found.append("migrate hot-plugs its device; it has no cold form")
    return found


def _unmovable(scenario: Scenario, action: Migrate) -> list[str]:
    """Why the device of a scenario cannot be left behind by a guest that moves."""
    device = scenario.device
    if scenario.device_class is not DeviceClass.NET or isinstance(device, VpVdpa):
        return ["migrate needs a vdpa_sim or ifcvf network device: others have no suspend, and generic ones no state"]
    if isinstance(device, Ifcvf) and device.vfs < 3:
        return ["migrate needs three VFs of ifcvf: under test, its destination, and the peer"]
    if isinstance(device, VdpaSim) and action.shadow_vq:
        return ["shadow_vq is for ifcvf: vdpa_sim can be suspended"]
    return []


def _lacks(scenario: Scenario, site: NestedSite | SshSite) -> tuple[str, ...]:
    if isinstance(site, SshSite) and isinstance(scenario.device, VpVdpa | Ifcvf):
        return (f"PCI functions given to the lab for {scenario.device.provider}",)
    return ()


def _macs(scenario: Scenario, run_id: str) -> dict[str, str]:
    """Every MAC of the run: locally administered, the whole run id, a number.

    QEMU's own default would be the same in L1 and L2 (nested.md 5).
    """
    vfs = scenario.device.vfs if isinstance(scenario.device, VpVdpa | Ifcvf) else 2
    numbers = {"l1": 0x01, "l2": 0x02, "pf": 0x10, **{f"vf{n}": 0x10 + n for n in range(1, vfs + 1)}, "sim": 0x20}
    run = ":".join(run_id[at : at + 2] for at in range(0, 8, 2))
    return {name: f"52:{run}:{number:02x}" for name, number in numbers.items()}


def _size(site: NestedSite | SshSite) -> dict[str, Any]:
    return site.l1.model_dump() if isinstance(site, NestedSite) else {"address": site.address}
