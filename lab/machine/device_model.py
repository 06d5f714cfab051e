"""The process that emulates PCI functions for L1 (docs/ifcvf.md): hardware of the lab, not a thing under test.

Its files are in ``machines/ifcvf``: ``argv.txt``, ``vfs.json`` (what it was asked for), ``server.log`` (its standard
error), ``server.pid``. Its sockets are there too and have relative names: a UNIX socket's path ends at 108 bytes.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab import proc
from lab.errors import DeviceModelDied, LabError
from lab.ifcvf import control
from lab.machine.process import describe_end, note_argv
from lab.wait import Deadline

NAME = "ifcvf"
LOG = "server.log"
PIDFILE = "server.pid"

_PROGRAM = (sys.executable, "-P", "-m", "lab.ifcvf")
_CONFIG = "vfs.json"
_CONTROL = "control.sock"
_READY_S = 30.0
_ANSWER_S = 20.0


class DeviceModel:
    """The device model of one run, as long as it is wanted; ``vfs`` are the entries of its configuration."""

    def __init__(self, folder: Path, run_dir: Path, vfs: Sequence[Mapping[str, Any]]) -> None:
        self.folder = folder
        self.names = tuple(str(vf["name"]) for vf in vfs)
        # Set when a scenario ends it on purpose.
        self.end_expected = False
        self._run_dir = run_dir
        self._vfs = list(vfs)
        self._process: proc.Process | None = None
        self._stopped = False

    @property
    def log(self) -> Path:
        """What it wrote to its standard error."""
        return self.folder / LOG

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until its sockets listen. Raises DeviceModelDied with its own words, DeadlineExceeded."""
        config = {"control": _CONTROL, "vfs": self._vfs}
        (self.folder / _CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        argv = [*_PROGRAM, "serve", "--config", _CONFIG]
        note_argv(self.folder, argv)
        with self.log.open("ab") as stderr:
            self._process = proc.start(
                argv, cwd=self.folder, env={proc.RUN_MARK: str(self._run_dir)}, stdout=proc.PIPE, stderr=stderr
            )
        (self.folder / PIDFILE).write_text(f"{self._process.pid}\n")
        self._wait_ready(Deadline(_READY_S))

    def poll(self) -> int | None:
        """Exit status, None while it runs or when it was never started."""
        return self._process.poll() if self._process else None

    def check_alive(self) -> bool:
        """Whether it runs. Raises DeviceModelDied when it has ended and nobody wanted that."""
        status = self.poll()
        if status is None or self.end_expected or self._stopped:
            return status is None
        raise DeviceModelDied(describe_end(status), self.words(), machine=NAME, log=self.log)

    def words(self) -> str:
        """The last lines of its standard error."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.strip().splitlines()[-15:])

    def ask(self, op: str, **fields: Any) -> Any:
        """Ask its control socket and return the result. Raises LabError when it refuses or does not answer."""
        folder = os.open(self.folder, os.O_PATH | os.O_DIRECTORY)
        try:
            # A name that is short whatever the directory is called (proc(5)).
            return control.ask(f"/proc/self/fd/{folder}/{_CONTROL}", {"op": op, **fields}, _ANSWER_S)
        except control.ControlError as error:
            raise LabError(f"the device model refused {op} {fields}: {error}", log=self.log) from error
        except (OSError, ValueError) as error:
            self.check_alive()
            raise LabError(f"the device model did not answer {op}: {error!r}", log=self.log) from error
        finally:
            os.close(folder)

    def counters(self, vf: str) -> dict[str, int]:
        """What a VF has counted."""
        return {name: int(value) for name, value in self.ask("counters", vf=vf).items()}

    def stop(self) -> None:
        """End it; its sockets lead nowhere then. Repeating it is fine."""
        self._stopped = True
        if self._process:
            self._process.stop()
            for path in (*self.folder.glob("*.sock"), self.folder / PIDFILE):
                path.unlink(missing_ok=True)

    def _wait_ready(self, deadline: Deadline) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while not select.select([self._process.stdout], [], [], min(1.0, deadline.left()))[0]:
            self.check_alive()
            deadline.check("the device model's sockets")
        line = self._process.stdout.readline()
        if not line:
            # Its end is a moment away, and has the words.
            self._process.wait(deadline)
            self.check_alive()
        try:
            ready = json.loads(line)["ready"]
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(f"the device model did not say that it is ready: {line!r}", log=self.log) from error
        if ready is not True:
            raise LabError(f"the device model is not ready: {line!r}", log=self.log)
