"""Which run is meant."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.errors import InputError
from lab.evidence.record import Record
from lab.evidence.runs import find_run, runs

OLD, NEW = "20260101-000000-aaaa", "20260102-000000-bbbb"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "jobs"
    for job in (OLD, NEW):
        for name in ("001-net", "002-blk"):
            Record(root / job / name).close()
    (root / NEW / "003-not-begun").mkdir()
    return root


@pytest.fixture
def up(root: Path) -> Iterator[Path]:
    with contextlib.closing(Record(root / OLD / "001-net")) as owner:
        yield owner.path


def test_runs_are_in_the_order_they_began(root: Path) -> None:
    assert [f"{run.parent.name}/{run.name}" for run in runs(root)] == [
        f"{OLD}/001-net", f"{OLD}/002-blk", f"{NEW}/001-net", f"{NEW}/002-blk",
    ]  # fmt: skip


def test_latest_is_the_newest_and_rather_one_that_is_up(root: Path) -> None:
    assert find_run(root) == root / NEW / "002-blk"
    with contextlib.closing(Record(root / OLD / "001-net")):
        assert find_run(root) == find_run(root, alive=True) == root / OLD / "001-net"


def test_a_run_or_a_job_can_be_named(root: Path, up: Path) -> None:
    assert find_run(root, str(root / NEW / "001-net")) == root / NEW / "001-net"
    assert find_run(root, str(root / NEW)) == root / NEW / "002-blk"
    assert find_run(root, NEW) == find_run(root, "20260102") == root / NEW / "002-blk"
    assert find_run(root, OLD, alive=True) == up


@pytest.mark.parametrize(
    ("where", "alive", "problem"),
    [
        ("latest", True, "no lab is up"),
        (NEW, True, "this lab is no longer up"),
        ("nowhere", False, "neither a run nor a job"),
        ("nowhere", True, "neither a run nor a job"),
        (f"{NEW}/003-not-begun", False, "neither a run nor a job"),
    ],
)
def test_what_is_not_there_is_bad_input(root: Path, where: str, alive: bool, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        find_run(root, where, alive=alive)


def test_no_runs_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run"):
        find_run(tmp_path / "jobs")
