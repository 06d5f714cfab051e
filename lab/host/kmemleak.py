"""Letting a host's kernel look for memory that nobody refers to any more.

Kernel: Documentation/dev-tools/kmemleak.rst; mm/kmemleak.c for how old an object must be.
"""

from __future__ import annotations

# A function for scripts: prints what kmemleak finds, and ends with status 1 on a kernel that has none, or whose
# kmemleak has given up and refuses to scan; also where it is called by `if`, which suspends `set -e`. An object is
# reported when it was 5 s old as a scan began, and never by the first that sees it, which only takes its checksum.
# Memory that is on its way somewhere during the first scan is found by the second.
FIND_LEAKS = """
uptime_s() { read -r up _ </proc/uptime; echo "${up%%.*}"; }
find_leaks() {
    [ -w /sys/kernel/debug/kmemleak ] || return 1
    old_enough=$(($(uptime_s) + 6))
    echo scan >/sys/kernel/debug/kmemleak || return 1
    while [ "$(uptime_s)" -lt "$old_enough" ]; do sleep 0.1; done
    echo scan >/sys/kernel/debug/kmemleak || return 1
    cat /sys/kernel/debug/kmemleak
}
"""
