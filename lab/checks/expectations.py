"""Bad outcomes that a scenario provokes on purpose (its ``expect``): what they excuse, and which did not come."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from lab.config.scenario import Expected
from lab.model import Check, Level

Texts = Mapping[Level, Iterable[str]]


def excused(text: str, level: Level, expected: Sequence[Expected]) -> Expected | None:
    """The expected lines of this level that ``text`` has, if any."""
    return _met("log", text, level, expected)


def excused_death(text: str, level: Level, expected: Sequence[Expected]) -> Expected | None:
    """The expected death of a process of this level whose last words are ``text``, how it ended included, if any."""
    return _met("death", text, level, expected)


def _met(outcome: str, text: str, level: Level, expected: Sequence[Expected]) -> Expected | None:
    for item in expected:
        if item.outcome == outcome and item.level is level and re.search(item.pattern, text, re.MULTILINE):
            return item
    return None


def judge(expected: Sequence[Expected], logs: Texts, deaths: Texts) -> list[Check]:
    """Whether each required outcome appeared: in a log of its level (a guest that migrates has two), or as the death of
    a process of that level.

    ``logs`` are whole texts: console, ring buffer, a QEMU's stderr; ``deaths`` the last words of what ended by itself.
    FAIL when it did not appear, ERROR when there is no log to look in.
    """
    return [
        _death(item, deaths.get(item.level, ()))
        if item.outcome == "death"
        else _log(item, [text for text in logs.get(item.level, ()) if text])
        for item in expected
        if item.required
    ]


def _log(item: Expected, texts: Sequence[str]) -> Check:
    name, expected = "expected outcome", f"{item.pattern!r} at {item.level}"
    if not texts:
        return Check.unproven(name, f"no log of {item.level} could be read", expected)
    found = next((line for text in texts for line in text.splitlines() if re.search(item.pattern, line)), None)
    return Check.judged(name, found is not None, found or "did not appear", expected, level=item.level)


def _death(item: Expected, words: Iterable[str]) -> Check:
    dead = list(words)
    found = next((text for text in dead if excused_death(text, item.level, [item])), None)
    seen = found or (f"ended otherwise: {dead[0]}" if dead else "nothing ended")
    return Check.judged(
        "expected death", found is not None, seen, f"ends by itself with {item.pattern!r} at {item.level}",
        level=item.level,
    )  # fmt: skip
