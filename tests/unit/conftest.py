"""What all unit tests share: no test sees or touches the user's own cache."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDPALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VDPALAB_DEBUG", raising=False)
