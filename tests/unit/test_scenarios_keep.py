"""lab.scenarios.keep: how to enter a lab that stays up, and its clean end."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.errors import Interrupted
from lab.evidence.record import Record
from lab.model import RunResult, Verdict
from lab.scenarios import keep
from lab.scenarios.keep import KEPT, describe, wait_while_kept

RESULT = RunResult("net-x", Verdict.FAIL, None, None, "it failed", 1.0, "/run")


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with contextlib.closing(Record(tmp_path / "a job" / "001-net")) as record:
        yield record


@pytest.fixture
def lab(record: Record) -> Any:
    machines = {
        name: SimpleNamespace(process=SimpleNamespace(folder=record.folder("machines", name))) for name in ("l1", "l2")
    }
    kernel = SimpleNamespace(vmlinux=Path("/a b/vmlinux"))
    host = SimpleNamespace(scratch="/run/vdpalab")
    return SimpleNamespace(record=record, machines=machines, host=host, artifacts=SimpleNamespace(kernel=kernel))


def events(record: Record) -> list[str]:
    return [json.loads(line)["event"] for line in (record.path / "events.jsonl").read_text().splitlines()]


def test_a_path_with_blanks_stays_one_word_also_inside_of_gdbs_command(lab: Any, record: Record) -> None:
    gdb, vmlinux, option, remote = shlex.split(describe(lab)["l2"]["gdb"])
    assert (gdb, vmlinux, option) == ("gdb", "/a b/vmlinux", "-ex")
    assert remote.startswith("target remote | ")
    assert shlex.split(remote)[3:7] == ["vdpalab", "exec", "--run", str(record.path)]


@pytest.mark.parametrize("end", [Interrupted("SIGTERM"), KeyboardInterrupt()])
def test_kept_until_interrupted(lab: Any, record: Record, monkeypatch: pytest.MonkeyPatch, end: BaseException) -> None:
    told: list[dict[str, Any]] = []

    def pause() -> None:
        # A signal that ends nothing, such as a resized window, comes first.
        told.append(json.loads((record.path / KEPT).read_text()))
        if len(told) == 2:
            raise end

    monkeypatch.setattr(keep, "signal", SimpleNamespace(pause=pause))
    wait_while_kept(record, lab, RESULT)
    assert (told[0]["verdict"], set(told[0]["machines"])) == ("FAIL", {"l1", "l2"})
    assert not (record.path / KEPT).exists()
    assert events(record)[-2:] == ["kept", "kept-end"]


def test_without_a_lab_there_is_nothing_to_keep(record: Record) -> None:
    wait_while_kept(record, None, RESULT)
    assert events(record) == ["begin"]
