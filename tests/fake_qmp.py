"""A QMP server in this process, behind one end of a socketpair: enough of one for the lab's own client."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

GREETING = {"QMP": {"version": {"qemu": {"major": 11, "minor": 1, "micro": 3}, "package": ""}, "capabilities": []}}


@dataclass(frozen=True)
class Refused:
    """The answer of a command that QEMU refuses."""

    text: str


# The answer of a command that gets none.
SILENCE = object()


class FakeQmp:
    """Answers commands from ``answers``: a value, Refused, SILENCE or a function of the arguments that gives one.

    An unknown command is refused as QEMU does; ``commands`` keeps what was asked.
    ``client`` is the connected end for the lab. A mute server does not even greet.
    """

    def __init__(self, answers: Mapping[str, object] | None = None, *, mute: bool = False) -> None:
        self.client, self._sock = socket.socketpair()
        self.answers: dict[str, object] = {"qmp_capabilities": {}, **(answers or {})}
        self.commands: list[tuple[str, dict[str, Any]]] = []
        if not mute:
            threading.Thread(target=self._serve, daemon=True).start()

    @property
    def asked(self) -> list[str]:
        """Names of the commands after the negotiation."""
        return [name for name, _ in self.commands if name != "qmp_capabilities"]

    def event(self, name: str, **data: Any) -> None:
        """Send an event."""
        self._send({"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 0}})

    def hang_up(self) -> None:
        """The connection breaks off."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up and give back both ends."""
        self.hang_up()
        self._sock.close()
        self.client.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._sock.sendall(json.dumps(message).encode() + b"\r\n")

    def _serve(self) -> None:
        self._send(GREETING)
        for message in self._messages():
            name, arguments = message["execute"], message.get("arguments", {})
            self.commands.append((name, arguments))
            answer = self.answers.get(name, Refused(f"The command {name} has not been found"))
            if callable(answer):
                answer = answer(arguments)
            same_id = {key: value for key, value in message.items() if key == "id"}
            if isinstance(answer, Refused):
                self._send({"error": {"class": "GenericError", "desc": answer.text}, **same_id})
            elif answer is not SILENCE:
                self._send({"return": answer, **same_id})

    def _messages(self) -> Iterator[dict[str, Any]]:
        """The client sends JSON without anything between."""
        text = ""
        while True:
            with contextlib.suppress(json.JSONDecodeError):
                while text:
                    message, end = json.JSONDecoder().raw_decode(text)
                    text = text[end:].lstrip()
                    yield message
            try:
                data = self._sock.recv(65536)
            except OSError:
                return
            if not data:
                return
            text += data.decode()
