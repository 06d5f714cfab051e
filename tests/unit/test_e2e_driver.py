"""tests/e2e/driver.py: which runs may be run once more."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.e2e.driver import reset_silently

RESET = '{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}'
QUIT = '{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}'


@pytest.mark.parametrize(
    ("monitor", "console", "level", "again"),
    [
        (RESET, "vdpalab: sshd ready", "l0-qemu", True),
        (RESET, "Kernel panic - not syncing: sysrq triggered crash", "l0-qemu", False),
        (RESET, "vdpalab: sshd ready", "l1-kernel", False),
        (QUIT, "vdpalab: sshd ready", "l0-qemu", False),
    ],
)
def test_only_a_reset_that_nobody_announced(
    tmp_path: Path, monitor: str, console: str, level: str, again: bool
) -> None:
    folder = tmp_path / "machines/l1"
    folder.mkdir(parents=True)
    (folder / "qmp.jsonl").write_text(monitor)
    (folder / "console.log").write_text(console)
    result: Any = SimpleNamespace(folder=tmp_path, level=level, machine="l1")
    assert reset_silently(result) is again
