"""What labs that were killed left: processes that still run, and files that only a lab that is up needs.

A run is dead when nobody holds its owner lock (lab.evidence.record). Cleaning holds the lock meanwhile; evidence stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.evidence import marks
from lab.evidence.record import disowned
from lab.evidence.scratch import dead_scratch
from lab.proc import RUN_MARK

# Below a run directory. The disks are the only big things of a run; secrets must not outlive it; sockets lead nowhere,
# and a pid names somebody else in time.
_ONLY_WHILE_UP = ("secrets", "kept.json", *(f"machines/*/*.{end}" for end in ("qcow2", "raw", "sock", "pid")))


@dataclass(frozen=True)
class Leftovers:
    """What one dead run left (or a dead job: its temporary files). ``processes`` are ids with their programs' names."""

    run_dir: Path
    processes: dict[int, str]
    files: tuple[Path, ...]

    def describe(self) -> list[str]:
        """One line per thing."""
        return [f"process {pid} ({name}) of {self.run_dir}" for pid, name in self.processes.items()] + [
            str(path) for path in self.files
        ]


def find_orphans(root: Path) -> list[Leftovers]:
    """What dead runs of the jobs below ``root`` left; nothing is touched."""
    return list(_leftovers(root))


def clean_orphans(root: Path, report: Callable[[str], None], *, grace_s: float = marks.GRACE_S) -> list[Leftovers]:
    """End and remove what dead runs of the jobs below ``root`` left; tell ``report`` each thing in a line.

    Processes get SIGTERM, and SIGKILL after ``grace_s`` seconds. Safe beside running labs and other cleaners.
    """
    cleaned = []
    for leftovers in _leftovers(root):
        _clean(leftovers, report, grace_s)
        cleaned.append(leftovers)
    return cleaned


def _leftovers(root: Path) -> Iterator[Leftovers]:
    """One dead run after the other that left something; nobody can become its owner before the next is asked for."""
    root = root.resolve()
    processes = marks.marked(root, RUN_MARK)
    for run_dir in sorted({*root.glob("*/*/"), *processes}):
        if run_dir not in processes and not _files(run_dir):
            continue
        with disowned(run_dir) as dead:
            found = Leftovers(run_dir, processes.get(run_dir, {}), _files(run_dir))
            if dead and (found.processes or found.files):
                yield found
    for folder in dead_scratch(root):
        yield Leftovers(folder, {}, (folder,))


def _files(run_dir: Path) -> tuple[Path, ...]:
    return tuple(path for pattern in _ONLY_WHILE_UP for path in sorted(run_dir.glob(pattern)))


def _clean(leftovers: Leftovers, report: Callable[[str], None], grace_s: float) -> None:
    alive = marks.end(leftovers.processes, leftovers.run_dir, RUN_MARK, grace_s=grace_s)
    for pid, name in leftovers.processes.items():
        what = "could not be ended" if pid in alive else "ended"
        report(f"{what}: process {pid} ({name}) of {leftovers.run_dir}")
    for path in leftovers.files:
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        except FileNotFoundError:
            continue  # a QEMU that was told to end has removed its sockets itself
        except OSError as error:
            report(f"could not be removed: {path}: {error.strerror}")
        else:
            report(f"removed: {path}")
