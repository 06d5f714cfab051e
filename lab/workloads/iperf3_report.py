"""What the JSON report of an iperf3 client says (iperf3(1) -J; read as iperf 3.12 and 3.18 write it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Interval(NamedTuple):
    """What the client counted from ``begin_s`` to ``end_s`` (seconds of its own clock since the start)."""

    begin_s: float
    end_s: float
    payload: int


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


def intervals(report: Mapping[str, Any]) -> list[Interval]:
    """The client's interval series, all parallel streams together; empty when there is none."""
    sums = (interval["sum"] for interval in report.get("intervals", []))
    return [Interval(float(s["start"]), float(s["end"]), int(s["bytes"])) for s in sums]


def longest_gap_s(series: Sequence[Interval]) -> float:
    """The longest time without a byte, in seconds of the client's clock; its resolution is that of the series."""
    longest = begin = 0.0
    for interval in series:
        if interval.payload:
            begin = interval.end_s
        longest = max(longest, interval.end_s - begin)
    return longest
