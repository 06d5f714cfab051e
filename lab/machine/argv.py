"""QEMU command lines, as pure functions of what a machine shall be.

Sources: qemu-system(1); docs/system/sriov.rst for the order of VFs and PF; facts measured on QEMU 11.1.
Socket paths are relative: QEMU runs in its machine's directory, because a UNIX socket's path ends at 108 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.model import Accel, QemuDevice

# Both ends of the monitor that the lab talks to; the second monitor and the console are for people.
MONITOR = "monitor.sock"
CONSOLE = "console.sock"
CONSOLE_LOG = "console.log"
GDB = "gdb.sock"
PIDFILE = "qemu.pid"

# Empty root ports of an L1, for what is plugged when it is up.
SPARE_PORTS = 2

READY_LINE = "vdpalab: sshd ready"

# Milliseconds. A device model that answers later is cut off for good; the default of 5000 is reached on a machine that
# is busy with other labs (ifc-vf.md 2).
_VFIO_USER_MS = 60000


@dataclass(frozen=True)
class Disk:
    """A virtio-blk disk. ``serial`` is how the guest finds it; ``qcow2`` tells a writable overlay from a raw image."""

    serial: str
    path: str
    qcow2: bool = False


@dataclass(frozen=True)
class Sriov:
    """An SR-IOV virtio-net card: the PF's and the VFs' MAC addresses, all on one hub."""

    pf_mac: str
    vf_macs: tuple[str, ...]
    access_platform: bool = True


@dataclass(frozen=True)
class BlockFunction:
    """A virtio-blk PCI function with a raw backing file, meant for vp_vdpa."""

    serial: str
    path: str
    access_platform: bool = True


@dataclass(frozen=True)
class VfioUserFunction:
    """A PCI function that another process makes, reached over its vfio-user socket; ``port`` is a root port of L1."""

    id: str
    socket: str
    port: str

    def device(self) -> QemuDevice:
        """What QEMU has to add, on its command line or by device_add."""
        return QemuDevice(
            {
                "driver": "vfio-user-pci",
                "id": self.id,
                "bus": self.port,
                "socket": {"type": "unix", "path": self.socket},
                "x-msg-timeout": _VFIO_USER_MS,
            }
        )


@dataclass(frozen=True)
class Boot:
    """Direct kernel boot."""

    kernel: str
    append: str
    initrd: str | None = None


@dataclass(frozen=True)
class Host1:
    """An L1: the vDPA host, with a vIOMMU."""

    name: str
    accel: Accel
    memory_mb: int
    cpus: int
    boot: Boot
    disks: tuple[Disk, ...]
    mgmt_mac: str
    secrets: Mapping[str, str]
    sriov: Sriov | None = None
    blocks: tuple[BlockFunction, ...] = ()
    # QEMU's teaching devices (docs/specs/edu.rst), each on a root port of its own: functions that no driver claims.
    edus: int = 0
    functions: tuple[VfioUserFunction, ...] = ()
    spare_ports: int = SPARE_PORTS
    pcap_bytes: int = 64


@dataclass(frozen=True)
class Guest2:
    """An L2: a small guest with empty root ports for the devices under test."""

    name: str
    accel: Accel
    memory_mb: int
    cpus: int
    boot: Boot
    mgmt_mac: str
    secrets: Mapping[str, str]
    devices: tuple[QemuDevice, ...] = ()
    incoming: bool = False
    shared_ram: bool = True
    huge_pages: bool = False


def host_argv(spec: Host1, qemu: Sequence[str], qmp_fd: int) -> list[str]:
    """Command line of an L1. ``qmp_fd`` is the inherited end of the socketpair that carries QMP."""
    return [
        *qemu,
        *_common(spec.name, spec.accel, spec.memory_mb, spec.cpus, cpu="max"),
        *_qmp(f"socket,id=qmp,fd={qmp_fd}"),
        *_boot(spec.boot),
        # One vIOMMU shape for everything: ats, device-iotlb and snoop-control each break some device (nested.md 5).
        *_device({"driver": "intel-iommu", "intremap": "on", "caching-mode": True}),
        *_flat(_disk(disk, slot) for slot, disk in enumerate(spec.disks, 2)),
        *_mgmt(spec.mgmt_mac),
        *_secrets(spec.secrets),
        *(_sriov(spec.sriov, spec.pcap_bytes) if spec.sriov else []),
        *_flat(_block_function(block) for block in spec.blocks),
        *_flat(_edu(number) for number in range(spec.edus)),
        *_flat(_port(spare_port(n), 0x40 + n) for n in range(spec.spare_ports)),
        *_flat(_device(function.device().device) for function in spec.functions),
    ]


def spare_port(number: int) -> str:
    """Id of one of L1's empty root ports."""
    return f"spare{number}"


def guest_argv(spec: Guest2, qemu: Sequence[str]) -> list[str]:
    """Command line of an L2, to be run in a directory of its L1; QMP is the socket ``qmp.sock`` there."""
    cpu = "qemu64" if spec.accel is Accel.TCG else "host"
    return [
        *qemu,
        *_common(
            spec.name,
            spec.accel,
            spec.memory_mb,
            spec.cpus,
            cpu=cpu,
            shared_ram=spec.shared_ram,
            huge_pages=spec.huge_pages,
        ),
        *_qmp("socket,id=qmp,path=qmp.sock,server=on,wait=off"),
        *_boot(spec.boot),
        *_mgmt(spec.mgmt_mac),
        *_secrets(spec.secrets),
        *_flat(_port(f"rp{n}", 0x10 + n) for n in range(3)),
        *_flat(_hotplug(device) for device in spec.devices),
        *(["-incoming", "defer"] if spec.incoming else []),
    ]


def _common(
    name: str,
    accel: Accel,
    memory_mb: int,
    cpus: int,
    *,
    cpu: str,
    shared_ram: bool = True,
    huge_pages: bool = False,
) -> list[str]:
    # Shared RAM: vdpa_sim maps only shared file-backed memory (vdpa.md 3.1), vfio-user servers need it too.
    ram = "memory-backend-memfd" if shared_ram else "memory-backend-ram"
    huge = ",hugetlb=on,hugetlbsize=2M" if huge_pages and shared_ram else ""
    return [
        *["-name", name],
        # split: the vIOMMU needs it, and kernels from 6.16 on may have no other (CONFIG_KVM_IOAPIC).
        *["-M", "q35,kernel-irqchip=split,memory-backend=ram,vmport=off,dump-guest-core=off"],
        *["-object", f"{ram},id=ram,size={memory_mb}M,share={'on' if shared_ram else 'off'}{huge}"],
        *["-m", f"{memory_mb}M"],
        *["-accel", "kvm" if accel is Accel.KVM else "tcg,thread=multi"],
        *["-cpu", cpu, "-smp", str(cpus)],
        *["-nodefaults", "-no-user-config", "-display", "none"],
        # A guest that ends by itself halts there: its registers may be all that tells why (lab/machine/qmp.py).
        *["-action", "reboot=shutdown,shutdown=pause"],
        *["-pidfile", PIDFILE],
        *["-chardev", f"socket,id=console,path={CONSOLE},server=on,wait=off,logfile={CONSOLE_LOG}"],
        *["-serial", "chardev:console"],
        *["-chardev", f"socket,id=monitor,path={MONITOR},server=on,wait=off"],
        *["-monitor", "chardev:monitor"],
        *["-gdb", f"unix:{GDB},server=on,wait=off"],
        *_device({"driver": "virtio-rng-pci"}),
    ]


def _qmp(chardev: str) -> list[str]:
    return ["-chardev", chardev, "-qmp", "chardev:qmp"]


def _boot(boot: Boot) -> list[str]:
    initrd = ["-initrd", boot.initrd] if boot.initrd else []
    return ["-kernel", boot.kernel, *initrd, "-append", boot.append]


def _mgmt(mac: str) -> list[str]:
    # restrict=on: the guest reaches nobody, only the forwarded port reaches it. Port 0: the kernel chooses.
    return [
        *["-netdev", "user,id=mgmt,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22"],
        *_device({"driver": "virtio-net-pci", "netdev": "mgmt", "mac": mac, "romfile": ""}),
    ]


def _secrets(secrets: Mapping[str, str]) -> list[str]:
    # In an option that is no JSON a comma of a value is written twice.
    return _flat(
        ["-fw_cfg", f"name=opt/vdpalab/{name},file={path.replace(',', ',,')}"] for name, path in secrets.items()
    )


def _disk(disk: Disk, slot: int) -> list[str]:
    file = {"driver": "file", "filename": disk.path}
    node: dict[str, object] = {"node-name": disk.serial, "driver": "qcow2" if disk.qcow2 else "raw", "file": file}
    if not disk.qcow2:
        # Images of the store are shared by every run: no lock is taken and nothing is written.
        node["read-only"] = True
        file = node["file"] = {**file, "locking": "off"}
    return [
        *["-blockdev", json.dumps(node)],
        *_device({"driver": "virtio-blk-pci", "drive": disk.serial, "serial": disk.serial, "addr": f"{slot:#x}"}),
    ]


def _port(name: str, chassis: int) -> list[str]:
    return _device({"driver": "pcie-root-port", "id": name, "chassis": chassis})


def _virtio(access_platform: bool) -> dict[str, object]:
    return {"disable-legacy": "on", "iommu_platform": access_platform}


def _sriov(card: Sriov, pcap_bytes: int) -> list[str]:
    args = _port("rp-net", 0x20)
    functions = [*enumerate(card.vf_macs, 1), (0, card.pf_mac)]  # QEMU wants the VFs before their PF
    for number, mac in functions:
        netdev = f"net{number}"
        args += ["-netdev", f"hubport,id={netdev},hubid=1"]
        place = {"id": "pf"} if number == 0 else {"id": f"vf{number}", "sriov-pf": "pf"}
        args += _device(
            {"driver": "virtio-net-pci", "bus": "rp-net", "addr": f"0x0.{number:#x}", "netdev": netdev, "mac": mac}
            | {"romfile": ""}
            | _virtio(card.access_platform)
            | place
        )
        if number:
            # The back end's own byte counter, which a hub does not keep: headers of every frame that passed.
            args += ["-object", f"filter-dump,id=dump{number},netdev={netdev},file=vf{number}.pcap,maxlen={pcap_bytes}"]
    return args


def _block_function(block: BlockFunction) -> list[str]:
    port = f"rp-{block.serial}"
    node = {"node-name": block.serial, "driver": "raw", "file": {"driver": "file", "filename": block.path}}
    return [
        *_port(port, 0x30 + sum(block.serial.encode()) % 0x10),
        *["-blockdev", json.dumps(node)],
        *_device(
            {"driver": "virtio-blk-pci", "bus": port, "drive": block.serial, "serial": block.serial, "id": block.serial}
            | _virtio(block.access_platform)
        ),
    ]


def _edu(number: int) -> list[str]:
    return _port(f"rp-edu{number}", 0x50 + number) + _device({"driver": "edu", "bus": f"rp-edu{number}"})


def _hotplug(device: QemuDevice) -> list[str]:
    netdev = ["-netdev", json.dumps(dict(device.netdev))] if device.netdev else []
    return [*netdev, *_device(device.device)]


def _device(properties: Mapping[str, object]) -> list[str]:
    return ["-device", json.dumps(dict(properties))]


def _flat(parts: object) -> list[str]:
    return [word for part in parts for word in part]  # type: ignore[attr-defined]
