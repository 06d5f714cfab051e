"""Commands that go on while nobody is connected, and whose result is fetched later, perhaps over another connection.

A migrated guest changes its address, so what runs in it must not hang on an SSH channel.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from lab.errors import CommandError, DeadlineExceeded, Unreachable
from lab.host.base import COMMAND_S, Host
from lab.model import Completed

# How often the host itself looks for the end, in seconds: a look of ours is an SSH command, half a second in L2.
_LOOK_S = 0.2
_NOT_ENDED = 75
# The inner shell leads a session of its own, so that its pid names the whole process group; `rc` appears complete, and
# also after `stop`: the trap keeps this shell until what it started has ended on the same signal.
_INNER = (
    'trap : TERM; echo $$ >"$0/pid"; echo up >&3; exec 3>&-; '
    '"$@" >"$0/out" 2>"$0/err" </dev/null; echo $? >"$0/rc.part"; mv "$0/rc.part" "$0/rc"'
)
# Ends when the inner shell has its own session: before that it would die with the group of what starts it. The path of
# the shell is whole because busybox's setsid takes `sh` for itself, whose `ip` knows no namespaces.
_OUTER = 'mkdir -p "$1"; { setsid /bin/sh -c "$0" "$@" 3>&1 >/dev/null 2>&1 </dev/null & } | read -r up'
_COLLECT = (
    f'n=0; until [ -e "$0/rc" ]; do [ "$n" -lt "$1" ] || exit {_NOT_ENDED}; n=$((n + 1)); sleep "$2"; done; '
    'cd "$0" && cat rc && wc -c <out && cat out err'
)


@dataclass(frozen=True)
class Detached:
    """A started command; its files are in ``folder`` on the host."""

    argv: tuple[str, ...]
    folder: str

    def finish(self, host: Host, timeout_s: float) -> Completed:
        """Wait for the end and return what it printed; the duration is not known (0.0). Raises DeadlineExceeded."""
        looks = (str(math.ceil(timeout_s * host.slowness / _LOOK_S)), str(_LOOK_S))
        # Each look costs the host a fork as well, so the command may take longer than the looks alone.
        done = host.run(["sh", "-c", _COLLECT, self.folder, *looks], check=False, timeout_s=1.5 * timeout_s + COMMAND_S)
        if done.returncode == _NOT_ENDED:
            raise DeadlineExceeded(f"{host.name}: the end of {self.argv[0]}", timeout_s * host.slowness)
        if done.returncode != 0:
            raise CommandError(host.name, done)
        status, size, printed = done.stdout.split(b"\n", 2)
        return Completed(self.argv, int(status), printed[: int(size)], printed[int(size) :], 0.0)

    def stop(self, host: Host) -> bool:
        """Ask it to end, with everything it started; one that has ended is fine. Returns whether it was there."""
        return self._signal(host, "TERM")

    def kill(self, host: Host) -> None:
        """End it by force, with everything it started; no status is left behind."""
        self._signal(host, "KILL")

    def _signal(self, host: Host, name: str) -> bool:
        # The one spelling that dash, busybox ash and bash all take: dash refuses `--`, and `-s TERM` with a group.
        # The number of a group that has ended may be somebody else's.
        script = '[ ! -e "$0/rc" ] && kill "-$1" "-$(cat "$0/pid")"'
        try:
            return host.ok(["sh", "-c", script, self.folder, name])
        except Unreachable:
            return False


def start(host: Host, argv: Sequence[str]) -> Detached:
    """Start a command in a session of its own on ``host``."""
    job = Detached(tuple(argv), f"{host.scratch}/jobs/{secrets.token_hex(4)}")
    host.run(["sh", "-c", _OUTER, _INNER, job.folder, *argv])
    return job
