"""The keys of every configuration file, as a Markdown page made from the types: `vdpalab show keys`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from lab.config.catalog import Suite
from lab.config.finding import Finding
from lab.config.kernel import KernelConfig
from lab.config.matrix import Exclusion
from lab.config.requirement import Requirement
from lab.config.scenario import Scenario
from lab.config.site import Site

Schema = Mapping[str, Any]

_HEAD = """# Configuration keys

Made from the types in `lab/config` by `./vdpalab show keys >docs/reference.md`; a unit test holds it up to date.
Unknown keys are errors. A key without a default must be given.
"""
_FILES: tuple[tuple[str, str, Any], ...] = (
    ("A scenario", "configs/scenarios/NAME.toml, or any file", Scenario),
    ("A suite", "configs/suites/NAME.toml", Suite),
    ("A site", "configs/sites/NAME.toml, or any file", Site),
    ("A kernel", "configs/kernels/NAME.toml", KernelConfig),
    ("A finding", "configs/findings/Fnnn.toml", Finding),
    ("A requirement", "[[requirement]] in configs/virtbus.toml", Requirement),
    ("An exclusion", "[[exclude]] in configs/matrix.toml", Exclusion),
)


def markdown() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(line for file in _FILES for line in _file(*file))]) + "\n"


def _file(title: str, where: str, model: Any) -> Iterator[str]:
    schema = TypeAdapter(model).json_schema(by_alias=True)
    defined: dict[str, Schema] = schema.get("$defs", {})
    yield from (f"## {title}", "", f"`{where}`", "")
    if "properties" in schema:
        yield from _table(schema, defined)
    for name, part in defined.items():
        if "properties" in part:
            yield from (f"### {_words(name)}", "")
            yield from _table(part, defined)


def _table(part: Schema, defined: Mapping[str, Schema]) -> Iterator[str]:
    yield from (" ".join(part.get("description", "").split()), "", "| key | value | default | |", "|---|---|---|---|")
    for key, about in part["properties"].items():
        default = "" if key in part.get("required", ()) else _default(about.get("default"))
        yield f"| `{key}` | {_type(about, defined)} | {default} | {about.get('description', '')} |"
    yield ""


def _default(value: Any) -> str:
    if value is None:
        return "none"
    return "its own" if isinstance(value, dict) else f"`{json.dumps(value)}`"


def _type(about: Schema, defined: Mapping[str, Schema]) -> str:
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        if "enum" in defined[name]:
            return _type(defined[name], defined)
        return f"[{_words(name)}](#{_words(name).replace(' ', '-')})"
    for union in ("anyOf", "oneOf"):
        if union in about:
            members = [_type(member, defined) for member in about[union] if member.get("type") != "null"]
            return " or ".join(members)
    if "const" in about or "enum" in about:
        return ", ".join(f"`{value}`" for value in about.get("enum", [about.get("const")]))
    if about.get("type") == "array":
        return f"list of {_type(about['items'], defined)}" if "items" in about else "list"
    return " ".join(filter(None, [about.get("format") or about.get("type", "anything"), _limits(about)]))


def _limits(about: Schema) -> str:
    words = {"minimum": ">= {}", "exclusiveMinimum": "> {}", "maximum": "<= {}", "minLength": "of >= {} characters"}
    found = [text.format(f"{about[key]:g}") for key, text in words.items() if key in about]
    pattern = str(about.get("pattern", "")).replace("|", "\\|")
    return ", ".join([*found, *([f"`{pattern}`"] if pattern else [])])


def _words(name: str) -> str:
    """``Iperf3Stream`` as ``iperf3 stream``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
