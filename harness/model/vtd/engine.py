"""What a VT-d remapping unit makes of a request, in legacy mode (VT-d 3.4.2, 3.7, 7.1.3).

Scalable mode, abort mode, the invalidation queue, interrupt remapping, protected memory and translation requests of
device TLBs are not modelled yet: a question that needs one of them raises `NotModelled`. (Protected memory is the
exception: PMEN_REG is not looked at.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

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
from harness.model.engine import Interrupt, MsiWrite, NotModelled, check_within_page
from harness.model.explanation import Explanation, Step
from harness.model.memory import Memory
from harness.model.vtd.context import Context, ContextBlocked, ContextTables, TranslationType
from harness.model.vtd.faults import VtdBlocked, VtdFaultReason, VtdFaultRecord
from harness.model.vtd.registers import GSTS_REG, RTADDR_REG, TranslationTableMode, VtdRegisters
from harness.model.vtd.root import find_context_table
from harness.model.vtd.second_stage import Leaf, SecondStage

__all__ = ["VtdEngine"]

_GRANULE = 4096
_INTERRUPT_RANGE = 0xFEE  # bits 63:20 of 0xFEEx_xxxx, VT-d 3.15
_SNP = 1 << 11
_R = 0b01
_W = 0b10
_PAGE_ADDRESS = ((1 << 52) - 1) & ~0xFFF
# Members of an enum are slow to look up through their class; `_translate` runs for each access.
_WRITE = AccessKind.WRITE
_UNTRANSLATED = AddressType.UNTRANSLATED
_PASS_THROUGH = int(TranslationType.PASS_THROUGH)
_DEVICE_TLB = int(TranslationType.SECOND_STAGE_DEVICE_TLB)
_SNOOP = Attributes.SNOOP
_NO_ATTRIBUTES = Attributes.NONE


class VtdEngine:
    """One remapping unit, with its tables in memory and with no cache.

    Args:
        registers: as they are now; make a new engine when they change.
        memory: physical memory, read again for each access.
    """

    def __init__(self, registers: VtdRegisters, memory: Memory) -> None:
        self.registers = registers
        self.memory = memory
        self._enabled = registers.translation_enabled
        self._legacy = registers.translation_table_mode is TranslationTableMode.LEGACY
        self._root_table = registers.root_table
        self._host_address_width = registers.host_address_width
        self._zero_length_reads = registers.zero_length_reads
        self._contexts = ContextTables(registers)
        self._second_stage = SecondStage(registers)
        # X of LGN.1, by number of levels.
        self._widths = tuple(min(registers.guest_address_width, 12 + 9 * levels) for levels in range(6))

    @property
    def granule(self) -> int:
        """See `Engine`: 4 KiB."""
        return _GRANULE

    def translate(self, access: Access) -> Outcome:
        """See `Engine`."""
        return self._translate(access, None)

    def explain(self, access: Access) -> Explanation:
        """See `Engine`."""
        steps: list[Step] = []
        outcome = self._translate(access, steps)
        return Explanation(access, tuple(steps), outcome)

    def submit(self, command: object) -> NoReturn:
        """See `Engine`.

        Raises:
            NotModelled: always; there is no cache yet that an invalidation could change.
        """
        raise NotModelled(f"the VT-d invalidation queue is not modelled: {command!r}")

    def remap_msi(self, write: MsiWrite) -> Interrupt | Fault:
        """See `InterruptRemapper`. Without interrupt remapping every message goes through as it is (VT-d 5.1).

        Raises:
            NotModelled: interrupt remapping is enabled.
        """
        if self.registers.interrupt_remapping_enabled:
            raise NotModelled("VT-d interrupt remapping is not modelled, and GSTS_REG.IRES is set")
        return Interrupt(write.address, write.data, remapped=False)

    def iter_mappings(self, requester: int, pasid: int | None = None) -> Iterator[Mapping]:
        """Every page that the requester's tables map now, in ascending order.

        Pass-through, and translation that is off, give one mapping of everything to itself. Nothing is taken out
        for the interrupt range (0xFEEx_xxxx), as input or output. A requester without a good context maps nothing, and
        in legacy mode nothing is mapped for a PASID.

        Raises:
            TableLoop: a table is its own ancestor.
            NotModelled: not legacy mode.
        """
        everything = Permissions.READ | Permissions.WRITE
        if not self._enabled:
            yield Mapping(0, 0, 1 << self.registers.guest_address_width, everything)
            return
        self._check_mode()
        context = self._find_context(requester, None)
        if isinstance(context, ContextBlocked) or pasid is not None:
            return
        width = self._widths[context.levels]
        if context.translation_type == _PASS_THROUGH:
            yield Mapping(0, 0, 1 << width, everything)
            return
        yield from self._second_stage.iter_leaves(self.memory, context.table, context.levels, 1 << width)

    def _translate(self, access: Access, trace: list[Step] | None) -> Outcome:
        iova = access.iova
        if (iova & 0xFFF) + access.length > _GRANULE:
            check_within_page(access, _GRANULE)
        # VT-d 3.15: requests without PASID to 0xFEEx_xxxx are interrupt requests and never DMA, whatever the
        # tables say; those that are not a doubleword write are not supported, and not recorded as faults.
        if iova >> 20 == _INTERRUPT_RANGE and access.pasid is None:
            return self._interrupt_request(access, trace)
        # VT-d 11.4.4.2: nothing is translated before TES is set.
        if trace is not None:
            registers = self.registers
            trace.append(Step("GSTS_REG", GSTS_REG.section, None, registers.gsts, GSTS_REG.describe(registers.gsts)))
        if not self._enabled:
            return Bypassed(iova, BypassReason.TRANSLATION_OFF)
        if not self._legacy:
            self._check_mode()
        # VT-d 3.4.2: legacy mode has no requests with PASID.
        if access.pasid is not None:
            return self._fault(access, VtdFaultReason.PASID_IN_LEGACY_MODE, disabled=False)

        context = self._find_context(access.requester, trace)
        if isinstance(context, ContextBlocked):
            return self._fault(access, context.reason, disabled=context.fault_processing_disabled)
        translation_type, table, levels, disabled, _ = context

        # LCT.5: only TT 01b lets the requests of a device TLB in.
        if access.address_type is not _UNTRANSLATED:
            if translation_type != _DEVICE_TLB:
                return self._fault(access, VtdFaultReason.TRANSLATION_TYPE_BLOCKS, disabled=disabled)
            if access.address_type is AddressType.TRANSLATED:
                return Bypassed(iova, BypassReason.TRANSLATED_REQUEST)
            raise NotModelled(f"translation requests of device TLBs are not modelled: {access}")

        # LGN.1: the address must be below the width that both MGAW and AW allow, pass-through or not.
        if iova >> self._widths[levels]:
            return self._fault(access, VtdFaultReason.ADDRESS_BEYOND_WIDTH, disabled=disabled, stage=2)
        if translation_type == _PASS_THROUGH:
            return Bypassed(iova, BypassReason.PASS_THROUGH)

        needed = _W if access.kind is _WRITE else _R
        if not access.length and needed == _R and self._zero_length_reads:
            # CAP_REG.ZLR: a zero-length read goes through to a write-only page as well (VT-d 11.4.2).
            needed = _R | _W
        found = self._second_stage.walk(self.memory, table, levels, iova, needed, trace)
        if not isinstance(found, Leaf):
            return self._fault(access, found.reason, disabled=disabled, stage=2, level=found.level)
        entry, shift, rights = found
        size = 1 << shift
        address = entry & _PAGE_ADDRESS | iova & size - 1
        # LGN.4: no table may lead into the interrupt range.
        if address >> 20 == _INTERRUPT_RANGE:
            return self._fault(access, VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE, disabled=disabled, stage=2)
        return Translated(address, size, PERMISSIONS[rights], _SNOOP if entry & _SNP else _NO_ATTRIBUTES)

    def _check_mode(self) -> None:
        mode = self.registers.translation_table_mode
        if mode is not TranslationTableMode.LEGACY:
            raise NotModelled(
                f"RTADDR_REG.TTM={mode.value:#04b} ({mode.name}): only legacy mode is modelled",
                hint="use a unit without scalable mode",
            )

    def _find_context(self, requester: int, trace: list[Step] | None) -> Context | ContextBlocked:
        if trace is not None:
            rtaddr = self.registers.rtaddr
            trace.append(Step("RTADDR_REG", RTADDR_REG.section, None, rtaddr, RTADDR_REG.describe(rtaddr)))
        context_table = find_context_table(
            self.memory, self._root_table, requester >> 8, self._host_address_width, trace
        )
        if isinstance(context_table, VtdFaultReason):
            return ContextBlocked(context_table, False)
        return self._contexts.find(self.memory, context_table, requester, trace)

    def _interrupt_request(self, access: Access, trace: list[Step] | None) -> Outcome:
        if trace is not None:
            trace.append(Step("interrupt address range", "VT-d 3.15", note="0xFEEx_xxxx is never DMA"))
        if access.kind is _WRITE and access.length == 4 and not access.iova & 3:
            return Bypassed(access.iova, BypassReason.INTERRUPT_RANGE)
        return Fault(VtdBlocked.INTERRUPT_RANGE, access.requester, access.iova & ~0xFFF, access.kind is _WRITE)

    def _fault(
        self,
        access: Access,
        reason: VtdFaultReason,
        *,
        disabled: bool,
        stage: int | None = None,
        level: int | None = None,
    ) -> Fault:
        is_write = access.kind is _WRITE
        page = access.iova & ~0xFFF
        record = None
        # VT-d 7.1.3: FPD keeps qualified faults from being recorded; the request is blocked all the same. Those that
        # come before a context-entry was read are not qualified: there was no FPD to look at.
        if not disabled:
            record = VtdFaultRecord(
                address=page,
                source_id=access.requester,
                reason=reason,
                is_read=not is_write,
                address_type=access.address_type,
                pasid=access.pasid,
            )
        return Fault(reason, access.requester, page, is_write, stage, level, record)
