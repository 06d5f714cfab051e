"""Fuzz the device model: hostile messages, rings, registers and maps, for a number of seconds.

    python -m tests.ifcvf_fuzz --seconds 60
    python -m tests.ifcvf_fuzz --seed 7 --first 123 --cases 1     # one case again

A case is a server with two network VFs and a disk, and a client that does what a case's own random numbers say. What
has to hold: no exception comes out of the server, no step of it takes long, nothing in the client's file changes where
it was not given to the device for writing, no descriptor is left, and afterwards a well-behaved driver is served.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import os
import random
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lab.ifcvf import faults, wire
from lab.ifcvf.faults import FAULTS
from lab.ifcvf.net import NetDevice
from lab.ifcvf.wire import HEADER, Command, Flag
from tests.ifcvf_client import (
    DISK,
    NEEDS_RESET,
    PAGE,
    VF0,
    VF1,
    Bench,
    Client,
    Closed,
    Driver,
    DriverQueue,
    ErrorReply,
    Memory,
    bench,
)

OPERATIONS = 60
# One step of the server's loop, on a machine that does other things too.
STEP_S = 20
CASE_S = 300

# Pages of the file are given to the device in this pattern, over and over; "no" pages are never given.
PATTERN = ("write", "write", "write", "read", "no", "write", "write", "no")
RUNS = ((0, "write", 3), (3, "read", 1), (5, "write", 2))
SIZE = 64 * len(PATTERN) * PAGE // 2

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 12, 15, 16, 17, 63, 64, 255, 256, 1023, 1024, 1025, 4095, 4096, 65535, 1 << 31)
DEADLY = {"death"}


class Violation(Exception):
    """Something that has to hold does not."""


class Case:
    """One client and its random numbers."""

    def __init__(self, made: Bench, rng: random.Random):
        self.made = made
        self.rng = rng
        self.memory = Memory(SIZE)
        self.name = rng.choice(("vf0", "vf1", "disk0"))
        self.driver: Driver
        self.client: Client
        os.pwrite(self.memory.fd, rng.randbytes(PAGE) * (SIZE // PAGE), 0)
        self.connect()

    def connect(self) -> None:
        """A client that has said what it must, has given its memory, and may have started the device."""
        self.client = self.made.client(self.name)
        self.memory.next = self.memory.base
        for page, kind, pages in RUNS:
            for at in range(page * PAGE, SIZE, len(PATTERN) * PAGE):
                self.client.map(self.memory.fd, at, self.memory.base + at, pages * PAGE, 3 if kind == "write" else 1)
        self.client.pump = self.pump
        self.driver = Driver(self.client, self.memory)
        with contextlib.suppress(AssertionError, ErrorReply):
            if self.rng.random() < 0.8:
                self.start()

    def pump(self) -> None:
        """Let the server do what there is to do, and see what it does meanwhile, when nobody else does anything."""
        before = _untouchable(self.memory)
        with _watchdog():
            self.made.pump()
        self.check(before)

    def check(self, before: int) -> None:
        """Compare what the device may not write with what it was."""
        if _untouchable(self.memory) != before:
            raise Violation("the device wrote where it may not")

    def start(self) -> None:
        """Bring the device up with small rings, each in a writable run of pages."""
        driver = self.driver
        driver.set_status(0)
        driver.accept(driver.offered if self.rng.random() < 0.8 else driver.offered & ~(1 << 29 | 1 << 15))
        driver.set_status(11)
        number = driver.common(0x12, 2)
        driver.arm(number + 1)
        driver.queues = []
        for index in range(number):
            self.memory.next = self.memory.base + (8 * index + (0 if self.rng.random() < 0.9 else 3)) * PAGE
            queue = DriverQueue(self.memory, index, self.rng.choice((8, 64)), bool(self.rng.getrandbits(1)))
            driver.place(queue, vector=index)
            driver.queues.append(queue)
        driver.set_status(15)

    def number(self) -> int:
        """A number that something might stumble over."""
        rng = self.rng
        match rng.randrange(6):
            case 0:
                return rng.choice(NUMBERS)
            case 1:
                return self.memory.base + rng.randrange(-PAGE, SIZE + PAGE)
            case 2:
                return (1 << rng.choice((16, 31, 32, 63, 64))) - 1 - rng.choice((0, 0, 1, 15))
            case 3:
                return rng.getrandbits(64)
            case 4:
                return rng.randrange(1 << 16)
            case _:
                return rng.randrange(64)

    # What a case does

    def garbage(self) -> None:
        self.client.raw(self.rng.randbytes(self.rng.randrange(1, 200)))

    def message(self) -> None:
        """A message of some command, whole or not, with descriptors or not, with any flags."""
        rng = self.rng
        command = rng.choice((*Command, rng.randrange(65536)))
        body = b"".join(struct.pack("<Q", self.number()) for _ in range(rng.randrange(7)))[: rng.randrange(57)]
        size = HEADER.size + len(body) if rng.random() < 0.95 else self.number() & 0xFFFFFFFF
        flags = rng.choice((0, 0, 0, Flag.NO_REPLY, Flag.REPLY, rng.getrandbits(32)))
        fds = [self.memory.fd] * rng.choice((0, 0, 0, 1, 1, 2, 17))
        data = HEADER.pack(rng.getrandbits(16), command, size, flags, 0) + body
        cut = len(data) if rng.random() < 0.95 else rng.randrange(1, len(data))
        self.client.raw(data[:cut], fds)

    def map(self) -> None:
        page = self.rng.randrange(SIZE // PAGE)
        if PATTERN[page % len(PATTERN)] != "write":
            return  # what may not be written stays so, or the case could not tell
        iova = self.memory.base + self.rng.randrange(-4, SIZE // PAGE + 4) * PAGE
        body = wire.DMA_MAP.pack(32, 3, page * PAGE, iova, PAGE)
        self.client.send(Command.DMA_MAP, body, fds=[self.memory.fd])

    def unmap(self) -> None:
        body = wire.DMA_UNMAP.pack(24, self.rng.choice((0, 0, 0, 2)), self.number(), self.number())
        self.client.send(Command.DMA_UNMAP, body)

    def registers(self) -> None:
        rng = self.rng
        region, limit = rng.choice(((0, 0x3C), (0, 0x4000), (2, 0x1000), (4, 0x70), (7, 0x110), (0, 0x20000)))
        size = rng.choice((1, 2, 2, 4, 4, 8, 3, 60))
        data = self.number().to_bytes(8, "little").ljust(size, b"\x5a")[:size]
        body = wire.ACCESS.pack(rng.randrange(limit), region, size)
        if rng.random() < 0.7:
            self.client.send(Command.REGION_WRITE, body + data, flags=rng.choice((0, Flag.NO_REPLY)))
        else:
            self.client.send(Command.REGION_READ, body)

    def restart(self) -> None:
        """A device that has found a ring broken does nothing more before it is reset."""
        self.start()

    def ready(self) -> DriverQueue | None:
        """A queue to do something to, mostly one that is served."""
        if self.made.vfs[self.name].transport.status & NEEDS_RESET and self.rng.random() < 0.9:
            self.start()
        return self.rng.choice(self.driver.queues) if self.driver.queues else None

    def ring(self) -> None:
        """Descriptors, heads and indices of any kind; some rings have only sound ones, in memory of any kind."""
        rng = self.rng
        queue = self.ready()
        if queue is None:
            return
        sound = rng.random() < 0.5
        for at in range(queue.size):
            length = rng.choice((0, 1, 12, 16, 26, 64, 513, 4096, 65562, 1 << 20, (1 << 32) - 1))
            flags = rng.choice((0, 1, 1, 2, 2, 3, 4, 5, rng.getrandbits(16)))
            address = self.number() if rng.random() < 0.3 else self.memory.base + rng.randrange(SIZE) & ~15
            if sound:
                page = rng.randrange(SIZE // PAGE // len(PATTERN)) * len(PATTERN) + rng.choice((0, 1, 2, 3, 5, 6))
                address, length, flags = self.memory.base + page * PAGE, rng.choice((64, 2048)), flags & 2
            queue.set_descriptor(at, queue.describe(address, length, flags, rng.randrange(queue.size + 1)))
        for _ in range(rng.randrange(1, queue.size)):
            queue.expose(rng.randrange(queue.size + (rng.random() < 0.02)))
        if rng.random() < 0.05:
            self.memory.write(queue.avail + 2, struct.pack("<H", rng.getrandbits(16)))
        self.driver.kick(queue)

    def packet(self) -> None:
        """Something comes in from the cable."""
        device = self.made.vfs[self.name].device
        if isinstance(device, NetDevice):
            before = _untouchable(self.memory)
            header = struct.pack("<BBHHHHH", *(self.number() & 0x7F for _ in range(7)))
            for size in (self.rng.choice((14, 60, 1500, 9000)) for _ in range(10)):
                device.receive(header[: self.rng.choice((0, 10))].ljust(12, b"\0") + self.rng.randbytes(size))
            device.publish()
            self.check(before)

    def request(self) -> None:
        """Something that the device has to think about, in a well-formed ring."""
        rng = self.rng
        queue = self.ready()
        if queue is None:
            return
        self.memory.next = self.memory.base + 24 * PAGE
        header = rng.choice(
            (
                struct.pack("<IIQ", rng.choice((0, 1, 4, 8, 11, 13, 99)), 0, self.number()),
                struct.pack("<BBHHHHH", *(self.number() & 0xFF for _ in range(7))),
                bytes([rng.randrange(6), rng.randrange(3)]) + rng.randbytes(rng.randrange(9)),
            )
        )
        readable = [header, *(rng.randbytes(rng.choice((1, 16, 60, 512))) for _ in range(rng.randrange(4)))]
        with contextlib.suppress(IndexError):
            queue.add(readable, [rng.choice((1, 20, 512, 2048))] * rng.randrange(3), indirect=rng.random() < 0.3)
            self.driver.kick(queue)
        queue.take()

    def fault(self) -> None:
        name = self.rng.choice([name for name in FAULTS if name not in DEADLY])
        vf = self.made.vfs[self.name]
        values, problems = faults.parameters(name, {}, net=vf.config.is_net)
        if not problems:
            vf.switch_fault(name, values if self.rng.random() < 0.5 else None)

    def hang_up(self) -> None:
        self.client.sock.close()
        self.made.pump()
        raise Closed


WEIGHTS: dict[Callable[[Case], None], int] = {
    Case.garbage: 1,
    Case.message: 12,
    Case.map: 3,
    Case.unmap: 1,
    Case.registers: 12,
    Case.ring: 10,
    Case.request: 12,
    Case.packet: 6,
    Case.restart: 2,
    Case.fault: 2,
    Case.hang_up: 1,
}


def run_case(rng: random.Random, folder: Path) -> None:
    """One case. Raises Violation, or whatever came out of the server."""
    gc.collect()  # descriptors of whatever ran before in this process
    before = len(os.listdir("/proc/self/fd"))
    with bench(folder, VF0, VF1, DISK) as made:
        case = Case(made, rng)
        try:
            _attack(case, made)
            _serve_well(made)
        finally:
            case.driver.close()
            case.memory.close()
    # Fewer is what others threw away, collected meanwhile.
    if (left := len(os.listdir("/proc/self/fd")) - before) > 0:
        raise Violation(f"{left} descriptors are left")


def _attack(case: Case, made: Bench) -> None:
    for _ in range(OPERATIONS):
        operation = case.rng.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        try:
            with contextlib.suppress(AssertionError, ErrorReply):
                operation(case)
            case.pump()
            _read_replies(case.client)
        except Closed:
            case.driver.close()
            case.driver.eventfds = []
            case.connect()


def _read_replies(client: Client) -> None:
    """Take what the server says, so that it need not give the client up; none of it need make sense to us."""
    with contextlib.suppress(BlockingIOError, ConnectionResetError):
        if not client.sock.recv(1 << 20):
            raise Closed


def _untouchable(memory: Memory) -> int:
    """A sum over the pages that the device may not write."""
    total = 0
    for at in range(0, SIZE, len(PATTERN) * PAGE):
        total = zlib.crc32(memory.view[at + 3 * PAGE : at + 5 * PAGE], total)
        total = zlib.crc32(memory.view[at + 7 * PAGE : at + 8 * PAGE], total)
    return total


def _serve_well(made: Bench) -> None:
    """After all that, every VF serves a driver that behaves."""
    for name, vf in made.vfs.items():
        for fault in list(vf.faults.on):
            vf.switch_fault(fault, None)
        with contextlib.suppress(Closed):
            while vf.state()["connected"]:
                vf._disconnect("the fuzzer is through with it")
        driver = made.driver(name)
        queue = driver.queues[1 if vf.config.is_net else 0]
        head = queue.add([struct.pack("<IIQ", 0, 0, 0) + bytes(0 if name == "disk0" else 64)], [512, 1])
        driver.kick(queue)
        if [entry[0] for entry in queue.take()] != [head]:
            raise Violation(f"{name} does not serve any more")
        driver.close()
        driver.eventfds = []


@contextlib.contextmanager
def _watchdog() -> Iterator[None]:
    begin = time.monotonic()
    yield
    if (busy := time.monotonic() - begin) > STEP_S:
        raise Violation(f"the server was busy for {busy:.0f} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Run cases until the time is over or one fails. Returns 0, or 1 and says how to see it again."""
    parser = argparse.ArgumentParser(prog="python -m tests.ifcvf_fuzz", description="Fuzz the IFC VF device model.")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long (60)")
    parser.add_argument("--seed", type=int, help="what the cases come from (the time)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    parser.add_argument("--cases", type=int, help="at most so many cases")
    arguments = parser.parse_args(argv)
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    end = time.monotonic() + arguments.seconds
    number = arguments.first
    devnull = os.open(os.devnull, os.O_WRONLY)
    with tempfile.TemporaryDirectory(prefix="ifcvf-fuzz-") as folder:
        while time.monotonic() < end and (arguments.cases is None or number < arguments.first + arguments.cases):
            try:
                # A server that never comes back ends the process, with a traceback of where it is.
                faulthandler.dump_traceback_later(CASE_S, exit=True, file=sys.__stderr__ or sys.stderr)
                with open(devnull, "w", closefd=False) as quiet, contextlib.redirect_stderr(quiet):
                    run_case(random.Random(f"{seed}:{number}"), Path(folder))
            except BaseException:
                print(f"ifcvf_fuzz: failed: --seed {seed} --first {number} --cases 1", file=sys.stderr)
                raise
            finally:
                faulthandler.cancel_dump_traceback_later()
            number += 1
    print(f"ifcvf_fuzz: {number - arguments.first} cases of seed {seed}: nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
