"""Live migration of a guest between two QEMUs, driven and timed through QMP (QEMU: qapi/migration.json)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab.config.scenario import Migrate
from lab.errors import DeadlineExceeded, ProductFailure
from lab.machine.machine import Machine
from lab.model import Level, Metric
from lab.wait import Deadline

_UNIT = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Migration:
    """What QEMU reported at the source. Times in ms, ``ram_bytes`` what went over the channel."""

    total_ms: float
    downtime_ms: float
    ram_bytes: int

    def metrics(self) -> tuple[Metric, ...]:
        """As metrics of the run."""
        return (
            Metric("migration_total", self.total_ms, "ms"),
            Metric("migration_downtime", self.downtime_ms, "ms"),
            Metric("migration_ram", self.ram_bytes / 1e6, "MB"),
        )


def run(source: Machine, destination: Machine, config: Migrate, uri: str, slowness: float) -> Migration:
    """Move the guest from ``source`` to ``destination``, which waits for it, over ``uri`` (a socket both can reach).

    Raises ProductFailure with QEMU's reason when it is blocked or fails.
    """
    for machine in (source, destination):
        machine.query("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
    limits = {"max-bandwidth": _bytes(config.max_bandwidth), "downtime-limit": config.downtime_limit_ms}
    source.query("migrate-set-parameters", limits)
    blocked = source.query("query-migrate").get("blocked-reasons")
    if blocked:
        raise ProductFailure(f"migration is blocked: {'; '.join(blocked)}", level=Level.L1_QEMU, machine=source.name)
    destination.query("migrate-incoming", {"uri": uri})
    deadline = Deadline(config.max_total_s * slowness)
    with source.events("MIGRATION") as moves, destination.events("RESUME") as resumes:
        source.query("migrate", {"uri": uri})
        try:
            end = moves.wait(deadline, lambda event: event["data"]["status"] in ("completed", "failed", "cancelled"))
            state = source.query("query-migrate")
            if end["data"]["status"] != "completed":
                raise _failure(source, state)
            resumes.wait(deadline)
        except DeadlineExceeded as error:
            raise ProductFailure(
                f"migration has not ended after {error.seconds:.0f} s: {source.query('query-migrate')}",
                level=Level.L1_QEMU,
                machine=source.name,
            ) from error
    source.migrated()
    destination.resumed()
    return Migration(state["total-time"], state["downtime"], state["ram"]["transferred"])


def _failure(source: Machine, state: dict[str, Any]) -> ProductFailure:
    reason = state.get("error-desc", "no reason given")
    return ProductFailure(f"migration {state.get('status')}: {reason}", level=Level.L1_QEMU, machine=source.name)


def _bytes(text: str) -> int:
    return int(text[:-1]) * _UNIT[text[-1]]
