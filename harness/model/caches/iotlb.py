"""Which results an IOMMU may give, when it has caches: the present one, and those that no invalidation has ended yet.

A driver clears a PTE and does not invalidate. Hardware may now fault, as the tables say, or translate, from what it has
kept: both are right. After the invalidation that drops the PTE only the fault is. `CacheModel` says so at any time.
The tables are written through its memory, and it is told what each command of the driver drops:

>>> mapped = model.engine.translate(read)
>>> model.memory.write_u64(pte, 0)
>>> sorted(map(str, model.allowed(read)))
['fault 0x6 READ_NOT_PERMITTED, stage 2, level 1', 'translated to 0x800000 (rw, 4 KiB mapping)']
>>> print(model.judge(read, mapped))
allowed: translated to 0x800000 (rw, 4 KiB mapping): from caches
    SS-PTE @0x6800 = 0x800003, written over at change 2, still cached as: leaf stage 2 domain 0x5 0x100000..0x100fff
>>> model.invalidate(model.engine.submit(invalidate_the_page).invalidations)
>>> sorted(map(str, model.allowed(read)))
['fault 0x6 READ_NOT_PERMITTED, stage 2, level 1']
>>> print(model.judge(read, mapped))
00:05.0 read of 1 bytes at 0x100000
  was translated to 0x800000 (rw, 4 KiB mapping), which is not allowed
  it was right until change 2; change 3 dropped it: leaf, table stage 2 domain 0x5 0x100000..0x100fff
  allowed is:
    fault 0x6 READ_NOT_PERMITTED, stage 2, level 1: what the tables of 00:05.0 say now

No cache is simulated. The walk of the engine is run over the history of memory (`history`, `past_walks`) with every
answer that its reads could get, and each result is allowed that caches can have kept until now (`cached_walk`): cached
entries of tables, walk caches and whole translations alike. What is cached serves a lookup with the same tags, so that
another requester with the same domain may have brought it in (`companions`, `lookups`); of VT-d that is true of tables
alone, and not of translations. What the tags are the walk says (`Step.cached`), what else an architecture allows its
`CachePolicy` does (`policy`, `policies`).

What is compared: accessed and dirty flags that a walk would set are left out of the outcomes (`writes` is empty): a
cached translation sets none.

What is not known: requesters that were never asked about, other than those given at the start; and whatever was written
past `CacheModel.memory`.

Bounds: history is let go once everything has been invalidated, in the order of `CachePolicy.everything` (`horizon`), or
with `reset`. A driver that never does that fills it: past `history_limit` values or invalidations, or past `walk_limit`
walks for one access, the answer is `Undecided` where the outcome is not the present one, and `allowed` raises
`TooManyWalks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from operator import eq
from typing import Any, Generic, Protocol, TypeVar

from harness.errors import SpecError
from harness.model.access import Access, AddressType, Outcome, Translated, without_writes
from harness.model.caches.companions import Companions, Source
from harness.model.caches.descriptions import describe_invalidation
from harness.model.caches.history import HistoryMemory
from harness.model.caches.horizon import Horizon
from harness.model.caches.lookups import Lookups, Way
from harness.model.caches.moments import held, holds_now, last_end
from harness.model.caches.past_walks import Budget, Explained, PastWalks
from harness.model.caches.policy import CachePolicy
from harness.model.caches.staleness import (
    ALLOWED,
    Allowed,
    NotAllowed,
    Possible,
    TooManyWalks,
    Undecided,
    Verdict,
    stale_parts,
)
from harness.model.caches.ways import Ways
from harness.model.engine import Engine, InterruptRemapper, MsiOutcome, MsiWrite
from harness.model.invalidation import CachedEntry, EntryKind, Invalidation
from harness.model.memory import Memory, WritableMemory

__all__ = ["CacheModel"]

RegistersT = TypeVar("RegistersT")
ResultT = TypeVar("ResultT")


class _InterruptEngine(InterruptRemapper, Protocol):
    """An engine that shows how it remaps an interrupt."""

    def explain_msi(self, write: MsiWrite) -> Explained[MsiOutcome]:
        """As `remap_msi`, with the steps."""
        ...


class CacheModel(Generic[RegistersT]):
    """The results that an IOMMU and its caches may give.

    Args:
        engine_of: builds the engine over registers and memory.
        registers: as they are when it begins. Caches are empty then.
        memory: as it is then.
        policy: what the architecture allows.
        sources: requesters, each with a PASID or None, that may have brought something into a cache without being
            asked about; those that are asked about are known from then on, also for what was before.
        device_tlbs: requesters with a device TLB, each with a PASID or None, for `device_may_hold`.
        interrupts: whether `interrupts` will be asked; history is then kept for interrupt entries as well.
        same: how what was seen is compared with an allowed outcome. An observer that sees nothing but where
            a DMA went compares addresses.
        walk_limit: walks that are tried for one access.
        history_limit: values of memory that are remembered, and invalidations.

    Attributes:
        memory: write tables through it.
    """

    def __init__(
        self,
        engine_of: Callable[[RegistersT, Memory], Engine[Any, Any]],
        registers: RegistersT,
        memory: WritableMemory,
        policy: CachePolicy[RegistersT],
        *,
        sources: Iterable[Source] = (),
        device_tlbs: Iterable[Source] = (),
        interrupts: bool = False,
        same: Callable[[Outcome, Outcome], bool] = eq,
        walk_limit: int = 4096,
        history_limit: int = 1 << 18,
    ) -> None:
        self.memory = HistoryMemory(memory, history_limit)
        self._policy = policy
        self._same = same
        self._history_limit = history_limit
        self._walk_limit = walk_limit
        self._device_tlbs = frozenset(device_tlbs)
        self._interrupts = interrupts
        self._past = PastWalks(engine_of, registers, self.memory, policy, walk_limit)
        self._companions = Companions(self.memory, self._past.present_walk, policy, sources)
        self._ways = Ways(self._past, self._companions, policy, self.memory, walk_limit)
        self.reset()

    @property
    def registers(self) -> RegistersT:
        """As they are now."""
        return self._past.registers

    @property
    def engine(self) -> Engine[Any, Any]:
        """The engine over present registers and memory: what is so without caches."""
        return self._past.engine

    def reset(self) -> None:
        """Caches are empty: nothing is stale. A reset does that, or turning the unit on for the first time."""
        self.memory.forget(self.memory.tick())
        self.memory.lost = 0
        self._horizon = Horizon(self._policy.everything, self._device_tlbs, interrupts=self._interrupts)
        self._past.begin()
        self._begin_companions()

    def set_registers(self, registers: RegistersT) -> None:
        """The registers that matter to translation have changed.

        What the change drops by itself is dropped (`CachePolicy.implied`). A register that is written with the value
        that it has is no change: give `invalidate` what that drops.
        """
        if registers == self.registers:
            return
        implied = self._policy.implied(self.registers, registers)
        if not self._past.set_registers(registers):
            self._lose()
        self._begin_companions()
        self.invalidate(implied)

    def invalidate(self, invalidations: Iterable[Invalidation], moment: int | None = None) -> None:
        """What a command drops has been dropped: the driver has seen that the command is complete.

        Args:
            invalidations: of the command.
            moment: of `memory` at which they may have been done, where that is not known better than that it was not
                earlier: what was brought in since may stay. Not before that of another one that is given earlier.
        """
        invalidations = tuple(invalidations)
        if not invalidations:
            return
        self._ways.begin()
        moment = self.memory.tick() if moment is None else moment
        # Without a past there is nothing that an invalidation could end.
        if not self.memory.is_empty or self._past.registers_changed:
            if len(self._past.log) >= self._history_limit:
                self._lose()
            for invalidation in invalidations:
                self._past.log.add(moment, invalidation)
        if self._horizon.advance(moment, invalidations):
            self._forget(self._horizon.moment)

    def outcomes(self, access: Access) -> tuple[Outcome, ...]:
        """Every outcome that the access may have, with no `writes`: first the present one, which needs no cache.

        Raises:
            TooManyWalks: there are more than can be tried.
            AccessCrossesPage, NotModelled: as the engine does.
        """
        outcome = self._ways.only_outcome(access)
        if outcome is not None:
            return (outcome,)
        present, *others = self._ways.find(access)
        return _each_once(present.outcome, (way.outcome for way in others if holds_now(way.moments)))

    def allowed(self, access: Access) -> frozenset[Outcome]:
        """The same as a set."""
        return frozenset(self.outcomes(access))

    def judge(self, access: Access, seen: Outcome) -> Verdict:
        """Whether what was seen of an access is allowed; the verdict is true in a condition if it is.

        Costs hardly more than a translation where the present outcome was seen.

        Raises:
            AccessCrossesPage, NotModelled: as the engine does.
        """
        self._companions.meet(access)
        seen = without_writes(seen)
        if self._same(seen, without_writes(self._past.engine.translate(access))):
            return ALLOWED
        try:
            ways = self._ways.find(access)
        except TooManyWalks as error:
            return Undecided(access, seen, error.message)
        possible: dict[Outcome, Possible] = {}
        for way in ways:
            if holds_now(way.moments) and way.outcome not in possible:
                possible[way.outcome] = Possible(way.outcome, stale_parts(way.walk), way.requester)
        for outcome, how in possible.items():
            if self._same(seen, outcome):
                return Allowed(how)
        return NotAllowed(access, seen, tuple(possible.values()), self._why_gone(seen, ways))

    def dropped_by(self, access: Access) -> Sequence[Invalidation]:
        """The invalidations that have dropped the last translation of an access that caches may not keep any more.

        Returns:
            In their order; nothing where there was no such translation, or it is forgotten.

        Raises:
            TooManyWalks: there are more ways than can be tried.
            AccessCrossesPage, NotModelled: as the engine does.
        """
        if self._ways.only_outcome(access) is not None:
            return ()
        ended = [way for way in self._ways.find(access) if way.moments and not holds_now(way.moments)]
        ended = [way for way in ended if isinstance(way.outcome, Translated)]
        if not ended:
            return ()
        latest = max(ended, key=lambda way: last_end(way.moments))
        kept_as = [entry for step in latest.walk.steps for entry in step.kept_as]
        return self._past.log.since(last_end(latest.moments), kept_as)

    def device_may_hold(self, access: Access) -> frozenset[Translated]:
        """The translations that the requester's device TLB may have for an access (ATS).

        They are those that the IOMMU may have given since the device TLB was last told to drop them: tables and caches
        of the IOMMU do not matter any more. An access of the device goes to one of them, or is what `allowed` says.

        Raises:
            TooManyWalks: there are more than can be tried.
            SpecError: the requester is none of `device_tlbs`.
        """
        if (access.requester, access.pasid) not in self._device_tlbs:
            raise SpecError(
                f"the requester of {access} was not said to have a device TLB",
                hint="name it in device_tlbs, so that what it may hold is remembered",
            )
        request = replace(access, address_type=AddressType.TRANSLATION_REQUEST)
        held_now = set()
        for way in self._ways.find(request, also_while_off=True):
            outcome = way.outcome
            if isinstance(outcome, Translated):
                first = access.iova & -outcome.size
                entry = CachedEntry(
                    kind=EntryKind.DEVICE_TLB,
                    requester=access.requester,
                    space=access.pasid,
                    first=first,
                    last=first + outcome.size - 1,
                )
                if holds_now(held(way.moments, self._past.log.times(entry))):
                    held_now.add(outcome)
        return frozenset(held_now)

    def interrupts(self, write: MsiWrite) -> tuple[MsiOutcome, ...]:
        """Everything that may become of a write to the interrupt address range: first what needs no cache.

        Raises:
            TooManyWalks: there are more than can be tried.
            SpecError: the model was not made with `interrupts`; or as `remap_msi` does.
        """
        if not self._interrupts:
            raise SpecError("this model keeps no history for interrupts", hint="make it with interrupts=True")
        if len(self._past.interrupt_roots.all) == 1 and not self.memory.lost:
            outcome = self._past.present_interrupt(write)
            if outcome is not None:
                return (outcome,)

        def explain(engine: _InterruptEngine) -> Explained[MsiOutcome]:
            return engine.explain_msi(write)

        walks = list(self._past.walks(self._past.interrupt_roots, explain, Budget(self._walk_limit)))
        present, *others = walks
        if not present.cached.steps:
            return (present.outcome,)
        lookups = Lookups([each.cached for each in walks])
        return _each_once(present.outcome, (each.outcome for each in others if holds_now(lookups.find(each.cached))))

    def _begin_companions(self) -> None:
        self._companions.begin(one_root=len(self._past.roots.all) == 1)
        self._ways.begin()

    def _lose(self) -> None:
        """There is too much to remember: nothing is said of caches before everything has been invalidated."""
        self.memory.lose()
        self._past.begin()
        self._begin_companions()

    def _forget(self, before: int) -> None:
        """Let go of everything that ended before a moment: no cache can have it."""
        self.memory.forget(before)
        if self.memory.lost <= before:
            self.memory.lost = 0
        had_one_root = len(self._past.roots.all) == 1
        self._past.forget(before)
        if had_one_root:
            self._companions.begin_if_changed()
        else:
            self._begin_companions()

    def _why_gone(self, seen: Outcome, ways: Iterable[Way]) -> str:
        """When an outcome that is not allowed any more was the right one, and what ended it."""
        before = [way for way in ways if way.moments and self._same(seen, way.outcome)]
        if not before:
            return ""
        latest = max(before, key=lambda way: last_end(way.moments))
        end = last_end(latest.moments)
        until = max((stale.until for stale in stale_parts(latest.walk)), default=end)
        dropped = self._past.log.at(end, (entry for step in latest.walk.steps for entry in step.kept_as))
        if dropped is None:
            return f"it was right until change {end}, and caches may not keep it"
        return f"it was right until change {until}; change {end} dropped it: {describe_invalidation(dropped)}"


def _each_once(present: ResultT, others: Iterable[ResultT]) -> tuple[ResultT, ...]:
    return tuple(dict.fromkeys((present, *others)))
