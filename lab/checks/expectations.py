"""Bad outcomes that a scenario provokes on purpose (its ``expect``): what they excuse, and which did not come."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from lab.config.scenario import Expected
from lab.model import Check, Level


def excused(text: str, level: Level, expected: Sequence[Expected]) -> Expected | None:
    """The expectation of this level that ``text`` meets, if any."""
    for item in expected:
        if item.level is level and re.search(item.pattern, text, re.MULTILINE):
            return item
    return None


def judge(expected: Sequence[Expected], logs: Mapping[Level, Iterable[str]]) -> list[Check]:
    """Whether each required outcome appeared in one of the logs of its level (a guest that migrates has two).

    ``logs`` are whole texts: console, ring buffer, a QEMU's stderr. FAIL when it did not appear, ERROR when there is
    nothing to look in.
    """
    return [_judge(item, [text for text in logs.get(item.level, ()) if text]) for item in expected if item.required]


def _judge(item: Expected, texts: Sequence[str]) -> Check:
    name, expected = "expected outcome", f"{item.pattern!r} at {item.level}"
    if not texts:
        return Check.unproven(name, f"no log of {item.level} could be read", expected)
    found = next((line for text in texts for line in text.splitlines() if re.search(item.pattern, line)), None)
    return Check.judged(name, found is not None, found or "did not appear", expected, level=item.level)
