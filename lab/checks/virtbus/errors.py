"""Error paths: one allocation after the other fails until making a device succeeds (fault-injection.rst).

Only the writing process meets failures: by ``/proc/self/fail-nth``, or by failslab for tasks that ask for it. And the
tests' own: that they can fail.
"""

from __future__ import annotations

from lab.checks import ktap, splats
from lab.checks.virtbus.bench import Bench, Seen, listed

# More allocations than making a device can take.
_MOST = 300
_LOOPS = 60

# Silent: a back trace for each failure would fill the log, and be taken for a fault.
_SETUP = """
for knob in "$DEBUG"/failslab "$DEBUG"/fail_page_alloc; do
    [ -d "$knob" ] || continue
    echo 0 >"$knob/verbose"
    echo N >"$knob/ignore-gfp-wait"
    echo 0 >"$knob/probability"
done
load dev drv
"""
_END = """
echo all >"$DEV/destroy"
released "$DEV"
echo "alive=$(count "$DEV" alive)"
echo "balance=$(($(count "$DEV" created) - $(count "$DEV" released)))"
unload drv dev
"""
# perl opens the files first, so that only the write to `create` meets the failure. Prints done=N with the first N that
# was not reached.
_NTH = (
    _SETUP
    + """
perl -e '
    my ($create, $most) = @ARGV;
    for my $nth (1 .. $most) {
        open(my $make, ">", $create) or die "create: $!\\n";
        open(my $fail, "+<", "/proc/self/fail-nth") or die "fail-nth: $!\\n";
        syswrite($fail, $nth);
        my $made = syswrite($make, "alpha\\n");
        my $error = $made ? 0 : $! + 0;
        sysseek($fail, 0, 0);
        sysread($fail, my $left, 32);
        syswrite($fail, "0");
        $errors{$error}++;
        if ($left + 0 > 0) { print "done=$nth\\n"; last; }
    }
    print "errors=", join(" ", map { "$_:$errors{$_}" } sort keys %errors), "\\n";
' "$DEV/create" "$1"
"""
    + _END
)
_FAILSLAB = (
    _SETUP
    + """
echo Y >"$DEBUG/failslab/task-filter"
echo -1 >"$DEBUG/failslab/times"
echo 5 >"$DEBUG/failslab/probability"
perl -e '
    my ($create, $loops) = @ARGV;
    open(my $make, ">", $create) or die "create: $!\\n";
    open(my $ask, ">", "/proc/self/make-it-fail") or die "make-it-fail: $!\\n";
    syswrite($ask, "1");
    for (1 .. $loops) { $errors{syswrite($make, "alpha\\n") ? 0 : $! + 0}++; }
    syswrite($ask, "0");
    print "errors=", join(" ", map { "$_:$errors{$_}" } sort keys %errors), "\\n";
' "$DEV/create" "$1"
echo 0 >"$DEBUG/failslab/probability"
"""
    + _END
)
_ENOMEM = "12"

# Tests that fail on purpose: by their answer, and by not ending within their second, but within five.
# After one that has lost a device the module is still there for good, and nothing can be said; else an rmmod may not
# have come to its end yet.
_CAN_FAIL = """
leave "vbt_test_$N" 150 || { echo "stays=vbt_test_$N"; exit 0; }
echo "vbt: can fail $N" >/dev/kmsg
insmod "$KO/vbt_test_$N.ko" only=X01,X03 limit=1
rmmod "vbt_test_$N" 2>/dev/null || echo "kept=yes"
dmesg | sed -n "/vbt: can fail $N/,\\$p" | sed 's/^/log=/'
leave "vbt_test_$N" 100 && echo "gone=yes"
"""


def fail_nth(bench: Bench) -> Seen:
    """R07: the first allocation fails, the second, and so on until none is left; nothing stays behind."""
    seen = bench.answer(_NTH, str(_MOST), timeout_s=240)
    want = "until success: -ENOMEM or success each time, and no device left"
    return Seen("done" in seen and _clean(seen), listed(seen), want)


def failslab(bench: Bench) -> Seen:
    """R07: allocations fail by chance; each create succeeds or says -ENOMEM, and nothing stays behind."""
    seen = bench.answer(_FAILSLAB, str(_LOOPS), timeout_s=240)
    return Seen(_clean(seen), listed(seen), "-ENOMEM sometimes, success sometimes, and no device left")


def can_fail(bench: Bench) -> Seen:
    """R26: a wrong answer is seen, and so is a test that does not end; the code of that one stays until it has."""
    seen = bench.answer(_CAN_FAIL)
    wanted = {"X01": "not ok", "X03": "not ok", "module": "kept yes, gone yes"}
    if stays := seen.get("stays"):
        words = f"{stays} cannot be loaded once more: a test that failed has left it"
        return Seen.unproven(words, listed(wanted))
    report = ktap.parse(splats.read(seen.get("log", "")), "vbt_test")
    answers = {point.id: "ok" if point.ok else "not ok" for point in report.points}
    answers["module"] = f"kept {seen.get('kept', 'no')}, gone {seen.get('gone', 'no')}"
    words = "; ".join([listed(answers), *report.problems])
    return Seen(answers == wanted and not report.problems, words, listed(wanted))


def _clean(seen: dict[str, str]) -> bool:
    errors = {item.partition(":")[0] for item in seen.get("errors", "").split()}
    return errors == {"0", _ENOMEM} and seen.get("alive") == "0" and seen.get("balance") == "0"
