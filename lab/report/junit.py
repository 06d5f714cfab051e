"""Results as JUnit XML, in the dialect that Jenkins and GitLab read."""

from __future__ import annotations

import datetime
import platform
import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from lab.model import RunResult, Verdict

_TAGS = {Verdict.FAIL: "failure", Verdict.ERROR: "error", Verdict.SKIP: "skipped"}

# Characters that XML 1.0 cannot hold at all; consoles are full of them.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(results: Sequence[RunResult], *, name: str, began: float | None) -> str:
    """One test suite, one test case per run; ``began`` is seconds since the epoch."""
    counts = {tag: str(sum(_TAGS.get(r.verdict) == tag for r in results)) for tag in _TAGS.values()}
    totals = {
        "tests": str(len(results)),
        "failures": counts["failure"],
        "errors": counts["error"],
        "skipped": counts["skipped"],
        "time": f"{sum(r.duration_s for r in results):.3f}",
    }
    root = ET.Element("testsuites", totals)
    suite = ET.SubElement(root, "testsuite", {"name": name, "hostname": platform.node(), **totals})
    if began is not None:
        when = datetime.datetime.fromtimestamp(began, datetime.UTC)
        suite.set("timestamp", when.isoformat(timespec="seconds"))
    for result in results:
        _case(suite, result)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(suite: ET.Element, result: RunResult) -> None:
    case = ET.SubElement(
        suite, "testcase", {"classname": "vdpalab", "name": _xml(result.scenario), "time": f"{result.duration_s:.3f}"}
    )
    properties = ET.SubElement(case, "properties")
    for name, value in _properties(result):
        ET.SubElement(properties, "property", {"name": _xml(name), "value": _xml(value)})
    if tag := _TAGS.get(result.verdict):
        first_line = result.reason.splitlines()[0] if result.reason else result.verdict.value
        element = ET.SubElement(case, tag, {"message": _xml(first_line)})
        if result.verdict is not Verdict.SKIP:
            element.set("type", _xml(result.level.value if result.level else result.verdict.value))
            element.text = _xml(_details(result))
    ET.SubElement(case, "system-out").text = _xml(f"evidence: {result.run_dir}")


def _properties(result: RunResult) -> list[tuple[str, str]]:
    """What a CI can filter on; metrics as ``metric.NAME`` with the unit in the value."""
    fields = {
        "verdict": result.verdict.value,
        "level": result.level,
        "machine": result.machine,
        "known": ",".join(result.known),
        "accel.l1": result.accel_l1,
        "accel.l2": result.accel_l2,
        "warm": str(result.warm).lower(),
        "run_dir": result.run_dir,
    }
    metrics = [(f"metric.{metric.name}", f"{metric.value:g} {metric.unit}") for metric in result.metrics]
    return [(name, str(value)) for name, value in fields.items() if value] + metrics


def _details(result: RunResult) -> str:
    bad = [check for check in result.checks if check.verdict in (Verdict.FAIL, Verdict.ERROR)]
    lines = [f"{c.name}: {c.verdict}: expected {c.expected}, seen {c.seen}" for c in bad]
    return "\n".join([result.reason, *lines])


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
