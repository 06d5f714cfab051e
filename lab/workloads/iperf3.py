"""iperf3 between two interfaces, or over one looping device (iperf3(1)).

Each stream of the configuration is one measurement ``<protocol>_<sender>_to_<receiver>``, where the ends are called by
their hosts' names, or ``client`` and ``server`` when both are on one host. That name is the name of its metrics
(rate in Mbit/s as received; ``…_retransmits`` count; ``…_loss`` %; ``…_jitter`` ms), of its check (``iperf3 <name>``)
and of its raw JSON (``workloads/<name>.json`` in the run directory).
"""

from __future__ import annotations

import contextlib
import math
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.config.scenario import Iperf3, Iperf3Stream
from lab.errors import DeadlineExceeded, LabError
from lab.host import detached
from lab.host.base import COMMAND_S, Host
from lab.host.detached import Detached
from lab.host.endpoints import NetEnd
from lab.model import Check, Level, Metric, WorkloadResult
from lab.wait import Deadline, wait_until
from lab.workloads import base
from lab.workloads.base import Output
from lab.workloads.iperf3_report import Measured, measure

# Below the kernel's ephemeral ports (32768 up), and drawn by chance: on a real server somebody else may use iperf3.
_PORTS = range(20000, 30000)
# One server per stream, each for one test: a stream that fails cannot leave a server "busy" for the next.
_SERVE = 'for port; do iperf3 -s -1 -B "$0" -p "$port" & done; wait'
_LOOK = 'cat /proc/net/tcp; echo --; cat "$0/err"; [ ! -e "$0/rc" ] || echo "error - ended"'
_LISTEN, _ESTABLISHED = "0A", "01"
_SERVER_FAILED = re.compile(r"error - |not found")
# Seconds for connecting, and for start-up and exchange of results on top of each measurement.
_CONNECT_S = 10.0
_OVERHEAD_S = 15.0


def start(
    config: Iperf3,
    server: NetEnd,
    client: NetEnd,
    record_folder: Path,
    *,
    label: str = "",
    level: Level = Level.L1_KERNEL,
    interval_s: float = 1.0,
) -> Iperf3Job:
    """Start the servers, wait until they listen, and start the streams, which run one after another.

    ``label`` is appended to the streams' names; ``level`` is to blame when a stream fails. Raises LabError when a
    server cannot be started, DeadlineExceeded.
    """
    names = [stream_name(stream, server, client, label) for stream in config.streams]
    first = secrets.choice(_PORTS[: -len(names)])
    ports = [str(first + number) for number in range(len(names))]
    serving = detached.start(server.host, server.argv(["sh", "-c", _SERVE, server.address, *ports]))
    _wait_listening(serving, server, ports)
    commands = [
        _client_argv(stream, server, client, port, interval_s)
        for stream, port in zip(config.streams, ports, strict=True)
    ]
    running = detached.start(client.host, client.argv(base.serial(commands)))
    ends = _Ends(server.host, serving, client.host, running, ports)
    return Iperf3Job(config, base.distinct(names), ends, record_folder, level)


def start_background(
    server: NetEnd,
    client: NetEnd,
    record_folder: Path,
    *,
    seconds: float,
    reverse: bool = True,
    label: str = "background",
    level: Level = Level.L1_KERNEL,
) -> Iperf3Job:
    """One TCP stream for ``seconds``, to be finished or stopped later, with an interval every 0.2 s.

    The server sends by default, so that the intervals, which the client writes, tell what arrived and when nothing
    did; a client that sends counts what it gave to its socket, and how much of that arrived is unknown when stopped.
    Returns when data flows, or cannot in time: then the job fails.
    """
    stream = Iperf3Stream(seconds=seconds, reverse=reverse)
    config = Iperf3(kind="iperf3", streams=[stream], min_mbit_s=0)
    job = start(config, server, client, record_folder, label=label, level=level, interval_s=0.2)
    _wait_connected(server, job.ports[0])
    return job


@dataclass
class _Ends:
    """Where the two halves of a job run."""

    server_host: Host
    server: Detached
    client_host: Host
    client: Detached
    ports: Sequence[str]

    def server_said(self) -> str:
        """What the servers printed, as far as it can be had."""
        with contextlib.suppress(LabError):
            argv = ["sh", "-c", 'cat "$0/out" "$0/err"', self.server.folder]
            return self.server_host.run(argv, check=False).text
        return "the server's host does not answer"


class Iperf3Job:
    """The streams of one configuration, going on. See :class:`lab.workloads.base.Job`."""

    def __init__(self, config: Iperf3, names: Sequence[str], ends: _Ends, record_folder: Path, level: Level) -> None:
        self._config = config
        self._names = names
        self._ends = ends
        self._folder = record_folder
        self._level = level
        self._stopped = False
        self._result: WorkloadResult | None = None

    @property
    def ports(self) -> Sequence[str]:
        """The server's port of each stream."""
        return self._ends.ports

    def stop(self) -> None:
        """End it early, the servers too."""
        self._stopped = True
        self._ends.client.stop(self._ends.client_host)
        self.finish(base.LAST_WORDS_S)

    def rehost(self, old: Host, new: Host) -> None:
        """One or both ends are now reached as ``new``."""
        if self._ends.server_host is old:
            self._ends.server_host = new
        if self._ends.client_host is old:
            self._ends.client_host = new

    def finish(self, timeout_s: float | None = None) -> WorkloadResult:
        """Wait, judge, and keep the raw output of both ends."""
        if self._result is None:
            limit = timeout_s if timeout_s is not None else sum(map(_limit_s, self._config.streams))
            try:
                outputs, late = base.gather(self._ends.client, self._ends.client_host, len(self._names), limit)
            except LabError:
                self._close()
                raise
            self._result = self._judge(outputs, late and not self._stopped)
            # After a good test the servers have ended by themselves (-1), and a command costs half a second in L2.
            if self._stopped or any(check.level for check in self._result.checks):
                self._close()
        return self._result

    def _close(self) -> None:
        """End the servers and keep what they said."""
        base.keep(self._folder, f"{self._names[0]}-server.txt", self._ends.server_said())
        with contextlib.suppress(LabError):
            self._ends.server.stop(self._ends.server_host)

    def _judge(self, outputs: Sequence[Output], late: bool) -> WorkloadResult:
        metrics: list[Metric] = []
        checks: list[Check] = []
        moved = {"to_server": 0, "from_server": 0}
        for name, stream, output in zip(self._names, self._config.streams, outputs, strict=True):
            base.keep(self._folder, f"{name}.json", output.text)
            try:
                measured = measure(base.json_object(output.text))
            except (ValueError, KeyError, TypeError) as error:
                checks.append(self._without_report(name, output, late, error))
                continue
            checks.append(self._check(name, stream, measured, late))
            metrics += _metrics(name, stream, measured)
            moved["from_server" if stream.reverse else "to_server"] += measured.received
        return WorkloadResult(tuple(metrics), tuple(checks), moved)

    def _without_report(self, name: str, output: Output, late: bool, error: Exception) -> Check:
        title, machine = f"iperf3 {name}", self._ends.client_host.name
        if late:
            seen = "no result in time, nor when it was stopped"
            return Check.judged(title, False, seen, "a report", level=self._level, machine=machine)
        seen = f"status {output.status}, no report that can be read ({error!r}): {base.tail(output.text)}"
        return Check.unproven(title, seen, "a report", machine=machine)

    def _check(self, name: str, stream: Iperf3Stream, measured: Measured, late: bool) -> Check:
        good, seen, expected = _verdict(self._config, stream, measured, stopped=self._stopped)
        if late:
            good, seen = False, f"stalled: it did not end in time; {seen}"
        return Check.judged(
            f"iperf3 {name}", good, seen, expected, level=self._level, machine=self._ends.client_host.name
        )


def _verdict(config: Iperf3, stream: Iperf3Stream, measured: Measured, *, stopped: bool) -> tuple[bool, str, str]:
    """Whether a stream was good, what was seen and what is expected."""
    rate = f"{measured.mbit_s:.2f} Mbit/s"
    if stopped:
        through = max(measured.received, measured.sent)
        return through > 0, f"{through} bytes until it was stopped", "> 0 bytes"
    if measured.error:
        return False, f"{measured.error} ({rate})", "no error"
    if stream.protocol == "tcp":
        good = measured.received > 0 and measured.mbit_s >= config.min_mbit_s
        return good, f"{rate}, {measured.retransmits} retransmits", f">= {config.min_mbit_s:g} Mbit/s"
    loss = 100.0 if measured.loss_percent is None else measured.loss_percent
    good = measured.received > 0 and loss <= config.max_udp_loss_percent
    return good, f"{rate}, {loss:.2f} % lost", f"> 0 Mbit/s, <= {config.max_udp_loss_percent:g} % lost"


def _metrics(name: str, stream: Iperf3Stream, measured: Measured) -> list[Metric]:
    found = [Metric(name, measured.mbit_s, "Mbit/s")]
    if stream.protocol == "tcp" and measured.retransmits is not None:
        found.append(Metric(f"{name}_retransmits", measured.retransmits, "count"))
    if measured.loss_percent is not None:
        found.append(Metric(f"{name}_loss", measured.loss_percent, "%"))
    if measured.jitter_ms is not None:
        found.append(Metric(f"{name}_jitter", measured.jitter_ms, "ms"))
    return found


def stream_name(stream: Iperf3Stream, server: NetEnd, client: NetEnd, label: str = "") -> str:
    """``tcp_l2_to_l1``, with ``_p4`` for four parallel streams and ``_<label>``."""
    ends = [client.host.name, server.host.name]
    if ends[0] == ends[1]:
        ends = ["client", "server"]
    if stream.reverse:
        ends.reverse()
    parts = [stream.protocol, ends[0], "to", ends[1]]
    parts += [f"p{stream.parallel}"] if stream.parallel > 1 else []
    return "_".join(re.sub(r"\W+", "-", part) for part in [*parts, *([label] if label else [])])


def _client_argv(stream: Iperf3Stream, server: NetEnd, client: NetEnd, port: str, interval_s: float) -> list[str]:
    argv = ["iperf3", "-J", "-c", server.address, "-B", client.address, "-p", port]
    # Whole seconds: iperf3 cuts the fraction off, and -t 0 means for ever.
    argv += ["-t", str(math.ceil(stream.seconds)), "-i", f"{interval_s:g}"]
    argv += ["--connect-timeout", str(int(_CONNECT_S * 1000 * client.host.slowness))]
    if stream.protocol == "udp":
        argv += ["-u", "-b", stream.bitrate]
    if stream.reverse:
        argv.append("-R")
    return [*argv, "-P", str(stream.parallel)]


def _limit_s(stream: Iperf3Stream) -> float:
    return math.ceil(stream.seconds) + _CONNECT_S + _OVERHEAD_S


def _wait_listening(serving: Detached, server: NetEnd, ports: Sequence[str]) -> None:
    wanted = {_socket_name(server.address, int(port)) for port in ports}

    def listening() -> bool:
        shown = server.host.run(server.argv(["sh", "-c", _LOOK, serving.folder]), check=False).text
        table, _, said = shown.partition("\n--\n")
        if _SERVER_FAILED.search(said):
            raise LabError(f"{server.host.name}: iperf3 does not serve on {server.address}: {base.tail(said)}")
        return wanted <= set(_sockets(table, _LISTEN))

    deadline = Deadline(COMMAND_S * server.host.slowness)
    try:
        wait_until(listening, deadline, f"{server.host.name}: iperf3 to listen on {server.address}")
    except LabError:
        with contextlib.suppress(LabError):
            serving.stop(server.host)
        raise


def _wait_connected(server: NetEnd, port: str) -> None:
    wanted = _socket_name(server.address, int(port))

    def connected() -> bool:
        shown = server.host.run(server.argv(["cat", "/proc/net/tcp"])).text
        # One connection controls, the other carries the data.
        return _sockets(shown, _ESTABLISHED).count(wanted) > 1

    # A client that cannot connect says why in its report.
    with contextlib.suppress(DeadlineExceeded):
        wait_until(connected, Deadline(_CONNECT_S * server.host.slowness), "the client to connect")


def _sockets(table: str, state: str) -> list[str]:
    """Local addresses of sockets in /proc/net/tcp (kernel: Documentation/networking/proc_net_tcp.rst)."""
    rows = (line.split() for line in table.splitlines())
    return [row[1] for row in rows if len(row) > 3 and row[3] == state]


def _socket_name(address: str, port: int) -> str:
    """An IPv4 socket as /proc/net/tcp writes it on a little-endian machine."""
    return f"{socket.inet_aton(address)[::-1].hex().upper()}:{port:04X}"
