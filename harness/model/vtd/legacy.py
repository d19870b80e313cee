"""Legacy mode: root-entry, context-entry, second stage (VT-d 3.4.2).

Where a request meets more than one fault condition the order is that of the table in VT-d 7.1.3, from the root on.
LGN.4 speaks of "an output address": for a translation request that is the page which it is given, as SGN.8.2 says
for scalable mode; for an untranslated request the address that it goes to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from harness.model.access import (
    PERMISSIONS,
    Access,
    AccessKind,
    AddressType,
    Attributes,
    Bypassed,
    BypassReason,
    Fault,
    Mapping,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Memory
from harness.model.vtd.context import Context, ContextBlocked, ContextTables, TranslationType
from harness.model.vtd.fault_conditions import FaultReporter
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.interrupt_range import answer_translation_request, overlaps_interrupt_range
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.reporting.page_requests import PageTags
from harness.model.vtd.root import find_context_table
from harness.model.vtd.second_stage import LEAF_ENTRY, Leaf, SecondStage
from harness.model.x86_message import INTERRUPT_RANGE

__all__ = ["LegacyMode"]

_R = 0b01
_W = 0b10
_SNP = LEAF_ENTRY["SNP"].mask
_PAGE_ADDRESS = LEAF_ENTRY["ADDR"].mask
# Members of an enum are slow to look up through their class; `translate` runs for each access.
_WRITE = AccessKind.WRITE
_UNTRANSLATED = AddressType.UNTRANSLATED
_TRANSLATED = AddressType.TRANSLATED
_PASS_THROUGH = int(TranslationType.PASS_THROUGH)
_DEVICE_TLB = int(TranslationType.SECOND_STAGE_DEVICE_TLB)
_SNOOP = Attributes.SNOOP
_NO_ATTRIBUTES = Attributes.NONE
_EVERYTHING = Permissions.READ | Permissions.WRITE


class LegacyMode:
    """Translates while RTADDR_REG.TTM selects legacy mode.

    Args:
        registers: of the unit.
        memory: physical memory.
    """

    def __init__(self, registers: VtdRegisters, memory: Memory) -> None:
        self._memory = memory
        self._root_table = registers.root_table
        self._host_address_width = registers.host_address_width
        self._zero_length_reads = registers.zero_length_reads
        self._no_write_flag = registers.extended.no_write_flag
        self._fault = FaultReporter(registers).fault
        self._contexts = ContextTables(registers)
        self._second_stage = SecondStage(registers, scalable=False)
        # X of LGN.1, by number of levels.
        self._widths = tuple(min(registers.guest_address_width, 12 + 9 * levels) for levels in range(6))

    def translate(self, access: Access, trace: list[Step] | None) -> Outcome:
        """What becomes of an access within a page."""
        # RTA.2: legacy mode has no requests with PASID.
        if access.pasid is not None:
            return self._fault(access, VtdFaultReason.PASID_IN_LEGACY_MODE)
        context = self._find_context(access.requester, trace)
        if isinstance(context, ContextBlocked):
            return self._fault(access, context.reason, disabled=context.fault_processing_disabled)
        translation_type, table, levels, disabled, domain = context
        iova = access.iova
        device_tlb = access.address_type is not _UNTRANSLATED
        read_only = False
        if device_tlb:
            # LCT.5: only TT 01b lets the requests of a device TLB in.
            if translation_type != _DEVICE_TLB:
                return self._fault(access, VtdFaultReason.TRANSLATION_TYPE_BLOCKS, disabled=disabled)
            if access.address_type is _TRANSLATED:
                return self._translated_request(access, disabled)
            # VT-d 4.2.3: a translation request for reading only has the NW flag set, which NWFS lets count.
            read_only = access.kind is not _WRITE and self._no_write_flag
        if iova >> 20 == INTERRUPT_RANGE:
            if device_tlb:
                return answer_translation_request(access, read_only=read_only)
            # LGN.4, since the request is none of interrupt (`interrupt_range`).
            return self._fault(access, VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE, disabled=disabled)
        # LGN.1: the address must be below the width that both MGAW and AW allow, pass-through or not.
        if iova >> self._widths[levels]:
            return self._fault(access, VtdFaultReason.ADDRESS_BEYOND_WIDTH, disabled=disabled, stage=2)
        if translation_type == _PASS_THROUGH:
            # LGN.1, third case: what is not translated must be below the host address width.
            if iova >> self._host_address_width:
                return self._fault(access, VtdFaultReason.ADDRESS_BEYOND_WIDTH, disabled=disabled)
            return Bypassed(iova, BypassReason.PASS_THROUGH)

        needed = _W if access.kind is _WRITE else _R
        if device_tlb:
            # VT-d 4.2.3: a translation request gets what there is of the rights that it asks for.
            needed = _R if read_only else _R | _W
        elif not access.length and needed == _R and self._zero_length_reads:
            # VT-d 3.14, CAP_REG.ZLR: a zero-length read goes through to a write-only page as well.
            needed = _R | _W
        found = self._second_stage.walk(self._memory, table, levels, iova, needed, domain, trace)
        if not isinstance(found, Leaf):
            return self._fault(access, found.reason, disabled=disabled, stage=2, level=found.level)
        entry, shift, rights, _ = found
        size = 1 << shift
        address = entry & _PAGE_ADDRESS | iova & size - 1
        # LGN.4: no table may lead into the interrupt range.
        if address >> 20 == INTERRUPT_RANGE or (device_tlb and overlaps_interrupt_range(address & -size, size)):
            return self._fault(access, VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE, disabled=disabled, stage=2)
        if read_only:
            rights &= _R
        return Translated(address, size, PERMISSIONS[rights], _SNOOP if entry & _SNP else _NO_ATTRIBUTES)

    def _translated_request(self, access: Access, disabled: bool) -> Outcome:
        """A request that the device has translated itself keeps its address (VT-d 4.2.5)."""
        # LGN.1, second case.
        if access.iova >> self._host_address_width:
            return self._fault(access, VtdFaultReason.ADDRESS_BEYOND_WIDTH, disabled=disabled)
        # LGN.4.
        if access.iova >> 20 == INTERRUPT_RANGE:
            return self._fault(access, VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE, disabled=disabled)
        return Bypassed(access.iova, BypassReason.TRANSLATED_REQUEST)

    def admit_page_request(self, access: Access) -> PageTags | Fault:
        """RTA.3: legacy mode has no page requests, with PASID or without."""
        return self._fault(access, VtdFaultReason.PAGE_REQUEST_IN_LEGACY_MODE, page_request=True)

    def iter_mappings(self, requester: int, pasid: int | None) -> Iterator[Mapping]:
        """Every page that the requester's tables map, in ascending order; nothing for a PASID."""
        context = self._find_context(requester, None)
        if isinstance(context, ContextBlocked) or pasid is not None:
            return
        width = self._widths[context.levels]
        if context.translation_type == _PASS_THROUGH:
            yield Mapping(0, 0, 1 << min(width, self._host_address_width), _EVERYTHING)
            return
        yield from self._second_stage.iter_leaves(self._memory, context.table, context.levels, 1 << width)

    def _find_context(self, requester: int, trace: list[Step] | None) -> Context | ContextBlocked:
        start = 0 if trace is None else len(trace)
        context_table = find_context_table(self._memory, self._root_table, requester, self._host_address_width, trace)
        if isinstance(context_table, ContextBlocked):
            context: Context | ContextBlocked = context_table
        else:
            context = self._contexts.find(self._memory, context_table, requester, trace)
        if trace is not None:
            # VT-d 6.2.1: a context-cache entry, made from both entries, is tagged with source-id and domain-id. 6.2.2:
            # one that caching mode lets hold a fault is tagged with the reserved domain-id 0.
            domain = 0 if isinstance(context, ContextBlocked) else context.domain_id
            cached = CachedEntry(kind=EntryKind.DEVICE, requester=requester, domain=domain)
            trace[start:] = [step if step.value is None else replace(step, cached=cached) for step in trace[start:]]
        return context
