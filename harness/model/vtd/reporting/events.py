"""Status registers and the event interrupts that they raise: for faults, completed wait descriptors, page requests.

Fault events (VT-d 7.3) tell of a fault record, a queue error, or a device TLB that answers wrongly or not at all;
invalidation events (VT-d 6.5.2.10) of a wait descriptor with IF; page request events (VT-d 7.5) of a page request, or
of one that was lost. Each has a control register with the interrupt mask IM and the pending bit IP, and a message. None
is ever remapped.

An `EventRegisters` has the status, the control and the message of one of the three; they work alike. The functions do
the same to a whole `VtdRegisters`: they give the registers as they are afterwards, and the message that is sent, if one
is.
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
    "EventRegisters",
    "complete_wait",
    "fault_event",
    "fsts_after_write",
    "raise_page_request_status",
    "raise_status",
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


class EventRegisters(NamedTuple):
    """The registers of one event, 32 bits each.

    Attributes:
        status: FSTS_REG, ICS_REG or PRS_REG.
        control: FECTL_REG, IECTL_REG or PECTL_REG, and the data and address registers that stand behind it.
        data: of the message.
        address: of the message.
        upper: bits 63:32 of that address.
        conditions: bits of the status that raise the event.
    """

    status: int
    control: int
    data: int
    address: int
    upper: int
    conditions: int

    def raised(self, status: int) -> tuple[EventRegisters, MsiWrite | None]:
        """Hardware has set a condition: the status is this, and the event is raised where none was pending (7.3)."""
        if self.status & self.conditions:
            return self._replace(status=status), None
        # IP is set, and cleared again at once where the mask lets the message out.
        return self._replace(status=status)._send(self.control | _IP)

    def settled(self, status: int) -> EventRegisters:
        """Software has cleared conditions: the status is this, and IP falls when none is left (VT-d 7.3, 7.5)."""
        control = self.control if status & self.conditions else self.control & ~_IP
        return self._replace(status=status, control=control)

    def with_control(self, value: int) -> tuple[EventRegisters, MsiWrite | None]:
        """Software writes the control register: IM. A message that IP holds back goes out when IM is cleared."""
        return self._send(self.control & _IP | value & _IM)

    def _send(self, control: int) -> tuple[EventRegisters, MsiWrite | None]:
        """Send what is pending and not masked."""
        if control & (_IP | _IM) != _IP:
            return self._replace(control=control), None
        # Bits 31:16 of the data register and 1:0 of the address register are reserved (VT-d 11.4.7.3, 11.4.7.4).
        address = self.upper << 32 | self.address & ~0b11
        message = MsiWrite(requester=UNIT_ITSELF, address=address, data=self.data & 0xFFFF)
        return self._replace(control=control & ~_IP), message


def fault_event(registers: VtdRegisters) -> EventRegisters:
    """Those of faults."""
    return EventRegisters(
        registers.fsts, registers.fectl, registers.fedata, registers.feaddr, registers.feuaddr, _FAULT_CONDITIONS
    )


def _invalidation_event(registers: VtdRegisters) -> EventRegisters:
    return EventRegisters(registers.ics, registers.iectl, registers.iedata, registers.ieaddr, registers.ieuaddr, _IWC)


def _page_request_event(registers: VtdRegisters) -> EventRegisters:
    return EventRegisters(
        registers.prs,
        registers.pectl,
        registers.pedata,
        registers.peaddr,
        registers.peuaddr,
        _PAGE_REQUEST_CONDITIONS,
    )


def fsts_after_write(fsts: int, value: int) -> int:
    """FSTS_REG after software has written it: a one clears PFO, IQE, ICE or ITE (VT-d 11.4.7.1)."""
    return fsts & ~(value & _FSTS_W1C)


def raise_status(registers: VtdRegisters, values: dict[str, int]) -> Event:
    """Set fields of FSTS_REG because of a fault or an error, and raise a fault event for it (VT-d 7.3)."""
    after, message = fault_event(registers).raised(changed(FSTS_REG, registers.fsts, values))
    return Event(replace(registers, fsts=after.status, fectl=after.control), message)


def write_fsts(registers: VtdRegisters, value: int) -> Event:
    """Software writes FSTS_REG: see `fsts_after_write`."""
    after = fault_event(registers).settled(fsts_after_write(registers.fsts, value))
    return Event(replace(registers, fsts=after.status, fectl=after.control))


def write_fectl(registers: VtdRegisters, value: int) -> Event:
    """Software writes FECTL_REG: see `EventRegisters.with_control`."""
    after, message = fault_event(registers).with_control(value)
    return Event(replace(registers, fectl=after.control), message)


def complete_wait(registers: VtdRegisters) -> Event:
    """A wait descriptor with IF has completed (VT-d 6.5.2.10)."""
    after, message = _invalidation_event(registers).raised(registers.ics | _IWC)
    return Event(replace(registers, ics=after.status, iectl=after.control), message)


def write_ics(registers: VtdRegisters, value: int) -> Event:
    """Software writes ICS_REG: a one clears IWC, and with it IP."""
    after = _invalidation_event(registers).settled(registers.ics & ~(value & _IWC))
    return Event(replace(registers, ics=after.status, iectl=after.control))


def write_iectl(registers: VtdRegisters, value: int) -> Event:
    """Software writes IECTL_REG: see `EventRegisters.with_control`."""
    after, message = _invalidation_event(registers).with_control(value)
    return Event(replace(registers, iectl=after.control), message)


def raise_page_request_status(registers: VtdRegisters, condition: int) -> Event:
    """Set PPR or PRO of PRS_REG, and raise a page request event where neither was set (VT-d 7.5)."""
    after, message = _page_request_event(registers).raised(registers.prs | condition)
    return Event(replace(registers, prs=after.status, pectl=after.control), message)


def write_prs(registers: VtdRegisters, value: int) -> Event:
    """Software writes PRS_REG: a one clears PPR or PRO, and IP falls with the last of them (VT-d 7.5)."""
    after = _page_request_event(registers).settled(registers.prs & ~(value & _PAGE_REQUEST_CONDITIONS))
    return Event(replace(registers, prs=after.status, pectl=after.control))


def write_pectl(registers: VtdRegisters, value: int) -> Event:
    """Software writes PECTL_REG: see `EventRegisters.with_control`."""
    after, message = _page_request_event(registers).with_control(value)
    return Event(replace(registers, pectl=after.control), message)
