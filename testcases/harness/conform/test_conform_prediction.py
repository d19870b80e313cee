"""A round whose outcomes are not what was expected first: which of them came to pass, and what was not recorded."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest

from harness.conform.board import PC
from harness.conform.command import RAM_BYTES
from harness.conform.layout import DEVICES
from harness.conform.memory import HOT_DATA, TwinMemory, WatchedMemory
from harness.conform.play import Play
from harness.conform.prediction import Predictor, _up_to_another
from harness.conform.program import Dma
from harness.conform.request import Request
from harness.model.access import (
    Access,
    AccessKind,
    Bypassed,
    BypassReason,
    Fault,
    FaultRecord,
    MemoryWrite,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.engine import Interrupt, MsiOutcome, MsiWrite, NotModelled
from harness.model.memory import MappedMemory, Region
from harness.model.unit import AnyBytes, UnitState

_DATA = HOT_DATA.start
_ELSEWHERE = _DATA + 0x8000
_REQUESTERS = {entry.requester: entry.id for entry in DEVICES}


class _Code(IntEnum):
    RED = 1
    GREEN = 2
    BLUE = 3


@dataclass(frozen=True)
class _Record:
    """What a fault leaves: the code, and whose it is."""

    code: _Code
    requester: int


@dataclass
class _Unit:
    """A unit whose outcomes a test says, by device. It keeps the first record, and whether other devices had any.

    Attributes:
        allowed: outcomes of each device's requests.
        first: the record that is kept.
        others: whether there were more.
        asked: how often it was asked for outcomes.
        by_page: outcomes by page, where they are not those of a device.
        free: what each request leaves as it likes.
    """

    allowed: dict[str, list[Outcome]] = field(default_factory=dict)
    keeps_first_record: bool = True
    records_pages: bool = False
    granule: int = 4096
    first: _Record | None = None
    others: bool = False
    asked: int = 0
    by_page: dict[int, list[Outcome]] = field(default_factory=dict)
    free: tuple[AnyBytes, ...] = ()

    def outcomes(self, access: Access) -> Sequence[Outcome]:
        self.asked += 1
        return self.by_page.get(access.iova // self.granule) or self.allowed[_REQUESTERS[access.requester]]

    def settle(self, access: Access, outcome: Outcome) -> Sequence[MemoryWrite | AnyBytes]:
        if isinstance(outcome, Fault) and isinstance(outcome.record, _Record):
            self.first = self.first or outcome.record
            self.others |= self.first.requester != outcome.record.requester
        return self.free

    def take_interrupts(self) -> Sequence[MsiWrite]:
        return ()

    def save(self) -> UnitState:
        return self.first, self.others

    def restore(self, state: UnitState) -> None:
        self.first, self.others = state

    @property
    def told(self) -> tuple[_Record | None, bool]:
        """What its registers say."""
        return self.first, self.others


class _Remapper(_Unit):
    """One that takes writes of four bytes for messages, and no others."""

    def outcomes(self, access: Access) -> Sequence[Outcome]:
        if access.length == 4:
            return (Bypassed(access.iova, BypassReason.INTERRUPT_RANGE),)
        return (_fault("edu0", _Code.BLUE),)

    def interrupts(self, write: MsiWrite) -> Sequence[MsiOutcome]:
        return (Interrupt(write.address, write.data, remapped=False),)

    def settle_interrupt(self, write: MsiWrite, outcome: MsiOutcome) -> None:
        """Nothing changes."""


@dataclass
class _Rig:
    """A predictor, the unit behind it, and the real memory, in which a test does what hardware is to have done."""

    unit: _Unit
    memory: TwinMemory
    predictor: Predictor

    def predict(self, *dmas: Dma) -> list[Request]:
        return self.predictor.predict(dmas)

    def arrive(self, request: Request, at: int) -> None:
        """Hardware writes the data of a request there."""
        data = self.predictor.contents.data(request)
        self.memory.real[at : at + len(data)] = data

    def is_told(self, told: tuple[FaultRecord | None, bool]) -> Callable[[], bool]:
        """Whether hardware's registers may say that."""
        return lambda: self.unit.told == told

    def fits(self, told: tuple[FaultRecord | None, bool]) -> Callable[[], bool]:
        """Whether hardware whose registers say that fits."""
        return lambda: self.unit.told == told and self.memory.agrees()


@pytest.fixture
def rig() -> Iterator[_Rig]:
    with mmap.mmap(-1, RAM_BYTES) as real:
        memory = TwinMemory(real)
        twin = MappedMemory(memory.twin, [Region(PC.ram, RAM_BYTES)])
        unit = _Unit()
        anything: Any = unit
        kinds = {_Code.RED: "red", _Code.GREEN: "green"}
        play = Play(anything, memory, WatchedMemory(twin), twin, PC, lambda at, request: False)
        predictor = Predictor(play, lambda request: kinds.get(_code(request), ""))
        yield _Rig(unit, memory, predictor)
        del memory, predictor, play, twin  # they look into the mapping


def _code(request: Request) -> _Code:
    assert isinstance(request.outcome, Fault)
    assert isinstance(request.outcome.code, _Code)
    return request.outcome.code


def _write(device: str, length: int = 8, at: int = _DATA) -> Dma:
    return Dma(device, AccessKind.WRITE, at, length, 0x100)


def _to(address: int) -> Translated:
    return Translated(address, 4096, Permissions.READ | Permissions.WRITE)


def _fault(device: str, code: _Code = _Code.RED) -> Fault:
    requester = next(number for number, id in _REQUESTERS.items() if id == device)
    return Fault(code, requester, _DATA, is_write=True, record=_Record(code, requester))


def test_the_outcome_with_which_memory_agrees_is_chosen(rig: _Rig) -> None:
    rig.unit.allowed = {
        "edu0": [_to(_DATA), _to(_ELSEWHERE), _to(_ELSEWHERE + 64)],
        "edu1": [_fault("edu1"), _to(_DATA + 64)],
    }
    first, *_ = rig.predict(_write("edu0"), _write("edu1", 4))
    rig.arrive(first, _ELSEWHERE)
    requests = rig.predictor.choose(rig.fits((_fault("edu1").record, False)))
    assert [request.outcome for request in requests] == [_to(_ELSEWHERE), _fault("edu1")]
    assert not rig.predictor.silent


def test_where_nothing_agrees_the_first_outcomes_stand(rig: _Rig) -> None:
    rig.unit.allowed = {"edu0": [_to(_DATA), _to(_ELSEWHERE)]}
    first, *_ = rig.predict(_write("edu0"))
    rig.arrive(first, _ELSEWHERE + 0x1000)
    (request,) = rig.predictor.choose(rig.fits((None, False)))
    assert request.outcome == _to(_DATA)


def test_a_stale_fault_without_its_record_is_told_as_silent(rig: _Rig) -> None:
    """A DMA of eight bytes that is blocked goes in two requests: neither has a record."""
    rig.unit.allowed = {"edu0": [_to(_DATA), _fault("edu0")]}
    rig.predict(_write("edu0"))
    requests = rig.predictor.choose(rig.fits((None, False)))
    assert [request.access.length for request in requests] == [4, 4]
    assert rig.predictor.silent == requests
    assert not any(request.is_recorded for request in requests)


def test_what_a_read_brought_is_told_by_the_write_behind_it(rig: _Rig) -> None:
    rig.unit.allowed = {"edu0": [_to(_DATA), _to(_ELSEWHERE)]}
    rig.memory.real[_ELSEWHERE : _ELSEWHERE + 8] = rig.memory.twin[_ELSEWHERE : _ELSEWHERE + 8] = b"other it"
    rig.predict(Dma("edu0", AccessKind.READ, _DATA, 8, 0x900))
    rig.predictor.choose(rig.fits((None, False)))
    rig.unit.allowed = {"edu0": [_to(_DATA + 0x2000)], "edu1": [_to(_DATA + 0x3000), _to(_DATA + 0x4000)]}
    write, other = rig.predict(Dma("edu0", AccessKind.WRITE, _DATA + 0x2000, 8, 0x900), _write("edu1"))
    rig.memory.real[_DATA + 0x2000 : _DATA + 0x2008] = b"other it"
    rig.arrive(other, _DATA + 0x4000)
    write, other = rig.predictor.choose(rig.fits((None, False)))
    assert rig.predictor.contents.data(write) == b"other it"
    assert other.outcome == _to(_DATA + 0x4000)
    assert rig.memory.agrees()


def test_of_faults_with_one_code_the_parts_of_a_dma_have_the_one_that_is_chosen(rig: _Rig) -> None:
    first = _fault("edu0")
    second = replace(first, record=_Record(_Code.RED, 9))
    rig.unit.keeps_first_record = False
    rig.unit.allowed = {"edu0": [first, second]}
    rig.predict(_write("edu0"))
    seen = [second, second]
    requests = rig.predictor.choose(lambda: [request.outcome for request in rig.predictor.requests] == seen)
    assert [request.outcome for request in requests] == seen


def test_what_is_left_of_a_write_that_another_came_over_tells_what_it_was(rig: _Rig) -> None:
    """Also where registers say something else than they must, whatever is chosen."""
    rig.unit.allowed = {"edu0": [_to(_DATA), _to(_ELSEWHERE)]}
    rig.memory.real[_ELSEWHERE : _ELSEWHERE + 8] = rig.memory.twin[_ELSEWHERE : _ELSEWHERE + 8] = b"other it"
    rig.predict(Dma("edu0", AccessKind.READ, _DATA, 8, 0x900))
    rig.predictor.choose(rig.fits((None, False)))
    rig.unit.allowed = {"edu0": [_to(_DATA + 0x2000)], "edu1": [_to(_DATA + 0x2004)]}
    write, other = rig.predict(Dma("edu0", AccessKind.WRITE, _DATA + 0x2000, 8, 0x900), _write("edu1", 4))
    rig.memory.real[_DATA + 0x2000 : _DATA + 0x2008] = b"other it"
    rig.arrive(other, _DATA + 0x2004)
    write, _ = rig.predictor.choose(rig.fits((_fault("edu1").record, False)))
    assert rig.predictor.contents.data(write) == b"other it"
    assert rig.memory.agrees()


@pytest.mark.parametrize(
    ("codes", "told", "missing"),
    [
        # One kind is enough: the other was recorded.
        ([_Code.RED, _Code.GREEN], (_Code.GREEN, False), [0]),
        ([_Code.GREEN, _Code.RED], (_Code.GREEN, False), [1]),
        ([_Code.RED, _Code.BLUE, _Code.RED], (_Code.BLUE, False), [0, 2]),
        # Both are needed.
        ([_Code.RED, _Code.GREEN, _Code.BLUE], (_Code.BLUE, False), [0, 1]),
        # What nothing is known of: no more than have to be.
        ([_Code.BLUE, _Code.RED], (_Code.RED, False), [0]),
        ([_Code.BLUE, _Code.BLUE], (None, False), [0, 1]),
    ],
)
def test_faults_without_a_record_are_found(
    rig: _Rig, codes: list[_Code], told: tuple[_Code | None, bool], missing: list[int]
) -> None:
    devices = [f"edu{number}" for number in range(len(codes))]
    faults = [_fault(device, code) for device, code in zip(devices, codes, strict=True)]
    rig.unit.allowed = {device: [fault] for device, fault in zip(devices, faults, strict=True)}
    rig.predict(*(_write(device, 4) for device in devices))
    code, others = told
    record = next((fault.record for fault in faults if fault.code is code), None)
    fits = rig.fits((record, others))
    rig.predictor.choose(fits)
    requests, unrecorded = rig.predictor.find_unrecorded(fits, rig.is_told((record, others)))
    assert unrecorded == [requests[number] for number in missing]
    assert not any(request.is_recorded for request in unrecorded)
    assert rig.unit.told == (record, others)


def test_a_read_without_a_record_may_have_passed(rig: _Rig) -> None:
    blue, red = _fault("edu0", _Code.BLUE), _fault("edu1", _Code.RED)
    rig.unit.allowed = {"edu0": [blue, _to(_DATA)], "edu1": [red]}
    rig.predict(Dma("edu0", AccessKind.READ, _DATA, 8, 0x900), _write("edu1", 4))
    fits = rig.fits((None, False))
    rig.predictor.choose(fits)
    requests, unrecorded = rig.predictor.find_unrecorded(fits, rig.is_told((None, False)))
    assert [request.outcome for request in requests] == [_to(_DATA), replace(red, record=None)]
    assert unrecorded == requests[1:]


def test_what_hardware_records_once_either_way_is_not_missing(rig: _Rig) -> None:
    """The second request of a device changes no register: that it has no record is nothing to tell of."""
    rig.unit.allowed = {device: [_fault(device, _Code.BLUE)] for device in ("edu0", "edu1")}
    rig.predict(_write("edu0", 8), _write("edu1", 4))
    record = _fault("edu0", _Code.BLUE).record
    told = record, False
    requests, unrecorded = rig.predictor.find_unrecorded(rig.fits(told), rig.is_told(told))
    assert unrecorded == requests[2:]


def test_the_rest_is_looked_at_where_the_registers_fit(rig: _Rig) -> None:
    rig.unit.allowed = {device: [_fault(device)] for device in ("edu0", "edu1", "edu2")}
    rig.predict(*(_write(device, 4) for device in rig.unit.allowed))
    told = _fault("edu2").record, False
    fits, looks = rig.fits(told), []

    def counted() -> bool:
        looks.append(rig.unit.told)
        return fits()

    rig.predictor.find_unrecorded(counted, rig.is_told(told))
    assert set(looks) == {told}


def test_what_explains_nothing_changes_nothing(rig: _Rig) -> None:
    rig.unit.allowed = {"edu0": [_fault("edu0")]}
    before = rig.predict(_write("edu0", 4))
    never: Callable[[], bool] = lambda: False  # noqa: E731
    rig.predictor.choose(never)
    assert rig.predictor.find_unrecorded(never, never) == (before, [])
    assert rig.unit.told == (_fault("edu0").record, False)


@pytest.mark.parametrize(("records_pages", "asked"), [(False, 5), (True, 1)])
def test_a_blocked_page_is_asked_for_once_where_its_faults_are_alike(
    rig: _Rig, records_pages: bool, asked: int
) -> None:
    rig.unit.records_pages = records_pages
    rig.unit.allowed = {"edu0": [_fault("edu0")]}
    anything: Any = rig.unit
    twin = MappedMemory(rig.memory.twin, [Region(PC.ram, RAM_BYTES)])
    play = Play(anything, rig.memory, WatchedMemory(twin), twin, PC, lambda at, request: False)
    assert len(play.begin([_write("edu0", 20)]).requests) == 5
    assert rig.unit.asked == asked


def test_of_a_dma_over_two_pages_each_is_asked_for(rig: _Rig) -> None:
    """The first is blocked, the second is not; what holds of a blocked page ends with it."""
    rig.unit.records_pages = True
    rig.unit.by_page = {_DATA // 4096: [_fault("edu0")], _DATA // 4096 + 1: [_to(_ELSEWHERE)]}
    anything: Any = rig.unit
    twin = MappedMemory(rig.memory.twin, [Region(PC.ram, RAM_BYTES)])
    play = Play(anything, rig.memory, WatchedMemory(twin), twin, PC, lambda at, request: False)
    requests = play.begin([_write("edu0", 16, _DATA + 4096 - 8)]).requests
    assert [(request.access.length, request.address) for request in requests] == [(4, None), (4, None), (8, _ELSEWHERE)]


def test_what_hardware_leaves_as_it_likes_is_taken_over_once_it_is_there(rig: _Rig) -> None:
    rig.unit.allowed = {"edu0": [_fault("edu0")]}
    rig.unit.free = (AnyBytes(0x10_0000, 8),)
    rig.predict(_write("edu0", 4))
    rig.memory.real[0x10_0000:0x10_0008] = b"anything"
    rig.predictor.choose(rig.fits((_fault("edu0").record, False)))
    assert rig.memory.agrees()


def test_a_long_write_to_the_interrupt_range_is_many_messages(rig: _Rig) -> None:
    anything: Any = _Remapper()
    twin = MappedMemory(rig.memory.twin, [Region(PC.ram, RAM_BYTES)])
    play = Play(anything, rig.memory, WatchedMemory(twin), twin, PC, lambda at, request: False)
    requests = play.begin([_write("edu0", 16, 0xFEE0_0000)]).requests
    assert [request.message.address for request in requests if request.message] == [
        0xFEE0_0000 + at for at in (0, 4, 8, 12)
    ]
    assert all(isinstance(request.outcome, Interrupt) for request in requests)


def test_a_device_that_writes_over_tables_is_not_judged(rig: _Rig) -> None:
    rig.unit.allowed = {"edu0": [_to(0x14_0000)]}
    with pytest.raises(NotModelled, match="over tables"):
        rig.predict(_write("edu0"))


@pytest.mark.parametrize(
    ("requesters", "recorded"),
    [([], []), ([1], [1]), ([1, 1, 1], [1, 1, 1]), ([1, 1, 2, 3], [1, 1, 2]), ([1, 2, 1, 3], [1, 2])],
)
def test_of_faults_those_are_recorded_again_up_to_the_first_of_another_requester(
    requesters: list[int], recorded: list[int]
) -> None:
    faults: list[Any] = [SimpleNamespace(access=SimpleNamespace(requester=each)) for each in requesters]
    assert [fault.access.requester for fault in _up_to_another(faults)] == recorded
