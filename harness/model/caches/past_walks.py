"""The walks that may have filled a cache: over what memory has held, from each topmost table that there has been.

`PastWalks` keeps the registers that there have been, and the log of invalidations. It replays the engine's walk of an
access over the history of memory (`history`), and has the rule (`cached_walk`) say of each replay when its result could
be had. A replay of which an entry can never have been known is cut off there, with all that begin like it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast

from harness.model.access import Access, Fault, Outcome
from harness.model.caches.cached_walk import CachedWalk, Setting, Taker, evaluate
from harness.model.caches.history import HistoryMemory, Read, Recording, ReplayMemory, iter_replays
from harness.model.caches.invalidation_log import InvalidationLog
from harness.model.caches.kept_answers import KeptAnswers
from harness.model.caches.moments import FOREVER, Moments, either, is_endless
from harness.model.caches.policy import CachePolicy
from harness.model.caches.staleness import TOO_MANY_HINT, TooManyWalks
from harness.model.caches.traces import Trace
from harness.model.engine import Engine, InterruptRemapper, MsiOutcome, MsiWrite
from harness.model.explanation import Step
from harness.model.memory import Memory

__all__ = ["Budget", "Explained", "PastWalks", "Roots", "Walked", "keep_engines"]

RegistersT = TypeVar("RegistersT")
ResultT = TypeVar("ResultT", Outcome, MsiOutcome)

EngineT = TypeVar("EngineT", bound=Engine[Any, Any])

_MOST_ENGINES = 64
_MOST_REGISTERS = 256  # values that are remembered of them, the present ones included

Explained: TypeAlias = tuple[Sequence[Step], ResultT]
"""What a walk traced, and its result."""


@dataclass(slots=True)
class Budget:
    """How many walks may still be tried for an access: those of its companions count as well."""

    left: int


@dataclass(frozen=True, slots=True)
class Root(Generic[RegistersT]):
    """Registers of which caches may still know.

    Attributes:
        registers: the last ones with this topmost table.
        moments: when it was the topmost table.
        engine: of them, over the history of memory.
    """

    registers: RegistersT
    moments: Moments
    engine: Engine[Any, Any]


class Roots(NamedTuple, Generic[RegistersT]):
    """The topmost tables that there have been, the present one first.

    Attributes:
        all: of them.
        active: when there was any, and so walks were made at all.
    """

    all: tuple[Root[RegistersT], ...]
    active: Moments


@dataclass(frozen=True, slots=True)
class Walked(Generic[ResultT, RegistersT]):
    """A walk over history.

    Attributes:
        trace: the walk.
        setting: what it was made in.
        cached: when its result could be had.
    """

    trace: Trace[ResultT]
    setting: Setting[RegistersT]
    cached: CachedWalk

    @property
    def outcome(self) -> ResultT:
        """Its result."""
        return self.trace.outcome

    def taken_by(self, taker: Taker) -> CachedWalk:
        """The walk, where another requester goes on from its last table."""
        return evaluate(self.trace, self.setting, taker)


def keep_engines(engine_of: Callable[[RegistersT, Memory], EngineT]) -> Callable[[RegistersT, Memory], EngineT]:
    """Build engines, and keep the last ones: software sets the same registers again and again.

    Args:
        engine_of: builds an engine that has no state of its own.
    """
    return cast(Callable[[RegistersT, Memory], EngineT], lru_cache(_MOST_ENGINES)(engine_of))


class PastWalks(Generic[RegistersT]):
    """Walks as they are and may have been.

    Args:
        engine_of: builds the engine over registers and memory.
        registers: as they are when it begins.
        memory: with its history.
        policy: what the architecture allows.
        limit: walks that are tried for one access.

    Attributes:
        registers: as they are now.
        log: the invalidations that were done.
        roots: topmost tables that caches may know of.
        interrupt_roots: likewise, of interrupts.
        engine: of the present registers and memory.
        met: address and size of everything that `walks` has read, until somebody clears it.
    """

    def __init__(
        self,
        engine_of: Callable[[RegistersT, Memory], Engine[Any, Any]],
        registers: RegistersT,
        memory: HistoryMemory,
        policy: CachePolicy[RegistersT],
        limit: int,
    ) -> None:
        self.registers = registers
        self.met: set[tuple[int, int]] = set()
        self._engine_of = engine_of
        self._memory = memory
        self._policy = policy
        self._limit = limit
        self._replay = ReplayMemory(memory)
        self._recording = Recording()
        # The engine that repeats recorded walks, for the registers that were the last ones to be asked for.
        self._repeater: tuple[RegistersT, Engine[Any, Any]] | None = None
        # Present walks in which nothing has a past, from the present topmost table.
        self._present_walks: KeptAnswers[CachedWalk] = KeptAnswers(memory)
        self.begin()

    @property
    def registers_changed(self) -> bool:
        """Whether caches may know of other registers than the present ones."""
        return len(self._registers_past) > 1

    def begin(self) -> None:
        """Only the present counts from now on."""
        self.log = InvalidationLog()
        # Since when registers had which value, ascending; the present one is the last.
        self._registers_past: list[tuple[int, RegistersT]] = [(0, self.registers)]
        self._find_roots()

    def set_registers(self, registers: RegistersT) -> bool:
        """The registers have changed; false if they have changed so often that not all can be remembered."""
        past = self._registers_past
        if all(root(registers) == root(self.registers) for root in (self._policy.root, self._policy.interrupt_root)):
            # Nothing that caches could remember is different.
            past[-1] = past[-1][0], registers
        else:
            past.append((self._memory.tick(), registers))
        self.registers = registers
        self._find_roots()
        return len(past) <= _MOST_REGISTERS

    def forget(self, before: int) -> None:
        """Let go of everything that ended before a moment."""
        self.log.forget(before)
        ended = sum(since <= before for since, _ in self._registers_past[1:])
        if ended:
            del self._registers_past[:ended]
            self._find_roots()

    def present(self, access: Access) -> Outcome | None:
        """The present outcome, where nothing has a past that it comes from; None where something has."""
        self._replay.begin([])
        outcome = self.roots.all[0].engine.translate(access)
        return None if self._replay.widths else outcome

    def present_interrupt(self, write: MsiWrite) -> MsiOutcome | None:
        """As `present`, for a write to the interrupt address range."""
        self._replay.begin([])
        outcome = cast(InterruptRemapper, self.interrupt_roots.all[0].engine).remap_msi(write)
        return None if self._replay.widths else outcome

    @property
    def present_reads(self) -> tuple[Read, ...]:
        """What was read for the answer that `present` gave last."""
        return tuple(self._replay.reads)

    def present_walk(self, access: Access) -> CachedWalk:
        """The walk over present memory."""
        walk = self._present_walks.find(access)
        if walk is not None:
            return walk
        root = self.roots.all[0]
        self._replay.begin([])
        explanation = root.engine.explain(access)
        reads = tuple(self._replay.reads)
        walk = evaluate(Trace(explanation.outcome, explanation.steps, reads), self._setting(root, self.roots))
        # What is known without an end has been ended by no invalidation, whichever there were.
        if not self._replay.widths and is_endless(root.moments) and is_endless(self.roots.active):
            self._present_walks.keep(access, walk, reads)
        return walk

    def walks(
        self,
        roots: Roots[RegistersT],
        explain: Callable[[Any], Explained[ResultT]],
        budget: Budget,
    ) -> Iterator[Walked[ResultT, RegistersT]]:
        """The walks over history, from each topmost table that there has been; the present one first.

        Args:
            roots: of them.
            explain: makes a walk of an engine.
            budget: how many may still be tried; it is used up.

        Raises:
            TooManyWalks: there are more than can be tried.
        """
        if self._memory.lost:
            why = f"what memory held before change {self._memory.lost} is not known any more"
            raise TooManyWalks(why, hint=TOO_MANY_HINT)
        for root in roots.all:
            setting = self._setting(root, roots)
            for replay in iter_replays(self._replay, partial(explain, root.engine), budget.left):
                if replay is None:
                    raise TooManyWalks(
                        f"there are more than {self._limit} ways through what was written since everything was"
                        " invalidated",
                        hint=TOO_MANY_HINT,
                    )
                budget.left -= 1
                self.met.update((read.address, read.size) for read in replay.reads)
                steps, outcome = replay.result
                trace = Trace(outcome, steps, replay.reads)
                cached = evaluate(trace, setting)
                replay.dead_end = cached.dead_end
                if cached.dead_end is None:
                    yield Walked(trace, setting, cached)

    def happens_to(self, access: Access, walked: Walked[Outcome, RegistersT]) -> Outcome:
        """The result of another requester's walk, for an access that finds it in a cache."""
        if not isinstance(walked.outcome, Fault):
            return walked.outcome
        return self._repeat(access, walked.setting.registers, walked.trace.reads)

    def happens_with(self, access: Access, reads: tuple[Read, ...]) -> Outcome:
        """The same of a present walk to the page, by what it read: a fault comes with the name of the access."""
        return self._repeat(access, self.roots.all[0].registers, reads)

    def _repeat(self, access: Access, registers: RegistersT, reads: tuple[Read, ...]) -> Outcome:
        """What an access gets whose walk reads what another one has read."""
        self._recording.begin(reads)
        if self._repeater is None or self._repeater[0] is not registers:
            self._repeater = registers, self._engine_of(registers, self._recording)
        return self._repeater[1].translate(access)

    def _setting(self, root: Root[RegistersT], roots: Roots[RegistersT]) -> Setting[RegistersT]:
        """What the walks are made in that start from one of some roots."""
        return Setting(self._policy, root.registers, root.moments, roots.active, self.log)

    def _find_roots(self) -> None:
        """Engines for the present registers, and for everything that caches may still know of registers."""
        self.engine = self._engine_of(self.registers, self._memory.memory)
        self.roots = self._roots_by(self._policy.root)
        self.interrupt_roots = self._roots_by(self._policy.interrupt_root)
        self._present_walks.clear()

    def _roots_by(self, root_of: Callable[[RegistersT], Hashable | None]) -> Roots[RegistersT]:
        """The topmost tables of one kind; registers that name the same one count as one root."""
        runs: dict[Hashable | None, list[Moments]] = {}
        latest: dict[Hashable | None, RegistersT] = {}
        ends = [since for since, _ in self._registers_past[1:]] + [FOREVER]
        for (since, registers), end in zip(self._registers_past, ends, strict=True):
            root = root_of(registers)
            runs.setdefault(root, []).append(((since, end),))
            latest[root] = registers
        present = root_of(self.registers)
        return Roots(
            tuple(
                Root(latest[root], either(runs[root]), self._engine_of(latest[root], self._replay))
                for root in (present, *(root for root in runs if root not in (present, None)))
            ),
            either(moments for root, sets in runs.items() if root is not None for moments in sets),
        )
