"""What a builder tells while it works: steps, compiler lines, and the errors among them."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab.errors import BuildError
from lab.proc import BUILD_MARK, run_logged

# A person watching wants a sign of life, and a log of CI not a line per object.
_REPORT_EVERY_S = 5.0

# gcc, ld, make, kbuild, apt, mke2fs: what a line that says why it failed looks like.
_ERROR = re.compile(
    r"\berror\b|^E: |^make(\[\d+\])?: \*\*\*|undefined reference|No space left|: fatal|not found$|FAILED", re.IGNORECASE
)
_KEPT_ERRORS = 15
_KEPT_TAIL = 15


class Progress:
    """The builder's voice, and a place to work in.

    ``log`` keeps everything; ``scratch`` is an empty directory that is removed after the build; ``expected`` is how
    many lines of output the last build had.
    """

    def __init__(
        self, name: str, log: Path, report: Callable[[str], None], *, scratch: Path = Path(), expected: int = 0
    ) -> None:
        self.name = name
        self.log = log
        self.scratch = scratch
        self.lines = 0
        self._report = report
        self._expected = expected
        self._begin = self._reported = time.monotonic()
        self._doing = ""
        self._errors: list[str] = []
        self._tail: deque[str] = deque(maxlen=_KEPT_TAIL)

    def step(self, text: str) -> None:
        """Say that a new part of the work begins; goes to the user at once and into the log."""
        self._doing = text
        self._say(text)
        with self.log.open("a") as log:
            log.write(f"== {text}\n")

    def line(self, text: str) -> None:
        """Take a line of output that is in the log already; the user sees a count now and then."""
        self.lines += 1
        self._tail.append(text)
        if _ERROR.search(text):
            self._errors.append(text)
        if time.monotonic() - self._reported >= _REPORT_EVERY_S:
            elapsed = time.monotonic() - self._begin
            self._say(f"{self._doing}: {self._count()}, {elapsed:.0f} s: {' '.join(text.split())[:80]}")

    def run(
        self, argv: Sequence[str], *, what: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Run a command with its output in the log. Raises BuildError with the error lines when it fails."""
        self._errors.clear()
        self._tail.clear()
        # Should this process be killed, the next builder finds what goes on (lab.artifacts.store).
        marked = {**(env or {}), BUILD_MARK: str(self.scratch.parent)}
        status = run_logged(argv, self.log, cwd=cwd, env=marked, on_line=self.line)
        if status != 0:
            raise BuildError(f"{what} failed (status {status}):\n" + "\n".join(self.errors()), status=status)

    def errors(self) -> list[str]:
        """The first lines that name an error since the last ``run`` began, else the last lines of output."""
        return self._errors[:_KEPT_ERRORS] or list(self._tail)

    def _count(self) -> str:
        if not self._expected:
            return f"{self.lines} lines"
        return f"{self.lines} of about {self._expected} lines ({min(99, 100 * self.lines // self._expected)} %)"

    def _say(self, text: str) -> None:
        self._reported = time.monotonic()
        self._report(f"{self.name}: {text}")
