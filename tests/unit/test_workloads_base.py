"""lab.workloads.base: commands one after another in a detached job, really run here."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.evidence.record import Record
from lab.host import detached
from lab.host.base import Host
from lab.host.fake import FakeHost
from lab.host.local import LocalHost
from lab.wait import Deadline, wait_until
from lab.workloads import base
from lab.workloads.base import Output


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHost:
    monkeypatch.setattr(Host, "scratch", str(tmp_path))
    monkeypatch.setattr(detached, "_LOOK_S", 0.02)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return LocalHost("here", Record(tmp_path / "record"))


def script(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return name


def run(host: LocalHost, *commands: list[str], timeout_s: float = 10) -> tuple[list[Output], bool]:
    job = detached.start(host, base.serial(commands))
    return base.gather(job, host, len(commands), timeout_s)


def _running(host: LocalHost, *commands: list[str]) -> detached.Detached:
    """A job of which a command has said that it is up."""
    job = detached.start(host, base.serial(commands))
    out = Path(job.folder) / "out"
    wait_until(lambda: out.exists() and "up" in out.read_text(), Deadline(20), "the job to run")
    return job


def test_outputs_stay_apart(host: LocalHost, tmp_path: Path) -> None:
    bad = script(tmp_path, "bad", "echo out; echo err >&2; exit 3")
    outputs, late = run(host, ["echo", "a", "*"], [bad], ["true"], ["nothing-of-that-name"])
    assert not late
    assert outputs[:3] == [Output(0, "a *\n"), Output(3, "out\nerr\n"), Output(0, "")]
    assert outputs[3].status == 127
    assert "not found" in outputs[3].text


def test_what_is_late_is_stopped_and_the_rest_is_not_run(host: LocalHost, tmp_path: Path) -> None:
    slow = script(tmp_path, "slow", "trap 'echo so far; exit 1' TERM; echo up; while :; do sleep 0.05; done")
    job = _running(host, ["echo", "first"], [slow], ["echo", "never"])
    outputs, late = base.gather(job, host, 3, 0.1)
    assert late
    assert (outputs[0], outputs[2]) == (Output(0, "first\n"), Output(None, ""))
    assert outputs[1].text.splitlines()[-1] == "so far"


def test_what_cannot_be_stopped_keeps_what_came_before(
    host: LocalHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "LAST_WORDS_S", 0.1)
    stuck = script(tmp_path, "stuck", "trap '' TERM; echo up; for i in 1 2 3 4 5 6 7 8 9 0; do sleep 0.4; done")
    job = _running(host, ["echo", "first"], [stuck])
    outputs, late = base.gather(job, host, 2, 0.1)
    assert late
    assert outputs == [Output(0, "first\n"), Output(None, "up\n")]


def test_stop_lets_the_command_in_progress_speak(host: LocalHost, tmp_path: Path) -> None:
    slow = script(tmp_path, "slow", "trap 'echo so far; exit 1' TERM; echo up; while :; do sleep 0.05; done")
    job = _running(host, [slow], ["echo", "never"])
    job.stop(host)
    outputs, late = base.gather(job, host, 2, 10)
    assert not late
    assert outputs[0].text.splitlines()[-1] == "so far"
    assert outputs[1] == Output(None, "")


def test_a_stop_between_two_commands(host: LocalHost) -> None:
    job = detached.start(host, base.serial([["echo", "one"], ["echo", "two"]], run='run() { "$@"; kill -TERM $$; }'))
    outputs, late = base.gather(job, host, 2, 10)
    assert not late
    assert outputs == [Output(0, "one\n"), Output(None, "")]


def test_no_output_at_all(tmp_path: Path) -> None:
    job = detached.Detached(("sh",), "/run/x")
    host = FakeHost({"*rc*": "143\n0\n"}, tmp_path / "fake")
    assert base.gather(job, host, 2, 1) == ([Output(None, ""), Output(None, "")], False)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [('{"a": 1}', {"a": 1}), ('note: x\nfio: y {z}\n{\n"a": {"b": 2}}\ntail', {"a": {"b": 2}}), ("\n{}", {})],
)
def test_json_amid_other_text(text: str, wanted: object) -> None:
    assert base.json_object(text) == wanted


@pytest.mark.parametrize("text", ["", "nothing", '{"a": ', "x {}", '["a"]'])
def test_text_without_a_json_object(text: str) -> None:
    with pytest.raises(ValueError):
        base.json_object(text)


def test_distinct() -> None:
    assert base.distinct(["a", "b", "a", "a"]) == ["a", "b", "a_2", "a_3"]


def test_tail() -> None:
    assert base.tail("1\n2\n3\n\n", 2) == "2\n3"
    assert base.tail(" \n") == "nothing"


def test_keep(tmp_path: Path) -> None:
    path = base.keep(tmp_path, "x.json", "{}")
    assert path == tmp_path / "workloads" / "x.json"
    assert path.read_text() == "{}"
