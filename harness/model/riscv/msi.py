"""Virtual interrupt files: which guest pages they are, where messages to them go, how one in memory takes them (3.3.3).

The formats are those of the Advanced Interrupt Architecture (AIA), chapter on IOMMU support for MSIs. An MSI page-table
entry with C set is the implementation's own to interpret; here it has no meaning, and is misconfigured.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from harness.model.access import MemoryWrite
from harness.model.bits import Field, Layout
from harness.model.engine import Interrupt, PostedInterrupt
from harness.model.explanation import Step
from harness.model.memory import Memory, OutsideMemory
from harness.model.riscv.device import DeviceContext
from harness.model.riscv.faults import RiscvIommuBlocked, RiscvIommuCause
from harness.model.riscv.page_walk import beyond_physical_addresses
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.riscv.tags import msi_entry

__all__ = [
    "MSI_ENTRY_SIZE",
    "MSI_PTE_BASIC",
    "MSI_PTE_MRIF",
    "InterruptFile",
    "MsiTables",
    "interrupt_file_number",
    "is_interrupt_file",
]

MSI_ENTRY_SIZE = 16
"""Bytes of an MSI page-table entry."""

MSI_PTE_BASIC = Layout(
    "MSI PTE",
    "AIA, MSI PTE, basic translate mode",
    (
        Field("V", 0, 1),
        Field("M", 1, 2),
        Field("RSVD_3", 3, 7),
        Field("PPN", 10, 44),
        Field("RSVD_54", 54, 9),
        Field("C", 63, 1),
        Field("IGN_64", 64, 64),
    ),
)

MSI_PTE_MRIF = Layout(
    "MSI PTE",
    "AIA, MSI PTE, MRIF mode",
    (
        Field("V", 0, 1),
        Field("M", 1, 2),
        Field("RSVD_3", 3, 4),
        Field("MRIF_Address", 7, 47),
        Field("RSVD_54", 54, 9),
        Field("C", 63, 1),
        Field("N", 64, 10),
        Field("NPPN", 74, 44),
        Field("RSVD_118", 118, 6),
        Field("N10", 124, 1),
        Field("RSVD_125", 125, 3),
    ),
)

_BASIC, _MRIF = 3, 1
_CUSTOM = MSI_PTE_BASIC["C"].mask
_BASIC_RESERVED = MSI_PTE_BASIC.reserved
_MRIF_RESERVED = MSI_PTE_MRIF.reserved
_MRIF_SIZE = 512
_CAUSE = RiscvIommuCause


class InterruptFile(NamedTuple):
    """Where the messages to a virtual interrupt file go.

    Attributes:
        page: address of the page of the real interrupt file, or of the memory-resident one.
        is_resident: it is a memory-resident interrupt file (MRIF).
        notice_address: where the notice message of an MRIF is written.
        notice_data: NID, what is written there.
    """

    page: int
    is_resident: bool
    notice_address: int = 0
    notice_data: int = 0


def is_interrupt_file(context: DeviceContext, guest: int) -> bool:
    """Whether a guest physical address is in the page of a virtual interrupt file (3.1.3.6)."""
    return not (guest >> 12 ^ context.msi_pattern) & ~context.msi_mask


def interrupt_file_number(page: int, mask: int) -> int:
    """extract(x, y): the bits of a page number where the mask has ones, packed at the low end (3.3.3 step 5)."""
    number = position = 0
    while mask:
        lowest = mask & -mask
        if page & lowest:
            number |= 1 << position
        position += 1
        mask ^= lowest
    return number


class MsiTables:
    """Finds and fills virtual interrupt files as an IOMMU with these registers does."""

    def __init__(self, registers: RiscvIommuRegisters, memory: Memory) -> None:
        self._memory = memory
        self._words = struct.Struct(">2Q" if registers.big_endian else "<2Q")
        self._limit = 1 << registers.physical_address_size
        self._has_mrif = registers.has("MSI_MRIF")
        self._big_endian_msis = registers.big_endian_msis

    def find(
        self, context: DeviceContext, guest: int, trace: list[Step] | None
    ) -> InterruptFile | RiscvIommuCause | None:
        """Where messages to a guest physical address go; None where it is no virtual interrupt file's (3.3.3)."""
        # 1. to 4. Is it the address of a virtual interrupt file?
        if context.msi_table is None or not is_interrupt_file(context, guest):
            return None
        # 5. The interrupt file number.
        number = interrupt_file_number(guest >> 12, context.msi_mask)
        # 6. and 7. Read the entry; where nothing answers, cause 261. (8. is about poisoned data.)
        where = context.msi_table | number << 4
        try:
            if where >= self._limit:
                beyond_physical_addresses(where, MSI_ENTRY_SIZE)
            data = self._memory.read(where, MSI_ENTRY_SIZE)
        except OutsideMemory:
            if trace is not None:
                trace.append(Step("MSI PTE", MSI_PTE_BASIC.section, where, size=MSI_ENTRY_SIZE, note="no memory there"))
            return _CAUSE.MSI_PTE_LOAD_ACCESS_FAULT
        low, high = self._words.unpack(data)
        entry = int(low) | int(high) << 64
        if trace is not None:
            trace.append(_step(context, guest, number, where, data, entry))
        # 9. V is 0: cause 262.
        if not entry & 1:
            return _CAUSE.MSI_PTE_NOT_VALID
        # 10. and 11. Custom entries: see above. 12. Modes 0 and 2: cause 263.
        mode = entry >> 1 & 3
        if entry & _CUSTOM or mode not in (_BASIC, _MRIF):
            return _CAUSE.MSI_PTE_MISCONFIGURED
        # 13. Basic translate mode.
        if mode == _BASIC:
            if entry & _BASIC_RESERVED:
                return _CAUSE.MSI_PTE_MISCONFIGURED
            return InterruptFile(MSI_PTE_BASIC["PPN"].get(entry) << 12, False)
        # 14. MRIF mode.
        if not self._has_mrif or entry & _MRIF_RESERVED:
            return _CAUSE.MSI_PTE_MISCONFIGURED
        fields = dict(MSI_PTE_MRIF.decode(entry))
        return InterruptFile(fields["MRIF_Address"] << 9, True, fields["NPPN"] << 12, fields["N10"] << 10 | fields["N"])

    def store(
        self, file: InterruptFile, offset: int, data: int
    ) -> PostedInterrupt | RiscvIommuCause | RiscvIommuBlocked:
        """Store a message in a memory-resident interrupt file, or why it is not stored (AIA, MRIF mode).

        Args:
            file: a resident one.
            offset: of the message's address in the page of the virtual interrupt file, a multiple of four.
            data: its 32 bits.
        """
        # Bit 2 of the address says in which byte order the data is. Bits 11:3 of the address and 31:11 of the data are
        # zero, else it is no message.
        is_big_endian = offset & 4
        identity = int.from_bytes((data & 0xFFFF_FFFF).to_bytes(4, "little"), "big" if is_big_endian else "little")
        if offset >> 3 or identity >> 11 or (is_big_endian and not self._big_endian_msis):
            return RiscvIommuBlocked.MSI_DISCARDED
        # Of each 64 identities there is a doubleword of pending bits, and one of enable bits behind it; they are
        # little-endian always.
        where = file.page + (identity >> 6 << 4)
        try:
            if file.page >= self._limit:
                beyond_physical_addresses(file.page, _MRIF_SIZE)
            self._memory.read(file.page, _MRIF_SIZE)
            pending = self._memory.read_u64(where) | 1 << (identity & 63)
        except OutsideMemory:
            # Cause 264: the pending bit cannot be set.
            return _CAUSE.MRIF_ACCESS_FAULT
        notice = Interrupt(file.notice_address, file.notice_data, remapped=True)
        return PostedInterrupt(file.page, identity, notice, (MemoryWrite(where, pending.to_bytes(8, "little")),))


def _step(context: DeviceContext, guest: int, number: int, where: int, data: bytes, entry: int) -> Step:
    layout = MSI_PTE_MRIF if entry >> 1 & 3 == _MRIF else MSI_PTE_BASIC
    return Step(
        f"MSI PTE [interrupt file {number:#x}]",
        layout.section,
        where,
        int.from_bytes(data, "little"),
        layout.describe(entry),
        size=MSI_ENTRY_SIZE,
        cached=msi_entry(context.gscid, guest & ~0xFFF, number) if entry & 1 else None,
    )
