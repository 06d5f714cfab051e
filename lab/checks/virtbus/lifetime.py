"""Lifetime: thousands at once, every release, modules that go while somebody holds a device, leaks."""

from __future__ import annotations

from lab.checks.virtbus.bench import Bench, Seen, listed
from lab.host.kmemleak import FIND_LEAKS

MANY = 2000
# Of one device, less than any bus device: so much memory missing for each is a leak.
_LEAK_BYTES = 256
_HELD_MS = 1500

# Once to warm the allocator's caches, once to measure. KASAN keeps for a while what was freed (mm/kasan/quarantine.c):
# memory in use tells nothing there, and what is lost is for kmemleak, which looks through it all at the end of a run.
_SCALE = """
slab() {
    echo 2 >/proc/sys/vm/drop_caches
    sed -n 's/^SUnreclaim: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo
}
round() {
    load dev
    echo "alpha $1" >"$DEV/create"
    made=$(wc -l <"$DEV/devices")
    unique=$(sort -u "$DEV/devices" | wc -l)
    echo all >"$DEV/destroy"
    released "$DEV"
    counts="$(count "$DEV" created) $(count "$DEV" released)"
    unload dev
}
round "$1"
before=$(slab)
round "$1"
echo "made=$made"
echo "unique=$unique"
echo "counts=$counts"
grown=$(($(slab) - before))
if ! grep -q ' kasan_quarantine_' /proc/kallsyms; then
    echo "grown_kb=$grown"
elif [ -w "$DEBUG/kmemleak" ]; then
    echo memory=quarantined
fi
"""
_RELEASE = """
load dev drv
echo "alpha 5" >"$DEV/create"
echo "gamma 5" >"$DEV/create"
echo all >"$DEV/destroy"
tries=$((TRIES / 2))
( released "$DEV" ) || :
echo "created=$(count "$DEV" created)"
echo "released=$(count "$DEV" released)"
unload drv dev
"""
_RMMOD = """
load dev drv
echo alpha >"$DEV/create"
device=$(first)
echo "$device $1" >"$DRV/hold"
begin=$(date +%s%N)
echo all >"$DEV/destroy"
unload dev
echo "waited_ms=$((($(date +%s%N) - begin) / 1000000))"
unload drv
echo "left=$(ls /sys/module | grep -c "^vbt_" || :)"
"""
_UNLOAD = """
load dev drv
echo "alpha 3" >"$DEV/create"
echo all >"$DEV/destroy"
released "$DEV"
unload drv dev
for module in $(modinfo -F depends "$KO/vbt_test_$N.ko" | tr , ' '); do
    leave "$module" 100 && echo "gone=$module"
    if [ -e "$KO/$module.ko" ]; then insmod "$KO/$module.ko"; else modprobe "$module"; fi
done
"""
_KMEMLEAK = (
    FIND_LEAKS
    + """
echo clear >"$DEBUG/kmemleak"
load dev drv
echo "alpha 20" >"$DEV/create"
echo "gamma 20" >"$DEV/create"
echo all >"$DEV/destroy"
( released "$DEV" ) || :
unload drv dev
if found=$(find_leaks); then
    echo scanned=yes
    [ -z "$found" ] || printf '%s\\n' "$found" | sed -n '1,40s/^/leak=/p'
fi
"""
)


def scale(bench: Bench) -> Seen:
    """R10: 2000 devices at once, each with a name of its own, all released, and the memory is back."""
    seen = bench.answer(_SCALE, str(MANY), timeout_s=300)
    whole = [seen.get(key) for key in ("made", "unique", "counts")] == [str(MANY), str(MANY), f"{MANY} {MANY}"]
    limit = MANY * _LEAK_BYTES >> 10
    want = f"{MANY} made with different names, as many released, kernel memory grown by less than {limit} kB"
    if seen.get("memory") == "quarantined":
        return Seen(whole, f"{listed(seen)}: judged by `kernel memory leaks`", want)
    if whole and "grown_kb" not in seen:
        return Seen.unproven(f"{listed(seen)}: memory cannot be compared with KASAN, and there is no kmemleak", want)
    return Seen(whole and int(seen.get("grown_kb") or 1 << 30) < limit, listed(seen), want)


def release(bench: Bench) -> Seen:
    """U03: bound or not, each device that was made is released."""
    seen = bench.answer(_RELEASE)
    good = seen.get("created") == "10" and seen.get("released") == "10"
    return Seen(good, listed(seen), "as many released as created: 10")


def rmmod(bench: Bench) -> Seen:
    """U10: unloading the creator while its device is held for a moment waits, and nothing is run after it has gone."""
    seen = bench.answer(_RMMOD, str(_HELD_MS))
    good = int(seen.get("waited_ms") or 0) >= _HELD_MS * 0.9 and seen.get("left") == "0"
    return Seen(good, listed(seen), f"gone, but not before the device was let go after {_HELD_MS} ms")


def unload(bench: Bench) -> Seen:
    """R10: the bus itself goes after it has been used, without a word, and comes back."""
    gone = bench.answer(_UNLOAD).get("gone", "")
    return Seen(bool(gone), f"unloaded: {gone or 'nothing'}", "the bus is unloaded")


def kmemleak(bench: Bench) -> Seen:
    """R10: kmemleak finds nothing after devices, drivers and modules have come and gone."""
    seen = bench.answer(_KMEMLEAK, timeout_s=240)
    leaks, want = seen.get("leak", ""), "no leak in two scans"
    if "scanned" not in seen:
        return Seen.unproven("kmemleak does not scan", want)
    return Seen(not leaks, leaks or "none", want)
