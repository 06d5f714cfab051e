"""What `bench` measured against what must be reached: medians, spread and bounds, as a table and as JSON. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.model import Metric
from lab.report.table import plain

# What must be reached on the reference machine (2 cores, TCG at both levels), for the median; units as measured.
BOUNDS: Mapping[str, float] = {
    "help": 0.3,
    "artifacts-check": 1.0,
    "l1-ready": 3.0,
    "l2-ready": 30.0,
    "net-vp_vdpa-vhost_vdpa-iperf3": 60.0,
    "net-vdpa_sim-vhost_vdpa-migrate": 90.0,
    "net-vp_vdpa-vhost_vdpa-unplug": 75.0,
    "quickstart": 300.0,
    "quickstart-empty": 1500.0,
}

# The same for what has to be at least so much: ratios to what is measured beside it, and rates.
AT_LEAST: Mapping[str, float] = {
    "ifcvf-tcp-to-veth": 0.5,
    "ifcvf-tcp-reverse-to-veth": 0.5,
    "ifcvf-udp-64": 40.0,
    "ifcvf-fio-to-virtio-blk": 0.5,
}
# What else the device model must keep to.
_OF_DEVICE_MODEL: Mapping[str, float] = {
    "ifcvf-ping-f": 0.6,
    "ifcvf-cpu-per-packet": 12.0,
    "ifcvf-anonymous": 60.0,
    "ifcvf-idle": 1.0,
}

# Every scenario's lab, in MiB: row names that end so.
RSS = " rss"
RSS_BOUND = 6144.0

# What must be faster than what, by their medians.
FASTER = ("l1-ready", "vng")

_COLUMNS = ("name", "n", "min", "median", "max", "unit", "bound", "")


@dataclass(frozen=True)
class Row:
    """All values of one measurement. ``bound`` is None for what is only good to know; ``least`` makes it the smallest
    value that is good, not the largest.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    bound: float | None = None
    least: bool = False

    @property
    def median(self) -> float:
        """The value that is held against the bound."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the bound is met; None without one."""
        if self.bound is None:
            return None
        return self.median >= self.bound if self.least else self.median <= self.bound

    def to_json(self) -> dict[str, Any]:
        """The JSON form, with every value."""
        spread = {"min": min(self.values), "median": self.median, "max": max(self.values)}
        about = {"name": self.name, "unit": self.unit, "n": len(self.values), **spread, "values": list(self.values)}
        return about | {"bound": self.bound, "met": self.met}


@dataclass
class Measured:
    """What has been measured so far; what failed and what this machine lacks, with the reasons."""

    metrics: list[Metric] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """One row per name, in the order of their first values."""
        values: dict[str, list[float]] = {}
        for metric in self.metrics:
            values.setdefault(metric.name, []).append(metric.value)
        units = {metric.name: metric.unit for metric in self.metrics}
        medians = {name: statistics.median(all_of) for name, all_of in values.items()}
        return [
            Row(name, units[name], tuple(all_of), bound_of(name, medians), name in AT_LEAST)
            for name, all_of in values.items()
        ]

    def to_json(self, about: Mapping[str, float]) -> dict[str, Any]:
        """The JSON form; ``about`` says what it was measured on."""
        rows = [row.to_json() for row in self.rows()]
        return {"schema": 1, "about": dict(about), "rows": rows, "failed": self.failed, "lacking": self.lacking}


def bound_of(name: str, medians: Mapping[str, float]) -> float | None:
    """The bound of a row; ``medians`` are those of all rows, as one may be the bound of another."""
    if name.endswith(RSS):
        return RSS_BOUND
    bounds = [table[name] for table in (BOUNDS, AT_LEAST, _OF_DEVICE_MODEL) if name in table]
    if name == FASTER[0] and FASTER[1] in medians:
        bounds.append(medians[FASTER[1]])
    return min(bounds, default=None)


def text(rows: Iterable[Row]) -> str:
    """The rows as a table."""
    cells = [
        (
            row.name,
            str(len(row.values)),
            *(_number(value) for value in (min(row.values), row.median, max(row.values))),
            row.unit,
            f"{'>=' if row.least else '<='} {_number(row.bound)}" if row.bound is not None else "",
            {True: "met", False: "MISSED", None: ""}[row.met],
        )
        for row in rows
    ]
    return plain(_COLUMNS, cells, right=frozenset({1, 2, 3, 4, 6}))


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
