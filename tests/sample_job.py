"""A job directory as the lab writes it, with one run of each verdict, for the tests of reports and jobs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.config.request import RunRequest
from lab.model import Accel, Check, Level, Metric, RunResult, Verdict
from lab.report.result import dumps, to_dict

BEGAN = 1_790_000_000.0

PASSED = RunResult(
    scenario="net-vp_vdpa-vhost_vdpa-iperf3",
    verdict=Verdict.PASS,
    level=None,
    machine=None,
    reason="every check passed, with proof",
    duration_s=48.3,
    run_dir="",
    known=("F3",),
    accel_l1=Accel.TCG,
    accel_l2=Accel.TCG,
    checks=(
        Check("data path", Verdict.PASS, "VF 0000:01:00.1 tx_bytes +1864201, iperf3 1850000", ">= bytes", proof=True),
        Check("kernel log of l1", Verdict.PASS, "nothing in 412 lines", "no WARN, BUG, oops, KASAN, lockdep"),
        Check("topology", Verdict.PASS, "vhost_vdpa bound, /dev/vhost-vdpa-0", "vhost_vdpa bound"),
    ),
    metrics=(
        Metric("tcp throughput", 14.8123, "Mbit/s"),
        Metric("tcp retransmits", 3, "count"),
        Metric("udp loss", 0.21, "%"),
    ),
)
FAILED = replace(
    PASSED,
    scenario="net-vp_vdpa-vhost_vdpa-unplug",
    verdict=Verdict.FAIL,
    level=Level.L1_KERNEL,
    machine="l1",
    reason="kernel log of l1: expected nothing, saw WARNING: CPU: 0 PID: 412 at drivers/vhost/vdpa.c:1061 <F&P>",
    known=(),
    checks=(
        Check(
            "kernel log of l1",
            Verdict.FAIL,
            "WARNING: CPU: 0 PID: 412 at drivers/vhost/vdpa.c:1061 vhost_vdpa_pa_unmap+0x3a/0x110 [vhost_vdpa]",
            "no WARN, BUG, oops, KASAN, lockdep",
            Level.L1_KERNEL,
            "l1",
        ),
        Check("data path", Verdict.PASS, "tx_bytes +1864201", ">= bytes", proof=True),
    ),
)
SKIPPED = replace(
    PASSED,
    scenario="net-ifcvf-vhost_vdpa-iperf3",
    verdict=Verdict.SKIP,
    level=Level.LAB,
    reason="the site lacks PCI functions # for \\ vp_vdpa",
    checks=(),
    metrics=(),
    known=(),
    duration_s=0.2,
)


def write_events(run_dir: Path, *, offset: float = 0.0, complete: bool = True) -> None:
    """Steps as the engine records them; an incomplete record ends inside ``workload``."""
    events: list[dict[str, Any]] = [
        {"t": 100.0, "event": "begin", "wall": BEGAN + offset, "pid": 4711},
        {"t": 100.1, "event": "accel", "level": "l1", "accel": "tcg", "reason": "/dev/kvm opens, no guest ran"},
    ]
    clock = 100.1
    for name, seconds in (
        ("artifacts", 0.6),
        ("machines", 27.5),
        ("devices", 1.9),
        ("attach", 3.2),
        ("workload", 11.0),
    ):
        events.append({"t": clock, "event": "step-begin", "step": name})
        if name == "machines":
            for inner, part in (("l1", 2.6), ("l2", 24.5)):
                events.append({"t": clock, "event": "step-begin", "step": inner})
                clock += part
                events.append({"t": clock, "event": "step-end", "step": inner, "seconds": part})
            events.append({"t": clock, "event": "slowness", "l1": 1.31, "l2": 1.02})
        else:
            clock += seconds
        if name != "workload" or complete:
            events.append({"t": clock, "event": "step-end", "step": name, "seconds": seconds})
    if complete:
        events.append({"t": clock + 1.7, "event": "end"})
    (run_dir / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def write_run(job_dir: Path, number: int, result: RunResult, *, offset: float = 0.0) -> Path:
    """One run directory with everything in it."""
    run_dir = job_dir / f"{number:03d}-{result.scenario}"
    run_dir.mkdir(parents=True)
    request = RunRequest(scenario=result.scenario, cold=True, overrides=("workload.streams.0.seconds=5",))
    (run_dir / "request.json").write_text(request.model_dump_json())
    plan = {
        "run_id": "1a2b3c4d",
        "scenario": result.scenario,
        "summary": "what the scenario does & expects",
        "machines": {"l1": {"memory_mb": 2048, "cpus": 2}, "l2": {"memory_mb": 256, "cpus": 1}},
        "macs": {"l1": "52:54:1a:2b:3c:01", "vf1": "52:54:1a:2b:3c:11"},
        "lacks": [],
        "config": {"class": "net", "workload": {"streams": [{"protocol": "tcp"}, {"protocol": "udp"}]}},
    }
    (run_dir / "plan.json").write_text(json.dumps(plan))
    (run_dir / "runner.json").write_text(json.dumps({"pid": 4711, "returncode": 0}))
    (run_dir / "runner.log").write_text("")
    write_events(run_dir, offset=offset)
    _write_evidence(run_dir)
    stored = replace(result, run_dir=str(run_dir))
    (run_dir / "result.json").write_text(
        dumps(to_dict(stored) | {"versions": {"l1.kernel": "6.12.43+deb13 <x>", "l0.qemu": "10.0.2"}})
    )
    return run_dir


def _write_evidence(run_dir: Path) -> None:
    for machine in ("l1", "l2"):
        folder = run_dir / "machines" / machine
        folder.mkdir(parents=True)
        (folder / "argv.txt").write_text("qemu-system-x86_64 -M q35\n")
        (folder / "qemu.log").write_text("")
        lines = [f"[{n / 10:12.6f}] {machine}: line {n} of the console <script>\x1b[0m\r" for n in range(120)]
        (folder / "console.log").write_text("\n".join(lines))
    host = run_dir / "hosts" / "l1"
    host.mkdir(parents=True)
    for number, (argv, status) in enumerate(
        [(["vdpa", "-j", "mgmtdev", "show"], 0), (["vdpa", "dev", "add", "name", "v1", "mgmtdev", "pci/x"], 1)], 1
    ):
        base = host / f"cmd-{number:03d}"
        base.with_suffix(".out").write_text("{}\n")
        base.with_suffix(".json").write_text(json.dumps({"argv": argv, "returncode": status, "seconds": 0.061}))
    workloads = run_dir / "workloads"
    workloads.mkdir()
    intervals = [
        {"sum": {"start": n / 2, "end": (n + 1) / 2, "bits_per_second": 14e6 + 4e6 * ((n * 7) % 5 - 2)}}
        for n in range(20)
    ]
    (workloads / "iperf3-tcp.json").write_text(json.dumps({"start": {}, "intervals": intervals, "end": {}}))


def write_job(job_dir: Path) -> Path:
    """A job with a PASS, a FAIL, a SKIP and a run whose runner was killed."""
    job_dir.mkdir(parents=True)
    command = "vdpalab run smoke -j 2"
    (job_dir / "job.json").write_text(json.dumps({"command": command, "began": BEGAN}))
    write_run(job_dir, 1, PASSED)
    write_run(job_dir, 2, FAILED, offset=5)
    write_run(job_dir, 3, SKIPPED, offset=50)
    write_killed_run(job_dir, 4, offset=51)
    (job_dir / "avocado").mkdir()
    return job_dir


def write_killed_run(job_dir: Path, number: int, *, offset: float = 0.0) -> Path:
    """What remains of a run whose runner got SIGKILL: no result, a half-written line, no plan."""
    run_dir = job_dir / f"{number:03d}-blk-vdpa_sim-vhost_vdpa-fio"
    run_dir.mkdir(parents=True)
    (run_dir / "request.json").write_text(RunRequest(scenario="blk-vdpa_sim-vhost_vdpa-fio").model_dump_json())
    (run_dir / "runner.json").write_text(json.dumps({"pid": 4713, "returncode": -9}))
    (run_dir / "runner.log").write_text("Traceback (most recent call last):\nlast words\n")
    write_events(run_dir, offset=offset, complete=False)
    with (run_dir / "events.jsonl").open("a") as events:
        events.write('{"t": 160.0, "event": "com')
    return run_dir
