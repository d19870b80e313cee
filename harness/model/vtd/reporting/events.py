"""Status registers and the event interrupts that they raise: for faults, completed wait descriptors, page requests.

Fault events (VT-d 7.3) tell of a fault record, a queue error, or a device TLB that answers wrongly or not at all;
invalidation events (VT-d 6.5.2.10) of a wait descriptor with IF; page request events (VT-d 7.5) of a page request, or
of one that was lost. Each has a control register with the interrupt mask IM and the pending bit IP, and a message. None
is ever remapped.

Each function gives the registers as they are afterwards, and the message that is sent, if one is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from harness.model.bits import Field, Layout, changed
from harness.model.engine import MsiWrite
from harness.model.vtd.registers import VtdRegisters

__all__ = [
    "EVENT_CONTROL",
    "FSTS_REG",
    "ICS_REG",
    "PRS_REG",
    "UNIT_ITSELF",
    "Event",
    "complete_wait",
    "raise_page_request_status",
    "raise_status",
    "settle_fault_event",
    "write_fectl",
    "write_fsts",
    "write_ics",
    "write_iectl",
    "write_pectl",
    "write_prs",
]

FSTS_REG = Layout(
    "FSTS_REG",
    "VT-d 11.4.7.1",
    (
        Field("PFO", 0, 1),
        Field("PPF", 1, 1),
        Field("RSVD_2", 2, 2),
        Field("IQE", 4, 1),
        Field("ICE", 5, 1),
        Field("ITE", 6, 1),
        Field("RSVD_7", 7, 1),
        Field("FRI", 8, 8),
        Field("RSVD_16", 16, 16),
    ),
)

ICS_REG = Layout("ICS_REG", "VT-d 11.4.9.4", (Field("IWC", 0, 1), Field("RSVD", 1, 31)))

PRS_REG = Layout("PRS_REG", "VT-d 11.4.11.4", (Field("PPR", 0, 1), Field("PRO", 1, 1), Field("RSVD", 2, 30)))

# FECTL_REG, IECTL_REG and PECTL_REG.
EVENT_CONTROL = Layout(
    "event control register",
    "VT-d 11.4.7.2, 11.4.9.5, 11.4.11.5",
    (Field("RSVD", 0, 30), Field("IP", 30, 1), Field("IM", 31, 1)),
)

UNIT_ITSELF = 0
"""Requester of a message that the remapping unit itself sends; it is not remapped, so no table asks for it."""

_IM = EVENT_CONTROL["IM"].mask
_IP = EVENT_CONTROL["IP"].mask
_IWC = ICS_REG["IWC"].mask
_PAGE_REQUEST_CONDITIONS = PRS_REG["PPR"].mask | PRS_REG["PRO"].mask
# Conditions that raise a fault event; one that is still pending keeps another from being raised (VT-d 7.3).
_FAULT_CONDITIONS = sum(FSTS_REG[name].mask for name in ("PFO", "PPF", "IQE", "ICE", "ITE"))
# What software clears by writing ones. PPF follows the fault records (VT-d 11.4.7.1).
_FSTS_W1C = _FAULT_CONDITIONS & ~FSTS_REG["PPF"].mask


class Event(NamedTuple):
    """The registers afterwards, and the message that was sent."""

    registers: VtdRegisters
    interrupt: MsiWrite | None = None


def raise_status(registers: VtdRegisters, values: dict[str, int]) -> Event:
    """Set fields of FSTS_REG because of a fault or an error, and raise a fault event for it (VT-d 7.3)."""
    was_pending = registers.fsts & _FAULT_CONDITIONS
    registers = replace(registers, fsts=changed(FSTS_REG, registers.fsts, values))
    if was_pending:
        return Event(registers)
    # IP is set, and cleared again at once where the mask lets the message out.
    return _send_fault_event(replace(registers, fectl=registers.fectl | _IP))


def write_fsts(registers: VtdRegisters, value: int) -> Event:
    """Software writes FSTS_REG: a one clears PFO, IQE, ICE or ITE."""
    return Event(settle_fault_event(replace(registers, fsts=registers.fsts & ~(value & _FSTS_W1C))))


def settle_fault_event(registers: VtdRegisters) -> VtdRegisters:
    """IP falls when software has serviced every condition (VT-d 7.3)."""
    if registers.fsts & _FAULT_CONDITIONS:
        return registers
    return replace(registers, fectl=registers.fectl & ~_IP)


def write_fectl(registers: VtdRegisters, value: int) -> Event:
    """Software writes FECTL_REG: IM. A message that IP holds back goes out when IM is cleared."""
    return _send_fault_event(replace(registers, fectl=registers.fectl & _IP | value & _IM))


def _send_fault_event(registers: VtdRegisters) -> Event:
    fectl, message = _release(registers.fectl, registers.fedata, registers.feaddr, registers.feuaddr)
    return Event(replace(registers, fectl=fectl), message)


def complete_wait(registers: VtdRegisters) -> Event:
    """A wait descriptor with IF has completed (VT-d 6.5.2.10)."""
    if registers.ics & _IWC:
        return Event(registers)
    registers = replace(registers, ics=registers.ics | _IWC, iectl=registers.iectl | _IP)
    return _send_invalidation_event(registers)


def write_ics(registers: VtdRegisters, value: int) -> Event:
    """Software writes ICS_REG: a one clears IWC, and with it IP."""
    registers = replace(registers, ics=registers.ics & ~(value & _IWC))
    if registers.ics & _IWC:
        return Event(registers)
    return Event(replace(registers, iectl=registers.iectl & ~_IP))


def write_iectl(registers: VtdRegisters, value: int) -> Event:
    """Software writes IECTL_REG: IM. A message that IP holds back goes out when IM is cleared."""
    return _send_invalidation_event(replace(registers, iectl=registers.iectl & _IP | value & _IM))


def _send_invalidation_event(registers: VtdRegisters) -> Event:
    iectl, message = _release(registers.iectl, registers.iedata, registers.ieaddr, registers.ieuaddr)
    return Event(replace(registers, iectl=iectl), message)


def raise_page_request_status(registers: VtdRegisters, condition: int) -> Event:
    """Set PPR or PRO of PRS_REG, and raise a page request event where neither was set (VT-d 7.5)."""
    was_pending = registers.prs & _PAGE_REQUEST_CONDITIONS
    registers = replace(registers, prs=registers.prs | condition)
    if was_pending:
        return Event(registers)
    return _send_page_request_event(replace(registers, pectl=registers.pectl | _IP))


def write_prs(registers: VtdRegisters, value: int) -> Event:
    """Software writes PRS_REG: a one clears PPR or PRO, and IP falls with the last of them (VT-d 7.5)."""
    registers = replace(registers, prs=registers.prs & ~(value & _PAGE_REQUEST_CONDITIONS))
    if registers.prs & _PAGE_REQUEST_CONDITIONS:
        return Event(registers)
    return Event(replace(registers, pectl=registers.pectl & ~_IP))


def write_pectl(registers: VtdRegisters, value: int) -> Event:
    """Software writes PECTL_REG: IM. A message that IP holds back goes out when IM is cleared."""
    return _send_page_request_event(replace(registers, pectl=registers.pectl & _IP | value & _IM))


def _send_page_request_event(registers: VtdRegisters) -> Event:
    pectl, message = _release(registers.pectl, registers.pedata, registers.peaddr, registers.peuaddr)
    return Event(replace(registers, pectl=pectl), message)


def _release(control: int, data: int, address: int, upper: int) -> tuple[int, MsiWrite | None]:
    """Send what is pending and not masked: the control register afterwards, and the message."""
    if control & (_IP | _IM) != _IP:
        return control, None
    # Bits 31:16 of the data register and 1:0 of the address register are reserved (VT-d 11.4.7.3, 11.4.7.4).
    message = MsiWrite(requester=UNIT_ITSELF, address=upper << 32 | address & ~0b11, data=data & 0xFFFF)
    return control & ~_IP, message
