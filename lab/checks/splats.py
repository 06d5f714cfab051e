"""Finding splats in a kernel log: what the kernel prints when something is wrong with it.

The formats are those of Linux 6.1 to 6.18 (kernel/panic.c, kernel/hung_task.c, kernel/rcu/tree_stall.h, lib/ubsan.c,
mm/kasan/report.c, kernel/locking/lockdep.c, drivers/iommu/intel/dmar.c). A splat need not be framed: "cut here" and
"end trace" lines are used where they are, and a back trace without any headline is one too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_MAX_LINES = 200
# A splat is printed at once; a later line of another origin is not part of it. Seconds of the kernel's clock.
_GAP_S = 2.0

_CUT = "------------[ cut here ]------------"
_END = re.compile(r"---\[ end (?:trace|Kernel panic)")
# KASAN frames its reports with it, lockdep starts with it.
_BAR = re.compile(r"^={20,}$")
_TRACE = re.compile(r"^Call Trace:|^Backtrace:|^Call trace:")
_TASK_END = "</TASK>"
# Other output may precede the time stamp on a console; CONFIG_PRINTK_CALLER adds a second bracket.
_STAMPED = re.compile(r"\[\s*(\d+\.\d{6})\](?:\[\s*[TC]\d+\])? ?(.*)")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@dataclass(frozen=True)
class Kind:
    """How the headline of one kind of splat looks.

    ``joins``: it continues a splat that has begun; ``single``: it is one line; ``whole``: several back traces or other
    text may follow, so the end of a back trace is not its end.
    """

    name: str
    pattern: str
    joins: bool = False
    single: bool = False
    whole: bool = False


USER_CRASH = "process crash"
LEAKS = "kmemleak"

# The first that matches counts.
KINDS = (
    Kind("panic", r"^Kernel panic - not syncing", whole=True),
    Kind("lockup", r"[Ww]atchdog: .*(?:soft lockup|hard LOCKUP)|BUG: (?:soft lockup|workqueue lockup)", whole=True),
    Kind("RCU stall", r"INFO: rcu\w* .*stall", whole=True),
    Kind("RCU stall", r"rcu: .*kthread (?:starved|timer wakeup)", joins=True, whole=True),
    Kind("hung task", r"^INFO: task .+ blocked "),
    Kind("out of memory", r"invoked oom-killer|page allocation failure: order", whole=True),
    Kind("out of memory", r"^Out of memory: Killed", joins=True),
    Kind(USER_CRASH, r"^(?:traps: )?.+\[\d+\]:? (?:segfault at |general protection fault ip|trap )", single=True),
    Kind("UBSAN", r"^UBSAN: "),
    Kind("BUG", r"\bBUG: |^kernel BUG at |^BUG \S+ \(", whole=True),
    Kind("WARNING", r"^WARNING: "),
    Kind("lockdep", r"^INFO: (?:possible|trying to register non-static|suspicious)"),
    Kind(
        "oops",
        r"^Oops: |^Internal error: |^general protection fault|^(?:invalid opcode|divide error|stack segment|int3): |"
        r"^traps: PANIC|^PANIC: double fault|^Unable to handle kernel",
        joins=True,
        whole=True,
    ),
    Kind("refcount_t", r"^refcount_t: ", joins=True),
    Kind("list corruption", r"^list_\w+ corruption", joins=True),
    Kind(LEAKS, r"^kmemleak: \d+ new suspected memory leaks", single=True),
    Kind("IOMMU fault", r"^DMAR: \[(?:DMA|INTR)|^DMAR: ERROR: |^AMD-Vi: .*Event logged", single=True),
    Kind("network watchdog", r"NETDEV WATCHDOG: "),
    Kind("interrupt storm", r"^irq \d+: nobody cared"),
)
_NO_HEADLINE = Kind("back trace", "")
_FRAMED = Kind("splat", "", whole=True)
_COMPILED = tuple((kind, re.compile(kind.pattern)) for kind in KINDS)


@dataclass(frozen=True)
class Line:
    """A line of a kernel log; ``time_s`` is the kernel's clock, None without a time stamp."""

    time_s: float | None
    text: str


@dataclass
class Splat:
    """One splat with its lines; ``title`` is one line that tells what it is."""

    kind: Kind
    lines: list[Line] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The headline, preceded by the message when a WARN or BUG carries one."""
        texts = [line.text for line in self.lines if line.text != _CUT] or ["the log ends here"]
        heads = [text for text in texts if (kind := kind_of(text)) and not kind.joins] or texts[:1]
        if self.kind is _NO_HEADLINE:
            return f"back trace: {_before_trace(texts)}"
        message = texts[0] if texts[0] != heads[0] else ""
        return f"{message} | {heads[0]}" if message else heads[0]

    @property
    def text(self) -> str:
        """All its lines."""
        return "\n".join(line.text for line in self.lines)


def read(log: str) -> list[Line]:
    """The kernel's lines in a console or ring buffer text; where it stamps its lines, others are not the kernel's."""
    lines = [_line(text) for raw in log.splitlines() if (text := _ANSI.sub("", raw).strip())]
    return [line for line in lines if line.time_s is not None] or lines


def _line(text: str) -> Line:
    found = _STAMPED.search(text)
    return Line(float(found[1]), found[2].strip()) if found else Line(None, text)


def kind_of(text: str) -> Kind | None:
    """The kind of splat that a line is the headline of."""
    return next((kind for kind, pattern in _COMPILED if pattern.search(text)), None)


def find(lines: Iterable[Line]) -> Iterator[Splat]:
    """Every splat of a log, in order."""
    current: Splat | None = None
    before: list[Line] = []
    for line in lines:
        kind = kind_of(line.text)
        if kind and kind.single:
            yield Splat(kind, [line])
            continue
        if current and _is_over(current, line):
            yield current
            current, before = None, []
        opened = _open(line, kind, current, before)
        if opened:
            if current:
                yield current
            current, before = opened, []
        elif current:
            current.lines.append(line)
        if current and _closes(current, line):
            yield current
            current, before = None, []
        if not current:
            before = [*before[-7:], line]
    if current:
        yield current


def _open(line: Line, kind: Kind | None, current: Splat | None, before: list[Line]) -> Splat | None:
    """The splat that begins with this line, if one does."""
    if line.text == _CUT:
        return Splat(_FRAMED, [line])
    if kind is None:
        return _orphan(line, before) if current is None and _TRACE.search(line.text) else None
    framed = current is not None and current.kind is _FRAMED
    if current and (framed or kind.joins):
        if framed and not kind.joins:
            current.kind = kind
        return None
    return Splat(kind, [line])


def _orphan(line: Line, before: list[Line]) -> Splat:
    near = [one for one in before if _apart_s(one, line) <= _GAP_S]
    return Splat(_NO_HEADLINE, [*near, line])


def _is_over(current: Splat, line: Line) -> bool:
    long_ago = _apart_s(current.lines[-1], line) > _GAP_S
    return long_ago or len(current.lines) >= _MAX_LINES or bool(_BAR.match(line.text))


def _closes(current: Splat, line: Line) -> bool:
    framed = current.lines[0].text == _CUT
    return bool(_END.search(line.text)) or (_TASK_END in line.text and not current.kind.whole and not framed)


def _apart_s(first: Line, second: Line) -> float:
    if first.time_s is None or second.time_s is None:
        return 0.0
    return second.time_s - first.time_s


def _before_trace(texts: list[str]) -> str:
    """What was said just before dump_stack() introduced the task."""
    for index, text in enumerate(texts):
        if text.startswith("CPU: ") and index:
            return texts[index - 1]
    return texts[0]
