"""The two ends that an attachment offers to a workload: a network interface or a block device on some host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lab.host.base import Host


@dataclass(frozen=True)
class NetEnd:
    """A configured interface: ``address`` is IPv4 without prefix; ``netns`` the namespace of ``host`` it lives in."""

    host: Host
    interface: str
    address: str
    netns: str | None = None

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The same command, run where the interface is."""
        return ["ip", "netns", "exec", self.netns, *argv] if self.netns else list(argv)


@dataclass(frozen=True)
class BlockEnd:
    """A block device node such as ``/dev/vdb`` with its size in bytes."""

    host: Host
    device: str
    size: int
