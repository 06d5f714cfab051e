"""lab.machine.argv against golden command lines in samples/argv, one option per line.

After a change that is meant, run ``VDPALAB_REGENERATE=1 pytest tests/unit/test_machine_argv.py`` and read the diff:
these files are the only place where a reviewer sees what QEMU is really given.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from lab.machine.argv import (
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
from lab.model import Accel, QemuDevice

GOLDEN = Path(__file__).parent / "samples" / "argv"
REGENERATE = "VDPALAB_REGENERATE"

SRIOV = Sriov("52:54:00:00:00:10", ("52:54:00:00:00:11", "52:54:00:00:00:12"))
BLOCK = BlockFunction("vpblk0", "/run/l1/vpblk0.raw")
FUNCTIONS = tuple(VfioUserFunction(f"vf{n}", f"../ifcvf/vf{n}.sock", spare_port(n - 1)) for n in (1, 2))
NONE = Host1(
    name="l1-1a2b3c4d",
    accel=Accel.TCG,
    memory_mb=2048,
    cpus=2,
    boot=Boot("/kernel/bzImage", "console=ttyS0 root=/dev/vda"),
    disks=(Disk("root", "/run/l1/root.qcow2", qcow2=True), Disk("kernel", "/kernel/modules.squashfs")),
    mgmt_mac="52:54:00:00:00:01",
    secrets={"authorized_keys": "/run/secrets/identity.pub", "host_key": "/run/secrets/l1-host-key"},
)
NIC = QemuDevice(
    {"driver": "virtio-net-pci", "id": "dut", "netdev": "dut-back", "bus": "rp0", "romfile": ""},
    {"type": "vhost-vdpa", "id": "dut-back", "vhostdev": "/dev/vhost-vdpa-0"},
)
PLAIN = Guest2(
    name="l2-1a2b3c4d",
    accel=Accel.TCG,
    memory_mb=256,
    cpus=1,
    boot=Boot("/lab/kernel/boot/vmlinux", "console=ttyS0 quiet", "/lab/guest/guest.cpio"),
    mgmt_mac="52:54:00:00:00:02",
    secrets={"host_key": "/run/vdpalab/l2/host_key"},
)


def of_host(**changes: Any) -> list[str]:
    return host_argv(dataclasses.replace(NONE, **changes), ["qemu-system-x86_64"], 7)


def of_guest(**changes: Any) -> list[str]:
    return guest_argv(dataclasses.replace(PLAIN, **changes), ["qemu-system-x86_64"])


LINES = {
    "l1-none": of_host(),
    "l1-sriov": of_host(sriov=SRIOV),
    "l1-blk": of_host(blocks=(BLOCK,)),
    "l1-pcap": of_host(sriov=SRIOV, pcap_bytes=65535),
    "l1-vfio-user": of_host(functions=FUNCTIONS, spare_ports=4),
    "l1-kvm": of_host(accel=Accel.KVM),
    "l2-plain": of_guest(),
    "l2-cold": of_guest(devices=(NIC,)),
    "l2-incoming": of_guest(devices=(NIC,), incoming=True),
    "l2-private-ram": of_guest(shared_ram=False),
    "l2-huge-pages": of_guest(huge_pages=True),
    "l2-kvm": of_guest(accel=Accel.KVM),
}


def pretty(argv: list[str]) -> str:
    """One option with its value per line, as one would type it."""
    return shlex.join(argv).replace(" -", "\n-") + "\n"


def devices(argv: list[str]) -> list[dict[str, Any]]:
    return [json.loads(value) for option, value in itertools.pairwise(argv) if option == "-device"]


@pytest.mark.parametrize("name", LINES)
def test_command_line_is_the_golden_one(name: str) -> None:
    golden, text = GOLDEN / f"{name}.txt", pretty(LINES[name])
    if os.environ.get(REGENERATE):
        golden.write_text(text)
    assert text == golden.read_text()


def test_every_golden_file_is_compared() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(LINES)


def test_vfs_come_before_their_pf_which_qemu_demands() -> None:
    functions = [d["id"] for d in devices(LINES["l1-sriov"]) if d.get("bus") == "rp-net"]
    assert functions == ["vf1", "vf2", "pf"]


def test_a_function_is_the_same_plugged_and_on_the_command_line() -> None:
    cold = [device for device in devices(LINES["l1-vfio-user"]) if device["driver"] == "vfio-user-pci"]
    assert cold == [function.device().device for function in FUNCTIONS]
    assert cold[0]["x-msg-timeout"] > 5000, "QEMU cuts a device model off that answers later"
    ports = [device["id"] for device in devices(LINES["l1-vfio-user"]) if device["driver"] == "pcie-root-port"]
    assert {device["bus"] for device in cold} <= set(ports)


@pytest.mark.parametrize("offered", [True, False])
def test_access_platform_is_that_of_the_plan(offered: bool) -> None:
    card, block = (
        dataclasses.replace(SRIOV, access_platform=offered),
        dataclasses.replace(BLOCK, access_platform=offered),
    )
    under_test = [d for d in devices(of_host(sriov=card, blocks=(block,))) if "iommu_platform" in d]
    assert [d["id"] for d in under_test] == ["vf1", "vf2", "pf", "vpblk0"]
    assert {d["iommu_platform"] for d in under_test} == {offered}


@pytest.mark.parametrize("name", LINES)
def test_nothing_of_a_machine_can_collide_with_another(name: str) -> None:
    """Sockets are relative to the machine's directory, ports are the kernel's choice, ids and chassis are unique."""
    line = " ".join(LINES[name])
    assert not re.search(r"(?:path=|unix:)/|guest-cid|hostfwd=tcp:127\.0\.0\.1:[1-9]", line)
    for key in ("id", "chassis"):
        values = [d[key] for d in devices(LINES[name]) if key in d]
        assert len(values) == len(set(values))


@pytest.mark.parametrize("disk", NONE.disks, ids=lambda disk: disk.serial)
def test_images_of_the_store_are_never_written_nor_locked(disk: Disk) -> None:
    argv = of_host(disks=(disk,))
    node = json.loads(argv[argv.index("-blockdev") + 1])
    assert (node.get("read-only", False), node["file"].get("locking") == "off") == (not disk.qcow2, not disk.qcow2)


def test_a_comma_in_the_path_of_a_secret_is_part_of_the_path() -> None:
    assert "name=opt/vdpalab/key,file=/a,,b/key" in of_host(secrets={"key": "/a,b/key"})
