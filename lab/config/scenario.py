"""A scenario: what is tested. One TOML file in configs/scenarios, named like the scenario.

There are two kinds. ``vdpa``, which a file need not name, carries data through a vDPA device; their names follow the
product that configs/matrix.toml spans: ``<class>-<provider>-<attach>-<exercise>``. ``virtbus`` holds an implementation
of the bus against its requirements (lab.config.requirement), and needs an L1 alone.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from lab.config.strict import Regex, Strict
from lab.model import AttachMode, DeviceClass, Level

Topic = Literal["api", "naming", "lifetime", "pm", "races", "errors", "build"]
AdapterName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]

Seconds = Annotated[float, Field(gt=0, le=3600)]


Provider = Literal["vdpa_sim", "vp_vdpa", "ifcvf"]


class VdpaSim(Strict):
    """The kernel's simulator (drivers/vdpa/vdpa_sim): a net device that loops back, a block device in RAM."""

    provider: Literal["vdpa_sim"]
    use_va: bool = Field(True, description="module parameter: map guest RAM by virtual address instead of pinning it")
    batch_mapping: bool = Field(True, description="module parameter: set_map (1) or dma_map/dma_unmap (0)")


class VpVdpa(Strict):
    """The vp_vdpa driver on emulated virtio PCI functions: SR-IOV VFs (net) or virtio-blk functions (blk)."""

    provider: Literal["vp_vdpa"]
    vfs: Annotated[int, Field(ge=2, le=7)] = Field(2, description="VFs of the emulated PF; the last one is the peer")
    access_platform: bool = Field(True, description="offer VIRTIO_F_ACCESS_PLATFORM; false exists to test the gate")


class Ifcvf(Strict):
    """The ifcvf driver on Intel IFC VFs that the lab's own device model emulates (lab/ifcvf, over vfio-user)."""

    provider: Literal["ifcvf"]
    vfs: Annotated[int, Field(ge=2, le=4)] = Field(2, description="net: VFs on one switch; the last one is the peer")
    card: Literal["n3000", "c5000x"] = Field("n3000", description="net: whose PCI ids; a block device is a c5000x")
    iommu: Literal["passthrough", "translated"] = Field(
        "passthrough", description="L1's own DMA: kernel with iommu=pt, or every packet mapped and unmapped"
    )
    msix: Literal["qemu", "device"] = Field(
        "qemu", description="who has the MSI-X table: QEMU aborts when it has, and the function is unplugged (F014)"
    )


Device = Annotated[VdpaSim | VpVdpa | Ifcvf, Field(discriminator="provider")]


class Attach(Strict):
    """How the vDPA device reaches its user."""

    mode: AttachMode
    mtu: Annotated[int, Field(ge=576, le=9000)] = Field(1500, description="net: MTU of both ends")


class Iperf3Stream(Strict):
    """One iperf3 measurement."""

    protocol: Literal["tcp", "udp"] = "tcp"
    reverse: bool = Field(False, description="the server sends (-R)")
    parallel: Annotated[int, Field(ge=1, le=32)] = Field(1, description="streams (-P)")
    seconds: Seconds = 2
    bitrate: str = Field("10M", pattern=r"^\d+[KMG]?$", description="UDP: target bit rate (-b), per stream")


class Iperf3(Strict):
    """iperf3 between the guest (or its interface) and a peer; or over one looping device."""

    kind: Literal["iperf3"]
    streams: Annotated[list[Iperf3Stream], Field(min_length=1)]
    min_mbit_s: Annotated[float, Field(ge=0)] = Field(0.1, description="each TCP stream set must reach this")
    max_udp_loss_percent: Annotated[float, Field(ge=0, le=100)] = 50


class FioJob(Strict):
    """One fio job; always verified with crc32c."""

    rw: Literal["write", "randwrite", "randrw", "rw"] = "randwrite"
    block_size: str = Field("4k", pattern=r"^\d+[kKmM]?$")
    size: str = Field("8m", pattern=r"^\d+[kKmM]$", description="bytes moved")
    iodepth: Annotated[int, Field(ge=1, le=256)] = 8
    offset: str = Field("0", pattern=r"^\d+[kKmM]?$", description="where on the disk it begins")


class Fio(Strict):
    """fio on the block device with verification, so that corruption is a FAIL."""

    kind: Literal["fio"]
    jobs: Annotated[list[FioJob], Field(min_length=1)]


Workload = Annotated[Iperf3 | Fio, Field(discriminator="kind")]


class Migrate(Strict):
    """Live migration of L2 between two QEMUs in one L1, under the workload."""

    kind: Literal["migrate"]
    downtime_limit_ms: Annotated[int, Field(ge=1, le=60000)] = 300
    max_bandwidth: str = Field("1G", pattern=r"^\d+[KMG]$", description="bytes per second")
    max_total_s: Seconds = 60
    shadow_vq: bool = Field(
        False, description="ifcvf: x-svq=on, instead of leaving it to QEMU when the migration begins"
    )
    offloads: bool = Field(
        True, description="ifcvf; false: the guest computes checksums and cuts segments itself (see F018)"
    )
    destination: Literal["same", "vdpa_sim"] = Field(
        "same", description="ifcvf: the guest moves to another VF, or to the kernel's simulator"
    )


class Unplug(Strict):
    """device_del of L2's device under the workload, then plug it back and run the workload again."""

    kind: Literal["unplug"]
    max_delete_s: Seconds = 30


class Neighbours(Strict):
    """The workload, while two more VFs of the card carry traffic to each other in L1."""

    kind: Literal["neighbours"]


class Remove(Strict):
    """Take the device from its user in L1 while that uses it: `vdpa dev del`, unbinding its parent's driver, removing
    the parent from the PCI bus, or unplugging it from L1. The kernel waits for the user; then the device comes back.
    """

    kind: Literal["delete", "unbind", "rescan", "unplug-parent"]
    max_wait_s: Seconds = Field(30, description="from the moment that the user has let go")


FaultName = Literal[
    "reset-hangs",
    "status-ff",
    "features-refused",
    "features-changed",
    "fewer-vectors",
    "irq-lost",
    "irq-spurious",
    "queue-stall",
    "used-length",
    "used-id",
    "corrupt",
    "slow",
    "link-flap",
    "config-storm",
    "dma-outside",
    "disconnect",
    "death",
]


class Fault(Strict):
    """The device misbehaves on command (docs/ifcvf.md). What it does to traffic, to a guest that gives it back and
    afterwards is declared here, what L1, the guest and the QEMUs say about it under ``expect``.
    """

    kind: Literal["fault"]
    name: FaultName
    parameters: dict[str, int] = Field({}, description="the fault's own")
    when: Literal["start", "attach", "traffic"] = Field(
        "traffic", description="start: from the first moment; attach: before the guest gets it; traffic: in use"
    )
    traffic: Literal["flows", "stops", "corrupts"] = Field(
        description="what a guest's traffic does meanwhile; corrupts: a disk gives back what was not written to it"
    )
    release: Literal["done"] | None = Field(
        None, description="take the device from the guest meanwhile too: it has to be released in bounded time"
    )
    afterwards: Literal["flows", "replug", "lost"] = Field(
        description="when it is over: traffic flows by itself, after unplugging and plugging, or never again"
    )


Action = Annotated[Migrate | Unplug | Neighbours | Remove | Fault, Field(discriminator="kind")]


class Expected(Strict):
    """A bad outcome that the scenario provokes on purpose, at ``level``: log lines that match ``pattern``, or the death
    of a process (a QEMU, or with it the kernel it runs) whose last words do.
    """

    level: Level
    pattern: Regex
    outcome: Literal["log", "death"] = "log"
    required: bool = Field(True, description="it must appear; false: it may")


class Inject(Strict):
    """A fault of the lab's own making, which shows that its checks catch it. Each leaves a guest that boots, has its
    device with link up, and moves no byte (facts: nested.md sections 3 and 5b).
    """

    iotlb_entries: Annotated[int, Field(ge=1)] | None = Field(None, description="max_iotlb_entries of vhost_vdpa")
    private_ram: bool = Field(False, description="L2's RAM is not shared: vdpa_sim with use_va maps none of it")
    rx_queue_size: Annotated[int, Field(ge=256, le=1024)] | None = Field(
        None, description="queue of L2's NIC, longer than the device allows"
    )


class _Common(Strict):
    """What every kind of scenario says."""

    summary: Annotated[str, Field(min_length=10, max_length=200)]
    tags: list[str] = []
    expect: list[Expected] = []


class VdpaScenario(_Common):
    """What is tested, how it is exercised and what is expected."""

    kind: Literal["vdpa"] = "vdpa"
    device_class: Annotated[DeviceClass, Field(alias="class")]
    device: Device
    attach: Attach
    workload: Workload
    action: Action | None = None
    cold: bool = Field(False, description="boot L2 with the device on its command line instead of hot-plugging it")
    inject: Inject = Inject()

    @property
    def all_tags(self) -> frozenset[str]:
        """Its own tags, and one for each thing that it is made of (``net``, ``vp_vdpa``, ``vhost_vdpa``, ``fio``…)."""
        parts = [self.device_class, self.device.provider, self.attach.mode, self.workload.kind]
        return frozenset([*parts, *([self.action.kind] if self.action else []), *self.tags])


class VirtbusScenario(_Common):
    """A part of the conformance suite: which requirements an implementation of the bus is held against."""

    kind: Literal["virtbus"]
    topics: Annotated[list[Topic], Field(min_length=1)] = Field(
        list(get_args(Topic)), description="parts of lab.config.requirement"
    )
    adapters: Annotated[list[AdapterName], Field(min_length=1)] = Field(
        ["virtbus"], description="the buses that are checked, by images/kernel/virtbus/tests/adapter-NAME.h, in order"
    )
    only: list[str] = Field([], description="checks to run alone: R08, or of it R08/test (the kernel's), R08/failslab")
    mutant: str | None = Field(None, description="flaw to build into the bus: images/kernel/virtbus/mutants/NAME.patch")
    kernel: str = Field("default", description="kernel variant, where the user asks for none")
    memory_mb: Annotated[int, Field(ge=512, le=8192)] = Field(1024, description="RAM of L1")

    @property
    def all_tags(self) -> frozenset[str]:
        """Its own tags, the kind, and what it is made of."""
        return frozenset(["virtbus", *self.topics, *self.adapters, *(["mutant"] if self.mutant else []), *self.tags])


Scenario = VdpaScenario | VirtbusScenario
