"""A virtio-iommu over time, on the PCI transport: registers, virtqueues, domains, faults (virtio 1.3, 2, 4.1, 5.13).

Nothing is cached that a request of the driver, once answered, does not change. Of a fault's report READ and WRITE are
left open: nowhere are they asked for. That it tells the address is asked for here, though a device may leave that out.
What the driver must not do is `NotModelled` where it happens, but for malformed chains (`pci_transport`). Choices that
the specification leaves to the device are named in `engine`, `domains`, `device`, `virtqueue` and `pci_transport`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.model.access import Access, Fault, MemoryWrite, Outcome
from harness.model.engine import Interrupt, MsiOutcome, MsiWrite
from harness.model.explanation import Explanation, Step
from harness.model.memory import WritableMemory
from harness.model.undo import UndoMemory
from harness.model.unit import AnyBytes, Coverage, Place, Readout, UnitState
from harness.model.virtio.pci_registers import PciIdentity, PciLayout
from harness.model.virtio.pci_transport import PciTransport, TransportState
from harness.model.virtio.virtqueue import USED_ELEMENT_SIZE, SplitQueue
from harness.model.virtio_iommu.config import VirtioIommuConfig
from harness.model.virtio_iommu.device import EVENT_QUEUE, REQUEST_QUEUE, VirtioIommuDevice
from harness.model.virtio_iommu.faults import VirtioIommuFaultRecord
from harness.model.virtio_iommu.probe import ReservedRegion

__all__ = ["VirtioIommuUnit"]

_NAMES = {REQUEST_QUEUE: "requestq", EVENT_QUEUE: "eventq"}


@dataclass(frozen=True, slots=True)
class _State:
    """What settling a request changes, beside memory."""

    transport: TransportState


class VirtioIommuUnit:
    """See `InterruptUnit`.

    Args:
        layout: where the structures of the transport are in the register space, which is their BAR.
        identity: what the transport says right after a reset.
        space: configuration space right after a reset (`read_config_space`).
        memory: the unit's own.
        coverage: where to note what is exercised.
        endpoints: endpoint id (for PCI: segment << 16 | requester id) to its reserved regions, of all endpoints that
            the device manages.
        advises: whether the device uses `avail_event`: see `SplitQueue`.

    Attributes:
        layout: the same,
        identity: and the same.

    Raises:
        SpecError: a configuration that a device must not present.
    """

    def __init__(
        self,
        layout: PciLayout,
        identity: PciIdentity,
        space: bytes,
        memory: WritableMemory,
        *,
        coverage: Coverage,
        endpoints: Mapping[int, tuple[ReservedRegion, ...]],
        advises: bool = True,
    ) -> None:
        self._memory = memory
        self._undo = UndoMemory(memory)
        self._coverage = coverage
        self.layout = layout
        self.identity = identity
        self._device = VirtioIommuDevice(space, identity.features, endpoints, coverage)
        self._engine = self._device.engine
        self._transport = PciTransport(layout, identity, self._undo, self._device, coverage, advises=advises)

    @property
    def memory(self) -> WritableMemory:
        """See `Unit`."""
        return self._memory

    @property
    def coverage(self) -> Coverage:
        """See `Unit`."""
        return self._coverage

    @property
    def granule(self) -> int:
        """See `Unit`: the lowest bit of page_size_mask."""
        return self._engine.granule

    @property
    def config(self) -> VirtioIommuConfig:
        """What the device offers."""
        return self._engine.config

    @property
    def evidence(self) -> Sequence[tuple[int, int]]:
        """See `Unit`: none; reports are in memory, with the index of the used ring."""
        return ()

    @property
    def keeps_first_record(self) -> bool:
        """See `Unit`: each has a record."""
        return False

    @property
    def records_pages(self) -> bool:
        """See `Unit`: a report has the address."""
        return False

    def reset(self) -> None:
        """See `Unit`; of all that was configured `bypass` is restored too (5.13.4.2)."""
        self._transport.reset()
        self._engine.reset(system=True)

    def read(self, offset: int, size: int) -> Readout:
        """See `Unit`. Reading ISR status clears it."""
        return self._transport.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """See `Unit`.

        Raises:
            NotModelled: a driver must not do this, or a virtqueue is not in memory.
        """
        self._transport.write(offset, size, value)

    def store(self, address: int, data: bytes) -> None:
        """See `Unit`."""
        self._undo.write(address, data)

    def outcomes(self, access: Access) -> Sequence[Outcome]:
        """See `Unit`: one."""
        return (self._engine.translate(access),)

    def settle(self, access: Access, outcome: Outcome) -> Sequence[MemoryWrite | AnyBytes]:
        """See `Unit`. Left open is whether a report tells of READ and WRITE.

        Raises:
            NotModelled: the event queue is not in memory.
        """
        open_bytes: list[AnyBytes] = []
        if isinstance(outcome, Fault):
            record = _record_of(outcome)
            self._transport.use(EVENT_QUEUE, lambda queue: open_bytes.extend(self._device.report(record, queue)))
        return open_bytes

    def interrupts(self, write: MsiWrite) -> Sequence[MsiOutcome]:
        """See `InterruptUnit`: messages go through as they are (5.13.6.8.1)."""
        return (Interrupt(write.address, write.data, remapped=False),)

    def settle_interrupt(self, write: MsiWrite, outcome: MsiOutcome) -> None:
        """See `InterruptUnit`: nothing changes."""

    def explain(self, access: Access) -> Explanation:
        """See `Unit`."""
        return self._engine.explain(access)

    @property
    def own_messages(self) -> Sequence[MsiWrite]:
        """See `InterruptUnit`."""
        return ()

    def explain_interrupt(self, write: MsiWrite) -> Sequence[Step]:
        """See `InterruptUnit`: nothing is looked at."""
        return ()

    def take_interrupts(self) -> Sequence[MsiWrite]:
        """See `Unit`: none, with MSI-X disabled."""
        return ()

    def save(self) -> UnitState:
        """See `Unit`."""
        self._undo.mark()
        return _State(self._transport.save())

    def restore(self, state: UnitState) -> None:
        """See `Unit`."""
        assert isinstance(state, _State)
        self._undo.rollback()
        self._transport.restore(state.transport)

    def register_at(self, offset: int) -> Place | None:
        """See `Unit`."""
        device = self.layout.device
        if offset in device:
            return self._device.config_place_at(offset - device.offset, device.offset)
        return self._transport.place_at(offset)

    def structure_at(self, address: int) -> Place | None:
        """See `Unit`: used rings, and what is written into buffers that are in an available ring."""
        queues = [(number, self._transport.queue(number)) for number in _NAMES]
        live = [(number, queue) for number, queue in queues if queue is not None]
        for number, queue in live:
            if (place := queue.place_at(address)) is not None:
                return replace(place, name=f"{place.name} of {self._user(number, queue, place)}")
        # Reports first: the chains of the request queue are many, and most of them long over.
        for number, queue in reversed(live):
            if (place := self._device.buffer_place_at(address, number, queue)) is not None:
                return place
        return None

    def _user(self, number: int, queue: SplitQueue, place: Place) -> str:
        """Who uses a part of a used ring: the request whose element it is, where it is one's, or the queue."""
        if number == REQUEST_QUEUE and place.size == USED_ELEMENT_SIZE:
            head = int.from_bytes(self._memory.read(place.start, 4), "little")
            if request := self._device.request_at(head):
                return request
        gave_back = number == REQUEST_QUEUE and self._device.gave_back
        return f"{_NAMES[number]}{' after a request without an answer' if gave_back else ''}"


def _record_of(fault: Fault) -> VirtioIommuFaultRecord:
    assert isinstance(fault.record, VirtioIommuFaultRecord)
    return fault.record
