"""From a configuration to a running server, and down again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

from lab.ifcvf.blk import BlkDevice
from lab.ifcvf.config import Config, VfConfig
from lab.ifcvf.control import Control
from lab.ifcvf.disk import file_disk, memory_disk
from lab.ifcvf.faults import Faults
from lab.ifcvf.loop import Loop
from lab.ifcvf.net import Link, NetDevice
from lab.ifcvf.ports import Datagrams, Nowhere, Stream, Switch, Tap
from lab.ifcvf.vf import Vf


@contextlib.contextmanager
def server(config: Config, loop: Loop) -> Iterator[dict[str, Vf]]:
    """All VFs and the control socket, listening, for as long as the block lasts.

    Raises OSError for what cannot be made; then nothing is left of the rest.
    """
    with contextlib.ExitStack() as stack:
        switches: dict[str, Switch] = {}
        vfs: dict[str, Vf] = {}
        for entry in config.vfs:
            vf = vfs[entry.name] = _make(entry, loop, switches, stack)
            vf.listen()
            stack.callback(vf.close)
            for name, values in entry.faults.items():
                vf.switch_fault(name, values)
        if config.control is not None:
            control = Control(loop, config.control, vfs, lambda: setattr(loop, "stopped", True))
            control.listen()
            stack.callback(control.close)
        yield vfs


def run(config: Config, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM, SIGINT or ``shutdown``; ``say`` gets the line that tells that everything listens."""
    loop = Loop()
    with contextlib.closing(loop), _signals(loop), server(config, loop) as vfs:
        sockets = {name: vf.config.socket for name, vf in vfs.items()}
        say(json.dumps({"ready": True, "pid": os.getpid(), "control": config.control, "vfs": sockets}))
        loop.run()


@contextlib.contextmanager
def _signals(loop: Loop) -> Iterator[None]:
    """SIGTERM and SIGINT end the loop in order: the handler only wakes it."""
    ours, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    before = signal.set_wakeup_fd(wakeup.fileno())
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    loop.watch(ours.fileno(), lambda: setattr(loop, "stopped", True))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        loop.forget(ours.fileno())
        ours.close()
        wakeup.close()


def _make(entry: VfConfig, loop: Loop, switches: dict[str, Switch], stack: contextlib.ExitStack) -> Vf:
    faults = Faults()
    features = entry.all_features if entry.features is None else entry.features
    if entry.is_net:
        net = NetDevice(entry.mac, entry.mtu, entry.pairs, features, faults)
        vf = Vf(entry, loop, net, faults)
        net.connect(vf.transport, _link(dict(entry.backend), loop, net, switches, stack))
        return vf
    backend = entry.backend
    if backend["kind"] == "memory":
        disk = memory_disk(backend["size"])
    else:
        disk = file_disk(backend["path"], backend.get("read_only", False))
    stack.callback(disk.close)
    blk = BlkDevice(disk, entry.serial.encode(), entry.queues, entry.queue_size, features, faults)
    return Vf(entry, loop, blk, faults)


def _link(
    backend: dict[str, Any], loop: Loop, net: NetDevice, switches: dict[str, Switch], stack: contextlib.ExitStack
) -> Link:
    kind, vnet_hdr = backend["kind"], backend.get("vnet_hdr", True)
    if kind == "switch":
        switch = switches.setdefault(backend["name"], Switch())
        switch.attach(net)
        return switch
    if kind == "none":
        return Nowhere()
    port: Datagrams | Stream | Tap
    if kind == "dgram":
        port = Datagrams(loop, net, backend["local"], backend["remote"], vnet_hdr)
    elif kind == "stream":
        listens = "listen" in backend
        port = Stream(loop, net, backend["listen" if listens else "connect"], listens, vnet_hdr)
    else:
        port = Tap(loop, net, backend["ifname"])
    stack.callback(port.close)
    return port
