"""The control socket: JSON lines, one answer for each request, in order. Server and client."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from typing import Any

from lab.ifcvf import faults
from lab.ifcvf.loop import Loop
from lab.ifcvf.net import NetDevice
from lab.ifcvf.vf import Vf, listen

MAX_REQUEST = 65536
MAX_CLIENTS = 16
# A DMA map of 4 KiB pages in detail is long; who does not read it is not waited for.
MAX_UNSENT = 1 << 28
_RECEIVE = 65536


class ControlError(Exception):
    """The request was refused, or there is nobody to ask; the text says why."""


class Control:
    """The server's side. ``stop`` ends the process."""

    def __init__(self, loop: Loop, path: str, vfs: dict[str, Vf], stop: Callable[[], None]):
        self._loop = loop
        self._path = path
        self._vfs = vfs
        self._stop = stop
        self._clients: dict[int, _Client] = {}

    def listen(self) -> None:
        """Make the socket. Raises OSError when somebody listens on its path, or it cannot be made."""
        self._listener = listen(self._path)
        self._loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Remove the socket."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _address = self._listener.accept()
            if len(self._clients) >= MAX_CLIENTS:
                sock.close()
                return
            sock.setblocking(False)
            client = _Client(sock)
            self._clients[sock.fileno()] = client
            self._loop.watch(sock.fileno(), lambda: self._readable(client))

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.sock.fileno(), None)
        self._loop.forget(client.sock.fileno())
        client.sock.close()

    def _readable(self, client: _Client) -> None:
        try:
            data = client.sock.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.received += data
        if not data:
            self._drop(client)
            return
        *lines, rest = client.received.split(b"\n")
        client.received = bytearray(rest)
        for line in lines:
            client.unsent += json.dumps(self._answer(bytes(line))).encode() + b"\n"
        if len(rest) > MAX_REQUEST or len(client.unsent) > MAX_UNSENT:
            self._drop(client)
        else:
            self._writable(client)

    def _writable(self, client: _Client) -> None:
        try:
            del client.unsent[: client.sock.send(client.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        writable = (lambda: self._writable(client)) if client.unsent else None
        self._loop.watch(client.sock.fileno(), lambda: self._readable(client), writable)

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ControlError("a request is an object")
            operation = _OPERATIONS.get(str(request.pop("op", None)))
            if operation is None:
                raise ControlError(f"op must be one of {', '.join(_OPERATIONS)}")
            return {"ok": True, "result": operation(self, request)}
        except ControlError as error:
            return {"ok": False, "error": str(error)}
        except (ValueError, RecursionError) as error:
            return {"ok": False, "error": f"no JSON: {error}"}

    def _vf(self, request: dict[str, Any]) -> Vf:
        name = request.pop("vf", None)
        if not isinstance(name, str) or name not in self._vfs:
            raise ControlError(f"vf must be one of {', '.join(self._vfs)}")
        return self._vfs[name]

    def _of_all(self, request: dict[str, Any], ask: Callable[[Vf], Any]) -> Any:
        answer = ask(self._vf(request)) if "vf" in request else {name: ask(vf) for name, vf in self._vfs.items()}
        _nothing_left(request)
        return answer

    def _state(self, request: dict[str, Any]) -> Any:
        return self._of_all(request, Vf.state)

    def _counters(self, request: dict[str, Any]) -> Any:
        return self._of_all(request, Vf.counters)

    def _dma(self, request: dict[str, Any]) -> Any:
        vf, detail = self._vf(request), _truth(request, "detail", False)
        _nothing_left(request)
        return vf.dma(detail)

    def _events(self, request: dict[str, Any]) -> Any:
        vf, since = self._vf(request), request.pop("since", 0)
        _nothing_left(request)
        if type(since) is not int:
            raise ControlError("since must be a whole number")
        return vf.events(since)

    def _faults(self, request: dict[str, Any]) -> Any:
        if "vf" in request:
            vf = self._vf(request)
            _nothing_left(request)
            return {"on": vf.faults.on, "struck": vf.faults.struck}
        _nothing_left(request)
        return {
            name: {
                "what": fault.what,
                "parameters": {key: vars(parameter) for key, parameter in fault.parameters.items()},
            }
            for name, fault in faults.FAULTS.items()
        }

    def _fault(self, request: dict[str, Any]) -> Any:
        vf, on, name = self._vf(request), _truth(request, "on", True), str(request.pop("name", ""))
        values, problems = faults.parameters(name, request, net=vf.config.is_net)
        if problems:
            raise ControlError("; ".join(problems))
        vf.switch_fault(name, values if on else None)
        return {"on": vf.faults.on}

    def _link(self, request: dict[str, Any]) -> Any:
        vf, up = self._vf(request), _truth(request, "up", None)
        _nothing_left(request)
        if not isinstance(vf.device, NetDevice):
            raise ControlError("only a network VF has a link")
        vf.device.set_link(up)
        return {"link": up}

    def _shutdown(self, request: dict[str, Any]) -> Any:
        _nothing_left(request)
        self._loop.soon(self._stop)
        return {}


_OPERATIONS: dict[str, Callable[[Control, dict[str, Any]], Any]] = {
    "state": Control._state,
    "counters": Control._counters,
    "dma": Control._dma,
    "events": Control._events,
    "faults": Control._faults,
    "fault": Control._fault,
    "link": Control._link,
    "shutdown": Control._shutdown,
}


class _Client:
    """Somebody who asks."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.received = bytearray()
        self.unsent = bytearray()


def _truth(request: dict[str, Any], key: str, default: bool | None) -> bool:
    value = request.pop(key, default)
    if not isinstance(value, bool):
        raise ControlError(f"{key} must be true or false")
    return value


def _nothing_left(request: dict[str, Any]) -> None:
    if request:
        raise ControlError(f"unknown: {', '.join(request)}")


def ask(path: str, request: dict[str, Any], timeout: float = 30.0) -> Any:
    """Ask a server that is up. Raises ControlError when it refuses, OSError when nobody answers within ``timeout``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(path)
        sock.sendall(json.dumps(request).encode() + b"\n")
        with sock.makefile("rb") as stream:
            line = stream.readline()
    if not line:
        raise ConnectionResetError("the server has gone without an answer")
    answer = json.loads(line)
    if not answer["ok"]:
        raise ControlError(answer["error"])
    return answer["result"]
