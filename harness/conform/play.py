"""Does a round of DMAs in the model: the unit settles them, the twin memory and the devices' buffers take their data.

It can be done again and again, each time in another way (`Attempt`). It is given up at the first request whose record,
or data, is not in the real memory as the attempt would have it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count, dropwhile
from typing import Any, cast

from harness.conform.attempt import Attempt
from harness.conform.board import Board
from harness.conform.contents import Contents
from harness.conform.edu import blocked_length
from harness.conform.layout import device
from harness.conform.memory import QUEUES, TABLES, TwinMemory, WatchedMemory
from harness.conform.program import Dma
from harness.conform.request import Request
from harness.model.access import Access, AccessKind, Bypassed, BypassReason, Fault, Outcome, Translated
from harness.model.engine import MsiOutcome, MsiWrite, NotModelled
from harness.model.memory import OutsideMemory, WritableMemory
from harness.model.undo import UndoMemory
from harness.model.unit import AnyBytes, InterruptUnit, Unit, UnitState
from harness.model.x86_message import is_interrupt_address

__all__ = ["Play"]

_WORD = 8


class Play:
    """One round after the other.

    Args:
        unit: of the model.
        memory: the real memory and its twin.
        records: the twin, by physical addresses, as the unit writes it.
        twin: the same, for what devices write.
        board: that the machine stands on.
        is_known: whether the word of a record at that offset of memory, which a request has left and which differs
            from the twin's, does so in nothing but what is known to.

    Attributes:
        contents: of the devices' buffers.
        attempt: the last one.
    """

    def __init__(
        self,
        unit: Unit,
        memory: TwinMemory,
        records: WatchedMemory,
        twin: WritableMemory,
        board: Board,
        is_known: Callable[[int, Request], bool],
    ) -> None:
        self.contents = Contents()
        self.attempt = Attempt()
        # Outcomes by the number of the request and all that was chosen before it; None where none are remembered.
        self._remembered: dict[tuple[int, tuple[int, ...], Access | MsiWrite], Sequence[Any]] | None = None
        self._unit = unit
        self._is_known = is_known
        self._granule = unit.granule
        self._keeps_first_record = unit.keeps_first_record
        self._records_pages = unit.records_pages
        self._memory = memory
        self._records = records
        self._twin = UndoMemory(twin)
        self._ram = board.ram
        self._devices = board.devices
        self._has_messages = bool(board.interrupts)
        self._dmas: Sequence[Dma] = ()
        self._state: UnitState = None
        self._free: list[AnyBytes] = []
        # Where the writes of a round may have gone.
        self._places: list[tuple[Dma, int, int]] = []

    def begin(self, dmas: Sequence[Dma]) -> Attempt:
        """Do a round for the first time: of each request the outcome that needs no cache.

        Messages that the unit has sent before have to be taken from it first.
        """
        self._dmas = dmas
        self._state = self._unit.save()
        self._twin.mark()
        self.contents.mark()
        self._places.clear()
        return self._do(Attempt())

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Remember outcomes meanwhile: attempts that go the same way have the same ones."""
        self._remembered = {}
        try:
            yield
        finally:
            self._remembered = None

    def look_again(self) -> None:
        """The real memory is another one now: take over what hardware may leave as it likes."""
        for free in self._free:
            self._take_over(free)

    def again(self, attempt: Attempt) -> Attempt:
        """Do the round once more, in another way."""
        self._twin.rollback()
        self._unit.restore(self._state)
        self.contents.rollback()
        return self._do(attempt)

    def record_faults(self, faults: Iterable[Request]) -> None:
        """Have these requests of the round recorded once more, all of which are faults, and no others.

        The registers that tell of faults are then as they have to be, and nothing else is: `again` or `record_again`
        comes next.
        """
        self._unit.restore(self._state)
        for request in faults:
            self._settle(request)

    def record_again(self, requests: Sequence[Request], missing: Collection[int]) -> list[Request]:
        """Have the round recorded once more, but for the faults of requests with these numbers."""
        self._unit.restore(self._state)
        again = [
            request._replace(outcome=_without_record(request.outcome))
            if number in missing and isinstance(request.outcome, Fault)
            else request
            for number, request in enumerate(requests)
        ]
        for request in again:
            self._settle(request)
        self.attempt.requests, self.attempt.own = again, self._unit.take_interrupts()
        return again

    def _do(self, attempt: Attempt) -> Attempt:
        """Do the round, until something is wrong."""
        self.attempt = attempt
        self._free.clear()
        for dma in self._dmas:
            self._dma(dma, attempt)
            if attempt.wrong is not None:
                break
        attempt.own = self._unit.take_interrupts()
        return attempt

    def _dma(self, dma: Dma, attempt: Attempt) -> None:
        entry = device(dma.device)
        assert entry is not None
        requester, kind, granule = entry.requester, dma.kind, self._granule
        at, end = dma.iova, dma.iova + dma.length
        is_decided = False
        if kind is AccessKind.READ:
            self.contents.begin_read(dma.device)
        else:
            is_decided = self.contents.decide(dma, attempt)
        page, choice = -1, 0  # of the last piece with more than one outcome; those that follow go the same way
        blocked: Sequence[Outcome] = ()  # in the page of the last piece, where nothing else was allowed
        in_parts = False  # the last piece was blocked, and those that follow in its page are as short
        while at < end and attempt.wrong is None:
            length = min(end - at, granule - at % granule)
            if not at % granule:
                blocked, in_parts = (), False
            if in_parts or (self._has_messages and is_interrupt_address(at)):
                length = blocked_length(at, length)  # what takes messages takes no more than a doubleword
            access = Access(requester=requester, iova=at, length=length, kind=kind)
            outcomes = blocked or self._outcomes(access, attempt)
            if self._remembered is None and kind is AccessKind.WRITE:
                self._places += [(dma, each.address, length) for each in outcomes if not isinstance(each, Fault)]
            outcome = outcomes[0]
            passing: Outcome | None = None
            silent = False
            if len(outcomes) > 1:
                settled = len(outcomes)
                if self._keeps_first_record:
                    outcomes = (*outcomes, *_unrecorded(outcomes))
                if at // granule != page:
                    page, choice = at // granule, attempt.choose(len(outcomes))
                choice = min(choice, len(outcomes) - 1)
                outcome, silent = outcomes[choice], choice >= settled
                turn = next((turn for turn, other in enumerate(outcomes) if not isinstance(other, Fault)), None)
                if isinstance(outcome, Fault) and turn is not None:
                    passing = outcomes[turn]
                    if kind is AccessKind.READ:
                        attempt.passes[len(attempt.requests)] = len(attempt.chosen) - 1, turn
            if isinstance(outcome, Fault) and (part := blocked_length(at, length)) != length:
                access = Access(requester=requester, iova=at, length=part, kind=kind)
                in_parts = len(outcomes) == 1
                if self._records_pages and in_parts:
                    blocked = outcomes
            request = self._move(self._meet(Request(dma, access, outcome, passing=passing), attempt))
            number = len(attempt.requests)
            attempt.requests.append(request)
            if silent:
                attempt.silent.append(request)
            if kind is AccessKind.READ and len(outcomes) > 1:
                self.contents.doubt(request, [self._read(request, each) for each in outcomes])
            if attempt.accepted is not None and number not in attempt.accepted:
                asked = outcomes if is_decided or len(outcomes) > 1 else ()
                if not self._shows(request, asked):
                    attempt.wrong = number
            at += access.length

    def _outcomes(self, access: Access, attempt: Attempt) -> Sequence[Outcome]:
        """The unit's outcomes of a request; in a search those that were found before, if all went the same way."""
        if self._remembered is None:
            return self._unit.outcomes(access)
        key = len(attempt.requests), tuple(attempt.chosen), access
        found = self._remembered.get(key)
        if found is None:
            found = self._remembered[key] = self._unit.outcomes(access)
        return found

    def _interrupts(self, message: MsiWrite, attempt: Attempt) -> Sequence[MsiOutcome]:
        """The same of an interrupt."""
        unit = cast(InterruptUnit, self._unit)  # it said that this is an interrupt
        if self._remembered is None:
            return unit.interrupts(message)
        key = len(attempt.requests), tuple(attempt.chosen), message
        found = self._remembered.get(key)
        if found is None:
            found = self._remembered[key] = unit.interrupts(message)
        return found

    def _meet(self, request: Request, attempt: Attempt) -> Request:
        """A request comes to the unit; an interrupt is put to it as such."""
        outcome = request.outcome
        is_interrupt = isinstance(outcome, Bypassed) and outcome.reason is BypassReason.INTERRUPT_RANGE
        if is_interrupt and request.dma.kind is AccessKind.WRITE:
            data = int.from_bytes(self.contents.data(request), "little")
            message = MsiWrite(requester=request.access.requester, address=request.access.iova, data=data)
            outcomes = self._interrupts(message, attempt)
            choice = attempt.choose(len(outcomes)) if len(outcomes) > 1 else 0
            request = request._replace(outcome=outcomes[choice], message=message)
        self._settle(request)
        return request

    def _settle(self, request: Request) -> None:
        """What was chosen of a request comes to pass: the unit writes what it has to."""
        self._records.writes.clear()
        if request.message is not None:
            cast(InterruptUnit, self._unit).settle_interrupt(request.message, cast(MsiOutcome, request.outcome))
            return
        for write in self._unit.settle(request.access, cast(Outcome, request.outcome)):
            if isinstance(write, AnyBytes):
                self._free.append(write)
                self._take_over(write)
            elif self._memory.real_has(write.address - self._ram, write.data):
                self._unit.store(write.address, write.data)

    def _move(self, request: Request) -> Request:
        """Move the data of a request, in the twin memory and the device's buffer."""
        outcome = request.outcome
        is_read = request.dma.kind is AccessKind.READ
        if isinstance(outcome, Translated | Bypassed):
            self._refuse_devices(outcome.address)
        if is_read:
            self.contents.take(request, self._read(request, cast(Outcome, outcome)))
        elif isinstance(outcome, Translated | Bypassed):
            self._refuse_tables(outcome.address)
            with suppress(OutsideMemory):  # nothing there takes it
                self._twin.write(outcome.address, self.contents.data(request))
                return request._replace(address=outcome.address)
        return request

    def _read(self, request: Request, outcome: Outcome) -> bytes:
        """What a request reads, were that its outcome."""
        if not isinstance(outcome, Fault):
            with suppress(OutsideMemory):
                return self._twin.read(outcome.address, request.access.length)
        return bytes(request.access.length)  # what a read gets from where nothing answers

    def _take_over(self, free: AnyBytes) -> None:
        """Have the twin hold what the real memory does, in a part of a record that was just written."""
        at = free.address - self._ram
        seen = bytes(self._memory.real[at : at + free.size])
        self._twin.write(free.address, seen)
        self._records.writes = [
            (address, _replaced(data, free.address - address, seen)) for address, data in self._records.writes
        ]

    def _shows(self, request: Request, outcomes: Sequence[Outcome]) -> bool:
        """Whether the real memory has what a request leads to; only of one with a choice that is asked of its data."""
        # Of a record that differs in nothing but what is known to the comparison has to say it.
        words = (
            (at - self._ram + part, data[part : part + _WORD])
            for at, data in self._records.writes
            for part in range(0, len(data), _WORD)
        )
        for place, word in words:
            if not self._memory.real_has(place, word):
                if place % _WORD or not self._is_known(place, request):
                    return False
                self.attempt.known.add(place)
        if not outcomes or request.dma.kind is not AccessKind.WRITE:
            return True
        data = self.contents.data(request)
        at = request.address
        if at is not None:
            return self._memory.real_has(at - self._ram, data) or self._is_written_over(request.dma, at, data)
        places = (each.address - self._ram for each in outcomes if not isinstance(each, Fault))
        # What was there before tells nothing.
        return not any(self._memory.real_has(at, data) and not self._memory.twin_has(at, data) for at in places)

    def _is_written_over(self, dma: Dma, address: int, data: bytes) -> bool:
        """Whether DMAs of the round may have written, since, each byte that is not what a DMA wrote at an address."""
        since = dropwhile(lambda place: place[0] is not dma, self._places)
        later = [(first, length) for other, first, length in since if other is not dma]
        at = address - self._ram
        return all(
            byte == seen or any(first <= place < first + length for first, length in later)
            for place, byte, seen in zip(count(address), data, self._memory.real[at : at + len(data)], strict=False)
        )

    def _refuse_devices(self, address: int) -> None:
        """What a DMA does to registers of the board nobody knows.

        Raises:
            NotModelled: there are some at the address.
        """
        if any(address in where for where in self._devices):
            raise NotModelled("a DMA reaches registers of the board, and what it does there is not known")

    def _refuse_tables(self, address: int) -> None:
        """What a device writes over a table, caches may know or not as they like.

        Raises:
            NotModelled: the address is among tables or queues.
        """
        if QUEUES.start <= address - self._ram < TABLES.stop:
            raise NotModelled("a DMA writes over tables or queues")


def _unrecorded(outcomes: Sequence[Outcome]) -> Iterator[Outcome]:
    """The faults that must be recorded, without their records, where they may not be without them as it is."""
    for outcome in outcomes:
        if isinstance(outcome, Fault) and outcome.record is not None:
            unrecorded = _without_record(outcome)
            if unrecorded not in outcomes:
                yield unrecorded


def _without_record(fault: Fault) -> Fault:
    unrecorded: Fault = replace(fault, record=None)
    return unrecorded


def _replaced(data: bytes, at: int, part: bytes) -> bytes:
    """Data with a part put in, where that lies inside."""
    return data[:at] + part + data[at + len(part) :] if 0 <= at <= len(data) - len(part) else data
