"""Which requesters may bring something into a cache for each other: those whose translations have the same tags.

What is cached of page tables is found by its tags (a domain id, and the id of an address space), not by who has brought
it in; so are translations, but of VT-d (`CachePolicy.found_by_requester`). Two requesters with the same tags should
have the same tables; if they have not, each may get what is the other's.

To ask every requester for every access would be slow, so a profile is kept of each: its tags, and the values of the
entries that they come from. It holds until one of these entries is written. Of those with equal profiles one is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple, TypeAlias

from harness.model.access import Access, AccessKind
from harness.model.caches.cached_walk import CachedWalk
from harness.model.caches.history import HistoryMemory
from harness.model.caches.policy import CachePolicy
from harness.model.caches.traces import Tags, is_of_device

__all__ = ["Companions", "Relation", "Source"]

Source: TypeAlias = tuple[int, int | None]
"""A requester, with a PASID or None."""


class Relation(Enum):
    """How two sources are related of which `find` gives one for the other."""

    SAME_TAGS = auto()
    OTHER_SPACE = auto()
    """Of one domain: what is global is found, and nothing else."""
    OPEN = auto()
    """It may change with what caches still know."""


@dataclass(frozen=True, slots=True)
class _Profile:
    """What the tables say now of a source.

    Attributes:
        tags: of its translations; None where it has none.
        signature: values of its entries: with the same ones, sources have the same tables.
        brings_pages: its walks may bring something into a cache.
        settled: no cache can know anything else of its device entries.
    """

    tags: Tags | None
    signature: tuple[int | None, ...]
    brings_pages: bool
    settled: bool


class _Overview(NamedTuple):
    """All sources, as the tables are now.

    Attributes:
        kinds: of those that translate and are settled one of each kind, which is enough of those with the same tables,
            and its tags.
        unsettled: the others that may have something in a cache.
    """

    kinds: dict[object, tuple[Source, Tags]]
    unsettled: list[Source]


class Companions:
    """Knows the sources, and what the tables say of each, until that changes.

    Args:
        memory: what the tables are in; the entries of the sources are watched.
        walk: the present walk of an access.
        policy: of the architecture.
        sources: that are known from the start.
    """

    def __init__(
        self,
        memory: HistoryMemory,
        walk: Callable[[Access], CachedWalk],
        policy: CachePolicy[Any],
        sources: Iterable[Source],
    ) -> None:
        self._memory = memory
        self._walk = walk
        # What is global serves every address space of a domain, and so does a table that has none for a tag.
        self._any_space = policy.shares_global or policy.found_by_requester
        # Where tables alone are shared, sources with the same entries have nothing for each other in any space.
        self._tables_only = policy.found_by_requester
        # Of each source an access: the profile is that of its walk.
        self._sources = {
            (requester, pasid): Access(requester=requester, pasid=pasid, iova=0, length=1, kind=AccessKind.READ)
            for requester, pasid in sources
        }
        self._profiles: dict[Source, _Profile] = {}
        self._overview: _Overview | None = None
        self._changes = 0
        self._one_root = True
        self.known: dict[Source, tuple[Source, ...]] = {}
        """What `find` has found, for as long as it holds while no memory has a past."""
        self.untagged: set[Source] = set()
        """Those that have not been seen to translate yet: an access that does tells more of them."""

    def begin(self, *, one_root: bool) -> None:
        """Look at everything again.

        Args:
            one_root: caches know of no other topmost table than the present one.
        """
        self._one_root = one_root
        self._profiles.clear()
        self._overview = None
        self.known.clear()
        self.untagged.clear()
        self._memory.watched.clear()
        self._changes = self._memory.watched_changes

    def begin_if_changed(self) -> None:
        """History was let go: what had changed is settled now."""
        changed = self._memory.watched_changes != self._changes
        if changed or not all(profile.settled for profile in self._profiles.values()):
            self.begin(one_root=self._one_root)

    def meet(self, access: Access) -> None:
        """The source of an access is known from now on."""
        source = access.requester, access.pasid
        if source not in self._sources:
            self._sources[source] = access
            self._overview = None
            self.known.clear()

    def find(self, access: Access, *, translates: bool = True) -> tuple[Source, ...]:
        """The other sources that may have brought in what an access finds in a cache.

        Args:
            access: whose.
            translates: it may tell more of its source than accesses before, since it is not known to be blocked.
        """
        if self._memory.watched_changes != self._changes:
            self.begin(one_root=self._one_root)
        source = access.requester, access.pasid
        if source not in self._sources or (translates and source in self.untagged):
            self._sources[source] = access
            self._profiles.pop(source, None)
            self._overview = None
            self.untagged.discard(source)
            self.known.clear()
        known = self.known.get(source)
        if known is not None:
            return known
        own = self._profile(source)
        if own.tags is None and own.settled:
            self.untagged.add(source)
        overview = self._overview or self._look_over()
        found = [other for other in overview.unsettled if other != source]
        if own.settled:
            own_kind = self._kind(own)
            for kind, (other, tags) in overview.kinds.items():
                if kind != own_kind and self._alike(own.tags, tags):
                    found.append(other)
        else:
            found += (other for other, _ in overview.kinds.values())
        companions = self.known[source] = tuple(found)
        return companions

    def relation(self, source: Source, other: Source) -> Relation:
        """How what is found for one of two sources by its tags is the other's too, as the tables are now."""
        own, others = self._profile(source), self._profile(other)
        if not own.settled or not others.settled or own.tags is None or others.tags is None:
            return Relation.OPEN
        return Relation.SAME_TAGS if own.tags == others.tags else Relation.OTHER_SPACE

    def _look_over(self) -> _Overview:
        """Make the overview; it holds until a profile changes."""
        kinds: dict[object, tuple[Source, Tags]] = {}
        unsettled: list[Source] = []
        for source in self._sources:
            profile = self._profile(source)
            if not profile.settled:
                unsettled.append(source)
            elif profile.tags is not None and profile.brings_pages:
                kinds.setdefault(self._kind(profile), (source, profile.tags))
        self._overview = _Overview(kinds, unsettled)
        return self._overview

    def _kind(self, profile: _Profile) -> tuple[object, ...]:
        """What sources have in common that bring the same into caches."""
        tags = profile.tags
        return tags if tags is None or not self._tables_only else tags[:2], profile.signature

    def _alike(self, one: Tags | None, other: Tags) -> bool:
        """Whether what is brought in under some tags may be found under others."""
        return one is not None and one[:2] == other[:2] and (self._any_space or one.space == other.space)

    def _profile(self, source: Source) -> _Profile:
        """The profile of a source; from now on the entries that it comes from are watched."""
        profile = self._profiles.get(source)
        if profile is not None:
            return profile
        walk = self._walk(self._sources[source])
        device = [number for number, entry in enumerate(walk.steps) if is_of_device(entry.step.cached)]
        settled = self._one_root
        for entry in walk.steps[: device[-1] + 1 if device else len(walk.steps)]:
            address, size = entry.step.address, entry.step.size
            if address is not None:
                self._memory.watched.update(range(address & ~7, address + size, 8))
                settled = settled and not self._memory.changed(address, size)
        # What leads to page tables is the last of these entries: its value says which they are, whoever has it.
        signature = walk.signature[-1:] if self._tables_only else walk.signature
        profile = self._profiles[source] = _Profile(walk.sought, signature, walk.brings_pages, settled)
        return profile
