"""Logging in to a lab that is up from another process: what the lab writes down, and what is made of it.

``machines/<m>/ssh.json`` says where a machine's sshd listens and how both sides prove who they are. The private key is
in the run's secrets, which go away with the lab.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.errors import InputError, LabError
from lab.evidence.record import Record
from lab.host.ssh import SshAddress, SshHost, connect
from lab.wait import Deadline

ENTRANCE = "ssh.json"

_LOGIN_S = 120.0


@dataclasses.dataclass(frozen=True)
class Entrance:
    """How to log in to one machine; ``jump`` names the machine to go through, if any."""

    address: SshAddress
    jump: str | None = None


def note_entrance(record: Record, machine: str, address: SshAddress, jump: str | None = None) -> None:
    """Write down how to log in to a machine."""
    text = json.dumps({**dataclasses.asdict(address), "jump": jump}, default=str)
    record.write(f"machines/{machine}/{ENTRANCE}", text + "\n")


def forget_entrance(record: Record, machine: str) -> None:
    """Nobody answers there any more."""
    (record.path / "machines" / machine / ENTRANCE).unlink(missing_ok=True)


def entrances(run_dir: Path) -> dict[str, Entrance]:
    """Every machine of a run that could be logged in to, by its name. Raises LabError for a broken file."""
    return {path.parent.name: _read(path) for path in sorted(run_dir.glob(f"machines/*/{ENTRANCE}"))}


def entrance(run_dir: Path, machine: str) -> Entrance:
    """How to log in to one machine. Raises InputError naming those there are."""
    known = entrances(run_dir)
    if machine not in known:
        there = f"there are: {', '.join(known)}" if known else "no machine answers yet"
        raise InputError([f"no machine {machine!r} to log in to in {run_dir}: {there}"])
    return known[machine]


@contextlib.contextmanager
def logged_in(run_dir: Path, machine: str) -> Iterator[SshHost]:
    """A connection to a machine of a lab that is up, through its jump host if it has one, as long as the block lasts.

    What is done over it is recorded nowhere: what a person does by hand is no evidence of the run.
    Raises InputError and what :func:`lab.host.ssh.connect` raises.
    """
    way = entrance(run_dir, machine)
    with contextlib.ExitStack() as stack:
        jump = stack.enter_context(logged_in(run_dir, way.jump)) if way.jump else None
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="vdpalab-"))
        record = stack.enter_context(contextlib.closing(Record(Path(scratch))))
        host = connect(machine, record, way.address, Deadline(_LOGIN_S), jump=jump)
        stack.callback(host.close)
        yield host


def kernel_key(run_dir: Path) -> str:
    """The key of the kernel artifact that a run boots. Raises InputError before it is known."""
    try:
        return str(json.loads((run_dir / "plan.json").read_text())["artifacts"]["kernel"]["key"])
    except (OSError, ValueError, LookupError) as error:
        raise InputError([f"{run_dir}: this lab has no kernel yet"]) from error


def ssh_argv(run_dir: Path, machine: str, known_hosts: Path) -> list[str]:
    """The same for ssh(1), for a person: with the pinned host keys in a file made by :func:`known_hosts_text`."""
    way = entrance(run_dir, machine)
    address = way.address
    options = {
        "UserKnownHostsFile": _quoted(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": machine,
        "IdentityFile": _quoted(address.identity),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        "LogLevel": "ERROR",
    }
    if way.jump:
        through = [*ssh_argv(run_dir, way.jump, known_hosts), "-W", f"{address.host}:{address.port}"]
        options["ProxyCommand"] = _percent(shlex.join(through))
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    # -F: nothing of the user's own configuration may decide what the lab's machines are.
    return ["ssh", "-F", "none", *words, "-p", str(address.port), f"{address.user}@{address.host}"]


def known_hosts_text(run_dir: Path) -> str:
    """The pinned host key of every machine of a run, by the machine's name, as sshd(8) describes the file."""
    return "".join(f"{name} {way.address.host_key}\n" for name, way in entrances(run_dir).items())


def _read(path: Path) -> Entrance:
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        jump = data.pop("jump")
        return Entrance(SshAddress(**{**data, "identity": Path(data["identity"])}), jump)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise LabError(f"{path} is broken: {error!r}") from error


def _quoted(path: Path) -> str:
    """A path as a value in ssh_config(5), which takes words apart and replaces ``%``."""
    return f'"{_percent(str(path))}"'


def _percent(text: str) -> str:
    return text.replace("%", "%%")
