"""Primary fault recording: which register a fault goes to, and what is lost (VT-d 7.2.1 and 11.4.7, revision 5.10).

>>> log = FaultLog.of(VtdRegisters(rtaddr=0, cap=0, ecap=0, gsts=1 << 31))
>>> record = VtdFaultRecord(address=0x1000, source_id=0x28, reason=5, is_read=False)
>>> first = log.record(record)
>>> first.index, hex(first.log.fsts)
(0, '0x2')
>>> second = first.log.record(record)  # there is one register only: PFO
>>> second.index, hex(second.log.fsts)
(None, '0x3')
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

from harness.model.engine import MsiWrite
from harness.model.vtd.faults import FRCD_REG, VtdFaultRecord
from harness.model.vtd.register_layouts import GSTS_REG
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.reporting.events import FSTS_REG, EventRegisters, fault_event, fsts_after_write

__all__ = ["FaultLog", "Recorded"]

_F = FRCD_REG["F"].mask
_SID = FRCD_REG["SID"]
_SID_MASK, _SID_LOW = _SID.mask, _SID.low
_PFO = FSTS_REG["PFO"].mask
_PPF = FSTS_REG["PPF"].mask
_FRI = FSTS_REG["FRI"]
_FRI_MASK, _FRI_LOW = _FRI.mask, _FRI.low
_ENABLED = GSTS_REG["TES"].mask | GSTS_REG["IRES"].mask


class FaultLog(NamedTuple):
    """The fault registers of a unit, with the index that no register shows. Each step makes a new one.

    Attributes:
        event: FSTS_REG, FECTL_REG, FEDATA_REG, FEADDR_REG and FEUADDR_REG.
        records: every FRCD_REG, 128 bits each.
        next_index: the register that the next fault goes to.
        compresses: this hardware records no second fault of a source id whose first is pending, as it may.
    """

    event: EventRegisters
    records: tuple[int, ...]
    next_index: int = 0
    compresses: bool = False

    @classmethod
    def of(cls, registers: VtdRegisters, *, compresses: bool = False) -> Self:
        """What registers say; faults are recorded from the first FRCD_REG on."""
        frcd = registers.frcd
        records = frcd + (0,) * (registers.fault_recording_registers - len(frcd))
        return cls(fault_event(registers), records, compresses=compresses)

    @property
    def fsts(self) -> int:
        """FSTS_REG."""
        return self.event.status

    @property
    def fectl(self) -> int:
        """FECTL_REG."""
        return self.event.control

    def record(self, fault: VtdFaultRecord) -> Recorded:
        """Hardware has a non-recoverable fault to record, of address translation or of interrupt remapping."""
        event, records, index, compresses = self
        fsts = event.status
        # VT-d 7.2.1: nothing is recorded after an overflow, until software clears PFO.
        if fsts & _PFO:
            return Recorded(self, None)
        if compresses:
            source = fault.source_id << _SID_LOW | _F
            if any(record & (_SID_MASK | _F) == source for record in records):
                return Recorded(self, None)
        if records[index] & _F:
            return Recorded(self._replace(event=event._replace(status=fsts | _PFO)), None)
        records = (*records[:index], fault.encode(), *records[index + 1 :])
        following = (index + 1) % len(records)
        if fsts & _PPF:
            return Recorded(FaultLog(event, records, following, compresses), index)
        event, interrupt = event.raised(fsts & ~_FRI_MASK | _PPF | index << _FRI_LOW)
        return Recorded(FaultLog(event, records, following, compresses), index, interrupt)

    def write_record(self, index: int, value: int) -> FaultLog:
        """Software writes a fault recording register: a one clears F, and PPF follows (VT-d 11.4.7.6)."""
        if not value & _F:
            return self
        records = self.records
        records = (*records[:index], records[index] & ~_F, *records[index + 1 :])
        pending = _PPF if any(record & _F for record in records) else 0
        event = self.event
        return self._replace(event=event.settled(event.status & ~_PPF | pending), records=records)

    def write_fsts(self, value: int) -> FaultLog:
        """Software writes FSTS_REG."""
        event = self.event
        return self._replace(event=event.settled(fsts_after_write(event.status, value)))

    def write_fectl(self, value: int) -> tuple[FaultLog, MsiWrite | None]:
        """Software writes FECTL_REG: the log afterwards, and the message that is sent."""
        event, message = self.event.with_control(value)
        return self._replace(event=event), message

    def with_gsts(self, gsts: int) -> FaultLog:
        """GSTS_REG has changed. The index starts anew when nothing is remapped (VT-d 7.2.1)."""
        return self if gsts & _ENABLED else self._replace(next_index=0)


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
