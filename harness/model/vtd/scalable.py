"""Scalable mode: from the root-entry to the PASID table entry, and which requests are let in (VT-d 3.4.3, 4.2.5).

Where a request meets more than one fault condition the order is that of the table in VT-d 7.1.3, from the root on; of
SGN.10, a PASID with too many bits, that it is found when the context-entry has been read and lets PASIDs in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.model.access import Access, AccessKind, AddressType, Bypassed, BypassReason, Fault, Mapping, Outcome
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Memory, Region
from harness.model.vtd.context import ContextBlocked
from harness.model.vtd.fault_conditions import FaultReporter
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.host_permissions import HostPermissions
from harness.model.vtd.pasid import PasidBlocked, PasidEntry, PasidTables
from harness.model.vtd.pasid_translation import PasidTranslator
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.reporting.page_requests import PageTags
from harness.model.vtd.root import find_scalable_context_table
from harness.model.vtd.scalable_context import ScalableContext, ScalableContextTables
from harness.model.x86_message import INTERRUPT_RANGE

__all__ = ["ScalableMode"]

# Members of an enum are slow to look up through their class; `translate` runs for each access.
_EXECUTE = AccessKind.EXECUTE
_UNTRANSLATED = AddressType.UNTRANSLATED
_TRANSLATED = AddressType.TRANSLATED
# From this major version on a request with PASID that asks to execute is a fault of its own (VT-d 7.1.3, RTA.5).
_NO_EXECUTE = 8


class ScalableMode:
    """Translates while RTADDR_REG.TTM selects scalable mode.

    Args:
        registers: of the unit.
        memory: physical memory.
        read_only: memory that refuses to be written.
    """

    def __init__(self, registers: VtdRegisters, memory: Memory, read_only: Sequence[Region]) -> None:
        capabilities = registers.extended
        self._memory = memory
        self._root_table = registers.root_table
        self._host_address_width = registers.host_address_width
        self._pasid_width = capabilities.pasid_width
        self._blocks_execute_early = registers.major_version >= _NO_EXECUTE
        self._execute_requests = capabilities.execute_requests
        self._fault = FaultReporter(registers).fault
        self._contexts = ScalableContextTables(registers)
        self._pasids = PasidTables(registers)
        self._translator = PasidTranslator(registers, memory, read_only)
        self._host_permissions = HostPermissions(registers)

    def translate(self, access: Access, trace: list[Step] | None) -> Outcome:
        """What becomes of an access within a page."""
        # RTA.5.
        if access.kind is _EXECUTE and access.pasid is not None and self._blocks_execute_early:
            return self._fault(access, VtdFaultReason.EXECUTE_REQUESTED)
        context = self._find_context(access.requester, trace)
        if isinstance(context, ContextBlocked):
            return self._fault(access, context.reason, disabled=context.fault_processing_disabled)
        if (refused := self._refused_by_context(access, context)) is not None:
            return self._fault(access, refused, disabled=context.fault_processing_disabled)
        # VT-d 3.4.3, 9.4: a request without PASID is treated as one with that of RID_PASID.
        pasid = context.rid_pasid if access.pasid is None else access.pasid
        if access.address_type is _TRANSLATED:
            return self._translated_request(access, context, pasid, trace)
        entry = self._find_pasid(access.requester, context, pasid, trace)
        if isinstance(entry, PasidBlocked):
            return self._fault(access, entry.reason, disabled=entry.fault_processing_disabled)
        disabled = entry.fault_processing_disabled
        # SPT.5.
        if access.kind is _EXECUTE and access.pasid is not None and not self._execute_requests:
            return self._fault(access, VtdFaultReason.EXECUTE_NOT_SUPPORTED, disabled=disabled)
        # SPT.6. What RID_PRIV says counts for requests without PASID.
        privileged = context.rid_privileged if access.pasid is None else access.privileged
        if privileged and not entry.supervisor:
            return self._fault(access, VtdFaultReason.SUPERVISOR_DISABLED, disabled=disabled)

        return self._translator.translate(access, entry, pasid, privileged, trace)

    def admit_page_request(self, access: Access) -> PageTags | Fault:
        """Why a page request does not reach the queue (VT-d 7.4.1, and its columns in 7.1.3), or what it is about."""
        context = self._find_context(access.requester, None)
        if isinstance(context, ContextBlocked):
            disabled = context.fault_processing_disabled
            return self._fault(access, context.reason, disabled=disabled, page_request=True)
        disabled = context.fault_processing_disabled
        if (refused := self._page_request_refused_by_context(access, context)) is not None:
            return self._fault(access, refused, disabled=disabled, page_request=True)
        pasid = context.rid_pasid if access.pasid is None else access.pasid
        entry = self._find_pasid(access.requester, context, pasid, None)
        if isinstance(entry, PasidBlocked):
            disabled = entry.fault_processing_disabled
            return self._fault(access, entry.reason, disabled=disabled, page_request=True)
        return PageTags(entry.translation, entry.domain_id, pasid)

    def _page_request_refused_by_context(self, access: Access, context: ScalableContext) -> VtdFaultReason | None:
        # SCT.4.3.
        if context.translated_pasid and not context.pasid:
            return VtdFaultReason.SCALABLE_CONTEXT_INVALID
        # SCT.6, SCT.7.
        if access.pasid is not None and not context.pasid:
            return VtdFaultReason.PASID_DISABLED
        if access.pasid is not None and access.pasid > context.max_pasid:
            return VtdFaultReason.PASID_BEYOND_DIRECTORY
        # SCT.8.
        if not context.page_requests:
            return VtdFaultReason.PAGE_REQUESTS_DISABLED
        # SCT.9.
        return VtdFaultReason.PASID_IS_RID_PASID if access.pasid == context.rid_pasid else None

    def _refused_by_context(self, access: Access, context: ScalableContext) -> VtdFaultReason | None:
        """Why the context-entry does not let a request in (VT-d 7.1.3, SCT.4.3 to SCT.10 and SGN.10)."""
        with_pasid = access.pasid is not None
        translated = access.address_type is _TRANSLATED
        # SCT.4.3: EPTR needs PASIDE. Other requests with PASID meet SCT.6 instead.
        if context.translated_pasid and not context.pasid and (translated or not with_pasid):
            return VtdFaultReason.SCALABLE_CONTEXT_INVALID
        # SCT.5.
        if access.address_type is not _UNTRANSLATED and not context.device_tlb:
            return VtdFaultReason.DEVICE_TLB_DISABLED
        if access.pasid is None:
            return None
        # SCT.6.
        if not context.pasid and not translated:
            return VtdFaultReason.PASID_DISABLED
        # SCT.7.
        if access.pasid > context.max_pasid:
            return VtdFaultReason.PASID_BEYOND_DIRECTORY
        # SCT.9.
        if access.pasid == context.rid_pasid:
            return VtdFaultReason.PASID_IS_RID_PASID
        # SCT.10.
        if translated and not context.translated_pasid:
            return VtdFaultReason.TRANSLATED_PASID_DISABLED
        # SGN.10.
        if access.pasid >> self._pasid_width:
            return VtdFaultReason.PASID_BEYOND_SIZE
        return None

    def _translated_request(
        self, access: Access, context: ScalableContext, pasid: int, trace: list[Step] | None
    ) -> Outcome:
        """A request that the device has translated itself keeps its address, if it may go there (VT-d 4.2.5)."""
        disabled = context.fault_processing_disabled
        # SGN.4.1.
        if access.iova >> self._host_address_width:
            return self._fault(access, VtdFaultReason.BEYOND_HOST_WIDTH, disabled=disabled)
        # SGN.8.3.
        if access.iova >> 20 == INTERRUPT_RANGE:
            return self._fault(access, VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE, disabled=disabled)
        if context.host_permissions:
            entry = self._find_pasid(access.requester, context, pasid, trace)
            if isinstance(entry, PasidBlocked):
                return self._fault(access, entry.reason, disabled=entry.fault_processing_disabled)
            if (refused := self._host_permissions.check(self._memory, entry, access, trace)) is not None:
                return self._fault(access, refused, disabled=entry.fault_processing_disabled)
        return Bypassed(access.iova, BypassReason.TRANSLATED_REQUEST)

    def _find_context(self, requester: int, trace: list[Step] | None) -> ScalableContext | ContextBlocked:
        start = 0 if trace is None else len(trace)
        table = find_scalable_context_table(self._memory, self._root_table, requester, self._host_address_width, trace)
        if trace is not None:
            # VT-d 6.2.2: what the context-cache holds of the root-entry; no domain is tagged.
            _tag(trace, start, CachedEntry(kind=EntryKind.DEVICE, requester=requester))
        if isinstance(table, ContextBlocked):
            return table
        return self._contexts.find(self._memory, table, requester, trace)

    def _find_pasid(
        self, requester: int, context: ScalableContext, pasid: int, trace: list[Step] | None
    ) -> PasidEntry | PasidBlocked:
        start = 0 if trace is None else len(trace)
        found = self._pasids.find(self._memory, context.directory, pasid, trace)
        if trace is not None:
            # VT-d 6.2.1: a PASID-cache entry, made from both entries, is tagged with source-id, PASID and domain-id.
            # 6.2.3: one that caching mode lets hold a fault is tagged with the reserved domain-id 0.
            domain = 0 if isinstance(found, PasidBlocked) else found.domain_id
            _tag(trace, start, CachedEntry(kind=EntryKind.PROCESS, requester=requester, domain=domain, space=pasid))
        # VT-d 7.1.1: FPD of any entry on the way counts.
        if context.fault_processing_disabled:
            return found._replace(fault_processing_disabled=True)
        return found

    def iter_mappings(self, requester: int, pasid: int | None) -> Iterator[Mapping]:
        """Every page that the requester's tables map with a PASID, or with RID_PASID, in ascending order."""
        context = self._find_context(requester, None)
        if isinstance(context, ContextBlocked):
            return
        probe = Access(requester=requester, iova=0, length=0, kind=AccessKind.READ, pasid=pasid)
        if self._refused_by_context(probe, context) is not None:
            return
        number = context.rid_pasid if pasid is None else pasid
        entry = self._find_pasid(requester, context, number, None)
        privileged = context.rid_privileged and pasid is None
        if isinstance(entry, PasidBlocked) or (privileged and not entry.supervisor):
            return
        yield from self._translator.iter_mappings(probe, entry, number, privileged)


def _tag(trace: list[Step], start: int, cached: CachedEntry) -> None:
    """Tag the steps from `start` on, those that were read."""
    trace[start:] = [step if step.value is None else replace(step, cached=cached) for step in trace[start:]]
