"""The fault queue as it fills (4.2, 6.16).

Every fault is taken to be reported by itself, though identical ones may be reported once (4.2), with the page offset of
its address in iotval, which may be left out (4.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.model.bits import Field, Layout
from harness.model.memory import OutsideMemory, WritableMemory
from harness.model.riscv.faults import FAULT_RECORD, RECORD_SIZE, RiscvIommuCause, RiscvIommuFaultRecord
from harness.model.riscv.interrupts import FAULTS, Interrupts
from harness.model.riscv.queues import FAULT_QUEUE, next_slot, ring
from harness.model.riscv.register_fields import FCTL
from harness.model.riscv.register_file import RegisterFile
from harness.model.unit import AnyBytes, Place

__all__ = ["FaultQueue", "FaultQueueState"]

_BE = FCTL["BE"].mask
# 4.2: iotval2 has a meaning for guest page faults only.
_GUEST_PAGE_FAULTS = frozenset(cause for cause in RiscvIommuCause if cause.name.endswith("GUEST_PAGE_FAULT"))
_IOTVAL2, _DOUBLEWORD = 24, 8
# A record for those who compare: its cause in two pieces, which are short enough to be told by their values.
_SEEN = Layout(
    FAULT_RECORD.name,
    FAULT_RECORD.section,
    (Field("CAUSE", 0, 8), Field("CAUSE high", 8, 4), *FAULT_RECORD.fields[1:]),
)


@dataclass(frozen=True, slots=True)
class FaultQueueState:
    """What a fault changes, beside memory and what interrupts change."""

    csr: int
    tail: int


class FaultQueue:
    """Writes faults down.

    Args:
        file: has the registers of the queue.
        memory: has its records.
        limit: the first address beyond the physical ones.
        interrupts: sends its interrupts.
    """

    def __init__(self, file: RegisterFile, memory: WritableMemory, limit: int, interrupts: Interrupts) -> None:
        self._file = file
        self._memory = memory
        self._limit = limit
        self._interrupts = interrupts

    def add(self, record: RiscvIommuFaultRecord) -> tuple[AnyBytes, ...]:
        """Write a fault down, as far as the queue takes it.

        Returns:
            What of the record that was written has no meaning.
        """
        values = self._file.values
        csr = values["fqcsr"]
        slot = next_slot(FAULT_QUEUE, values["fqb"], values["fqh"], values["fqt"], csr)
        if slot is None:
            return ()
        free: tuple[AnyBytes, ...] = ()
        if slot.address is None:
            values["fqcsr"] = slot.csr
        elif self._write(slot.address, record):
            values["fqt"] = slot.tail
            if record.cause not in _GUEST_PAGE_FAULTS:
                free = (AnyBytes(slot.address + _IOTVAL2, _DOUBLEWORD),)
        else:
            values["fqcsr"] = csr | FAULT_QUEUE.memory_fault
        if csr & FAULTS.enable:
            self._interrupts.pend(FAULTS)
        return free

    def _write(self, address: int, record: RiscvIommuFaultRecord) -> bool:
        """Whether memory took it."""
        if address >= self._limit:
            return False
        try:
            self._memory.write(address, record.encode(big_endian=bool(self._file.values["fctl"] & _BE)))
        except OutsideMemory:
            return False
        return True

    def save(self) -> FaultQueueState:
        """A point to come back to."""
        values = self._file.values
        return FaultQueueState(values["fqcsr"], values["fqt"])

    def restore(self, state: FaultQueueState) -> None:
        """Be as at `save`, but for memory."""
        self._file.values["fqcsr"] = state.csr
        self._file.values["fqt"] = state.tail

    def place_at(self, address: int) -> Place | None:
        """The record at an address."""
        values = self._file.values
        start, mask = ring(values["fqb"])
        if not values["fqcsr"] & FAULT_QUEUE.active or not start <= address < start + (mask + 1) * RECORD_SIZE:
            return None
        first = address - (address - start) % RECORD_SIZE
        if values["fctl"] & _BE:
            # The fields are not where the layout has them.
            return Place("fault record", first, RECORD_SIZE)
        return Place("fault record", first, RECORD_SIZE, _SEEN, source="DID", input="iotval")
