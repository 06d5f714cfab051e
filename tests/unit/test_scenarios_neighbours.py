"""lab.scenarios.neighbours: each device carries what is its own."""

from __future__ import annotations

import pytest

from lab.model import Verdict
from lab.scenarios.neighbours import judge

SENT, RECEIVED = {"tx_bytes": 5_100_000}, {"rx_bytes": 5_100_000}
OWN, PEER = {"rx_bytes": 9_000_000}, {"tx_bytes": 9_000_000}


def verdicts(moved: int, *grown: dict[str, int]) -> list[Verdict]:
    return [check.verdict for check in judge(moved, *grown)]


def test_each_its_own() -> None:
    assert verdicts(5_000_000, SENT, RECEIVED, OWN, PEER) == [Verdict.PASS, Verdict.PASS]


@pytest.mark.parametrize(
    ("moved", "sent", "received"),
    [(0, SENT, RECEIVED), (5_000_000, {"tx_bytes": 10}, RECEIVED), (5_000_000, SENT, {}), (6_000_000, SENT, RECEIVED)],
)
def test_neighbours_that_did_not_carry_it(moved: int, sent: dict[str, int], received: dict[str, int]) -> None:
    assert verdicts(moved, sent, received, OWN, PEER) == [Verdict.FAIL, Verdict.PASS]


@pytest.mark.parametrize("own", [{"rx_bytes": 14_000_000}, {"rx_bytes": 0}, {}])
def test_a_device_that_gets_what_is_not_its_own_or_nothing(own: dict[str, int]) -> None:
    assert verdicts(5_000_000, SENT, RECEIVED, own, PEER) == [Verdict.PASS, Verdict.FAIL]
