"""Finding the run that somebody means: a directory, or the newest one."""

from __future__ import annotations

from pathlib import Path

from lab.errors import InputError
from lab.evidence.jobs import jobs
from lab.evidence.record import OWNER_LOCK, owner_alive

LATEST = "latest"


def runs(root: Path) -> list[Path]:
    """Every run directory of the jobs below ``root``, oldest first."""
    return [run for job in jobs(root) for run in runs_of(job)]


def runs_up(root: Path) -> list[Path]:
    """Those whose lab is up, oldest first."""
    return [run for run in runs(root) if owner_alive(run)]


def runs_of(job: Path) -> list[Path]:
    """The run directories of a job that have begun, in the order of their numbers."""
    return sorted(lock.parent for lock in job.glob(f"*/{OWNER_LOCK}"))


def find_run(root: Path, where: str = LATEST, *, alive: bool = False) -> Path:
    """The run that ``where`` means: a run directory, a job (directory, or the begin of its name), or ``latest``.

    Of several it is the newest one, and the newest one that is up if any is. Raises InputError when there is none,
    and with ``alive`` when it is no longer up.
    """
    candidates = _candidates(root, where)
    up = [run for run in candidates if owner_alive(run)]
    if alive and not up:
        what = "no lab is up" if where == LATEST else f"{where}: this lab is no longer up"
        raise InputError([what], hint="vdpalab run SCENARIO --keep")
    return (up or candidates)[-1]


def _candidates(root: Path, where: str) -> list[Path]:
    if where == LATEST:
        found = runs(root)
        problem = f"there is no run in {root}"
    else:
        path = Path(where)
        named = [job for job in jobs(root) if job.name.startswith(where)]
        found = [path] if (path / OWNER_LOCK).exists() else [run for job in (named or [path]) for run in runs_of(job)]
        problem = f"{where} is neither a run nor a job that has begun"
    if not found:
        raise InputError([problem], hint="vdpalab run SCENARIO")
    return [run.resolve() for run in found]
