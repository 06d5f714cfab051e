"""Job directories: one per `run`, one run directory per scenario below it; never reused, pruned on request."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from lab.evidence.record import owner_alive

# A job without results that has not changed for so long was killed.
_SETTLED_S = 3600.0


def new_job(root: Path) -> Path:
    """Make a job directory below ``root``, named by date so that they sort; a random tail keeps two jobs apart."""
    root.mkdir(parents=True, exist_ok=True)
    while True:
        path = root / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path


def run_dirs(job: Path, scenarios: Sequence[str], repeat: int = 1) -> list[tuple[str, Path]]:
    """Name the run directory of each scenario (each of its repetitions) of a job; nothing is created."""
    runs = [(name, n) for n in range(1, repeat + 1) for name in scenarios]
    return [
        (name, job / f"{number:03d}-{name}{f'.{n}' if repeat > 1 else ''}") for number, (name, n) in enumerate(runs, 1)
    ]


def jobs(root: Path) -> list[Path]:
    """Every job directory below ``root``, oldest first."""
    return sorted(path for path in root.glob("*-*-*") if path.is_dir()) if root.is_dir() else []


def alive(job: Path) -> bool:
    """Whether a lab still writes into this job."""
    return any(owner_alive(run) for run in job.iterdir() if run.is_dir())


def outdated(root: Path, *, keep_days: float, keep_bytes: int) -> list[Path]:
    """Finished jobs older than ``keep_days``, then the oldest until ``keep_bytes`` hold the rest."""
    finished = [job for job in jobs(root) if not alive(job) and not _between_runs(job)]
    limit = time.time() - keep_days * 86400
    old = [job for job in finished if job.stat().st_mtime < limit]
    rest = {job: size(job) for job in finished if job not in old}
    total = sum(rest.values())
    for job, taken in rest.items():
        if total <= keep_bytes:
            break
        total -= taken
        old.append(job)
    return old


def _between_runs(job: Path) -> bool:
    """Whether a job may be about to start its next run: it changed lately and has no results yet."""
    return not (job / "results.json").exists() and time.time() - job.stat().st_mtime < _SETTLED_S


def prune(root: Path, *, keep_days: float, keep_bytes: int) -> list[Path]:
    """Remove what is :func:`outdated`, and return it."""
    doomed = outdated(root, keep_days=keep_days, keep_bytes=keep_bytes)
    for job in doomed:
        shutil.rmtree(job, ignore_errors=True)
    return doomed


def size(path: Path) -> int:
    """Bytes on disk below ``path`` (sparse files count what they really take)."""
    return sum(file.lstat().st_blocks * 512 for file in path.rglob("*") if not file.is_dir())
