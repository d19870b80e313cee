"""What a requester finds in a cache: the results of its own walks, and of those of others that have the same tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from harness.model.access import Outcome
from harness.model.caches.cached_walk import CachedWalk, Taker
from harness.model.caches.moments import NEVER, Moments, both, either
from harness.model.caches.traces import Tags
from harness.model.invalidation import CachedEntry

__all__ = ["Lookups", "Way"]


class Way(NamedTuple):
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


class Lookups:
    """The lookups of one requester: under which tags it looks, and when, as the entries of its device have it.

    Args:
        own: every way in which its access can have gone.
        probes: walks that tell the tags of those of `own` that ended before any page table.

    Attributes:
        space: that its translations are tagged with now, or were last; None where they are not.
    """

    def __init__(self, own: Sequence[CachedWalk], probes: Sequence[CachedWalk] = ()) -> None:
        tags_of = {walk.signature: walk.tags for walk in (*own, *probes) if walk.tags is not None}
        looked: dict[Tags, list[Moments]] = {}
        for walk in own:
            tags = walk.sought or tags_of.get(walk.signature)
            if tags is not None:
                looked.setdefault(tags, []).append(walk.device)
        self._looked = {tags: either(sets) for tags, sets in looked.items()}
        self.space = next((tags.space for tags in self._looked if tags.space is not None), None)

    def find(self, walk: CachedWalk) -> Moments:
        """When they can have found the result of a walk."""
        tags = walk.tags
        if tags is None:
            return walk.result
        if walk.is_global:
            same_domain = either(sets for looked, sets in self._looked.items() if looked[:2] == tags[:2])
            return both(walk.result, same_domain)
        return both(walk.result, self._looked.get(tags, NEVER))

    def take_over(self, way: Way, space: int | None) -> Way:
        """The same way, where the requester of these lookups goes on from the last table, if there is one.

        Args:
            way: of the requester itself, or of another.
            space: that the requester keeps its translation with; None for that of the walk.
        """
        table = way.walk.last_table
        if table is None:
            return way
        walk = way.taken_by(Taker(self._find_table(table), space))
        return way._replace(walk=walk, moments=walk.result)

    def _find_table(self, table: CachedEntry) -> Moments:
        """When they can have found the entry that leads to a table."""
        return either(
            sets
            for looked, sets in self._looked.items()
            if looked.domain == table.domain and table.space in (None, looked.space)
        )
