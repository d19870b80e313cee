"""Addresses that are no memory: interrupts, the HyperTransport ranges, the exclusion range (AMD-Vi 2.1.2, table 3).

The table's ranges that no field of the device table entry controls (legacy PIC acknowledge, address translation,
configuration, device messages, reserved) are addresses like all others here: the page tables decide. Where SysMgt lets
only INTx messages pass (10b) a memory write is none, since on PCI Express INTx has messages of its own.
"""

from __future__ import annotations

from harness.model.access import Access, AccessKind, AddressType, Bypassed, BypassReason
from harness.model.amdvi.device_table import DeviceEntry
from harness.model.amdvi.faults import AmdviFaultReason, Blocked
from harness.model.amdvi.register_fields import EXCLUSION_BASE
from harness.model.amdvi.registers import AmdviRegisters

__all__ = ["FIRST_HYPERTRANSPORT", "LAST_HYPERTRANSPORT", "ExclusionRange", "hypertransport_range", "interrupt_range"]

FIRST_HYPERTRANSPORT = 0xFD_0000_0000
LAST_HYPERTRANSPORT = 0xFF_FFFF_FFFF

_RESERVED_INTERRUPTS = range(0xFD_0000_0000, 0xFD_F800_0000)
_INTERRUPTS = range(0xFD_F800_0000, 0xFD_F900_0000)
_SYSTEM_MANAGEMENT = range(0xFD_F910_0000, 0xFD_F920_0000)
_IO_SPACE = range(0xFD_FC00_0000, 0xFD_FE00_0000)

# SysMgt: 00b blocks, 01b forwards, 10b forwards INTx, 11b translates.
_ALLOW_ALL, _TRANSLATE = 0b01, 0b11


def interrupt_range(access: Access) -> Bypassed | Blocked:
    """A request in 0xFEEx_xxxx: a message where it writes a doubleword, and nothing else (AMD-Vi 2.1.2)."""
    if access.address_type is AddressType.TRANSLATION_REQUEST:
        return Blocked(AmdviFaultReason.TRANSLATION_REQUEST_ADDRESS)
    if access.pasid is not None:
        return Blocked(AmdviFaultReason.INTERRUPT_WITH_PASID)
    if access.kind is AccessKind.WRITE and access.length == 4 and not access.iova & 3:
        return Bypassed(access.iova, BypassReason.INTERRUPT_RANGE)
    return Blocked(AmdviFaultReason.INTERRUPT_RANGE_READ)


def hypertransport_range(access: Access, entry: DeviceEntry) -> Bypassed | Blocked | None:
    """What table 3 makes of a request without PASID; None where the page tables decide."""
    iova = access.iova
    is_write = access.kind is AccessKind.WRITE
    if access.address_type is AddressType.TRANSLATION_REQUEST:
        special = (_RESERVED_INTERRUPTS, _INTERRUPTS, _SYSTEM_MANAGEMENT, _IO_SPACE)
        return Blocked(AmdviFaultReason.TRANSLATION_REQUEST_ADDRESS) if any(iova in part for part in special) else None
    if iova in _RESERVED_INTERRUPTS:
        reason = AmdviFaultReason.RESERVED_INTERRUPT_RANGE if is_write else AmdviFaultReason.INTERRUPT_RANGE_READ
        return Blocked(reason)
    if iova in _INTERRUPTS:
        if not is_write:
            return Blocked(AmdviFaultReason.INTERRUPT_RANGE_READ)
        if entry.field("IV") and not entry.field("IntCtl"):
            return Blocked(AmdviFaultReason.INTERRUPT_CONTROL)
        return Bypassed(iova, BypassReason.INTERRUPT_RANGE)
    if iova in _SYSTEM_MANAGEMENT:
        return _system_management(iova, is_write, entry)
    if iova in _IO_SPACE:
        # IoCtl: 00b blocks, 01b forwards, 10b translates, 11b is reserved.
        control = entry.field("IoCtl")
        if control == 0b11:
            return Blocked(AmdviFaultReason.DTE_IO_CONTROL)
        if control == 0b00:
            return Blocked(AmdviFaultReason.PORT_IO)
        return Bypassed(iova, BypassReason.PASS_THROUGH) if control == 0b01 else None
    return None


def _system_management(iova: int, is_write: bool, entry: DeviceEntry) -> Bypassed | Blocked | None:
    control = entry.field("SysMgt")
    if control == _TRANSLATE:
        return None if entry.field("TV") else Blocked(AmdviFaultReason.SYSTEM_MANAGEMENT_UNTRANSLATED)
    if not is_write:
        return Blocked(AmdviFaultReason.SYSTEM_MANAGEMENT_READ)
    if control == _ALLOW_ALL:
        return Bypassed(iova, BypassReason.PASS_THROUGH)
    return Blocked(AmdviFaultReason.SYSTEM_MANAGEMENT_WRITE)


class ExclusionRange:
    """The range that allowed devices reach untranslated (AMD-Vi 2.1.2, and 3.4: exclusion range registers)."""

    def __init__(self, registers: AmdviRegisters) -> None:
        base = registers.exclusion_base
        self.enabled = bool(EXCLUSION_BASE["ExEn"].get(base))
        self._everybody = bool(EXCLUSION_BASE["Allow"].get(base))
        self._first = EXCLUSION_BASE["Base"].get(base)
        # Bits 11:0 of the limit count as ones, and bits 63:52 are reserved.
        self._last = registers.exclusion_limit & (1 << 52) - 1 | 0xFFF

    def holds(self, iova: int, entry: DeviceEntry) -> bool:
        """Whether a request without PASID of this device goes there untranslated and unchecked."""
        return self._first <= iova <= self._last and (self._everybody or bool(entry.field("EX")))
