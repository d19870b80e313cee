"""What becomes of a request by its PASID table entry: one stage, two, or pass-through (VT-d 3.6 to 3.9, 4.2.3).

A choice where the specification leaves one open: a translation request that meets pass-through in the interrupt range
is answered by S.1 or S.2, with a PASID as without one, since the table in VT-d 7.1.3 says of SGN.8 that those
conditions handle it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
from harness.model.memory import Memory, Region
from harness.model.vtd.extended_capabilities import ExtendedCapabilities
from harness.model.vtd.fault_conditions import FaultReporter
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.first_stage import FirstLeaf, FirstStage, TableMemory, is_canonical
from harness.model.vtd.first_stage_entries import PAGE_ENTRY
from harness.model.vtd.flags import Flags, IgnoredFlags
from harness.model.vtd.interrupt_range import answer_translation_request, overlaps_interrupt_range
from harness.model.vtd.nested import GuestListing, GuestPhysical
from harness.model.vtd.pasid import PasidEntry, PasidTranslation
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.second_stage import LEAF_ENTRY, Leaf, SecondStage, WalkBlocked, level_shift
from harness.model.x86_message import INTERRUPT_RANGE

__all__ = ["PasidTranslator"]

_R = 0b01
_W = 0b10
_SNP = LEAF_ENTRY["SNP"].mask
_PAGE_ADDRESS = LEAF_ENTRY["ADDR"].mask
_P = PAGE_ENTRY["P"].mask
_RW = PAGE_ENTRY["RW"].mask
_US = PAGE_ENTRY["US"].mask
_SNOOP = Attributes.SNOOP
_NO_ATTRIBUTES = Attributes.NONE
_EVERYTHING = Permissions.READ | Permissions.WRITE
# Members of an enum are slow to look up through their class; `translate` runs for each access.
_WRITE = AccessKind.WRITE
_UNTRANSLATED = AddressType.UNTRANSLATED
_SECOND_STAGE = int(PasidTranslation.SECOND_STAGE)
_NESTED = int(PasidTranslation.NESTED)
_PASS_THROUGH = int(PasidTranslation.PASS_THROUGH)


class _Request(NamedTuple):
    """What a request asks of the tables.

    Attributes:
        access: the request.
        asks: it is a translation request.
        write: it writes, or asks for the right to.
        privileged: PR, or RID_PRIV for a request without PASID.
        second_rights: rights of which the second stage must grant one: bit 0 R, bit 1 W.
        pasid: of the request, or RID_PASID.
        entry: the PASID table entry.
        flags: that its walks set.
        trace: takes the steps.
    """

    access: Access
    asks: bool
    write: bool
    privileged: bool
    second_rights: int
    pasid: int
    entry: PasidEntry
    flags: Flags
    trace: list[Step] | None


class PasidTranslator:
    """Translates by PASID table entries, as a unit with these registers does.

    Args:
        registers: of the unit.
        memory: physical memory.
        read_only: memory that refuses to be written.
    """

    def __init__(self, registers: VtdRegisters, memory: Memory, read_only: Sequence[Region]) -> None:
        capabilities = registers.extended
        self._memory = memory
        self._read_only = tuple(read_only)
        self._host_address_width = registers.host_address_width
        self._zero_length_reads = registers.zero_length_reads
        self._no_write_flag = capabilities.no_write_flag
        self._fault = FaultReporter(registers).fault
        self._first_stage = FirstStage(registers)
        self._second_stage = SecondStage(registers, scalable=True)
        # X of SGN.5 and SFS.5, by number of second-stage levels.
        self._widths = tuple(min(registers.guest_address_width, 12 + 9 * levels) for levels in range(6))
        self._largest_page = _largest_page(registers, capabilities)

    def translate(
        self, access: Access, entry: PasidEntry, pasid: int, privileged: bool, trace: list[Step] | None
    ) -> Outcome:
        """What becomes of an untranslated or translation request.

        Args:
            access: the request, within a page.
            entry: that is found for it.
            pasid: its own, or RID_PASID.
            privileged: PR, or RID_PRIV.
            trace: takes a step for each entry; None for speed.
        """
        request = self._request(access, entry, pasid, privileged, trace)
        translation = entry.translation
        if access.iova >> 20 == INTERRUPT_RANGE and (access.pasid is None or translation == _PASS_THROUGH):
            if request.asks:
                return answer_translation_request(access, read_only=not request.write)
            # SGN.8: the address stays in the range, or the request is none of interrupt (`interrupt_range`).
            return self._blocked(request, VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE)
        if translation == _SECOND_STAGE:
            return self._second_stage_only(request)
        if translation == _PASS_THROUGH:
            return self._pass_through(request)
        return self._first_stage_and_below(request)

    def iter_mappings(self, probe: Access, entry: PasidEntry, pasid: int, privileged: bool) -> Iterator[Mapping]:
        """Every page that the tables of an entry map, in ascending order; arguments as for `translate`."""
        match entry.translation:
            case PasidTranslation.PASS_THROUGH:
                yield Mapping(0, 0, 1 << self._host_address_width, _EVERYTHING)
            case PasidTranslation.SECOND_STAGE:
                limit = 1 << self._widths[entry.second_levels]
                yield from self._second_stage.iter_leaves(self._memory, entry.second_table, entry.second_levels, limit)
            case PasidTranslation.FIRST_STAGE:
                yield from self._iter_first_stage(self._memory, entry, privileged)
            case _:
                request = self._request(probe, entry, pasid, privileged, None)._replace(flags=IgnoredFlags())
                guest = GuestListing(self._memory, self._guest(request))
                for mapping in self._iter_first_stage(guest, entry, privileged):
                    yield from guest.iter_pages(mapping)

    def _pass_through(self, request: _Request) -> Outcome:
        access = request.access
        # SGN.4.2.
        if access.iova >> self._host_address_width:
            return self._blocked(request, VtdFaultReason.BEYOND_HOST_WIDTH)
        if not request.asks:
            return Bypassed(access.iova, BypassReason.PASS_THROUGH)
        # VT-d 4.2.3: as large a region as can be, here without the interrupt range.
        size = self._largest_page
        while overlaps_interrupt_range(access.iova & -size, size):
            size >>= 9
        attributes = _SNOOP if request.entry.page_snoop else _NO_ATTRIBUTES
        return Translated(access.iova, size, PERMISSIONS[_R | _W if request.write else _R], attributes)

    def _second_stage_only(self, request: _Request) -> Outcome:
        entry = request.entry
        iova = request.access.iova
        # SGN.5.
        if iova >> self._widths[entry.second_levels]:
            return self._blocked(request, VtdFaultReason.SCALABLE_ADDRESS_BEYOND_WIDTH, 2)
        leaf = self._second_stage.walk(
            self._memory,
            entry.second_table,
            entry.second_levels,
            iova,
            request.second_rights,
            entry.domain_id,
            request.trace,
            request.flags if entry.second_flags else None,
            request.pasid,
        )
        if isinstance(leaf, WalkBlocked):
            return self._walk_blocked(request, leaf)
        bits, shift, rights, _ = leaf
        attributes = _SNOOP if entry.page_snoop or bits & _SNP else _NO_ATTRIBUTES
        address = bits & _PAGE_ADDRESS | iova & (1 << shift) - 1
        return self._arrived(request, address, shift, rights, attributes, None, leaf)

    def _first_stage_and_below(self, request: _Request) -> Outcome:
        entry = request.entry
        iova = request.access.iova
        # SGN.1.
        if not is_canonical(iova, entry.first_levels):
            return self._blocked(request, VtdFaultReason.NOT_CANONICAL, 1)
        guest = self._guest(request) if entry.translation == _NESTED else None
        # VT-d 3.6.1: a request without privilege needs U/S, and R/W for writing. One with privilege needs R/W where WPE
        # is set. What a translation request is not granted it goes without.
        privileged = request.privileged
        write_always = privileged and not entry.write_protect
        needed = _P if privileged else _P | _US
        if request.write and not request.asks and not write_always:
            needed |= _RW
        first = self._first_stage.walk(
            self._memory,
            entry.first_table,
            entry.first_levels,
            iova,
            needed,
            request.flags,
            entry.extended_accessed,
            (entry.domain_id, request.pasid),
            request.trace,
            guest,
        )
        if isinstance(first, WalkBlocked):
            return self._walk_blocked(request, first)
        shift = first.shift
        rights = _R | _W if write_always or first.rights & _RW else _R
        attributes = _SNOOP if entry.page_snoop else _NO_ATTRIBUTES
        if not first.rights & _US:
            attributes |= Attributes.PRIVILEGED
        address = first.address | iova & (1 << shift) - 1
        if guest is None:
            return self._arrived(request, address, shift, rights, attributes, first, None)
        # VT-d 3.8.1: the page itself is read or written with the rights of the second stage.
        second = guest.find_page(address, request.second_rights)
        if isinstance(second, WalkBlocked):
            return self._walk_blocked(request, second)
        if second.entry & _SNP:
            attributes |= _SNOOP
        address = second.entry & _PAGE_ADDRESS | address & (1 << second.shift) - 1
        shift = min(shift, second.shift)
        return self._arrived(request, address, shift, rights & second.rights, attributes, first, second)

    def _arrived(
        self,
        request: _Request,
        address: int,
        shift: int,
        rights: int,
        attributes: Attributes,
        first: FirstLeaf | None,
        second: Leaf | None,
    ) -> Outcome:
        """The outcome of a request that has found its page.

        Args:
            request: what is asked for.
            address: physical address of the first byte of the access.
            shift: log2 of the page size in bytes; of the smaller page where there are two.
            rights: bit 0 R, bit 1 W, granted by every stage.
            attributes: of the page.
            first: the first-stage entry that maps it, where there is one.
            second: the second-stage one, likewise.
        """
        stage = 1 if second is None else 2
        size = 1 << shift
        if request.asks:
            # VT-d 4.2.3: NW takes away the right to write. SGN.7: success with the permission that is left, here none.
            if not request.write:
                rights &= _R
            if not rights:
                return self._blocked(request, VtdFaultReason.SCALABLE_READ_NOT_PERMITTED, stage)
            # SGN.8.2: no part of the page may lie in the interrupt range.
            if overlaps_interrupt_range(address & -size, size):
                return self._blocked(request, VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE, stage)
        # SGN.8.1.
        elif address >> 20 == INTERRUPT_RANGE:
            return self._blocked(request, VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE, stage)
        # VT-d 3.6.2, 3.7.2, 4.2.3.1: the pages are accessed, and dirty where the right to write is made use of.
        entry = request.entry
        flags = request.flags
        dirty = request.write and bool(rights & _W)
        failure = None
        if first is not None:
            failure = self._first_stage.use(first, flags, extended=entry.extended_accessed, dirty=dirty)
        if second is not None and entry.second_flags and failure is None:
            failure = self._second_stage.use(second, flags, dirty=dirty)
        if failure is not None:
            return self._walk_blocked(request, failure)
        return Translated(address, size, PERMISSIONS[rights], attributes, tuple(flags.writes))

    def _request(
        self, access: Access, entry: PasidEntry, pasid: int, privileged: bool, trace: list[Step] | None
    ) -> _Request:
        asks = access.address_type is not _UNTRANSLATED
        # VT-d 4.2.3: a translation request asks for reading and writing, but with the NW flag (a read here) and NWFS.
        write = access.kind is _WRITE or (asks and not self._no_write_flag)
        second_rights = _W if write else _R
        # A translation request gets what there is of the rights that it asks for. 3.14, CAP_REG.ZLR: a zero-length read
        # goes through to a write-only page as well.
        if (asks and write) or (not access.length and not write and not asks and self._zero_length_reads):
            second_rights = _R | _W
        flags = Flags(entry.walk_snoop, self._read_only)
        return _Request(access, asks, write, privileged, second_rights, pasid, entry, flags, trace)

    def _guest(self, request: _Request) -> GuestPhysical:
        entry = request.entry
        width = self._widths[entry.second_levels]
        pasid = request.pasid
        return GuestPhysical(self._memory, self._second_stage, entry, width, pasid, request.flags, request.trace)

    def _blocked(self, request: _Request, reason: VtdFaultReason, stage: int | None = None) -> Fault:
        disabled = request.entry.fault_processing_disabled
        return self._fault(request.access, reason, disabled=disabled, stage=stage, writes=tuple(request.flags.writes))

    def _walk_blocked(self, request: _Request, found: WalkBlocked) -> Fault:
        return self._fault(
            request.access,
            found.reason,
            disabled=request.entry.fault_processing_disabled,
            stage=found.stage,
            level=found.level,
            writes=tuple(request.flags.writes),
        )

    def _iter_first_stage(self, memory: TableMemory, entry: PasidEntry, privileged: bool) -> Iterator[Mapping]:
        needed = _P if privileged else _P | _US
        write_always = privileged and not entry.write_protect
        return self._first_stage.iter_leaves(memory, entry.first_table, entry.first_levels, needed, write_always)


def _largest_page(registers: VtdRegisters, capabilities: ExtendedCapabilities) -> int:
    """Bytes of the largest page of either stage."""
    level = max(registers.large_page_levels, default=1)
    if capabilities.first_stage:
        level = max(level, 3 if registers.first_stage_1g_pages else 2)
    return 1 << level_shift(level)
