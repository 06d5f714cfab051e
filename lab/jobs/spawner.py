"""The avocado spawner of the lab: a process per run, in a session of its own, that cannot hang the job.

What avocado's own process spawner lacks: a runner that dies hard leaves the job waiting for ever; runs start without
regard to memory; Ctrl-C reaches runner and controller alike, and the runner is killed one second later.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from avocado.core.utils import messages
from avocado.plugins.spawners.process import ProcessSpawner

from lab import proc
from lab.jobs.admission import Budget, Gate, Weight, machine_budget
from lab.jobs.parent import PARENT
from lab.jobs.runner import RUN_LINK
from lab.model import Verdict
from lab.report.rundir import RUNNER, RUNNER_LOG, result_of

# Seconds from SIGTERM to SIGKILL: a teardown unplugs, powers off and collects at three nested levels.
GRACE_S = 60.0


class Handle:
    """A runner that was started; avocado looks at ``wait_task``."""

    def __init__(self, process: proc.Process) -> None:
        self.process = process
        self.wait_task: asyncio.Task[None] | None = None


class LabSpawner(ProcessSpawner):  # type: ignore[misc]  # avocado has no types
    """Starts runners when they fit, watches them, ends them with time for their teardown."""

    description = "Runs vDPA scenarios by RAM and cores"

    def __init__(self, config: Any = None, job: Any = None) -> None:
        super().__init__(config, job)
        self._budget = self._configured_budget()
        self._gate: Gate | None = None
        self._running: list[proc.Process] = []
        self._background: set[asyncio.Task[None]] = set()

    async def spawn_task(self, runtime_task: Any) -> bool:
        """Start the runner of one task as soon as it fits; False when the job was stopped before."""
        gate = self._open_gate()
        runnable = runtime_task.task.runnable
        weight = Weight(int(runnable.kwargs.get("ram_mb", 0)), int(runnable.kwargs.get("cores", 0)))
        if not await gate.enter(weight):
            return False
        self.create_task_output_dir(runtime_task)
        folder = Path(runnable.kwargs.get("run_dir") or runnable.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        handle = Handle(self._start(runtime_task.task, folder))
        handle.wait_task = asyncio.get_running_loop().create_task(
            self._watch(handle, runtime_task.task, folder, weight)
        )
        runtime_task.spawner_handle = handle
        return True

    async def terminate_task(self, runtime_task: Any) -> bool:
        """End a runner for a timeout of avocado's."""
        await self._end(runtime_task.spawner_handle.process)
        return True

    async def stop(self) -> None:
        """Start nothing more and end what runs, with time to tear down."""
        await self._open_gate().close()
        await asyncio.gather(*(self._end(process) for process in self._running))

    def _configured_budget(self) -> Budget:
        """The machine's, or what the ``[vdpalab]`` section of avocado's configuration says (zero: the machine's)."""
        config = self.config
        own = machine_budget(config.get("vdpalab.runs") or None)
        return Budget(config.get("vdpalab.ram_mb") or own.ram_mb, config.get("vdpalab.cores") or own.cores, own.runs)

    def _open_gate(self) -> Gate:
        """The gate; made at the first task, when the loop runs whose signals we take."""
        if self._gate is None:
            self._gate = Gate(self._budget)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, lambda: self._spawn(self.stop()))
        return self._gate

    def _start(self, task: Any, folder: Path) -> proc.Process:
        """Start the runner; its output is evidence."""
        argv = [*task.runnable.runner_command(), "task-run", *task.get_command_args()]
        if argv[0].startswith("avocado-runner-"):
            # The venv's bin need not be in PATH.
            argv[0] = str(Path(sys.executable).with_name(argv[0]))
        with (folder / RUNNER_LOG).open("ab") as log:
            process = proc.start(argv, env={PARENT: str(os.getpid())}, stdout=log, stderr=log)
        self._running.append(process)
        _write_runner(folder, process)
        return process

    async def _watch(self, handle: Handle, task: Any, folder: Path, weight: Weight) -> None:
        """Wait for the end of a runner, say how it ended and make room for the next."""
        process, limit = handle.process, float(task.runnable.kwargs.get("limit_s", 0))
        try:
            await asyncio.wait_for(_ended(process), limit or None)
        except TimeoutError:
            with (folder / RUNNER_LOG).open("a") as log:
                log.write(f"the run did not end within {limit:.0f} s and was stopped\n")
            await self._end(process)
        self._running.remove(process)
        status = process.stop()
        _write_runner(folder, process)
        if status != 0:
            _report_vanished(task, status)
        gate = self._open_gate()
        if self.config.get("vdpalab.until_fail") and _bad(folder):
            await gate.close()
        await gate.leave(weight)

    async def _end(self, process: proc.Process) -> None:
        """SIGTERM; SIGKILL when the teardown takes longer than GRACE_S."""
        if process.poll() is None:
            process.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(_ended(process), GRACE_S)
            except TimeoutError:
                process.signal(signal.SIGKILL)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in the background; the loop itself keeps only weak references."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _ended(process: proc.Process) -> None:
    """Wait for the end of a process; nothing is polled."""
    if process.poll() is not None:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _write_runner(folder: Path, process: proc.Process) -> None:
    # Under `avocado run` the runner chose the run directory itself.
    folder = (folder / RUN_LINK).resolve() if (folder / RUN_LINK).is_symlink() else folder
    (folder / RUNNER).write_text(json.dumps({"pid": process.pid, "returncode": process.poll()}) + "\n")


def _report_vanished(task: Any, status: int) -> None:
    """Tell avocado what the runner no longer can; without this the job would wait for ever.

    A runner that ends with 0 has said how its run ended.
    """
    reason = f"runner process vanished (exit status {status})"
    message = messages.FinishedMessage.get("error", reason, id=str(task.identifier), job_id=task.job_id)
    for service in task.status_services:
        service.post(message)


def _bad(folder: Path) -> bool:
    """Whether the run in this directory is a FAIL or an ERROR."""
    return result_of(folder).verdict in (Verdict.FAIL, Verdict.ERROR)
