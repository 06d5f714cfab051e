"""Whether QEMU itself has lost a guest's buffers on the way from the guest's queues to the device's."""

from __future__ import annotations

from collections.abc import Mapping

from lab.model import Check, Level, Verdict

# The queue that matters: the first one in which a guest's own data waits.
_TRANSMIT = 1


def judge(held: Mapping[int, int], *, machine: str) -> Check:
    """Judge how many buffers QEMU had taken from each of a stopped device's queues and not given back (``inuse``).

    Whoever stops a device gives its buffers back used, or as if they had never been taken (hw/virtio/virtio.c). A guest
    waits for all others for ever, and so does the socket that sent what is in them.
    """
    expected = "a QEMU whose guest has left holds none of its buffers"
    if _TRANSMIT not in held:
        return Check("buffers given back", Verdict.SKIP, "QEMU does not tell of its queues", expected, machine=machine)
    lost = [f"{number} buffers of queue {queue}" for queue, number in sorted(held.items()) if number]
    seen = f"QEMU has lost {', '.join(lost)}" if lost else f"all, of {len(held)} queues"
    return Check.judged(
        "buffers given back", not lost, seen, expected, level=Level.L1_QEMU, machine=machine,
    )  # fmt: skip
