"""scenario + site + what the user asked -> a frozen plan. Pure: nothing is touched, everything is decided.

The plan names every device, address and machine of the run. All names carry the run id, so that two runs on one
machine never collide and `vdpalab clean` knows what belongs to whom.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.artifacts.conformance import OWN, adapter_name, known_adapters
from lab.artifacts.provide import problems as artifact_problems
from lab.config.catalog import load_scenario, load_site
from lab.config.request import ArtifactOptions, RunRequest
from lab.config.requirement import select
from lab.config.scenario import (
    Action,
    Device,
    Fault,
    FaultName,
    FioJob,
    Ifcvf,
    Iperf3,
    Migrate,
    Neighbours,
    Provider,
    Remove,
    Scenario,
    VdpaScenario,
    VdpaSim,
    VirtbusScenario,
    VpVdpa,
    Workload,
)
from lab.config.site import MachineSize, NestedSite, SshSite
from lab.errors import InputError, LabError
from lab.ifcvf.faults import parameters
from lab.model import AttachMode, DeviceClass

# Bytes of the backing file behind an emulated virtio-blk function; vdpa_sim_blk has as much.
BLOCK_BYTES = 128 << 20
_DISK_FAULTS: tuple[FaultName, ...] = ("corrupt", "queue-stall", "slow")

# What QEMU needs beside the guest's RAM, in MiB; measured as RSS minus touched RAM.
_QEMU_MB = 300
# What the lab itself needs when its machines are elsewhere, and what compiling a bus takes here, in MiB.
_LAB_MB = 64
_COMPILE_MB = 1500
# make -j, of a few files.
_COMPILE_CORES = 2
# What L1 does for these topics is one shell, and a kernel that mostly waits: late releases, held references, timers.
_ONE_SHELL = frozenset(["api", "naming", "lifetime", "pm", "errors"])

# Seconds that scenarios take on the reference machine with everything cached, for "longest first".
_BASE_S = {AttachMode.VHOST_VDPA: 45.0, AttachMode.VIRTIO_VDPA: 15.0}
# Of each topic of the virtbus suite: without KASAN, and with it.
_TOPIC_S = {
    "api": (39.0, 223.0),
    "naming": (14.0, 124.0),
    "lifetime": (25.0, 251.0),
    "pm": (30.0, 97.0),
    "races": (40.0, 206.0),
    "errors": (12.0, 167.0),
    "build": (15.0, 15.0),
}


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
    def vdpa_scenario(self) -> VdpaScenario:
        """The scenario, for what only those with a vDPA device do. Raises LabError for one of another kind."""
        if not isinstance(self.scenario, VdpaScenario):
            raise LabError(f"{self.name} has no vDPA device")
        return self.scenario

    @property
    def l2(self) -> MachineSize:
        """Size of each guest."""
        return self.site.l2

    @property
    def needs_host(self) -> bool:
        """Whether there is an L1 at all: what is only compiled needs none."""
        return _needs_host(self.scenario)

    @property
    def l1_memory_mb(self) -> int:
        """RAM of an L1 of the lab, in MiB: of the site, or less when the scenario has no guests."""
        if isinstance(self.scenario, VirtbusScenario):
            return self.scenario.memory_mb
        return self.site.l1.memory_mb if isinstance(self.site, NestedSite) else 0

    @property
    def _device(self) -> Device | None:
        """The provider of the run's devices, of which there is none to compile or hold a bus."""
        return self.scenario.device if isinstance(self.scenario, VdpaScenario) else None

    @property
    def huge_pages(self) -> bool:
        """Whether guests have their RAM in huge pages: mapping a page costs 25-37 µs over vfio-user (ifc-vf.md 5)."""
        scenario = self.scenario
        return isinstance(self._device, Ifcvf) and not (
            isinstance(scenario, VdpaScenario) and scenario.inject.private_ram
        )

    @property
    def functions(self) -> int:
        """PCI functions that the lab's own device model makes for the run."""
        device = self._device
        if not isinstance(device, Ifcvf):
            return 0
        return device.vfs if self.vdpa_scenario.device_class is DeviceClass.NET else 1

    def function_of(self, device: str) -> str:
        """The device model's name of the VF under a vDPA device: the first is under test, the last is the peer's.

        Raises LabError for a device that is on no VF, as the simulator at the end of a migration is.
        """
        found = self._on_functions().get(device)
        if found is None:
            raise LabError(f"{device} is not on a VF of the device model")
        return found

    def _on_functions(self) -> dict[str, str]:
        """The VF under each vDPA device that has one."""
        names, last = self.vdpa, f"vf{self.functions}"
        if not self.functions:
            return {}
        if not self.migrates:
            return {names.main: "vf1", names.third: "vf2", names.fourth: "vf3", names.second: last}
        return {names.main: "vf1", **({} if self.leaves_card else {names.second: "vf2"}), names.third: last}

    @property
    def migrates(self) -> bool:
        """Whether the guest moves from one device to another."""
        return isinstance(self.scenario, VdpaScenario) and isinstance(self.scenario.action, Migrate)

    @property
    def leaves_card(self) -> bool:
        """Whether the guest moves from a VF to the kernel's simulator."""
        action = self.vdpa_scenario.action
        return isinstance(action, Migrate) and action.destination == "vdpa_sim"

    def provider_of(self, device: str) -> Provider:
        """The provider of a vDPA device by its name."""
        leaves = self.leaves_card and device == self.vdpa.second
        return "vdpa_sim" if leaves else self.vdpa_scenario.device.provider

    @property
    def shadows(self) -> bool:
        """Whether QEMU puts its own virtqueues between guest and device."""
        action = self.vdpa_scenario.action
        return isinstance(action, Migrate) and action.shadow_vq

    @property
    def offloads(self) -> bool:
        """Whether a guest may leave the checksums and segments of what it sends to the device."""
        action = self.vdpa_scenario.action
        return not isinstance(action, Migrate) or action.offloads

    def device_model(self) -> list[dict[str, Any]]:
        """What the device model is asked for (docs/ifcvf.md): the VFs of the run, called like their MACs."""
        device = self._device
        if not isinstance(device, Ifcvf):
            return []
        net = self.vdpa_scenario.device_class is DeviceClass.NET
        nic = {"model": f"{device.card}-net", "backend": {"kind": "switch", "name": "lab"}}
        disk = {"model": "c5000x-blk", "backend": {"kind": "memory", "size": BLOCK_BYTES}}
        msix = {} if device.msix == "qemu" else {"msix": device.msix}
        names = [f"vf{number}" for number in range(1, self.functions + 1)]
        vfs: list[dict[str, Any]] = [
            {"name": name, "socket": f"{name}.sock", **msix, **({**nic, "mac": self.macs[name]} if net else disk)}
            for name in names
        ]
        if self.migrates and not self.leaves_card:
            vfs[1]["mac"] = vfs[0]["mac"]  # a NIC keeps its address when its guest moves
        action = self.vdpa_scenario.action
        if isinstance(action, Fault) and action.when == "start":
            vfs[0]["faults"] = {action.name: action.parameters}
        return vfs

    @property
    def ram_mb(self) -> int:
        """RAM that the run takes on this machine, in MiB."""
        if not self.needs_host:
            return _COMPILE_MB
        return self.l1_memory_mb + _QEMU_MB if isinstance(self.site, NestedSite) else _LAB_MB

    @property
    def cores(self) -> int:
        """Processors of this machine that the run keeps busy."""
        if not self.needs_host:
            return _COMPILE_CORES
        if isinstance(self.scenario, VirtbusScenario):
            # Races keep two processors busy, but for a kernel in which each release is late: that waits too.
            waits = _ONE_SHELL | ({"races"} if self._debug else set())
            if _topics(self.scenario) <= waits:
                return 1
        return self.site.l1.cpus if isinstance(self.site, NestedSite) else 1

    @property
    def estimate_s(self) -> float:
        """How long it will roughly take, to start the longest first."""
        if isinstance(self.scenario, VirtbusScenario):
            return sum(_TOPIC_S[topic][self._debug] for topic in _topics(self.scenario))
        action = 25.0 if self.scenario.action else 0.0
        return _BASE_S[self.scenario.attach.mode] + action

    @property
    def _debug(self) -> bool:
        return self.request.artifacts.kernel == "debug"

    def _boot(self) -> str:
        if isinstance(self.scenario, VirtbusScenario):
            return "L1 alone" if self.needs_host else "nothing: the bus is compiled and read"
        if not self.guests:
            return "L1 alone, which uses the device itself"
        return "cold: L2 boots with its device" if self.cold else "L2 boots without devices; they are hot-plugged"

    def _l1(self) -> dict[str, Any]:
        site = self.site
        return (
            {**site.l1.model_dump(), "memory_mb": self.l1_memory_mb}
            if isinstance(site, NestedSite)
            else {"address": site.address}
        )

    def _names(self) -> dict[str, Any]:
        """Names and addresses that devices and guests get."""
        if isinstance(self.scenario, VirtbusScenario):
            return {"macs": self.macs}
        vdpa = {"main": self.vdpa.main, "second": self.vdpa.second}
        return {"vdpa": vdpa, "macs": self.macs, "addresses": self.addresses}

    def to_json(self) -> dict[str, Any]:
        """What `plan` prints and plan.json keeps."""
        return {
            "run_id": self.run_id,
            "scenario": self.name,
            "site": self.site_name,
            "summary": self.scenario.summary,
            "machines": {
                **({"l1": self._l1()} if self.needs_host else {}),
                **{guest: self.l2.model_dump() for guest in self.guests},
            },
            "boot": self._boot(),
            **self._names(),
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
    if isinstance(scenario, VirtbusScenario):
        request = _with_kernel(scenario, request)
        try:
            scenario = _with_adapter(scenario, request.artifacts.virtbus_adapter)
        except InputError as error:
            raise InputError([*problems, *error.problems]) from error
    problems += [*_missing_header(request), *artifact_problems(request.artifacts)]
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
        cold=request.cold or (isinstance(scenario, VdpaScenario) and scenario.cold),
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


def _with_kernel(scenario: VirtbusScenario, request: RunRequest) -> RunRequest:
    """The request with the kernel that the scenario names, unless the user has asked for one."""
    if request.artifacts.kernel != ArtifactOptions().kernel:
        return request
    return request.model_copy(update={"artifacts": request.artifacts.model_copy(update={"kernel": scenario.kernel})})


def guests(scenario: Scenario) -> tuple[str, ...]:
    """Names of the L2 guests that a scenario needs."""
    if isinstance(scenario, VirtbusScenario):
        return ()
    if isinstance(scenario.action, Migrate):
        return ("l2", "l2dst")
    return ("l2",) if scenario.attach.mode is AttachMode.VHOST_VDPA else ()


def _needs_host(scenario: Scenario) -> bool:
    if not isinstance(scenario, VirtbusScenario):
        return True
    return bool(_topics(scenario) - {"build"})


def _topics(scenario: VirtbusScenario) -> set[str]:
    """What its checks are about: its topics, or fewer where ``only`` names some checks."""
    return {probe.topic for _, probe in select(scenario)}


def contradictions(scenario: Scenario, request: RunRequest) -> list[str]:
    """What cannot go together, each as one sentence; configs/matrix.toml tells why."""
    return _of_virtbus(scenario, request) if isinstance(scenario, VirtbusScenario) else _of_vdpa(scenario, request)


def _of_vdpa(scenario: VdpaScenario, request: RunRequest) -> list[str]:
    found = _of_workload(scenario.workload, scenario.device_class)
    action, vhost = scenario.action, scenario.attach.mode is AttachMode.VHOST_VDPA
    if action and not vhost:
        found.append(f"{action.kind} acts on a guest's device, and virtio_vdpa uses it in L1: attach by vhost_vdpa")
    if isinstance(action, Migrate):
        found += _unmovable(scenario, action)
    if action and not isinstance(action, Migrate) and scenario.device_class is not DeviceClass.NET:
        found += _of_disk(action)
    if isinstance(action, Fault):
        found += _of_fault(action, net=scenario.device_class is DeviceClass.NET)
    if isinstance(action, Remove | Fault | Neighbours) and not isinstance(scenario.device, Ifcvf):
        found.append(f"{action.kind} is written for ifcvf, whose device model is the lab's own")
    if isinstance(action, Neighbours) and isinstance(scenario.device, Ifcvf) and scenario.device.vfs < 4:
        found.append("neighbours needs four VFs of ifcvf: under test, its peer, and two more")
    if isinstance(action, Migrate) and (scenario.cold or request.cold):
        found.append("migrate hot-plugs its device; it has no cold form")
    return found


def _of_workload(workload: Workload, device_class: DeviceClass) -> list[str]:
    if isinstance(workload, Iperf3):
        block = device_class is DeviceClass.BLK
        return ["iperf3 needs a network device, this one is a block device"] if block else []
    if device_class is DeviceClass.NET:
        return ["fio needs a block device, this one is a network device"]
    return [problem for number, job in enumerate(workload.jobs) for problem in _beyond_disk(number, job)]


def _beyond_disk(number: int, job: FioJob) -> list[str]:
    end = _bytes(job.offset) + _bytes(job.size)
    fits = end <= BLOCK_BYTES
    return [] if fits else [f"fio: jobs[{number}] ends at byte {end}, every disk of the lab at byte {BLOCK_BYTES}"]


def _bytes(size: str) -> int:
    digits = size.rstrip("kKmM")
    return int(digits) << {"": 0, "k": 10, "m": 20}[size[len(digits) :].lower()]


def _of_fault(action: Fault, *, net: bool) -> list[str]:
    found = [f"fault: {problem}" for problem in parameters(action.name, dict(action.parameters), net=net)[1]]
    if action.traffic == "corrupts" and (net or action.name != "corrupt"):
        found.append("fault: only a disk's fault `corrupt` corrupts; the checksums of a network stop it")
    return found


def _of_disk(action: Action) -> list[str]:
    if not isinstance(action, Fault):
        return [f"{action.kind} is written for network devices"]
    if action.name not in _DISK_FAULTS:
        return [f"fault: of those that a disk can have, {', '.join(_DISK_FAULTS)} are written"]
    if (action.when, action.release, action.afterwards) != ("traffic", None, "flows"):
        return ["fault: a disk's begins under traffic, without a release, and its traffic flows afterwards"]
    return []


def _of_virtbus(scenario: VirtbusScenario, request: RunRequest) -> list[str]:
    try:
        select(scenario)
    except InputError as error:
        return list(error.problems)
    header = request.artifacts.virtbus_adapter
    unknown = sorted(set(scenario.adapters) - {*known_adapters(), *([adapter_name(header)] if header else [])})
    found = [f"adapters: there is no {name!r}, only {', '.join(known_adapters())}" for name in unknown]
    if request.artifacts.virtbus == "none" and OWN in scenario.adapters:
        found.append("--virtbus none leaves no bus to check")
    if request.artifacts.kernel_image:
        found.append("--kernel-image is a finished kernel: the bus and its tests cannot be compiled for it")
    if request.stop_at in ("devices", "attach"):
        found.append(f"--stop-at {request.stop_at}: there is no such step")
    if scenario.mutant and request.artifacts.virtbus:
        found.append("mutants are of the lab's own virtbus: --virtbus does not go with them")
    return found


def _with_adapter(scenario: VirtbusScenario, header: Path | None) -> VirtbusScenario:
    """The scenario for the bus of a user's adapter, in place of the one that it is for."""
    if header is None:
        return scenario
    return scenario.model_copy(update={"adapters": [adapter_name(header), *scenario.adapters[1:]]})


def _missing_header(request: RunRequest) -> list[str]:
    header = request.artifacts.virtbus_adapter
    return [f"--virtbus-adapter: {header} does not exist"] if header and not header.exists() else []


def _unmovable(scenario: VdpaScenario, action: Migrate) -> list[str]:
    """Why the device of a scenario cannot be left behind by a guest that moves."""
    device = scenario.device
    if scenario.device_class is not DeviceClass.NET or isinstance(device, VpVdpa):
        return ["migrate needs a vdpa_sim or ifcvf network device: others have no suspend, and generic ones no state"]
    found = []
    if isinstance(device, Ifcvf) and device.vfs < 3 and action.destination == "same":
        found.append("migrate needs three VFs of ifcvf: under test, its destination, and the peer")
    if isinstance(device, VdpaSim) and action.shadow_vq:
        found.append("shadow_vq is for ifcvf: vdpa_sim can be suspended")
    if isinstance(device, VdpaSim) and not action.offloads:
        found.append("offloads is for ifcvf: vdpa_sim has none")
    if isinstance(device, VdpaSim) and action.destination != "same":
        found.append("destination is for ifcvf: a simulator's guest moves to a simulator")
    return found


def _lacks(scenario: Scenario, site: NestedSite | SshSite) -> tuple[str, ...]:
    if not isinstance(site, SshSite) or not _needs_host(scenario):
        return ()
    if isinstance(scenario, VirtbusScenario):
        return ("a machine that may crash: the checks of a bus provoke what a wrong one does not survive",)
    if isinstance(scenario.device, VpVdpa | Ifcvf):
        return (f"PCI functions given to the lab for {scenario.device.provider}",)
    return ()


def _macs(scenario: Scenario, run_id: str) -> dict[str, str]:
    """Every MAC of the run: locally administered, the whole run id, a number.

    QEMU's own default would be the same in L1 and L2 (nested.md 5).
    """
    if isinstance(scenario, VirtbusScenario):
        return {"l1": _mac(run_id, 0x01)}
    vfs = scenario.device.vfs if isinstance(scenario.device, VpVdpa | Ifcvf) else 2
    numbers = {"l1": 0x01, "l2": 0x02, "pf": 0x10, **{f"vf{n}": 0x10 + n for n in range(1, vfs + 1)}, "sim": 0x20}
    return {name: _mac(run_id, number) for name, number in numbers.items()}


def _mac(run_id: str, number: int) -> str:
    return ":".join(["52", *(run_id[at : at + 2] for at in range(0, 8, 2)), f"{number:02x}"])
