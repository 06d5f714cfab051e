"""The verb ``artifacts`` through the command line, on a store with small artifacts."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import click
import pytest

from lab.artifacts.store import Artifact, Progress, Recipe, Store
from lab.cli import main
from lab.cli.artifacts import parse_size


def make(name: str, **inputs: str) -> Artifact:
    def build(into: Path, _progress: Progress) -> None:
        (into / "file").write_text("content")

    return Store().get(Recipe(name, inputs, build))


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    artifact = make("kernel-default", source="6.12")
    assert main(["artifacts", "list"]) == 0
    out = capsys.readouterr().out
    assert "kernel-default" in out
    assert artifact.key in out
    assert main(["artifacts", "list", "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)
    assert (entry["name"], entry["inputs"], entry["size"]) == ("kernel-default", {"source": "6.12"}, 7)


def test_empty_store(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["artifacts", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["artifacts", "verify"]) == 0
    assert main(["artifacts", "gc"]) == 0


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    make("thing", source="1")
    make("thing", source="2")
    assert main(["artifacts", "explain", "thing"]) == 0
    assert "source changed (1 -> 2)" in capsys.readouterr().out
    assert main(["artifacts", "explain", "other"]) == 2
    assert "no artifact is called 'other'" in capsys.readouterr().err


def test_verify(capsys: pytest.CaptureFixture[str]) -> None:
    artifact = make("thing")
    assert main(["artifacts", "verify"]) == 0
    assert "whole" in capsys.readouterr().out
    (artifact.path / "file").write_text("CONTENT")
    assert main(["artifacts", "verify", "thing"]) == 3
    out = capsys.readouterr().out
    assert "CORRUPT" in out
    assert "file: content changed" in out
    assert main(["artifacts", "verify", "other"]) == 2


def test_gc(capsys: pytest.CaptureFixture[str]) -> None:
    artifact = make("thing")
    assert main(["artifacts", "gc"]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    old = time.time() - 31 * 86400
    os.utime(artifact.path.parent / "used", (old, old))
    assert main(["artifacts", "gc", "--max-age", "40"]) == 0
    assert artifact.path.exists()
    assert main(["artifacts", "gc"]) == 0
    assert "removed thing@" in capsys.readouterr().out
    assert not artifact.path.exists()


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("500M", 500 << 20), ("1.5g", 3 << 29), ("20GiB", 20 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(None, None, text) == size
    assert parse_size(None, None, None) is None


@pytest.mark.parametrize("text", ["", "20X", "-1G", "G"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_size(None, None, text)
    assert main(["artifacts", "gc", f"--max-size={text}"]) == 2
