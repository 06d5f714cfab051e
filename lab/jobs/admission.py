"""Which runs may run at the same time: the sum of what they need must fit into the machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.topology.preflight import available_mb

# What the machine keeps for itself: the lab's own processes and the page cache that TCG and builds live on.
_RESERVE_MB = 512
_RESERVE_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Weight:
    """What one run needs. Compared by identity: two runs may need the same."""

    ram_mb: int = 0
    cores: int = 0


@dataclass(frozen=True)
class Budget:
    """What all runs together may take; ``cores`` and ``runs`` of None mean any number."""

    ram_mb: int
    cores: int | None = None
    runs: int | None = None


def machine_budget(runs: int | None) -> Budget:
    """The budget of this machine now. Who says how many runs at once (``runs``) also says that cores may be shared."""
    cores = len(os.sched_getaffinity(0)) if runs is None else None
    available = available_mb(Path("/proc/meminfo").read_text())
    return Budget(max(0, int(available * (1 - _RESERVE_SHARE)) - _RESERVE_MB), cores, runs)


def fits(weight: Weight, running: Sequence[Weight], budget: Budget) -> bool:
    """Whether a run may start beside those running.

    One that is bigger than the whole budget starts alone; if the machine cannot hold it, its preflight says so.
    """
    if not running:
        return True
    together = [*running, weight]
    return (
        (budget.runs is None or len(together) <= budget.runs)
        and sum(w.ram_mb for w in together) <= budget.ram_mb
        and (budget.cores is None or sum(w.cores for w in together) <= budget.cores)
    )


class Gate:
    """Where runs wait until they fit. The first in the queue that fits goes, so callers queue the longest first."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._waiting: list[Weight] = []
        self._running: list[Weight] = []
        self._changed = asyncio.Condition()
        self.closed = False

    async def enter(self, weight: Weight) -> bool:
        """Wait until the run fits; False when the gate was closed before."""
        async with self._changed:
            self._waiting.append(weight)
            await self._changed.wait_for(lambda: self.closed or self._next() is weight)
            self._waiting.remove(weight)
            if self.closed:
                return False
            self._running.append(weight)
            self._changed.notify_all()
        return True

    async def leave(self, weight: Weight) -> None:
        """Give back what a run took."""
        async with self._changed:
            self._running.remove(weight)
            self._changed.notify_all()

    async def close(self) -> None:
        """Let nobody in from now on."""
        async with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _next(self) -> Weight | None:
        return next((weight for weight in self._waiting if fits(weight, self._running, self._budget)), None)
