"""Kernel options: the fragments in ``images/kernel/fragments``, and whether what they ask for was built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import InputError

# Documentation/kbuild/kconfig.rst; "# optional" at the end is the lab's own, see fragments/base.config.
_SET = re.compile(r"CONFIG_(?P<name>\w+)=(?P<value>\"[^\"]*\"|[^\s#]+)(?P<rest>.*)")
_UNSET = re.compile(r"# CONFIG_(?P<name>\w+) is not set(?P<rest>.*)")
_OPTIONAL = re.compile(r"\s+# optional\b.*")


@dataclass(frozen=True)
class Option:
    """One option asked for: ``name`` without ``CONFIG_``; ``value`` as in a .config, ``n`` for "is not set"."""

    name: str
    value: str
    fragment: str
    optional: bool = False

    def __str__(self) -> str:
        line = f"# CONFIG_{self.name} is not set" if self.value == "n" else f"CONFIG_{self.name}={self.value}"
        return f"{line}  # optional" if self.optional else line


def read_fragments(paths: Iterable[Path]) -> list[Option]:
    """The options of some fragments; a later one wins. Raises InputError naming every line that is none."""
    found: dict[str, Option] = {}
    problems: list[str] = []
    for path in paths:
        try:
            lines = path.read_text().splitlines()
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        for number, line in enumerate(lines, start=1):
            option = _option(line, path.name)
            if isinstance(option, Option):
                found[option.name] = option
            elif option:
                problems.append(f"{path}:{number}: {option}")
    if problems:
        raise InputError(problems)
    return list(found.values())


def all_config(options: Iterable[Option]) -> str:
    """The text for KCONFIG_ALLCONFIG: what allnoconfig shall set all the same."""
    return "".join(f"{Option(option.name, option.value, option.fragment)}\n" for option in options)


def not_stuck(options: Iterable[Option], config: str) -> list[str]:
    """One sentence per option whose value in ``config`` (a .config) is another; optional ones do not count."""
    got = {match["name"]: match["value"] for match in map(_SET.match, config.splitlines()) if match}
    return [
        f"CONFIG_{option.name}: asked for {option.value} ({option.fragment}), got {got.get(option.name, 'n')}"
        for option in options
        if not option.optional and got.get(option.name, "n") != option.value
    ]


def merge(fragments: Sequence[Sequence[Option]]) -> list[Option]:
    """Several lists of options as one; a later list wins."""
    return list({option.name: option for options in fragments for option in options}.values())


def _option(line: str, fragment: str) -> Option | str | None:
    """The option of a line; None for a comment or an empty line; a sentence when it is neither."""
    line = line.strip()
    match = _SET.fullmatch(line) or _UNSET.fullmatch(line)
    if match is None:
        return None if not line or (line.startswith("#") and "CONFIG_" not in line) else f"not an option: {line}"
    if match["rest"] and not _OPTIONAL.fullmatch(match["rest"]):
        return f"only '# optional' may follow an option: {line}"
    value = match.groupdict().get("value", "n")
    return Option(match["name"], value, fragment, optional=bool(match["rest"]))
