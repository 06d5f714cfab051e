"""tests/e2e/conftest.py: a test that is in no tier would never run, so it is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab import proc

ROOT = Path(__file__).parents[2]
MODULE = """
import pytest
@pytest.mark.push
def test_at_each_push(): pass
@pytest.mark.nightly
def test_each_night(): pass
"""


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ("", 0, "2 tests collected"),
        ("@pytest.mark.skipif(False, reason='')\ndef test_never(): pass", 4, "push, nightly: test_lost.py::test_never"),
    ],
)
def test_a_test_needs_a_tier(more: str, status: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "test_lost.py").write_text(MODULE + more)
    (tmp_path / "conftest.py").write_text("from tests.e2e.conftest import *\n")
    argv = ["pytest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    done = proc.run(
        [sys.executable, "-m", *argv, "--collect-only", "-q", str(tmp_path)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == status, done.text
    assert said in done.text + done.stderr.decode()
