"""tests/e2e/conftest.py: a test that is in no tier would never run, so it is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lab import proc

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("mark", "status", "word"), [("push", 0, "1 test"), ("nightly", 0, "1 test"), ("skipif(False)", 4, "mark these")]
)
def test_a_test_needs_a_tier(mark: str, status: int, word: str, tmp_path: Path) -> None:
    (tmp_path / "test_lost.py").write_text(f"import pytest\n@pytest.mark.{mark}\ndef test_it(): pass\n")
    (tmp_path / "conftest.py").write_text("from tests.e2e.conftest import *\n")
    argv = ["pytest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--collect-only", "-q"]
    done = proc.run([sys.executable, "-m", *argv, str(tmp_path)], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert (done.returncode, word in done.text + done.stderr.decode()) == (status, True), done.text
