"""The requests that a guest's driver sent to its virtio-iommu, taken from QEMU's trace and submitted to the model.

Sources: QEMU, hw/virtio/trace-events and hw/virtio/virtio-iommu.c; virtio 1.3, 5.13.6.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from harness.errors import GuestError, SpecError
from harness.model.virtio_iommu.engine import VirtioIommuEngine
from harness.model.virtio_iommu.requests import Attach, AttachFlags, Detach, Map, Request, Status, Unmap
from harness.pci import Address
from harness.vmm.qemu.trace import TraceEvent

__all__ = ["REQUEST_EVENTS", "RequestReplay", "request"]

# Of each event: the request that it tells of, which has the event's arguments for its fields.
_REQUESTS: Mapping[str, tuple[Callable[..., Request], tuple[str, ...]]] = {
    "virtio_iommu_attach": (Attach, ("domain", "endpoint")),
    "virtio_iommu_detach": (Detach, ("domain", "endpoint")),
    "virtio_iommu_map": (Map, ("domain", "virt_start", "virt_end", "phys_start", "flags")),
    "virtio_iommu_unmap": (Unmap, ("domain", "virt_start", "virt_end")),
}
_SWITCH_EVENT = "virtio_iommu_switch_address_space"
_SWITCH = re.compile(r"Device ([0-9a-f:.]+) switching address space \(iommu enabled=([01])\)")
_SWITCH_SECONDS = 0.5
_POLL_SECONDS = 0.01

REQUEST_EVENTS = (*_REQUESTS, _SWITCH_EVENT)
"""The trace events that must be on from the start of the machine."""


def request(event: TraceEvent) -> Request | None:
    """The request that a trace event tells of; None for any other event.

    Raises:
        SpecError: the event is one of these and lacks an argument: this build words it in a way that is not known.
    """
    if event.name not in _REQUESTS:
        return None
    make, names = _REQUESTS[event.name]
    fields = event.fields
    missing = [name for name in names if name not in fields]
    if missing:
        raise SpecError(f"trace event {event.name} has no {', '.join(missing)}: {event.text!r}")
    return make(**{name: fields[name] for name in names})


class RequestReplay:
    """Submits to a model what the driver has submitted to QEMU, in the same order.

    QEMU's trace of an ATTACH leaves its flags out. Whether it made a bypass domain is told by the events that follow
    it: the endpoint's address space is switched when it leaves its old domain, where it had one, and again, to what
    counts, in the new one.

    Attributes:
        submitted: the requests so far, in their order.

    Args:
        engine: the model.
        new: gives the trace events since it was called last.
    """

    def __init__(self, engine: VirtioIommuEngine, new: Callable[[], Iterable[TraceEvent]]) -> None:
        self.submitted: list[Request] = []
        self._engine = engine
        self._new = new
        self._attaching: Attach | None = None
        self._translated = True
        self._switches_to_come = 0

    def catch_up(self) -> None:
        """Take over what has been traced since the last time.

        After an ATTACH that is the last of it, this waits up to half a second for what tells its domain's kind: QEMU
        before 7.1 and an ATTACH that was refused never do, and the domain is taken for one that translates.

        Raises:
            GuestError: the model refuses a request.
            SpecError: as `request`.
        """
        self._read()
        end = time.monotonic() + _SWITCH_SECONDS
        while self._attaching is not None and self._switches_to_come > 0 and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
            self._read()
        self._settle()

    def _read(self) -> None:
        for event in self._new():
            if event.name == _SWITCH_EVENT:
                self._switched(event)
                continue
            match request(event):
                case None:
                    pass
                case Attach() as attach:
                    self._settle()
                    self._attaching = attach
                    self._translated = True
                    self._switches_to_come = 1 if self._engine.domain_of(attach.endpoint) is None else 2
                case other:
                    self._settle()
                    self._submit(other)

    def _switched(self, event: TraceEvent) -> None:
        found = _SWITCH.search(event.text)
        if found is None:
            raise SpecError(f"trace event {event.name} is worded in a way that is not known: {event.text!r}")
        if self._attaching is not None and Address.parse(found[1]).requester == self._attaching.endpoint:
            self._translated = found[2] == "1"
            self._switches_to_come -= 1

    def _settle(self) -> None:
        """Submit the ATTACH that waits to be told whether its domain is a bypass domain."""
        if self._attaching is not None:
            waiting, self._attaching = self._attaching, None
            flags = AttachFlags.NONE if self._translated else AttachFlags.BYPASS
            self._submit(replace(waiting, flags=flags))

    def _submit(self, request: Request) -> None:
        status = self._engine.submit(request)
        if status is not Status.OK:
            raise GuestError(
                f"the guest's virtio-iommu driver sent {request}, which the model answers with {status!r}",
                hint="QEMU traces requests before it checks them: either the driver sent a bad one, or QEMU and the "
                "model differ",
            )
        self.submitted.append(request)
