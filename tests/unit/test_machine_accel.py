"""lab.machine.accel: KVM is used when it is proven, and every reason not to use it is said.

No machine of the project's own tests has a working KVM, so the decision is what can be tested.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

import pytest

from lab.errors import SiteLacks
from lab.host.fake import Answer, FakeHost
from lab.machine.accel import Acceleration, choose, decide, probe, probe_argv, proved
from lab.model import Accel, Completed

PANIC = "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"
QEMU = ["qemu-system-x86_64"]
# What the kernel says when it is not sound itself, under whatever accelerator.
BROKEN = "Kernel panic - not syncing: Attempted to kill init!"


def ended(status: int, stdout: str = "", stderr: str = "") -> Completed:
    return Completed(("timeout",), status, stdout.encode(), stderr.encode(), 1.5)


@pytest.mark.parametrize(
    ("want", "probed", "accel", "reason"),
    [
        ("auto", ended(0, PANIC), Accel.KVM, "the kernel booted under KVM in 1.5 s"),
        ("kvm", ended(0, PANIC), Accel.KVM, "the kernel booted under KVM in 1.5 s"),
        ("tcg", ended(0, PANIC), Accel.TCG, "asked for"),
        ("tcg", "there is no /dev/kvm", Accel.TCG, "asked for"),
        ("auto", "there is no /dev/kvm", Accel.TCG, "KVM is not usable: there is no /dev/kvm"),
        ("auto", "no permission on /dev/kvm", Accel.TCG, "KVM is not usable: no permission on /dev/kvm"),
        ("auto", ended(-9, "", "KVM internal error"), Accel.TCG, "the kernel hung for 2 s: KVM internal error"),
        ("auto", ended(137), Accel.TCG, "the kernel hung for 2 s: no word from QEMU"),
        ("auto", ended(-6, "", "Aborted"), Accel.TCG, "QEMU ended with -6 before the kernel was up: Aborted"),
        ("auto", ended(1, "", "a\nb\nc"), Accel.TCG, r"QEMU ended with 1 before the kernel was up: a \| b$"),
        ("auto", ended(0, BROKEN), Accel.TCG, "QEMU ended with 0 before the kernel was up"),
    ],
)
def test_decision(want: Literal["auto", "kvm", "tcg"], probed: Completed | str, accel: Accel, reason: str) -> None:
    decision = decide(want, probed)
    assert decision.accel is accel
    assert re.search(reason, decision.reason)


@pytest.mark.parametrize("probed", ["there is no /dev/kvm", ended(137), ended(0, BROKEN)])
def test_demanded_and_absent(probed: Completed | str) -> None:
    with pytest.raises(SiteLacks, match="usable KVM"):
        decide("kvm", probed)


class Machine(FakeHost):
    """A host with /dev/kvm whose kernel says ``kvm`` under KVM and ``tcg`` under TCG."""

    def __init__(self, folder: Path, *, kvm: Answer = PANIC, tcg: Answer = PANIC) -> None:
        answers: dict[str, Answer] = {
            "uname *": "6.12 #1",
            "test *": "",
            "timeout *-accel kvm *": kvm,
            "timeout *-accel tcg *": tcg,
        }
        super().__init__(answers, folder)

    @property
    def probes(self) -> int:
        return sum(command.startswith("timeout") for command in self.commands)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "made" / "accel.json"


def test_a_proof_is_remembered_for_this_qemu_and_this_host_kernel(tmp_path: Path, cache: Path) -> None:
    host = Machine(tmp_path)
    first = choose("auto", host, QEMU, "/bzImage", cache)
    assert first.accel is Accel.KVM
    assert choose("auto", host, QEMU, "/other-bzImage", cache) == first
    assert host.probes == 1
    choose("auto", host, ["another-qemu"], "/bzImage", cache)
    assert host.probes == 2
    host.answers["uname *"] = "6.13 #1"
    choose("auto", host, QEMU, "/bzImage", cache)
    assert host.probes == 3
    assert [path.name for path in cache.parent.iterdir()] == ["accel.json"]


def test_who_demands_kvm_gets_a_fresh_proof(tmp_path: Path, cache: Path) -> None:
    host = Machine(tmp_path, kvm=(137, "KVM internal error"))
    assert choose("auto", host, QEMU, "/bzImage", cache).accel is Accel.TCG
    with pytest.raises(SiteLacks, match="KVM internal error"):
        choose("kvm", host, QEMU, "/bzImage", cache)


def test_a_broken_kvm_is_remembered_when_the_kernel_is_sound(tmp_path: Path, cache: Path) -> None:
    host = Machine(tmp_path, kvm=(137, "KVM internal error"))
    first = choose("auto", host, QEMU, "/bzImage", cache)
    assert (first.accel, host.probes) == (Accel.TCG, 2)
    assert choose("auto", host, QEMU, "/bzImage", cache) == first
    assert host.probes == 2


def test_a_kernel_that_boots_nowhere_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    host = Machine(tmp_path, kvm=BROKEN, tcg=BROKEN)
    assert choose("auto", host, QEMU, "/bzImage", cache).accel is Accel.TCG
    assert not cache.exists()
    host.answers["timeout *-accel kvm *"] = PANIC
    assert choose("auto", host, QEMU, "/bzImage", cache).accel is Accel.KVM


def test_without_a_memory_nothing_is_probed_for_its_sake(tmp_path: Path) -> None:
    host = Machine(tmp_path)
    host.answers["test *"] = (1, "")
    decision = choose("auto", host, QEMU, "/bzImage")
    assert decision == Acceleration(Accel.TCG, "KVM is not usable: there is no /dev/kvm")
    assert host.probes == 0


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff"])
def test_a_broken_memory_costs_a_proof_only(tmp_path: Path, cache: Path, content: str) -> None:
    cache.parent.mkdir()
    cache.write_bytes(content.encode("latin-1"))
    assert choose("auto", Machine(tmp_path), QEMU, "/bzImage", cache).accel is Accel.KVM
    assert len(json.loads(cache.read_text())) == 1


def test_a_memory_behind_a_link_is_written_where_it_is(tmp_path: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.symlink_to(tmp_path / "shared.json")
    choose("auto", Machine(tmp_path), QEMU, "/bzImage", cache)
    assert len(json.loads((tmp_path / "shared.json").read_text())) == 1
    assert cache.is_symlink()


def test_tcg_asks_nothing(tmp_path: Path) -> None:
    host = FakeHost({}, tmp_path)
    assert choose("tcg", host, QEMU, "/bzImage").accel is Accel.TCG


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"test -c *": (1, "")}, "there is no /dev/kvm"),
        ({"test -c *": "", "test -r *": (1, "")}, "no permission on /dev/kvm"),
    ],
)
def test_a_lack_costs_no_probe_and_is_not_remembered(
    tmp_path: Path, cache: Path, answers: dict[str, Answer], words: str
) -> None:
    host = Machine(tmp_path)
    mended, host.answers = host.answers, answers | host.answers
    expected = Acceleration(Accel.TCG, f"KVM is not usable: {words}")
    assert choose("auto", host, QEMU, "/bzImage", cache) == expected
    assert (host.probes, cache.exists()) == (0, False)
    # What doctor says to do was done.
    host.answers = mended
    assert choose("auto", host, QEMU, "/bzImage", cache).accel is Accel.KVM


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"test -c *": (1, "")}, "there is no /dev/kvm"),
        ({"test -c *": "", "test -r *": (1, "")}, "no permission on /dev/kvm"),
    ],
)
def test_kvm_that_lacks_and_is_demanded(tmp_path: Path, answers: dict[str, Answer], words: str) -> None:
    with pytest.raises(SiteLacks, match=words):
        choose("kvm", FakeHost({**answers, "uname *": ""}, tmp_path), QEMU, "/bzImage")


def test_a_slow_host_gets_more_time(tmp_path: Path) -> None:
    host = Machine(tmp_path)
    host.slowness = 3.5
    assert proved(probe(host, QEMU, "/bzImage"))
    assert host.commands[-1].startswith("timeout -s KILL 35 qemu-system-x86_64 -M q35")


def test_the_payload_is_the_kernel_without_a_root() -> None:
    argv = probe_argv(QEMU, "/bzImage", Accel.TCG)
    assert argv[argv.index("-kernel") + 1] == "/bzImage"
    assert not {"-drive", "-blockdev", "-initrd"} & set(argv)
