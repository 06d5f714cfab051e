"""What avocado learns from the lab: the options of our spawner, and that a scenario file is a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avocado.core.extension_manager import PluginPriority
from avocado.core.nrunner.runnable import Runnable
from avocado.core.plugin_interfaces import Init, Resolver
from avocado.core.resolver import ReferenceResolution, ReferenceResolutionResult
from avocado.core.settings import settings

from lab.config.request import RunRequest
from lab.config.scenario import VdpaScenario, VirtbusScenario
from lab.config.strict import read_toml
from lab.errors import InputError
from lab.jobs.runner import KIND

# A TOML file with at least this many of a scenario's required keys is meant to be one.
_TELLING_KEYS = 2


class VdpalabInit(Init):  # type: ignore[misc]  # avocado has no types
    """Registers the ``[vdpalab]`` options and makes our spawner the one that is used here."""

    name = "vdpalab"
    description = "vdpalab options"

    def initialize(self) -> None:
        """Register the options; a user's avocado.conf, read after this, still wins."""
        for key, what in (
            ("ram_mb", "MiB of RAM that all scenarios together may take; 0: what is available at the start"),
            ("cores", "cores that all scenarios together may take; 0: all of this machine"),
            ("runs", "scenarios at the same time, sharing cores; 0: as RAM and cores allow"),
        ):
            settings.register_option(section="vdpalab", key=key, default=0, key_type=int, help_msg=what)
        settings.register_option(
            section="vdpalab",
            key="until_fail",
            default=False,
            key_type=bool,
            help_msg="start nothing more after a FAIL or an ERROR",
        )
        settings.update_option("run.spawner", "vdpalab")


class ScenarioResolver(Resolver):  # type: ignore[misc]  # avocado has no types
    """Turns the path of a scenario file into a runnable."""

    name = KIND
    description = "Resolver for vDPA scenarios in TOML files"
    priority = PluginPriority.HIGH

    def resolve(self, reference: str) -> Any:
        """NOTFOUND for what is no scenario, CORRUPT with all problems for one that is wrong or impossible."""
        if not is_scenario_file(reference):
            return ReferenceResolution(reference, ReferenceResolutionResult.NOTFOUND, info="not a scenario file")
        # Imported here: `avocado --help` must not import the lab.
        from lab.topology.plan import make_plan

        try:
            plan = make_plan(RunRequest(scenario=reference))
        except InputError as error:
            return ReferenceResolution(reference, ReferenceResolutionResult.CORRUPT, info="; ".join(error.problems))
        runnable = Runnable(
            KIND,
            reference,
            identifier=plan.name,
            tags=dict.fromkeys(sorted(plan.scenario.all_tags)),
            ram_mb=plan.ram_mb,
            cores=plan.cores,
        )
        return ReferenceResolution(reference, ReferenceResolutionResult.SUCCESS, [runnable])


def is_scenario_file(reference: str) -> bool:
    """Whether a reference is a TOML file that is meant to be a scenario, right or wrong."""
    path = Path(reference)
    if path.suffix != ".toml" or not path.is_file():
        return False
    required = [
        {field.alias or name for name, field in kind.model_fields.items() if field.is_required()}
        for kind in (VdpaScenario, VirtbusScenario)
    ]
    try:
        keys = read_toml(path).keys()
        return any(len(telling & keys) >= _TELLING_KEYS for telling in required)
    except InputError:
        # Not TOML: only where scenarios live is it clear what it was meant to be.
        return path.parent.name == "scenarios"
