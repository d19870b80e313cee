"""Records that stand one behind the other: which one is missing, or one too many."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from harness.conform.command import RAM_BYTES
from harness.conform.comparison import Comparison
from harness.conform.contents import Contents
from harness.conform.divergence import Divergence
from harness.conform.memory import HOT_DATA, TwinMemory
from harness.conform.program import Dma
from harness.conform.request import Request
from harness.model.access import Access, AccessKind, Fault, Outcome, Permissions, Translated
from harness.model.explanation import Explanation, Step
from harness.model.smmuv3.events import Smmuv3Event, Smmuv3EventType, event_layout
from harness.model.unit import Place

_SIZE = 32
_TYPE = Smmuv3EventType.F_PERMISSION


@dataclass
class _Memory:
    """Both copies of a queue of four records."""

    real: bytearray = field(default_factory=lambda: bytearray(4 * _SIZE))
    twin: bytearray = field(default_factory=lambda: bytearray(4 * _SIZE))

    def differences(self) -> list[int]:
        return [at for at in range(0, len(self.real), 8) if self.real[at : at + 8] != self.twin[at : at + 8]]


@dataclass
class _Unit:
    """All that a comparison asks of one: where records are, and why its requests are blocked."""

    memory: _Memory
    outcomes_of: dict[int, Outcome] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    first: int = 0
    granule: int = 4096
    kind: str = ""  # name of all records; empty where each is named after its fault

    def structure_at(self, address: int) -> Place | None:
        start = address & -_SIZE
        layout = event_layout(self.memory.twin[start])
        layout = replace(layout, name=self.kind or layout.name)
        sequence = (start // _SIZE - self.first) % 4
        return Place(layout.name, start, _SIZE, layout, source="STREAMID", input="INPUTADDR", sequence=sequence)

    def explain(self, access: Access) -> Explanation:
        return Explanation(
            access,
            (Step("page", "D8", reason=self.reasons.get(access.iova, "AP")),),
            self.outcomes_of[access.requester],
        )

    def outcomes(self, access: Access) -> list[Outcome]:
        return [self.outcomes_of[access.requester]]


class _UnitWithoutRecords(_Unit):
    """One that writes nothing itself."""

    def structure_at(self, address: int) -> Place | None:
        return None


def _event(requester: int) -> Smmuv3Event:
    return Smmuv3Event(type=_TYPE, stream_id=requester, input_address=0x1000)


def _signatures(blocked: list[int], translated: list[int], recorded: list[int]) -> list[str]:
    """What is said where requests are blocked and translated, and those of `recorded` have a record."""
    memory = _Memory()
    unit = _Unit(memory)
    requests = []
    for number, requester in enumerate([*blocked, *translated]):
        access = Access(requester=requester, iova=0x1000, length=4, kind=AccessKind.WRITE)
        outcome: Outcome = Translated(0x2000, 4096, Permissions.WRITE)
        if requester in blocked:
            outcome = Fault(_TYPE, requester, 0x1000, is_write=True, record=_event(requester))
            memory.twin[number * _SIZE : (number + 1) * _SIZE] = _event(requester).encode()
        unit.outcomes_of[requester] = outcome
        requests.append(Request(Dma("edu0", AccessKind.WRITE, 0x1000, 4, 0x100), access, outcome, None))
    for number, requester in enumerate(recorded):
        memory.real[number * _SIZE : (number + 1) * _SIZE] = _event(requester).encode()
    return _compared(memory, unit, requests)


@pytest.mark.parametrize(
    ("recorded", "first"),
    [
        ([1, 2, 3], None),
        ([2, 3], "t: memory: fault F_PERMISSION (AP) is not recorded"),
        ([1, 3], "t: memory: fault F_PERMISSION (AP) is not recorded"),
        ([1, 2], "t: memory: fault F_PERMISSION (AP) is not recorded"),
        ([1, 4, 2, 3], "t: memory: a record of TYPE 0x13 of translation (AP)"),
        ([4, 1, 2, 3], "t: memory: a record of TYPE 0x13 of translation (AP)"),
    ],
)
def test_the_record_that_is_missing_or_too_much_is_named(recorded: list[int], first: str | None) -> None:
    assert next(iter(_signatures([1, 2, 3], [4], recorded)), None) == first


def test_a_record_that_is_older_than_the_round_is_no_record_of_it() -> None:
    memory = _Memory()
    unit = _Unit(memory, {2: Translated(0x2000, 4096, Permissions.WRITE)})
    missing, due = _blocked_write(unit, 1, 0x1000)
    passing = missing._replace(access=replace(missing.access, requester=2), outcome=unit.outcomes_of[2])
    memory.twin[:_SIZE] = due
    old = Smmuv3Event(type=_TYPE, stream_id=2, input_address=0x7000)
    memory.real[:_SIZE] = old.encode()
    assert _compared(memory, unit, [missing, passing])[0] == "t: memory: fault F_PERMISSION (AP) is not recorded"


def test_a_record_of_the_right_request_is_compared_field_by_field() -> None:
    memory = _Memory()
    memory.twin[:_SIZE] = _event(1).encode()
    memory.real[:_SIZE] = Smmuv3Event(type=_TYPE, stream_id=1, input_address=0x1000, is_read=True).encode()
    unit = _Unit(memory, {1: Fault(_TYPE, 1, 0x1000, is_write=True, record=_event(1))})
    access = Access(requester=1, iova=0x1000, length=4, kind=AccessKind.WRITE)
    request = Request(Dma("edu0", AccessKind.WRITE, 0x1000, 4, 0x100), access, unit.outcomes_of[1], None)
    assert _compared(memory, unit, [request]) == ["t: memory: F_PERMISSION (AP): RNW is 0x1 for 0x0"]


def _compared(memory: _Memory, unit: _Unit, requests: list[Request]) -> list[str]:
    found: list[Divergence] = []
    anything: Any = unit
    copies: Any = memory
    contents: Any = None
    Comparison("t", anything, 0, copies, 0, contents, found.append).memory(0, requests, memory.differences())
    return [each.signature for each in found]


def _blocked_write(unit: _Unit, requester: int, iova: int) -> tuple[Request, bytes]:
    event = Smmuv3Event(type=_TYPE, stream_id=requester, input_address=iova)
    fault = unit.outcomes_of[requester] = Fault(_TYPE, requester, iova, is_write=True, record=event)
    access = Access(requester=requester, iova=iova, length=4, kind=AccessKind.WRITE)
    return Request(Dma("edu0", AccessKind.WRITE, iova, 4, 0x100), access, fault, None), event.encode()


@pytest.mark.parametrize("kind", ["", "fault record"])
def test_of_two_faults_of_a_requester_the_one_whose_record_differs_says_why(kind: str) -> None:
    memory = _Memory()
    unit = _Unit(memory, reasons={0x1000: "AP", 0x2000: "APTable"}, kind=kind)
    (first, before), (second, after) = (_blocked_write(unit, 1, iova) for iova in (0x1000, 0x2000))
    memory.twin[: 2 * _SIZE] = before + after
    memory.real[: 2 * _SIZE] = before + after
    memory.real[_SIZE + 12] ^= 1 << 3  # RnW
    said = f"t: memory: {kind or 'F_PERMISSION'} (APTable): RNW is 0x1 for 0x0"
    assert _compared(memory, unit, [first, second]) == [said]


def test_of_the_parts_of_a_dma_the_one_whose_record_is_missing_is_named() -> None:
    memory = _Memory()
    first, second = Smmuv3EventType.F_ADDR_SIZE, _TYPE
    unit = _Unit(memory)
    dma = Dma("edu0", AccessKind.WRITE, 0x1FFE, 4, 0x100)
    requests, records = [], []
    for code, iova in ((first, 0x1FFE), (second, 0x2000)):
        record = Smmuv3Event(type=code, stream_id=1, input_address=iova)
        fault = unit.outcomes_of[1] = Fault(code, 1, iova, is_write=True, record=record)
        access = Access(requester=1, iova=iova, length=2, kind=AccessKind.WRITE)
        requests.append(Request(dma, access, fault, None))
        records.append(record.encode())
    memory.twin[: 2 * _SIZE] = b"".join(records)
    memory.real[:_SIZE] = records[1]
    assert _compared(memory, unit, requests)[0] == "t: memory: fault F_ADDR_SIZE is not recorded"


def test_of_a_ring_the_record_that_was_due_first_is_told_of_first() -> None:
    memory = _Memory()
    unit = _Unit(memory, reasons={0x1000: "first", 0x2000: "second"}, first=3)
    (first, due), (second, next_due) = (_blocked_write(unit, each, 0x1000 * each) for each in (1, 2))
    memory.twin[3 * _SIZE :] = due
    memory.twin[:_SIZE] = next_due
    memory.real[3 * _SIZE :] = next_due
    assert _compared(memory, unit, [first, second])[0] == "t: memory: fault F_PERMISSION (first) is not recorded"


def test_low_bits_of_the_address_in_a_reserved_field_are_told_from_anything_else() -> None:
    for found, said in ((0x234, "RSVD_192 has low bits of the address"), (0x235, "RSVD_192 differs")):
        memory = _Memory()
        unit = _Unit(memory)
        request, record = _blocked_write(unit, 1, 0x1234)
        memory.twin[:_SIZE] = record
        memory.real[:_SIZE] = record
        memory.real[24:26] = found.to_bytes(2, "little")
        assert _compared(memory, unit, [request]) == [f"t: memory: F_PERMISSION (AP): {said}"]


def test_the_first_difference_of_a_kind_in_a_program_is_explained() -> None:
    memory = _Memory()
    unit = _Unit(memory)
    request, record = _blocked_write(unit, 1, 0x1000)
    found: list[Divergence] = []
    anything: Any = unit
    copies: Any = memory
    contents: Any = None
    comparison = Comparison("t", anything, 0, copies, 0, contents, found.append)
    for begins in (True, False, True):
        if begins:
            comparison.begin()
        memory.twin[:_SIZE] = record
        memory.real[:_SIZE] = record
        memory.real[12] ^= 1 << 3  # RnW
        comparison.memory(0, [request], memory.differences())
    assert ["page" in each.detail for each in found] == [True, False, True]


def test_data_that_are_known_tell_whose_they_are_before_those_that_are_not() -> None:
    """What a device writes that has read what it must not may be anything, and is no reason to take it for that."""
    unit = _UnitWithoutRecords(_Memory())
    contents = Contents()
    read = Access(requester=0x80, iova=0x3000, length=4, kind=AccessKind.READ)
    unit.outcomes_of = {each: Fault(_TYPE, each, 0x3000, is_write=True) for each in (0x80, 0x81)}
    contents.begin_read("edu0")
    contents.take(Request(Dma("edu0", AccessKind.READ, 0x3000, 4, 0x900), read, unit.outcomes_of[0x80], None), bytes(4))
    requests = [
        Request(
            Dma(device, AccessKind.WRITE, iova, 4, offset),
            Access(requester=requester, iova=iova, length=4, kind=AccessKind.WRITE),
            unit.outcomes_of[requester],
            None,
        )
        for device, requester, iova, offset in (("edu0", 0x80, 0x3000, 0x900), ("edu1", 0x81, 0x4000, 0x100))
    ]
    found: list[Divergence] = []
    with mmap.mmap(-1, RAM_BYTES) as real:
        memory = TwinMemory(real)
        memory.real[HOT_DATA.start : HOT_DATA.start + 4] = contents.data(requests[1])
        anything: Any = unit
        Comparison("t", anything, 0, memory, 0, contents, found.append).writes(1, requests, memory.differences())
        del memory  # it looks into the mapping
    assert [each.detail.startswith(str(requests[1].access)) for each in found] == [True]


def test_zeroes_where_data_had_to_arrive_are_not_taken_for_those_of_a_blocked_write() -> None:
    unit = _UnitWithoutRecords(_Memory())
    contents = Contents()
    address = HOT_DATA.start
    unit.outcomes_of = {
        0x80: Fault(_TYPE, 0x80, 0x3000, is_write=True),
        0x81: Translated(address, 4096, Permissions.WRITE),
    }
    requests = [
        Request(
            Dma(device, AccessKind.WRITE, iova, 4, offset),
            Access(requester=requester, iova=iova, length=4, kind=AccessKind.WRITE),
            unit.outcomes_of[requester],
            place,
        )
        for device, requester, iova, offset, place in (
            ("edu0", 0x80, 0x3000, 0x900, None),
            ("edu1", 0x81, 0x4000, 0x100, address),
        )
    ]
    found: list[Divergence] = []
    with mmap.mmap(-1, RAM_BYTES) as real:
        memory = TwinMemory(real)
        memory.twin[address : address + 4] = contents.data(requests[1])
        anything: Any = unit
        Comparison("t", anything, 0, memory, 0, contents, found.append).writes(1, requests, memory.differences())
        del memory  # it looks into the mapping
    assert [each.signature for each in found] == ["t: dma: write with translation (AP) did not arrive"]


def _are_of_same_requests(change: Callable[[_Memory, bytes, bytes], None], unit: type[_Unit] = _Unit) -> bool:
    """Of two records of different requests, the first of which QEMU has changed."""
    memory = _Memory()
    records = [_event(requester).encode() for requester in (0x80, 0x81)]
    for copy in (memory.twin, memory.real):
        copy[: 2 * _SIZE] = b"".join(records)
    change(memory, *records)
    anything: Any = unit(memory)
    copies: Any = memory
    contents: Any = None
    comparison = Comparison("t", anything, 0, copies, 0, contents, lambda divergence: None)
    return comparison.are_of_same_requests(memory.differences())


def _change_direction(memory: _Memory, first: bytes, second: bytes) -> None:
    memory.real[12] ^= 1 << 3  # RnW


def _exchange(memory: _Memory, first: bytes, second: bytes) -> None:
    memory.real[: 2 * _SIZE] = second + first


def _lose(memory: _Memory, first: bytes, second: bytes) -> None:
    memory.real[_SIZE : 2 * _SIZE] = bytes(_SIZE)


def _lose_and_change(memory: _Memory, first: bytes, second: bytes) -> None:
    _change_direction(memory, first, second)
    _lose(memory, first, second)


def test_records_that_say_something_else_of_the_same_requests_tell_of_no_write_astray() -> None:
    assert _are_of_same_requests(_change_direction)


@pytest.mark.parametrize("change", [_exchange, _lose, _lose_and_change])
def test_records_of_other_requests_may_tell_of_a_write_astray(
    change: Callable[[_Memory, bytes, bytes], None],
) -> None:
    assert not _are_of_same_requests(change)


def test_what_is_no_record_may_tell_of_a_write_astray() -> None:
    assert not _are_of_same_requests(_change_direction, _UnitWithoutRecords)


class _UnitOfNamelessRecords(_Unit):
    """One whose records name no requester."""

    def structure_at(self, address: int) -> Place | None:
        place = super().structure_at(address)
        return None if place is None else replace(place, source="")


@pytest.mark.parametrize(
    ("unit", "signature"),
    [(_UnitOfNamelessRecords, "t: memory: F_PERMISSION: RNW is 0x1 for 0x0"), (_Unit, ""), (_UnitWithoutRecords, "")],
)
def test_only_of_a_record_that_names_no_requester_it_matters_whether_the_difference_is_known(
    unit: type[_Unit], signature: str
) -> None:
    memory = _Memory()
    for copy in (memory.twin, memory.real):
        copy[:_SIZE] = _event(0x80).encode()
    _change_direction(memory, b"", b"")
    anything: Any = unit(memory)
    copies: Any = memory
    contents: Any = None
    comparison = Comparison("t", anything, 0, copies, 0, contents, lambda divergence: None)
    assert comparison.nameless_signature(memory.differences()[0], ()) == signature
