"""lab.errors: messages say what and where, and the tree is the one its docstring draws."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab import errors
from lab.errors import (
    CommandError,
    DeadlineExceeded,
    HostError,
    InputError,
    Interrupted,
    LabError,
    MachineDied,
    ProductFailure,
    QmpError,
    QmpRefused,
    SiteLacks,
    Unreachable,
    product,
)
from lab.model import Completed, Level


def test_the_tree_is_the_one_drawn() -> None:
    assert errors.__doc__
    drawn = re.findall(r"^    [│├└─ ]*([A-Z]\w+)", errors.__doc__, re.MULTILINE)
    assert set(drawn) == {name for name, value in vars(errors).items() if isinstance(value, type) and
                          issubclass(value, BaseException)}  # fmt: skip


def test_nothing_that_catches_errors_swallows_an_interrupt() -> None:
    assert not issubclass(Interrupted, Exception)


def test_log_and_hint_are_part_of_the_words() -> None:
    error = LabError("no kernel", hint="vdpalab doctor", log=Path("/build.log"))
    assert str(error) == "no kernel\nlog: /build.log\nnext: vdpalab doctor"
    assert str(LabError("no kernel")) == error.message == "no kernel"


def test_all_problems_are_told() -> None:
    error = InputError(["one", "two"], hint="vdpalab list")
    assert (error.problems, str(error)) == (("one", "two"), "one\ntwo\nnext: vdpalab list")


@pytest.mark.parametrize(
    ("stdout", "stderr", "tail"),
    [
        (b"on stdout", b"on stderr\n", "on stderr"),
        (b"on stdout\n", b" \n", "on stdout"),
        (b"", b"\xff", "\ufffd"),
        (b"", "\n".join(map(str, range(20))).encode(), "\n".join(map(str, range(8, 20)))),
        (b"", b"", ""),
    ],
)
def test_a_failed_command_says_its_last_words(stdout: bytes, stderr: bytes, tail: str) -> None:
    error = CommandError("l1", Completed(("vdpa", "dev", "a b"), 2, stdout, stderr, 0.1))
    assert str(error) == f"l1: \"vdpa dev 'a b'\" ended with 2\n{tail}".rstrip()


@pytest.mark.parametrize(("status", "how"), [(-11, "killed by signal 11"), (1, "exit status 1")])
def test_a_dead_machine_says_how(status: int, how: str) -> None:
    error = MachineDied("l1", status, "last words", level=Level.L0_QEMU)
    assert str(error) == f"l1: QEMU ended ({how})\nlast words"
    assert (error.machine, error.level) == ("l1", Level.L0_QEMU)


def test_a_failure_of_the_product_knows_whose() -> None:
    error = ProductFailure("panic", level=Level.L2_KERNEL, machine="l2")
    assert (error.level, error.machine) == (Level.L2_KERNEL, "l2")


@pytest.mark.parametrize(
    "error",
    [
        CommandError("l1", Completed(("vdpa", "dev", "add"), 1, b"", b"kernel answers: File exists", 0.1)),
        HostError("l1: vhost_vdpa did not take vDPA device v1a"),
        DeadlineExceeded("l1: the vhostdev node of v1a", 10),
        QmpRefused("l2: device_add: Invalid rx_queue_size"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_product_refuses_is_its_failure(error: LabError) -> None:
    with pytest.raises(ProductFailure) as caught, product(Level.L1_KERNEL, "l1"):
        raise error
    assert (caught.value.level, caught.value.machine, caught.value.symptom) == (Level.L1_KERNEL, "l1", True)
    assert caught.value.message == error.message


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("l1: the SSH connection is gone"),
        QmpError("l2: the monitor broke off"),
        MachineDied("l2", -9, "", level=Level.L1_QEMU),
        SiteLacks("module vhost_vdpa"),
        LabError("pci/0000:01:00.1 does not offer VIRTIO_F_ACCESS_PLATFORM"),
        Interrupted("SIGTERM"),
        ProductFailure("panic", level=Level.L2_KERNEL, machine="l2"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_the_product_stays_what_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, product(Level.L1_KERNEL, "l1"):
        raise error
    assert caught.value is error
