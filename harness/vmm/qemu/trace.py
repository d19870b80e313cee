"""QEMU's trace events: turned on and off, read from the log as they come, and kept from filling the disk.

A guest can have QEMU trace without end: each request to a virtio-iommu is an event.

Source: QEMU, docs/devel/tracing.rst (the log backend).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from harness.errors import SpecError, VmmError
from harness.vmm import background
from harness.vmm.qemu.qmp import Qmp

__all__ = ["TraceEvent", "TraceGuard", "TraceReader", "set_state"]

_LOG_BYTES = 256 << 20
_LOOK_SECONDS = 1.0

# "2025-11-21T10:29:32.703537Z name text" since QEMU 9, "13912@1795256972.372938:name text" before; without
# `-msg timestamp=on` only "name text".
_LINE = re.compile(
    r"(?:(?P<iso>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z) |\d+@(?P<seconds>\d+\.\d+):)?"
    r"(?P<name>[a-z][a-z0-9_]*) ?(?P<text>.*)"
)
_FIELD = re.compile(r"(\w+)=(0x[0-9a-f]+|-?\d+)\b")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One event.

    Attributes:
        name: of the event.
        text: its arguments as QEMU formats them.
        time: seconds since 1970; None where the log has no time.
    """

    name: str
    text: str
    time: float | None

    @property
    def fields(self) -> Mapping[str, int]:
        """The arguments that are written `name=number`."""
        return {name: int(value, 0) for name, value in _FIELD.findall(self.text)}


class TraceReader:
    """Reads a growing trace log, a piece at a time."""

    def __init__(self, log: Path, earlier: Path | None = None, guard: TraceGuard | None = None) -> None:
        """Start at its beginning; it need not exist yet.

        Args:
            log: of the running process.
            earlier: log of the machine that it goes on from, whose events come first.
            guard: who ends the log where it grows too large.
        """
        self._log = log
        self._guard = guard
        self._position = 0
        self._earlier = TraceReader(earlier) if earlier else None

    def another(self) -> TraceReader:
        """One of the same log for somebody else, from what is in it now."""
        reader = TraceReader(self._log, guard=self._guard)
        if self._log.exists():
            reader._position = self._log.stat().st_size
        return reader

    def require_whole(self) -> None:
        """Refuse a log that is not all that happened.

        Raises:
            VmmError: its guard has ended it.
        """
        if self._guard is not None and self._guard.has_ended_it:
            raise VmmError(
                f"{self._log} has grown beyond {_LOG_BYTES >> 20} MiB, and tracing was turned off: what QEMU did since "
                "is not known",
                hint="have the guest do less, or start a new machine for what comes next",
            )

    def new(self) -> tuple[TraceEvent, ...]:
        """The events since the last call; a line that is not complete yet waits for the next.

        Lines that are not trace events, messages about the guest's errors, are left out.

        Raises:
            VmmError: as `require_whole`.
        """
        self.require_whole()
        events: list[TraceEvent] = []
        if self._earlier is not None:
            events += self._earlier.new()
            self._earlier = None
        try:
            if self._log.stat().st_size <= self._position:
                return tuple(events)
            with self._log.open("rb") as file:
                file.seek(self._position)
                while block := file.read(_BLOCK):
                    whole = block[: block.rfind(b"\n") + 1]
                    if not whole:
                        break
                    self._position += len(whole)
                    file.seek(self._position)
                    events += [event for line in whole.decode(errors="replace").splitlines() if (event := _event(line))]
        except FileNotFoundError:
            pass  # QEMU has not made it yet
        return tuple(events)


class TraceGuard:
    """Turns all trace events off where their log has grown beyond 256 MiB; it looks once a second.

    Attributes:
        has_ended_it: whether it had to.
    """

    def __init__(self, log: Path, qmp: Qmp) -> None:
        """Begin to look.

        Args:
            log: of the running process.
            qmp: of it.
        """
        self.has_ended_it = False
        self._log = log
        self._qmp = qmp
        background.call(self._wait)

    def close(self) -> None:
        """Look no more."""
        background.call(lambda: self._timer.cancel())

    def _wait(self) -> None:
        self._timer = background.loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        if self._log.exists() and self._log.stat().st_size > _LOG_BYTES:
            self.has_ended_it = True
            self._qmp.tell("trace-event-set-state", {"name": "*", "enable": False, "ignore-unavailable": True})
        else:
            self._wait()


def set_state(qmp: Qmp, pattern: str, *, enable: bool) -> None:
    """Turn events on or off in a running QEMU.

    Args:
        qmp: of the process.
        pattern: name of the event, or a pattern with `*`.
        enable: on, or off.

    Raises:
        SpecError: this build has no event of that name.
    """
    if not qmp.execute("trace-event-get-state", {"name": pattern}):
        raise SpecError(f"this QEMU has no trace event {pattern!r}", hint="`-trace help` lists them")
    qmp.execute("trace-event-set-state", {"name": pattern, "enable": enable})


def _event(line: str) -> TraceEvent | None:
    found = _LINE.fullmatch(line)
    if not found:
        return None
    moment = None
    if found["iso"]:
        moment = datetime.fromisoformat(found["iso"]).timestamp()
    elif found["seconds"]:
        moment = float(found["seconds"])
    return TraceEvent(found["name"], found["text"], moment)
