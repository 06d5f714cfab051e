"""A host that answers from a script: the seam at which unit tests replace a real machine."""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab.errors import Unreachable
from lab.evidence.record import Record
from lab.host.base import Host, Stream
from lab.model import Completed
from lab.wait import Deadline

Answer = str | tuple[int, str] | Callable[[Sequence[str], bytes], str]


class FakeHost(Host):
    """Answers a command by the first matching pattern of ``answers`` (fnmatch on the shell-quoted command line).

    An answer is the output, ``(status, output)``, or a function of argv and input. ``commands`` keeps what was run.
    A command without an answer raises Unreachable, so that a test cannot pass by accident.
    """

    def __init__(self, answers: Mapping[str, Answer], folder: Path, name: str = "fake") -> None:
        super().__init__(name, Record(folder))
        self.answers = dict(answers)
        self.commands: list[str] = []
        self.inputs: list[bytes] = []

    def _execute(self, argv: Sequence[str], data: bytes, deadline: Deadline) -> Completed:  # noqa: ARG002
        command = shlex.join(argv)
        self.commands.append(command)
        self.inputs.append(data)
        for pattern, answer in self.answers.items():
            if fnmatch.fnmatchcase(command, pattern):
                output = answer(argv, data) if callable(answer) else answer
                status, text = output if isinstance(output, tuple) else (0, output)
                return Completed(tuple(argv), status, text.encode(), b"" if status == 0 else text.encode(), 0.0)
        raise Unreachable(f"{self.name}: no answer for {command!r}")

    def _start(self, argv: Sequence[str]) -> Stream:
        raise Unreachable(f"{self.name}: cannot spawn {shlex.join(argv)!r}")
