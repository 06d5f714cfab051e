"""Exit statuses and messages of the command line."""

from __future__ import annotations

import signal
from pathlib import Path

import click
import pytest

from lab.cli.exit import ExitStatus, guarded, status_of
from lab.errors import BuildError, InputError, Interrupted, LabError, MachineDied, ProductFailure, SiteLacks
from lab.model import Level, Verdict

PASS, FAIL, ERROR, SKIP = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.SKIP


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([PASS], 0),
        ([PASS, SKIP], 0),
        ([SKIP, SKIP], 77),
        ([PASS, FAIL, SKIP], 1),
        ([FAIL, ERROR, PASS], 3),
        ([ERROR, SKIP], 3),
        ([], 3),
    ],
)
def test_status_of_verdicts(verdicts: list[Verdict], status: int) -> None:
    assert status_of(verdicts) == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Interrupted("SIGTERM"), 130),
        (KeyboardInterrupt(), 130),
        (InputError(["no such scenario: x"]), 2),
        (click.UsageError("no"), 2),
        (LabError("disk gone"), 3),
        (BuildError("gcc"), 3),
        (MachineDied("l1", -9, "", level=Level.L0_QEMU), 3),
        (ProductFailure("oops", level=Level.L1_KERNEL, machine="l1"), 1),
        (SiteLacks("a vDPA device"), 77),
        (ValueError("a bug"), 3),
        (EOFError(), 3),
        (BrokenPipeError(), 3),
    ],
)
def test_status_of_exceptions(error: BaseException, status: int) -> None:
    def verb() -> int:
        raise error

    assert guarded(verb) == status


def raising(error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    def verb() -> int:
        raise error

    guarded(verb)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_message_says_what_where_log_and_next(capsys: pytest.CaptureFixture[str]) -> None:
    said = raising(ProductFailure("BUG", level=Level.L1_KERNEL, machine="l1", log=Path("/run/console.log")), capsys)
    assert said == "vdpalab: error: BUG\n  where: l1-kernel of l1\n  log: /run/console.log\n"
    assert raising(LabError("x", hint="vdpalab doctor"), capsys) == "vdpalab: error: x\n  next: vdpalab doctor\n"


def test_all_problems_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    said = raising(InputError(["a: unknown key", "b: not a number"]), capsys)
    assert said == "vdpalab: 2 problems:\n  - a: unknown key\n  - b: not a number\n"


def test_defect_is_one_line_and_a_traceback_in_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = raising(ValueError("odd"), capsys)
    [log] = tmp_path.glob("vdpalab-*.traceback")
    assert said.startswith(f"vdpalab: error: unexpected ValueError: odd\n  log: {log}\n")
    assert "Traceback" not in said
    assert "Traceback" in log.read_text()
    monkeypatch.setenv("VDPALAB_DEBUG", "1")
    assert "Traceback" in raising(ValueError("odd"), capsys)


def test_defect_is_reported_where_nothing_can_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    assert "unexpected ValueError: odd" in raising(ValueError("odd"), capsys)


def test_status_of_a_verb_passes_through() -> None:
    assert guarded(lambda: 77) == ExitStatus.SKIP
    assert signal.SIGINT + 128 == ExitStatus.INTERRUPTED
