"""Primary fault recording: which register a fault goes to, and what is lost (VT-d 7.2.1 and 11.4.7, revision 5.10).

>>> log = FaultLog(registers=VtdRegisters(rtaddr=0, cap=0, ecap=0, gsts=1 << 31))
>>> record = VtdFaultRecord(address=0x1000, source_id=0x28, reason=5, is_read=False)
>>> first = log.record(record)
>>> first.index, hex(first.log.registers.fsts)
(0, '0x2')
>>> second = first.log.record(record)  # there is one register only: PFO
>>> second.index, hex(second.log.registers.fsts)
(None, '0x3')
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.model.bits import changed
from harness.model.engine import MsiWrite
from harness.model.vtd.faults import FRCD_REG, VtdFaultRecord
from harness.model.vtd.register_layouts import GSTS_REG
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.reporting.events import FSTS_REG, raise_status, settle_fault_event

__all__ = ["FaultLog", "Recorded"]

_F = FRCD_REG["F"].mask
_PFO = FSTS_REG["PFO"].mask
_PPF = FSTS_REG["PPF"].mask
_ENABLED = GSTS_REG["TES"].mask | GSTS_REG["IRES"].mask


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultLog:
    """The fault recording registers of a unit, with the index that no register shows. Each step makes a new one.

    Attributes:
        registers: of which FSTS_REG, FECTL_REG, FEDATA_REG, FEADDR_REG, FEUADDR_REG and FRCD_REG matter.
        next_index: the register that the next fault goes to.
        compresses: this hardware records no second fault of a source id whose first is pending, as it may.
    """

    registers: VtdRegisters
    next_index: int = 0
    compresses: bool = False

    @property
    def records(self) -> tuple[int, ...]:
        """Every fault recording register, also those that `VtdRegisters.frcd` leaves out."""
        frcd = self.registers.frcd
        return frcd + (0,) * (self.registers.fault_recording_registers - len(frcd))

    def record(self, fault: VtdFaultRecord) -> Recorded:
        """Hardware has a non-recoverable fault to record, of address translation or of interrupt remapping."""
        # VT-d 7.2.1: nothing is recorded after an overflow, until software clears PFO.
        if self.registers.fsts & _PFO:
            return Recorded(self, None)
        records = self.records
        if self.compresses and any(r & _F and FRCD_REG["SID"].get(r) == fault.source_id for r in records):
            return Recorded(self, None)
        index = self.next_index
        if records[index] & _F:
            overflowed = replace(self.registers, fsts=self.registers.fsts | _PFO)
            return Recorded(replace(self, registers=overflowed), None)
        frcd = (*records[:index], fault.encode(), *records[index + 1 :])
        after = replace(self, registers=replace(self.registers, frcd=frcd), next_index=(index + 1) % len(records))
        if self.registers.fsts & _PPF:
            return Recorded(after, index)
        event = raise_status(after.registers, {"PPF": 1, "FRI": index})
        return Recorded(replace(after, registers=event.registers), index, event.interrupt)

    def write_record(self, index: int, value: int) -> FaultLog:
        """Software writes a fault recording register: a one clears F, and PPF follows (VT-d 11.4.7.6)."""
        if not value & _F:
            return self
        records = self.records
        frcd = (*records[:index], records[index] & ~_F, *records[index + 1 :])
        pending = int(any(record & _F for record in frcd))
        fsts = changed(FSTS_REG, self.registers.fsts, {"PPF": pending})
        return replace(self, registers=settle_fault_event(replace(self.registers, frcd=frcd, fsts=fsts)))

    def with_registers(self, registers: VtdRegisters) -> FaultLog:
        """Software or hardware has changed other registers. The index starts anew when nothing is remapped (7.2.1)."""
        return replace(self, registers=registers, next_index=self.next_index if registers.gsts & _ENABLED else 0)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a fault.

    Attributes:
        log: afterwards.
        index: of the register that holds it; None where it is lost.
        interrupt: the fault event that was sent.
    """

    log: FaultLog
    index: int | None
    interrupt: MsiWrite | None = None
