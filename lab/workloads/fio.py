"""fio on a block device, everything written read back and verified by crc32c (fio(1); JSON as of fio 3.33 and 3.39).

Each job of the configuration is one run of fio named ``<rw>_<block size>``. That is the prefix of its metrics
(``<name>_write`` and ``<name>_read`` MB/s, ``…_iops`` IOPS, ``…_p99`` completion latency in ms), of its checks
(``fio <name>``; ``integrity``) and of its raw JSON (``workloads/<name>.json`` in the run directory).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.config.scenario import Fio, FioJob
from lab.host import detached
from lab.host.base import Host
from lab.host.detached import Detached
from lab.host.endpoints import BlockEnd
from lab.model import Check, Level, Metric, WorkloadResult
from lab.workloads import base
from lab.workloads.base import Output

# A fio or kernel without libaio gets synchronous I/O; asking first would cost another start of fio, seconds in L2.
_RUN = (
    'run() { out=$(fio --ioengine=libaio "$@" 2>&1); rc=$?; '
    'case $out in *"engine libaio not"*|*func=io_queue_init*) fio --ioengine=psync "$@"; return;; esac; '
    "printf '%s\\n' \"$out\"; return $rc; }"
)
_COMMON = ("--output-format=json", "--eta=never", "--direct=1", "--randrepeat=1")
# fio would leave the state of its verification as a file in whatever folder it was started in.
_VERIFY = ("--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0")
# Blocks written before the job goes back to verify them, so that a job bound by time verifies all along.
_BACKLOG = 64
# Reads of such a job after which it has verified all that it had written before them: what was behind, and one backlog.
ALL_READ_BACK = 2 * _BACKLOG
# How a job that was stopped because it took too long is told.
LATE = "it did not end in time"
# fio's name for "what was read is not what was written".
_EILSEQ = 84
_CORRUPT = re.compile(r"^.*verify(?: failed|: bad).*$", re.MULTILINE)
_FAILED = re.compile(r"^fio: .*(?:err=|error|[Ff]ailed).*$", re.MULTILINE)
# Seconds that a job may take beyond what it asks for; the slowest measured rate was several MB/s.
_JOB_S = 60.0


def start(
    config: Fio, end: BlockEnd, record_folder: Path, *, label: str = "", level: Level = Level.L1_KERNEL
) -> FioRun:
    """Start the jobs, which run one after another and overwrite the device.

    ``label`` is appended to the jobs' names; ``level`` is to blame when one fails.
    """
    return _start(config.jobs, None, end, record_folder, label, level)


def start_background(
    end: BlockEnd,
    record_folder: Path,
    *,
    seconds: float,
    job: FioJob | None = None,
    label: str = "background",
    level: Level = Level.L1_KERNEL,
) -> FioRun:
    """One job that writes and verifies for ``seconds``, to be finished or stopped later."""
    return _start([job or FioJob()], seconds, end, record_folder, label, level)


def _start(
    jobs: Sequence[FioJob], seconds: float | None, end: BlockEnd, record_folder: Path, label: str, level: Level
) -> FioRun:
    names = base.distinct(["_".join([job.rw, job.block_size, *([label] if label else [])]) for job in jobs])
    commands = [_arguments(name, job, end, seconds) for name, job in zip(names, jobs, strict=True)]
    running = detached.start(end.host, base.serial(commands, run=_RUN))
    return FioRun(names, end.host, running, record_folder, level, seconds)


class FioRun:
    """The jobs of one configuration, going on. See :class:`lab.workloads.base.Job`."""

    def __init__(
        self,
        names: Sequence[str],
        host: Host,
        running: Detached,
        record_folder: Path,
        level: Level,
        seconds: float | None,
    ) -> None:
        self._names = names
        self._host = host
        self._running = running
        self._folder = record_folder
        self._level = level
        self._seconds = seconds
        self._stopped = False
        self._result: WorkloadResult | None = None

    def stop(self) -> None:
        """End it early."""
        self._stopped = True
        self._running.stop(self._host)
        self.finish(base.LAST_WORDS_S)

    def rehost(self, old: Host, new: Host) -> None:
        """The machine with the device is now reached as ``new``."""
        if self._host is old:
            self._host = new

    def finish(self, timeout_s: float | None = None) -> WorkloadResult:
        """Wait, judge, and keep the raw output."""
        if self._result is None:
            limit = (_JOB_S + (self._seconds or 0.0)) * len(self._names) if timeout_s is None else timeout_s
            outputs, late = base.gather(self._running, self._host, len(self._names), limit)
            self._result = self._judge(outputs, late and not self._stopped)
        return self._result

    def _judge(self, outputs: Sequence[Output], late: bool) -> WorkloadResult:
        metrics: list[Metric] = []
        checks: list[Check] = []
        moved = {"written": 0, "read": 0}
        for name, output in zip(self._names, outputs, strict=True):
            base.keep(self._folder, f"{name}.json", output.text)
            try:
                job = base.json_object(output.text)["jobs"][0]
                moved["written"] += job["write"]["io_bytes"]
                moved["read"] += job["read"]["io_bytes"]
                metrics += self._metrics(name, job)
                checks += self._checks(name, job, output, late)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                checks += self._without_report(name, output, late, error)
        return WorkloadResult(tuple(metrics), tuple(checks), moved)

    def _without_report(self, name: str, output: Output, late: bool, error: Exception) -> list[Check]:
        if late:
            seen = f"{LATE}: no result, nor when it was stopped: {base.tail(output.text)}"
            return [self._judged(f"fio {name}", False, seen, "a report")]
        if self._stopped and output == Output(None, "") and name != self._names[0]:
            return []  # it was not reached
        seen = f"status {output.status}, no report that can be read ({error!r}): {base.tail(output.text)}"
        return [Check.unproven(f"fio {name}", seen, "a report", machine=self._host.name)]

    def _checks(self, name: str, job: Mapping[str, Any], output: Output, late: bool) -> list[Check]:
        title, written = f"fio {name}", job["write"]["io_bytes"]
        corrupt, failed = _CORRUPT.search(output.text), _FAILED.search(output.text)
        if corrupt or job["error"] == _EILSEQ:
            seen = f"{name}: {corrupt.group() if corrupt else 'EILSEQ'}"
            return [self._judged("integrity", False, seen, "what was written is read back")]
        if job["error"] or late:
            seen = f"stalled: {LATE}" if late else f"error {job['error']}"
            return [self._judged(title, False, failed.group() if failed else seen, "no error")]
        if written == 0 or (output.status and not self._stopped):
            said = base.tail(output.text.partition("{")[0])
            seen = f"status {output.status}, {written} bytes written: {said}"
            return [Check.unproven(title, seen, "data written", machine=self._host.name)]
        rate = ", ".join(f"{way} {self._mb_s(job, way):.2f} MB/s" for way in ("write", "read"))
        return [self._judged(title, True, rate, "no error"), self._integrity(name, job)]

    def _integrity(self, name: str, job: Mapping[str, Any]) -> Check:
        written, read = job["write"]["io_bytes"], job["read"]["io_bytes"]
        seen, expected = f"{name}: {written} bytes written, {read} read", "what was written is read back and compared"
        # A stopped job leaves blocks that it had no time to verify.
        if read == 0 or (read < written and not self._stopped):
            return Check.unproven("integrity", seen, expected, machine=self._host.name)
        return self._judged("integrity", True, seen, expected)

    def _judged(self, name: str, good: bool, seen: str, expected: str) -> Check:
        return Check.judged(name, good, seen, expected, level=self._level, machine=self._host.name)

    def _metrics(self, name: str, job: Mapping[str, Any]) -> list[Metric]:
        found = []
        for way in ("write", "read"):
            if job[way]["io_bytes"] == 0:
                continue
            iops = job[way]["total_ios"] * 1000 / self._runtime_ms(job, way)
            found.append(Metric(f"{name}_{way}", self._mb_s(job, way), "MB/s"))
            found.append(Metric(f"{name}_{way}_iops", iops, "IOPS"))
            p99 = job[way]["clat_ns"].get("percentile", {}).get("99.000000")
            if p99 is not None:
                found.append(Metric(f"{name}_{way}_p99", p99 / 1e6, "ms"))
        return found

    def _mb_s(self, job: Mapping[str, Any], way: str) -> float:
        return float(job[way]["io_bytes"]) / 1e3 / self._runtime_ms(job, way)

    def _runtime_ms(self, job: Mapping[str, Any], way: str) -> float:
        # fio 3.33 says 1 ms for the reads of a timed job that verifies all along.
        return max(1.0, float(job["job_runtime"] if self._seconds else job[way]["runtime"]))


def _arguments(name: str, job: FioJob, end: BlockEnd, seconds: float | None) -> list[str]:
    # Without allow_file_create=0, fio makes a missing device node a file in /dev and measures the memory behind it.
    where = [f"--name={name}", f"--filename={end.device}", "--allow_file_create=0"]
    where += [f"--offset={job.offset}"] if job.offset != "0" else []
    what = [f"--rw={job.rw}", f"--bs={job.block_size}", f"--size={job.size}", f"--iodepth={job.iodepth}"]
    bound = ["--time_based", f"--runtime={math.ceil(seconds)}", f"--verify_backlog={_BACKLOG}"] if seconds else []
    return [*where, *what, *_COMMON, *_VERIFY, *bound]
