"""A minute of hostile messages, rings, registers and maps for the device model. No machine is started.

It runs as a process of its own: a server that never comes back ends the process that it is in.
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import pytest

from lab import proc
from tests import ifcvf_fuzz

ROOT = Path(__file__).parents[2]
SECONDS = 60
# The last case may be one that never comes back, and is told where.
TIMEOUT_S = SECONDS + ifcvf_fuzz.CASE_S + 60


def fuzz(seed: int) -> None:
    """Fuzz for a minute; what fails is told with the words that show it again."""
    argv = [sys.executable, "-m", "tests.ifcvf_fuzz", "--seed", str(seed), "--seconds", str(SECONDS)]
    done = proc.run(argv, cwd=ROOT, check=False, timeout_s=TIMEOUT_S)
    assert done.returncode == 0, f"seed {seed}\n{done.stderr.decode(errors='replace')}"
    cases = re.search(r"(\d+) cases of seed", done.text)
    assert cases, done.text
    assert int(cases[1]) > 0


@pytest.mark.push
def test_the_device_model_stands_a_minute_of_fuzzing() -> None:
    # The same cases on each machine: what fails is the fault of what has changed.
    fuzz(1)


@pytest.mark.nightly
def test_the_device_model_stands_a_minute_of_other_cases() -> None:
    seed = random.randrange(1 << 31)
    print(f"seed {seed}")
    fuzz(seed)
