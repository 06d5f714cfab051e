"""Patches for a source tree: single diffs, mails, mailboxes, and quilt series; a hunk that fails is named."""

from __future__ import annotations

import email
import email.message
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import BuildError, InputError
from lab.proc import run

# The line that begins each message of a mailbox (mbox(5)), as git format-patch and mailing list archives write it.
_FROM_LINE = re.compile(rb"^From \S+ +(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ", re.MULTILINE)
_ENCODED = re.compile(rb"^Content-Transfer-Encoding:", re.MULTILINE | re.IGNORECASE)
_DIFF = re.compile(rb"^(?:--- \S|diff --git )", re.MULTILINE)
_MADE_BY_EDITORS = (".patch", ".diff", ".mbox", ".mbx", ".eml")


@dataclass(frozen=True)
class Patch:
    """One patch: ``name`` says where it came from; ``strip`` is the number of leading path parts to drop."""

    name: str
    data: bytes
    strip: int = 1


def read_patches(paths: Sequence[Path]) -> list[Patch]:
    """All patches of files (diff, mail, mailbox) and quilt series (the file ``series``, or a directory with one).

    A directory without ``series`` counts as its patch files in order of their names, as git format-patch numbers
    them. Raises InputError naming everything that cannot be read or holds no patch.
    """
    problems: list[str] = []
    found: list[Patch] = []
    for path in paths:
        try:
            patches = list(_read(path))
        except InputError as error:
            problems += error.problems
        except OSError as error:
            problems.append(f"{error.filename or path}: {error.strerror}")
        else:
            found += patches
            problems += [] if patches else [f"{path}: holds no patch"]
    if problems:
        raise InputError(problems)
    return found


def apply(patches: Iterable[Patch], tree: Path) -> None:
    """Apply patches to a tree in order. Raises BuildError naming patch, file and each hunk that does not apply."""
    for patch in patches:
        # No fuzz: a hunk in the wrong place is worse than one that is refused.
        argv = ["patch", f"-p{patch.strip}", "--fuzz=0", "--forward", "--batch", "--no-backup-if-mismatch"]
        done = run(argv, cwd=tree, input=patch.data, check=False, env={"LC_ALL": "C"})
        if done.returncode != 0:
            text = done.text + done.stderr.decode(errors="replace")
            raise BuildError("\n".join(f"{patch.name}: {problem}" for problem in failures(text)))


def failures(output: str) -> list[str]:
    """What went wrong according to the output of patch(1), as sentences that name the source file."""
    found = []
    file = "?"
    for line in output.splitlines():
        if match := re.match(r"patching file (\S+)|checking file (\S+)", line):
            file = shlex.split(match[1] or match[2])[0]
        elif match := re.match(r"Hunk #(\d+) FAILED at (\d+)", line):
            found.append(f"{file}: hunk {match[1]} (line {match[2]}) does not apply")
        elif line.startswith("Reversed (or previously applied) patch detected"):
            found.append(f"{file}: is applied already")
        elif match := re.match(r"\|(?:---|\+\+\+) (\S+)", line):
            file = match[1]
        elif line.startswith("can't find file to patch"):
            found.append("a file to patch does not exist:")
        elif line.startswith("No file to patch"):
            found[-1:] = [f"{file}: does not exist"]
        elif "malformed patch" in line or "Only garbage was found" in line:
            found.append(line.removeprefix("patch: **** "))
    return found or [output.strip().splitlines()[-1] if output.strip() else "patch failed without a word"]


def _read(path: Path) -> Iterable[Patch]:
    if path.is_dir():
        if (path / "series").is_file():
            return _read_series(path / "series")
        files = sorted(file for file in path.iterdir() if file.suffix in _MADE_BY_EDITORS)
        return [patch for file in files for patch in _read_file(file, 1)]
    return _read_series(path) if path.name == "series" else _read_file(path, 1)


def _read_series(series: Path) -> Iterable[Patch]:
    """Patches in the order of a quilt(1) series: a name, perhaps -pN, perhaps a comment."""
    found: list[Patch] = []
    problems = []
    for line in series.read_text().splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        strips = [int(word[2:]) for word in words[1:] if re.fullmatch(r"-p\d+", word)]
        try:
            found += _read_file(series.parent / words[0], strips[0] if strips else 1)
        except OSError as error:
            problems.append(f"{series}: {words[0]}: {error.strerror}")
    if problems:
        raise InputError(problems)
    return found


def _read_file(path: Path, strip: int) -> list[Patch]:
    data = path.read_bytes()
    parsed = [email.message_from_bytes(mail) for mail in _mails(data)]
    if not parsed:
        return [Patch(path.name, data, strip)] if _DIFF.search(data) else []
    # A cover letter, or an answer in the thread, has no diff.
    return [Patch(_title(path, mail), _body(mail), strip) for mail in parsed if _DIFF.search(_body(mail))]


def _mails(data: bytes) -> list[bytes]:
    """The messages of a mailbox, or a lone one that is encoded; none for a plain diff."""
    starts = [match.start() for match in _FROM_LINE.finditer(data)]
    if not starts:
        return [data] if _ENCODED.search(data.partition(b"\n\n")[0]) else []
    mails = [data[begin:end] for begin, end in zip(starts, [*starts[1:], len(data)], strict=True)]
    return [mail.partition(b"\n")[2] for mail in mails]


def _body(mail: email.message.Message) -> bytes:
    parts = [part.get_payload(decode=True) for part in mail.walk() if part.get_content_maintype() == "text"]
    return b"\n".join(part for part in parts if isinstance(part, bytes))


def _title(path: Path, mail: email.message.Message) -> str:
    subject = " ".join(str(mail.get("Subject", "")).split())
    return f"{path.name} ({subject})" if subject else path.name
