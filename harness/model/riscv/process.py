"""The process directory table, and the process context in it: the first stage of one process (3.2, 3.3.2).

As with device contexts, what a process context says is kept by its bytes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from harness.model.bits import Field, Layout
from harness.model.explanation import Step
from harness.model.memory import Memory, OutsideMemory
from harness.model.riscv.device import DeviceContext, FirstStage, FirstStages, directory_step
from harness.model.riscv.device_layouts import DIRECTORY_ENTRY, DIRECTORY_RESERVED
from harness.model.riscv.faults import RiscvIommuCause
from harness.model.riscv.page_walk import ImplicitAccess, beyond_physical_addresses, entry_reader
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.riscv.tags import directory_entry
from harness.model.riscv.walk_results import PageLeaf, Trouble, WalkBlocked

__all__ = ["PROCESS_CONTEXT", "ProcessContext", "ProcessDirectory", "process_indexes"]

PROCESS_CONTEXT = Layout(
    "process context",
    "RISC-V IOMMU 3.2.3",
    (
        Field("ta.V", 0, 1),
        Field("ta.ENS", 1, 1),
        Field("ta.SUM", 2, 1),
        Field("RSVD_ta_3", 3, 9),
        Field("ta.PSCID", 12, 20),
        Field("RSVD_ta_32", 32, 32),
        Field("fsc.PPN", 64, 44),
        Field("RSVD_fsc_44", 108, 16),
        Field("fsc.MODE", 124, 4),
    ),
)

_PPN = DIRECTORY_ENTRY["PPN"].mask
_SIZE = 16
_CAUSE = RiscvIommuCause
_KEPT = 4096


class ProcessContext(NamedTuple):
    """A process context that was found good.

    Attributes:
        ens: requests of supervisor privilege are let in.
        first: the first stage.
    """

    ens: bool
    first: FirstStage


def process_indexes(process_id: int) -> tuple[int, int, int]:
    """PDI[0], PDI[1] and PDI[2] (3)."""
    return process_id & 0xFF, process_id >> 8 & 0x1FF, process_id >> 17


class ProcessDirectory:
    """Finds process contexts as an IOMMU with these registers does.

    Args:
        registers: of the IOMMU.
        memory: where the tables are.
        first_stages: what a context may select.
    """

    def __init__(self, registers: RiscvIommuRegisters, memory: Memory, first_stages: FirstStages) -> None:
        self._memory = memory
        self._first_stages = first_stages
        self._limit = 1 << registers.physical_address_size
        # 3.10: the byte order is that of DC.tc.SBE.
        self._readers = tuple(entry_reader(memory, 8, big_endian=big_endian) for big_endian in (False, True))
        self._good: dict[tuple[bytes, int, bool], ProcessContext | RiscvIommuCause] = {}

    def find(
        self,
        device_id: int,
        context: DeviceContext,
        process_id: int,
        implicit: ImplicitAccess | None,
        trace: list[Step] | None,
    ) -> ProcessContext | RiscvIommuCause | WalkBlocked:
        """The context of a process, whose id is known not to be too wide, or why there is none (3.3.2).

        Args:
            device_id: for the trace.
            context: with PDTV, and pdtp.MODE not Bare.
            process_id: of the request, or the default 0.
            implicit: the second stage, where there is one.
            trace: takes a step for each entry; None for speed.
        """
        indexes = process_indexes(process_id)
        # 1. Start at the root that pdtp.PPN gives.
        address = context.pdt_root
        for level in range(context.pdt_levels - 1, -1, -1):
            # 2. The entry has 8 bytes, the process context at the end 16.
            address += indexes[level] << (3 if level else 4)
            # 3. With a second stage it is a guest physical address, read implicitly.
            where = address
            if implicit is not None:
                found = implicit.load(address, trace)
                if not isinstance(found, PageLeaf):
                    # 3.3.2: a guest page fault is reported as such, an access fault as one of the directory.
                    return found if found.trouble is Trouble.GUEST_PAGE_FAULT else _CAUSE.PDT_ENTRY_LOAD_ACCESS_FAULT
                where = found.address
            # 4. At the last level, go on with step 10.
            if not level:
                return self._context(device_id, context, process_id, where, trace)
            # 5. Read the entry; where nothing answers, cause 265. (6. is about poisoned data.)
            try:
                if where >= self._limit:
                    beyond_physical_addresses(where, 8)
                entry = self._readers[context.sbe](where)
            except OutsideMemory:
                if trace is not None:
                    trace.append(Step("PDT entry", "RISC-V IOMMU 3.2.1", where, note="no memory there"))
                return _CAUSE.PDT_ENTRY_LOAD_ACCESS_FAULT
            if trace is not None:
                trace.append(directory_step("PDT entry", where, entry, device_id, process_id, context.sbe))
            # 7. V is 0: cause 266.
            if not entry & 1:
                return _CAUSE.PDT_ENTRY_NOT_VALID
            # 8. A reserved bit: cause 267.
            if entry & DIRECTORY_RESERVED:
                return _CAUSE.PDT_ENTRY_MISCONFIGURED
            # 9. Go on with the next table.
            address = (entry & _PPN) << 2
        raise AssertionError("a process directory has one to three levels")

    def _context(
        self, device_id: int, context: DeviceContext, process_id: int, where: int, trace: list[Step] | None
    ) -> ProcessContext | RiscvIommuCause:
        # 10. Read the process context; where nothing answers, cause 265.
        try:
            if where >= self._limit:
                beyond_physical_addresses(where, _SIZE)
            data = self._memory.read(where, _SIZE)
        except OutsideMemory:
            if trace is not None:
                trace.append(
                    Step("process context", PROCESS_CONTEXT.section, where, size=_SIZE, note="no memory there")
                )
            return _CAUSE.PDT_ENTRY_LOAD_ACCESS_FAULT
        if trace is not None:
            decoded = _decode(data, context.sbe)
            trace.append(
                Step(
                    f"process context [{process_id:#x}]",
                    PROCESS_CONTEXT.section,
                    where,
                    int.from_bytes(data, "little"),
                    PROCESS_CONTEXT.describe(decoded),
                    size=_SIZE,
                    cached=directory_entry(device_id, process_id, is_leaf=True) if decoded & 1 else None,
                    reason=self._broken_rule(dict(PROCESS_CONTEXT.decode(decoded)), context) if decoded & 1 else "",
                )
            )
        key = (data, context.sxl, context.sbe)
        found = self._good.get(key)
        if found is None:
            if len(self._good) >= _KEPT:
                self._good.clear()
            found = self._good[key] = self._judge(_decode(data, context.sbe), context)
        return found

    def _broken_rule(self, fields: dict[str, int], context: DeviceContext) -> str:
        """What the first rule of 3.2.4 is about that makes a process context a misconfiguration; empty for none."""
        reserved = next((name for name in fields if name.startswith("RSVD") and fields[name]), "")
        is_supported = self._first_stages.supports(context.sxl, fields["fsc.MODE"])
        return reserved or ("" if is_supported else "fsc.MODE")

    def _judge(self, value: int, context: DeviceContext) -> ProcessContext | RiscvIommuCause:
        fields = dict(PROCESS_CONTEXT.decode(value))
        # 11. V is 0: cause 266.
        if not fields["ta.V"]:
            return _CAUSE.PDT_ENTRY_NOT_VALID
        # 12. Misconfigured by 3.2.4: a reserved bit, or a first stage of a mode that is reserved or not there.
        if self._broken_rule(fields, context):
            return _CAUSE.PDT_ENTRY_MISCONFIGURED
        # 13. The process context is found.
        return ProcessContext(
            ens=bool(fields["ta.ENS"]),
            first=self._first_stages.find(
                context.sxl,
                fields["fsc.MODE"],
                fields["fsc.PPN"],
                fields["ta.PSCID"],
                big_endian=context.sbe,
                reaches_user=bool(fields["ta.SUM"]),
            ),
        )


def _decode(data: bytes, big_endian: bool) -> int:
    low, high = struct.unpack(">2Q" if big_endian else "<2Q", data)
    return int(low) | int(high) << 64
