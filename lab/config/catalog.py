"""The scenarios, suites and sites that configs/ holds, by name."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.config import mutant
from lab.config.scenario import Scenario, VdpaScenario, VirtbusScenario
from lab.config.site import NestedSite, SiteFile, SshSite
from lab.config.strict import Strict, read_toml, validate
from lab.errors import InputError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

_KINDS: Mapping[str, type[Scenario]] = {"vdpa": VdpaScenario, "virtbus": VirtbusScenario}


class Suite(Strict):
    """A set of scenarios. ``"*"`` stands for every scenario there is, ``"mutant-*"`` for every mutant."""

    summary: str
    scenarios: list[str]


def names(kind: str) -> list[str]:
    """Names in one folder of configs/ (``scenarios``, ``suites``, ``sites``, ``kernels``), sorted."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.toml"))


def load_scenario(name: str, overrides: Sequence[str] = ()) -> tuple[str, Scenario]:
    """Read a scenario by name or by the path of its file; return its name too. Raises InputError.

    ``mutant-NAME`` is the scenario that runs a mutant of the virtbus with the check that must catch it.
    """
    if name in mutant.mutants():
        path, data = Path(name), mutant.scenario_data(name.removeprefix(mutant.PREFIX))
    else:
        path = _path("scenarios", name)
        data = read_toml(path)
    problems = [f"--set {problem}" for item in overrides if (problem := _override(data, item))]
    where = f"{path}" if not overrides else f"{path} with --set {' '.join(overrides)}"
    try:
        scenario = _scenario(data, where)
    except InputError as error:
        raise InputError([*problems, *error.problems]) from error
    if problems:
        raise InputError(problems)
    return path.stem, scenario


def _scenario(data: Mapping[str, Any], where: str) -> Scenario:
    kind = data.get("kind", "vdpa")
    if kind not in _KINDS:
        raise InputError([f"{where}: kind: there is no {kind!r}, only {' and '.join(_KINDS)}"])
    return validate(_KINDS[kind], data, where)


def load_suite(name: str) -> Suite:
    """Read a suite; its scenarios are names that exist. Raises InputError."""
    suite = validate(Suite, read_toml(_path("suites", name)), f"suite {name}")
    every = {"*": names("scenarios"), f"{mutant.PREFIX}*": mutant.mutants()}
    if len(suite.scenarios) == 1 and suite.scenarios[0] in every:
        return suite.model_copy(update={"scenarios": every[suite.scenarios[0]]})
    unknown = sorted(set(suite.scenarios) - set(names("scenarios")))
    if unknown:
        raise InputError([f"suite {name}: unknown scenario {word!r}{_close(word, 'scenarios')}" for word in unknown])
    return suite


def load_site(name: str) -> NestedSite | SshSite:
    """Read a site by name or file. Raises InputError."""
    path = _path("sites", name)
    return validate(SiteFile, {"site": read_toml(path)}, str(path)).site


def expand(words: Sequence[str]) -> list[str]:
    """Turn what the user named (scenarios, files, suites) into scenarios, in order, each once.

    Raises InputError with every unknown name and what is spelt like it.
    """
    found: list[str] = []
    problems: list[str] = []
    for word in words:
        if word in names("suites"):
            found += load_suite(word).scenarios
        elif (
            word in names("scenarios") or word in mutant.mutants() or (word.endswith(".toml") and Path(word).is_file())
        ):
            found.append(word)
        else:
            problems.append(f"no scenario, suite or file {word!r}{_close(word, 'scenarios', 'suites')}")
    if problems:
        raise InputError(problems, hint="vdpalab list")
    return list(dict.fromkeys(found))


def _path(kind: str, name: str) -> Path:
    if name.endswith(".toml"):
        return Path(name)
    if name not in names(kind):
        raise InputError([f"no {kind[:-1]} {name!r}{_close(name, kind)}"], hint=f"vdpalab list {kind}")
    return CONFIGS / kind / f"{name}.toml"


def _close(word: str, *kinds: str) -> str:
    known = [name for kind in kinds for name in names(kind)]
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""


def _override(data: dict[str, Any], item: str) -> str:
    """Apply ``a.b.0.c=value`` to ``data``; return the problem, if any. The value is TOML, else taken as text."""
    key, equals, text = item.partition("=")
    if not equals or not key:
        return f"{item}: not of the form a.b=value"
    node: Any = data
    *path, last = key.split(".")
    for part in path:
        node = _child(node, part)
        if node is None:
            return f"{item}: there is no {part!r} to set something in"
    if isinstance(node, list):
        if not last.isdecimal() or int(last) >= len(node):
            return f"{item}: {last!r} is not an index of a list of {len(node)}"
        node[int(last)] = _value(text)
    elif isinstance(node, dict):
        node[last] = _value(text)
    else:
        return f"{item}: {key.rpartition('.')[0]!r} is a plain value"
    return ""


def _child(node: Any, part: str) -> Any:
    if isinstance(node, list):
        return node[int(part)] if part.isdecimal() and int(part) < len(node) else None
    if isinstance(node, Mapping):
        return node.setdefault(part, {}) if isinstance(node, dict) else None
    return None


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
