"""What must come of a round of DMAs: the unit's outcomes, done to the twin memory and to the devices' buffers.

Where more than one outcome is allowed, what was seen decides. A choice is a list of numbers, one for each request that
has more than one. Choices are tried until memory and the records of faults are as they were seen to be: in the order of
the requests, and given up at the first request whose record, or data, is not in the real memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, combinations
from typing import Any, cast

from harness.conform.attempt import Attempt, Search
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

__all__ = ["Predictor"]

_MOST_CHOICES = 256  # that are tried for one round
_MORE_CHOICES = 8
_HEAD = 8  # bytes of a record
_MOST_SILENCES = 4  # kinds of faults, known to have no record, of which every combination is tried


class Predictor:
    """Has the unit settle what devices do.

    Args:
        unit: of the model.
        memory: the real memory and its twin.
        records: the twin, by physical addresses, as the unit writes it.
        twin: the same, for what devices write.
        board: that the machine stands on.
        is_known: whether the word of a record at that offset of memory, which differs from the twin's, does so in
            nothing but what is known to.
        silence: what is known of a fault that has no record; empty where nothing is.

    Attributes:
        contents: of the devices' buffers.
    """

    def __init__(
        self,
        unit: Unit,
        memory: TwinMemory,
        records: WatchedMemory,
        twin: WritableMemory,
        board: Board,
        is_known: Callable[[int], bool] = lambda at: False,
        silence: Callable[[Request], str] = lambda request: "",
    ) -> None:
        self.contents = Contents()
        self._unit = unit
        self._is_known = is_known
        self._silence = silence
        self._granule = unit.granule
        self._keeps_first_record = unit.keeps_first_record
        self._records_pages = unit.records_pages
        self._memory = memory
        self._records = records
        self._twin = UndoMemory(twin)
        self._ram = board.ram
        self._devices = board.devices
        self._dmas: Sequence[Dma] = ()
        self._attempt = Attempt()
        self._state: UnitState = None
        self._free: list[AnyBytes] = []
        # Where the writes of a round may have gone.
        self._places: list[tuple[Dma, int, int]] = []
        # Outcomes by the number of the request and all that was chosen before it: a search comes by them often.
        self._found: dict[tuple[int, tuple[int, ...], Access | MsiWrite], Sequence[Any]] | None = None

    @property
    def requests(self) -> list[Request]:
        """Of the round as it was tried last, in their order."""
        return self._attempt.requests

    @property
    def own(self) -> Sequence[MsiWrite]:
        """Messages that the unit itself sent then."""
        return self._attempt.own

    @property
    def silent(self) -> list[Request]:
        """Requests of the round that were taken for blocked though they have no record, which they should."""
        return self._attempt.silent

    def predict(self, dmas: Sequence[Dma]) -> list[Request]:
        """What must come of DMAs, in their order; where there is a choice, the outcome that needs no cache.

        Messages that the unit has sent before have to be taken from it first.
        """
        self._dmas = dmas
        self._state = self._unit.save()
        self._twin.mark()
        self.contents.mark()
        self._places.clear()
        return self._do(Attempt()).requests

    def choose(self, fits: Callable[[], bool]) -> list[Request]:
        """Find outcomes with which what was seen agrees; those of `predict` where there are none.

        Args:
            fits: whether what was seen agrees with the unit and the twin memory as they are.
        """
        # While `predict` was at work the real memory was not what it is now.
        for free in self._free:
            self._take_over(free)
        if not self._attempt.counts or fits():
            return self._attempt.requests
        search = Search()
        self._found = {}
        try:
            left = _MOST_CHOICES
            while left > 0:
                tried = self._again(Attempt(search.choices, search.accepted))
                if tried.wrong is None and fits():
                    return tried.requests
                if not search.go_on(tried):
                    break
                # With choices that agree but for what a record says there is little hope of better ones.
                left = min(left - 1, _MORE_CHOICES) if search.is_whole else left - 1
            return self._again(Attempt(search.result)).requests
        finally:
            self._found = None

    def find_unrecorded(self, fits: Callable[[], bool]) -> tuple[list[Request], list[Request]]:
        """Where nothing fits: whether it would, had hardware not recorded some of the faults.

        Only for a unit that keeps the first record: there another takes the place of one that is missing.

        Args:
            fits: as for `choose`, which came just before.

        Returns:
            Requests as they are then, and those of them whose faults have no record; as they were, and none, where
            that is no answer either.
        """
        requests = self._attempt.requests
        kinds = self._kinds_of_silence(requests)

        def fits_without(missing: Sequence[int]) -> bool:
            self._record_again(requests, missing)
            return fits()

        found = next(filter(fits_without, chain(_known_silences(kinds), _next_silences(requests))), ())
        # Of one device hardware may take the first alone: of the others it has no record either way.
        known = [number for numbers in kinds.values() for number in numbers]
        for part in (*kinds.values(), *([number] for number in found if number not in known)):
            fewer = [number for number in found if number not in part]
            if len(fewer) < len(found) and fits_without(fewer):
                found = fewer
        requests = self._record_again(requests, found)
        return requests, [requests[number] for number in found]

    def _kinds_of_silence(self, requests: Sequence[Request]) -> dict[str, list[int]]:
        """What is known of faults without records, with the numbers of requests that it may be true of."""
        kinds: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            if request.is_recorded and (kind := self._silence(request)):
                kinds.setdefault(kind, []).append(number)
        return kinds

    def _record_again(self, requests: Sequence[Request], missing: Sequence[int]) -> list[Request]:
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
        self._attempt.requests, self._attempt.own = again, self._unit.take_interrupts()
        return again

    def _again(self, attempt: Attempt) -> Attempt:
        """Do the round once more, in another way."""
        self._twin.rollback()
        self._unit.restore(self._state)
        self.contents.rollback()
        return self._do(attempt)

    def _do(self, attempt: Attempt) -> Attempt:
        """Do the round, until something is wrong."""
        self._attempt = attempt
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
        while at < end and attempt.wrong is None:
            length = min(end - at, granule - at % granule)
            access = Access(requester=requester, iova=at, length=length, kind=kind)
            if not at % granule:
                blocked = ()
            outcomes = blocked or self._outcomes(access, attempt)
            if self._found is None and kind is AccessKind.WRITE:
                self._places += [(dma, each.address, length) for each in outcomes if not isinstance(each, Fault)]
            outcome = outcomes[0]
            silent = False
            if len(outcomes) > 1:
                settled = len(outcomes)
                if self._keeps_first_record:
                    outcomes = (*outcomes, *_unrecorded(outcomes))
                if at // granule != page:
                    page, choice = at // granule, attempt.choose(len(outcomes))
                choice = min(choice, len(outcomes) - 1)
                outcome, silent = outcomes[choice], choice >= settled
            if isinstance(outcome, Fault) and (part := blocked_length(at, length)) != length:
                access = Access(requester=requester, iova=at, length=part, kind=kind)
                if not self._records_pages or is_interrupt_address(at):
                    outcome = self._of_part(access, outcome)
                elif len(outcomes) == 1:
                    blocked = outcomes
            request = self._move(self._meet(Request(dma, access, outcome), attempt))
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
        if self._found is None:
            return self._unit.outcomes(access)
        key = len(attempt.requests), tuple(attempt.chosen), access
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._unit.outcomes(access)
        return found

    def _interrupts(self, message: MsiWrite, attempt: Attempt) -> Sequence[MsiOutcome]:
        """The same of an interrupt."""
        unit = cast(InterruptUnit, self._unit)  # it said that this is an interrupt
        if self._found is None:
            return unit.interrupts(message)
        key = len(attempt.requests), tuple(attempt.chosen), message
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = unit.interrupts(message)
        return found

    def _of_part(self, access: Access, whole: Fault) -> Fault:
        """The fault of the part of a request that goes first, where the whole has one."""
        faults = [each for each in self._unit.outcomes(access) if isinstance(each, Fault)] or [whole]
        fault = next((each for each in faults if each.code is whole.code), faults[0])
        return fault if whole.record is not None else _without_record(fault)

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
        # Of a record only its head: what else differs is for the comparison to say.
        heads = ((at - self._ram, data[:_HEAD]) for at, data in self._records.writes)
        if not all(self._memory.real_has(at, head) or (at % _HEAD == 0 and self._is_known(at)) for at, head in heads):
            return False
        if not outcomes or request.dma.kind is not AccessKind.WRITE:
            return True
        data = self.contents.data(request)
        at = request.address
        if at is not None:
            # Another DMA of the round may have written there since.
            return self._memory.real_has(at - self._ram, data) or any(
                other is not request.dma and address < at + len(data) and at < address + length
                for other, address, length in self._places
            )
        places = (each.address - self._ram for each in outcomes if not isinstance(each, Fault))
        # What was there before tells nothing.
        return not any(self._memory.real_has(at, data) and not self._memory.twin_has(at, data) for at in places)

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


def _known_silences(kinds: Mapping[str, list[int]]) -> Iterator[list[int]]:
    """Numbers of requests whose faults may have no record, by what is known: fewer kinds first."""
    numbers = list(kinds.values())[:_MOST_SILENCES]
    for count in range(1, len(numbers) + 1):
        for some in combinations(numbers, count):
            yield [number for kind in some for number in kind]


def _next_silences(requests: Sequence[Request]) -> Iterator[list[int]]:
    """Numbers of requests whose faults may have no record, where the one that has is any of them.

    What is recorded is the next one; whether there were others besides tells how many more are missing.
    """
    faults = [number for number, request in enumerate(requests) if request.is_recorded]
    for count in range(len(faults) + 1):
        yield faults[:count]
        yield faults[:count] + faults[count + 1 :]


def _unrecorded(outcomes: Sequence[Outcome]) -> Iterator[Outcome]:
    """The faults that must be recorded, without their records."""
    for outcome in outcomes:
        if isinstance(outcome, Fault) and outcome.record is not None:
            yield _without_record(outcome)


def _without_record(fault: Fault) -> Fault:
    unrecorded: Fault = replace(fault, record=None)
    return unrecorded


def _replaced(data: bytes, at: int, part: bytes) -> bytes:
    """Data with a part put in, where that lies inside."""
    return data[:at] + part + data[at + len(part) :] if 0 <= at <= len(data) - len(part) else data
