"""Reading KTAP (kernel: Documentation/dev-tools/ktap.rst) out of a kernel log, and judging each of its lines.

The tests write to the log between whatever else the kernel says, so what lies between two result lines is kept with the
second: it is what the kernel said while that test ran. A result line names the requirement that it is about
(``not ok 3 R08 a failed add leaves nothing``), of which there may be several (``R14.release``); lines ``# R08: …``
before it say what was seen. Directives are ``SKIP``
and ``TODO``, and one of our own: ``CANNOT``, behind ``not ok``, with the reason why this bus has no way to meet it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lab.checks import splats
from lab.checks.expectations import excused
from lab.checks.splats import Line, Splat
from lab.config.scenario import Expected
from lab.model import Check, Level, Verdict

_PLAN = re.compile(r"^1\.\.(\d+)(?:\s+#\s*(.*))?$")
_RESULT = re.compile(r"^(not ok|ok) (\d+)(?: -)? (\S+)\s*(.*?)(?:\s*# (SKIP|TODO|CANNOT)\b\s*(.*))?$")
_SAID = re.compile(r"^# (\S+): (.*)$")
_WHERE = re.compile(r"\S+\.c:\d+: ")
_SHOWN = 40


@dataclass(frozen=True)
class Point:
    """One result line. ``said`` is what the test said before it, ``log`` every line since the result before."""

    number: int
    ok: bool
    id: str
    words: str
    directive: str = ""
    reason: str = ""
    said: tuple[str, ...] = ()
    log: tuple[Line, ...] = ()

    @property
    def name(self) -> str:
        """Id and words, as the check is called."""
        return f"{self.id} {self.words}".rstrip()


@dataclass
class Report:
    """What a log holds of one module's tests. ``problems`` say why it is not complete; ``rest`` is what came after."""

    plan: int | None = None
    points: list[Point] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    rest: tuple[Line, ...] = ()


def parse(lines: Sequence[Line], module: str = "") -> Report:
    """Read the tests of one module. With ``module``, the line ``# module: …`` must close them: it is the last written.

    Everything that is wrong with the form is a problem, and nothing of it is guessed.
    """
    report, since = Report(), 0
    closed = not module
    for index, line in enumerate(lines):
        if found := _PLAN.match(line.text):
            if report.plan is not None:
                report.problems.append(f"a second plan: {line.text}")
            report.plan = int(found[1])
        elif found := _RESULT.match(line.text):
            report.points.append(_point(found, lines[since : index + 1]))
            since = index + 1
        elif report.points and module and line.text.startswith(f"# {module}: "):
            closed = True
    report.rest = tuple(lines[since:])
    report.problems += _problems(report, closed, module)
    return report


def _point(found: re.Match[str], window: Sequence[Line]) -> Point:
    said = [match[2] for line in window if (match := _SAID.match(line.text)) and match[1] == found[3]]
    return Point(
        number=int(found[2]),
        ok=found[1] == "ok",
        id=found[3],
        words=found[4],
        directive=found[5] or "",
        reason=found[6] or "",
        said=tuple(said),
        log=tuple(window),
    )


def _problems(report: Report, closed: bool, module: str) -> list[str]:
    if report.plan is None:
        return ["no plan" if report.points else "no KTAP at all"]
    numbers = [point.number for point in report.points]
    problems = []
    if len(numbers) != report.plan:
        problems.append(f"the plan has {report.plan} results, and there are {len(numbers)}")
    if numbers != list(range(1, len(numbers) + 1)):
        problems.append(f"the results are numbered {', '.join(map(str, numbers))}")
    names = [point.name for point in report.points]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"more than one result for {', '.join(twice)}")
    if not closed:
        problems.append(f"the closing line '# {module}: …' is missing")
    return problems


def judge(
    report: Report,
    wanted: Sequence[str],
    *,
    module: str,
    machine: str,
    expected: Sequence[Expected] = (),
    prefix: str = "",
) -> list[Check]:
    """One check per result, and one whether the report is complete: the proof that the tests ran, if any was judged.

    ``wanted`` are ids that must have a result. A test during which the kernel printed a splat has failed, whatever it
    says itself; ``prefix`` stands before each name.
    """
    checks = [_judge(point, machine, expected, prefix) for point in report.points]
    judged = any(check.verdict is not Verdict.SKIP for check in checks)
    have = {point.id.partition(".")[0] for point in report.points}
    missing = [name for name in wanted if name not in have]
    blamed = splat_in(report.rest, expected)
    for number, test in enumerate(missing):
        name = f"{prefix}{test}"
        if blamed and number == 0:
            checks.append(_failed(name, "a result", [f"the kernel: {blamed.title}"], report.rest, machine))
        else:
            checks.append(Check.unproven(name, f"{module} gave no result for it", "a result", machine=machine))
    return [*checks, _complete(report, judged, module, machine, prefix)]


def _complete(report: Report, judged: bool, module: str, machine: str, prefix: str) -> Check:
    name, expected = f"{prefix}KTAP plan", f"every result that {module} announced, and its last line"
    if report.problems:
        return Check.unproven(name, "; ".join(report.problems), expected, machine=machine, proof=True)
    if not judged:
        return Check(name, Verdict.SKIP, f"{report.plan} results, of which none was judged", expected, machine=machine)
    return Check(name, Verdict.PASS, f"{report.plan} results", expected, machine=machine, proof=True)


def _judge(point: Point, machine: str, expected: Sequence[Expected], prefix: str) -> Check:
    name, want = f"{prefix}{point.name}", "ok, and no splat while it runs"
    splat = splat_in(point.log, expected)
    if splat:
        return _failed(name, want, [f"the kernel: {splat.title}", *point.said], point.log, machine)
    if point.directive == "SKIP":
        return Check(name, Verdict.SKIP, point.reason or "no reason given", want, machine=machine)
    if point.ok:
        return Check(name, Verdict.PASS, "; ".join(["ok", *point.said]), want, machine=machine)
    if point.directive == "TODO":
        return Check(name, Verdict.SKIP, f"not ok, and known to be: {point.reason}", want, machine=machine)
    said = [f"cannot: {point.reason}"] if point.directive == "CANNOT" else []
    # What failed says where; the rest are remarks.
    remarks = sorted(point.said, key=lambda line: not _WHERE.match(line))
    return _failed(name, want, [*said, *remarks] or ["not ok"], point.log, machine)


def _failed(name: str, want: str, said: Sequence[str], log: Sequence[Line], machine: str) -> Check:
    return Check.judged(name, False, excerpt(said, log), want, level=Level.L1_KERNEL, machine=machine)


def excerpt(said: Sequence[str], log: Sequence[Line]) -> str:
    """What is shown of a failure: the reason first, then the kernel log of that moment."""
    lines = [f"  {line.text}" for line in log]
    left = len(lines) - _SHOWN
    shown = [*lines[:_SHOWN], f"  … {left} more lines"] if left > 0 else lines
    return "\n".join([*said, *shown])


def splat_in(lines: Sequence[Line], expected: Sequence[Expected] = ()) -> Splat | None:
    """The first splat among lines of L1's kernel that nothing expected."""
    return next((found for found in splats.find(lines) if not excused(found.text, Level.L1_KERNEL, expected)), None)
