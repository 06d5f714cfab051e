"""Results of the virtbus suite by requirement and by mutant, and the documentation page of the requirements."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.config.mutant import PREFIX, load_mutant
from lab.config.requirement import TEST, Requirement, load_requirements
from lab.errors import InputError
from lab.model import Check, RunResult, Verdict

REQUIREMENT_COLUMNS = ("requirement", "verdict", "checks", "what", "log", "paragraph")
MUTANT_COLUMNS = ("mutant", "check", "kernel", "caught by", "evidence")

_ABOUT = re.compile(r"^([RU]\d{2})(?=[ ./]|$)")
_NAMED = re.compile(r"^(?:\w+: )?[RU]\d{2}[^ ]*")
_CAUGHT = re.compile(r"caught by (?P<by>.+? \([\w ]+\)): (?P<evidence>.*)", re.DOTALL)
_WORST_FIRST = (Verdict.FAIL, Verdict.ERROR, Verdict.PASS, Verdict.SKIP)
_FOUND = {"asked": "Asked for by:", "read": "Seen when reading"}
_SHOWN = 70


@dataclass(frozen=True)
class Judged:
    """A requirement with its checks of one job; each with the run that it is of."""

    requirement: Requirement
    checks: tuple[tuple[RunResult, Check], ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of its checks; one that could not be looked at here hides none that was."""
        return min((check.verdict for _, check in self.checks), key=_WORST_FIRST.index)

    @property
    def worst(self) -> tuple[RunResult, Check]:
        """The check that the verdict comes from."""
        return min(self.checks, key=lambda pair: _WORST_FIRST.index(pair[1].verdict))

    @property
    def bad(self) -> bool:
        """Whether it is not met, or nobody knows."""
        return self.verdict in (Verdict.FAIL, Verdict.ERROR)

    @property
    def what(self) -> str:
        """What is required; where that was not seen to hold, what was seen instead, or why nothing was."""
        check = self.worst[1]
        return self.requirement.title if self.verdict is Verdict.PASS else f"{check.name}: {check.seen}"

    @property
    def who(self) -> str:
        """Who asked for it, or how the flaw was found."""
        return _who(self.requirement)


def log_file(check: str) -> str:
    """Where a run keeps the kernel's log of a failed check, below its directory."""
    about = _NAMED.match(check)
    return f"collect/{re.sub(r'[^A-Za-z0-9.]+', '-', about[0] if about else check)}.log"


def by_requirement(results: Iterable[RunResult]) -> list[Judged]:
    """The requirements that were checked, in their order; mutants and controls are about something else."""
    found: dict[str, list[tuple[RunResult, Check]]] = {}
    for result in results:
        if not result.scenario.startswith(PREFIX):
            for check in result.checks:
                if about := _ABOUT.match(check.name):
                    found.setdefault(about[1], []).append((result, check))
    return [Judged(item, tuple(found[item.id])) for item in load_requirements() if item.id in found]


def requirement_rows(results: Iterable[RunResult]) -> list[tuple[str, ...]]:
    """One row per requirement; for one that is not met: what was seen, the log of that moment, and its paragraph."""
    return [_row(judged) for judged in by_requirement(results)]


def _row(judged: Judged) -> tuple[str, ...]:
    result, check = judged.worst
    good = sum(check.verdict is Verdict.PASS for _, check in judged.checks)
    log = Path(result.run_dir) / log_file(check.name)
    return (
        judged.requirement.id,
        judged.verdict.value,
        f"{good}/{len(judged.checks)}",
        _first_line(judged.what),
        str(log) if judged.bad and log.exists() else "",
        judged.requirement.link if judged.bad else "",
    )


@dataclass(frozen=True)
class MutantRow:
    """What a run says of its mutant, by MUTANT_COLUMNS, and the run's verdict: PASS when it was caught."""

    cells: tuple[str, ...]
    verdict: Verdict


def mutant_rows(results: Iterable[RunResult]) -> list[MutantRow]:
    """One row per mutant that was run."""
    mutants = [result for result in results if result.scenario.startswith(PREFIX)]
    return [MutantRow(_mutant_cells(result), result.verdict) for result in mutants]


def _mutant_cells(result: RunResult) -> tuple[str, ...]:
    name = result.scenario.removeprefix(PREFIX)
    check = kernel = "?"
    with contextlib.suppress(InputError):  # a job of another checkout
        mutant = load_mutant(name)
        check, kernel = mutant.check, str(mutant.kernel)
    seen = next((check.seen for check in result.checks if check.name == f"mutant {name}"), result.reason)
    caught = _CAUGHT.match(seen)
    if caught is None:
        word = "NOT CAUGHT" if result.verdict is Verdict.FAIL else "not judged"
        return name, check, kernel, word, _first_line(seen)
    return name, check, kernel, caught["by"], _first_line(caught["evidence"])


def _first_line(text: str) -> str:
    line = (text.splitlines() or [""])[0]
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def paragraphs() -> str:
    """The part of the documentation page that has a paragraph for each requirement, as Markdown."""
    return "\n\n".join(_paragraph(item) for item in load_requirements())


def _paragraph(item: Requirement) -> str:
    return "\n\n".join(
        [
            f"### {item.id}",
            f"**{item.title}.** {item.text.strip()}",
            f"*{_who(item)}* Checked by {_checks(item)}.",
        ]
    )


def _who(item: Requirement) -> str:
    return f"{_FOUND[item.found]} {item.source}."


def _checks(item: Requirement) -> str:
    words = [f"`{probe.name}` ({_how(probe.run, probe.kind, probe.needs)})" for probe in item.probes]
    return ", ".join(words)


def _how(run: str, kind: str, needs: Sequence[str]) -> str:
    what = "the kernel's own test" if run == TEST else kind
    return f"{what}, needs {' '.join(f'CONFIG_{option}' for option in needs)}" if needs else what
