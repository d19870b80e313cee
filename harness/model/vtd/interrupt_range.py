"""The interrupt address range 0xFEEx_xxxx, which no DMA reaches (VT-d 3.15)."""

from __future__ import annotations

from harness.model.access import Access, AccessKind, AddressType, Bypassed, BypassReason, Completion, Outcome
from harness.model.vtd.fault_conditions import blocked
from harness.model.vtd.faults import VtdBlocked
from harness.model.x86_message import INTERRUPT_RANGE

__all__ = ["answer_translation_request", "is_interrupt_request", "overlaps_interrupt_range"]

_FIRST = INTERRUPT_RANGE << 20
_LAST = _FIRST | 0xFFFFF


def is_interrupt_request(access: Access) -> bool:
    """Whether an access to the range never is DMA, whatever the tables say.

    Interrupt requests are untranslated writes of a doubleword without PASID. Zero-length reads without PASID pass the
    remapping hardware by as well.
    """
    if access.pasid is not None or access.address_type is not AddressType.UNTRANSLATED:
        return False
    if access.kind is AccessKind.WRITE:
        return access.length == 4 and not access.iova & 3
    return not access.length


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
