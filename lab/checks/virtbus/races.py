"""Races: what may happen at the same time does, for a while; lockdep, KASAN and the counters tell if that was safe."""

from __future__ import annotations

from lab.checks.virtbus.bench import Bench, Seen, listed

# Seconds of the host's clock that everything goes on side by side.
_SECONDS = 3

# Each job is a function that does one round; errors of a single write are part of the game, kernel messages are not.
_TOGETHER = """
until_over() { while [ ! -e "$KO/over" ]; do "$@" 2>/dev/null || :; rounds=$((rounds + 1)); done; echo "$1=$rounds"; }
together() {
    rm -f "$KO/over"
    for job; do rounds=0; until_over "$job" & done
    sleep "$SECONDS_TOGETHER"
    touch "$KO/over"
    wait
    rm -f "$KO/over"
}
some() { head -n 1 "$DEV/devices"; }
makes() { echo "alpha 3" >"$DEV/create"; echo all >"$DEV/destroy"; }
takes() { for device in $(cat "$DEV/devices"); do echo "$device" >"$DEV/destroy"; done; }
binds() { for way in unbind bind; do echo "$(some)" >"$BUS/drivers/$DRIVER/$way"; done; }
reads() { cat "$BUS/devices/"*/uevent "$BUS/devices/"*/modalias >/dev/null; }
pokes() {
    for node in "$BUS/devices/"*; do
        echo add >"$node/uevent"
        echo vbt >"$node/driver_override"
        echo >"$node/driver_override"
    done
}
scans() { echo "$(some)" >"$BUS/drivers_probe"; }
drives() { rmmod "vbt_drv_$N"; insmod "$KO/vbt_drv_$N.ko"; }
creates() { rmmod "vbt_dev_$N"; insmod "$KO/vbt_dev_$N.ko"; }
load dev drv
echo "alpha 3" >"$DEV/create"
BUS=$(dirname "$(dirname "$(node "$(first)")")")
DRIVER=$(basename "$(readlink "$(node "$(first)")/driver")")
SECONDS_TOGETHER=$1
"""
_END = """
load drv 2>/dev/null || :
load dev 2>/dev/null || :
echo all >"$DEV/destroy"
released "$DEV"
echo "balance=$(($(count "$DEV" created) - $(count "$DEV" released)))"
unload drv
echo "bound=$(ls -d "$BUS/devices/"*/driver 2>/dev/null | wc -l)"
unload dev
"""


def bind(bench: Bench) -> Seen:
    """R27: binding and unbinding by several writers, while the devices come and go."""
    return _judge(bench, "together binds binds makes", ("binds", "makes"))


def sysfs(bench: Bench) -> Seen:
    """R27: every attribute of devices and bus is read and written while devices come and go."""
    return _judge(bench, "together pokes reads scans makes", ("pokes", "reads", "scans", "makes"))


def create(bench: Bench) -> Seen:
    """U10: two writers make and destroy the same devices, and the driver's module comes and goes."""
    return _judge(bench, "together makes takes drives", ("makes", "takes", "drives"))


def rmmod(bench: Bench) -> Seen:
    """U10: creator and driver are unloaded and loaded, while somebody binds their devices."""
    return _judge(bench, "together creates drives binds makes", ("creates", "drives", "binds", "makes"))


def _judge(bench: Bench, what: str, jobs: tuple[str, ...]) -> Seen:
    seen = bench.answer(f"{_TOGETHER}{what}\n{_END}", str(_SECONDS), timeout_s=180)
    worked = all(any(int(count) > 0 for count in seen.get(job, "0").splitlines()) for job in jobs)
    good = worked and seen.get("balance") == "0" and seen.get("bound") == "0"
    rounds = {key: value.replace("\n", "+") for key, value in seen.items()}
    return Seen(good, listed(rounds), "every job made rounds, every device was released, and none is bound")
