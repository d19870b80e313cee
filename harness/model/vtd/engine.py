"""What a VT-d remapping unit makes of a request: in which mode it is, and what lies before and behind translation.

The modes are in `legacy` and `scalable`; here are those that translate nothing (VT-d 3.4.4, 7.1.3), the interrupt range
(3.15), and protected memory (11.4.8).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from harness.model.access import (
    Access,
    AddressType,
    Bypassed,
    BypassReason,
    Completion,
    Fault,
    Mapping,
    Outcome,
    Permissions,
)
from harness.model.engine import CommandResult, MsiOutcome, MsiWrite, RawCommand, check_within_page
from harness.model.explanation import Explanation, Step
from harness.model.memory import Memory, Region
from harness.model.vtd.fault_conditions import FaultReporter, blocked
from harness.model.vtd.faults import VtdBlocked, VtdFaultReason
from harness.model.vtd.interrupt_range import invalid_interrupt, is_interrupt_request
from harness.model.vtd.interrupts.remapping import InterruptRemapping
from harness.model.vtd.invalidation.commands import execute
from harness.model.vtd.legacy import LegacyMode
from harness.model.vtd.protected_memory import ProtectedMemory
from harness.model.vtd.register_layouts import GSTS_REG, RTADDR_REG, TranslationTableMode
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.reporting.page_requests import PageRequest, PageRequestResult, PageTags, put_on_queue, refuse
from harness.model.vtd.scalable import ScalableMode
from harness.model.x86_message import INTERRUPT_RANGE

__all__ = ["VtdEngine"]

_GRANULE = 4096
# Members of an enum are slow to look up through their class; `_translate` runs for each access.
_UNTRANSLATED = AddressType.UNTRANSLATED
_TRANSLATED = AddressType.TRANSLATED


class _Mode(Protocol):
    """How RTADDR_REG.TTM has requests translated."""

    def translate(self, access: Access, trace: list[Step] | None) -> Outcome:
        """What becomes of an access within a page."""
        ...

    def admit_page_request(self, access: Access) -> PageTags | Fault:
        """Why a page request does not reach the queue, or what it is about."""
        ...

    def iter_mappings(self, requester: int, pasid: int | None) -> Iterator[Mapping]:
        """Every page that the requester's tables map, in ascending order."""
        ...


class _BlockingMode:
    """Blocks every request: abort-dma mode, or a RTADDR_REG that the hardware cannot work with."""

    def __init__(self, registers: VtdRegisters, reason: VtdFaultReason) -> None:
        self._fault = FaultReporter(registers).fault
        self._reason = reason

    def translate(self, access: Access, trace: list[Step] | None) -> Outcome:
        """See `_Mode`."""
        return self._fault(access, self._reason)

    def admit_page_request(self, access: Access) -> PageTags | Fault:
        """See `_Mode`."""
        return self._fault(access, self._reason, page_request=True)

    def iter_mappings(self, requester: int, pasid: int | None) -> Iterator[Mapping]:
        """See `_Mode`."""
        return iter(())


class _LegacyWithIoPermissions(_BlockingMode):
    """Legacy mode with RTADDR_REG.SSIRWE set, which is for scalable mode (VT-d 7.1.3, RTA.1.4)."""

    def __init__(self, registers: VtdRegisters) -> None:
        super().__init__(registers, VtdFaultReason.ROOT_POINTER_INVALID)

    def translate(self, access: Access, trace: list[Step] | None) -> Outcome:
        """See `_Mode`."""
        # RTA.1.4 is not for requests with PASID: they meet RTA.2, as in legacy mode that is set up well.
        in_legacy_mode = VtdFaultReason.PASID_IN_LEGACY_MODE
        return super().translate(access, trace) if access.pasid is None else self._fault(access, in_legacy_mode)

    def admit_page_request(self, access: Access) -> PageTags | Fault:
        """See `_Mode`: nor for page requests, which meet RTA.3."""
        return self._fault(access, VtdFaultReason.PAGE_REQUEST_IN_LEGACY_MODE, page_request=True)


class VtdEngine:
    """One remapping unit, with its tables in memory and with no cache.

    Args:
        registers: as they are now; make a new engine when they change.
        memory: physical memory, read again for each access.
        read_only: memory that refuses to be written, so that no accessed or dirty flag can be set there.
    """

    def __init__(self, registers: VtdRegisters, memory: Memory, *, read_only: Sequence[Region] = ()) -> None:
        self.registers = registers
        self.memory = memory
        self._enabled = registers.translation_enabled
        self._mode = _mode(registers, memory, read_only)
        self._translate_in_mode = self._mode.translate
        self._translated_with_pasid = registers.extended.translated_with_pasid
        self._protected = ProtectedMemory.of(registers)
        self._interrupts = InterruptRemapping(registers)
        required = registers.extended.interrupt_remapping_required
        self._checks_interrupts = registers.interrupt_remapping_enabled or required

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

    def submit(self, command: RawCommand) -> CommandResult:
        """See `Engine`: one invalidation descriptor, whether or not the queue is enabled.

        What a whole queue does, and the registers afterwards, is `harness.model.vtd.invalidation.queue`'s to say.

        Raises:
            SpecError: it is not as wide as IQA_REG.DW says.
        """
        return execute(self.registers, command).result

    def remap_msi(self, write: MsiWrite) -> MsiOutcome:
        """See `InterruptRemapper`.

        Raises:
            SpecError: the write is not to 0xFEEx_xxxx.
        """
        return self._interrupts.remap(self.memory, write, None)

    def explain_msi(self, write: MsiWrite) -> tuple[tuple[Step, ...], MsiOutcome]:
        """The same, with what was looked at. Raises as `remap_msi` does."""
        steps: list[Step] = []
        outcome = self._interrupts.remap(self.memory, write, steps)
        return tuple(steps), outcome

    def receive_page_request(self, request: PageRequest) -> PageRequestResult:
        """What becomes of a page request message (VT-d 7.4.1): it is put on the queue, or refused."""
        access = request.access
        if not (self._enabled and self.registers.extended.page_requests):
            return PageRequestResult(self.registers, fault=blocked(access, VtdBlocked.PAGE_REQUEST))
        found = self._mode.admit_page_request(access)
        if isinstance(found, Fault):
            return refuse(self.registers, request, found)
        return put_on_queue(self.registers, request, found)

    def iter_mappings(self, requester: int, pasid: int | None = None) -> Iterator[Mapping]:
        """Every page that the requester's tables map now, in ascending order.

        Pass-through, and translation that is off, give one mapping of everything to itself. Nothing is taken out
        for the interrupt range (0xFEEx_xxxx), as input or output, or for protected memory, and no flag is set. A
        requester whose entries are not good maps nothing, and in legacy mode nothing is mapped for a PASID. First-stage
        pages are those of a request without privilege (RID_PRIV decides for requests without PASID).

        Raises:
            TableLoop: a table is its own ancestor.
        """
        if not self._enabled:
            yield Mapping(0, 0, 1 << self.registers.host_address_width, Permissions.READ | Permissions.WRITE)
            return
        yield from self._mode.iter_mappings(requester, pasid)

    def _translate(self, access: Access, trace: list[Step] | None) -> Outcome:
        iova = access.iova
        if (iova & 0xFFF) + access.length > _GRANULE:
            check_within_page(access, _GRANULE)
        if iova >> 20 == INTERRUPT_RANGE and access.address_type is _UNTRANSLATED:
            outcome = self._in_interrupt_range(access)
            if outcome is not None:
                if trace is not None:
                    trace.append(Step("interrupt address range", "VT-d 3.15", note="no DMA, whatever the tables say"))
                return outcome
        if trace is not None:
            registers = self.registers
            trace.append(Step("GSTS_REG", GSTS_REG.section, None, registers.gsts, GSTS_REG.describe(registers.gsts)))
        if access.pasid is not None and access.address_type is _TRANSLATED and not self._translated_with_pasid:
            # VT-d 4.2.1, 4.2.5: the root complex does not let it through.
            return blocked(access, VtdBlocked.TRANSLATED_WITH_PASID)
        if self._enabled:
            if trace is not None:
                rtaddr = self.registers.rtaddr
                trace.append(Step("RTADDR_REG", RTADDR_REG.section, None, rtaddr, RTADDR_REG.describe(rtaddr)))
            outcome = self._translate_in_mode(access, trace)
        else:
            outcome = _without_translation(access)
        if self._protected is not None:
            return self._protected.check(access, outcome)
        return outcome

    def _in_interrupt_range(self, access: Access) -> Outcome | None:
        """What becomes of an untranslated request to the interrupt range; None where it is left to DMA remapping."""
        # VT-d 3.15: requests with PASID are translated like others. 3.1: a PASID is ignored without remapping.
        if access.pasid is not None and self._enabled:
            return None
        if is_interrupt_request(access):
            return Bypassed(access.iova, BypassReason.INTERRUPT_RANGE)
        # VT-d 5.1.4.1, reason 29h.
        if self._checks_interrupts:
            return invalid_interrupt(access)
        return None if self._enabled else blocked(access, VtdBlocked.INTERRUPT_RANGE)


def _mode(registers: VtdRegisters, memory: Memory, read_only: Sequence[Region]) -> _Mode:
    """What RTADDR_REG.TTM selects (VT-d 11.4.5; RTA.1 and RTA.4 in 7.1.3)."""
    capabilities = registers.extended
    invalid = _BlockingMode(registers, VtdFaultReason.ROOT_POINTER_INVALID)
    match registers.translation_table_mode:
        case TranslationTableMode.LEGACY:
            return _LegacyWithIoPermissions(registers) if registers.io_permissions else LegacyMode(registers, memory)
        case TranslationTableMode.SCALABLE:
            return ScalableMode(registers, memory, read_only) if capabilities.scalable_mode else invalid
        case TranslationTableMode.ABORT_DMA:
            return _BlockingMode(registers, VtdFaultReason.ABORT_MODE) if capabilities.abort_mode else invalid
        case TranslationTableMode.RESERVED:
            return invalid


def _without_translation(access: Access) -> Outcome:
    """What becomes of an access while GSTS_REG.TES is clear (VT-d 4.2.1, 11.4.4.2)."""
    if access.address_type is not _UNTRANSLATED:
        answer = Completion.UNSUPPORTED_REQUEST
        asks = access.address_type is AddressType.TRANSLATION_REQUEST
        return blocked(access, VtdBlocked.DEVICE_TLB_REQUEST, answer if asks else None)
    return Bypassed(access.iova, BypassReason.TRANSLATION_OFF)
