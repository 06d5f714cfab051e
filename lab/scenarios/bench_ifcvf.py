"""What the emulated IFC VFs carry and what that costs, against what L1's kernel and QEMU do themselves in the same L1.

Ratios are of one run: the machine's speed of the moment is in both. The device model's own costs come from /proc.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from lab.artifacts.provide import Artifacts
from lab.config.scenario import Iperf3, Iperf3Stream
from lab.errors import LabError
from lab.host import detached, net
from lab.host.endpoints import NetEnd
from lab.host.shell import run_script
from lab.machine.argv import spare_port
from lab.machine.device_model import DeviceModel
from lab.model import Metric, QemuDevice
from lab.scenarios.bench import bench_lab
from lab.topology.devices import BlockPath, NetPath, attach, make_devices
from lab.topology.lab import Lab
from lab.wait import Deadline, wait_until
from lab.workloads import iperf3

_SECONDS = 3
_PINGS = 3000
_DISK_BYTES = 128 << 20
_RTT = re.compile(r"rtt min/avg/max/mdev = [\d.]+/([\d.]+)/")
_ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB$", re.MULTILINE)
_SERIAL = "bench"
_FIND_DISK = """
for disk in /sys/block/vd*; do
    [ "$(cat "$disk/serial")" != "$1" ] || echo "/dev/${disk##*/}"
done
"""


def network(artifacts: Artifacts, run_dir: Path) -> list[Metric]:
    """Two VFs on one switch, each in a namespace of L1, against a veth pair there."""
    with bench_lab(artifacts, run_dir, "net-ifcvf-virtio_vdpa-iperf3") as lab:
        lab.start_host()
        path, _ = attach(lab, make_devices(lab))
        names = (f"n{lab.plan.run_id}v", f"n{lab.plan.run_id}w")
        veth = lab.undo.enter("veth", net.veth_pair(lab.host, names, ("10.9.9.2", "10.9.9.1")))
        assert isinstance(path, NetPath)
        assert lab.device_model
        rates = _tcp(lab, path.server, path.client, "ifcvf")
        others = _tcp(lab, *veth, "veth")
        ratios = [
            Metric(f"{mine.name}-to-veth", mine.value / other.value, "ratio")
            for mine, other in zip(rates, others, strict=True)
        ]
        return [
            *rates,
            *others,
            *ratios,
            *_packets(lab, path, lab.device_model),
            *_ping(path),
            _memory(lab.device_model),
        ]


def disk(artifacts: Artifacts, run_dir: Path) -> list[Metric]:
    """4k random reads of a VF's disk in memory, against QEMU's virtio-blk on a file in memory."""
    scenario, passthrough = "blk-ifcvf-virtio_vdpa-fio", "device.iommu=passthrough"
    with bench_lab(artifacts, run_dir, scenario, passthrough) as lab:
        lab.start_host()
        path, _ = attach(lab, make_devices(lab))
        assert isinstance(path, BlockPath)
        mine, other = (_random_reads(lab, device) for device in (path.disk.device, _virtio_blk(lab)))
        return [
            Metric("ifcvf-fio", mine, "IOPS"),
            Metric("virtio-blk-fio", other, "IOPS"),
            Metric("ifcvf-fio-to-virtio-blk", mine / other, "ratio"),
        ]


def _tcp(lab: Lab, server: NetEnd, client: NetEnd, name: str) -> list[Metric]:
    streams = [Iperf3Stream(seconds=_SECONDS, reverse=reverse) for reverse in (False, True)]
    job = iperf3.start(Iperf3(kind="iperf3", streams=streams), server, client, lab.record.path, label=name)
    rates = [metric.value for metric in job.finish().metrics if metric.unit == "Mbit/s"]
    if len(rates) != len(streams):
        raise LabError(f"{name}: iperf3 measured {len(rates)} of {len(streams)} streams")
    return [Metric(f"{name}-tcp{end}", rate, "Mbit/s") for end, rate in zip(("", "-reverse"), rates, strict=True)]


def _packets(lab: Lab, path: NetPath, model: DeviceModel) -> list[Metric]:
    """UDP with 64 bytes as fast as it goes: packets that the sending VF took in a second, and what each costs."""
    server = detached.start(lab.host, path.server.argv(["iperf3", "-s", "-1"]))
    # iperf3's own port: in a namespace of its own it meets nobody (5201 in /proc/net/tcp).
    listens = path.server.argv(["grep", "-qsh", ":1451 ", "/proc/net/tcp", "/proc/net/tcp6"])
    wait_until(lambda: lab.host.ok(listens), Deadline(20), "iperf3 to listen")
    argv = ["iperf3", "-c", path.server.address, "-u", "-b", "0", "-l", "64", "-t", str(_SECONDS)]
    taken, spent = _taken(model), _cpu_s(model.pid)
    lab.host.run(path.client.argv(argv))
    packets, seconds = _taken(model) - taken, _cpu_s(model.pid) - spent
    server.stop(lab.host)
    idle = _cpu_s(model.pid)
    lab.host.run(["sleep", str(_SECONDS)])
    idle = _cpu_s(model.pid) - idle
    return [
        Metric("ifcvf-udp-64", packets / _SECONDS / 1e3, "kpps"),
        Metric("ifcvf-cpu-per-packet", seconds / packets * 1e6, "us"),
        Metric("ifcvf-idle", idle / _SECONDS * 100, "%"),
    ]


def _ping(path: NetPath) -> list[Metric]:
    argv = path.client.argv(["ping", "-f", "-q", "-n", "-c", str(_PINGS), path.server.address])
    found = _RTT.search(path.client.host.run(argv).text)
    if not found:
        raise LabError("ping told no round trip times")
    return [Metric("ifcvf-ping-f", float(found[1]), "ms")]


def _taken(model: DeviceModel) -> int:
    return sum(model.counters(name)["tx_packets"] for name in model.names)


def _cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used: fields 14 and 15 of /proc/PID/stat (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(model: DeviceModel) -> Metric:
    found = _ANONYMOUS.search(Path(f"/proc/{model.pid}/status").read_text())
    if not found:
        raise LabError("no RssAnon in the device model's status")
    return Metric("ifcvf-anonymous", int(found[1]) / 1e3, "MB")


def _virtio_blk(lab: Lab) -> str:
    """Plug a disk of QEMU's own into L1 and return its node."""
    assert lab.l1
    image = Path(f"/dev/shm/vdpalab-{lab.plan.run_id}.raw")
    lab.undo.callback("image in memory", lambda: image.unlink(missing_ok=True))
    with image.open("wb") as file:
        file.truncate(_DISK_BYTES)
    node = {"driver": "raw", "node-name": _SERIAL, "file": {"driver": "file", "filename": str(image)}}
    lab.l1.query("blockdev-add", node)
    # QEMU has it open: without a name it goes with QEMU, however the run ends.
    image.unlink()
    place = {"bus": spare_port(1), "drive": _SERIAL, "serial": _SERIAL, "id": _SERIAL}
    lab.l1.plug(QemuDevice({"driver": "virtio-blk-pci", **place}))
    return wait_until(
        lambda: run_script(lab.host, _FIND_DISK, _SERIAL).text,
        Deadline(20 * lab.slowness["l1"]),
        "the disk to compare with",
    )


def _random_reads(lab: Lab, device: str) -> float:
    job = ["--name=reads", f"--filename={device}", "--rw=randread", "--bs=4k", "--iodepth=16", "--ioengine=libaio"]
    how = ["--direct=1", f"--runtime={_SECONDS}", "--time_based", "--output-format=json", "--eta=never"]
    return float(json.loads(lab.host.run(["fio", *job, *how]).text)["jobs"][0]["read"]["iops"])
