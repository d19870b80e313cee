"""The root table: one entry for each bus, in legacy and in scalable mode (VT-d 9.1, 9.2)."""

from __future__ import annotations

from harness.model.bits import Field, Layout
from harness.model.explanation import Step
from harness.model.memory import Memory, OutsideMemory
from harness.model.vtd.context import ContextBlocked
from harness.model.vtd.faults import VtdFaultReason

__all__ = [
    "ROOT_ENTRY",
    "SCALABLE_ROOT_ENTRY",
    "find_context_table",
    "find_scalable_context_table",
    "root_entry_address",
]

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

# VT-d 9.2: two halves that look the same, for devices 0 to 15 and 16 to 31 of the bus.
SCALABLE_ROOT_ENTRY = Layout(
    "scalable-mode root-entry",
    "VT-d 9.2",
    (
        Field("LP", 0, 1),
        Field("RSVD_LOW", 1, 11),
        Field("LCTP", 12, 52, in_place=True),
        Field("UP", 64, 1),
        Field("RSVD_HIGH", 65, 11),
        Field("UCTP", 76, 52, in_place=True),
    ),
)

_SIZE = 16
_P = ROOT_ENTRY["P"].mask
_RSVD = ROOT_ENTRY["RSVD"].mask
_UPPER_DEVICE = 0x80  # the highest bit of the device number, in the low byte of a requester id


def root_entry_address(root_table: int, requester: int) -> int:
    """Where the root-entry of a requester's bus is: 256 entries of 16 bytes."""
    return root_table + (requester >> 4 & 0xFF0)


def find_context_table(
    memory: Memory, root_table: int, requester: int, host_address_width: int, trace: list[Step] | None
) -> int | ContextBlocked:
    """The context-table of a requester's bus, from its root-entry.

    Returns:
        The physical address of the context-table.
    """
    address = root_entry_address(root_table, requester)
    try:
        low = memory.read_u64(address)
        high = memory.read_u64(address + 8)
    except OutsideMemory:
        # LRT.1: the root-table cannot be read.
        if trace is not None:
            trace.append(_step(ROOT_ENTRY, requester, address, None))
        return ContextBlocked(VtdFaultReason.ROOT_TABLE_ACCESS, False)
    if trace is not None:
        trace.append(_step(ROOT_ENTRY, requester, address, high << 64 | low))
    # LRT.2: not present; then no other field is looked at.
    if not low & _P:
        return ContextBlocked(VtdFaultReason.ROOT_NOT_PRESENT, False)
    # LRT.3: bits 11:1, 127:64, and 63:HAW of the pointer.
    if low & _RSVD or high or low >> host_address_width:
        return ContextBlocked(VtdFaultReason.ROOT_RESERVED, False)
    return low & ~0xFFF


def find_scalable_context_table(
    memory: Memory, root_table: int, requester: int, host_address_width: int, trace: list[Step] | None
) -> int | ContextBlocked:
    """The lower or upper scalable-mode context-table of a requester's bus, from the half of its root-entry.

    The other half is not looked at: SRT.3 is read as speaking of the half that the request uses, as SRT.2 does.
    """
    address = root_entry_address(root_table, requester)
    try:
        low = memory.read_u64(address)
        high = memory.read_u64(address + 8)
    except OutsideMemory:
        # SRT.1: the root-table cannot be read.
        if trace is not None:
            trace.append(_step(SCALABLE_ROOT_ENTRY, requester, address, None))
        return ContextBlocked(VtdFaultReason.SCALABLE_ROOT_ACCESS, False)
    if trace is not None:
        trace.append(_step(SCALABLE_ROOT_ENTRY, requester, address, high << 64 | low))
    half = high if requester & _UPPER_DEVICE else low
    # SRT.2: LP or UP; then no other field of the half is looked at.
    if not half & _P:
        return ContextBlocked(VtdFaultReason.SCALABLE_ROOT_NOT_PRESENT, False)
    # SRT.3: bits 11:1 of the half, and those above HAW of its pointer.
    if half & _RSVD or half >> host_address_width:
        return ContextBlocked(VtdFaultReason.SCALABLE_ROOT_RESERVED, False)
    return half & ~0xFFF


def _step(layout: Layout, requester: int, address: int, value: int | None) -> Step:
    what = f"{layout.name} [bus {requester >> 8 & 0xFF:#04x}]"
    if value is None:
        return Step(what, layout.section, address, note="no memory there", size=_SIZE)
    return Step(what, layout.section, address, value, layout.describe(value), size=_SIZE)
