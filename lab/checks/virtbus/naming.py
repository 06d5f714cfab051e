"""Names: free again only with the last reference, and never the same for two modules."""

from __future__ import annotations

import re

from lab.checks.virtbus.api import probes
from lab.checks.virtbus.bench import Bench, Seen, listed

_HOLD = """
load dev drv
echo alpha >"$DEV/create"
device=$(first)
echo "first=$device"
echo "$device" >"$DRV/hold"
echo "$device" >"$DEV/destroy"
if echo alpha >"$DEV/create"; then
    echo "second=$(first)"
    echo all >"$DEV/destroy"
fi
echo "held=$(count "$DEV" alive)"
echo all >"$DRV/put"
released "$DEV"
echo alpha >"$DEV/create"
echo "third=$(first)"
echo all >"$DEV/destroy"
released "$DEV"
unload drv dev
"""
_TWIN = """
load dev twin drv
echo alpha >"$DEV/create"
echo alpha >"$TWIN/create"
echo "dev=$(first)"
echo "twin=$(cat "$TWIN/devices")"
sed 's/^/log=/' "$DRV/log"
unload drv twin dev
"""


def hold(bench: Bench) -> Seen:
    """R09: a device that somebody holds keeps its name; the next one gets another, and later it is free again."""
    seen = bench.answer(_HOLD)
    first, second, third = (seen.get(key, "") for key in ("first", "second", "third"))
    want = "another name while the first device is held, and a name after it is put"
    return Seen(bool(first) and bool(second) and first != second and bool(third), listed(seen), want)


def twin(bench: Bench) -> Seen:
    """R16: the same short name of two modules makes two devices, and each probe is told the entry of its own."""
    seen = bench.answer(_TWIN)
    told = probes(seen.get("log", ""))
    numbers = {key: _number(told.get(seen.get(key, ""), "")) for key in ("dev", "twin")}
    good = seen.get("dev") != seen.get("twin") and numbers == {"dev": "1", "twin": "3"}
    names = f"{seen.get('dev')} and {seen.get('twin')}"
    return Seen(good, f"{names}, probed with {listed(numbers)}", "two names, probed with driver_data 1 and 3")


def _number(what: str) -> str:
    found = re.findall(r"\b\d+\b", what)
    return found[-1] if found else "nothing"
