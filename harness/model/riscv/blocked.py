"""A request that is stopped: its cause, and the fault with the record and the answer that go with it (3.6, 4.2)."""

from __future__ import annotations

from typing import NamedTuple

from harness.model.access import Access, AccessKind, AddressType, Completion, Fault
from harness.model.riscv.faults import (
    RiscvIommuBlocked,
    RiscvIommuCause,
    RiscvIommuFaultRecord,
    answer_to_translation_request,
    is_suppressed,
    transaction_type,
)
from harness.model.riscv.walk_results import FlagUpdates, WalkBlocked

__all__ = ["Blocked", "fault", "stopped_by_walk"]

_CAUSE = RiscvIommuCause
_PAGE_OFFSET = 0xFFF
_DEVICE_ID = 0xFFFFFF

# The causes of a walk's troubles, by the original access (3.3.2, 4.2): access fault, page fault, guest page fault.
_WALK_CAUSES = {
    AccessKind.EXECUTE: (
        _CAUSE.INSTRUCTION_ACCESS_FAULT,
        _CAUSE.INSTRUCTION_PAGE_FAULT,
        _CAUSE.INSTRUCTION_GUEST_PAGE_FAULT,
    ),
    AccessKind.READ: (_CAUSE.READ_ACCESS_FAULT, _CAUSE.READ_PAGE_FAULT, _CAUSE.READ_GUEST_PAGE_FAULT),
    AccessKind.WRITE: (_CAUSE.WRITE_ACCESS_FAULT, _CAUSE.WRITE_PAGE_FAULT, _CAUSE.WRITE_GUEST_PAGE_FAULT),
}


class Blocked(NamedTuple):
    """Why a request ends, and what its record says beside the request itself.

    Attributes:
        cause: of the fault.
        stage: whose tables are the reason; None where it is none of the two.
        level: of the entry that is the reason, 1 for the last.
        iotval2: as in the record.
        is_global: as of a `Fault`.
    """

    cause: RiscvIommuCause | RiscvIommuBlocked
    stage: int | None = None
    level: int | None = None
    iotval2: int = 0
    is_global: bool = False


def stopped_by_walk(access: Access, found: WalkBlocked) -> Blocked:
    """The trouble of a walk as the cause that the original access gives it."""
    kind = access.kind
    # A translation request is a read, whether it asks to write or not.
    if access.address_type is AddressType.TRANSLATION_REQUEST and kind is AccessKind.WRITE:
        kind = AccessKind.READ
    return Blocked(_WALK_CAUSES[kind][found.trouble], found.stage, found.level, found.iotval2, found.is_global)


def fault(access: Access, blocked: Blocked, dtf: bool, updates: FlagUpdates | None = None) -> Fault:
    """The fault of an access.

    Args:
        access: the request.
        blocked: why it ends.
        dtf: DC.tc.DTF: most causes are not reported.
        updates: flags that were set before.
    """
    cause = blocked.cause
    record = completion = None
    if isinstance(cause, RiscvIommuCause):
        if access.address_type is AddressType.TRANSLATION_REQUEST:
            completion = answer_to_translation_request(cause)
        # 3.6: a success response is no fault. 4.2: DTF suppresses most causes.
        if completion is not Completion.NO_PERMISSION and not (dtf and is_suppressed(cause)):
            record = RiscvIommuFaultRecord(
                cause=cause,
                transaction_type=transaction_type(access.kind, access.address_type),
                device_id=access.requester & _DEVICE_ID,
                process_id=access.pasid,
                # 2.3: supervisor privilege is asked for with a process_id only.
                privileged=access.privileged and access.pasid is not None,
                iotval=access.iova,
                iotval2=blocked.iotval2,
            )
    return Fault(
        cause,
        access.requester,
        access.iova & ~_PAGE_OFFSET,
        access.kind is AccessKind.WRITE,
        blocked.stage,
        blocked.level,
        record,
        completion,
        updates.writes() if updates else (),
        blocked.is_global,
    )
