"""What one invalidation descriptor does, or why it is refused (VT-d 6.5.2; sections of revision 5.10).

A descriptor is looked at in this order: translation table mode and descriptor width, as the registers have them; its
type; its reserved fields; then the values of its fields. The specification leaves the order open, and these choices:

- A reserved granularity, a page-selective one without CAP_REG.PSI, and a mask above CAP_REG.MAMV or ECAP_REG.MHMV make
  "an invalid descriptor": here the same error as a reserved field.
- A wait descriptor without IF, SW and FN is carried out, and does nothing.
- Bits of a domain-id that CAP_REG.ND says are not there are ignored.

Drains (DR, DW, PD), fences (FN) and MIP change nothing in a model without time. The host permission table (revision 5)
is not one of the caches of `harness.model.invalidation`, so its descriptor is checked and drops nothing.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from harness.model.access import MemoryWrite
from harness.model.bits import Field, Layout
from harness.model.engine import CommandResult, RawCommand, as_bits
from harness.model.invalidation import Invalidation
from harness.model.vtd.invalidation import scopes
from harness.model.vtd.invalidation.descriptors import (
    DESCRIPTORS,
    DescriptorType,
    Granularity,
    PasidCacheGranularity,
    PasidIotlbGranularity,
    descriptor_type,
)
from harness.model.vtd.register_layouts import TranslationTableMode
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.reporting.events import complete_wait

__all__ = ["IQA_REG", "Executed", "VtdQueueError", "descriptor_size", "execute", "mode_error"]

IQA_REG = Layout(
    "IQA_REG",
    "VT-d 11.4.9.3",
    (Field("QS", 0, 3), Field("RSVD_3", 3, 8), Field("DW", 11, 1), Field("IQA", 12, 52, in_place=True)),
)


class VtdQueueError(IntEnum):
    """Why the invalidation queue stops: IQERCD_REG.IQEI (VT-d 11.4.9.9). Older hardware says 0 for all of them."""

    INVALID_TAIL = 1
    """IQT_REG points outside of the queue."""
    FETCH = 2
    """The descriptor lies outside of memory."""
    INVALID_TYPE = 3
    """No descriptor of this mode (table 26), or one of a feature that the hardware does not have."""
    RESERVED_FIELD = 4
    """A reserved field is not zero, or a field has a value that it may not have."""
    INVALID_WIDTH = 5
    """128-bit descriptors in scalable or abort-dma mode, or 256-bit ones on hardware that has neither."""
    UNALIGNED_TAIL = 6
    """IQT_REG is no multiple of 32 with 256-bit descriptors."""
    INVALID_MODE = 7
    """RTADDR_REG.TTM is reserved, or selects a mode that the hardware does not have."""


class Executed(NamedTuple):
    """The outcome of a descriptor, and the registers afterwards: a wait descriptor changes ICS_REG and IECTL_REG."""

    result: CommandResult
    registers: VtdRegisters


# Table 26: legacy mode has these, also in a queue of 256-bit descriptors.
_LEGACY_TYPES = frozenset(kind for kind in DescriptorType if kind <= DescriptorType.WAIT)
_PFSID = ("PFSID_LOW", "PFSID_HIGH")


def descriptor_size(registers: VtdRegisters) -> int:
    """Bytes of a descriptor in the queue, from IQA_REG.DW."""
    return 32 if IQA_REG["DW"].get(registers.iqa) else 16


def mode_error(registers: VtdRegisters) -> VtdQueueError | None:
    """Why no descriptor whatever would be valid (VT-d table 26, and IQEI in 11.4.9.9)."""
    capabilities = registers.extended
    mode = registers.translation_table_mode
    match mode:
        case TranslationTableMode.LEGACY:
            is_there = True
        case TranslationTableMode.SCALABLE:
            is_there = capabilities.scalable_mode
        case TranslationTableMode.ABORT_DMA:
            is_there = capabilities.abort_mode
        case _:
            is_there = False
    if not is_there:
        return VtdQueueError.INVALID_MODE
    wide = IQA_REG["DW"].get(registers.iqa)
    needs_wide = mode is not TranslationTableMode.LEGACY
    may_be_wide = capabilities.scalable_mode or capabilities.abort_mode
    if (needs_wide and not wide) or (wide and not may_be_wide):
        return VtdQueueError.INVALID_WIDTH
    return None


def execute(registers: VtdRegisters, descriptor: RawCommand) -> Executed:
    """Carry out one descriptor, whether or not the queue is enabled.

    Args:
        registers: as they are now.
        descriptor: its bits, 128 or 256 as IQA_REG.DW says, or its 16 or 32 bytes.

    Raises:
        SpecError: it has more bits than that, or another number of bytes.
    """
    descriptor = as_bits(descriptor, descriptor_size(registers))
    kind = descriptor_type(descriptor)
    error = mode_error(registers) or _type_error(registers, kind)
    if error is not None or kind is None:
        return _refused(registers, error or VtdQueueError.INVALID_TYPE)
    if descriptor & _reserved(registers, kind):
        return _refused(registers, VtdQueueError.RESERVED_FIELD)
    fields = dict(DESCRIPTORS[kind].decode(descriptor))
    if kind is DescriptorType.WAIT:
        return _wait(registers, fields)
    invalidations = _invalidations(registers, kind, fields)
    if invalidations is None:
        return _refused(registers, VtdQueueError.RESERVED_FIELD)
    return Executed(CommandResult(invalidations=invalidations), registers)


def _refused(registers: VtdRegisters, error: VtdQueueError) -> Executed:
    return Executed(CommandResult(error=error), registers)


def _type_error(registers: VtdRegisters, kind: DescriptorType | None) -> VtdQueueError | None:
    legacy = registers.translation_table_mode is TranslationTableMode.LEGACY
    if kind is None or (legacy and kind not in _LEGACY_TYPES):
        return VtdQueueError.INVALID_TYPE
    # VT-d 6.5.2.5 to 6.5.2.7, 7.6.1: there are no descriptors of what the hardware does not have.
    capabilities = registers.extended
    needed = {
        DescriptorType.DEVICE_TLB: capabilities.device_tlbs,
        DescriptorType.PASID_DEVICE_TLB: capabilities.device_tlbs,
        DescriptorType.PAGE_GROUP_RESPONSE: capabilities.page_requests,
        DescriptorType.HPT_CACHE: capabilities.host_permissions,
    }
    return None if needed.get(kind, True) else VtdQueueError.INVALID_TYPE


def _reserved(registers: VtdRegisters, kind: DescriptorType) -> int:
    """Reserved bits of a descriptor, among them fields of what the hardware does not have (VT-d 6.5.2.5, 6.5.2.9)."""
    layout = DESCRIPTORS[kind]
    names: tuple[str, ...] = ()
    match kind:
        case DescriptorType.DEVICE_TLB | DescriptorType.PASID_DEVICE_TLB:
            names = () if registers.extended.device_tlb_throttling else _PFSID
        case DescriptorType.WAIT:
            names = () if registers.extended.page_request_drain else ("PD",)
    return layout.reserved | sum(layout[name].mask for name in names)


def _wait(registers: VtdRegisters, fields: dict[str, int]) -> Executed:
    """VT-d 6.5.2.9: the status write, then the event."""
    writes: tuple[MemoryWrite, ...] = ()
    if fields["SW"]:
        # Address bits 63:HAW are ignored.
        address = fields["ADDR"] << 2 & (1 << registers.host_address_width) - 1
        writes = (MemoryWrite(address, fields["DATA"].to_bytes(4, "little")),)
    if not fields["IF"]:
        return Executed(CommandResult(writes=writes), registers)
    event = complete_wait(registers)
    return Executed(CommandResult(writes=writes, interrupt=event.interrupt), event.registers)


def _invalidations(
    registers: VtdRegisters, kind: DescriptorType, fields: dict[str, int]
) -> tuple[Invalidation, ...] | None:
    """What the descriptor drops; None where a field has a value that it may not have."""
    domain = scopes.domain_of(registers, fields.get("DID", 0))
    address = fields.get("ADDR", 0) << 12
    match kind:
        case DescriptorType.CONTEXT_CACHE:
            granularity = Granularity(fields["G"])
            if granularity is Granularity.RESERVED:
                return None
            scalable = registers.translation_table_mode is TranslationTableMode.SCALABLE
            return scopes.context_cache(granularity, domain, fields["SID"], fields["FM"], scalable=scalable)
        case DescriptorType.IOTLB:
            return _iotlb(registers, fields, domain, address)
        case DescriptorType.PASID_CACHE:
            cache_granularity = PasidCacheGranularity(fields["G"])
            if cache_granularity is PasidCacheGranularity.RESERVED:
                return None
            return scopes.pasid_cache(cache_granularity, domain, fields["PASID"])
        case DescriptorType.PASID_IOTLB:
            pasid_granularity = PasidIotlbGranularity(fields["G"])
            if pasid_granularity not in (PasidIotlbGranularity.PASID, PasidIotlbGranularity.PAGE):
                return None
            # CAP_REG.PSI and MAMV say nothing of these (VT-d 11.4.2).
            pages = scopes.masked_pages(address, fields["AM"])
            return scopes.pasid_iotlb(pasid_granularity, domain, fields["PASID"], pages, keep_tables=bool(fields["IH"]))
        case DescriptorType.DEVICE_TLB:
            return scopes.device_tlb(fields["SID"], scopes.device_tlb_pages(address, larger=bool(fields["S"])))
        case DescriptorType.PASID_DEVICE_TLB:
            pages = scopes.device_tlb_pages(address, larger=bool(fields["S"]))
            return scopes.pasid_device_tlb(fields["SID"], pages, None if fields["GI"] else fields["PASID"])
        case DescriptorType.INTERRUPT_ENTRY_CACHE:
            if not fields["G"]:
                return scopes.interrupt_entry_cache(None)
            if fields["IM"] > registers.extended.max_index_mask:
                return None
            return scopes.interrupt_entry_cache(fields["IIDX"], fields["IM"])
        case DescriptorType.HPT_CACHE:
            return None if Granularity(fields["G"]) is Granularity.RESERVED else ()
        case _:
            # A page group response goes to the device, and drops nothing.
            return ()


def _iotlb(
    registers: VtdRegisters, fields: dict[str, int], domain: int, address: int
) -> tuple[Invalidation, ...] | None:
    granularity = Granularity(fields["G"])
    if granularity is Granularity.RESERVED:
        return None
    if granularity is Granularity.SELECTIVE:
        largest = registers.max_address_mask
        if largest is None or fields["AM"] > largest:
            return None
    pages = scopes.second_stage_pages(registers, address, fields["AM"])
    return scopes.iotlb(granularity, domain, pages, keep_tables=bool(fields["IH"]))
