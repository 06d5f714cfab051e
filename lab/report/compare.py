"""Two jobs side by side: verdicts that changed, metrics as ratios."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lab.model import RunResult, Verdict

_WORST_FIRST = (Verdict.ERROR, Verdict.FAIL, Verdict.SKIP, Verdict.PASS)


@dataclass(frozen=True)
class VerdictChange:
    """A scenario whose worst verdict differs; None where the job did not run it."""

    scenario: str
    old: Verdict | None
    new: Verdict | None


@dataclass(frozen=True)
class MetricChange:
    """A metric that both jobs measured, medians over repetitions; ``ratio`` is new/old, None when old is 0."""

    scenario: str
    metric: str
    unit: str
    old: float
    new: float
    ratio: float | None


@dataclass(frozen=True)
class Comparison:
    """What differs between two jobs, scenarios in the order of the first."""

    verdicts: list[VerdictChange]
    metrics: list[MetricChange]


def compare(old: Sequence[RunResult], new: Sequence[RunResult]) -> Comparison:
    """Compare two jobs scenario by scenario."""
    before, after = _by_scenario(old), _by_scenario(new)
    names = list(dict.fromkeys([*before, *after]))
    changes = [VerdictChange(n, worst_verdict(before.get(n, [])), worst_verdict(after.get(n, []))) for n in names]
    return Comparison(
        verdicts=[change for change in changes if change.old is not change.new],
        metrics=[m for n in names if n in before and n in after for m in _metrics(n, before[n], after[n])],
    )


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON."""
    return {
        "schema": 1,
        "verdicts": [vars(change) for change in comparison.verdicts],
        "metrics": [vars(change) for change in comparison.metrics],
    }


def _by_scenario(results: Iterable[RunResult]) -> dict[str, list[RunResult]]:
    grouped: dict[str, list[RunResult]] = {}
    for result in results:
        grouped.setdefault(result.scenario, []).append(result)
    return grouped


def worst_verdict(results: Sequence[RunResult]) -> Verdict | None:
    """The verdict that stands for all of them; None without results."""
    return min((r.verdict for r in results), key=_WORST_FIRST.index, default=None)


def _metrics(scenario: str, old: Sequence[RunResult], new: Sequence[RunResult]) -> list[MetricChange]:
    before, after = _medians(old), _medians(new)
    return [
        MetricChange(scenario, name, unit, value, after[name, unit], after[name, unit] / value if value else None)
        for (name, unit), value in before.items()
        if (name, unit) in after
    ]


def _medians(results: Sequence[RunResult]) -> dict[tuple[str, str], float]:
    values: dict[tuple[str, str], list[float]] = {}
    for result in results:
        for metric in result.metrics:
            values.setdefault((metric.name, metric.unit), []).append(metric.value)
        values.setdefault(("duration", "s"), []).append(result.duration_s)
    return {key: statistics.median(samples) for key, samples in values.items()}
