"""The interrupt address range 0xFEEx_xxxx, which no DMA reaches (VT-d 3.15).

An untranslated request without PASID that is no interrupt request is illegal there. Two sections say how it is
reported: 3.15 as a DMA remapping fault, for which only LGN.4 and SGN.8 name the range; the table in 5.1.4.1 as the
interrupt remapping fault 29h. Taken here: 29h, which is not qualified and so found before any table, where interrupts
are remapped or have to be (GSTS_REG.IRES, ECAP_REG.IRREQ); LGN.4 or SGN.8, found before the walk, where only DMA is
(GSTS_REG.TES); no report where nothing is.
"""

from __future__ import annotations

from harness.model.access import Access, AccessKind, Bypassed, BypassReason, Completion, Fault, Outcome
from harness.model.vtd.fault_conditions import blocked
from harness.model.vtd.faults import VtdBlocked, VtdFaultReason, VtdFaultRecord
from harness.model.x86_message import INTERRUPT_RANGE

__all__ = ["answer_translation_request", "invalid_interrupt", "is_interrupt_request", "overlaps_interrupt_range"]

_FIRST = INTERRUPT_RANGE << 20
_LAST = _FIRST | 0xFFFFF


def is_interrupt_request(access: Access) -> bool:
    """Whether an untranslated access to the range, without PASID, never is DMA, whatever the tables say.

    Interrupt requests are writes of a doubleword. Zero-length reads pass the remapping hardware by as well.
    """
    if access.kind is AccessKind.WRITE:
        return access.length == 4 and not access.iova & 3
    return not access.length


def invalid_interrupt(access: Access) -> Fault:
    """The fault 29h (VT-d 5.1.4.1); FI of its record is undefined (11.4.7.6), and zero here."""
    reason = VtdFaultReason.INTERRUPT_REQUEST_INVALID
    record = VtdFaultRecord(address=0, source_id=access.requester & 0xFFFF, reason=reason, is_read=False)
    page = access.iova & ~0xFFF
    return Fault(reason, access.requester, page, is_write=access.kind is AccessKind.WRITE, record=record)


def answer_translation_request(access: Access, *, read_only: bool) -> Outcome:
    """What a translation request for the range gets; neither is a fault (VT-d 7.1.3, S.1 and S.2).

    S.1 lets the device write there with untranslated requests, which is what `Bypassed` says here; S.2, the answer to a
    request for reading only, gives no permission.
    """
    if read_only:
        return blocked(access, VtdBlocked.INTERRUPT_RANGE, Completion.NO_PERMISSION)
    return Bypassed(access.iova, BypassReason.INTERRUPT_RANGE)


def overlaps_interrupt_range(base: int, size: int) -> bool:
    """Whether any byte of a page lies in the range."""
    return base <= _LAST and base + size > _FIRST
