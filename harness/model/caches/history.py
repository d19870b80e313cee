"""Memory that remembers what it held, and walks that read any of it.

`HistoryMemory` keeps the values that were written over, each with the moments at which it was there. A walk over a
`ReplayMemory` reads any of them: `iter_replays` runs it again and again, with each combination of answers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

from harness.model.caches.moments import ALWAYS, FOREVER, Moments
from harness.model.memory import OutsideMemory, WritableMemory

__all__ = ["HistoryMemory", "Read", "Recording", "Replay", "ReplayMemory", "Version", "iter_replays"]

_U64 = struct.Struct("<Q")
_WORD_BYTES = 8
_WORD_MASK = (1 << 64) - 1

ResultT = TypeVar("ResultT")


class Version(NamedTuple):
    """A value that a range of memory had, and when."""

    value: int
    moments: Moments


class HistoryMemory:
    """A memory whose past is kept, in words of 8 bytes, until `forget`.

    Reads give the present. Every write that changes something is a moment of its own; `tick` makes others.

    Args:
        memory: what holds the present; its regions begin and end at multiples of 8 bytes. Write through here alone.
        limit: how many values are kept; when there are more, all are let go and `lost` says so.

    Attributes:
        memory: as given; reading it is reading the present, and cheaper.
        now: the last moment at which something happened.
        lost: what was there before this moment is not known.
        watched: words (8 bytes, by address) of which `watched_changes` counts the changes.
        watched_changes: how often a watched word has changed.
    """

    def __init__(self, memory: WritableMemory, limit: int = 1 << 18) -> None:
        self.memory = memory
        self.now = 0
        self.lost = 0
        self.watched: set[int] = set()
        self.watched_changes = 0
        self._limit = limit
        # Of each word that changed: since when it has had which value, ascending.
        self._past: dict[int, list[tuple[int, int]]] = {}
        self._size = 0

    @property
    def size(self) -> int:
        """How many values are kept."""
        return self._size

    @property
    def is_empty(self) -> bool:
        """Whether nothing but the present is known."""
        return not self._past

    def tick(self) -> int:
        """Begin a new moment."""
        self.now += 1
        return self.now

    def changed(self, address: int, size: int) -> bool:
        """Whether a range of bytes has a past."""
        if size == _WORD_BYTES and not address & 7:
            return address in self._past
        return not self._past.keys().isdisjoint(range(address & ~7, address + size, _WORD_BYTES))

    def is_as_read(self, reads: Iterable[Read]) -> bool:
        """Whether what was read once is there now, and has no past."""
        past, memory = self._past, self.memory
        for address, size, value, _, _ in reads:
            if size == _WORD_BYTES and not address & 7:
                if address in past or memory.read_u64(address) != value:
                    return False
            elif self.changed(address, size) or int.from_bytes(memory.read(address, size), "little") != value:
                return False
        return True

    def read_u64(self, address: int) -> int:
        """See `Memory`."""
        return self.memory.read_u64(address)

    def read(self, address: int, size: int) -> bytes:
        """See `Memory`."""
        return self.memory.read(address, size)

    def write_u64(self, address: int, value: int) -> None:
        """See `WritableMemory`."""
        if address & 7:
            self.write(address, _U64.pack(value & _WORD_MASK))
            return
        old = self.memory.read_u64(address)
        self.memory.write_u64(address, value)
        if old != value & _WORD_MASK:
            self.tick()
            self._keep(address, old, value & _WORD_MASK)

    def write(self, address: int, data: bytes) -> None:
        """See `WritableMemory`. All of `data` is there at the same moment."""
        words = range(address & ~7, address + len(data), 8)
        old = [self.memory.read_u64(word) for word in words]
        self.memory.write(address, data)
        now = self.now + 1
        for word, before in zip(words, old, strict=True):
            after = self.memory.read_u64(word)
            if after != before:
                self.now = now
                self._keep(word, before, after)

    def versions(self, address: int, size: int) -> list[Version]:
        """The values that a range of bytes has had, little-endian, the present one first. It is read in one piece.

        Raises:
            OutsideMemory: it is not all there.
        """
        present = int.from_bytes(self.memory.read(address, size), "little")
        base = address & ~7
        words = [(8 * (word - base), self._past[word]) for word in range(base, address + size, 8) if word in self._past]
        if not words:
            return [Version(present, ALWAYS)]
        cut, mask = 8 * (address - base), (1 << 8 * size) - 1
        value = int.from_bytes(self.memory.read(base, -(-(address + size - base) // 8) * 8), "little")
        # Back from the present: what each of the words was, at every moment when one of them changed.
        starts = sorted({since for _, past in words for since, _ in past}, reverse=True)
        runs: dict[int, list[tuple[int, int]]] = {present: []}
        end = FOREVER
        for start in starts:
            for shift, past in words:
                word = next(then for since, then in reversed(past) if since <= start)
                value = value & ~(_WORD_MASK << shift) | word << shift
            runs.setdefault(value >> cut & mask, []).append((start, end))
            end = start
        return [Version(then, _joined(found)) for then, found in runs.items()]

    def forget(self, before: int) -> None:
        """Let go of the values that were written over before a moment."""
        for word, past in list(self._past.items()):
            kept = [entry for entry, after in pairwise(past) if after[0] > before]
            self._size -= len(past) - 1 - len(kept)
            if kept:
                # Of what was before the first of them nothing is known any more: it counts from the beginning.
                self._past[word] = [(0, kept[0][1]), *kept[1:], past[-1]]
            else:
                del self._past[word]
                self._size -= 1

    def lose(self) -> None:
        """There is too much to remember: what was before the present is not known any more."""
        self._past.clear()
        self._size = 0
        self.lost = self.now

    def _keep(self, word: int, old: int, new: int) -> None:
        if word in self.watched:
            self.watched_changes += 1
        if self._size >= self._limit:
            self.lose()
        past = self._past.get(word)
        if past is None:
            self._past[word] = [(0, old), (self.now, new)]
            self._size += 2
        else:
            past.append((self.now, new))
            self._size += 1


def _joined(runs: list[tuple[int, int]]) -> Moments:
    """Runs in descending order, as a set of moments."""
    joined: list[tuple[int, int]] = []
    for start, end in reversed(runs):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)


class Read(NamedTuple):
    """What a walk read, and when that was there.

    Attributes:
        address: first byte.
        size: bytes.
        value: what the walk was given, little-endian.
        moments: at which memory had that value.
        choice: number of the choice that gave it; -1 where there was none.
    """

    address: int
    size: int
    value: int
    moments: Moments
    choice: int


class ReplayMemory:
    """A memory that answers each read as its list of choices says, and notes it. It is begun anew for each walk.

    Attributes:
        choices: which version each read that has several is given; 0 is the present one, and what follows the list.
        widths: how many versions there were to choose from.
        reads: what was read.
    """

    def __init__(self, history: HistoryMemory) -> None:
        self._history = history
        self.begin([])

    def begin(self, choices: list[int]) -> None:
        """Begin a walk."""
        self.choices = choices
        self.widths: list[int] = []
        self.reads: list[Read] = []

    def read_u64(self, address: int) -> int:
        """See `Memory`."""
        if not self._history.changed(address, 8):
            value = self._history.memory.read_u64(address)
            self.reads.append(Read(address, 8, value, ALWAYS, -1))
            return value
        return self._choose(address, 8)

    def read(self, address: int, size: int) -> bytes:
        """See `Memory`."""
        if not self._history.changed(address, size):
            data = self._history.memory.read(address, size)
            self.reads.append(Read(address, size, int.from_bytes(data, "little"), ALWAYS, -1))
            return data
        return self._choose(address, size).to_bytes(size, "little")

    def _choose(self, address: int, size: int) -> int:
        versions = self._history.versions(address, size)
        number = len(self.widths)
        self.widths.append(len(versions))
        if number == len(self.choices):
            self.choices.append(0)
        value, moments = versions[self.choices[number]]
        self.reads.append(Read(address, size, value, moments, number))
        return value


class Recording:
    """A memory that gives the answers of an earlier walk again, in the same order, whatever is asked.

    It puts one requester into the place of another: what the second one's entries said, with the first one's name.
    """

    def __init__(self) -> None:
        self._reads: Iterator[Read] = iter(())

    def begin(self, reads: tuple[Read, ...]) -> None:
        """Begin to play."""
        self._reads = iter(reads)

    def read_u64(self, address: int) -> int:
        """See `Memory`."""
        return self._next(address, 8)

    def read(self, address: int, size: int) -> bytes:
        """See `Memory`."""
        return self._next(address, size).to_bytes(size, "little")

    def _next(self, address: int, size: int) -> int:
        # The first walk was at an end here, or memory did not answer it.
        read = next(self._reads, None)
        if read is None or read.size != size:
            raise OutsideMemory(address, size)
        return read.value


@dataclass(slots=True)
class Replay(Generic[ResultT]):
    """One way in which a walk can have gone.

    Attributes:
        result: of the walk.
        reads: in the order in which it made them.
        dead_end: set it to the number of a read to say that nothing which begins with these reads up to there is
            wanted: no other walk with them is tried.
    """

    result: ResultT
    reads: tuple[Read, ...]
    dead_end: int | None = None


def iter_replays(memory: ReplayMemory, walk: Callable[[], ResultT], limit: int) -> Iterator[Replay[ResultT] | None]:
    """Every way in which a walk can go over what memory has held, the present one first.

    Args:
        memory: what the walk reads.
        walk: depends on nothing else.
        limit: how many are tried at most.

    Yields:
        A `Replay` each; at last None where the limit was reached and there are more.
    """
    choices: list[int] = []
    for _ in range(limit):
        memory.begin(choices)
        result = walk()
        replay = Replay(result, tuple(memory.reads))
        widths = memory.widths
        yield replay
        if replay.dead_end is not None:
            made = [read.choice for read in replay.reads[: replay.dead_end + 1] if read.choice >= 0]
            del choices[made[-1] + 1 if made else 0 :]
        # The last choice that has another answer left is changed; the ones after it begin anew.
        while choices and choices[-1] + 1 == widths[len(choices) - 1]:
            choices.pop()
        if not choices:
            return
        choices[-1] += 1
    yield None
