"""Power: the order of callbacks in a suspend-to-idle that is cut short before the last step, and in a reboot.

Source: the kernel's Documentation/power/basic-pm-debugging.rst.
"""

from __future__ import annotations

from lab.checks.virtbus.bench import Bench, Seen, events, in_order

# Everything suspends and resumes, and the processors go on. One after the other, so that the order is the core's.
_FREEZE = """
freeze() {
    async=$(cat /sys/power/pm_async) delay=$(cat /sys/module/suspend/parameters/pm_test_delay)
    echo 0 >/sys/power/pm_async
    echo 1 >/sys/power/pm_print_times
    echo devices >/sys/power/pm_test
    echo 1 >/sys/module/suspend/parameters/pm_test_delay
    echo freeze >/sys/power/state && echo "froze=yes"
    echo 0 >/sys/power/pm_print_times
    echo none >/sys/power/pm_test
    echo "$async" >/sys/power/pm_async
    echo "$delay" >/sys/module/suspend/parameters/pm_test_delay
}
"""
# One device that is bound and one that is not, and what they are called.
PREPARE = """
load dev drv
echo alpha >"$DEV/create"
echo gamma >"$DEV/create"
for device in $(cat "$DEV/devices"); do
    if [ -e "$(node "$device")/driver" ]; then echo "bound=$device"; else echo "free=$device"; fi
done
echo "parent=$(basename "$(dirname "$(readlink -f "$(node "$(first)")")")")"
"""
_CYCLE = (
    _FREEZE
    + PREPARE
    + """
echo >"$DRV/log"
echo >"$DEV/log"
freeze
cat "$DRV/log" "$DEV/log" | sed 's/^/log=/'
unload drv dev
"""
)
_BARE = (
    _FREEZE
    + """
load dev
echo "alpha 2" >"$DEV/create"
freeze
echo "devices=$(wc -l <"$DEV/devices")"
unload dev
"""
)


def freeze(bench: Bench) -> Seen:
    """R18: the device before its parent on the way down, after it on the way up."""
    seen = bench.once("cycle", _CYCLE, timeout_s=180)
    log, pair = events(seen.get("log", "")), _pair(seen)
    down, up = in_order(log, "suspend", pair), in_order(log, "resume", pair)
    good = "froze" in seen and down == pair and up == pair[::-1]
    want = f"suspended {_arrow(pair)}; resumed {_arrow(pair[::-1])}"
    return Seen(good, f"suspended {_arrow(down)}; resumed {_arrow(up)}", want)


def once(bench: Bench) -> Seen:
    """R19: one suspend and one resume for each cycle."""
    seen = bench.once("cycle", _CYCLE, timeout_s=180)
    mine = [event.what.split()[0] for event in events(seen.get("log", "")) if event.who == seen.get("bound", "")]
    return Seen(sorted(mine) == ["resume", "suspend"], f"called: {', '.join(mine) or 'nothing'}", "suspend, resume")


def bare(bench: Bench) -> Seen:
    """U01: devices without a driver go through the cycle."""
    seen = bench.answer(_BARE, timeout_s=180)
    good = "froze" in seen and seen.get("devices") == "2"
    return Seen(
        good, "froze and came back" if "froze" in seen else "did not freeze", "a whole cycle, 2 devices after it"
    )


def shutdown_order(console: str, prepared: dict[str, str]) -> Seen:
    """R18: on the console of a machine that reboots, the device's callback comes before its parent's."""
    pair = _pair(prepared)
    order = in_order(events(console), "shutdown", pair)
    return Seen(order == pair, f"shut down {_arrow(order)}", f"shut down {_arrow(pair)}")


def _pair(seen: dict[str, str]) -> list[str]:
    """The bound device and its parent."""
    return [seen.get("bound", ""), seen.get("parent", "")]


def _arrow(names: list[str]) -> str:
    return " → ".join(names) or "nobody"
