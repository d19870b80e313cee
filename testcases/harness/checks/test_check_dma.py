"""Judging one DMA: each way to be wrong gives the one finding that it should."""

from __future__ import annotations

import pytest

from harness.checks.dma import (
    check_absent,
    check_memory,
    check_outcome,
    check_reported,
    check_sent,
    check_unexplained,
    check_unreported,
)
from harness.guest.faults import ReportedFault
from harness.model.access import Access, AccessKind, Bypassed, BypassReason
from harness.observations import DmaSeen

PAYLOAD = bytes(range(1, 17))
ALL = range(16)
NOTHING = range(0)
BEFORE = {0x1000: b"\xa5" * 4096, 0x3000: b"\x5a" * 4096}
IOVA = 0x12345400
WRITE = Access(requester=0x20, iova=IOVA, length=16, kind=AccessKind.WRITE)
READ = Access(requester=0x20, iova=IOVA, length=16, kind=AccessKind.READ)


def seen(*pokes: tuple[int, bytes], aim: int = 0x1400) -> DmaSeen:
    """Memory as it was, with bytes poked in afterwards."""
    after = {start: bytearray(data) for start, data in BEFORE.items()}
    for address, data in pokes:
        start = address & ~0xFFF
        after[start][address - start : address - start + len(data)] = data
    whole = {start: bytes(data) for start, data in after.items()}
    return DmaSeen(before=BEFORE, after=whole, payload=PAYLOAD, aim=aim)


def test_payload_at_its_target_gives_no_finding() -> None:
    assert list(check_memory(WRITE, seen((0x1400, PAYLOAD)), "", arrives=ALL)) == []


def test_untouched_memory_after_a_blocked_write_gives_no_finding() -> None:
    assert list(check_memory(WRITE, seen(), "", arrives=NOTHING)) == []


def test_memory_changed_by_a_write_that_must_be_blocked_is_found() -> None:
    (finding,) = check_memory(WRITE, seen((0x1400, PAYLOAD)), "the walk", arrives=NOTHING)
    assert finding.subject.startswith("memory at 0x1400 after ")
    assert finding.expected == "a5 " * 15 + "a5 (unchanged)"
    assert finding.seen == PAYLOAD.hex(" ")
    assert finding.detail == "the walk"


def test_of_memory_that_somebody_uses_only_the_payload_tells() -> None:
    changed = seen((0x1400, PAYLOAD[:12]), (0x1000, b"\0"), (0x3000, PAYLOAD))
    assert list(check_absent(WRITE, changed, "")) == []
    (finding,) = check_absent(WRITE, seen((0x1400, PAYLOAD)), "the walk")
    assert finding.subject.startswith("memory at 0x1400 after ")
    assert (finding.seen, finding.detail) == (PAYLOAD.hex(" "), "the walk")
    with pytest.raises(ValueError, match="nobody looked"):
        list(check_absent(WRITE, seen(aim=0x2000), ""))


def test_payload_that_did_not_arrive_is_found() -> None:
    (finding,) = check_memory(WRITE, seen(), "", arrives=ALL)
    assert finding.expected == PAYLOAD.hex(" ") + " (payload)"
    assert finding.seen == "a5 " * 15 + "a5"


def test_payload_that_arrived_in_part_is_found() -> None:
    (finding,) = check_memory(WRITE, seen((0x1400, PAYLOAD[:12])), "", arrives=ALL)
    assert finding.subject.startswith("memory at 0x1408 ")


@pytest.mark.parametrize("beside", [0x13FF, 0x1410, 0x1000, 0x1FFF, 0x3000, 0x3400])
def test_byte_changed_beside_the_target_is_found(beside: int) -> None:
    (finding,) = check_memory(WRITE, seen((0x1400, PAYLOAD), (beside, b"\0")), "", arrives=ALL)
    assert finding.subject.startswith(f"memory at {beside & ~7:#x} ")


def test_byte_changed_on_another_page_is_called_unchanged_and_not_payload() -> None:
    (finding,) = check_memory(WRITE, seen((0x1400, PAYLOAD), (0x3400, PAYLOAD)), "", arrives=ALL)
    assert finding.expected.endswith("(unchanged)")


def test_payload_in_the_wrong_place_is_found_there_and_at_the_target() -> None:
    findings = list(check_memory(WRITE, seen((0x3400, PAYLOAD)), "", arrives=ALL))
    assert [finding.subject.split()[2] for finding in findings] == ["0x1400", "0x3400"]


@pytest.mark.parametrize("arrives", [NOTHING, ALL, range(8, 16)])
@pytest.mark.parametrize("aim", [0x9000, 0x1FF8, 0xFF8])
def test_aim_that_nobody_looked_at_is_a_wrong_case(aim: int, arrives: range) -> None:
    with pytest.raises(ValueError, match="would not show"):
        list(check_memory(WRITE, seen(aim=aim), "", arrives=arrives))


@pytest.mark.parametrize("arrives", [NOTHING, ALL, range(8, 16)])
def test_payload_that_stood_there_before_is_a_wrong_case(arrives: range) -> None:
    same = DmaSeen(before={0x1000: PAYLOAD}, after={0x1000: PAYLOAD}, payload=PAYLOAD, aim=0x1000)
    with pytest.raises(ValueError, match="would not show"):
        list(check_memory(WRITE, same, "", arrives=arrives))


def test_payload_that_must_arrive_in_part_gives_no_finding_when_it_does() -> None:
    assert list(check_memory(WRITE, seen((0x1408, PAYLOAD[8:])), "", arrives=range(8, 16))) == []


@pytest.mark.parametrize("arrived", [PAYLOAD, PAYLOAD[8:12]])
def test_more_or_less_of_a_payload_than_must_arrive_is_found(arrived: bytes) -> None:
    at = 0x1410 - len(arrived) if len(arrived) == 16 else 0x1408
    (finding,) = check_memory(WRITE, seen((at, arrived)), "", arrives=range(8, 16))
    assert finding.subject.startswith(f"memory at {0x1400 if len(arrived) == 16 else 0x1408:#x} ")


def bypassed(address: int) -> Bypassed:
    return Bypassed(address, BypassReason.NOT_BEHIND)


def test_model_that_agrees_gives_no_finding() -> None:
    assert list(check_outcome(WRITE, 0x1400, bypassed(0x1400), "", "")) == []


def test_model_that_lets_a_dma_through_that_must_be_blocked_is_found() -> None:
    (finding,) = check_outcome(WRITE, None, bypassed(0x1400), "the walk", "the spec")
    assert (finding.expected, finding.detail, finding.citation) == ("blocked", "the walk", "the spec")


def test_model_that_leads_a_dma_elsewhere_is_found() -> None:
    (finding,) = check_outcome(WRITE, 0x1400, bypassed(0x1401), "", "")
    assert finding.expected == "goes to 0x1400"


def fault(requester: int | None = 0x20, address: int | None = IOVA, is_write: bool | None = True) -> ReportedFault:
    return ReportedFault(requester=requester, address=address, is_write=is_write, reason="5", line="a line")


@pytest.mark.parametrize("address", [IOVA, IOVA & ~0xFFF, IOVA + 15])
@pytest.mark.parametrize("is_write", [True, None])
def test_fault_of_the_access_gives_no_finding(address: int, is_write: bool | None) -> None:
    assert list(check_reported(WRITE, [fault(address=address, is_write=is_write), fault(requester=0x99)])) == []


@pytest.mark.parametrize("others", [[], [fault(requester=0x28)], [fault(requester=None)]])
def test_fault_that_was_not_reported_is_found(others: list[ReportedFault]) -> None:
    (finding,) = check_reported(WRITE, others)
    assert finding.expected == f"a fault of 0000:00:04.0 at {IOVA:#x}"
    assert ("40" in finding.seen) == (bool(others) and others[0].requester == 0x28)


@pytest.mark.parametrize("address", [None, 0, (IOVA & ~0xFFF) - 1, IOVA + 16])
def test_fault_at_another_address_is_found(address: int | None) -> None:
    (finding,) = check_reported(WRITE, [fault(), fault(address=address)])
    assert (finding.expected, finding.seen) == (f"in {IOVA:#x}..{IOVA + 15:#x}", "a line")


@pytest.mark.parametrize(("access", "is_write"), [(WRITE, False), (READ, True)])
def test_fault_of_the_wrong_direction_is_found(access: Access, is_write: bool) -> None:
    (finding,) = check_reported(access, [fault(is_write=is_write)])
    assert finding.subject == "direction of a fault of 0000:00:04.0"
    assert finding.expected == str(access.kind)


def test_fault_of_an_allowed_access_is_found() -> None:
    (finding,) = check_unreported(WRITE, [fault(), fault(requester=0x99)])
    assert finding.expected == "none: it is allowed"


def test_fault_of_another_requester_does_not_concern_an_allowed_access() -> None:
    assert list(check_unreported(WRITE, [fault(requester=0x99), fault(requester=None)])) == []


def test_a_fault_that_nobody_asked_about_is_found_once_for_each_device() -> None:
    def fault(requester: int | None) -> ReportedFault:
        return ReportedFault(
            requester=requester, address=0x1000, is_write=True, reason="5", line=f"fault of {requester}"
        )

    findings = list(check_unexplained([fault(0x20), fault(0x20), fault(0x28)]))
    assert [finding.subject for finding in findings] == ["DMA faults of 0000:00:04.0", "DMA faults of 0000:00:05.0"]
    assert [finding.seen for finding in findings] == ["fault of 32", "fault of 40"]
    assert list(check_unexplained([])) == []
    assert [finding.subject for finding in check_unexplained([fault(None)])] == ["DMA faults of an unnamed device"]


def test_a_frame_that_comes_out_as_it_stands_gives_no_finding() -> None:
    assert list(check_sent(READ, PAYLOAD, [PAYLOAD], secret=NOTHING)) == []


@pytest.mark.parametrize(
    "frames", [[], [PAYLOAD[:15]], [PAYLOAD + b"\x11"], [PAYLOAD, PAYLOAD], [b"\xff" + PAYLOAD[1:]]]
)
def test_a_frame_that_comes_out_otherwise_or_not_once_is_found(frames: list[bytes]) -> None:
    (finding,) = check_sent(READ, PAYLOAD, frames, secret=NOTHING)
    assert finding.subject == "what came out of the cable after 00:04.0 read of 16 bytes at 0x12345400"
    assert finding.expected == PAYLOAD.hex(" ")
    assert finding.seen == (" | ".join(frame.hex(" ") for frame in frames) or "nothing")


@pytest.mark.parametrize("frames", [[], [PAYLOAD[:12]], [PAYLOAD[:12] + bytes(4)], [bytes(16)]])
def test_a_frame_without_what_must_be_blocked_gives_no_finding(frames: list[bytes]) -> None:
    assert list(check_sent(READ, PAYLOAD, frames, secret=range(12, 16))) == []


def test_each_byte_that_leaks_is_found() -> None:
    frames = [PAYLOAD[:12] + bytes(4), PAYLOAD[:12] + b"\0" + PAYLOAD[13:14]]
    (finding,) = check_sent(READ, PAYLOAD, frames, secret=range(12, 16))
    assert finding.subject.startswith("byte 13 of a frame that came out after ")
    assert (finding.expected, finding.seen) == ("not what stands in memory", "0x0e")


def test_a_frame_whose_leak_would_not_show_is_refused() -> None:
    with pytest.raises(ValueError, match="it is zero"):
        list(check_sent(READ, bytes(16), [], secret=range(16)))
