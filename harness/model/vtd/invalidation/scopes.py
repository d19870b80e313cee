"""Which cached entries an invalidation drops, by cache and granularity (VT-d 6.5.1 and 6.5.2, tables 23 and 24).

Sections are those of revision 5.10. Hardware may always do more than is asked; here is what is asked, no more. Caches
are tagged as VT-d 6.2.1 has it: a domain is a `domain`, a PASID a `space`, a source id the lower 16 bits of a
`requester` (the upper ones are the segment, which each unit has one of).
"""

from __future__ import annotations

from typing import NamedTuple

from harness.model.invalidation import EntryKind, Invalidation
from harness.model.vtd.invalidation.descriptors import Granularity, PasidCacheGranularity, PasidIotlbGranularity
from harness.model.vtd.registers import VtdRegisters

__all__ = [
    "Pages",
    "context_cache",
    "device_tlb",
    "device_tlb_pages",
    "domain_of",
    "interrupt_entry_cache",
    "iotlb",
    "masked_pages",
    "pasid_cache",
    "pasid_device_tlb",
    "pasid_iotlb",
    "second_stage_pages",
]

_PAGE = 12
_LAST_ADDRESS = (1 << 64) - 1
_SOURCE_ID = 0xFFFF
_CONTEXTS = frozenset({EntryKind.DEVICE})
_PASIDS = frozenset({EntryKind.PROCESS})
# What the IOTLB keeps, and what the paging-structure caches keep.
_IOTLB = frozenset({EntryKind.LEAF})
_TABLES = frozenset({EntryKind.TABLE})
_INTERRUPTS = frozenset({EntryKind.INTERRUPT})
_DEVICE_TLB = frozenset({EntryKind.DEVICE_TLB})
# FM: bits of the source id that are not compared (VT-d table 21).
_FUNCTION_MASKS = (0b000, 0b100, 0b110, 0b111)


class Pages(NamedTuple):
    """A range of input addresses: first and last byte."""

    first: int
    last: int


def masked_pages(address: int, address_mask: int) -> Pages:
    """The aligned range of 2^AM pages of 4 KiB around an address (VT-d table 22)."""
    span = (1 << _PAGE + address_mask) - 1
    return Pages(address & ~span, min(address | span, _LAST_ADDRESS))


def second_stage_pages(registers: VtdRegisters, address: int, address_mask: int) -> Pages:
    """The same for second-stage addresses, of which bits above MGAW are ignored (VT-d 6.5.2.3, 11.4.6.4, ADDR)."""
    return masked_pages(address & (1 << registers.guest_address_width) - 1, address_mask)


def domain_of(registers: VtdRegisters, field: int) -> int:
    """The domain of a DID field; bits that CAP_REG.ND says are not there are ignored (VT-d 6.5.2.2, 11.4.6.1, DID)."""
    return field & (1 << registers.domain_id_width) - 1


def device_tlb_pages(address: int, *, larger: bool) -> Pages:
    """The range of a device TLB invalidation (PCIe, address translation services).

    Args:
        address: the address field, bits 11:0 zero.
        larger: S: the lowest zero bit of the field, from bit 12 on, tells the size: bit 12 for 8 KiB, 13 for 16 KiB...
    """
    if not larger:
        return masked_pages(address, 0)
    page = address >> _PAGE
    ones = (~page & page + 1).bit_length() - 1
    return masked_pages(address, ones + 1)


def context_cache(
    granularity: Granularity, domain: int, source_id: int, function_mask: int, *, scalable: bool
) -> tuple[Invalidation, ...]:
    """What a context-cache invalidation drops (VT-d 6.5.2.1).

    In scalable mode the context-cache has no domain for a tag: a domain-selective invalidation is a global one.
    """
    wanted_domain = None if scalable or granularity is Granularity.GLOBAL else domain
    if granularity is not Granularity.SELECTIVE:
        return (Invalidation(kinds=_CONTEXTS, domain=wanted_domain),)
    mask = _SOURCE_ID & ~_FUNCTION_MASKS[function_mask]
    return (Invalidation(kinds=_CONTEXTS, requester=source_id, requester_mask=mask, domain=wanted_domain),)


def pasid_cache(granularity: PasidCacheGranularity, domain: int, pasid: int) -> tuple[Invalidation, ...]:
    """What a PASID-cache invalidation drops (VT-d 6.5.2.2)."""
    match granularity:
        case PasidCacheGranularity.DOMAIN:
            return (Invalidation(kinds=_PASIDS, domain=domain),)
        case PasidCacheGranularity.PASID:
            return (Invalidation(kinds=_PASIDS, domain=domain, space=pasid),)
        case _:
            return (Invalidation(kinds=_PASIDS),)


def iotlb(granularity: Granularity, domain: int, pages: Pages, *, keep_tables: bool) -> tuple[Invalidation, ...]:
    """What an IOTLB invalidation drops (VT-d 6.5.1.2 and 6.5.2.3, table 23).

    Args:
        granularity: a reserved one is refused before this.
        domain: for all but a global one.
        pages: second-stage input addresses, for a page-selective one.
        keep_tables: IH, for a page-selective one.
    """
    if granularity is Granularity.GLOBAL:
        return (Invalidation(kinds=_IOTLB | _TABLES),)
    if granularity is Granularity.DOMAIN:
        return (Invalidation(kinds=_IOTLB | _TABLES, domain=domain),)
    kinds = _IOTLB if keep_tables else _IOTLB | _TABLES
    return (
        Invalidation(kinds=kinds, domain=domain, stage=2, first=pages.first, last=pages.last),
        # The range is one of second-stage addresses: of first-stage and nested mappings it spares none.
        Invalidation(kinds=_IOTLB | _TABLES, domain=domain, stage=1),
    )


def pasid_iotlb(
    granularity: PasidIotlbGranularity, domain: int, pasid: int, pages: Pages, *, keep_tables: bool
) -> tuple[Invalidation, ...]:
    """What a PASID-based IOTLB invalidation drops (VT-d 6.5.2.4, table 24).

    Second-stage paging-structure caches have no PASID for a tag, and are left alone; second-stage IOTLB entries go with
    their whole PASID, but not by page.
    """
    if granularity is PasidIotlbGranularity.PASID:
        return (
            Invalidation(kinds=_IOTLB, domain=domain, space=pasid),
            Invalidation(kinds=_TABLES, domain=domain, space=pasid, stage=1),
        )
    kinds = _IOTLB if keep_tables else _IOTLB | _TABLES
    return (Invalidation(kinds=kinds, domain=domain, space=pasid, stage=1, first=pages.first, last=pages.last),)


def device_tlb(source_id: int, pages: Pages) -> tuple[Invalidation, ...]:
    """What a device TLB drops of the translations for requests without PASID (VT-d 6.5.2.5)."""
    return (_device_tlb(source_id, pages, has_space=False),)


def pasid_device_tlb(source_id: int, pages: Pages, pasid: int | None) -> tuple[Invalidation, ...]:
    """What a device TLB drops for requests with PASID (VT-d 6.5.2.6); those of each PASID where it is None (GI)."""
    return (_device_tlb(source_id, pages, has_space=True, space=pasid),)


def _device_tlb(source_id: int, pages: Pages, *, has_space: bool, space: int | None = None) -> Invalidation:
    return Invalidation(
        kinds=_DEVICE_TLB,
        requester=source_id,
        requester_mask=_SOURCE_ID,
        space=space,
        has_space=has_space,
        first=pages.first,
        last=pages.last,
    )


def interrupt_entry_cache(index: int | None, index_mask: int = 0) -> tuple[Invalidation, ...]:
    """What an interrupt entry cache invalidation drops (VT-d 6.5.2.8).

    Args:
        index: one of the entries; None for all.
        index_mask: IM: how many low bits of the index are not compared (VT-d table 25).
    """
    if index is None:
        return (Invalidation(kinds=_INTERRUPTS),)
    span = (1 << index_mask) - 1
    return (Invalidation(kinds=_INTERRUPTS, indexes=(index & ~span, index | span)),)
