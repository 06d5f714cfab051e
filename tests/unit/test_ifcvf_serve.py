"""The process: its configuration, its control socket, its beginning and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import proc
from lab.ifcvf.__main__ import main
from lab.ifcvf.config import ConfigError, parse
from lab.ifcvf.control import ControlError, ask
from lab.ifcvf.faults import FAULTS
from lab.ifcvf.loop import Loop
from lab.ifcvf.serve import run, server
from lab.wait import Deadline
from tests.ifcvf_client import DISK, MACS, VF0, VF1, Bench, bench, fill, frame, send, wait_readable
from tests.ifcvf_client import Client as VfioClient

ROOT = Path(__file__).parents[2]


def config(**changes: Any) -> str:
    vf = {
        "name": "a",
        "model": "n3000-net",
        "socket": "a.sock",
        "mac": "52:54:00:00:00:01",
        "backend": {"kind": "none"},
    }
    return json.dumps({"vfs": [vf | changes]})


def test_defaults() -> None:
    (vf,) = parse(config()).vfs
    assert (vf.queue_size, vf.mtu, vf.pairs, vf.vectors, vf.msix, vf.features) == (1024, 1500, 1, None, "qemu", None)
    (disk,) = parse(
        json.dumps(
            {"vfs": [{"name": "d", "model": "c5000x-blk", "socket": "d", "backend": {"kind": "memory", "size": 512}}]}
        )
    ).vfs
    assert (disk.queues, disk.serial) == (1, "d")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": "e1000"}, "model must be one of n3000-net, c5000x-net, c5000x-blk"),
        ({"mac": "1:2"}, "is no MAC address"),
        ({"mac": "01:00:00:00:00:01"}, "is a multicast address"),
        ({"mac": 5}, "mac must be a text"),
        ({"queue_size": 100}, "queue_size must be a power of 2"),
        ({"queue_size": 2048}, "queue_size must be a whole number from 64 to 1024"),
        ({"pairs": 9}, "pairs must be a whole number from 1 to 8"),
        ({"mtu": True}, "mtu must be a whole number"),
        ({"vectors": 0}, "vectors must be a whole number from 1 to 64"),
        ({"msix": "both"}, "msix must be one of qemu, device"),
        ({"features": 1 << 60}, "does not have features 0x1000000000000000"),
        ({"socket": "x" * 108}, "longer than 107 bytes"),
        ({"queues": 2}, "unknown key 'queues'"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"backend": None}, "must be an object"),
        ({"backend": {"kind": "hub"}}, "kind must be one of switch, dgram, stream, tap, none"),
        ({"backend": {"kind": "switch"}}, "name is missing"),
        ({"backend": {"kind": "dgram", "local": "a", "remote": "b", "vnet_hdr": 1}}, "vnet_hdr must be true or false"),
        ({"backend": {"kind": "stream", "listen": "a", "connect": "b"}}, "either listen or connect"),
        ({"backend": {"kind": "stream"}}, "either listen or connect"),
        ({"backend": {"kind": "tap", "ifname": "x" * 16}}, "ifname is longer than 15 bytes"),
        ({"faults": {"nonsense": {}}}, "no fault is called 'nonsense'"),
        ({"faults": {"irq-lost": {"every": 0}}}, "every of irq-lost must be a whole number from 1"),
        ({"faults": []}, "must be an object"),
        ({"model": "c5000x-blk", "mac": None}, "unknown key 'mac'"),
        ({"name": ""}, "name must be a text"),
    ],
)  # fmt: skip
def test_what_cannot_be_configured(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(config(**changes))
    assert any(problem in line for line in error.value.problems), error.value.problems


@pytest.mark.parametrize("text", ["", "[]", "{", '{"vfs": []}', '{"vfs": 3, "x": 1}', "[" * 100000])
def test_what_is_no_configuration(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse(config(mac="x", mtu=1, queue_size=3, backend={"kind": "file"}))
    assert len(error.value.problems) >= 4


def test_names_and_sockets_are_distinct() -> None:
    entries = json.loads(config())["vfs"] * 2
    with pytest.raises(ConfigError) as error:
        parse(json.dumps({"control": "a.sock", "vfs": entries}))
    assert error.value.problems == [
        "configuration: name 'a' is used more than once",
        "configuration: socket 'a.sock' is used more than once",
    ]


# The control socket


def asker(made: Bench) -> Callable[..., Any]:
    path = str(made.folder / "control.sock")

    def call(op: str, **fields: Any) -> Any:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.sendall(json.dumps({"op": op, **fields}).encode() + b"\n")
            made.pump()
            received = b""
            while not received.endswith(b"\n"):
                received += sock.recv(1 << 16)
                made.pump()
        answer = json.loads(received)
        if not answer["ok"]:
            raise ControlError(answer["error"])
        return answer["result"]

    return call


def test_it_tells_everything(tmp_path: Path) -> None:
    with bench(tmp_path, VF0, VF1, DISK, control=True) as made:
        call = asker(made)
        one, other = made.driver("vf0"), made.driver("vf1", scattered=True)
        fill(other)
        send(one, frame(MACS["vf1"], MACS["vf0"], b"x" * 50))
        state = call("state")
        assert set(state) == {"vf0", "vf1", "disk0"}
        assert call("state", vf="vf0") == state["vf0"]
        assert state["vf0"]["queues"][1] == {
            "index": 1, "size": 64, "enabled": True, "last_avail": 1, "used": 1, "vector": 1, "error": "",
        }  # fmt: skip
        assert (state["vf0"]["vectors"], state["vf0"]["link"], state["disk0"]["size"]) == (4, True, 1 << 20)
        assert call("counters", vf="vf1")["rx_bytes"] == 64
        base, size = one.memory.base, one.memory.size
        assert call("dma", vf="vf0") == call("dma", vf="vf1") == [{"iova": base, "size": size, "writable": True}]
        detail = call("dma", vf="vf1", detail=True)
        assert len(detail) == size // 4096
        status = os.fstat(other.memory.fd)
        assert detail[0] == {
            "iova": base, "size": 4096, "writable": True, "memory": f"{status.st_dev}:{status.st_ino}", "offset": 4096,
        }  # fmt: skip
        (event,) = call("events", vf="vf0")
        assert event["what"] == "connected"
        assert call("events", vf="vf0", since=event["seq"]) == []
        assert set(call("faults")) == set(FAULTS)


def test_it_breaks_and_mends(tmp_path: Path) -> None:
    with bench(tmp_path, VF0, control=True) as made:
        call, driver = asker(made), made.driver("vf0")
        assert call("fault", vf="vf0", name="status-ff") == {"on": {"status-ff": {}}}
        assert driver.status == 0xFF
        assert call("faults", vf="vf0")["struck"]["status-ff"] == 1
        assert call("fault", vf="vf0", name="status-ff", on=False) == {"on": {}}
        assert call("link", vf="vf0", up=False) == {"link": False}
        assert call("state", vf="vf0")["link"] is False
        assert call("shutdown") == {}
        made.pump()
        assert made.loop.stopped


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"nonsense", "no JSON"), (b"[]", "a request is an object"), (b"{}", "op must be one of state"),
        (b'{"op": "dma"}', "vf must be one of vf0, disk0"), (b'{"op": "dma", "vf": 3}', "vf must be one of"),
        (b'{"op": "state", "x": 1}', "unknown: x"), (b'{"op": "link", "vf": "vf0"}', "up must be true or false"),
        (b'{"op": "link", "vf": "disk0", "up": true}', "only a network VF"),
        (b'{"op": "events", "vf": "vf0", "since": "x"}', "since must be a whole number"),
        (b'{"op": "fault", "vf": "vf0", "name": "x"}', "no fault is called"),
        (b'{"op": "fault", "vf": "vf0", "name": "slow", "on": 1}', "on must be true or false"),
        (b'{"op": "fault", "vf": "disk0", "name": "link-flap"}', "only a network VF"),
        (b"\xff\xfe", "no JSON"), (b"[" * 50000, "no JSON"),
    ],
)  # fmt: skip
def test_requests_that_are_refused(tmp_path: Path, line: bytes, error: str) -> None:
    with bench(tmp_path, VF0, DISK, control=True) as made, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "control.sock"))
        sock.sendall(line + b'\n{"op": "counters", "vf": "vf0"}\n')
        made.pump()
        made.pump()
        first, second, _ = sock.recv(1 << 16).split(b"\n")
        assert not json.loads(first)["ok"]
        assert error in json.loads(first)["error"]
        assert json.loads(second)["ok"]


def test_who_sends_no_end_of_line_is_dropped(tmp_path: Path) -> None:
    with bench(tmp_path, VF0, control=True) as made, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "control.sock"))
        for _ in range(3):
            made.pump()
            sock.sendall(b"x" * 30000)
        made.pump()
        assert sock.recv(1) == b""


# The process


@pytest.fixture
def started(tmp_path: Path) -> Any:
    document = json.loads(config(socket=str(tmp_path / "a.sock"))) | {"control": str(tmp_path / "control.sock")}
    (tmp_path / "vfs.json").write_text(json.dumps(document))
    argv = ["python3", "-S", "-E", "-m", "lab.ifcvf", "serve", "--config", str(tmp_path / "vfs.json")]
    process = proc.start(argv, cwd=ROOT, stdout=proc.PIPE, stderr=proc.PIPE)
    assert process.stdout is not None
    yield process, json.loads(process.stdout.readline()), tmp_path
    process.stop()


def test_a_process_that_needs_only_the_standard_library(started: Any) -> None:
    process, ready, folder = started
    assert ready == {
        "ready": True,
        "pid": process.pid,
        "control": str(folder / "control.sock"),
        "vfs": {"a": str(folder / "a.sock")},
    }
    client = VfioClient(ready["vfs"]["a"], lambda: None)
    client.pump = wait_readable(client.sock)
    assert client.version()["capabilities"]["max_msg_fds"] == 16
    assert ask(ready["control"], {"op": "state", "vf": "a"})["connected"]
    client.sock.close()
    process.signal(signal.SIGTERM)
    assert process.wait(Deadline(10)) == 0
    assert sorted(os.listdir(folder)) == ["vfs.json"]


def test_shutdown_from_the_shell(started: Any, capsys: pytest.CaptureFixture[str]) -> None:
    process, ready, _folder = started
    control = ready["control"]
    assert main(["ctl", control, "fault", "a", "irq-lost", "on", "every=0x3"]) == 0
    assert json.loads(capsys.readouterr().out) == {"on": {"irq-lost": {"every": 3}}}
    assert main(["ctl", control, "fault", "a", "irq-lost", "off"]) == 0
    assert main(["ctl", control, "link", "a", "down"]) == 0
    capsys.readouterr()
    assert main(["ctl", control, "state", "a"]) == 0
    assert json.loads(capsys.readouterr().out)["link"] is False
    assert main(["ctl", control, "fault", "a", "nonsense", "on"]) == 1
    for words in (
        ["fault", "a", "slow"],
        ["link", "a", "sideways"],
        ["events", "a", "since"],
        ["dma", "a", "detail=x"],
    ):
        assert main(["ctl", control, *words]) == 2
    assert main(["ctl", control, "shutdown"]) == 0
    assert process.wait(Deadline(10)) == 0
    assert main(["ctl", control, "state"]) == 2


def test_bad_input_is_said_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vfs.json"
    path.write_text(config(mtu=1, mac="x"))
    assert main(["serve", "--config", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert main(["serve", "--config", str(tmp_path / "missing")]) == 2
    assert os.listdir(tmp_path) == ["vfs.json"]


def test_a_socket_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vfs.json"
    path.write_text(config(socket=str(tmp_path / "no" / "a.sock")))
    assert main(["serve", "--config", str(path)]) == 1
    assert "No such file" in capsys.readouterr().err


def test_a_socket_that_somebody_listens_on_is_left_alone_and_a_dead_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    parsed = parse(config(socket=str(path)))
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        with pytest.raises(OSError, match="somebody listens"), server(parsed, Loop()):
            pass
    assert path.exists()
    with server(parsed, Loop()):
        pass
    assert not path.exists()


def test_a_signal_ends_it_in_order(tmp_path: Path) -> None:
    lines: list[str] = []

    def ready(line: str) -> None:
        lines.append(line)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

    run(parse(config(socket=str(tmp_path / "a.sock"))), ready)
    assert json.loads(lines[0])["ready"]
    assert os.listdir(tmp_path) == []
