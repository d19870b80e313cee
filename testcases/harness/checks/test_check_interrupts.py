"""Judging one interrupt message: each way to be wrong gives the one finding that it should."""

from __future__ import annotations

from harness.checks.interrupts import check_arrived, check_interrupt_outcome, check_interrupt_reported
from harness.guest.faults import InterruptFault
from harness.model.access import Fault
from harness.model.engine import Interrupt, MsiWrite
from harness.model.vtd.faults import VtdFaultReason
from harness.model.x86_message import X86Message
from harness.observations import Message

ADDRESS, DATA = X86Message(destination=0, vector=0x41).encode()
WRITE = MsiWrite(requester=0x20, address=ADDRESS, data=DATA)
THROUGH = Interrupt(ADDRESS, DATA, remapped=False)
CODE = VtdFaultReason.INTERRUPT_COMPATIBILITY_BLOCKED
BLOCKED = Fault(CODE, requester=0x20, iova=ADDRESS, is_write=True)
ARRIVED = Message.sent(ADDRESS, DATA)
REPORT = InterruptFault(requester=0x20, index=0, reason="0x25", line="DMAR: [INTR-REMAP] ...")


def test_model_that_agrees_gives_no_finding() -> None:
    assert not list(check_interrupt_outcome(WRITE, BLOCKED, "", blocked=True))
    assert not list(check_interrupt_outcome(WRITE, THROUGH, "", blocked=False))


def test_model_that_differs_is_found() -> None:
    (finding,) = check_interrupt_outcome(WRITE, THROUGH, "the walk", blocked=True)
    assert (finding.expected, finding.detail) == ("blocked", "the walk")
    (finding,) = check_interrupt_outcome(WRITE, BLOCKED, "", blocked=False)
    assert finding.expected == "let through"


def test_message_that_arrives_as_it_must_gives_no_finding() -> None:
    assert not list(check_arrived(WRITE, THROUGH, [ARRIVED], ""))
    assert not list(check_arrived(WRITE, BLOCKED, [], ""))


def test_message_that_is_blocked_and_arrives_is_found() -> None:
    (finding,) = check_arrived(WRITE, BLOCKED, [ARRIVED], "")
    assert finding.expected == "none"
    assert "vector 65" in finding.seen


def test_message_that_does_not_arrive_is_found() -> None:
    (finding,) = check_arrived(WRITE, THROUGH, [], "")
    assert "vector 65" in finding.expected
    assert finding.seen == "none"


def test_message_that_arrives_twice_or_as_another_is_found() -> None:
    assert list(check_arrived(WRITE, THROUGH, [ARRIVED, ARRIVED], ""))
    assert list(check_arrived(WRITE, THROUGH, [ARRIVED._replace(VECTOR=0x42)], ""))


def test_report_of_that_requester_gives_no_finding() -> None:
    assert not list(check_interrupt_reported(WRITE, CODE, [REPORT]))
    older = InterruptFault(requester=0x20, index=0, reason="37", line="DMAR: [INTR-REMAP] ...")
    assert not list(check_interrupt_reported(WRITE, CODE, [older]))


def test_missing_report_and_that_of_another_are_found() -> None:
    (finding,) = check_interrupt_reported(WRITE, CODE, [])
    assert finding.seen == "none such (others: none)"
    for requester, reason in ((0x28, "0x25"), (0x20, "0x22")):
        other = InterruptFault(requester=requester, index=0, reason=reason, line="another line")
        (finding,) = check_interrupt_reported(WRITE, CODE, [other])
        assert "another line" in finding.seen
