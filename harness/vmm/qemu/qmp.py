"""QMP: a synchronous face on qemu.qmp's client, with every event and every message kept.

>>> qmp.execute("query-status")                                   # doctest: +SKIP
{'status': 'running', 'running': True}
>>> mark = qmp.event_count                                        # doctest: +SKIP
>>> qmp.execute("device_del", {"id": "edu0"})                     # doctest: +SKIP
>>> qmp.wait_event("DEVICE_DELETED", since=mark, deadline=5)      # doctest: +SKIP

Take the mark before doing what causes the event: an event that came early is then found, and an old one is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import ConnectError, ExecInterruptedError, ExecuteError, Message, QMPClient, Runstate, StateError

from harness.errors import HostError, VmmError
from harness.vmm import background
from harness.vmm.qemu.process import QemuProcess

__all__ = ["Event", "Qmp", "QmpError"]

_TAIL_MESSAGES = 400
_TAIL_CHARACTERS = 2000  # of one message in the tail: the answer to query-qmp-schema has 200 kB
_STATE_SECONDS = 3.0
_LOG_BYTES = 32 * 1024 * 1024

# qemu.qmp logs the end of the connection as an error; it ends here by QEMU being killed, every time.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Event:
    """One QMP event.

    Attributes:
        name: `DEVICE_DELETED`...
        data: as QEMU sent it.
        host_time: when it arrived, `time.monotonic()` seconds.
        vmm_time: when QEMU says it happened, seconds since 1970.
    """

    name: str
    data: Mapping[str, Any]
    host_time: float
    vmm_time: float


class QmpError(VmmError):
    """QEMU refused a command.

    Attributes:
        command: its name.
        error_class: `GenericError`, `CommandNotFound`, `DeviceNotFound`... (QAPI `QapiErrorClass`).
        description: QEMU's text.
    """

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"QMP {command}: {description} ({error_class})")
        self.command = command
        self.error_class = error_class
        self.description = description


class Qmp:
    """The QMP connection of one process."""

    def __init__(self, process: QemuProcess, log: Path | None = None) -> None:
        """Prepare; `connect` makes the connection.

        Args:
            process: who is at the other end.
            log: file that every message is written to, up to 32 MiB.

        Raises:
            HostError: the log cannot be written.
        """
        self._process = process
        self._started = time.monotonic()
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._tail: deque[str] = deque(maxlen=_TAIL_MESSAGES)
        self._client: _Client | None = None
        self._room = _LOG_BYTES
        self._connected = True
        self._watching: asyncio.Task[None] | None = None
        self._told: asyncio.Task[None] | None = None
        try:
            self._file = log.open("w", encoding="utf-8") if log else None
        except OSError as error:
            raise HostError(f"{log} cannot be written: {error.strerror}", hint="free space there") from error
        process.on_end(self._wake)
        process.ask_state_by(self._run_state)

    def connect(self, connection: socket.socket, deadline: float) -> None:
        """Take over a connected socket: greeting and negotiation of capabilities.

        Args:
            connection: the socket; it is this object's from now on.
            deadline: seconds.

        Raises:
            VmmStartError: QEMU ended meanwhile.
            VmmTimeout: no greeting came.
        """

        async def work() -> _Client:
            client = _Client(self._record)
            await client.connect(connection)
            self._watching = asyncio.create_task(self._watch(client))
            return client

        try:
            self._client = background.run(work(), deadline)
        except TimeoutError:
            raise self._process.timeout("for its QMP greeting", deadline, self._process.stderr) from None
        except ConnectError as error:
            with contextlib.suppress(VmmError):
                self._process.wait(1)
            if self._process.alive:
                raise VmmError(f"QMP could not be set up: {error}", evidence=self.tail()) from error
            raise self._process.start_error() from error

    def execute(self, name: str, arguments: Mapping[str, object] | None = None, *, deadline: float = 10.0) -> Any:
        """Run a command and return its answer.

        Args:
            name: of the command.
            arguments: JSON-like.
            deadline: seconds.

        Raises:
            QmpError: QEMU refused it.
            VmmTimeout: no answer in time.
            VmmDied: QEMU ended first.
        """
        client = self._client
        assert client is not None, "connect() comes first"
        try:
            return background.run(client.execute(name, arguments), deadline)
        except TimeoutError:
            raise self._process.timeout(f"QMP {name}", deadline, self.tail(20)) from None
        except ExecuteError as error:
            raise QmpError(name, error.error_class, error.error.error.desc) from None
        except (ExecInterruptedError, StateError) as error:
            raise self._process.died(f"for QMP {name}") from error

    def tell(self, name: str, arguments: Mapping[str, object]) -> None:
        """In the loop's thread: give a command of which nobody waits for the answer."""

        async def work(client: _Client) -> None:
            with contextlib.suppress(ExecuteError, ExecInterruptedError, StateError):
                await client.execute(name, arguments)

        if self._client is not None:
            self._told = asyncio.create_task(work(self._client))  # asyncio itself keeps no task alive

    def pass_descriptor(self, name: str, descriptor: int) -> None:
        """Give QEMU a duplicate of a file descriptor, which `fd:NAME` then stands for.

        Raises:
            QmpError: QEMU refused it.
            VmmDied: QEMU has ended.
        """
        client = self._client
        assert client is not None, "connect() comes first"
        try:
            background.call(lambda: client.send_fd_scm(descriptor))
        except (OSError, StateError):
            raise self._process.died("for a file descriptor") from None
        self.execute("getfd", {"fdname": name})

    @property
    def event_count(self) -> int:
        """How many events have come; the mark to give as `since`."""
        return len(self._events)

    def events_since(self, mark: int = 0) -> tuple[Event, ...]:
        """All events after the mark, in the order they came; none is ever dropped."""
        return tuple(self._events[mark:])

    def wait_event(
        self,
        names: str | tuple[str, ...],
        match: Callable[[Event], bool] = lambda event: True,
        *,
        deadline: float,
        since: int = 0,
    ) -> Event:
        """The first event of one of these names, after the mark, that matches; waits for it.

        Args:
            names: one, or several.
            match: further condition.
            deadline: seconds.
            since: `event_count` at the moment from which the event counts.

        Raises:
            VmmTimeout: it did not come in time.
            VmmDied: QEMU ended first.
        """
        names = (names,) if isinstance(names, str) else names
        asked = f"for its event {' or '.join(names)}"
        end = time.monotonic() + deadline
        position = since
        while True:
            with self._changed:
                # The process is looked at before the events: whatever it sent last has then been seen.
                alive = self._process.alive and self._connected
                for event in self._events[position:]:
                    if event.name in names and match(event):
                        return event
                position = len(self._events)
                left = end - time.monotonic()
                if alive and left > 0:
                    self._changed.wait(left)
                    continue
            if not alive:
                raise self._process.died(asked)
            raise self._process.timeout(asked, deadline, self.tail(20))

    def tail(self, count: int = _TAIL_MESSAGES) -> str:
        """The last messages, one a line, each with the seconds since the start and its direction."""
        return "\n".join(list(self._tail)[-count:])

    def close(self) -> None:
        """Close the connection and the log."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(TimeoutError):
                background.run(client.end(), 5)
        if self._file:
            self._file.close()
            self._file = None

    def _record(self, direction: str, message: Message) -> None:
        """In the loop's thread: note one message."""
        now = time.monotonic()
        line = f"{now - self._started:9.3f} {direction} {json.dumps(dict(message))}"
        self._tail.append(line if len(line) <= _TAIL_CHARACTERS else f"{line[:_TAIL_CHARACTERS]}...")
        self._write(line + "\n")
        name = message.get("event")
        if isinstance(name, str):
            stamp: Any = message.get("timestamp") or {}
            data: Any = message.get("data") or {}
            moment = stamp.get("seconds", 0) + stamp.get("microseconds", 0) / 1e6
            if name == "SHUTDOWN":
                self._process.told_shutdown(data.get("reason", ""))
            with self._changed:
                self._events.append(Event(name, data, now, moment))
                self._changed.notify_all()

    def _write(self, line: str) -> None:
        if self._file is None or self._room <= 0:
            return
        self._room -= len(line)
        if self._room <= 0:
            line = "the log is full: what follows is not kept\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError:
            self._room = 0  # a full disk costs the log file, not the run; the tail in memory goes on

    async def _watch(self, client: _Client) -> None:
        """In the loop's thread: note the end of the connection, which QEMU may outlive."""
        while client.runstate is Runstate.RUNNING:
            await client.runstate_changed()
        self._connected = False
        self._wake()

    def _run_state(self) -> str:
        return str(self.execute("query-status", deadline=_STATE_SECONDS)["status"])

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _Client(QMPClient):
    """qemu.qmp's client with its two message hooks used, and its ending made quiet."""

    def __init__(self, record: Callable[[str, Message], None]) -> None:
        super().__init__()
        self._record = record

    def _cb_inbound(self, msg: Message) -> Message:
        self._record("<-", msg)
        self.events.clear()  # its own queue of events, which nobody reads, must not grow
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        self._record("->", msg)
        return msg

    async def end(self) -> None:
        # The reader's error is how QEMU's end looks from here; the process itself has said it already.
        with contextlib.suppress(EOFError, OSError, asyncio.CancelledError):
            await self.disconnect()
