"""lab.errors: messages say what and where, and the tree is the one its docstring draws."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab import errors
from lab.errors import CommandError, InputError, Interrupted, LabError, MachineDied, ProductFailure
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
