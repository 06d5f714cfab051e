"""Virtio over PCI: the registers of BAR 0, the doorbells, the state of live migration in BAR 4, the device's status.

Sources: virtio 1.2, sections 2.1, 3.1 and 4.1.4; ``include/uapi/linux/virtio_pci.h`` for the layout of the common
configuration; ``drivers/vdpa/ifcvf/ifcvf_base.[ch]`` for BAR 4.

ifcvf brings a device up in an order that virtio does not have: doorbells ring before DRIVER_OK, and queues are enabled
after it. So a queue is served when it and the device are both ready, whichever comes last.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

from lab.ifcvf.dma import DmaFault, DmaMap
from lab.ifcvf.faults import Faults
from lab.ifcvf.pci import COMMON, DEVICE, ISR, NOTIFY, NOTIFY_MULTIPLIER, STRUCTURE_SIZE
from lab.ifcvf.ring import Queue, RingError

NO_VECTOR = 0xFFFF

DRIVER_OK, FEATURES_OK, NEEDS_RESET = 4, 8, 64
F_INDIRECT_DESC, F_EVENT_IDX, F_VERSION_1, F_ACCESS_PLATFORM = 1 << 28, 1 << 29, 1 << 32, 1 << 33
RING_FEATURES = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1 | F_ACCESS_PLATFORM

_ISR_QUEUE, _ISR_CONFIG = 1, 2
# struct virtio_pci_common_cfg and the two fields that virtio 1.2 added to it.
COMMON_CFG = struct.Struct("<IIIIHHBBHHHHHQQQHH")
_STATUS, _GENERATION = 0x14, 0x15
# struct ifcvf_lm_cfg: control, status, beginning and end of the log; then the queues' states, 4 bytes apart.
LM_CFG = struct.Struct("<QQQQ")
LM_STATE, LM_STRIDE = 0x20, 4


class Device(Protocol):
    """What a device of one class adds to the transport."""

    features: int

    def config(self) -> bytes:
        """The device's own configuration."""

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes to it."""

    def accept(self, negotiated: int) -> None:
        """The features that are in force from now on."""

    def serve(self, queue: Queue) -> bool:
        """Buffers may be waiting. Returns True when there were more than fit one turn. Raises RingError, DmaFault."""

    def reset(self) -> None:
        """Forget everything that the driver has set."""


class Transport:
    """The registers of one VF.

    ``signal`` raises a vector, ``note`` records what is remarkable, ``soon`` makes a call when others had their turn.
    """

    def __init__(
        self,
        device: Device,
        queues: int,
        queue_size: int,
        vectors: int,
        dma: DmaMap,
        faults: Faults,
        signal: Callable[[int], None],
        note: Callable[..., None],
        soon: Callable[[Callable[[], None]], None],
    ):
        self.device = device
        self.vectors = vectors
        self.faults = faults
        self._signal = signal
        self._note = note
        self._soon = soon
        self._unfinished: set[Queue] = set()
        self.queues = [Queue(index, queue_size, dma, self.queue_interrupt) for index in range(queues)]
        self.queue_vectors = [NO_VECTOR] * queues
        self.generation = 0
        self.kicks = self.interrupts = self.resets = self.ring_errors = self.dma_refused = 0
        # Replaced by a fault that makes the device slow.
        self.schedule: Callable[[Queue], None] = self.serve
        self._writers: dict[tuple[int, int], Callable[[int], None]] = {
            (0x00, 4): lambda value: setattr(self, "_device_select", value),
            (0x08, 4): lambda value: setattr(self, "_driver_select", value),
            (0x0C, 4): self._write_features,
            (0x10, 2): self._write_config_vector,
            (0x14, 1): self._write_status,
            (0x16, 2): lambda value: setattr(self, "_selected", value),
            (0x18, 2): self._write_size,
            (0x1A, 2): self._write_queue_vector,
            (0x1C, 2): self._write_enable,
        }
        for offset, area in ((0x20, "desc"), (0x28, "avail"), (0x30, "used")):
            self._writers[offset, 8] = lambda value, area=area: self._write_address(area, value)  # type: ignore[misc]
            self._writers[offset, 4] = lambda value, area=area: self._write_half(area, value, 0)  # type: ignore[misc]
            self._writers[offset + 4, 4] = lambda value, area=area: self._write_half(area, value, 32)  # type: ignore[misc]
        self._clear()

    def _clear(self) -> None:
        self.status = 0
        self.negotiated = 0
        self.config_vector = NO_VECTOR
        self.isr = 0
        self._device_select = self._driver_select = self._selected = 0
        self._lm = bytearray(LM_STATE)
        for queue in self.queues:
            queue.reset()
            queue.event_idx = False
        self.queue_vectors = [NO_VECTOR] * len(self.queues)

    def reset(self) -> None:
        """Reset the device: by its status, by PCI, or because the client has gone."""
        self.resets += 1
        self.faults.reset_owed = False
        self._clear()
        self.device.reset()

    @property
    def features(self) -> int:
        """What the driver is offered now."""
        return self.device.features & ~self.faults.features_clear | self.faults.features_set

    @property
    def running(self) -> bool:
        """Whether queues are served."""
        return self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK

    # BAR 0

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of BAR 0. What is not a register reads as 0."""
        structure, at = offset & ~(STRUCTURE_SIZE - 1), offset & (STRUCTURE_SIZE - 1)
        if structure == COMMON:
            self._misbehave(range(at, at + count))
            data = self._common()
        elif structure == DEVICE:
            data = self.device.config()
        elif structure == ISR:
            data = bytes([self.isr])
            self.isr = 0 if at == 0 else self.isr
        else:
            data = b""
        return data[at : at + count].ljust(count, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Write to BAR 0. What is not a register, or only part of one, is left alone."""
        if offset >= NOTIFY:
            self.kick((offset - NOTIFY) // NOTIFY_MULTIPLIER)
        elif offset < STRUCTURE_SIZE:
            writer = self._writers.get((offset, len(data)))
            if writer is not None:
                writer(int.from_bytes(data, "little"))
        elif offset >= DEVICE:
            self.device.write_config(offset - DEVICE, data)

    def _misbehave(self, offsets: range) -> None:
        """Faults that a reading of these registers brings out."""
        if self.faults.config_storm and _GENERATION in offsets:
            self.generation = (self.generation + 1) & 0xFF
            self.faults.strike("config-storm")
        if self.faults.status_ff and _STATUS in offsets:
            self.faults.strike("status-ff")

    def _common(self) -> bytes:
        queue = self.queues[self._selected] if self._selected < len(self.queues) else None
        return COMMON_CFG.pack(
            self._device_select,
            self.features >> 32 * self._device_select & 0xFFFFFFFF if self._device_select < 2 else 0,
            self._driver_select,
            self.negotiated >> 32 * self._driver_select & 0xFFFFFFFF if self._driver_select < 2 else 0,
            self.config_vector,
            len(self.queues),
            0xFF if self.faults.status_ff else self.status,
            self.generation,
            self._selected,
            queue.size if queue else 0,
            self.queue_vectors[self._selected] if queue else NO_VECTOR,
            queue.enabled if queue else 0,
            self._selected if queue else 0,
            queue.desc if queue else 0,
            queue.avail if queue else 0,
            queue.used if queue else 0,
            0,
            0,
        )

    def _write_features(self, value: int) -> None:
        if self.status & FEATURES_OK or self._driver_select > 1:
            return
        shift = 32 * self._driver_select
        self.negotiated = self.negotiated & ~(0xFFFFFFFF << shift) | value << shift

    def _write_config_vector(self, value: int) -> None:
        self.config_vector = value if value < self.vectors else NO_VECTOR

    def _write_status(self, value: int) -> None:
        if value == 0:
            if self.faults.reset_hangs:
                self._note("a reset was asked for and hangs")
                self.faults.strike("reset-hangs")
                self.faults.reset_owed = True
            else:
                self.reset()
            return
        if value & FEATURES_OK and not self.status & FEATURES_OK and not self._features_good():
            value &= ~FEATURES_OK
        started = value & DRIVER_OK and not self.status & DRIVER_OK
        self.status = value & ~NEEDS_RESET & 0xFF | self.status & NEEDS_RESET
        if started:
            for queue in self.queues:
                self._start(queue)

    def _features_good(self) -> bool:
        if self.faults.features_refused:
            self._note("the features were refused")
            self.faults.strike("features-refused")
            return False
        unknown = self.negotiated & ~self.features
        if unknown or not self.negotiated & F_VERSION_1:
            self._note("the driver's features cannot be", features=self.negotiated)
            return False
        for queue in self.queues:
            queue.event_idx = bool(self.negotiated & F_EVENT_IDX)
        self.device.accept(self.negotiated)
        return True

    def _selected_queue(self) -> Queue | None:
        return self.queues[self._selected] if self._selected < len(self.queues) else None

    def _write_size(self, value: int) -> None:
        queue = self._selected_queue()
        if queue and not queue.enabled and 0 < value <= queue.max_size and value & (value - 1) == 0:
            queue.size = value

    def _write_queue_vector(self, value: int) -> None:
        if self._selected < len(self.queues):
            self.queue_vectors[self._selected] = value if value < self.vectors else NO_VECTOR

    def _write_address(self, area: str, value: int) -> None:
        queue = self._selected_queue()
        if queue and not queue.enabled:
            setattr(queue, area, value)

    def _write_half(self, area: str, value: int, shift: int) -> None:
        queue = self._selected_queue()
        if queue:
            self._write_address(area, getattr(queue, area) & ~(0xFFFFFFFF << shift) | value << shift)

    def _write_enable(self, value: int) -> None:
        queue = self._selected_queue()
        if queue is None:
            return
        if value & 1 and not queue.enabled:
            try:
                queue.enable()
            except RingError as error:
                self.broken(queue, error)
            self._start(queue)
        elif not value & 1:
            queue.disable()

    # BAR 4

    def read_lm(self, offset: int, count: int) -> bytes:
        """Bytes of the registers of live migration: a queue's state is the index of the next buffer it takes."""
        states = b"".join(struct.pack("<HH", queue.last_avail, 0) for queue in self.queues)
        return (bytes(self._lm) + states)[offset : offset + count].ljust(count, b"\0")

    def write_lm(self, offset: int, data: bytes) -> None:
        """Write them: a queue's state while it is stopped, and what else there is, which nothing here uses."""
        if offset < LM_STATE:
            end = min(LM_STATE, offset + len(data))
            self._lm[offset:end] = data[: end - offset]
            return
        index, part = divmod(offset - LM_STATE, LM_STRIDE)
        if part == 0 and len(data) >= 2 and index < len(self.queues) and not self.queues[index].enabled:
            self.queues[index].last_avail = int.from_bytes(data[:2], "little")

    # Queues

    def kick(self, index: int) -> None:
        """A doorbell."""
        self.kicks += 1
        if index < len(self.queues):
            self._start(self.queues[index])

    def _start(self, queue: Queue) -> None:
        if not (queue.enabled and self.running):
            return
        if queue.stalled:
            self.faults.strike("queue-stall")
        else:
            self.schedule(queue)

    def serve(self, queue: Queue) -> None:
        """Serve a queue now, if it still may be."""
        if queue.enabled and not queue.stalled and self.running:
            try:
                if self.device.serve(queue) and queue not in self._unfinished:
                    self._unfinished.add(queue)
                    self._soon(lambda: self._go_on(queue))
            except (RingError, DmaFault) as error:
                self.broken(queue, error)

    def _go_on(self, queue: Queue) -> None:
        self._unfinished.discard(queue)
        self.serve(queue)

    def broken(self, queue: Queue, error: RingError | DmaFault) -> None:
        """The driver's ring cannot be served: nothing more is, until a reset."""
        if isinstance(error, DmaFault):
            self.dma_refused += 1
        self.ring_errors += 1
        queue.error = str(error)
        queue.disable()
        self._note("a queue is broken", queue=queue.index, error=str(error))
        self.status |= NEEDS_RESET
        self.config_interrupt()

    def queue_interrupt(self, queue: Queue) -> None:
        """The driver wants to know of used buffers."""
        if self.faults.interrupt_is_lost():
            return
        self.isr |= _ISR_QUEUE
        self._interrupt(self.queue_vectors[queue.index])

    def config_changed(self) -> None:
        """The device's configuration is another one now."""
        self.generation = (self.generation + 1) & 0xFF
        self.config_interrupt()

    def config_interrupt(self) -> None:
        """Tell the driver to look at configuration and status."""
        if self.status & DRIVER_OK:
            self.isr |= _ISR_CONFIG
            self._interrupt(self.config_vector)

    def _interrupt(self, vector: int) -> None:
        if vector != NO_VECTOR:
            self.interrupts += 1
            self._signal(vector)
