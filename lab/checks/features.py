"""The virtio features that were negotiated, as the kernel tells them and as the device has them."""

from __future__ import annotations

from lab.model import Check, Level

_WORD = (1 << 32) - 1


def judge(told: int | None, negotiated: int | None, *, machine: str) -> Check:
    """Hold ``told`` (the bits of `vdpa dev config show`) against what the device itself says was ``negotiated``.

    ERROR when either could not be read, or nothing has been negotiated.
    """
    name, expected = "negotiated features", "what the device has negotiated"
    if told is None or not negotiated:
        return Check.unproven(name, f"told {told}, negotiated {negotiated}", expected, machine=machine)
    high = negotiated >> 32
    twice = told & _WORD == told >> 32 == high != negotiated & _WORD
    seen = f"`vdpa dev config show` says {told:#x}, the device {negotiated:#x}" + (
        ": the high word twice" if twice else ""
    )
    return Check.judged(name, told == negotiated, seen, expected, level=Level.L1_KERNEL, machine=machine)


def judge_left_out(negotiated: int | None, unwanted: int, *, machine: str) -> Check:
    """Hold what the device says was ``negotiated`` against bits that it was told not to offer. ERROR as above."""
    name, expected = "features left out", f"none of {unwanted:#x}"
    if not negotiated:
        return Check.unproven(name, f"negotiated {negotiated}", expected, machine=machine)
    there = negotiated & unwanted
    seen = f"{there:#x} was negotiated all the same" if there else f"none, of {negotiated:#x}"
    return Check.judged(name, not there, seen, expected, level=Level.L1_KERNEL, machine=machine)
