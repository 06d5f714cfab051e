"""QMP through qemu.qmp, for code that is not asynchronous.

Each session has an event loop in a thread of its own. Every command, answer and event goes to ``qmp.jsonl``.
A listener is registered before the command that causes the event, so that no event is missed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError

from lab.errors import DeadlineExceeded, QmpError, QmpRefused
from lab.wait import Deadline, wait_until

T = TypeVar("T")

# What a processor of x86 needs to go on, as `info registers` tells it: code, stack, and what handles its faults.
_CPU = re.compile(r"^CPU#(\d+)$", re.MULTILINE)
_ADDRESSES = re.compile(r"\b(RIP|RSP|IDT|CR3) *= *([0-9a-f]{16})\b")

# How often the caller looks whether QEMU still lives while it waits for an answer or an event, in seconds.
_SLICE_S = 0.5
# A QEMU that dies hangs up before its parent can see its end: by its memory's size, and longer inside a slow L1.
_END_S = 5.0


class Qmp:
    """A QMP session. ``alive`` tells while waiting whether QEMU runs, and raises when it ended and should not have."""

    def __init__(self, name: str, transcript: Path, alive: Callable[[], bool]) -> None:
        self._name = name
        self._alive = alive
        # Why the guest ended its machine, in QEMU's words ("guest-reset"), empty while it did not.
        self.guest_end = ""
        self._registers = transcript.with_name("registers.txt")
        self._transcript = transcript.open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"qmp-{name}", daemon=True)
        self._thread.start()
        self._client = QMPClient(name)
        self._burial: asyncio.Task[None] | None = None
        # The default listener sees every event and would keep each for ever; this one writes them down and keeps none.
        self._client.events.event_filter = self._note_event

    def connect(self, sock: socket.socket, deadline: Deadline) -> None:
        """Negotiate over a connected socket. Raises QmpError, or what ``alive`` raises."""
        self._call(self._client.connect(sock), deadline, "the QMP greeting")

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float = 60.0) -> Any:
        """Run a command and return its answer. Raises QmpRefused with QEMU's text when it is refused."""
        self._note({"execute": command, "arguments": arguments})
        try:
            answer = self._call(
                self._client.execute(command, dict(arguments) if arguments else None), Deadline(timeout_s), command
            )
        except ExecuteError as error:
            self._note({"error": str(error)})
            raise QmpRefused(f"{self._name}: {command}: {error}") from error
        self._note({"return": answer})
        return answer

    def human(self, line: str) -> str:
        """Run a line of the human monitor, for what has no QMP command."""
        return str(self.execute("human-monitor-command", {"command-line": line}))

    @contextlib.contextmanager
    def listen(self, *names: str) -> Iterator[Events]:
        """Collect events from now on. Enter this before the command that causes them."""
        listener = EventListener(set(names))
        self._loop.call_soon_threadsafe(self._client.register_listener, listener)
        try:
            yield Events(self, listener, names)
        finally:
            self._loop.call_soon_threadsafe(self._client.remove_listener, listener)

    def close(self) -> None:
        """End the session; a session that broke is fine."""
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._client.disconnect(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()
        self._transcript.close()

    def _call(self, coroutine: Coroutine[Any, Any, T], deadline: Deadline, what: str) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while not future.done():
                with contextlib.suppress(concurrent.futures.TimeoutError):
                    return future.result(min(_SLICE_S, deadline.left()))
                if future.done():
                    break
                self._alive()
                deadline.check(f"{self._name}: {what}")
            return future.result(0)
        except ExecuteError:
            raise
        except (QMPError, EOFError, OSError) as error:
            self._await_end()
            raise QmpError(f"{self._name}: the monitor broke off during {what}: {error!r}") from error
        finally:
            future.cancel()

    def _await_end(self) -> None:
        """Give QEMU's end the time to be seen; return when it goes on living, or was meant to end."""
        with contextlib.suppress(DeadlineExceeded):
            wait_until(lambda: not self._alive(), Deadline(_END_S), f"{self._name}: the end of QEMU")

    def _note_event(self, event: Mapping[str, Any]) -> bool:
        self._note(event)
        if event["event"] == "SHUTDOWN" and event["data"]["guest"]:
            self.guest_end = event["data"]["reason"]
            self._burial = self._loop.create_task(self._bury())
        return False

    async def _bury(self) -> None:
        """Keep the registers of a machine that its guest has ended, and let its QEMU end, which waits for that.

        A triple fault says nothing on any console; where each processor stood is what is left of it, and whether the
        page tables in memory lead there: if they do, the processor did not follow them.
        """
        with contextlib.suppress(QMPError, EOFError, OSError):
            registers = await self._ask("info registers -a")
            self._registers.write_text(registers)
            for cpu, name, line in _questions(registers):
                told = f"\nCPU#{cpu} {name}: {line}\n{await self._ask(line, cpu)}"
                with self._registers.open("a", encoding="utf-8") as file:
                    file.write(told)
        with contextlib.suppress(QMPError, EOFError, OSError):
            await self._client.execute("quit")

    async def _ask(self, line: str, cpu: int = 0) -> str:
        try:
            answer = await self._client.execute("human-monitor-command", {"command-line": line, "cpu-index": cpu})
        except ExecuteError as error:
            return f"refused: {error}\n"
        return str(answer).replace("\r\n", "\n")

    def _note(self, message: Mapping[str, Any]) -> None:
        line = json.dumps({"t": round(time.monotonic(), 4), **message}, default=str)
        with self._lock:
            if not self._transcript.closed:
                self._transcript.write(line + "\n")
                self._transcript.flush()


class Events:
    """Events that arrived since :meth:`Qmp.listen` was entered."""

    def __init__(self, qmp: Qmp, listener: EventListener, names: tuple[str, ...]) -> None:
        self._qmp = qmp
        self._listener = listener
        self._names = names

    def wait(self, deadline: Deadline, accept: Callable[[Mapping[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The next event for which ``accept`` is true. Raises DeadlineExceeded, or what ``alive`` raises."""
        while True:
            event = self._qmp._call(self._listener.get(), deadline, f"the event {' or '.join(self._names)}")
            if accept(event):
                return dict(event)


def _questions(registers: str) -> list[tuple[int, str, str]]:
    """Of each processor, the register and the monitor's command that tells where its address leads."""
    _, *parts = _CPU.split(registers)
    return [
        (int(cpu), name, f"xp /512gx 0x{int(address, 16) & ~0xFFF:x}" if name == "CR3" else f"gva2gpa 0x{address}")
        for cpu, text in zip(parts[::2], parts[1::2], strict=True)
        for name, address in _ADDRESSES.findall(text)
    ]
