"""The virtbus overlay as a series of mails, for a maintainer's ``git am``.

How it is cut into patches, and what they say, is in ``images/kernel/virtbus/series.toml``.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path

from lab.artifacts import patches
from lab.artifacts.patches import Patch
from lab.artifacts.virtbus import Overlay, Version
from lab.config.strict import Strict, read_toml, validate
from lab.errors import BuildError, InputError

# What git format-patch writes into the line that begins a mail, so that programs know whose it is.
_MAGIC_DATE = "Mon Sep 17 00:00:00 2001"
_SECTION = re.compile(r"^--- (?:a/\S+|/dev/null)\n\+\+\+ b/(\S+)\n", re.MULTILINE)


class PatchWords(Strict):
    """A patch of the series: which files it takes, and what its mail says."""

    paths: tuple[str, ...]
    subject: str
    body: str


class SeriesWords(Strict):
    """The file ``series.toml``."""

    patch: tuple[PatchWords, ...]


@dataclass(frozen=True)
class Change:
    """The difference of one file, as git writes it."""

    path: str
    diff: str


@dataclass(frozen=True)
class Mail:
    """A patch to be sent."""

    subject: str
    body: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Sender:
    """Whose mails they are, ``Name <address>``, and when they were written."""

    author: str
    date: datetime
    signoff: bool = False


def export(layer: Overlay, words: SeriesWords, version: Version, sender: Sender) -> list[str]:
    """The mails for a Linux of that version.

    Raises BuildError for a version that the overlay has nothing for, or a file that no patch takes.
    """
    mails = list(_mails(layer, words, version))
    return [_format(mail, f"{number}/{len(mails)}", sender) for number, mail in enumerate(mails, start=1)]


def write(mails: list[str], folder: Path) -> list[Path]:
    """Put mails into a new or empty folder, named as git format-patch does. Raises InputError when it has files."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError([f"{folder}: is there already and not empty"])
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, mail in enumerate(mails, start=1):
        subject = re.search(r"^Subject: \[PATCH [^]]*\] (.*)$", mail, re.MULTILINE)
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", subject[1] if subject else "patch").strip("-.")[:52]
        path = folder / f"{number:04}-{slug}.patch"
        path.write_text(mail)
        written.append(path)
    return written


def series_words(path: Path) -> SeriesWords:
    """Read ``series.toml``. Raises InputError with all its problems."""
    return validate(SeriesWords, read_toml(path), str(path))


def _mails(layer: Overlay, words: SeriesWords, version: Version) -> Iterator[Mail]:
    taken: dict[int, list[Change]] = {number: [] for number in range(len(words.patch))}
    for change in sorted(_changes(layer, version), key=lambda change: change.path):
        taken[_taker(change.path, words)].append(change)
    for number, patch in enumerate(words.patch):
        yield Mail(patch.subject, patch.body.strip(), tuple(taken[number]))


def _changes(layer: Overlay, version: Version) -> Iterator[Change]:
    """What the overlay does to each file; a backport of one of its own files is part of that file."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        if layer.tree:
            shutil.copytree(layer.tree, tree, dirs_exist_ok=True)
        for patch in layer.patches_since(version):
            for change in sections(patch.data.decode()):
                if (tree / change.path).is_file():
                    patches.apply([Patch(patch.name, change.diff.encode())], tree)
                else:
                    yield change
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            yield _new_file(path, str(path.relative_to(tree)))


def _taker(path: str, words: SeriesWords) -> int:
    for number, patch in enumerate(words.patch):
        if any(path == prefix or path.startswith(f"{prefix}/") for prefix in patch.paths):
            return number
    raise BuildError(f"series.toml: no patch takes {path}")


def _new_file(path: Path, name: str) -> Change:
    lines = path.read_text().splitlines()
    head = (
        f"diff --git a/{name} b/{name}\nnew file mode 100644\n--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n"
    )
    return Change(name, head + "".join(f"+{line}\n" for line in lines))


def sections(text: str) -> Iterator[Change]:
    """The files of a plain diff, each with the line that git wants before it."""
    starts = list(_SECTION.finditer(text))
    for match, end in zip(starts, [*(match.start() for match in starts[1:]), len(text)], strict=True):
        yield Change(match[1], f"diff --git a/{match[1]} b/{match[1]}\n{text[match.start() : end]}")


def _format(mail: Mail, place: str, sender: Sender) -> str:
    signed = f"Signed-off-by: {sender.author}" if sender.signoff else ""
    message = "\n\n".join(part for part in (mail.body, signed) if part)
    return (
        f"From {'0' * 40} {_MAGIC_DATE}\n"
        f"From: {sender.author}\n"
        f"Date: {format_datetime(sender.date)}\n"
        f"Subject: [PATCH {place}] {mail.subject}\n\n"
        f"{message}\n---\n{''.join(change.diff for change in mail.changes)}-- \nvdpalab\n\n"
    )
