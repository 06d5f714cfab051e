"""The fuzzer: a few cases of it, and that it finds what is wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lab.ifcvf.dma import DmaMap
from lab.ifcvf.ring import Queue
from lab.ifcvf.vf import Vf
from tests import ifcvf_fuzz
from tests.ifcvf_fuzz import Violation, run_case

CASES = range(2)


def run(folder: Path, cases: range = range(40)) -> None:
    for number in cases:
        run_case(random.Random(f"1:{number}"), folder)


def test_nothing_is_found_in_some_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert ifcvf_fuzz.main(["--seed", "1", "--cases", str(len(CASES)), "--seconds", "60"]) == 0
    assert "2 cases of seed 1: nothing found" in capsys.readouterr().out


def test_a_device_that_writes_to_memory_it_may_only_read_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = DmaMap._find

    def careless(self: DmaMap, iova: int, length: int, write: bool) -> None:
        honest(self, iova, length, False)
        self._may_write = True

    monkeypatch.setattr(DmaMap, "_find", careless)
    with pytest.raises(Violation, match="wrote where it may not"):
        run(tmp_path, range(32, 100))  # one case in thirty finds it, and this is the first


def test_a_device_that_goes_over_the_end_of_a_range_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = DmaMap._find

    def careless(self: DmaMap, iova: int, length: int, write: bool) -> None:
        honest(self, iova, length, write)
        self._high += 1 << 20

    monkeypatch.setattr(DmaMap, "_find", careless)
    with pytest.raises((Violation, ValueError, IndexError)):
        run(tmp_path)


def test_a_server_that_lets_an_exception_out_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def strange(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Queue, "_chain", strange)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path)


def test_descriptors_that_are_left_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vf, "_drop_eventfds", lambda *_: None)
    with pytest.raises(Violation, match="descriptors are left"):
        run(tmp_path)


def test_a_server_that_takes_long_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifcvf_fuzz, "STEP_S", -1)
    with pytest.raises(Violation, match="was busy for"):
        run(tmp_path)


def test_a_failure_says_how_to_see_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise Violation("x")

    monkeypatch.setattr(ifcvf_fuzz, "run_case", failing)
    with pytest.raises(Violation):
        ifcvf_fuzz.main(["--seed", "5", "--first", "3"])
    assert "--seed 5 --first 3 --cases 1" in capsys.readouterr().err
