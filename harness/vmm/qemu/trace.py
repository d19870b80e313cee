"""QEMU's trace events: turned on and off, read from the log as they come, and those of virtio-iommu understood.

Source: QEMU, docs/devel/tracing.rst (the log backend) and hw/virtio/trace-events.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.errors import SpecError
from harness.vmm.qemu.qmp import Qmp

__all__ = [
    "Attach",
    "Detach",
    "FaultReport",
    "Map",
    "TraceEvent",
    "TraceReader",
    "Unmap",
    "VirtioIommuEvent",
    "set_state",
    "virtio_iommu_event",
]

# "2025-11-21T10:29:32.703537Z name text" since QEMU 9, "13912@1795256972.372938:name text" before; without
# `-msg timestamp=on` only "name text".
_LINE = re.compile(
    r"(?:(?P<iso>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z) |\d+@(?P<seconds>\d+\.\d+):)?"
    r"(?P<name>[a-z][a-z0-9_]*) ?(?P<text>.*)"
)
_FIELD = re.compile(r"(\w+) ?= ?(0x[0-9a-f]+|-?\d+)\b")
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

    def __init__(self, log: Path) -> None:
        """Start at its beginning; it need not exist yet."""
        self._log = log
        self._position = 0

    def new(self) -> tuple[TraceEvent, ...]:
        """The events since the last call; a line that is not complete yet waits for the next.

        Lines that are not trace events, messages about the guest's errors, are left out.
        """
        events: list[TraceEvent] = []
        try:
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
            return ()
        return tuple(events)


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


@dataclass(frozen=True, slots=True)
class Attach:
    """An endpoint was attached to a domain (virtio 1.2, 5.13.6.3)."""

    domain: int
    endpoint: int


@dataclass(frozen=True, slots=True)
class Detach:
    """An endpoint was detached from a domain (virtio 1.2, 5.13.6.4)."""

    domain: int
    endpoint: int


@dataclass(frozen=True, slots=True)
class Map:
    """A range was mapped (virtio 1.2, 5.13.6.5).

    Attributes:
        domain: in which domain.
        virt_start: first I/O virtual address.
        virt_end: last one, inclusive.
        phys_start: guest physical address that the first one maps to.
        flags: VIRTIO_IOMMU_MAP_F_READ (1), WRITE (2), MMIO (4).
    """

    domain: int
    virt_start: int
    virt_end: int
    phys_start: int
    flags: int


@dataclass(frozen=True, slots=True)
class Unmap:
    """A range was unmapped (virtio 1.2, 5.13.6.6); addresses are inclusive."""

    domain: int
    virt_start: int
    virt_end: int


@dataclass(frozen=True, slots=True)
class FaultReport:
    """The device reported a fault (virtio 1.2, 5.13.6.9)."""

    reason: int
    flags: int
    endpoint: int
    address: int


VirtioIommuEvent = Attach | Detach | Map | Unmap | FaultReport

_VIRTIO_IOMMU: Mapping[str, tuple[Callable[..., VirtioIommuEvent], tuple[str, ...]]] = {
    "virtio_iommu_attach": (Attach, ("domain", "endpoint")),
    "virtio_iommu_detach": (Detach, ("domain", "endpoint")),
    "virtio_iommu_map": (Map, ("domain", "virt_start", "virt_end", "phys_start", "flags")),
    "virtio_iommu_unmap": (Unmap, ("domain", "virt_start", "virt_end")),
    "virtio_iommu_report_fault": (FaultReport, ("reason", "flags", "endpoint", "address")),
}


def virtio_iommu_event(event: TraceEvent) -> VirtioIommuEvent | None:
    """What a trace event says that the guest asked of its virtio-iommu, or was told by it; None for any other event.

    Raises:
        SpecError: the event is one of these and lacks an argument: this build words it in a way that is not known.
    """
    if event.name not in _VIRTIO_IOMMU:
        return None
    make, names = _VIRTIO_IOMMU[event.name]
    fields: Mapping[str, Any] = event.fields
    missing = [name for name in names if name not in fields]
    if missing:
        raise SpecError(f"trace event {event.name} has no {', '.join(missing)}: {event.text!r}")
    return make(*(fields[name] for name in names))


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
