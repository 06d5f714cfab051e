"""Exit statuses: the one place that turns results and exceptions into them, and says what went wrong."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from enum import IntEnum
from pathlib import Path

import click

from lab.errors import InputError, Interrupted, LabError, MachineDied, ProductFailure, SiteLacks
from lab.model import Verdict


class ExitStatus(IntEnum):
    """What a verb's exit status means (design.md section 4)."""

    OK = 0
    FAIL = 1
    INPUT = 2
    ERROR = 3
    SKIP = 77
    INTERRUPTED = 130


def status_of(verdicts: Iterable[Verdict]) -> ExitStatus:
    """Status for a set of results: some ERROR, else some FAIL, else SKIP when nothing passed, else OK.

    No results at all prove nothing, so they are an ERROR.
    """
    seen = set(verdicts)
    if not seen or Verdict.ERROR in seen:
        return ExitStatus.ERROR
    if Verdict.FAIL in seen:
        return ExitStatus.FAIL
    return ExitStatus.OK if Verdict.PASS in seen else ExitStatus.SKIP


def guarded(verb: Callable[[], int]) -> int:
    """Run a verb; return its status, or say on stderr what it raised and return the status of that."""
    debug = bool(os.environ.get("VDPALAB_DEBUG"))
    try:
        return verb()
    except (Interrupted, KeyboardInterrupt, click.Abort):
        _say("interrupted")
        return ExitStatus.INTERRUPTED
    except click.ClickException as error:
        return _say_usage(error)
    except LabError as error:
        if debug:
            traceback.print_exc()
        _say_lab_error(error)
        return _status_of_error(error)
    except BrokenPipeError:
        # Of stdout (`vdpalab list | head -1`) it needs no words; any other broken pipe is a defect like the rest.
        return ExitStatus.ERROR if _reader_gone() else _say_defect(debug)
    except Exception:
        return _say_defect(debug)


def flush_results(status: int) -> int:
    """Write out what stdout still holds. Results that nobody could get are an error, said by the status alone."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    if not _reader_gone():
        return status
    # Python flushes once more at its end, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitStatus.ERROR


def _reader_gone() -> bool:
    """Whether stdout is a pipe that nobody reads."""
    try:
        number = sys.stdout.fileno()
    except OSError:  # not a file at all, as under a test
        return False
    poll = select.poll()
    poll.register(number, 0)  # POLLERR is reported in any case: poll(2)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _status_of_error(error: LabError) -> ExitStatus:
    match error:
        case InputError():
            return ExitStatus.INPUT
        case ProductFailure():
            return ExitStatus.FAIL
        case SiteLacks():
            return ExitStatus.SKIP
        case _:
            return ExitStatus.ERROR


def _say(message: str, **details: object) -> None:
    """Write ``vdpalab: message`` and, indented, those details that are not empty."""
    lines = [f"vdpalab: {message}", *(f"  {name}: {value}" for name, value in details.items() if value)]
    with contextlib.suppress(OSError):
        click.echo("\n".join(lines), err=True)


def _say_usage(error: click.ClickException) -> ExitStatus:
    context = getattr(error, "ctx", None)
    _say(f"error: {error.format_message()}", next=f"{context.command_path} --help" if context else "")
    return ExitStatus.INPUT


def _say_lab_error(error: LabError) -> None:
    if isinstance(error, InputError) and len(error.problems) > 1:
        message = f"{len(error.problems)} problems:" + "".join(f"\n  - {problem}" for problem in error.problems)
    else:
        message = f"error: {error.message}"
    where = ""
    if isinstance(error, ProductFailure | MachineDied):
        where = f"{error.level} of {error.machine}"
    _say(message, where=where, log=error.log, next=error.hint)


def _say_defect(debug: bool) -> ExitStatus:
    """Report the exception being handled as a defect of the lab: one line, and the traceback in a file."""
    if debug:
        traceback.print_exc()
        return ExitStatus.ERROR
    last = "".join(traceback.format_exception_only(sys.exception())).strip()
    _say(
        f"error: unexpected {last}",
        log=_write_traceback(),
        next="VDPALAB_DEBUG=1 vdpalab ... shows the traceback; this is a defect of vdpalab, please report it",
    )
    return ExitStatus.ERROR


def _write_traceback() -> Path | None:
    """Keep the traceback in a file; None when even that is impossible."""
    with contextlib.suppress(OSError):
        file, name = tempfile.mkstemp(prefix="vdpalab-", suffix=".traceback")
        with os.fdopen(file, "w") as sink:
            traceback.print_exc(file=sink)
        return Path(name)
    return None
