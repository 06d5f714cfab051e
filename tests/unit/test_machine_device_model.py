"""lab.machine.device_model: a process of the run that is ready before it is used, and whose death is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.errors import DeviceModelDied, LabError
from lab.machine import device_model as module
from lab.machine.device_model import DeviceModel
from lab.wait import Deadline, wait_until

VFS = [{"name": "vf1", "model": "n3000-net", "socket": "vf1.sock"}]

# Listens on the control socket of its configuration and answers what it is asked.
STAND_IN = """
import json, os, socket, sys
config = json.load(open(sys.argv[3]))
listener = socket.socket(socket.AF_UNIX)
listener.bind(config["control"])
listener.listen()
print(json.dumps({"ready": True}), flush=True)
while True:
    peer, _ = listener.accept()
    request = json.loads(peer.makefile().readline())
    if request["op"] == "die":
        print("it hurts", file=sys.stderr, flush=True)
        os._exit(3)
    good = request["op"] != "refuse"
    answer = {"ok": True, "result": {"rx_bytes": 7, "asked": 1}} if good else {"ok": False, "error": "no such VF"}
    peer.sendall(json.dumps(answer).encode() + b"\\n")
    peer.close()
"""


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> DeviceModel:
    monkeypatch.setattr(module, "_PROGRAM", (sys.executable, "-c", program))
    # Longer than a socket's path may be: run directories are.
    deep = folder / ("long-" * 20)
    deep.mkdir()
    return DeviceModel(deep, folder, VFS)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceModel]:
    model = made(tmp_path, monkeypatch, STAND_IN)
    model.start()
    yield model
    model.stop()


def test_it_is_asked_and_ended(model: DeviceModel) -> None:
    assert model.check_alive()
    assert model.counters("vf1") == {"rx_bytes": 7, "asked": 1}
    with pytest.raises(LabError, match=r"refused refuse \{'vf': 'vf1'\}: no such VF"):
        model.ask("refuse", vf="vf1")
    environment = Path(f"/proc/{model.pid}/environ").read_bytes()
    assert f"VDPALAB_RUN={model.folder.parent}".encode() in environment, "or `vdpalab clean` does not find it"
    assert {"argv.txt", "vfs.json", "control.sock", "server.pid"} <= {path.name for path in model.folder.iterdir()}
    model.stop()
    model.stop()
    assert not [*model.folder.glob("*.sock"), *model.folder.glob("*.pid")]
    assert not model.check_alive(), "it was wanted"


def test_its_death_is_told_with_its_last_words(model: DeviceModel) -> None:
    with pytest.raises(LabError):
        model.ask("die")
    wait_until(lambda: model.poll() is not None, Deadline(5), "its end")
    with pytest.raises(DeviceModelDied, match=r"ended \(exit status 3\)\nit hurts") as caught:
        model.check_alive()
    assert caught.value.log == model.log
    model.end_expected = True
    assert not model.check_alive()


@pytest.mark.parametrize(
    ("program", "error", "words"),
    [
        ("import sys; sys.exit('vfs.json: vfs.0.mac: needed')", DeviceModelDied, r"exit status 1.*\n.*mac: needed"),
        ("print('hello', flush=True); input()", LabError, "did not say that it is ready"),
        ("print('{\"ready\": false}', flush=True); import time; time.sleep(9)", LabError, "is not ready"),
    ],
)
def test_one_that_does_not_come_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, error: type[LabError], words: str
) -> None:
    model = made(tmp_path, monkeypatch, program)
    with pytest.raises(error, match=words):
        model.start()
    model.stop()
