"""A known finding: a fault of a kernel or a QEMU that has been understood and reported, with its reproducer."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from lab.config.catalog import CONFIGS
from lab.config.strict import Strict, read_toml, validate
from lab.model import Level


class Finding(Strict):
    """One file of configs/findings, named like its id.

    ``kernel`` and ``qemu`` are regular expressions on the release under test; a run in ``scenarios`` that does not
    show the finding although the versions match says that it is no longer there.
    """

    id: str = Field(pattern=r"^F\d{3}$")
    summary: str
    level: Level
    pattern: str
    kernel: str = ".*"
    qemu: str = ".*"
    scenarios: list[str] = []
    reproducer: str

    @field_validator("pattern", "kernel", "qemu")
    @classmethod
    def _compiles(cls, value: str) -> str:
        re.compile(value)
        return value


def load_findings() -> list[Finding]:
    """Every known finding. Raises InputError."""
    files = sorted((CONFIGS / "findings").glob("*.toml"))
    return [validate(Finding, read_toml(path), str(path)) for path in files]
