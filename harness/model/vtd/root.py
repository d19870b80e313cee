"""The legacy-mode root table: one entry for each bus (VT-d 9.1)."""

from __future__ import annotations

from harness.model.bits import Field, Layout
from harness.model.explanation import Step
from harness.model.memory import Memory, OutsideMemory
from harness.model.vtd.faults import VtdFaultReason

__all__ = ["ROOT_ENTRY", "find_context_table", "root_entry_address"]

# VT-d 9.1: P is bit 0, the context-table pointer bits 63:12, everything else is reserved.
ROOT_ENTRY = Layout(
    "root-entry",
    "VT-d 9.1",
    (
        Field("P", 0, 1),
        Field("RSVD", 1, 11),
        Field("CTP", 12, 52, in_place=True),
        Field("RSVD_HIGH", 64, 64),
    ),
)

_P = ROOT_ENTRY["P"].mask
_RSVD = ROOT_ENTRY["RSVD"].mask


def root_entry_address(root_table: int, bus: int) -> int:
    """Where the root-entry of a bus is: 256 entries of 16 bytes."""
    return root_table + (bus << 4)


def find_context_table(
    memory: Memory, root_table: int, bus: int, host_address_width: int, trace: list[Step] | None
) -> int | VtdFaultReason:
    """The context-table of a bus, from its root-entry.

    Returns:
        The physical address of the context-table; a table is never at an address that equals a reason, since it is
        a multiple of 4 KiB, but the two are told apart by type.
    """
    address = root_entry_address(root_table, bus)
    try:
        low = memory.read_u64(address)
        high = memory.read_u64(address + 8)
    except OutsideMemory:
        # LRT.1: the root-table cannot be read.
        if trace is not None:
            trace.append(Step(f"root-entry [bus {bus:#04x}]", "VT-d 9.1", address, note="no memory there"))
        return VtdFaultReason.ROOT_TABLE_ACCESS
    if trace is not None:
        value = high << 64 | low
        trace.append(
            Step(f"root-entry [bus {bus:#04x}]", "VT-d 9.1", address, value, ROOT_ENTRY.describe(value)),
        )
    # LRT.2: not present; then no other field is looked at.
    if not low & _P:
        return VtdFaultReason.ROOT_NOT_PRESENT
    # LRT.3: bits 11:1, 127:64, and 63:HAW of the pointer.
    if low & _RSVD or high or low >> host_address_width:
        return VtdFaultReason.ROOT_RESERVED
    return low & ~0xFFF
