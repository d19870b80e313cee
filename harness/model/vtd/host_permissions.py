"""Host permission tables: where translated requests may go (VT-d 4.2.4, 9.12; since revision 5.0).

Permissions are granted in fields PPi of 4 bits, of which an entry has 8 (for 1 GiB each), 16 (2 MiB) or 32 (4 KiB). The
first one that is not zero on the way down decides.
"""

from __future__ import annotations

from typing import NamedTuple

from harness.model.access import Access, AccessKind
from harness.model.bits import Field, Layout
from harness.model.explanation import Step
from harness.model.memory import Memory, OutsideMemory
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.pasid import PasidEntry
from harness.model.vtd.registers import VtdRegisters

__all__ = ["HOST_PERMISSION_ENTRIES", "HostPermissions"]


def _permissions(count: int) -> tuple[Field, ...]:
    return tuple(Field(f"PP{index}", 4 * index, 4) for index in range(count))


_TABLE_FIELDS = (
    Field("AV", 64, 1),
    Field("RSVD_65", 65, 11),
    Field("ADDR", 76, 40, in_place=True),
    Field("IGN_116", 116, 12),
)

HOST_PERMISSION_ENTRIES = {
    4: Layout("HPTL4E", "VT-d 9.12.1", (Field("RSVD_0", 0, 64), *_TABLE_FIELDS)),
    3: Layout("HPTL3E", "VT-d 9.12.2", (*_permissions(8), Field("RSVD_32", 32, 32), *_TABLE_FIELDS)),
    2: Layout("HPTL2E", "VT-d 9.12.3", (*_permissions(16), *_TABLE_FIELDS)),
    1: Layout("HPTL1E", "VT-d 9.12.4", _permissions(32)),
}
"""The entries of each level, 128 bits."""

_SIZE = 16
_R = 0b01
_W = 0b10
_AV = 1 << 64
_ADDRESS = ((1 << 52) - 1) & ~0xFFF


class _Level(NamedTuple):
    """What a walk needs to know of a level.

    Attributes:
        level: 1 for the last.
        shift: log2 of the bytes that one entry covers.
        page_shift: log2 of the bytes that one PPi covers.
        permissions: number of PPi.
        reserved: reserved bits.
    """

    level: int
    shift: int
    page_shift: int
    permissions: int
    reserved: int


class HostPermissions:
    """Checks translated requests as a unit with these registers does."""

    def __init__(self, registers: VtdRegisters) -> None:
        capabilities = registers.extended
        self._zero_length_reads = registers.zero_length_reads
        above_haw = (_ADDRESS & ~((1 << registers.host_address_width) - 1)) << 64
        # Bits 3:2 of a PPi are reserved; all of it is where 1 GiB pages are not there (VT-d 9.12).
        large = 0b1100 if capabilities.host_permission_1g_pages else 0b1111
        rows = ((4, 41, 41, 0, 0), (3, 33, 30, 8, large), (2, 25, 21, 16, 0b1100), (1, 17, 12, 32, 0b1100))
        self._levels = tuple(
            _Level(level, shift, page_shift, count, _reserved(level, count, in_field, above_haw))
            for level, shift, page_shift, count, in_field in rows
        )

    def check(
        self, memory: Memory, entry: PasidEntry, access: Access, trace: list[Step] | None
    ) -> VtdFaultReason | None:
        """Why a translated request may not go where it wants to; None where it may."""
        # SPT.9: HPTSZ makes the topmost table 4 KiB << HPTSZ large.
        if access.iova >> 49 + entry.host_permission_size:
            return VtdFaultReason.BEYOND_HOST_PERMISSIONS
        table = entry.host_permission_table
        for level, shift, page_shift, count, reserved in self._levels:
            # The topmost table has more than 256 entries where HPTSZ says so.
            index = access.iova >> shift if level == 4 else access.iova >> shift & 0xFF
            address = table + index * _SIZE
            try:
                value = memory.read_u64(address + 8) << 64 | memory.read_u64(address)
            except OutsideMemory:
                if trace is not None:
                    layout = HOST_PERMISSION_ENTRIES[level]
                    trace.append(Step(layout.name, layout.section, address, note="no memory there", size=_SIZE))
                top = level == 4
                return VtdFaultReason.HOST_PERMISSION_ROOT_ACCESS if top else VtdFaultReason.HOST_PERMISSION_ACCESS
            if trace is not None:
                layout = HOST_PERMISSION_ENTRIES[level]
                trace.append(Step(layout.name, layout.section, address, value, layout.describe(value), size=_SIZE))
            # HPT.2.
            if value & reserved:
                return VtdFaultReason.HOST_PERMISSION_RESERVED
            rights = value >> 4 * (access.iova >> page_shift & count - 1) & 0b1111 if count else 0
            if rights:
                return self._refused(access, rights)
            if level == 1 or not value & _AV:
                break
            table = value >> 64 & _ADDRESS
        # HPT.4, HPT.5, HPT.6: no permission is found.
        return self._refused(access, 0)

    def _refused(self, access: Access, rights: int) -> VtdFaultReason | None:
        """What follows from a PPi (VT-d 4.2.4.1)."""
        if access.kind is AccessKind.WRITE:
            return None if rights & _W else VtdFaultReason.HOST_PERMISSION_NO_WRITE
        if not access.length and self._zero_length_reads:
            return None if rights else VtdFaultReason.HOST_PERMISSION_NOT_FOUND
        return None if rights & _R else VtdFaultReason.HOST_PERMISSION_NO_READ


def _reserved(level: int, count: int, in_field: int, above_haw: int) -> int:
    layout = HOST_PERMISSION_ENTRIES[level]
    bits = sum(entry.mask for entry in layout.fields if entry.name.startswith("RSVD"))
    bits |= sum(in_field << 4 * index for index in range(count))
    return bits | (above_haw if "ADDR" in layout else 0)
