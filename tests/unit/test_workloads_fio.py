"""lab.workloads.fio: the job's own scripts run here; fio is a stub that prints recorded output."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.config.scenario import Fio, FioJob
from lab.evidence.record import Record
from lab.host import detached
from lab.host.base import Host
from lab.host.endpoints import BlockEnd
from lab.host.local import LocalHost
from lab.model import Check, Level, Verdict, WorkloadResult
from lab.wait import Deadline, wait_until
from lab.workloads import fio

SAMPLES = Path(__file__).parent / "samples" / "fio"
STATUS = {"randwrite-3.39": 0, "randrw-3.39": 0, "stopped-3.39": 128}
STUB = """#!/bin/sh
echo "$*" >>"$STUB.argv"
one=$(ls "$STUB" | head -n 1)
case $one in *forever*) trap over=1 TERM; touch "$STUB.waits"; while [ -z "$over" ]; do sleep 0.05; done ;; esac
cat "$STUB/$one"
rm "$STUB/$one"
exit "${one##*-}"
"""


class Bench:
    """The disk's host, and the stub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = LocalHost("l2", Record(folder / "host"))

    def prints(self, *names: str, status: int | None = None) -> None:
        (self.folder / "stub").mkdir()
        for number, name in enumerate(names):
            sample = name.removesuffix("-forever")
            text = name.removeprefix("text:") if name.startswith("text:") else (SAMPLES / f"{sample}.txt").read_text()
            kind = "forever" if name.endswith("-forever") else "once"
            ends = STATUS.get(sample, 1) if status is None else status
            (self.folder / "stub" / f"{number}-{kind}-{ends}").write_text(text)

    @property
    def end(self) -> BlockEnd:
        return BlockEnd(self.host, "/dev/vdb", 1 << 27)

    def run(self, *jobs: FioJob) -> WorkloadResult:
        config = Fio(kind="fio", jobs=list(jobs) or [FioJob()])
        return fio.start(config, self.end, self.folder, level=Level.L1_QEMU).finish()

    def wait_running(self) -> None:
        wait_until((self.folder / "stub.waits").exists, Deadline(20), "fio to run")

    @property
    def argv(self) -> list[str]:
        return (self.folder / "stub.argv").read_text().splitlines()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(Host, "scratch", str(tmp_path))
    monkeypatch.setattr(detached, "_LOOK_S", 0.02)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "fio").write_text(STUB)
    (tmp_path / "bin" / "fio").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("STUB", str(tmp_path / "stub"))
    return Bench(tmp_path)


def judged(result: WorkloadResult) -> list[tuple[str, Verdict]]:
    return [(check.name, check.verdict) for check in result.checks]


def one(result: WorkloadResult) -> Check:
    (check,) = result.checks
    return check


def test_two_jobs(bench: Bench) -> None:
    bench.prints("randwrite-3.39", "randrw-3.39")
    result = bench.run(FioJob(), FioJob(rw="randrw", block_size="64k"))
    assert judged(result) == [
        ("fio randwrite_4k", Verdict.PASS),
        ("integrity", Verdict.PASS),
        ("fio randrw_64k", Verdict.PASS),
        ("integrity", Verdict.PASS),
    ]
    assert result.moved == {"written": 8388608 + 4317184, "read": 2 * 8388608}
    units = {metric.name: metric.unit for metric in result.metrics}
    assert units == {
        f"{job}_{way}{what}": unit
        for job in ("randwrite_4k", "randrw_64k")
        for way in ("write", "read")
        for what, unit in (("", "MB/s"), ("_iops", "IOPS"), ("_p99", "ms"))
    }
    values = {metric.name: metric.value for metric in result.metrics}
    assert values["randwrite_4k_write"] == pytest.approx(310.7, abs=0.1)
    assert values["randwrite_4k_write_iops"] == pytest.approx(75851.9, abs=0.1)
    assert values["randwrite_4k_write_p99"] == pytest.approx(0.782, abs=0.001)
    kept = {path.name for path in (bench.folder / "workloads").iterdir()}
    assert kept == {"randwrite_4k.json", "randrw_64k.json"}


def test_what_fio_is_told(bench: Bench) -> None:
    bench.prints("randwrite-3.39")
    bench.run(FioJob(size="16m", iodepth=4, offset="32m"))
    (line,) = bench.argv
    for word in (
        "--ioengine=libaio",
        "--filename=/dev/vdb",
        "--allow_file_create=0 --offset=32m",
        "--rw=randwrite --bs=4k --size=16m --iodepth=4",
        "--direct=1",
        "--verify=crc32c --verify_fatal=1 --do_verify=1",
        "--output-format=json",
    ):
        assert word in line
    assert "time_based" not in line


@pytest.mark.parametrize(
    "said",
    [
        "fio: engine libaio not loadable\nIO engine libaio not found\n",
        "fio: pid=1, err=38/file:engines/libaio.c:354, func=io_queue_init, error=Function not implemented\n{}",
    ],
)
def test_without_libaio_it_is_synchronous(bench: Bench, said: str) -> None:
    bench.prints("text:" + said, "randwrite-3.39", status=0)
    assert {verdict for _, verdict in judged(bench.run())} == {Verdict.PASS}
    assert [line.split()[0] for line in bench.argv] == ["--ioengine=libaio", "--ioengine=psync"]


@pytest.mark.parametrize(
    ("name", "offset"), [("corrupt-3.39", "offset 3710976"), ("crc-mismatch-3.33", "offset 315392")]
)
def test_corruption_fails_and_says_where(bench: Bench, name: str, offset: str) -> None:
    bench.prints(name)
    check = one(bench.run())
    assert (check.name, check.verdict, check.level) == ("integrity", Verdict.FAIL, Level.L1_QEMU)
    assert offset in check.seen
    assert check.machine == "l2"


def test_corruption_is_told_by_the_error_number_too(bench: Bench) -> None:
    text = (SAMPLES / "corrupt-3.39.txt").read_text()
    bench.prints("text:" + text[text.index("{") :])
    assert judged(bench.run()) == [("integrity", Verdict.FAIL)]


def test_an_io_error(bench: Bench) -> None:
    bench.prints("io-error-3.33")
    check = one(bench.run())
    assert (check.name, check.verdict) == ("fio randwrite_4k", Verdict.FAIL)
    assert "No space left on device: write offset=0" in check.seen


@pytest.mark.parametrize("name", ["missing-3.33", "refused-3.33", "text:", "text:{}", 'text:{"jobs": []}'])
def test_what_did_not_run_proves_nothing(bench: Bench, name: str) -> None:
    bench.prints(name)
    check = one(bench.run())
    assert (check.verdict, check.level) == (Verdict.ERROR, Level.LAB)


def test_the_reason_of_a_missing_device_is_told(bench: Bench) -> None:
    bench.prints("missing-3.33")
    assert "file creation disallowed" in one(bench.run()).seen


def test_a_bad_status_without_error_proves_nothing(bench: Bench) -> None:
    bench.prints("randwrite-3.39", status=7)
    assert judged(bench.run()) == [("fio randwrite_4k", Verdict.ERROR)]


def test_what_was_not_read_back_is_not_verified(bench: Bench) -> None:
    text = (SAMPLES / "randwrite-3.39.txt").read_text()
    half = text.replace('"io_bytes" : 8388608', '"io_bytes" : 4096', 1)
    bench.prints("text:" + half, status=0)
    assert judged(bench.run()) == [("fio randwrite_4k", Verdict.PASS), ("integrity", Verdict.ERROR)]


def test_a_job_that_stalls(bench: Bench) -> None:
    bench.prints("stopped-3.39-forever", "randwrite-3.39")
    job = fio.start(Fio(kind="fio", jobs=[FioJob(), FioJob()]), bench.end, bench.folder)
    bench.wait_running()
    result = job.finish(0.1)
    assert judged(result) == [("fio randwrite_4k", Verdict.FAIL), ("fio randwrite_4k_2", Verdict.FAIL)]
    assert all("in time" in check.seen for check in result.checks)


def test_a_background_job_that_is_stopped(bench: Bench) -> None:
    bench.prints("stopped-3.39-forever")
    job = fio.start_background(bench.end, bench.folder, seconds=60)
    bench.wait_running()
    job.rehost(bench.host, LocalHost("l2", Record(bench.folder / "again")))
    job.stop()
    result = job.finish()
    assert judged(result) == [("fio randwrite_4k_background", Verdict.PASS), ("integrity", Verdict.PASS)]
    assert result.moved == {"written": 295436288, "read": 295366656}
    assert "--time_based --runtime=60 --verify_backlog=64" in bench.argv[0]
    values = {metric.name: metric.value for metric in result.metrics}
    assert values["randwrite_4k_background_read"] == pytest.approx(108.7, abs=0.1)
    assert job.finish() is result


def test_stopped_jobs_that_were_not_reached_are_not_judged(bench: Bench) -> None:
    bench.prints("stopped-3.39-forever", "randwrite-3.39")
    job = fio.start(Fio(kind="fio", jobs=[FioJob(), FioJob()]), bench.end, bench.folder)
    bench.wait_running()
    job.stop()
    assert {check.name for check in job.finish().checks} == {"fio randwrite_4k", "integrity"}
