"""Ways in which a VF misbehaves on command. ``docs/ifcvf.md`` has the list for people; FAULTS is the one that counts.

A fault without an effect of its own is a flag here that the code it concerns looks at; what needs a timer or another
part of the VF is in ``vf``.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Parameter:
    """A whole number that a fault takes."""

    default: int
    low: int
    high: int


@dataclass(frozen=True)
class Fault:
    """What a fault does, in words, and its parameters."""

    what: str
    parameters: dict[str, Parameter] = field(default_factory=dict)
    net_only: bool = False


_U64 = (1 << 64) - 1
_PERIOD = {"period_ms": Parameter(10, 1, 60000)}

FAULTS = {
    "reset-hangs": Fault("a reset never completes until the fault is switched off"),
    "status-ff": Fault("the status reads 0xff"),
    "features-refused": Fault("FEATURES_OK does not stick"),
    "features-changed": Fault(
        "other features are offered", {"clear": Parameter(1, 0, _U64), "set": Parameter(0, 0, _U64)}
    ),
    "fewer-vectors": Fault("fewer MSI-X vectors, from the next connection on", {"vectors": Parameter(1, 1, 64)}),
    "irq-lost": Fault("each n-th interrupt of a queue is not raised", {"every": Parameter(1, 1, 1 << 30)}),
    "irq-spurious": Fault("every armed vector fires without a cause", _PERIOD),
    "queue-stall": Fault("a queue is not served", {"queue": Parameter(0, 0, 16)}),
    "used-length": Fault(
        "the used length is wrong",
        {"queue": Parameter(0, 0, 16), "length": Parameter(0xFFFFFFFF, 0, 0xFFFFFFFF)},
    ),
    "used-id": Fault("the used id is wrong", {"queue": Parameter(0, 0, 16), "id": Parameter(0xFFFF, 0, 0xFFFFFFFF)}),
    "corrupt": Fault(
        "a byte of what the driver receives or reads is inverted",
        {"every": Parameter(1, 1, 1 << 30), "offset": Parameter(64, 0, 1 << 20)},
    ),
    "slow": Fault("each kick is served later", {"ms": Parameter(20, 1, 10000)}),
    "link-flap": Fault("the link goes down and up", {"period_ms": Parameter(500, 10, 60000)}, net_only=True),
    "config-storm": Fault("the configuration's generation never rests", _PERIOD),
    "dma-outside": Fault(
        "one DMA outside the map",
        {"iova": Parameter(1 << 46, 0, _U64), "length": Parameter(4, 1, 4096), "write": Parameter(0, 0, 1)},
    ),
    "disconnect": Fault("the connection is closed"),
    "death": Fault("the process ends with SIGKILL"),
}


def parameters(name: str, given: dict[str, object], *, net: bool) -> tuple[dict[str, int], list[str]]:
    """All parameters of a fault, and what is wrong with what was asked of a network or a block device."""
    if name not in FAULTS:
        return {}, [f"no fault is called {name!r}; there are {', '.join(FAULTS)}"]
    if FAULTS[name].net_only and not net:
        return {}, [f"only a network VF has {name}"]
    known = FAULTS[name].parameters
    problems = [f"{name} has no parameter {key!r}" for key in given if key not in known]
    values = {key: parameter.default for key, parameter in known.items()}
    for key, parameter in known.items():
        value = given.get(key, parameter.default)
        if type(value) is not int or not parameter.low <= value <= parameter.high:
            problems.append(f"{key} of {name} must be a whole number from {parameter.low} to {parameter.high}")
        else:
            values[key] = value
    return values, problems


class Faults:
    """Which faults of a VF are on. ``struck`` counts how often each had an effect."""

    def __init__(self) -> None:
        self.on: dict[str, dict[str, int]] = {}
        self.struck: dict[str, int] = dict.fromkeys(FAULTS, 0)
        self.reset_owed = False
        self._interrupts = 0
        self._payloads = 0
        self._settle()

    def switch(self, name: str, values: dict[str, int] | None) -> None:
        """Switch a fault on with these parameters, or off with None."""
        self.on.pop(name, None)
        if values is not None:
            self.on[name] = values
        self._settle()

    def _settle(self) -> None:
        on = self.on
        self.reset_hangs = "reset-hangs" in on
        self.status_ff = "status-ff" in on
        self.features_refused = "features-refused" in on
        self.features_clear = on.get("features-changed", {}).get("clear", 0)
        self.features_set = on.get("features-changed", {}).get("set", 0)
        self.config_storm = "config-storm" in on
        self._lost_every = on.get("irq-lost", {}).get("every", 0)
        self.corrupt_every = on.get("corrupt", {}).get("every", 0)
        self._corrupt_at = on.get("corrupt", {}).get("offset", 0)

    def strike(self, name: str) -> None:
        """Count that a fault had an effect."""
        self.struck[name] += 1

    def interrupt_is_lost(self) -> bool:
        """Whether the interrupt that is about to be raised gets lost."""
        if not self._lost_every:
            return False
        self._interrupts += 1
        if self._interrupts % self._lost_every:
            return False
        self.strike("irq-lost")
        return True

    def corrupted(self, length: int) -> int | None:
        """Which byte of this payload to invert; None to leave it alone. Only to be asked when ``corrupt_every``."""
        self._payloads += 1
        if self._payloads % self.corrupt_every or self._corrupt_at >= length:
            return None
        self.strike("corrupt")
        return self._corrupt_at
