"""lab.topology.counters: which counters each kind of device gives, and that what cannot be read is left out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.errors import CommandError
from lab.evidence.record import Record
from lab.host.fake import FakeHost
from lab.host.vdpa import VdpaDevice
from lab.model import DeviceClass
from lab.topology import counters as module
from lab.topology.counters import released, sample
from lab.topology.lab import Lab
from tests.fake_lab import fake_lab

DEVICE = VdpaDevice("v1a", "pci/0000:01:00.1", DeviceClass.NET, 0x1AF4, 2, 256)
INTERRUPTS = """           CPU0       CPU1
 40:         11         31   PCI-MSIX-0000:01:00.1   0-edge      vp-vdpa[0000:01:00.1]-0
 41:          1          2   PCI-MSIX-0000:01:00.1   1-edge      vp-vdpa[0000:01:00.1]-1
 42:         99         99   PCI-MSIX-0000:01:00.2   0-edge      vp-vdpa[0000:01:00.2]-0
"""


def vstats(qidx: int) -> str:
    way = ("rx", "tx")[qidx]
    stats = {"queue_type": way, f"{way} bytes": 100 + qidx, f"{way} packets": 10 + qidx}
    return json.dumps({"vstats": {"v1a": stats}})


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with contextlib.closing(Record(tmp_path / "run")) as record:
        yield record


def lab_with(record: Record, scenario: str, answers: dict[str, Any]) -> Lab:
    lab = fake_lab(record, scenario)
    assert isinstance(lab.host, FakeHost)
    lab.host.answers = answers
    return lab


def events(record: Record) -> list[str]:
    return [json.loads(line)["event"] for line in (record.path / "events.jsonl").read_text().splitlines()]


def test_a_simulator_counts_itself(record: Record) -> None:
    answers = {f"vdpa * vstats * qidx {qidx}": vstats(qidx) for qidx in (0, 1)}
    lab = lab_with(record, "net-vdpa_sim-vhost_vdpa-loopback", answers)
    assert sample(lab, DEVICE) == {"rx bytes": 100, "rx packets": 10, "tx bytes": 101, "tx packets": 11}


def test_a_simulated_disk_counts_nothing(record: Record) -> None:
    assert sample(lab_with(record, "blk-vdpa_sim-vhost_vdpa-fio", {}), DEVICE) == {}
    assert "sample-failed" not in events(record)


def test_a_function_has_interrupts_and_a_back_end(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_with(record, "net-vp_vdpa-vhost_vdpa-iperf3", {"cat /proc/interrupts": INTERRUPTS})
    assert sample(lab, DEVICE) == {"irqs": 45}
    seen: list[tuple[Path, str]] = []

    def backend(path: Path, mac: str) -> dict[str, int]:
        seen.append((path, mac))
        return {"backend_to": 5, "backend_from": 6}

    monkeypatch.setattr("lab.checks.counters.backend", backend)
    lab.l1 = SimpleNamespace(process=SimpleNamespace(folder=Path("/l1")))  # type: ignore[assignment]
    assert sample(lab, DEVICE) == {"irqs": 45, "backend_to": 5, "backend_from": 6}
    assert seen == [(Path("/l1/vf1.pcap"), lab.plan.macs["vf1"])]
    assert sample(lab, DEVICE, often=True) == {"irqs": 45}
    assert len(seen) == 1, "the capture is not read at each look"


def test_a_block_function_is_counted_by_its_qemu(record: Record) -> None:
    lab = lab_with(record, "blk-vp_vdpa-vhost_vdpa-fio", {"cat /proc/interrupts": INTERRUPTS})
    stats = [
        {"device": "", "qdev": "/machine/peripheral/vpblk0/virtio-backend", "stats": {"rd_bytes": 1, "wr_bytes": 2}},
        {"device": "root", "qdev": "/x", "stats": {"rd_bytes": 8, "wr_bytes": 9}},
    ]
    lab.l1 = SimpleNamespace(query=lambda command: {"query-blockstats": stats}[command])  # type: ignore[assignment]
    assert sample(lab, DEVICE) == {"irqs": 45, "rd_bytes": 1, "wr_bytes": 2}


@pytest.mark.parametrize("scenario", ["net-vdpa_sim-vhost_vdpa-loopback", "net-vp_vdpa-vhost_vdpa-iperf3"])
def test_what_cannot_be_read_is_left_out_and_noted(record: Record, scenario: str) -> None:
    assert sample(lab_with(record, scenario, {"*": (1, "Input/output error")}), DEVICE) == {}
    assert "sample-failed" in events(record)


def test_a_host_that_is_gone_is_no_counter(record: Record) -> None:
    assert sample(lab_with(record, "net-vp_vdpa-vhost_vdpa-iperf3", {}), DEVICE) == {}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((1, "Error: feature negotiation not complete.\nkernel answers: Resource temporarily unavailable"), True),
        (vstats(0), False),
    ],
)
def test_a_device_that_nobody_drives_says_so(record: Record, answer: Any, words: bool) -> None:
    lab = lab_with(record, "net-vdpa_sim-vhost_vdpa-migrate", {"vdpa *": answer})
    assert bool(released(lab, DEVICE)) is words


def test_a_device_that_cannot_be_asked_is_not_taken_for_driven(record: Record) -> None:
    lab = lab_with(record, "net-vdpa_sim-vhost_vdpa-migrate", {"vdpa *": (1, "kernel answers: No such device")})
    with pytest.raises(CommandError, match="No such device"):
        released(lab, DEVICE)


@pytest.mark.parametrize(
    ("status", "enabled", "words"),
    [
        (0, False, "status 0x0, no queue enabled"),
        (3, False, "status 0x3, no queue enabled"),
        (15, False, ""),
        (3, True, ""),
    ],
)
def test_a_device_of_the_labs_own_model_says_whether_it_is_driven(
    record: Record, monkeypatch: pytest.MonkeyPatch, status: int, enabled: bool, words: str
) -> None:
    monkeypatch.setattr(module, "_RELEASED_S", 0.1)
    lab: Any = fake_lab(record, "net-ifcvf-vhost_vdpa-migrate")
    state = {"status": status, "queues": [{"enabled": False}, {"enabled": enabled}]}
    lab.device_model = SimpleNamespace(ask=lambda op, vf: state if (op, vf) == ("state", "vf1") else None)
    device = VdpaDevice(lab.plan.vdpa.main, "pci/0000:01:00.0", DeviceClass.NET, 0x8086, 3, 1024)
    assert released(lab, device) == words


def test_a_device_that_is_let_go_a_little_later(record: Record) -> None:
    lab: Any = fake_lab(record, "net-ifcvf-vhost_vdpa-migrate")
    states = [{"status": status, "queues": [{"enabled": status == 15}]} for status in (15, 15, 3)]
    lab.device_model = SimpleNamespace(ask=lambda _op, vf: states.pop(0))
    device = VdpaDevice(lab.plan.vdpa.main, "pci/0000:01:00.0", DeviceClass.NET, 0x8086, 3, 1024)
    assert released(lab, device) == "status 0x3, no queue enabled"
