"""lab.workloads.iperf3_report, on reports of iperf 3.12 and 3.18."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.workloads.iperf3_report import measure

SAMPLES = Path(__file__).parent / "samples" / "iperf3"


def report(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text())
    return loaded


@pytest.mark.parametrize(
    ("name", "received", "mbit_s", "retransmits"),
    [("tcp-3.12", 6291456, 25.1, 0), ("tcp-3.18", 3145728, 25.1, 0), ("tcp-reverse-parallel-3.12", 2621440, 20.9, 0)],
)
def test_tcp(name: str, received: int, mbit_s: float, retransmits: int) -> None:
    measured = measure(report(name))
    assert (measured.error, measured.received, measured.retransmits) == ("", received, retransmits)
    assert measured.mbit_s == pytest.approx(mbit_s, rel=0.02)
    assert measured.loss_percent is None
    assert measured.jitter_ms is None


def test_udp() -> None:
    measured = measure(report("udp-3.18"))
    assert (measured.received, measured.loss_percent) == (1251072, 0)
    assert measured.jitter_ms is not None


def test_udp_counts_what_arrived() -> None:
    measured = measure(report("udp-loss-3.12"))
    assert (measured.sent, measured.received) == (98778400, 47999000)
    assert measured.loss_percent == pytest.approx(50.6, abs=0.1)


def test_udp_of_which_nothing_arrived() -> None:
    lost = report("udp-3.18")
    lost["end"]["sum"]["packets"] = 0
    assert measure(lost).loss_percent == 100


@pytest.mark.parametrize(
    ("name", "error"),
    [("refused-3.18", "unable to connect to server"), ("server-died-3.18", "control socket has closed unexpectedly")],
)
def test_errors_without_results(name: str, error: str) -> None:
    measured = measure(report(name))
    assert measured.error.startswith(error)
    assert (measured.received, measured.mbit_s) == (0, 0)


def test_a_stopped_stream_keeps_what_arrived() -> None:
    measured = measure(report("stopped-reverse-3.12"))
    assert measured.error == "interrupt - the client has terminated"
    assert measured.received == 4031250432


@pytest.mark.parametrize("broken", [{}, {"end": {}}, {"end": {"sum_sent": {}, "sum_received": {}}}])
def test_broken_reports(broken: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        measure(broken)
