"""What the JSON report of an iperf3 client says (iperf3(1) -J; read as iperf 3.12 and 3.18 write it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """One stream as iperf3 reported it; ``received`` and ``sent`` are payload bytes, ``error`` is empty when none."""

    received: int
    sent: int
    seconds: float
    retransmits: int | None
    loss_percent: float | None
    jitter_ms: float | None
    error: str

    @property
    def mbit_s(self) -> float:
        """Received payload per second."""
        return self.received * 8 / 1e6 / self.seconds if self.seconds else 0.0


def measure(report: Mapping[str, Any]) -> Measured:
    """Read a client's JSON report; one that ends in an error may lack everything else.

    Raises KeyError or TypeError when a report without error is not of that form.
    """
    error = str(report.get("error", ""))
    end = report.get("end", {})
    if error and "sum_received" not in end:
        return Measured(0, 0, 0.0, None, None, None, error)
    sent, received = end["sum_sent"], end["sum_received"]
    # Only UDP has this sum; jitter and loss are the receiver's.
    udp = end.get("sum")
    return Measured(
        received=int(received["bytes"]),
        sent=int(sent["bytes"]),
        seconds=float(received["seconds"]),
        retransmits=sent.get("retransmits"),
        loss_percent=udp and (udp["lost_percent"] if udp["packets"] else 100.0),
        jitter_ms=udp and udp["jitter_ms"],
        error=error,
    )
