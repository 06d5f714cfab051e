"""lab.checks.process: what a QEMU holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab.checks import process
from lab.checks.process import Held
from lab.evidence.record import Record
from lab.host.fake import FakeHost
from lab.host.local import LocalHost
from lab.model import Level, Verdict

NODE = "/dev/vhost-vdpa-0"
RAM = 262144


def held(kb: int | None, *files: str) -> Held:
    return Held(kb, files)


@pytest.mark.parametrize(
    ("before", "during", "after", "ram", "verdict"),
    [
        (0, RAM + 1024, 0, RAM, Verdict.PASS),
        (512, RAM + 512, 512, RAM, Verdict.PASS),
        (0, 0, 0, 0, Verdict.PASS),
        (0, 4096, 0, RAM, Verdict.FAIL),  # the IOTLB limit: a few MB
        (0, 0, 0, RAM, Verdict.FAIL),  # fell back on userspace virtio
        (0, RAM + 1024, RAM + 1024, RAM, Verdict.FAIL),  # not released
        (0, RAM, 0, 0, Verdict.FAIL),  # should map by virtual address
    ],
)
def test_vm_pinned(before: int, during: int, after: int, ram: int, verdict: Verdict) -> None:
    check = process.vm_pinned(held(before), held(during), held(after), ram_kb=ram, machine="l2")
    assert check.verdict is verdict
    assert check.level is (None if verdict is Verdict.PASS else Level.L1_QEMU)


@pytest.mark.parametrize("lost", [None, held(None)])
@pytest.mark.parametrize("when", range(3))
def test_vm_pinned_when_one_look_failed(lost: Held | None, when: int) -> None:
    looks: list[Held | None] = [held(0), held(RAM), held(0)]
    looks[when] = lost
    check = process.vm_pinned(*looks, ram_kb=RAM, machine="l2")
    assert (check.verdict, check.level) == (Verdict.ERROR, Level.LAB)


@pytest.mark.parametrize(
    ("files", "attached", "verdict"),
    [
        ((NODE, "/dev/kvm"), True, Verdict.PASS),
        (("/dev/kvm",), True, Verdict.FAIL),
        ((NODE, NODE), True, Verdict.FAIL),
        (("/dev/vhost-vdpa-01",), True, Verdict.FAIL),
        ((f"{NODE} (deleted)",), True, Verdict.PASS),
        (("/dev/kvm",), False, Verdict.PASS),
        ((NODE,), False, Verdict.FAIL),
    ],
)
def test_open_node(files: tuple[str, ...], attached: bool, verdict: Verdict) -> None:
    assert process.open_node(held(0, *files), NODE, machine="l2", attached=attached).verdict is verdict


def test_open_node_when_the_process_could_not_be_looked_at() -> None:
    assert process.open_node(None, NODE, machine="l2").verdict is Verdict.ERROR


def test_a_real_process(tmp_path: Path) -> None:
    host = LocalHost("here", Record(tmp_path / "record"))
    with (tmp_path / "open").open("w"):
        found = process.look(host, os.getpid())
    assert found is not None
    assert found.pinned_kb == 0
    assert str(tmp_path / "open") in found.files


def test_a_process_that_is_gone_and_a_host_that_is_gone(tmp_path: Path) -> None:
    assert process.look(LocalHost("here", Record(tmp_path / "record")), 2**22 + 1) is None
    assert process.look(FakeHost({}, tmp_path / "fake"), 1) is None


def test_a_process_without_files() -> None:
    assert process.parse("VmPin:\t       0 kB\n") == Held(0, ())
    assert process.parse("/dev/null\n") == Held(None, ("/dev/null",))
