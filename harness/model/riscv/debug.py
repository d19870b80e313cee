"""The translation-request interface: what its registers ask for, and what is answered (6.24 to 6.26, chapter 7).

A request for read and write permissions together is taken for a write, with which every page that can be written goes;
one for pages that may be larger than 4 KiB may be answered with any part of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.model.access import Access, AccessKind, Attributes, Bypassed, Fault, Outcome, Translated
from harness.model.riscv.device import DeviceContext
from harness.model.riscv.engine import RiscvIommuEngine
from harness.model.riscv.faults import RiscvIommuCause, RiscvIommuFaultRecord, transaction_type
from harness.model.riscv.register_fields import TR_REQ_CTL, TR_REQ_IOVA, TR_RESPONSE
from harness.model.unit import Readout

__all__ = ["answer_of", "requested_access", "response"]

_WORD = 4
_FAULT = TR_RESPONSE["fault"].mask
_PBMT = TR_RESPONSE["PBMT"].mask
_SUPERPAGE = TR_RESPONSE["S"].mask
_PPN = TR_RESPONSE["PPN"]


def requested_access(iova: int, control: int) -> Access | None:
    """The access that tr_req_iova and tr_req_ctl ask for; None where what they ask for is not specified (6.25)."""
    fields = dict(TR_REQ_CTL.decode(control))
    if fields["Exe"] and not fields["NW"]:
        return None
    has_process = bool(fields["PV"])
    kind = AccessKind.EXECUTE if fields["Exe"] else AccessKind.READ if fields["NW"] else AccessKind.WRITE
    return Access(
        requester=fields["DID"],
        iova=iova & TR_REQ_IOVA["vpn"].mask,
        length=_WORD,
        kind=kind,
        pasid=fields["PID"] if has_process else None,
        privileged=has_process and bool(fields["Priv"]),
    )


def answer_of(access: Access, outcome: Outcome, engine: RiscvIommuEngine) -> Outcome:
    """What an outcome comes to for a request: an interrupt file in memory is not reached this way, but is cause 260.

    Args:
        access: that is requested.
        outcome: that a device's access would have.
        engine: of the present tables.
    """
    if not isinstance(outcome, Translated) or Attributes.MRIF not in outcome.attributes:
        return outcome
    cause = RiscvIommuCause.TRANSACTION_TYPE_DISALLOWED
    record = RiscvIommuFaultRecord(
        cause=cause,
        transaction_type=transaction_type(access.kind, access.address_type),
        device_id=access.requester,
        process_id=access.pasid,
        privileged=access.privileged,
        iotval=access.iova,
    )
    device = engine.find_device(access.requester)
    is_suppressed = isinstance(device, DeviceContext) and device.dtf
    return Fault(cause, access.requester, access.iova, False, record=None if is_suppressed else record)


def response(outcomes: Iterable[Outcome], *, has_memory_types: bool) -> Readout:
    """What tr_response says of a request: bits that depend on which of the outcomes it had are not known.

    Args:
        outcomes: that the request may have had.
        has_memory_types: capabilities.Svpbmt.
    """
    value, known = None, TR_RESPONSE.reserved | _FAULT | _PBMT | _SUPERPAGE | _PPN.mask
    if has_memory_types:
        known &= ~_PBMT
    for outcome in outcomes:
        one = _response(outcome)
        known &= one.known
        if value is not None:
            known &= ~(value ^ one.value)
        value = one.value
    return Readout((value or 0) & known, known)


def _response(outcome: Outcome) -> Readout:
    everything = (1 << 64) - 1
    match outcome:
        case Fault():
            return Readout(_FAULT, TR_RESPONSE.reserved | _FAULT)
        case Bypassed():
            # The range of a translation that changes nothing has no size.
            return Readout(0, TR_RESPONSE.reserved | _FAULT | _PBMT)
        case Translated(address=address, size=size):
            known = everything
            if size >> 12 > 1:
                known &= ~(_SUPERPAGE | (size >> 12) - 1 << _PPN.low)
            return Readout(_PPN.put(address >> 12 & (1 << _PPN.width) - 1), known)
