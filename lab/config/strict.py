"""TOML to typed models: unknown keys are errors, and all problems of a file are told at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from lab.errors import InputError


class Strict(BaseModel):
    """Base of every configuration type: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


M = TypeVar("M", bound=Strict)


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


# A regular expression of the re module, kept as it is written.
Regex = Annotated[str, AfterValidator(_regular_expression)]


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file. Raises InputError naming file and line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError([f"{path}: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError([f"{path}: not TOML: {error}"]) from error


def validate(model: type[M], data: Mapping[str, Any], where: str) -> M:
    """Make a model of ``data``. Raises InputError with every problem as ``where: key: what``."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InputError([_problem(where, item, data) for item in error.errors()]) from error


def _problem(where: str, item: Any, data: Any) -> str:
    key = ".".join(_written(item["loc"], data)) or "(top)"
    if item["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown key"
    return f"{where}: {key}: {item['msg'].removeprefix('Value error, ')}"


def _written(loc: Sequence[int | str], data: Any) -> list[str]:
    """The keys of ``loc`` as the user wrote them: pydantic also names which member of a union it took."""
    keys = []
    for number, part in enumerate(loc):
        # The last one may well be missing: that is then the problem.
        if isinstance(data, Mapping) and part not in data and number < len(loc) - 1:
            continue
        keys.append(str(part))
        try:
            data = data[part]
        except (LookupError, TypeError):
            data = None
    return keys
