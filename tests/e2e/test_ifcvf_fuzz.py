"""A minute of hostile messages, rings, registers and maps for the device model. No machine is started."""

from __future__ import annotations

import pytest

from tests import ifcvf_fuzz


@pytest.mark.push
def test_the_device_model_stands_a_minute_of_fuzzing() -> None:
    assert ifcvf_fuzz.main(["--seconds", "60"]) == 0
