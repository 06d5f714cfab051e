"""Every scenario of the suite `smoke`, end to end, each on its own: PASS with its proof."""

from __future__ import annotations

import pytest

from lab.config.catalog import load_suite
from tests.e2e.document import assert_evidence
from tests.e2e.driver import Cli

pytestmark = pytest.mark.push


@pytest.mark.parametrize("scenario", load_suite("smoke").scenarios)
def test_passes_with_proof(scenario: str, cli: Cli) -> None:
    ended = cli.run(scenario)
    [result] = ended.document.results
    assert (ended.status, result.verdict, result.level) == (0, "PASS", None), ended.said
    assert result.scenario == scenario
    assert [check.name for check in result.checks if check.proof and check.verdict == "PASS"]
    # Who may not read this machine's own kernel log is told so.
    assert {check.verdict for check in result.checks if check.machine != "l0"} == {"PASS"}
    assert {check.verdict for check in result.checks if check.machine == "l0"} <= {"PASS", "SKIP"}
    assert result.metrics
    assert_evidence(result)
