"""A host reached by SSH with paramiko: an L1 over a forwarded port, an L2 through its L1, or a real server.

One transport is kept per host (a login costs three times a command, facts/nested.md section 1) and every command is a
channel on it. Time limits are our own: paramiko's ``timeout`` is per read, and its handshake limit is not an argument.
"""

from __future__ import annotations

import base64
import contextlib
import select
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from lab.errors import DeadlineExceeded, Unreachable
from lab.evidence.record import Record
from lab.host.base import Host, Stream
from lab.model import Completed
from lab.wait import Deadline

# paramiko tells by a pipe that there is something to read, and can lose such a word: one thread sets its PosixPipe and
# OrPipe while another clears them, without a lock. So it is not trusted for longer than this, in seconds.
_LOOK_S = 0.5


@dataclass(frozen=True)
class SshAddress:
    """Where a host's sshd listens and how both sides prove who they are.

    ``host_key`` is the pinned public key as ``ssh-ed25519 AAAA…``; ``identity`` the file of our private key.
    """

    host: str
    port: int
    user: str
    identity: Path
    host_key: str


class _PatientTransport(paramiko.Transport):
    """A transport whose every timer fits a guest in nested emulation (dependencies.md section 4)."""

    patience_s = 120.0

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.banner_timeout = self.handshake_timeout = self.auth_timeout = self.patience_s
        self.channel_timeout = self.clear_to_send_timeout = self.patience_s
        options = self.get_security_options()
        # The cheapest strong pair that both OpenSSH and dropbear offer; group16 alone costs the client 68 ms.
        options.kex = ("curve25519-sha256@libssh.org",)
        options.ciphers = ("aes128-gcm@openssh.com", "aes128-ctr", "aes256-ctr")


class SshHost(Host):
    """Runs commands over one SSH transport."""

    def __init__(self, name: str, record: Record, address: SshAddress, client: paramiko.SSHClient) -> None:
        super().__init__(name, record)
        self.address = address
        transport = client.get_transport()
        assert transport is not None
        self._transport = transport
        # paramiko closes the transport when its client is collected.
        self._client = client

    def open_channel_to(self, host: str, port: int, deadline: Deadline) -> paramiko.Channel:
        """A byte channel from this host to ``host:port``, as a jump host gives."""
        try:
            return self._transport.open_channel(
                "direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=max(1.0, deadline.left())
            )
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise Unreachable(f"{self.name}: cannot reach {host}:{port} from it: {error!r}") from error

    def _session(self) -> paramiko.Channel:
        try:
            return self._transport.open_session(timeout=_PatientTransport.patience_s)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise Unreachable(f"{self.name}: the SSH connection is gone: {error!r}") from error

    def _execute(self, argv: Sequence[str], data: bytes, deadline: Deadline) -> Completed:
        begin = time.monotonic()
        channel = self._session()
        what = f"{self.name}: the end of {shlex.join(argv)[:120]}"
        with contextlib.closing(channel):
            with self._losing(f"running {shlex.join(argv)[:120]}"):
                with _closed_when_over(channel, deadline, what):
                    channel.exec_command(shlex.join(argv))
                    if data:
                        channel.sendall(data)
                    channel.shutdown_write()
                out, err = _drain(channel, deadline, what, self.watch or (lambda: None))
            status = channel.recv_exit_status()
        # paramiko says -1 both for "killed by a signal" and for "the connection is lost".
        if status == -1 and not self._transport.is_active():
            raise Unreachable(f"{self.name}: the SSH connection was lost during {shlex.join(argv)[:120]}")
        return Completed(tuple(argv), status, out, err, time.monotonic() - begin)

    def _start(self, argv: Sequence[str]) -> Stream:
        return _SshStream(self.open_command(argv))

    def open_command(self, argv: Sequence[str]) -> paramiko.Channel:
        """A channel with a running command, which is not recorded."""
        channel = self._session()
        with self._losing(f"starting {shlex.join(argv)[:120]}"):
            channel.exec_command(shlex.join(argv))
        return channel

    def open_terminal(self, term: str, columns: int, lines: int) -> paramiko.Channel:
        """A channel with a login shell on a terminal of its own."""
        channel = self._session()
        with self._losing("opening a terminal"):
            channel.get_pty(term, columns, lines)
            channel.invoke_shell()
        return channel

    @contextlib.contextmanager
    def _losing(self, doing: str) -> Iterator[None]:
        """Turn what paramiko raises when the connection goes away into Unreachable."""
        try:
            yield
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise Unreachable(f"{self.name}: lost while {doing}: {error!r}") from error

    def close(self) -> None:
        """Close the transport."""
        self._client.close()


class _SshStream(Stream):
    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def recv(self, size: int) -> bytes:
        return self._channel.recv(size)

    def send(self, data: bytes) -> None:
        self._channel.sendall(data)

    def close(self) -> None:
        self._channel.close()


@contextlib.contextmanager
def _closed_when_over(channel: paramiko.Channel, deadline: Deadline, what: str) -> Iterator[None]:
    """Close a channel when the time is up: paramiko waits for an answer, or for room to send, without a limit."""

    def close() -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):  # the connection may have gone meanwhile
            channel.close()

    timer = threading.Timer(deadline.left(), close)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (paramiko.SSHException, OSError):
        deadline.check(what)
        raise
    finally:
        timer.cancel()


def _drain(
    channel: paramiko.Channel, deadline: Deadline, what: str, watch: Callable[[], object]
) -> tuple[bytes, bytes]:
    out, err = bytearray(), bytearray()
    while True:
        ended = channel.closed or channel.eof_received
        while channel.recv_ready():
            out += channel.recv(65536)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(65536)
        if ended and (channel.closed or channel.status_event.wait(deadline.left())):
            return bytes(out), bytes(err)
        deadline.check(what)
        watch()
        select.select([channel], [], [], min(_LOOK_S, deadline.left()))


def connect(
    name: str, record: Record, address: SshAddress, deadline: Deadline, *, jump: SshHost | None = None
) -> SshHost:
    """Log in and return the host. Raises Unreachable with the reason (also when the host key is not the pinned one)."""
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    kind, _, blob = address.host_key.partition(" ")
    known = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
    key = paramiko.PKey.from_type_string(kind, base64.b64decode(blob.split()[0]))
    client.get_host_keys().add(known, kind, key)
    sock = jump.open_channel_to(address.host, address.port, deadline) if jump else None
    try:
        client.connect(
            address.host,
            address.port,
            username=address.user,
            key_filename=str(address.identity),
            sock=sock,
            timeout=deadline.left(),
            banner_timeout=deadline.left(),
            auth_timeout=deadline.left(),
            channel_timeout=deadline.left(),
            allow_agent=False,
            look_for_keys=False,
            transport_factory=_PatientTransport,
        )
    except (TimeoutError, paramiko.SSHException, EOFError, OSError) as error:
        client.close()
        if deadline.over():
            raise DeadlineExceeded(f"{name}: an SSH login at {known}", deadline.seconds) from error
        raise Unreachable(f"{name}: SSH login as {address.user} at {known} failed: {error!r}") from error
    return SshHost(name, record, address, client)
