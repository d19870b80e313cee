"""Page requests: which are let through, the queue, and its event (VT-d 7.4, 7.5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from reasons import assert_fault
from vtd_units import HAW, NOWHERE, PASID, RID, TES, Unit

from harness.errors import SpecError
from harness.model.engine import MsiWrite
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.vtd import VtdEngine, VtdFaultReason, VtdFaultRecord, VtdRegisters
from harness.model.vtd.faults import VtdBlocked
from harness.model.vtd.invalidation.descriptors import ResponseCode
from harness.model.vtd.reporting.events import write_pectl, write_prs
from harness.model.vtd.reporting.page_requests import PageRequest, PageRequestResult

QUEUE = 0x80_0000
IM, IP = 1 << 31, 1 << 30
PPR, PRO = 1, 2
REQUEST = PageRequest(requester=RID, address=0x1234_5678, group=0x155, write=True)


class Queue(Unit):
    """A unit whose requester may send page requests; the queue has 128 entries at QUEUE."""

    def __init__(self, stages: str = "first") -> None:
        super().__init__(stages)
        self.tables.set_context_fields(RID, {"PRE": 1})
        self.registers: dict[str, int] = {"pqa": QUEUE, "pedata": 0x41, "peaddr": 0xFEE0_0000, "pectl": 0}

    def receive(self, request: PageRequest = REQUEST, **registers: int) -> PageRequestResult:
        values: dict[str, Any] = {
            "rtaddr": self.rtaddr,
            "cap": self.cap,
            "ecap": self.capabilities.encode(),
            "gsts": self.gsts,
            "host_address_width": HAW,
            **self.registers,
            **registers,
        }
        return VtdEngine(VtdRegisters(**values), self.memory).receive_page_request(request)


@pytest.fixture
def queue() -> Queue:
    return Queue()


def test_descriptor_has_the_fields_of_the_request_7_4_1_1() -> None:
    request = replace(REQUEST, pasid=0xABCDE, privileged=True, execute=True)
    low = 1 | 1 << 8 | RID << 16 | 0xABCDE << 32 | 1 << 52 | 1 << 53
    high = 1 | 1 << 1 | 1 << 2 | 0x155 << 3 | 0x1234_5000
    assert request.encode() == high << 64 | low
    assert replace(REQUEST, last=False, read=False).encode() == (2 | 0x155 << 3 | 0x1234_5000) << 64 | RID << 16 | 1


def test_descriptor_of_page_zero_has_no_address_7_4_1_1() -> None:
    assert PageRequest(requester=RID, address=0, group=0).encode() == (1 | 1 << 2) << 64 | RID << 16 | 1


@pytest.mark.parametrize(
    "fields", [{"group": 512}, {"group": -1}, {"address": 1 << 64}, {"address": -1}, {"pasid": 1 << 20}]
)
def test_request_that_does_not_fit_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(SpecError):
        replace(REQUEST, **fields)  # type: ignore[arg-type]


def test_request_is_written_at_the_tail_which_goes_on_7_4_1(queue: Queue) -> None:
    result = queue.receive(pqt=0x40)
    assert [write.address for write in result.writes] == [QUEUE + 0x40]
    assert int.from_bytes(result.writes[0].data, "little") == REQUEST.encode()
    assert (result.registers.pqt, result.fault, result.response) == (0x60, None, None)


@pytest.mark.parametrize(("size", "end"), [(0, 0x1000), (7, 0x8_0000)])
def test_tail_goes_round_at_the_end_of_the_queue_11_4_11_3(queue: Queue, size: int, end: int) -> None:
    result = queue.receive(pqa=QUEUE | size, pqt=end - 0x20, pqh=0x20)
    assert [write.address for write in result.writes] == [QUEUE + end - 0x20]
    assert result.registers.pqt == 0


def test_full_queue_sets_pro_and_answers_success_7_4_1(queue: Queue) -> None:
    result = queue.receive(pqt=0x20, pqh=0x40)
    assert (result.writes, result.registers.pqt, result.registers.prs) == ((), 0x20, PRO)
    assert result.response is ResponseCode.SUCCESS
    # 7.5: PRO raises the event as PPR does.
    assert result.interrupt == MsiWrite(requester=0, address=0xFEE0_0000, data=0x41)
    assert queue.receive(replace(REQUEST, last=False), pqt=0x20, pqh=0x40).response is None


def test_overflow_drops_requests_until_software_clears_it_7_4_1(queue: Queue) -> None:
    result = queue.receive(prs=PRO, pqt=0x40)
    assert (result.writes, result.response) == ((), ResponseCode.SUCCESS)
    assert (result.registers.prs, result.registers.pqt) == (PRO, 0x40)


def test_first_request_raises_an_event_7_5(queue: Queue) -> None:
    message = MsiWrite(requester=0, address=0x7_FEE0_0000, data=0x41)
    result = queue.receive(peuaddr=7)
    assert (result.interrupt, result.registers.prs, result.registers.pectl) == (message, PPR, 0)
    second = queue.receive(prs=PPR)
    assert second.interrupt is None
    assert (second.registers.prs, second.registers.pqt) == (PPR, 0x20)


def test_masked_event_stays_pending_7_5(queue: Queue) -> None:
    result = queue.receive(pectl=IM)
    assert (result.interrupt, result.registers.pectl) == (None, IM | IP)


def test_event_held_back_goes_out_when_the_mask_is_cleared_7_5(queue: Queue) -> None:
    pending = queue.receive(pectl=IM).registers
    kept, sent = write_pectl(pending, IM), write_pectl(pending, 0)
    assert (kept.interrupt, kept.registers.pectl) == (None, IM | IP)
    assert (sent.interrupt, sent.registers.pectl) == (MsiWrite(requester=0, address=0xFEE0_0000, data=0x41), 0)
    assert write_pectl(sent.registers, 0).interrupt is None


def test_pending_bit_falls_when_software_has_serviced_every_condition_7_5(queue: Queue) -> None:
    pending = replace(queue.receive(pectl=IM).registers, prs=PPR | PRO)
    half = write_prs(pending, PPR).registers
    assert (half.prs, half.pectl) == (PRO, IM | IP)
    none = write_prs(half, PRO).registers
    assert (none.prs, none.pectl) == (0, IM)
    assert write_prs(pending, 0).registers == pending


PAGE_OF_REQUEST, NEIGHBOUR, ELSEWHERE = 0x1234_5000, 0x1234_4000, 0x7000_0000


def cached(
    stage: int, address: int, *, domain: int = 7, space: int | None = 0, kind: EntryKind = EntryKind.LEAF
) -> CachedEntry:
    first, last = address, address + 0xFFF
    return CachedEntry(kind=kind, stage=stage, domain=domain, space=space, first=first, last=last)


@pytest.mark.parametrize(
    ("stages", "gone", "kept"),
    [
        # Page-selective within PASID.
        (
            "first",
            [cached(1, PAGE_OF_REQUEST), cached(1, PAGE_OF_REQUEST, kind=EntryKind.TABLE)],
            [cached(1, NEIGHBOUR), cached(1, PAGE_OF_REQUEST, space=1), cached(1, PAGE_OF_REQUEST, domain=8)],
        ),
        # Page-selective within domain: of whatever PASID.
        (
            "second",
            [
                cached(2, PAGE_OF_REQUEST),
                cached(2, PAGE_OF_REQUEST, space=1),
                cached(2, PAGE_OF_REQUEST, kind=EntryKind.TABLE),
            ],
            [cached(2, NEIGHBOUR), cached(2, PAGE_OF_REQUEST, domain=8)],
        ),
        ("", [cached(2, PAGE_OF_REQUEST)], [cached(2, ELSEWHERE), cached(2, PAGE_OF_REQUEST, domain=8)]),
        # Domain-selective: the request does not name a guest-physical address.
        (
            "nested",
            [
                *(cached(1, ELSEWHERE, space=space) for space in (0, 1)),
                *(cached(2, ELSEWHERE, kind=kind) for kind in (EntryKind.LEAF, EntryKind.TABLE)),
            ],
            [cached(1, PAGE_OF_REQUEST, domain=8), cached(2, PAGE_OF_REQUEST, domain=8)],
        ),
    ],
    ids=["first", "second", "pass-through", "nested"],
)
def test_caches_are_invalidated_as_table_27_says(stages: str, gone: list[CachedEntry], kept: list[CachedEntry]) -> None:
    invalidations = Queue(stages).receive().invalidations
    for entry in gone:
        assert any(each.drops(entry) for each in invalidations), entry
    for entry in kept:
        assert not any(each.drops(entry) for each in invalidations), entry


def test_request_with_pasid_invalidates_what_is_cached_for_its_own_pasid_6_5_3_1(queue: Queue) -> None:
    queue.attach("first", PASID)
    (invalidation,) = queue.receive(replace(REQUEST, pasid=PASID)).invalidations
    assert invalidation.drops(cached(1, PAGE_OF_REQUEST, space=PASID))
    assert not invalidation.drops(cached(1, PAGE_OF_REQUEST, space=0))


def test_largest_pasid_of_the_directory_is_let_in_sct_7(queue: Queue) -> None:
    # PDTS 0: 128 directory entries of 64 PASIDs.
    queue.attach("first", 0x1FFF)
    result = queue.receive(replace(REQUEST, pasid=0x1FFF))
    assert (result.fault, len(result.writes)) == (None, 1)


def test_request_that_is_not_put_on_the_queue_invalidates_nothing_7_4_1(queue: Queue) -> None:
    assert queue.receive(pqt=0x20, pqh=0x40).invalidations == ()
    assert queue.receive(prs=PRO).invalidations == ()


# What is refused.


def assert_refused(result: PageRequestResult, reason: VtdFaultReason) -> VtdFaultRecord:
    """Refused, reported as the fault of a page request, and answered (VT-d 7.4.1, 11.4.7.6)."""
    fault = assert_fault(result.fault, reason)
    assert (result.writes, result.response) == ((), ResponseCode.INVALID_REQUEST)
    assert (result.registers.pqt, result.registers.prs) == (0, 0)
    record = fault.record
    assert isinstance(record, VtdFaultRecord)
    assert (record.is_read, record.is_other, record.address) == (False, True, 0x1234_5000)
    assert VtdFaultRecord.decode(record.encode()) == record
    assert "page request" in str(record)
    return record


def test_page_request_in_legacy_mode_faults_with_reason_0x32_rta_3(queue: Queue) -> None:
    assert_refused(queue.receive(rtaddr=queue.tables.root), VtdFaultReason.PAGE_REQUEST_IN_LEGACY_MODE)
    with_pasid = replace(REQUEST, pasid=PASID)
    result = queue.receive(with_pasid, rtaddr=queue.tables.root | 1 << 7)
    assert assert_refused(result, VtdFaultReason.PAGE_REQUEST_IN_LEGACY_MODE).pasid == PASID


def test_page_request_without_pre_faults_with_reason_0x47_sct_8(queue: Queue) -> None:
    queue.tables.set_context_fields(RID, {"PRE": 0})
    assert_refused(queue.receive(), VtdFaultReason.PAGE_REQUESTS_DISABLED)


def test_page_request_in_abort_mode_faults_with_reason_0x33_rta_4(queue: Queue) -> None:
    assert_refused(queue.receive(rtaddr=3 << 10), VtdFaultReason.ABORT_MODE)


@pytest.mark.parametrize(
    ("entry", "fields", "reason"),
    [
        ("root", {"LP": 0}, VtdFaultReason.SCALABLE_ROOT_NOT_PRESENT),
        ("context", {"P": 0}, VtdFaultReason.SCALABLE_CONTEXT_NOT_PRESENT),
        ("context", {"DTE": 0}, VtdFaultReason.SCALABLE_CONTEXT_INVALID),
        ("context", {"EPTR": 1, "PASIDE": 0}, VtdFaultReason.SCALABLE_CONTEXT_INVALID),
        ("context", {"PASIDDIRPTR": NOWHERE}, VtdFaultReason.PASID_DIRECTORY_ACCESS),
        ("pasid", {"P": 0}, VtdFaultReason.PASID_TABLE_NOT_PRESENT),
    ],
)
def test_page_request_meets_the_faults_of_the_tables_7_1_3(
    queue: Queue, entry: str, fields: dict[str, int], reason: VtdFaultReason
) -> None:
    match entry:
        case "root":
            queue.tables.set_root_fields(RID >> 8, fields)
        case "context":
            queue.tables.set_context_fields(RID, fields)
        case _:
            queue.tables.set_pasid_fields(RID, fields)
    assert_refused(queue.receive(), reason)


@pytest.mark.parametrize(
    ("fields", "pasid", "reason"),
    [
        ({"PASIDE": 0}, PASID, VtdFaultReason.PASID_DISABLED),
        ({}, 1 << 13, VtdFaultReason.PASID_BEYOND_DIRECTORY),
        ({}, 0, VtdFaultReason.PASID_IS_RID_PASID),
    ],
)
def test_page_request_with_a_pasid_that_is_not_let_in_faults_7_1_3(
    queue: Queue, fields: dict[str, int], pasid: int, reason: VtdFaultReason
) -> None:
    queue.tables.set_context_fields(RID, fields)
    assert_refused(queue.receive(replace(REQUEST, pasid=pasid)), reason)


def test_page_request_that_wants_no_response_gets_none_7_4_1(queue: Queue) -> None:
    queue.tables.set_context_fields(RID, {"PRE": 0})
    assert queue.receive(replace(REQUEST, last=False)).response is None


@pytest.mark.parametrize(
    ("context", "pasid"), [({"PRE": 0, "FPD": 1}, {}), ({"P": 0, "FPD": 1}, {}), ({}, {"P": 0, "FPD": 1})]
)
def test_fpd_keeps_a_qualified_fault_of_a_page_request_from_being_reported_7_1_1(
    queue: Queue, context: dict[str, int], pasid: dict[str, int]
) -> None:
    queue.tables.set_context_fields(RID, context)
    queue.tables.set_pasid_fields(RID, pasid)
    fault = queue.receive().fault
    assert fault is not None
    assert fault.record is None


def test_page_request_is_unsupported_without_prs_and_while_translation_is_off(queue: Queue) -> None:
    result = queue.receive(gsts=0, pqt=0x40)
    assert_fault(result.fault, VtdBlocked.PAGE_REQUEST)
    assert (result.registers.pqt, result.response) == (0x40, None)
    queue.lacks("page_requests")
    assert_fault(queue.receive(gsts=TES).fault, VtdBlocked.PAGE_REQUEST)
