"""Mutants: small patches that put one known flaw into the lab's virtbus, each with the check that must catch it.

A file of images/kernel/virtbus/mutants begins with what is wrong, and lines ``Check:``, ``Kernel:`` and ``Expect:``,
which may list several kinds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lab.config.strict import Strict, validate
from lab.errors import InputError

MUTANTS = Path(__file__).resolve().parents[2] / "images" / "kernel" / "virtbus" / "mutants"
PREFIX = "mutant-"
# Changes to a mutant's scenario: all that a running kernel can be asked, instead of its one check.
EVERY_CHECK = ("only=[]",)
# What a running kernel is asked; the topic build is the rest.
_RUNNING = ("api", "naming", "lifetime", "errors", "races", "pm")

_FIELD = re.compile(r"^(Check|Kernel|Expect):\s*(.*?)\s*$", re.MULTILINE)
_DIFF = re.compile(r"^(?:diff --git |--- )", re.MULTILINE)

Kind = Literal["not ok", "oops", "KASAN", "kmemleak", "lockdep", "warning", "build", "static"]


def _listed(text: Any) -> Any:
    return [word.strip() for word in text.split(",")] if isinstance(text, str) else text


class Mutant(Strict):
    """One mutant. ``what`` is wrong with it; ``check`` must catch it on ``kernel``, by one of the kinds in ``expect``.

    A header with ``not ok`` means any failure of the check.
    """

    name: str
    what: Annotated[str, Field(min_length=10)]
    check: str = Field(pattern=r"^[RU]\d{2}(\.[a-z]+|/[a-z][a-z0-9-]*)?$")
    kernel: Literal["default", "debug"]
    expect: Annotated[tuple[Kind, ...], BeforeValidator(_listed)]


def mutants() -> list[str]:
    """Names of all mutants, as scenarios are called that run them: ``mutant-ID-slug``."""
    return sorted(f"{PREFIX}{path.stem}" for path in MUTANTS.glob("*.patch"))


def load_mutant(name: str) -> Mutant:
    """Read one; ``name`` is the file's, without its ending. Raises InputError with all problems."""
    path = MUTANTS / f"{name}.patch"
    try:
        return parse(name, path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError([f"mutant {name}: {path} cannot be read: {error}"]) from error


def parse(name: str, text: str, where: str) -> Mutant:
    """The mutant of a patch's text. Raises InputError with all problems."""
    diff = _DIFF.search(text)
    if diff is None:
        raise InputError([f"{where}: holds no patch"])
    header = text[: diff.start()]
    fields: dict[str, Any] = {key.lower(): value for key, value in _FIELD.findall(header)}
    what = " ".join(_FIELD.sub("", header).split())
    return validate(Mutant, {"name": name, "what": what, **fields}, where)


def scenario_data(name: str) -> dict[str, Any]:
    """The content of the scenario that runs a mutant with its check, as its file would have it. Raises InputError."""
    mutant = load_mutant(name)
    return {
        "kind": "virtbus",
        "summary": mutant.what[:200],
        "mutant": mutant.name,
        "topics": ["build"] if {"build", "static"} & set(mutant.expect) else list(_RUNNING),
        "only": [mutant.check.partition(".")[0]],
        "kernel": mutant.kernel,
        "expect": [
            # What R08 provokes; a mutant that makes it say more is caught by the check, not by this line.
            {"level": "l1-kernel", "pattern": "sysfs: cannot create duplicate filename", "required": False}
        ],
    }
