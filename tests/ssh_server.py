"""An SSH server in this process that runs commands here: enough of one to test the lab's side against."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, MSG_CHANNEL_SUCCESS, OPEN_SUCCEEDED

from lab import proc
from lab.host.ssh import SshAddress
from lab.machine.keys import KeyPair, make_key
from lab.wait import Deadline

# A command upon which the server says nothing to anybody for a while, as a machine does whose kernel hangs.
FREEZES = "freeze"
_FROZEN_S = 2.0


@contextlib.contextmanager
def serve(folder: Path, identity: KeyPair, name: str) -> Iterator[SshAddress]:
    """Listen on a free port of 127.0.0.1 for as long as the block lasts; logging in takes ``identity``."""
    host_key = make_key(folder / f"{name}-host-key")
    allowed = paramiko.Ed25519Key.from_private_key_file(str(identity.private))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own = paramiko.Ed25519Key.from_private_key_file(str(host_key.private))
        threading.Thread(target=_accept, args=(listener, own, allowed), daemon=True).start()
        yield SshAddress("127.0.0.1", listener.getsockname()[1], "root", identity.private, host_key.public)
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, own: paramiko.PKey, allowed: paramiko.PKey) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve_one, args=(connection, own, allowed), daemon=True).start()


def _serve_one(connection: socket.socket, own: paramiko.PKey, allowed: paramiko.PKey) -> None:
    # A client that hangs up is part of the tests.
    ended = contextlib.suppress(paramiko.SSHException, EOFError, OSError)
    with contextlib.closing(_Transport(connection)) as transport, ended:
        transport.add_server_key(own)
        server = _Server(allowed)
        transport.start_server(server=server)
        kept: list[object] = []
        while transport.is_active():
            if channel := transport.accept(1):
                kept.append(channel)
                if destination := server.destinations.pop(channel.get_id(), None):
                    kept.append(_forward(channel, destination))


class _Transport(paramiko.Transport):
    """Starts a command when its client was told that it will: its end must not overtake that word."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self.waiting: dict[int, tuple[paramiko.Channel, str]] = {}

    def _send_user_message(self, data: paramiko.Message) -> None:
        super()._send_user_message(data)  # type: ignore[misc]  # the one place where the answer can be seen to go
        packet = data.asbytes()
        if packet[0] == MSG_CHANNEL_SUCCESS and (begun := self.waiting.pop(int.from_bytes(packet[1:5], "big"), None)):
            threading.Thread(target=_run, args=begun, daemon=True).start()


def _forward(channel: paramiko.Channel, destination: tuple[str, int]) -> object:
    """Copy both ways until either side ends, and then end the other: who is forwarded waits for that."""
    connection = socket.create_connection(destination)

    def back() -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while data := connection.recv(65536):
                channel.sendall(data)
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            channel.close()

    def forth() -> None:
        with contextlib.suppress(OSError):
            while data := channel.recv(65536):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    for copy in (back, forth):
        threading.Thread(target=copy, daemon=True).start()
    return connection


def _run(channel: paramiko.Channel, command: str) -> None:
    """Run a command with the channel as its three streams, and send its status."""
    errors, stderr = os.pipe()
    with proc.spawn(["sh", "-c", command], stdin=proc.PIPE, stdout=proc.PIPE, stderr=stderr) as child:
        os.close(stderr)
        assert child.stdin
        assert child.stdout
        stdin, stdout = child.stdin, child.stdout
        threading.Thread(target=_feed, args=(channel, stdin), daemon=True).start()
        stderr_pump = proc.pump(lambda size: os.read(errors, size), channel.sendall_stderr, "stderr")
        while data := os.read(stdout.fileno(), 65536):
            channel.sendall(data)
        stderr_pump.join()
        channel.send_exit_status(child.wait(Deadline(10)))
        channel.close()
    os.close(errors)


def _feed(channel: paramiko.Channel, stdin: IO[bytes]) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := channel.recv(65536):
            os.write(stdin.fileno(), data)
        stdin.close()


class _Server(paramiko.ServerInterface):
    def __init__(self, allowed: paramiko.PKey) -> None:
        self.allowed = allowed
        self.destinations: dict[int, tuple[str, int]] = {}

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return AUTH_SUCCESSFUL if key == self.allowed else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_pty_request(self, *_arguments: object) -> bool:
        return True

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        return self.check_channel_exec_request(channel, b"read line; echo you said $line")

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        transport = channel.get_transport()
        assert isinstance(transport, _Transport)
        if command == FREEZES.encode():
            threading.Event().wait(_FROZEN_S)
        transport.waiting[channel.remote_chanid] = (channel, command.decode())
        return True

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        self.destinations[chanid] = destination
        return OPEN_SUCCEEDED
