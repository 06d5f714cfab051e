"""Scenarios and plans in words and tables, for `show` and `plan`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lab.config.scenario import Iperf3, Scenario, VdpaScenario, VirtbusScenario
from lab.config.strict import Strict

if TYPE_CHECKING:
    from lab.checks.datapath import Rule

Rows = list[tuple[str, str]]

_CONFORMANCE = [
    "every test module ran its whole KTAP plan",
    "each module that is loaded is the one that was built: their build ids are the same",
]


def settings(config: Strict, *, without: Iterable[str] = ()) -> str:
    """``key=value, a.b=value`` of everything that a part of a configuration says, defaults too, but for lists."""
    data = config.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(without))
    return _pairs({key: value for key, value in data.items() if not isinstance(value, list)})


def proof(scenario: Scenario) -> list[str]:
    """What has to be seen for what is under test to count as exercised, one sentence each."""
    if isinstance(scenario, VirtbusScenario) and scenario.mutant:
        return [f"{' or '.join(scenario.only) or 'some check'} fails: it catches the mutant"]
    if isinstance(scenario, VirtbusScenario):
        return _CONFORMANCE
    from lab.checks.datapath import TABLE

    key = (scenario.device_class, scenario.device.provider, scenario.attach.mode)
    return [_rule(rule) for rule in TABLE.get(key, ())]


def what_happens(scenario: Scenario) -> Rows:
    """What is tested, part by part; each stream or job of a workload has a row of its own."""
    rows = _of_virtbus(scenario) if isinstance(scenario, VirtbusScenario) else _of_vdpa(scenario)
    return rows + [("expected", f"{bad.level}: {bad.pattern}") for bad in scenario.expect]


def _of_virtbus(scenario: VirtbusScenario) -> Rows:
    from lab.config.requirement import select

    rows = [("topics", ", ".join(scenario.topics)), ("adapters", ", ".join(scenario.adapters))]
    rows += [("mutant", scenario.mutant)] if scenario.mutant else []
    return rows + [("check", f"{probe.name}: {requirement.title}") for requirement, probe in select(scenario)]


def _of_vdpa(scenario: VdpaScenario) -> Rows:
    workload = scenario.workload
    steps = workload.streams if isinstance(workload, Iperf3) else workload.jobs
    rows = [
        ("class", scenario.device_class.value),
        ("device", f"{scenario.device.provider}: {settings(scenario.device, without=['provider'])}"),
        ("attach", f"{scenario.attach.mode}: {settings(scenario.attach, without=['mode'])}"),
        ("workload", f"{workload.kind}: {settings(workload, without=['kind'])}".removesuffix(": ")),
        *(("workload", f"  {settings(step)}") for step in steps),
    ]
    if scenario.action:
        rows.append(("action", f"{scenario.action.kind}: {settings(scenario.action, without=['kind'])}"))
    return rows


def table(rows: Rows) -> str:
    """Rows with the first column named once: ``name  value``, more values of one name below each other."""
    from lab.report.table import plain

    shown = [("" if n and rows[n - 1][0] == name else name, value) for n, (name, value) in enumerate(rows)]
    return "\n".join(plain(("", ""), shown).splitlines()[1:])


def _rule(rule: Rule) -> str:
    from lab.checks.datapath import Grew

    if not isinstance(rule, Grew):
        return f"what was written is read back through {rule.source}"
    least = f"by at least the payload ({' + '.join(rule.payload)})" if rule.payload else ""
    return f"{rule.counter!r} grows {least}".rstrip() + f"  [{rule.source}]"


def _pairs(data: Mapping[str, Any], prefix: str = "") -> str:
    return ", ".join(
        _pairs(value, f"{prefix}{key}.") if isinstance(value, Mapping) else f"{prefix}{key}={_word(value)}"
        for key, value in data.items()
    )


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
