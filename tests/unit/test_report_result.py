"""The JSON form of results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.report.result import document, from_dict, read, to_dict, write_result
from tests.sample_job import FAILED, PASSED, SKIPPED


@pytest.mark.parametrize("result", [PASSED, FAILED, SKIPPED], ids=lambda result: result.verdict)
def test_what_is_written_is_read_back(result: object) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(result)))) == result  # type: ignore[arg-type]


def test_schema_of_an_element() -> None:
    element = to_dict(FAILED)
    assert list(element) == [
        "scenario", "verdict", "level", "machine", "reason", "known", "duration_s", "run_dir", "warm", "accel",
        "checks", "metrics",
    ]  # fmt: skip
    assert (element["verdict"], element["level"], element["machine"]) == ("FAIL", "l1-kernel", "l1")
    assert element["accel"] == {"l1": "tcg", "l2": "tcg"}
    assert list(element["checks"][0]) == ["name", "verdict", "seen", "expected", "level", "machine", "proof"]
    assert element["metrics"][0] == {"name": "tcp throughput", "value": 14.8123, "unit": "Mbit/s"}


def test_document_of_a_job() -> None:
    assert document(Path("/j"), [PASSED]) == {"schema": 1, "job_dir": "/j", "results": [to_dict(PASSED)]}


def test_a_file_is_written_whole_and_read(tmp_path: Path) -> None:
    write_result(tmp_path, PASSED)
    assert read(tmp_path / "result.json") == PASSED
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_keys_of_later_versions_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(to_dict(PASSED) | {"versions": {"l1": "6.12"}}))
    assert read(tmp_path / "result.json") == PASSED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"schema": 1',
        json.dumps(to_dict(PASSED) | {"verdict": "MAYBE"}),
        json.dumps(to_dict(PASSED) | {"level": "l7"}),
        json.dumps(to_dict(PASSED) | {"duration_s": "soon"}),
        json.dumps(to_dict(PASSED) | {"accel": None}),
        json.dumps(to_dict(PASSED) | {"checks": [{"name": "x"}]}),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(LabError, match=r"result\.json is broken"):
        read(tmp_path / "result.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"result\.json: No such file"):
        read(tmp_path / "result.json")


def test_durations_are_rounded_to_milliseconds() -> None:
    assert to_dict(replace(PASSED, duration_s=1.23456789))["duration_s"] == 1.235
