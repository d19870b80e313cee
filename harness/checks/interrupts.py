"""An interrupt message of a rogue device: what is claimed of it, against the model, the processors, the log."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import Enum

from harness.guest.faults import InterruptFault
from harness.model.access import Fault
from harness.model.engine import Interrupt, MsiOutcome, MsiWrite
from harness.observations import Message
from harness.pci import Address
from harness.report.record import Finding

__all__ = ["check_arrived", "check_interrupt_outcome", "check_interrupt_reported"]


def check_interrupt_outcome(write: MsiWrite, outcome: MsiOutcome, walk: str, *, blocked: bool) -> Iterator[Finding]:
    """The machine's own tables, as the model reads them, stop the message or let it through, as is claimed."""
    if isinstance(outcome, Fault) != blocked:
        yield Finding(
            subject=f"what the model makes of {_text(write)}",
            expected="blocked" if blocked else "let through",
            seen=str(outcome),
            detail=walk,
        )


def check_arrived(write: MsiWrite, outcome: MsiOutcome, seen: Collection[Message], walk: str) -> Iterator[Finding]:
    """What the model says that comes of a message has reached the processors; of one that is blocked nothing has.

    Args:
        write: the message as it was sent.
        outcome: what the model makes of it.
        seen: all messages that have arrived meanwhile, none of which a device has sent at its driver's wish.
        walk: how the model came to the outcome, for a person.
    """
    expected = [Message.sent(outcome.address, outcome.data)] if isinstance(outcome, Interrupt) else []
    if list(seen) != expected:
        yield Finding(
            subject=f"interrupts that reached the processors after {_text(write)}",
            expected=_lines(expected),
            seen=_lines(seen),
            detail=walk,
        )


def check_interrupt_reported(write: MsiWrite, code: Enum, faults: Collection[InterruptFault]) -> Iterator[Finding]:
    """The guest reported that an interrupt of this requester was refused, and for that reason.

    Args:
        write: the message.
        code: reason of the fault, as the model has it.
        faults: what the guest reported.
    """
    if not any(fault.requester == write.requester and _number(fault.reason) == code.value for fault in faults):
        others = ", ".join(sorted(fault.line for fault in faults)) or "none"
        yield Finding(
            subject="report of a refused interrupt in the guest's log",
            expected=f"one of {Address.of_requester(write.requester)} with reason {code.value:#x}",
            seen=f"none such (others: {others})",
        )


def _number(reason: str) -> int:
    """Linux up to 5.13 has it in decimal (drivers/iommu/intel/dmar.c)."""
    return int(reason, 16) if reason.startswith("0x") else int(reason)


def _lines(messages: Collection[Message]) -> str:
    return "; ".join(f"message: {message}" for message in messages) or "none"


def _text(write: MsiWrite) -> str:
    return f"{Address.of_requester(write.requester)} sends {write.data:#x} to {write.address:#x}"
