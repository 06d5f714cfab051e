"""lab.scenarios.keep: the commands that are printed for a lab that stays up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lab.scenarios.keep import describe
from lab.topology.lab import Lab


def lab(folder: Path) -> Lab:
    machines = {
        name: SimpleNamespace(process=SimpleNamespace(folder=folder / "a run" / "machines" / name))
        for name in ("l1", "l2")
    }
    kernel = SimpleNamespace(vmlinux=folder / "vmlinux")
    fake: Any = SimpleNamespace(
        machines=machines,
        host=SimpleNamespace(scratch="/run/vdpalab"),
        record=SimpleNamespace(path=folder / "a run"),
        artifacts=SimpleNamespace(kernel=kernel),
    )
    return cast(Lab, fake)


def test_every_machine_has_every_way_in_and_paths_are_quoted(tmp_path: Path) -> None:
    told = describe(lab(tmp_path))
    assert [set(ways) for ways in told.values()] == [{"shell", "console", "monitor", "gdb"}] * 2
    assert told["l2"]["shell"] == f"vdpalab shell --run '{tmp_path}/a run' l2"
    assert told["l1"]["console"].startswith(f"cd '{tmp_path}/a run/machines/l1' && ")
    assert "/run/vdpalab/l2/monitor.sock" in told["l2"]["monitor"]


@pytest.mark.parametrize("connected", [True, False])
def test_an_l1_that_is_a_real_machine_can_be_logged_in_to(tmp_path: Path, connected: bool) -> None:
    real: Any = lab(tmp_path)
    real.connected = connected
    del real.machines["l1"]
    shell = {"l1": {"shell": f"vdpalab shell --run '{tmp_path}/a run' l1"}}
    told = describe(real)
    assert {name: ways for name, ways in told.items() if name == "l1"} == (shell if connected else {})
    assert set(told["l2"]) == {"shell", "console", "monitor", "gdb"}


def test_gdb_gets_the_debug_information_that_there_is(tmp_path: Path) -> None:
    assert f"gdb {tmp_path}/vmlinux -ex" in describe(lab(tmp_path))["l1"]["gdb"]
    (tmp_path / "vmlinux.debug").touch()
    assert f"gdb {tmp_path}/vmlinux.debug -ex" in describe(lab(tmp_path))["l1"]["gdb"]
