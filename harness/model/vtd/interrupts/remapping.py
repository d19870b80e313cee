"""What a remapping unit makes of an interrupt request (VT-d 5.1.4 and 5.2.3; sections of revision 5.10).

Where an entry has more than one thing wrong with it the order is: present, source id, reserved fields. SVT 11b is a
reserved field. Delivery modes that the specification does not list (011b, 110b) go through as they stand. An
interrupt_index above 65535, which handle and subhandle together can reach, is recorded by its lower 16 bits.
"""

from __future__ import annotations

from harness.errors import SpecError
from harness.model.access import Fault, MemoryWrite
from harness.model.engine import Interrupt, MsiOutcome, MsiWrite, PostedInterrupt
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Memory, OutsideMemory
from harness.model.vtd.faults import VtdFaultReason, VtdFaultRecord
from harness.model.vtd.interrupts.entries import (
    IRTA_REG,
    POSTED_DESCRIPTOR,
    POSTED_ENTRY,
    REMAPPABLE_ADDRESS,
    REMAPPED_ENTRY,
    SourceValidation,
    destination_field,
    interrupt_entry_address,
)
from harness.model.vtd.register_layouts import GSTS_REG
from harness.model.vtd.registers import VtdRegisters
from harness.model.x86_message import DeliveryMode, X86Message, is_interrupt_address

__all__ = ["InterruptRemapping"]

_P = REMAPPED_ENTRY["P"].mask
_FPD = REMAPPED_ENTRY["FPD"].mask
_IM = REMAPPED_ENTRY["IM"].mask
_REMAPPABLE = REMAPPABLE_ADDRESS["FORMAT"].mask
_SHV = REMAPPABLE_ADDRESS["SHV"].mask
_ENTRY_SIZE = 16
_POSTED_SIZE = 64
# Bits of SID that are compared, by SQ (VT-d 9.9).
_COMPARED = (0xFFFF, 0xFFFB, 0xFFF9, 0xFFF8)
# Destination bits that xAPIC mode reserves (VT-d 9.9, DST; 9.11, NDST).
_NOT_XAPIC = 0xFFFF_FFFF & ~destination_field(0xFF, extended=False)


class InterruptRemapping:
    """Remaps interrupts as a unit with these registers does."""

    def __init__(self, registers: VtdRegisters) -> None:
        self._registers = registers
        capabilities = registers.extended
        self._enabled = registers.interrupt_remapping_enabled
        self._remapping_required = capabilities.interrupt_remapping_required
        self._extended_required = capabilities.extended_interrupts_required
        # EIME is not there without ECAP_REG.EIM (VT-d 11.4.10).
        self._extended = bool(IRTA_REG["EIME"].get(registers.irta)) and capabilities.extended_interrupts
        self._compatibility = registers.compatibility_format_interrupts and not self._extended
        self._posting = registers.posted_interrupts
        self._host_address_width = registers.host_address_width
        # Hardware may ignore IRTA bits 63:HAW.
        self._table = IRTA_REG["IRTA"].get(registers.irta) & (1 << registers.host_address_width) - 1
        self._entries = 2 << IRTA_REG["S"].get(registers.irta)
        not_xapic = 0 if self._extended else _NOT_XAPIC
        self._remapped_reserved = REMAPPED_ENTRY.reserved | REMAPPED_ENTRY["DST"].put(not_xapic)
        self._posted_reserved = POSTED_ENTRY.reserved
        self._descriptor_reserved = POSTED_DESCRIPTOR.reserved | POSTED_DESCRIPTOR["NDST"].put(not_xapic)

    def remap(self, memory: Memory, write: MsiWrite, trace: list[Step] | None) -> MsiOutcome:
        """What becomes of an interrupt request.

        Args:
            memory: where the table is.
            write: a write of 32 bits.
            trace: takes the steps; None for speed.

        Raises:
            SpecError: the write is not to 0xFEEx_xxxx.
        """
        address = write.address
        if not is_interrupt_address(address):
            raise SpecError(f"{address:#x} is no interrupt address", hint="interrupts are writes to 0xFEEx_xxxx")
        registers = self._registers
        if trace is not None:
            trace.append(Step("GSTS_REG", GSTS_REG.section, None, registers.gsts, GSTS_REG.describe(registers.gsts)))
        if not self._enabled:
            if self._remapping_required:
                return _fault(write, VtdFaultReason.INTERRUPT_REMAPPING_REQUIRED)
            return Interrupt(address, write.data, remapped=False)
        if trace is not None:
            trace.append(Step("IRTA_REG", IRTA_REG.section, None, registers.irta, IRTA_REG.describe(registers.irta)))
        if self._extended_required and not self._extended:
            return _fault(write, VtdFaultReason.INTERRUPT_MODE_REQUIRED)
        if not address & _REMAPPABLE:
            if not self._compatibility:
                return _fault(write, VtdFaultReason.INTERRUPT_COMPATIBILITY_BLOCKED)
            return Interrupt(address, write.data, remapped=False)

        # VT-d 5.1.2.2: bits 1:0 of the address are ignored, and the whole of the data where SHV is clear.
        index = (address & 1 << 2) << 13 | address >> 5 & 0x7FFF
        if address & _SHV:
            if write.data >> 16:
                return _fault(write, VtdFaultReason.INTERRUPT_REQUEST_RESERVED)
            index += write.data
        entry_address = interrupt_entry_address(self._table, index)
        if index >= self._entries or entry_address >> self._host_address_width:
            return _fault(write, VtdFaultReason.INTERRUPT_INDEX_BEYOND_TABLE, index)
        try:
            # VT-d 5.1.4: the whole entry in one read.
            entry = int.from_bytes(memory.read(entry_address, _ENTRY_SIZE), "little")
        except OutsideMemory:
            if trace is not None:
                trace.append(
                    Step(_name(index), REMAPPED_ENTRY.section, entry_address, size=_ENTRY_SIZE, note="no memory there")
                )
            return _fault(write, VtdFaultReason.INTERRUPT_TABLE_ACCESS, index)
        low, high = entry & (1 << 64) - 1, entry >> 64
        if trace is not None:
            trace.append(_step(index, entry_address, entry))
        # From here on faults are qualified (VT-d 5.1.4.1): FPD is looked at whether the entry is present or not.
        disabled = bool(low & _FPD)
        if not low & _P:
            return _fault(write, VtdFaultReason.INTERRUPT_ENTRY_NOT_PRESENT, index, disabled=disabled)
        reason = _source_error(high, write.requester & 0xFFFF)
        if reason is not None:
            return _fault(write, reason, index, disabled=disabled)
        if low & _IM:
            return self._post(memory, write, index, entry, disabled, trace)
        if entry & self._remapped_reserved:
            return _fault(write, VtdFaultReason.INTERRUPT_ENTRY_RESERVED, index, disabled=disabled)
        destination = low >> 32
        message = X86Message(
            destination=destination if self._extended else destination >> 8,
            vector=low >> 16 & 0xFF,
            delivery_mode=DeliveryMode(low >> 5 & 7),
            logical=bool(low & 1 << 2),
            redirection_hint=bool(low & 1 << 3),
            level_triggered=bool(low & 1 << 4),
            # VT-d 5.1.4: the level of a remapped interrupt is always "asserted".
            asserted=True,
        )
        return Interrupt(*message.encode(), remapped=True)

    def _post(
        self, memory: Memory, write: MsiWrite, index: int, entry: int, disabled: bool, trace: list[Step] | None
    ) -> MsiOutcome:
        """Interrupt posting (VT-d 5.2.3)."""
        address = POSTED_ENTRY["PDAH"].get(entry) << 32 | POSTED_ENTRY["PDAL"].get(entry) << 6
        # Without CAP_REG.PI the mode itself is a reserved field; address bits 63:HAW always are (VT-d 9.10).
        if not self._posting or entry & self._posted_reserved or address >> self._host_address_width:
            return _fault(write, VtdFaultReason.INTERRUPT_ENTRY_RESERVED, index, disabled=disabled)
        name, section = POSTED_DESCRIPTOR.name, POSTED_DESCRIPTOR.section
        try:
            descriptor = int.from_bytes(memory.read(address, _POSTED_SIZE), "little")
        except OutsideMemory:
            if trace is not None:
                trace.append(Step(name, section, address, size=_POSTED_SIZE, note="no memory there"))
            return _fault(write, VtdFaultReason.POSTED_DESCRIPTOR_ACCESS, index, disabled=disabled)
        fields = dict(POSTED_DESCRIPTOR.decode(descriptor))
        if trace is not None:
            shown = POSTED_DESCRIPTOR.describe(descriptor)
            trace.append(Step(name, section, address, descriptor, shown, size=_POSTED_SIZE))
        if descriptor & self._descriptor_reserved:
            return _fault(write, VtdFaultReason.POSTED_DESCRIPTOR_RESERVED, index, disabled=disabled)
        vector = POSTED_ENTRY["VV"].get(entry)
        urgent = POSTED_ENTRY["URG"].get(entry)
        notify = None
        after = descriptor | 1 << vector
        if not fields["ON"] and (urgent or not fields["SN"]):
            after |= POSTED_DESCRIPTOR["ON"].mask
            destination = fields["NDST"] if self._extended else fields["NDST"] >> 8
            notify = Interrupt(*X86Message(destination=destination, vector=fields["NV"]).encode(), remapped=True)
        # One read and write, which nothing comes between: the whole of the line.
        stored = MemoryWrite(address, after.to_bytes(_POSTED_SIZE, "little"))
        return PostedInterrupt(address, vector, notify, (stored,))


def _source_error(high: int, requester: int) -> VtdFaultReason | None:
    """Source-id validation (VT-d 9.9): SVT, SQ and SID stand in the upper half of either format."""
    validation, identifier = high >> 18 & 3, high & 0xFFFF
    if validation == SourceValidation.NONE:
        return None
    if validation == SourceValidation.SOURCE_ID:
        matches = not (identifier ^ requester) & _COMPARED[high >> 16 & 3]
    elif validation == SourceValidation.BUS_RANGE:
        matches = identifier >> 8 <= requester >> 8 <= identifier & 0xFF
    else:
        return VtdFaultReason.INTERRUPT_ENTRY_RESERVED
    return None if matches else VtdFaultReason.INTERRUPT_SOURCE_REFUSED


def _fault(write: MsiWrite, reason: VtdFaultReason, index: int | None = None, *, disabled: bool = False) -> Fault:
    record = None
    if not disabled:
        record = VtdFaultRecord(
            address=0,
            source_id=write.requester & 0xFFFF,
            reason=reason,
            is_read=False,
            interrupt_index=None if index is None else index & 0xFFFF,
        )
    return Fault(reason, write.requester, write.address & ~0xFFF, is_write=True, record=record)


def _name(index: int) -> str:
    return f"IRTE [{index:#06x}]"


def _step(index: int, address: int, entry: int) -> Step:
    """What a trace shows of an entry. The interrupt entry cache is tagged with the index alone (VT-d 6.2.1)."""
    layout = POSTED_ENTRY if entry & _IM else REMAPPED_ENTRY
    cached = CachedEntry(kind=EntryKind.INTERRUPT, index=index)
    return Step(_name(index), layout.section, address, entry, layout.describe(entry), size=_ENTRY_SIZE, cached=cached)
