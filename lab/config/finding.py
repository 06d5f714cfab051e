"""A known finding: a fault of a kernel or a QEMU that has been understood and reported, with its reproducer."""

from __future__ import annotations

from pydantic import Field

from lab.config.catalog import CONFIGS, names
from lab.config.strict import Regex, Strict, read_toml, validate
from lab.errors import InputError
from lab.model import Level


class Finding(Strict):
    """One file of configs/findings, named like its id.

    ``kernel`` and ``qemu`` are regular expressions on the release under test; a run in ``scenarios`` that does not
    show the finding although the versions match says that it is no longer there.
    """

    id: str = Field(pattern=r"^F\d{3}$")
    summary: str
    level: Level
    pattern: Regex
    kernel: Regex = ".*"
    qemu: Regex = ".*"
    scenarios: list[str] = []
    elsewhere: bool = Field(True, description="false: it explains nothing in a run that is not in `scenarios`")
    consequence: Regex | None = Field(
        None, description="what else fails by it, at the same level: explained in a run that shows the finding itself"
    )
    sporadic: bool = Field(False, description="true: a run in `scenarios` may be without it")
    reproducer: str


def load_findings() -> list[Finding]:
    """Every known finding. Raises InputError, also for a file of another name and a scenario that there is not."""
    files = sorted((CONFIGS / "findings").glob("*.toml"))
    found = {path: validate(Finding, read_toml(path), str(path)) for path in files}
    problems = [f"{path}: id: it says {finding.id}" for path, finding in found.items() if finding.id != path.stem]
    problems += [
        f"{path}: scenarios: there is no {name!r}"
        for path, finding in found.items()
        for name in finding.scenarios
        if name not in names("scenarios")
    ]
    if problems:
        raise InputError(problems)
    return list(found.values())
