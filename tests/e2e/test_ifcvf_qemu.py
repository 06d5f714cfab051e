"""The device model with plain QEMU, as docs/ifcvf.md has it: no lab, and no guest that ever runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import proc
from lab.artifacts.provide import provide
from lab.artifacts.store import Store, cache_root
from lab.config.finding import Finding, load_findings
from lab.config.request import ArtifactOptions
from lab.ifcvf import control
from lab.wait import Deadline, wait_until

ROOT = Path(__file__).parents[2]
MACHINE = shlex.split("""
    -M q35,kernel-irqchip=split,memory-backend=ram -object memory-backend-memfd,id=ram,size=128M,share=on -m 128M
    -nodefaults -display none -S -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off
    -device pcie-root-port,id=rp0,chassis=1 -qmp stdio
""")
# While no guest has powered the slot on, an unplug asks nobody and is done at once.
DIALOGUE = (
    {"execute": "qmp_capabilities"},
    {
        "execute": "device_add",
        "arguments": {
            "driver": "vfio-user-pci",
            "bus": "rp0",
            "id": "vf0",
            "socket": {"type": "unix", "path": "vf0.sock"},
        },
    },
    {"execute": "device_del", "arguments": {"id": "vf0"}},
    {"execute": "query-status"},
)


def unplugged(folder: Path, msix: str) -> tuple[str, int, str, str]:
    """Plug a VF into a QEMU and unplug it: QEMU's version, its exit status, what it answered, its standard error."""
    vf = {"name": "vf0", "model": "n3000-net", "socket": "vf0.sock", "mac": "52:54:00:00:00:01", "msix": msix}
    config = {"control": "control.sock", "vfs": [{**vf, "backend": {"kind": "none"}}]}
    (folder / "vfs.json").write_text(json.dumps(config))
    qemu = provide(Store(cache_root() / "artifacts", print), ArtifactOptions()).qemu_l0
    argv = [sys.executable, "-m", "lab.ifcvf", "serve", "--config", "vfs.json"]
    told = folder / "told"
    with told.open("wb") as stdout:
        model = proc.start(argv, cwd=folder, env={"PYTHONPATH": str(ROOT)}, stdout=stdout)
    try:
        wait_until(lambda: told.read_text().endswith("\n"), Deadline(30), "the device model to be ready")
        assert json.loads(told.read_text())["ready"] is True
        status = spoken_to([*qemu.argv, *MACHINE], folder)
    finally:
        model.stop()
    version = ".".join(map(str, qemu.version))
    answers, said = ((folder / name).read_text(errors="replace") for name in ("answers", "said"))
    return version, status, answers, said


def spoken_to(argv: list[str], folder: Path) -> int:
    """Run the dialogue with a QEMU in ``folder``, which gets its answers and what it said; return its exit status."""
    for_qemu, ours = os.pipe()
    with (folder / "answers").open("wb") as answers, (folder / "said").open("wb") as said:
        process = proc.start(argv, cwd=folder, stdin=for_qemu, stdout=answers, stderr=said)
        os.close(for_qemu)
        try:
            os.write(ours, "".join(json.dumps(one) + "\n" for one in DIALOGUE).encode())
            wait_until(lambda: count(folder, "connections") == 1, Deadline(30), "QEMU to connect")
            # The device is taken apart some time after DEVICE_DELETED; either that or QEMU's end closes the connection.
            wait_until(lambda: not connected(folder), Deadline(30), "the VF to be let go")
            with contextlib.suppress(BrokenPipeError):
                os.write(ours, b'{"execute": "quit"}\n')
            return process.wait(Deadline(30))
        finally:
            os.close(ours)
            process.stop()


def connected(folder: Path) -> bool:
    """Whether the VF has a client."""
    state = control.ask(str(folder / "control.sock"), {"op": "state", "vf": "vf0"}, 5)
    return bool(state["connected"])


def count(folder: Path, name: str) -> int:
    """One of the VF's counters."""
    return int(control.ask(str(folder / "control.sock"), {"op": "counters", "vf": "vf0"}, 5)[name])


@pytest.fixture
def short(artifacts: dict[str, Any]) -> Iterator[Path]:
    """A folder whose name leaves room for that of a socket; the images are built."""
    assert artifacts
    with tempfile.TemporaryDirectory(prefix="e2e-") as folder:
        yield Path(folder)


@pytest.fixture
def f014() -> Finding:
    [finding] = [finding for finding in load_findings() if finding.id == "F014"]
    return finding


@pytest.mark.push
def test_a_vf_that_has_its_own_interrupts_is_unplugged(short: Path) -> None:
    version, status, answers, said = unplugged(short, "device")
    assert status == 0, said
    assert "DEVICE_DELETED" in answers
    assert "prelaunch" in answers, version


@pytest.mark.push
def test_qemu_aborts_when_it_has_the_interrupts(short: Path, f014: Finding) -> None:
    version, status, answers, said = unplugged(short, "qemu")
    if re.fullmatch(f014.qemu, version):
        assert status == -signal.SIGABRT, f"QEMU {version} does not abort: F014 is no longer there"
        assert re.search(f014.pattern, said, re.MULTILINE), said
    else:
        assert (status, "DEVICE_DELETED" in answers) == (0, True), said
