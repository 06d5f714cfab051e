"""lab.config.request: what the process that executes a run is told is what the user asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from lab.config.request import ArtifactOptions, RunRequest


@pytest.mark.parametrize("virtbus", [None, "none", Path("/series")])
def test_a_request_survives_its_way_as_json(virtbus: Path | Literal["none"] | None) -> None:
    options = ArtifactOptions(
        kernel="debug", patches=(Path("/a.patch"), Path("/b.patch")), virtbus=virtbus, qemu_l0=Path("/q")
    )
    request = RunRequest(
        scenario="x", overrides=("a.b=1", "c=d e"), artifacts=options, accel="tcg", keep="on-fail", stop_at="attach"
    )
    assert RunRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize("text", ["{}", '{"scenario": "x", "keep": "maybe"}', '{"scenario": "x", "colour": 1}', "x"])
def test_what_is_no_request(text: str) -> None:
    with pytest.raises(ValidationError):
        RunRequest.model_validate_json(text)
