"""In which ways an access can have gone: by present and past tables, and by what others have brought into caches.

Each way is a walk of the engine (`past_walks`) with the moments at which a lookup can have given what it came to
(`lookups`). Other sources whose cached entries have the same tags are asked for theirs (`companions`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeAlias, TypeVar

from harness.model.access import Access, Attributes, Fault, Outcome, Translated, without_writes
from harness.model.caches.cached_walk import CachedWalk
from harness.model.caches.companions import Companions, Relation, Source
from harness.model.caches.history import HistoryMemory, Read
from harness.model.caches.kept_answers import KeptAnswers
from harness.model.caches.lookups import Lookups, Way
from harness.model.caches.past_walks import Budget, Explained, PastWalks
from harness.model.caches.policy import CachePolicy
from harness.model.engine import Engine

__all__ = ["Ways"]

RegistersT = TypeVar("RegistersT")

_MOST_FOUND = 1024  # accesses whose ways are kept

_Question: TypeAlias = tuple[Access, Sequence[Source], bool]
_Content: TypeAlias = tuple[int, int, bytes]
"""Address and size of a range of memory, and what it holds."""


class Ways(Generic[RegistersT]):
    """Finds them.

    Args:
        past: the walks that can have been.
        companions: sources that may share cached entries.
        policy: what the architecture allows.
        memory: whose history it is.
        walk_limit: walks that are tried for one access.
    """

    def __init__(
        self,
        past: PastWalks[RegistersT],
        companions: Companions,
        policy: CachePolicy[RegistersT],
        memory: HistoryMemory,
        walk_limit: int,
    ) -> None:
        self._past = past
        self._companions = companions
        self._policy = policy
        self._memory = memory
        self._walk_limit = walk_limit
        # Of sources and pages, with the registers of then: whether they have nothing global, and what a walk reads.
        self._globals: KeptAnswers[bool] = KeptAnswers(memory)
        self._reads: KeptAnswers[tuple[Read, ...]] = KeptAnswers(memory)
        self._kept_with: RegistersT | None = None
        # What `find` has found, with all that was in memory where it looked; nothing else has changed since then.
        self._found: dict[_Question, tuple[list[Way], list[_Content]]] = {}
        self._found_at = 0

    def begin(self) -> None:
        """Something else than memory has changed: registers, what was dropped, or what is remembered."""
        self._found.clear()

    def only_outcome(self, access: Access) -> Outcome | None:
        """The present outcome, where nothing that the access could find has a past; None where something has.

        Most accesses are such ones, so this is the way that has to be fast.
        """
        if len(self._past.roots.all) > 1 or self._memory.lost:
            return None
        outcome: Outcome | None
        if self._memory.is_empty:
            outcome = self._past.engine.translate(access)
            others = self._companions.known.get((access.requester, access.pasid))  # as a rule it is there
        else:
            outcome = self._past.present(access)
            if outcome is None:
                return None
            others = None
        translates = isinstance(outcome, Translated)
        if others is None or (translates and self._companions.untagged):
            others = self._companions.find(access, translates=translates)
        bare = without_writes(outcome)
        if others and not all(self._adds_nothing(access, bare, other) for other in others):
            return None
        return bare

    def _that_add(self, access: Access, others: Sequence[Source]) -> Sequence[Source]:
        """Those of its companions that may have brought in something else for an access than its present outcome."""
        if len(self._past.roots.all) > 1 or self._memory.lost:
            return others
        present = without_writes(self._past.engine.translate(access))
        return tuple(other for other in others if not self._adds_nothing(access, present, other))

    def find(self, access: Access, *, also_while_off: bool = False) -> list[Way]:
        """Every way in which the access can have gone, the present one first, and when a lookup of it can give that.

        They are kept until something changes: whoever has seen an outcome asks again what else may be.

        Args:
            access: what is asked.
            also_while_off: give those of before as well where the present registers use no table, and so no cache.

        Raises:
            TooManyWalks: there are more than can be tried.
        """
        others = self._that_add(access, self._companions.find(access))
        memory = self._memory
        if self._found_at != memory.now:
            self._found.clear()
            self._found_at = memory.now
        question = access, others, also_while_off
        known = self._found.get(question)
        if known is not None and all(memory.read(at, size) == data for at, size, data in known[1]):
            return known[0]
        if len(self._found) >= _MOST_FOUND:
            self._found.clear()
        self._past.met.clear()
        ways = self._find(access, others, also_while_off=also_while_off)
        self._found[question] = ways, [(at, size, memory.read(at, size)) for at, size in self._past.met]
        return ways

    def _find(self, access: Access, others: Sequence[Source], *, also_while_off: bool) -> list[Way]:
        """The same, made anew."""
        budget = Budget(self._walk_limit)
        own = list(self._walked(access, access, budget))
        present = own[0]
        if not present.walk.steps and not also_while_off:
            # Nothing but registers was looked at, and no cache either.
            return [present]
        lookups = Lookups([way.walk for way in own], self._probes(access, own, budget))
        foreign: list[Way] = []
        for other in others:
            foreign += self._walked(_made_by(other, access), access, budget)
        if self._policy.found_by_requester:
            # Of others there is nothing to find but tables.
            return [
                *(lookups.take_over(way, None) for way in own),
                *(lookups.take_over(way, lookups.space) for way in foreign if way.walk.last_table is not None),
            ]
        shared = (way for way in foreign if way.walk.tags is not None and way.walk.brings_pages)
        return [way._replace(moments=lookups.find(way.walk)) for way in (*own, *shared)]

    def _adds_nothing(self, access: Access, outcome: Outcome, other: Source) -> bool:
        """Whether nothing that another source has brought in gives an access anything but its present outcome.

        Only where neither can find other entries of its device than the present ones, nor the other source past tables.
        """
        relation = self._companions.relation((access.requester, access.pasid), other)
        if relation is Relation.OPEN or self._policy.found_by_requester:
            return False
        if relation is Relation.OTHER_SPACE:
            return self._adds_nothing_global(access, other)
        question = self._question_of_page(access, other)
        reads = self._reads.find(question)
        if reads is None:
            theirs = self._past.present(_made_by(other, access))
            if theirs is None:
                return False
            reads = self._past.present_reads
            self._reads.keep(question, reads, reads)
            if not isinstance(theirs, Fault):
                return without_writes(theirs) == outcome
        # What a walk reads depends on the page alone: so this is what theirs would come to, by the access's name.
        return without_writes(self._past.happens_with(access, reads)) == outcome

    def _question_of_page(self, access: Access, other: Source) -> tuple[object, ...]:
        """What is asked of another source, for all accesses to a page; answers with other registers are let go."""
        registers = self._past.registers
        if self._kept_with is not registers:
            self._kept_with = registers
            self._globals.clear()
            self._reads.clear()
        page = access.iova // self._past.engine.granule
        return other, page, access.kind, access.privileged, access.address_type

    def _adds_nothing_global(self, access: Access, other: Source) -> bool:
        """Whether another source has brought in nothing global, and nothing that has a past, for the page of an access.

        It is kept: devices come to the same pages again and again.
        """
        question = self._question_of_page(access, other)
        known = self._globals.find(question)
        if known is not None:
            return known
        made = _made_by(other, access)
        theirs = self._past.present(made)
        if theirs is None:
            return False
        reads = self._past.present_reads
        if isinstance(theirs, Translated):
            adds_nothing = Attributes.GLOBAL not in theirs.attributes
        elif isinstance(theirs, Fault) and self._policy.faults_tell_global:
            adds_nothing = not theirs.is_global
        else:
            # It may have come from a page that is global, and does not allow the access.
            adds_nothing = not self._past.present_walk(made).is_global
        self._globals.keep(question, adds_nothing, reads)
        return adds_nothing

    def _probes(self, access: Access, own: Iterable[Way], budget: Budget) -> list[CachedWalk]:
        """Walks that tell the tags of those that ended before any page table: at an address beyond the width, say.

        A cache may be asked with the same tags before the width is looked at.
        """
        if not any(way.walk.tags is None and _began_to_translate(way.outcome) for way in own):
            return []
        probe = replace(access, iova=0)
        return [way.walk for way in self._walked(probe, probe, budget)]

    def _walked(self, made: Access, access: Access, budget: Budget) -> Iterator[Way]:
        """The ways in which one access can have gone, and what each would give to another that finds it in a cache.

        Args:
            made: that the walks are for.
            access: that finds their results.
            budget: of walks.
        """

        def explain(engine: Engine[Any, Any]) -> Explained[Outcome]:
            explanation = engine.explain(made)
            return explanation.steps, explanation.outcome

        for walked in self._past.walks(self._past.roots, explain, budget):
            outcome = walked.outcome if made == access else self._past.happens_to(access, walked)
            cached = walked.cached
            yield Way(without_writes(outcome), cached.result, cached, made.requester, walked.taken_by)


def _made_by(source: Source, access: Access) -> Access:
    """The same access of another source."""
    requester, pasid = source
    return Access(
        requester=requester,
        iova=access.iova,
        length=access.length,
        kind=access.kind,
        pasid=pasid,
        privileged=access.privileged,
        address_type=access.address_type,
    )


def _began_to_translate(outcome: Outcome) -> bool:
    """Whether the entries of the device were good, though the translation may have failed."""
    return isinstance(outcome, Translated) or (isinstance(outcome, Fault) and outcome.stage is not None)
