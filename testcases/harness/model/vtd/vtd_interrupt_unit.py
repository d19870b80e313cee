"""A unit that remaps interrupts, and what its outcomes have to be: for tests of VT-d."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.model.access import Fault
from harness.model.engine import Interrupt, MsiOutcome, MsiWrite
from harness.model.explanation import Step
from harness.model.memory import Region, SparseMemory
from harness.model.vtd.faults import VtdFaultReason, VtdFaultRecord
from harness.model.vtd.interrupts.remapping import InterruptRemapping
from harness.model.vtd.interrupts.tables import InterruptTable, remappable_message
from harness.model.vtd.register_layouts import CAP_REG, ECAP_REG
from harness.model.vtd.registers import VtdRegisters
from harness.model.x86_message import X86Message

RID = 0x0128
INDEX = 5
BASE = 0x1_0000
DESCRIPTOR = 0x4_0040
RAM = 0x10_0000
INTERRUPT_PAGES = range(0xFEE0_0000, 0xFEF0_0000, 0x1000)
CFIS, IRES = 1 << 23, 1 << 25
COMPATIBILITY = X86Message(destination=3, vector=0x41).encode()
ALL = {"QI": 1, "IR": 1, "EIM": 1}


class Unit:
    """A unit that remaps interrupts, with an entry at INDEX for RID."""

    def __init__(self, *, extended: bool = False, entries: int = 256, posted: bool = False) -> None:
        self.memory = SparseMemory((Region(0, RAM),))
        self.table = InterruptTable(self.memory, BASE, entries, extended)
        self.registers = VtdRegisters(
            rtaddr=0,
            cap=CAP_REG.encode({"PI": 1}),
            ecap=ECAP_REG.encode(ALL),
            gsts=IRES,
            host_address_width=46,
            irta=self.table.irta,
        )
        if posted:
            self.table.post(INDEX, vector=0x35, descriptor=DESCRIPTOR, requester=RID)
            self.table.write_descriptor(DESCRIPTOR, vector=0xF2, destination=7)
        else:
            self.table.remap(INDEX, vector=0x41, destination=3, requester=RID)

    def set(self, **values: Any) -> None:
        self.registers = replace(self.registers, **values)

    def ecap(self, **values: int) -> None:
        self.set(ecap=ECAP_REG.encode({**ALL, **values}))

    def write(self, index: int = INDEX, subhandle: int | None = None, *, requester: int = RID) -> MsiOutcome:
        return self.message(*remappable_message(index, subhandle), requester=requester)

    def message(self, address: int, data: int, *, requester: int = RID) -> MsiOutcome:
        remapping = InterruptRemapping(self.registers)
        write = MsiWrite(requester=requester, address=address, data=data)
        outcome = remapping.remap(self.memory, write, None)
        assert remapping.remap(self.memory, write, []) == outcome
        return outcome

    def steps(self) -> list[Step]:
        steps: list[Step] = []
        address, data = remappable_message(INDEX)
        write = MsiWrite(requester=RID, address=address, data=data)
        InterruptRemapping(self.registers).remap(self.memory, write, steps)
        return steps


def assert_fault(outcome: object, reason: VtdFaultReason, index: int | None = INDEX) -> Fault:
    """A fault whose record holds the source id and the index; index None where FI is undefined."""
    assert isinstance(outcome, Fault), outcome
    assert outcome.code is reason
    assert outcome.is_write
    assert outcome.iova in INTERRUPT_PAGES
    record = VtdFaultRecord(
        address=0, source_id=outcome.requester & 0xFFFF, reason=reason, is_read=False, interrupt_index=index
    )
    assert outcome.record == record
    assert VtdFaultRecord.decode(record.encode()) == record
    return outcome


def assert_remapped(outcome: object, message: X86Message) -> None:
    assert outcome == Interrupt(*message.encode(), remapped=True)
