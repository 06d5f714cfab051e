"""lab.host.shell and lab.host.undo, and the syntax of every script that is sent to a host."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from lab import proc
from lab.attach import vhost_vdpa, virtio_vdpa
from lab.errors import CommandError, DeadlineExceeded, LabError
from lab.evidence.record import Record
from lab.host import modules, net, pci, shell, vdpa
from lab.host.fake import FakeHost
from lab.host.local import LocalHost
from lab.host.shell import run_script
from lab.host.undo import undoing


def scripts() -> list[tuple[str, str]]:
    senders: list[ModuleType] = [modules, net, pci, vdpa, vhost_vdpa, virtio_vdpa]
    return [
        (f"{module.__name__}.{name}", text)
        for module in senders
        for name, text in vars(module).items()
        if name.startswith("_") and name.isupper() and isinstance(text, str) and "\n" in text
    ]


@pytest.mark.parametrize(("name", "text"), scripts())
def test_script_is_valid_shell(name: str, text: str) -> None:
    assert proc.run(["sh", "-n"], input=(shell._PRELUDE + text).encode(), check=False).returncode == 0


def test_scripts_are_found() -> None:
    assert len(scripts()) > 10


def test_arguments_are_not_interpreted(tmp_path: Path) -> None:
    host = LocalHost("here", Record(tmp_path))
    assert run_script(host, 'printf "%s|" "$@"', "a b", "$(id)", "").text == "a b|$(id)||"


def test_put_writes_a_line_and_tells_the_kernels_answer(tmp_path: Path) -> None:
    host = LocalHost("here", Record(tmp_path / "record"))
    run_script(host, 'put 1 "$1"', str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "1\n"
    with pytest.raises(CommandError, match="No such file"):
        run_script(host, 'put 1 "$1/file"; echo not reached', str(tmp_path / "missing"))


def test_messages_leave_the_script_out(tmp_path: Path) -> None:
    host = FakeHost({"*": (1, "Device or resource busy")}, tmp_path)
    with pytest.raises(CommandError) as caught:
        run_script(host, "put 1 /sys/secret", "vdpa0")
    assert "'…' vdpalab vdpa0' ended with 1" in str(caught.value).replace('"', "'")
    assert "secret" not in str(caught.value)
    assert "busy" in str(caught.value)
    assert caught.value.log is not None
    assert "secret" in caught.value.log.read_text()


def test_late_script_is_named_by_its_arguments(tmp_path: Path) -> None:
    host = LocalHost("here", Record(tmp_path))
    with pytest.raises(DeadlineExceeded, match="here: the end of sh -ec '…' vdpalab vdpa0"):
        run_script(host, "exec sleep 10", "vdpa0", timeout_s=0.1)


def test_undo_runs_after_success_and_its_error_is_raised(tmp_path: Path) -> None:
    host = FakeHost({}, tmp_path)
    done: list[int] = []
    with undoing(host, "it", lambda: done.append(1)):
        pass
    assert done == [1]

    def fails() -> None:
        raise LabError("cannot undo")

    with pytest.raises(LabError, match="cannot undo"), undoing(host, "it", fails):
        pass


def test_failing_undo_never_replaces_the_first_error(tmp_path: Path) -> None:
    def fails() -> None:
        raise LabError("cannot undo")

    host = FakeHost({}, tmp_path)
    with pytest.raises(ValueError, match="first"), undoing(host, "the thing", fails):
        raise ValueError("first")
    events = (tmp_path / "events.jsonl").read_text()
    assert '"undo-failed"' in events
    assert "the thing" in events
    assert "cannot undo" in events
