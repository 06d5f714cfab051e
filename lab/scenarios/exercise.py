"""The exercise: the workload through the device under test, with the action in the middle when there is one.

The proof is always taken around a workload that runs to its end: counters before, traffic, counters after.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lab.model import Check, Metric, WorkloadResult


@dataclass
class Findings:
    """What the exercise measured and judged."""

    checks: list[Check] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)

    def add(self, result: WorkloadResult, prefix: str = "") -> None:
        """Take over the result of a workload; ``prefix`` tells two runs of one workload apart."""
        self.checks += result.checks
        self.metrics += [Metric(prefix + metric.name, metric.value, metric.unit) for metric in result.metrics]
