"""What follows from a fault condition: whether it is reported, how a device TLB is answered (VT-d 7.1.3).

The table of VT-d 7.1.3 says of each condition whether FPD suppresses its report ("qualified"), and how each kind of
request ends. An untranslated or translated request is always blocked, and reported. A translation request is
answered "unsupported request" or "completer abort", and reported; or it is answered with success and no permission: a
recoverable fault, which the device may raise with a page request, and which is not reported (VT-d 7.1.2).

Two conditions of the table end differently for different requests under one reason: of LGN.1 and SGN.4 those for
translated requests are never met by a translation request, so one answer for each reason is enough.
"""

from __future__ import annotations

from typing import NamedTuple

from harness.model.access import Access, AccessKind, AddressType, Completion, Fault, MemoryWrite
from harness.model.vtd.faults import VtdBlocked, VtdFaultReason, VtdFaultRecord
from harness.model.vtd.registers import VtdRegisters

__all__ = ["FAULT_CONDITIONS", "FaultCondition", "FaultReporter", "blocked"]

_EVERY_BIT = (1 << 64) - 1


class FaultCondition(NamedTuple):
    """A row of the table in VT-d 7.1.3.

    Attributes:
        qualified: FPD in an entry on the way keeps the fault from being reported.
        completion: of a translation request that meets it; None where none can.
        always_reported: a translation request has it reported although its answer is success.
    """

    qualified: bool
    completion: Completion | None
    always_reported: bool = False


_UR = Completion.UNSUPPORTED_REQUEST
_CA = Completion.COMPLETER_ABORT
_SUCCESS = Completion.NO_PERMISSION
_R = VtdFaultReason

FAULT_CONDITIONS = {
    # Legacy root-table faults.
    _R.ROOT_TABLE_ACCESS: FaultCondition(False, _CA),
    _R.ROOT_NOT_PRESENT: FaultCondition(False, _UR),
    _R.ROOT_RESERVED: FaultCondition(False, _CA),
    # Legacy context-table faults.
    _R.CONTEXT_TABLE_ACCESS: FaultCondition(False, _CA),
    _R.CONTEXT_NOT_PRESENT: FaultCondition(True, _UR),
    _R.CONTEXT_RESERVED: FaultCondition(True, _CA),
    _R.CONTEXT_INVALID: FaultCondition(True, _CA),
    _R.TRANSLATION_TYPE_BLOCKS: FaultCondition(True, _UR),
    # Legacy second-stage table faults.
    _R.PAGING_ENTRY_ACCESS: FaultCondition(True, _CA),
    _R.PAGING_ENTRY_RESERVED: FaultCondition(True, _CA),
    # Legacy general faults.
    _R.ADDRESS_BEYOND_WIDTH: FaultCondition(True, _SUCCESS),
    _R.WRITE_NOT_PERMITTED: FaultCondition(True, _SUCCESS),
    _R.READ_NOT_PERMITTED: FaultCondition(True, _SUCCESS),
    _R.OUTPUT_IN_INTERRUPT_RANGE: FaultCondition(True, _CA),
    # Root-table address register faults.
    _R.ROOT_POINTER_INVALID: FaultCondition(False, _CA),
    _R.PASID_IN_LEGACY_MODE: FaultCondition(False, _UR),
    _R.PAGE_REQUEST_IN_LEGACY_MODE: FaultCondition(False, None),
    _R.ABORT_MODE: FaultCondition(False, _UR),
    _R.EXECUTE_REQUESTED: FaultCondition(False, _UR),
    # Scalable-mode root-table faults.
    _R.SCALABLE_ROOT_ACCESS: FaultCondition(False, _CA),
    _R.SCALABLE_ROOT_NOT_PRESENT: FaultCondition(False, _UR),
    _R.SCALABLE_ROOT_RESERVED: FaultCondition(False, _CA),
    # Scalable-mode context-table faults.
    _R.SCALABLE_CONTEXT_ACCESS: FaultCondition(False, _CA),
    _R.SCALABLE_CONTEXT_NOT_PRESENT: FaultCondition(True, _UR),
    _R.SCALABLE_CONTEXT_RESERVED: FaultCondition(True, _CA),
    _R.SCALABLE_CONTEXT_INVALID: FaultCondition(True, _CA),
    _R.DEVICE_TLB_DISABLED: FaultCondition(True, _UR),
    _R.PASID_DISABLED: FaultCondition(True, _UR),
    _R.PASID_BEYOND_DIRECTORY: FaultCondition(True, _UR),
    _R.PAGE_REQUESTS_DISABLED: FaultCondition(True, None),
    _R.PASID_IS_RID_PASID: FaultCondition(True, _UR),
    _R.TRANSLATED_PASID_DISABLED: FaultCondition(True, None),
    # Scalable-mode PASID-directory faults.
    _R.PASID_DIRECTORY_ACCESS: FaultCondition(False, _CA),
    _R.PASID_DIRECTORY_NOT_PRESENT: FaultCondition(True, _SUCCESS),
    _R.PASID_DIRECTORY_RESERVED: FaultCondition(True, _CA),
    # Scalable-mode PASID-table faults.
    _R.PASID_TABLE_ACCESS: FaultCondition(False, _CA),
    _R.PASID_TABLE_NOT_PRESENT: FaultCondition(True, _SUCCESS),
    _R.PASID_TABLE_RESERVED: FaultCondition(True, _CA),
    _R.PASID_TABLE_INVALID: FaultCondition(True, _CA),
    _R.EXECUTE_NOT_SUPPORTED: FaultCondition(True, _SUCCESS),
    _R.SUPERVISOR_DISABLED: FaultCondition(True, _SUCCESS),
    _R.BEYOND_HOST_PERMISSIONS: FaultCondition(True, None),
    # Scalable-mode first-stage table faults.
    _R.FIRST_STAGE_ACCESS: FaultCondition(True, _SUCCESS),
    _R.FIRST_STAGE_NOT_PRESENT: FaultCondition(True, _SUCCESS),
    _R.FIRST_STAGE_RESERVED: FaultCondition(True, _SUCCESS),
    _R.FIRST_STAGE_ROOT_ACCESS: FaultCondition(True, _SUCCESS),
    _R.FIRST_STAGE_ADDRESS_BEYOND_WIDTH: FaultCondition(True, _SUCCESS),
    _R.FIRST_STAGE_ROOT_UNREADABLE: FaultCondition(True, _SUCCESS),
    _R.FIRST_STAGE_ENTRY_UNREADABLE: FaultCondition(True, _SUCCESS),
    _R.FIRST_STAGE_FLAGS_UNWRITABLE: FaultCondition(True, _SUCCESS),
    _R.FIRST_STAGE_FLAGS_NOT_SNOOPED: FaultCondition(True, _SUCCESS),
    _R.FIRST_STAGE_FLAGS_FAILED: FaultCondition(True, _SUCCESS, always_reported=True),
    # Scalable-mode second-stage table faults.
    _R.SECOND_STAGE_ACCESS: FaultCondition(True, _CA),
    _R.SECOND_STAGE_NOT_PRESENT: FaultCondition(True, _SUCCESS),
    _R.SECOND_STAGE_RESERVED: FaultCondition(True, _CA),
    _R.SECOND_STAGE_ROOT_ACCESS: FaultCondition(True, _CA),
    _R.SECOND_STAGE_FLAGS_NOT_SNOOPED: FaultCondition(True, _CA),
    _R.SECOND_STAGE_FLAGS_FAILED: FaultCondition(True, _CA),
    # Scalable-mode general faults.
    _R.NOT_CANONICAL: FaultCondition(True, _SUCCESS),
    _R.USER_NOT_PERMITTED: FaultCondition(True, _SUCCESS),
    _R.BEYOND_HOST_WIDTH: FaultCondition(True, _SUCCESS),
    _R.SCALABLE_ADDRESS_BEYOND_WIDTH: FaultCondition(True, _SUCCESS),
    _R.SCALABLE_WRITE_NOT_PERMITTED: FaultCondition(True, _SUCCESS),
    _R.SCALABLE_READ_NOT_PERMITTED: FaultCondition(True, _SUCCESS),
    _R.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE: FaultCondition(True, _CA),
    _R.PASID_BEYOND_SIZE: FaultCondition(True, _UR),
    # Host permission table faults: of translated requests alone.
    _R.HOST_PERMISSION_ACCESS: FaultCondition(True, None),
    _R.HOST_PERMISSION_RESERVED: FaultCondition(True, None),
    _R.HOST_PERMISSION_ROOT_ACCESS: FaultCondition(True, None),
    _R.HOST_PERMISSION_NOT_FOUND: FaultCondition(True, None),
    _R.HOST_PERMISSION_NO_WRITE: FaultCondition(True, None),
    _R.HOST_PERMISSION_NO_READ: FaultCondition(True, None),
}


class FaultReporter:
    """Turns a fault condition into the outcome and the record that a unit with these registers gives it."""

    def __init__(self, registers: VtdRegisters) -> None:
        capabilities = registers.extended
        self._device_tlbs = capabilities.device_tlbs
        self._pasid = capabilities.pasid
        # VT-d 11.4.7.6, FI: bits 63:N are zero, N the largest address width that the hardware supports.
        levels = registers.largest_level
        self._address_bits = (1 << 12 + 9 * levels) - 1 if levels else _EVERY_BIT

    def fault(
        self,
        access: Access,
        reason: VtdFaultReason,
        *,
        disabled: bool = False,
        stage: int | None = None,
        level: int | None = None,
        writes: tuple[MemoryWrite, ...] = (),
        page_request: bool = False,
    ) -> Fault:
        """The access is blocked for a reason that has a number.

        Args:
            access: what was asked for.
            reason: the condition.
            disabled: an entry on the way has FPD set.
            stage: translation stage that failed.
            level: of the table entry that failed.
            writes: flags that were set before.
            page_request: it is a page request, not an access.
        """
        condition = FAULT_CONDITIONS[reason]
        completion = condition.completion if access.address_type is AddressType.TRANSLATION_REQUEST else None
        reported = completion is not _SUCCESS or condition.always_reported
        reported = reported and not (disabled and condition.qualified)
        record = self._record(access, reason, page_request) if reported else None
        page = access.iova & ~0xFFF
        is_write = access.kind is AccessKind.WRITE
        return Fault(reason, access.requester, page, is_write, stage, level, record, completion, writes)

    def _record(self, access: Access, reason: VtdFaultReason, page_request: bool) -> VtdFaultRecord:
        # VT-d 11.4.7.6: AT is reserved without device TLBs; PP, PV, EXE and PRIV are without requests with PASID.
        pasid = access.pasid if self._pasid else None
        return VtdFaultRecord(
            address=access.iova & ~0xFFF & self._address_bits,
            source_id=access.requester & 0xFFFF,
            reason=reason,
            # A translation request is a read on PCIe, whatever permissions it asks for.
            is_read=not page_request
            and (access.kind is not AccessKind.WRITE or access.address_type is AddressType.TRANSLATION_REQUEST),
            is_other=page_request,
            address_type=access.address_type if self._device_tlbs else AddressType.UNTRANSLATED,
            pasid=pasid,
            execute=pasid is not None and access.kind is AccessKind.EXECUTE,
            privileged=pasid is not None and access.privileged,
        )


def blocked(access: Access, why: VtdBlocked, completion: Completion | None = None) -> Fault:
    """The access is blocked without a fault reason, and without a report."""
    page = access.iova & ~0xFFF
    return Fault(why, access.requester, page, access.kind is AccessKind.WRITE, completion=completion)
