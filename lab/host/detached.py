"""Commands that go on while nobody is connected, and whose result is fetched later, perhaps over another connection.

A migrated guest changes its address, so what runs in it must not hang on an SSH channel.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from lab.errors import Unreachable
from lab.host.base import Host
from lab.model import Completed
from lab.wait import Deadline, wait_until

_FOLDER = "/run/vdpalab/jobs"
# The inner shell leads a session of its own, so that its pid names the whole process group; `rc` appears complete.
_INNER = 'echo $$ >"$0/pid"; "$@" >"$0/out" 2>"$0/err" </dev/null; echo $? >"$0/rc.part"; mv "$0/rc.part" "$0/rc"'
_OUTER = 'mkdir -p "$1"; setsid sh -c "$0" "$@" >/dev/null 2>&1 </dev/null &'


@dataclass(frozen=True)
class Detached:
    """A started command; its files are in ``folder`` on the host."""

    argv: tuple[str, ...]
    folder: str

    def ended(self, host: Host) -> bool:
        """Whether it has ended."""
        return host.ok(["test", "-e", f"{self.folder}/rc"])

    def finish(self, host: Host, timeout_s: float) -> Completed:
        """Wait for the end and return what it printed; the duration is not known (0.0). Raises DeadlineExceeded."""
        deadline = Deadline(timeout_s * host.slowness)
        wait_until(lambda: self.ended(host), deadline, f"{host.name}: the end of {self.argv[0]}", every_s=0.2)
        status = int(host.get(f"{self.folder}/rc") or b"-1")
        return Completed(self.argv, status, host.get(f"{self.folder}/out"), host.get(f"{self.folder}/err"), 0.0)

    def stop(self, host: Host) -> None:
        """End it with everything it started; one that has ended is fine."""
        try:
            host.run(["sh", "-c", 'kill -TERM -- "-$(cat "$0/pid")"', self.folder], check=False)
        except Unreachable:
            return


def start(host: Host, argv: Sequence[str]) -> Detached:
    """Start a command in a session of its own on ``host``."""
    job = Detached(tuple(argv), f"{_FOLDER}/{secrets.token_hex(4)}")
    host.run(["sh", "-c", _OUTER, _INNER, job.folder, *argv])
    return job
