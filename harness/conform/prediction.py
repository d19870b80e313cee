"""What must come of a round of DMAs: the unit's outcomes, done to the twin memory and to the devices' buffers.

Where more than one outcome is allowed, what was seen decides. A choice is a list of numbers, one for each request that
has more than one. Choices are tried until memory and the records of faults are as they were seen to be: in the order of
the requests, and given up at the first request whose record, or data, is not in the real memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple, cast

from harness.conform.board import Board
from harness.conform.edu import BUFFER_BYTES, blocked_length, first_buffer
from harness.conform.layout import DEVICES, device
from harness.conform.memory import QUEUES, TABLES, TwinMemory
from harness.conform.program import Dma
from harness.model.access import Access, AccessKind, Bypassed, BypassReason, Fault, Outcome
from harness.model.engine import MsiOutcome, MsiWrite, NotModelled
from harness.model.memory import OutsideMemory, WritableMemory
from harness.model.undo import UndoMemory
from harness.model.unit import AnyBytes, InterruptUnit, Unit, UnitState

__all__ = ["Predictor", "Request", "WatchedMemory"]

_FIRST = {entry.id: first_buffer(number) for number, entry in enumerate(DEVICES)}
_MOST_CHOICES = 256  # that are tried for one round
_MORE_CHOICES = 8
_HEAD = 8  # bytes of a record


class Request(NamedTuple):
    """A request that a DMA was cut into, and what must become of it.

    Attributes:
        dma: which it is of.
        access: the request.
        outcome: of it; for an interrupt that of the interrupt.
        address: where data went to or came from; None where they did not, or where no memory is.
    """

    dma: Dma
    access: Access
    outcome: Outcome | MsiOutcome
    address: int | None


class _Search:
    """Goes through choices, the last one first; what was seen of a request may be wrong whatever is chosen.

    Attributes:
        choices: to try.
        accepted: numbers of requests that are not as they were seen to be with any choice.
    """

    def __init__(self) -> None:
        self.choices: list[int] = []
        self.accepted: set[int] = set()
        self._settled = 0  # choices that are not tried again
        self._farthest: tuple[int, list[int]] | None = None
        self._whole: list[int] | None = None

    @property
    def result(self) -> list[int]:
        """The choices that agree best."""
        return self.choices if self._whole is None else self._whole

    @property
    def is_whole(self) -> bool:
        """Whether there were choices with which every request was as it was seen to be."""
        return self._whole is not None

    def go_on(self, counts: Sequence[int], wrong: int | None) -> bool:
        """Have other choices tried; false where there are none left.

        Args:
            counts: how many outcomes there were, of each request with more than one that was come to.
            wrong: number of the first request that was not as it was seen to be; None where all were.
        """
        made = [*self.choices, *(0 for _ in range(len(counts) - len(self.choices)))]
        if wrong is None:
            self._whole = self._whole or list(made)
        elif self._farthest is None or wrong > self._farthest[0]:
            self._farthest = wrong, list(made)
        while len(made) > self._settled and made[-1] + 1 >= counts[len(made) - 1]:
            made.pop()
        if len(made) > self._settled:
            made[-1] += 1
            self.choices = made
            return True
        if self._whole is not None or self._farthest is None:
            return False
        number, self.choices = self._farthest
        self.accepted.add(number)
        self._settled = len(self.choices)
        self._farthest = None
        return True


class WatchedMemory:
    """Passes everything on, and notes what is written: the unit's records.

    Args:
        memory: what is behind it.

    Attributes:
        writes: address and data of each write, until somebody clears them.
    """

    def __init__(self, memory: WritableMemory) -> None:
        self._memory = memory
        self.writes: list[tuple[int, bytes]] = []
        self.read = memory.read
        self.read_u64 = memory.read_u64

    def write(self, address: int, data: bytes) -> None:
        """See `WritableMemory`."""
        self._memory.write(address, data)
        self.writes.append((address, data))

    def write_u64(self, address: int, value: int) -> None:
        """See `WritableMemory`."""
        self.write(address, value.to_bytes(8, "little"))


class _Doubt(NamedTuple):
    """What a read may have brought into a buffer, where more than one outcome was allowed.

    Attributes:
        offset: into the buffer.
        data: what may be there, each of the same length; that of the outcome that was taken first.
    """

    offset: int
    data: tuple[bytes, ...]


class Predictor:
    """Knows the devices' buffers, and has the unit settle what they do.

    Args:
        unit: of the model.
        memory: the real memory and its twin.
        records: the twin, by physical addresses, as the unit writes it.
        twin: the same, for what devices write.
        board: that the machine stands on.
        is_known: whether the word of a record at that offset of memory, which differs from the twin's, does so in
            nothing but what is known to.

    Attributes:
        silent: requests of the last round that were taken for blocked though they have no record, which they should.
    """

    def __init__(
        self,
        unit: Unit,
        memory: TwinMemory,
        records: WatchedMemory,
        twin: WritableMemory,
        board: Board,
        is_known: Callable[[int], bool] = lambda at: False,
    ) -> None:
        self._unit = unit
        self._is_known = is_known
        self._granule = unit.granule
        self._memory = memory
        self._records = records
        self._twin = UndoMemory(twin)
        self._ram = board.ram
        self._devices = board.devices
        self._buffers: dict[str, bytearray] = {}
        self._reads: dict[str, list[Request]] = {}
        # Of each device the last read of which nothing has shown yet what it read.
        self._doubts: dict[str, _Doubt] = {}
        self._doubts_before: dict[str, _Doubt] = {}
        self._state: UnitState = None
        self._counts: list[int] = []
        self._free: list[AnyBytes] = []
        self._wrong: int | None = None
        self._choices: list[int] = []
        self._unrecorded: frozenset[int] = frozenset()
        self.silent: list[Request] = []
        # Where the writes of a round may have gone.
        self._places: list[tuple[Dma, int, int]] = []
        # Outcomes by the number of the request and all that was chosen before it: a search comes by them often.
        self._found: dict[tuple[int, tuple[int, ...], Access], Sequence[Outcome]] | None = None

    def begin(self) -> None:
        """A program begins: devices have in their buffers what they have at first."""
        self._buffers = {id: bytearray(data) for id, data in _FIRST.items()}
        self._reads.clear()
        self._doubts.clear()

    def plugged(self, id: str) -> None:
        """A device is a new one: there are zeroes in its buffer."""
        self._buffers[id] = bytearray(BUFFER_BYTES)
        self._doubts.pop(id, None)

    def last_read(self, id: str) -> Request | None:
        """Of the last DMA in which a device read, the first request that must be blocked, or else the first."""
        requests = self._reads.get(id, [])
        return next((each for each in requests if isinstance(each.outcome, Fault)), next(iter(requests), None))

    def written(self, request: Request) -> bytes:
        """The data of a request that writes."""
        offset = request.dma.offset + request.access.iova - request.dma.iova
        return bytes(self._buffers[request.dma.device][offset : offset + request.access.length])

    def predict(self, dmas: Sequence[Dma]) -> list[Request]:
        """What must come of DMAs, in their order; where there is a choice, the outcome that needs no cache."""
        self._state = self._unit.save()
        self._twin.mark()
        self._doubts_before = dict(self._doubts)
        self._counts = []
        self._places.clear()
        return self._run(dmas, (), self._counts)

    def choose(self, dmas: Sequence[Dma], requests: list[Request], fits: Callable[[], bool]) -> list[Request]:
        """Find outcomes with which what was seen agrees; those of `predict` where there are none.

        Args:
            dmas: as for `predict`, which came just before.
            requests: that it gave.
            fits: whether what was seen agrees with the unit and the twin memory as they are.
        """
        # While `predict` was at work the real memory was not what it is now.
        for free in self._free:
            self._take_over(free)
        self._choices = []
        if not self._counts or fits():
            return requests
        search = _Search()
        self._found = {}
        try:
            left = _MOST_CHOICES
            while left > 0:
                counts: list[int] = []
                tried = self._again(dmas, search.choices, counts, search.accepted)
                if self._wrong is None and fits():
                    return tried
                if not search.go_on(counts, self._wrong):
                    break
                # With choices that agree but for what a record says there is little hope of better ones.
                left = min(left - 1, _MORE_CHOICES) if search.is_whole else left - 1
            self._choices = search.result
            return self._again(dmas, self._choices, [])
        finally:
            self._found = None

    def find_unrecorded(
        self, dmas: Sequence[Dma], requests: list[Request], fits: Callable[[], bool]
    ) -> tuple[list[Request], list[Request]]:
        """Where nothing fits: whether it would, had hardware not recorded some of the faults.

        Only for a unit that keeps the first record: there another takes the place of one that is missing.

        Args:
            dmas, requests, fits: as for `choose`, which came just before.

        Returns:
            Requests as they are then, and those of them whose faults have no record; as they were, and none, where
            that is no answer either.
        """
        faults = [number for number, request in enumerate(requests) if _is_recorded(request.outcome)]
        for count in range(len(faults) + 1):
            # The record is that of the next one; whether there were others besides tells how many more there are not.
            for missing in (faults[:count], faults[:count] + faults[count + 1 :]):
                if self._without(dmas, missing, fits) is not None:
                    missing = self._necessary(dmas, missing, fits)
                    tried = self._without(dmas, missing, fits) or []
                    return tried, [tried[number] for number in missing if number < len(tried)]
        return self._again(dmas, self._choices, []), []

    def _necessary(self, dmas: Sequence[Dma], missing: list[int], fits: Callable[[], bool]) -> list[int]:
        """Those of the faults without a record that a unit would have recorded: of one device it may take the first."""
        for number in tuple(missing):
            fewer = [each for each in missing if each != number]
            if self._without(dmas, fewer, fits) is not None:
                missing = fewer
        return missing

    def _without(self, dmas: Sequence[Dma], missing: list[int], fits: Callable[[], bool]) -> list[Request] | None:
        """The requests, where faults of those with these numbers are not recorded; None where that does not fit."""
        self._unrecorded = frozenset(missing)
        tried = self._again(dmas, self._choices, [])
        self._unrecorded = frozenset()
        return tried if fits() else None

    def _again(
        self, dmas: Sequence[Dma], choices: Sequence[int], counts: list[int], accepted: set[int] | None = None
    ) -> list[Request]:
        self._twin.rollback()
        self._unit.restore(self._state)
        self._doubts = dict(self._doubts_before)
        return self._run(dmas, choices, counts, accepted)

    def _run(
        self, dmas: Sequence[Dma], choices: Sequence[int], counts: list[int], accepted: set[int] | None = None
    ) -> list[Request]:
        """Do them.

        Args:
            dmas: in their order.
            choices: which outcome each request has that has more than one; the first where none is said.
            counts: how many outcomes each of those has is appended here.
            accepted: stop where the real memory shows that a choice was another one, but for requests with these
                numbers; None to do them all. `_wrong` is the number of the one that was stopped at.
        """
        requests: list[Request] = []
        self.silent = []
        self._wrong = None
        self._free.clear()
        for dma in dmas:
            entry = device(dma.device)
            assert entry is not None
            requester, kind = entry.requester, dma.kind
            at, end = dma.iova, dma.iova + dma.length
            doubted = False
            page, page_choice = -1, 0  # of the last piece with more than one outcome; those that follow go the same way
            if kind is AccessKind.READ:
                self._reads[dma.device] = []
                self._doubts.pop(dma.device, None)
            else:
                doubted = self._decide(dma, choices, counts)
            silent: list[Fault] = []
            while at < end:
                length = min(end - at, self._granule - at % self._granule)
                access = Access(requester=requester, iova=at, length=length, kind=kind)
                outcomes = self._outcomes(access, len(requests), choices, counts)
                if self._found is None and kind is AccessKind.WRITE:
                    self._places += [(dma, each.address, length) for each in outcomes if not isinstance(each, Fault)]
                if self._unit.keeps_first_record and len(outcomes) > 1:
                    recorded = [each for each in outcomes if isinstance(each, Fault) and each.record is not None]
                    silent = [replace(each, record=None) for each in recorded]
                    outcomes = (*outcomes, *silent)
                choice = 0
                if len(outcomes) > 1 and at // self._granule == page:
                    choice = min(page_choice, len(outcomes) - 1)
                elif len(outcomes) > 1:
                    if len(counts) < len(choices):
                        choice = min(choices[len(counts)], len(outcomes) - 1)
                    counts.append(len(outcomes))
                    page, page_choice = at // self._granule, choice
                outcome = outcomes[choice]
                if isinstance(outcome, Fault):
                    length = blocked_length(at, length)
                    if length != access.length:
                        access = Access(requester=requester, iova=at, length=length, kind=kind)
                        outcome = next(
                            (each for each in self._unit.outcomes(access) if isinstance(each, Fault)), outcome
                        )
                if len(requests) in self._unrecorded and isinstance(outcome, Fault):
                    outcome = replace(outcome, record=None)
                self._records.writes.clear()
                for write in self._unit.settle(access, outcome):
                    if isinstance(write, AnyBytes):
                        self._free.append(write)
                        self._take_over(write)
                    elif self._memory.real_has(write.address - self._ram, write.data):
                        self._unit.store(write.address, write.data)
                requests.append(self._move(dma, access, outcome, is_unrecorded=len(requests) in self._unrecorded))
                if outcome in silent:
                    self.silent.append(requests[-1])
                if kind is AccessKind.READ and len(outcomes) > 1:
                    self._doubt(requests[-1], outcomes)
                if (
                    accepted is not None
                    and len(requests) - 1 not in accepted
                    and not self._shows(requests[-1], outcomes if doubted or len(outcomes) > 1 else ())
                ):
                    self._wrong = len(requests) - 1
                    return requests
                at += length
        return requests

    def _outcomes(
        self, access: Access, number: int, choices: Sequence[int], counts: Sequence[int]
    ) -> Sequence[Outcome]:
        """The unit's outcomes of a request; in a search those that were found before, if all went the same way."""
        if self._found is None:
            return self._unit.outcomes(access)
        made = (*choices[: len(counts)], *(0 for _ in range(len(counts) - len(choices))))
        key = number, made, access
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._unit.outcomes(access)
        return found

    def _take_over(self, free: AnyBytes) -> None:
        """Have the twin hold what the real memory does, in a part of a record that was just written."""
        at = free.address - self._ram
        seen = bytes(self._memory.real[at : at + free.size])
        self._twin.write(free.address, seen)
        self._records.writes = [
            (address, _replaced(data, free.address - address, seen)) for address, data in self._records.writes
        ]

    def _doubt(self, request: Request, outcomes: Sequence[Outcome]) -> None:
        """Remember what a read with more than one outcome may have brought."""
        offset = request.dma.offset + request.access.iova - request.dma.iova
        length = request.access.length
        found = [bytes(self._buffers[request.dma.device][offset : offset + length])]
        for outcome in outcomes:
            data = bytes(length)
            if not isinstance(outcome, Fault):
                with suppress(OutsideMemory):
                    data = self._twin.read(outcome.address, length)
            if data not in found:
                found.append(data)
        before = self._doubts.get(request.dma.device)
        if before is not None and before.offset + len(before.data[0]) == offset:
            # The pieces of a DMA go the same way.
            whole = (
                before.data[min(number, len(before.data) - 1)] + found[min(number, len(found) - 1)]
                for number in range(max(len(before.data), len(found)))
            )
            self._doubts[request.dma.device] = _Doubt(before.offset, tuple(whole))
        elif len(found) > 1:
            self._doubts[request.dma.device] = _Doubt(offset, tuple(found))

    def _decide(self, dma: Dma, choices: Sequence[int], counts: list[int]) -> bool:
        """Before a write of what was read with more than one outcome: choose what that was; false for other writes."""
        doubt = self._doubts.get(dma.device)
        if doubt is None or not (
            doubt.offset < dma.offset + dma.length and dma.offset < doubt.offset + len(doubt.data[0])
        ):
            return False
        choice = min(choices[len(counts)], len(doubt.data) - 1) if len(counts) < len(choices) else 0
        counts.append(len(doubt.data))
        data = doubt.data[choice]
        self._buffers[dma.device][doubt.offset : doubt.offset + len(data)] = data
        self._doubts[dma.device] = _Doubt(doubt.offset, (data, *(each for each in doubt.data if each != data)))
        return True

    def _shows(self, request: Request, outcomes: Sequence[Outcome]) -> bool:
        """Whether the real memory has what a request leads to; only of one with a choice that is asked of its data."""
        # Of a record only its head: what else differs is for the comparison to say.
        heads = ((at - self._ram, data[:_HEAD]) for at, data in self._records.writes)
        if not all(self._memory.real_has(at, head) or (at % _HEAD == 0 and self._is_known(at)) for at, head in heads):
            return False
        if not outcomes or request.dma.kind is not AccessKind.WRITE:
            return True
        data = self.written(request)
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

    def _move(self, dma: Dma, access: Access, outcome: Outcome, *, is_unrecorded: bool) -> Request:
        """Move the data of one request, in the twin memory and the device's buffer."""
        request = Request(dma, access, outcome, None)
        if dma.kind is AccessKind.WRITE:
            if isinstance(outcome, Fault):
                return request
            if isinstance(outcome, Bypassed) and outcome.reason is BypassReason.INTERRUPT_RANGE:
                return request._replace(outcome=self._interrupt(request, is_unrecorded=is_unrecorded))
            self._refuse_devices(outcome.address)
            self._refuse_tables(outcome.address)
            try:
                self._twin.write(outcome.address, self.written(request))
            except OutsideMemory:
                return request  # nothing there takes it
            return request._replace(address=outcome.address)
        data = bytes(access.length)  # what a read gets from where nothing answers
        if not isinstance(outcome, Fault):
            self._refuse_devices(outcome.address)
            try:
                data = self._twin.read(outcome.address, access.length)
                request = request._replace(address=outcome.address)
            except OutsideMemory:
                pass
        offset = dma.offset + access.iova - dma.iova
        self._buffers[dma.device][offset : offset + access.length] = data
        self._reads[dma.device].append(request)
        return request

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

    def _interrupt(self, request: Request, *, is_unrecorded: bool) -> MsiOutcome:
        """A write to the interrupt range: what the unit makes of it; and the hardware records no fault of it."""
        unit = cast(InterruptUnit, self._unit)  # it said that this is an interrupt
        data = int.from_bytes(self.written(request), "little")
        message = MsiWrite(requester=request.access.requester, address=request.access.iova, data=data)
        outcome = unit.interrupts(message)[0]
        if is_unrecorded and isinstance(outcome, Fault):
            outcome = replace(outcome, record=None)
        unit.settle_interrupt(message, outcome)
        return outcome


def _is_recorded(outcome: Outcome | MsiOutcome) -> bool:
    return isinstance(outcome, Fault) and outcome.record is not None


def _replaced(data: bytes, at: int, part: bytes) -> bytes:
    """Data with a part put in, where that lies inside."""
    return data[:at] + part + data[at + len(part) :] if 0 <= at <= len(data) - len(part) else data
