"""What every workload shares: the Job that goes on, and how its commands run, one after another, on a host.

A workload is one module of this package, named like ``kind`` in the scenario, with::

    start(config, <ends>, record_folder, …) -> Job     it runs when this returns
    start_background(<ends>, record_folder, …) -> Job  for a given time, under an action
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lab.errors import DeadlineExceeded
from lab.host.base import Host
from lab.host.detached import Detached
from lab.model import WorkloadResult

# ASCII record separator: no program prints it, so it parts the outputs of commands that share one stream.
_SEPARATOR = "\x1e"
# Each argument is one command as plain words. SIGTERM goes to the whole process group: the command in progress prints
# what it has measured, and the next ones are left out.
_SERIAL = """
set -f
trap stop=1 TERM
for words; do
    [ -z "$stop" ] || break
    run $words 2>&1
    printf '\\036%s\\036' "$?"
done
"""
_RUN = 'run() { "$@"; }'
# Seconds that a stopped command has to print its result.
LAST_WORDS_S = 10.0


class Job(Protocol):
    """A workload that goes on."""

    def finish(self, timeout_s: float | None = None) -> WorkloadResult:
        """Wait for its end and judge it; what does not end in time is stopped and has failed.

        ``timeout_s`` is multiplied by the slowness of the host; None: what the workload itself says it takes.
        Repeating it gives the same result. Raises HostError when the host is gone.
        """

    def stop(self) -> None:
        """End it early and leave nothing running. ``finish`` then gives what was measured until now; that it ended
        early is no failure. Raises HostError when the host is gone.
        """

    def rehost(self, old: Host, new: Host) -> None:
        """The machine that was reached as ``old`` is now reached as ``new``: it has migrated, or the login is new."""


@dataclass(frozen=True)
class Output:
    """What one command printed, both streams; ``status`` is None when it was not run or did not end."""

    status: int | None
    text: str


def serial(commands: Sequence[Sequence[str]], run: str = _RUN) -> list[str]:
    """One command that runs ``commands`` one after another; for :func:`gather`.

    No word of them may contain blanks. ``run`` is a shell function of that name that runs one of them.
    """
    return ["sh", "-c", run + _SERIAL, "serial", *(" ".join(command) for command in commands)]


def gather(job: Detached, host: Host, count: int, timeout_s: float) -> tuple[list[Output], bool]:
    """Outputs of the ``count`` commands of a detached :func:`serial`, and whether they had to be stopped for time.

    A stop that came just before a command began may have missed it, so it is also repeated here.
    """
    late = False
    try:
        printed = job.finish(host, timeout_s).stdout
    except DeadlineExceeded:
        late = True
        printed = _last_words(job, host)
    return _split(printed.decode(errors="replace"), count), late


def _last_words(job: Detached, host: Host) -> bytes:
    job.stop(host)
    try:
        return job.finish(host, LAST_WORDS_S).stdout
    except DeadlineExceeded:
        # Stuck in the kernel, which is what a dead device does to its user.
        return host.get(f"{job.folder}/out")


def _split(text: str, count: int) -> list[Output]:
    parts = text.split(_SEPARATOR)
    ended = [Output(int(status), out) for out, status in zip(parts[::2], parts[1::2], strict=False)]
    unfinished = [Output(None, parts[-1])] if parts[-1] else []
    missing = [Output(None, "")] * count
    return (ended + unfinished + missing)[:count]


def json_object(text: str) -> dict[str, Any]:
    """The JSON object that a program printed, after whatever else it printed. Raises ValueError."""
    begin = 0 if text.startswith("{") else text.find("\n{") + 1
    if begin == 0 and not text.startswith("{"):
        raise ValueError("no JSON object")
    found, _ = json.JSONDecoder().raw_decode(text, begin)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def tail(text: str, lines: int = 6) -> str:
    """The last lines of an output, for a sentence about it."""
    return "\n".join(text.strip().splitlines()[-lines:]) or "nothing"


def keep(record_folder: Path, name: str, text: str) -> Path:
    """Keep a raw output in the run directory as ``workloads/<name>``."""
    path = record_folder / "workloads" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def distinct(names: Sequence[str]) -> list[str]:
    """The same names, later ones of several equal with ``_2``, ``_3``, … appended."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result
