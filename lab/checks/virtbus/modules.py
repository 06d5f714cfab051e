"""Which modules are loaded, by their build ids, and running the kernel's own tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lab.artifacts.buildid import build_id_of_notes
from lab.checks.virtbus.bench import Bench
from lab.model import Check, Level, Verdict

_HEX = """
hex() { od -An -v -tx1 "/sys/module/$1/notes/.note.gnu.build-id" | tr -d ' \\n'; }
"""
# Loads what the tests' module needs, from beside it or else from the kernel's own modules.
_LOAD_BUS = (
    _HEX
    + """
for module in $(modinfo -F depends "$KO/vbt_test_$N.ko" | tr , ' '); do
    file=$KO/$module.ko
    if [ ! -e "$file" ]; then
        file=$(modinfo -n "$module")
        modprobe "$module"
    elif [ ! -e "/sys/module/$module" ]; then
        insmod "$file"
    fi
    echo "$module=$(hex "$module") $file"
done
"""
)
_RUN_TESTS = (
    _HEX
    + """
# Where allocations can be made to fail: all of them, and without a back trace for each.
for knob in "$DEBUG"/failslab "$DEBUG"/fail_page_alloc; do
    [ ! -d "$knob" ] || { echo 0 >"$knob/verbose"; echo N >"$knob/ignore-gfp-wait"; }
done
insmod "$KO/vbt_test_$N.ko" only="$1" limit="$2"
echo "notes=$(hex "vbt_test_$N")"
# One of whose tests failed may have lost devices, and then it never goes.
case $(dmesg | grep '# vbt_test: ' | tail -n 1) in
    *' 0 failed,'*) leave "vbt_test_$N" 50 || : ;;
    *) leave "vbt_test_$N" 2 || : ;;
esac
"""
)


@dataclass(frozen=True)
class Loaded:
    """A module in the kernel: its build id (empty: it shows none), and the file on the host that it came from."""

    module: str
    build_id: str
    file: str


def load_bus(bench: Bench) -> list[Loaded]:
    """Load the modules that the adapter's modules need. Raises CommandError when the kernel refuses one."""
    answer = bench.answer(_LOAD_BUS)
    return [_loaded(module, *words.rsplit(" ", 1)) for module, words in answer.items()]


def run_tests(bench: Bench, ids: Sequence[str], *, test_s: float, timeout_s: float) -> Loaded:
    """Load the tests' module, which runs the tests of these ids, and unload it.

    A test that takes longer than ``test_s`` is failed by the kernel, which goes on with the next one; in ``timeout_s``
    all must be over. Both are seconds on the reference machine.
    """
    module = f"vbt_test_{bench.adapter}"
    limit = str(math.ceil(test_s * bench.host.slowness))
    notes = bench.answer(_RUN_TESTS, ",".join(ids), limit, timeout_s=timeout_s).get("notes", "")
    return _loaded(module, notes, f"{bench.folder}/{module}.ko")


def judge(name: str, loaded: Loaded, built: str) -> Check:
    """The module in the kernel is the one that was built: it has the build id ``built``. That is a proof."""
    want = f"build id {built}, which the file has that was built"
    if not loaded.build_id:
        return Check.unproven(name, "the kernel shows no build id of it", want, machine="l1", proof=True)
    if loaded.build_id != built:
        seen = f"another module is loaded: build id {loaded.build_id}"
        return Check(name, Verdict.ERROR, seen, want, Level.LAB, "l1", proof=True)
    return Check(name, Verdict.PASS, f"build id {loaded.build_id}", want, machine="l1", proof=True)


def _loaded(module: str, notes: str, file: str) -> Loaded:
    return Loaded(module, build_id_of_notes(bytes.fromhex(notes)), file)
