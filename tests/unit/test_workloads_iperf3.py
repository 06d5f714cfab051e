"""lab.workloads.iperf3: the job's own scripts run here; iperf3 is a stub that prints recorded reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lab.config.scenario import Iperf3, Iperf3Stream
from lab.errors import DeadlineExceeded, HostError, LabError
from lab.evidence.record import Record
from lab.host import detached
from lab.host.base import Host
from lab.host.endpoints import NetEnd
from lab.host.fake import Answer, FakeHost
from lab.host.local import LocalHost
from lab.model import Check, Level, Verdict, WorkloadResult
from lab.wait import Deadline, wait_until
from lab.workloads import base, iperf3

SAMPLES = Path(__file__).parent / "samples" / "iperf3"
# Prints the files of $STUB one after another; a name with "forever" waits for SIGTERM first.
STUB = """#!/bin/sh
echo "$*" >>"$STUB.argv"
one=$(ls "$STUB" | head -n 1)
case $one in *forever*) trap over=1 TERM; touch "$STUB.waits"; while [ -z "$over" ]; do sleep 0.05; done ;; esac
cat "$STUB/$one"
rm "$STUB/$one"
"""


class Server(FakeHost):
    """The server's host: whatever ports the servers are started with are listening ``lag`` looks later."""

    def __init__(self, folder: Path, name: str = "l2", lag: int = 1, err: str = "") -> None:
        self.ports: list[str] = []
        self.stopped = 0
        self.connections = 2
        self._lag = lag
        self._err = err
        answers: dict[str, Answer] = {
            "*setsid*": self._start_servers,
            "*proc/net/tcp*": self._table,
            "*kill*": self._kill,
            "*/err*": "said",
        }
        super().__init__(answers, folder, name)

    def _start_servers(self, argv: Sequence[str], data: bytes) -> str:
        self.ports = [word for word in argv if re.fullmatch(r"2\d{4}", word)]
        return ""

    def _table(self, argv: Sequence[str], data: bytes) -> str:
        self._lag -= 1
        sockets = [
            f"   0: 02004D0A:{int(port):04X} 00000000:0000 {state} 0:0"
            for port in self.ports
            for state in ("0A", *(["01"] * self.connections))
        ]
        return (
            "  sl  local_address rem_address   st\n"
            + "\n".join(sockets if self._lag < 0 else [])
            + f"\n--\n{self._err}"
        )

    def _kill(self, argv: Sequence[str], data: bytes) -> str:
        self.stopped += 1
        return ""


class Bench:
    """Both ends, and the stub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Server(folder / "server")
        self.client = LocalHost("l1", Record(folder / "client"))

    def prints(self, *names: str) -> None:
        (self.folder / "stub").mkdir()
        for number, name in enumerate(names):
            text = name if name.startswith("text:") else (SAMPLES / f"{name.removesuffix('-forever')}.json").read_text()
            kind = "forever" if name.endswith("-forever") else "once"
            (self.folder / "stub" / f"{number}-{kind}").write_text(text.removeprefix("text:"))

    @property
    def ends(self) -> tuple[NetEnd, NetEnd]:
        return NetEnd(self.server, "eth0", "10.77.0.2"), NetEnd(self.client, "eth1", "10.77.0.1")

    def start(self, *streams: Iperf3Stream, label: str = "", **limits: float) -> iperf3.Iperf3Job:
        config = Iperf3.model_validate({"kind": "iperf3", "streams": list(streams), **limits})
        return iperf3.start(config, *self.ends, self.folder, label=label, level=Level.L1_QEMU)

    def run(self, *streams: Iperf3Stream, **limits: float) -> WorkloadResult:
        return self.start(*streams, label="", **limits).finish()

    def wait_running(self) -> None:
        wait_until((self.folder / "stub.waits").exists, Deadline(20), "the client to run")

    @property
    def argv(self) -> list[str]:
        return (self.folder / "stub.argv").read_text().splitlines()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(Host, "scratch", str(tmp_path))
    monkeypatch.setattr(detached, "_LOOK_S", 0.02)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "iperf3").write_text(STUB)
    (tmp_path / "bin" / "iperf3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("STUB", str(tmp_path / "stub"))
    return Bench(tmp_path)


TCP, REVERSE, UDP = Iperf3Stream(), Iperf3Stream(reverse=True, parallel=2), Iperf3Stream(protocol="udp", seconds=1.2)


def metrics(result: WorkloadResult) -> dict[str, tuple[float, str]]:
    return {metric.name: (round(metric.value, 1), metric.unit) for metric in result.metrics}


def one(result: WorkloadResult) -> Check:
    (check,) = result.checks
    return check


def test_three_streams(bench: Bench) -> None:
    bench.prints("tcp-3.12", "tcp-reverse-parallel-3.12", "udp-3.18")
    result = bench.run(TCP, REVERSE, UDP)
    assert [check.verdict for check in result.checks] == [Verdict.PASS] * 3
    assert metrics(result) == {
        "tcp_l1_to_l2": (25.1, "Mbit/s"),
        "tcp_l1_to_l2_retransmits": (0, "count"),
        "tcp_l2_to_l1_p2": (21.0, "Mbit/s"),
        "tcp_l2_to_l1_p2_retransmits": (0, "count"),
        "udp_l1_to_l2": (10.0, "Mbit/s"),
        "udp_l1_to_l2_loss": (0, "%"),
        "udp_l1_to_l2_jitter": (0.0, "ms"),
    }
    assert result.moved == {"to_server": 6291456 + 1251072, "from_server": 2621440}
    kept = {path.name for path in (bench.folder / "workloads").iterdir()}
    assert kept == {"tcp_l1_to_l2.json", "tcp_l2_to_l1_p2.json", "udp_l1_to_l2.json"}
    # Servers that have served end by themselves.
    assert bench.server.stopped == 0


def test_what_the_client_is_told(bench: Bench) -> None:
    bench.prints("tcp-3.12", "tcp-3.12", "udp-3.18")
    bench.run(TCP, REVERSE, UDP)
    first, second, third = bench.argv
    port = bench.server.ports[0]
    assert first == f"-J -c 10.77.0.2 -B 10.77.0.1 -p {port} -t 2 -i 1 --connect-timeout 10000 -P 1"
    assert second.endswith("-R -P 2")
    assert "-t 2 -i 1 --connect-timeout 10000 -u -b 10M -P 1" in third
    assert len(set(bench.server.ports)) == 3


def test_servers_are_waited_for(bench: Bench) -> None:
    bench.server._lag = 3
    bench.prints("tcp-3.12")
    bench.run(TCP)
    assert sum("proc/net/tcp" in command for command in bench.server.commands) == 4


@pytest.mark.parametrize(
    "said",
    [
        "iperf3: error - unable to start listener for connections: Cannot assign requested address",
        "sh: 1: iperf3: not found",
        "Usage: ip [OPTIONS]\nerror - ended",
    ],
)
def test_a_server_that_does_not_start(bench: Bench, said: str) -> None:
    bench.server._err = said
    with pytest.raises(LabError, match=re.escape(said)):
        bench.start(TCP)
    assert bench.server.stopped == 1


def test_a_server_that_never_listens(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iperf3, "COMMAND_S", 0.1)
    bench.server._lag = 10**9
    with pytest.raises(DeadlineExceeded, match=r"listen on 10\.77"):
        bench.start(TCP)


def test_too_slow(bench: Bench) -> None:
    bench.prints("tcp-3.12")
    check = one(bench.run(TCP, min_mbit_s=1000))
    assert (check.verdict, check.level, check.machine) == (Verdict.FAIL, Level.L1_QEMU, "l1")
    assert check.seen == "25.10 Mbit/s, 0 retransmits"
    assert check.expected == ">= 1000 Mbit/s"


def test_too_much_lost(bench: Bench) -> None:
    bench.prints("udp-loss-3.12")
    check = one(bench.run(UDP, max_udp_loss_percent=50))
    assert check.verdict is Verdict.FAIL
    assert "50.65 % lost" in check.seen


@pytest.mark.parametrize(
    ("name", "said"), [("refused-3.18", "Connection refused"), ("server-died-3.18", "closed unexpectedly")]
)
def test_an_error_of_iperf3(bench: Bench, name: str, said: str) -> None:
    bench.prints(name)
    result = bench.run(TCP)
    assert one(result).verdict is Verdict.FAIL
    assert said in one(result).seen
    assert result.moved == {"to_server": 0, "from_server": 0}
    assert bench.server.stopped == 1
    assert (bench.folder / "workloads" / "tcp_l1_to_l2-server.txt").read_text() == "said"


def test_a_failed_stream_does_not_hide_the_next(bench: Bench) -> None:
    bench.prints("refused-3.18", "tcp-3.12")
    result = bench.run(TCP, TCP)
    assert [(check.name, check.verdict) for check in result.checks] == [
        ("iperf3 tcp_l1_to_l2", Verdict.FAIL),
        ("iperf3 tcp_l1_to_l2_2", Verdict.PASS),
    ]


@pytest.mark.parametrize("text", ["", "Segmentation fault", '{"start": {', "{}", '{"end": {"sum_sent": 7}}'])
def test_output_that_cannot_be_read_is_the_labs_fault(bench: Bench, text: str) -> None:
    bench.prints("text:" + text)
    check = one(bench.run(TCP))
    assert (check.verdict, check.level) == (Verdict.ERROR, Level.LAB)


def test_a_missing_iperf3(bench: Bench) -> None:
    (bench.folder / "bin" / "iperf3").write_text("#!/bin/sh\necho 'iperf3: not found'\nexit 127\n")
    check = one(bench.run(TCP))
    assert check.verdict is Verdict.ERROR
    assert "status 127" in check.seen


def test_a_stream_that_stalls_fails_and_keeps_its_report(bench: Bench) -> None:
    bench.prints("stalled-reverse-3.18-forever", "tcp-3.12")
    job = bench.start(REVERSE, TCP)
    bench.wait_running()
    result = job.finish(0.1)
    first, second = result.checks
    assert (first.verdict, second.verdict) == (Verdict.FAIL, Verdict.FAIL)
    assert first.seen.startswith("stalled: it did not end in time; interrupt")
    assert result.moved["from_server"] == 4543741952
    assert bench.server.stopped == 1


def test_a_background_stream_that_is_stopped_is_no_failure(bench: Bench) -> None:
    bench.prints("stopped-reverse-3.12-forever")
    job = iperf3.start_background(*bench.ends, bench.folder, seconds=60)
    bench.wait_running()
    job.stop()
    result = job.finish()
    assert one(result).verdict is Verdict.PASS
    assert one(result).name == "iperf3 tcp_l2_to_l1_background"
    assert result.moved == {"to_server": 0, "from_server": 4031250432}
    assert "-i 0.2" in bench.argv[0]
    assert bench.server.stopped == 1
    assert job.finish() is result


def test_a_background_stream_through_which_nothing_went(bench: Bench) -> None:
    silent = (SAMPLES / "stopped-reverse-3.12.json").read_text()
    bench.prints("text:" + re.sub(r'"bytes":\s*\d+', '"bytes": 0', silent))
    job = iperf3.start_background(*bench.ends, bench.folder, seconds=60)
    assert one(job.finish()).verdict is Verdict.FAIL


def test_one_that_is_stopped_before_it_began_proves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "LAST_WORDS_S", 0.5)
    (bench.folder / "bin" / "iperf3").write_text("#!/bin/sh\nexec sleep 60\n")
    job = iperf3.start_background(*bench.ends, bench.folder, seconds=60)
    job.stop()
    assert one(job.finish()).verdict is Verdict.ERROR


@pytest.mark.parametrize(("connections", "looks"), [(2, 1), (1, 2)])
def test_background_traffic_flows_when_it_is_started(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, connections: int, looks: int
) -> None:
    monkeypatch.setattr(iperf3, "_CONNECT_S", 0.01)
    bench.server.connections = connections
    bench.prints("tcp-3.12")
    iperf3.start_background(*bench.ends, bench.folder, seconds=2).finish()
    assert sum(command == "cat /proc/net/tcp" for command in bench.server.commands) >= looks


def test_a_job_is_finished_on_another_host_object(bench: Bench) -> None:
    bench.prints("tcp-3.12")
    job = bench.start(TCP, label="after plug")
    old, new = bench.client, LocalHost("l1", Record(bench.folder / "again"))
    bench.client._execute = _gone  # type: ignore[method-assign, assignment]
    job.rehost(old, new)
    job.rehost(bench.server, bench.server)
    assert one(job.finish()).name == "iperf3 tcp_l1_to_l2_after-plug"


def _gone(*arguments: object) -> object:
    raise HostError("gone")


def test_the_servers_end_even_when_the_client_is_gone(bench: Bench) -> None:
    bench.prints("tcp-3.12")
    job = bench.start(TCP)
    bench.client._execute = _gone  # type: ignore[method-assign, assignment]
    with pytest.raises(HostError):
        job.finish()
    assert bench.server.stopped == 1


def _dead_server(bench: Bench) -> None:
    bench.server.answers = {}


@pytest.mark.parametrize("breaks", [_dead_server])
def test_a_server_host_that_is_gone_does_not_hide_the_clients_error(
    bench: Bench, breaks: Callable[[Bench], None]
) -> None:
    bench.prints("server-died-3.18")
    job = bench.start(TCP)
    breaks(bench)
    assert one(job.finish()).verdict is Verdict.FAIL


def test_names_when_both_ends_are_on_one_host(bench: Bench) -> None:
    end = bench.ends[1]
    assert iperf3.stream_name(TCP, end, end) == "tcp_client_to_server"
    assert iperf3.stream_name(REVERSE, end, end, "x") == "tcp_server_to_client_p2_x"


def test_the_socket_table() -> None:
    assert iperf3._socket_name("10.77.0.2", 23456) == "02004D0A:5BA0"
    table = "  sl  local_address rem_address   st\n   0: 02004D0A:5BA0 0:0 0A 0:0\n   1: 01004D0A:1 0:0 01 0:0\n"
    assert iperf3._sockets(table, "0A") == ["02004D0A:5BA0"]
