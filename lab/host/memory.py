"""Huge pages of a host (kernel: Documentation/admin-guide/mm/hugetlbpage.rst)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lab.errors import LabError
from lab.host.base import Host
from lab.host.shell import run_script
from lab.host.undo import undoing

_PAGE_MB = 2

# Prints how many pages of 2 MiB there are and how many of them nobody uses, after $1 more were asked for. Memory that
# is in pieces is moved together and asked for once more.
_RESERVE = """
cd /sys/kernel/mm/hugepages/hugepages-2048kB
wanted=$(($(cat nr_hugepages) + $1))
put "$wanted" nr_hugepages
if [ "$(cat nr_hugepages)" -lt "$wanted" ]; then
    put 1 /proc/sys/vm/compact_memory
    put "$wanted" nr_hugepages
fi
echo "$(cat nr_hugepages) $wanted"
"""
_RETURN = """
cd /sys/kernel/mm/hugepages/hugepages-2048kB
put $(($(cat nr_hugepages) - $1)) nr_hugepages
"""


@contextlib.contextmanager
def huge_pages(host: Host, megabytes: int) -> Iterator[None]:
    """Reserve 2 MiB pages for ``megabytes`` of memory, beside those there are, for as long as the block lasts.

    Raises LabError when the host has not enough memory in pieces of that size.
    """
    count = added = -(-megabytes // _PAGE_MB)
    with undoing(host, f"{count} huge pages", lambda: run_script(host, _RETURN, str(added))):
        have, wanted = map(int, run_script(host, _RESERVE, str(count)).text.split())
        if have < wanted:
            added = count - (wanted - have)
            raise LabError(
                f"{host.name}: {added} huge pages of 2 MiB could be had of the {count} that are "
                f"needed for {megabytes} MiB",
                hint="more memory for L1 in the site, or less for L2",
            )
        yield
