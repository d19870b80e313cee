"""Which results an IOMMU may give, when it has caches: the present one, and those that no invalidation has ended yet.

`CacheModel` stands between the tables and whoever judges an implementation:

>>> model = CacheModel(VtdEngine, registers, memory, VTD_LEGACY)                                     # doctest: +SKIP
>>> model.memory.write_u64(entry, 0)                        # what the driver does, goes through here  # doctest: +SKIP
>>> model.invalidate(engine.submit(descriptor).invalidations)                                        # doctest: +SKIP
>>> model.judge(access, seen)                                     # Allowed, NotAllowed or Undecided  # doctest: +SKIP

No cache is simulated. The walk of the engine is run over the history of memory (`history`) with every answer that its
reads could get, and each result is allowed that caches can have kept until now (`cached_walk`): cached entries of
tables, walk caches and whole translations alike. What is cached serves a lookup with the same tags, so that another
requester with the same domain may have brought it in; of VT-d that is true of tables alone, and not of translations.
What the tags are the walk says (`Step.cached`), what else an architecture allows its `CachePolicy` does (`policies`).

What is compared: accessed and dirty flags that a walk would set are left out of the outcomes (`writes` is empty): a
cached translation sets none.

What is not known: requesters that were never asked about, other than those given at the start; and whatever was written
past `CacheModel.memory`.

Bounds: history is let go once everything has been invalidated, in the order of `CachePolicy.everything`, or with
`reset`. A driver that never does that fills it: past `history_limit` values or invalidations, or past `walk_limit`
walks for one access, the answer is `Undecided` where the outcome is not the present one, and `allowed` raises
`TooManyWalks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import eq
from typing import Any, Generic, NamedTuple, TypeVar

from harness.errors import SpecError
from harness.model.access import Access, AddressType, Bypassed, Fault, Outcome, Translated
from harness.model.caches.cached_walk import CachedWalk, CachePolicy, Tags, Taker, describe_invalidation
from harness.model.caches.companions import Companions, Source
from harness.model.caches.history import HistoryMemory
from harness.model.caches.horizon import Horizon
from harness.model.caches.moments import NEVER, Moments, both, either, held, holds_now, last_end
from harness.model.caches.past_walks import Explained, PastWalks
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
from harness.model.engine import Engine, MsiOutcome, MsiWrite
from harness.model.invalidation import CachedEntry, EntryKind, Invalidation
from harness.model.memory import Memory, WritableMemory

__all__ = ["CacheModel"]

RegistersT = TypeVar("RegistersT")


class _Found(NamedTuple):
    """A way in which an access can have gone.

    Attributes:
        outcome: for the access, without the flags that were set.
        moments: when a lookup of the requester could have had it.
        walk: how it came about.
        requester: who made the walk.
        taken_by: the walk, where another goes on from its last table.
    """

    outcome: Outcome
    moments: Moments
    walk: CachedWalk
    requester: int
    taken_by: Callable[[Taker], CachedWalk]

    def by(self, lookups: _Lookups, space: int | None) -> _Found:
        """The same, where the requester of the lookups goes on from the last table, if there is one."""
        table = self.walk.last_table
        if table is None:
            return self
        walk = self.taken_by(Taker(lookups.find_table(table), space))
        return self._replace(walk=walk, moments=walk.result)


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
        interrupts: whether `allowed_interrupts` will be asked; history is then kept for interrupt entries as well.
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
        self._companions = Companions(
            self.memory,
            self._past.present_walk,
            policy.shares_global or policy.found_by_requester,
            policy.found_by_requester,
            sources,
        )
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

    def invalidate(self, invalidations: Iterable[Invalidation]) -> None:
        """What a command drops has been dropped: the driver has seen that the command is complete."""
        invalidations = tuple(invalidations)
        if not invalidations:
            return
        moment = self.memory.tick()
        # Without a past there is nothing that an invalidation could end.
        if not self.memory.is_empty or self._past.registers_changed:
            if len(self._past.log) >= self._history_limit:
                self._lose()
            for invalidation in invalidations:
                self._past.log.add(moment, invalidation)
        if self._horizon.advance(moment, invalidations):
            self._forget(self._horizon.moment)

    def allowed(self, access: Access) -> frozenset[Outcome]:
        """Every outcome that the access may have, with no `writes`.

        Raises:
            TooManyWalks: there are more than can be tried.
            AccessCrossesPage, NotModelled: as the engine does.
        """
        outcome = self._only_outcome(access)
        if outcome is not None:
            return frozenset((outcome,))
        return frozenset(found.outcome for found in self._walks(access) if holds_now(found.moments))

    def judge(self, access: Access, seen: Outcome) -> Verdict:
        """Whether what was seen of an access is allowed; the verdict is true in a condition if it is.

        Costs hardly more than a translation where the present outcome was seen.

        Raises:
            AccessCrossesPage, NotModelled: as the engine does.
        """
        self._companions.meet(access)
        seen = _bare(seen)
        if self._same(seen, _bare(self._past.engine.translate(access))):
            return ALLOWED
        try:
            walks = self._walks(access)
        except TooManyWalks as error:
            return Undecided(access, seen, error.message)
        possible: dict[Outcome, Possible] = {}
        for found in walks:
            if holds_now(found.moments) and found.outcome not in possible:
                possible[found.outcome] = Possible(found.outcome, stale_parts(found.walk), found.requester)
        for outcome, how in possible.items():
            if self._same(seen, outcome):
                return Allowed(how)
        return NotAllowed(access, seen, tuple(possible.values()), self._why_gone(seen, walks))

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
        for found in self._walks(request, also_while_off=True):
            outcome = found.outcome
            if isinstance(outcome, Translated):
                first = access.iova & -outcome.size
                entry = CachedEntry(
                    kind=EntryKind.DEVICE_TLB,
                    requester=access.requester,
                    space=access.pasid,
                    first=first,
                    last=first + outcome.size - 1,
                )
                if holds_now(held(found.moments, self._past.log.times(entry))):
                    held_now.add(outcome)
        return frozenset(held_now)

    def allowed_interrupts(self, write: MsiWrite) -> frozenset[MsiOutcome]:
        """Everything that may become of a write to the interrupt address range.

        Raises:
            TooManyWalks: there are more than can be tried.
            SpecError: the model was not made with `interrupts`; or as `remap_msi` does.
        """
        if not self._interrupts:
            raise SpecError("this model keeps no history for interrupts", hint="make it with interrupts=True")
        plain: Any = self.engine
        if self.memory.is_empty and len(self._past.interrupt_roots.all) == 1 and not self.memory.lost:
            return frozenset((plain.remap_msi(write),))

        def explain(engine: Any) -> Explained[MsiOutcome]:
            return engine.explain_msi(write)  # type: ignore[no-any-return]

        walks = list(self._past.walks(self._past.interrupt_roots, explain, [self._walk_limit]))
        if not walks[0].walk.steps:
            return frozenset((walks[0].outcome,))
        lookups = _Lookups([each.walk for each in walks])
        return frozenset(each.outcome for each in walks if holds_now(lookups.hit(each.walk)))

    def _only_outcome(self, access: Access) -> Outcome | None:
        """The present outcome, where nothing that the access could find has a past; None where something has."""
        if len(self._past.roots.all) > 1 or self.memory.lost:
            return None
        outcome: Outcome | None
        if self.memory.is_empty:
            outcome = self._past.engine.translate(access)
            others = self._companions.known.get((access.requester, access.pasid))
        else:
            outcome = self._past.present(access)
            if outcome is None:
                return None
            others = None
        if others is None or (self._companions.untagged and isinstance(outcome, Translated)):
            others = self._companions.find(access)
        return None if others else _bare(outcome)

    def _walks(self, access: Access, *, also_while_off: bool = False) -> list[_Found]:
        """Every way in which the access can have gone, with when a lookup of it can give that.

        Args:
            access: what is asked.
            also_while_off: give those of before as well where the present registers use no table, and so no cache.

        Raises:
            TooManyWalks: there are more than can be tried.
        """
        others = self._companions.find(access)
        left = [self._walk_limit]
        own = list(self._accesses(access, access, left))
        first = own[0]
        if not first.walk.steps and not also_while_off:
            # Nothing but registers was looked at, and no cache either.
            return [first]
        lookups = _Lookups([found.walk for found in own], self._probes(access, own, left))
        by_requester = self._policy.found_by_requester
        foreign: list[_Found] = []
        for requester, pasid in others:
            theirs = self._accesses(replace(access, requester=requester, pasid=pasid), access, left)
            foreign += (found for found in theirs if (found.walk.last_table if by_requester else found.walk.tags))
        if by_requester:
            return [
                *(found.by(lookups, None) for found in own),
                *(found.by(lookups, lookups.space) for found in foreign),
            ]
        return [found._replace(moments=lookups.hit(found.walk)) for found in (*own, *foreign)]

    def _probes(self, access: Access, own: Iterable[_Found], left: list[int]) -> list[CachedWalk]:
        """Walks that tell the tags of those that ended before any page table: at an address beyond the width, say.

        A cache may be asked with the same tags before the width is looked at.
        """
        if not any(found.walk.tags is None and _began_to_translate(found.outcome) for found in own):
            return []
        probe = replace(access, iova=0)
        return [found.walk for found in self._accesses(probe, probe, left)]

    def _accesses(self, made: Access, access: Access, left: list[int]) -> Iterator[_Found]:
        """The walks of an access, and what each would give to one that finds it in a cache."""

        def explain(engine: Engine[Any, Any]) -> Explained[Outcome]:
            explanation = engine.explain(made)
            return explanation.steps, explanation.outcome

        for walked in self._past.walks(self._past.roots, explain, left):
            outcome = walked.outcome if made == access else self._past.happens_to(access, walked)
            yield _Found(_bare(outcome), walked.walk.result, walked.walk, made.requester, walked.taken_by)

    def _begin_companions(self) -> None:
        self._companions.begin(one_root=len(self._past.roots.all) == 1)

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

    def _why_gone(self, seen: Outcome, walks: Iterable[_Found]) -> str:
        """When an outcome that is not allowed any more was the right one, and what ended it."""
        before = [found for found in walks if found.moments and self._same(seen, found.outcome)]
        if not before:
            return ""
        found = max(before, key=lambda found: last_end(found.moments))
        end = last_end(found.moments)
        until = max((stale.until for stale in stale_parts(found.walk)), default=end)
        dropped = self._past.log.at(end, (entry for step in found.walk.steps for entry in step.kept_as))
        if dropped is None:
            return f"it was right until change {end}, and caches may not keep it"
        return f"it was right until change {until}; change {end} dropped it: {describe_invalidation(dropped)}"


class _Lookups:
    """What in a cache the lookups of one requester find, and when.

    Attributes:
        space: that its translations are tagged with now, or were last; None where they are not.
    """

    def __init__(self, own: Sequence[CachedWalk], probes: Sequence[CachedWalk] = ()) -> None:
        tags_of = {walk.signature: walk.tags for walk in (*own, *probes) if walk.tags is not None}
        known: dict[Tags, list[Moments]] = {}
        for walk in own:
            tags = walk.tags or tags_of.get(walk.signature)
            if tags is not None:
                known.setdefault(tags, []).append(walk.device)
        self._known = {tags: either(sets) for tags, sets in known.items()}
        self.space = next((tags.space for tags in self._known if tags.space is not None), None)

    def find_table(self, table: CachedEntry) -> Moments:
        """When a lookup can have had the entry that leads to a table."""
        return either(
            sets
            for known, sets in self._known.items()
            if known.domain == table.domain and table.space in (None, known.space)
        )

    def hit(self, walk: CachedWalk) -> Moments:
        """When a lookup can have had the result of a walk."""
        tags = walk.tags
        if tags is None:
            return walk.result
        if walk.is_global:
            same_domain = either(sets for known, sets in self._known.items() if known[:2] == tags[:2])
            return both(walk.result, same_domain)
        return both(walk.result, self._known.get(tags, NEVER))


def _began_to_translate(outcome: Outcome) -> bool:
    """Whether the entries of the device were good, though the translation may have failed."""
    return isinstance(outcome, Translated) or (isinstance(outcome, Fault) and outcome.stage is not None)


def _bare(outcome: Outcome) -> Outcome:
    """The outcome without the flags that the walk sets."""
    if isinstance(outcome, Bypassed) or not outcome.writes:
        return outcome
    bare: Outcome = replace(outcome, writes=())
    return bare
