"""What an architecture may say of its caches: the questions, each with its attribute. The answers are in `policies`."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from harness.model.access import Fault
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind, Invalidation

__all__ = ["CachePolicy", "nothing_implied"]

RegistersT = TypeVar("RegistersT")


def nothing_implied(old: object, new: object) -> tuple[Invalidation, ...]:
    """Changing registers drops nothing by itself."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy(Generic[RegistersT]):
    """What an architecture allows its caches, beside the tags that its walks name.

    Attributes:
        name: of the architecture.
        source: the sections that say so.
        root: what of the registers a cached entry depends on (the address of the topmost table), or None while
            nothing is translated and so nothing brought in.
        keeps: whether a fault may be cached, given the last entry that was read before it. One that was made from
            a present, good entry without the right that was needed always may.
        everything: what there is to invalidate, as the tags that all of it has, in the order in which a walk uses it:
            the history of memory is let go after invalidations of all that in this order.
        joined: kinds of which entries with the same tags, one after the other, are cached as one and never apart.
        stage_2_drops_combined: an invalidation of a stage 2 leaf drops what stage 1 found by way of it.
        combined_only: of two stages an entry of the first is kept together with what the second has made of its output,
            never apart from it, and of the second nothing but what leads to tables.
        stage_2_root: kind of the entry that names the root of stage 2.
        implied: what a change of the registers drops by itself.
        shares_global: a translation that is marked global serves every address space of its domain.
        faults_tell_global: a fault says whether it comes of such a one, which is cached and does not allow the access,
            or leads to a fault of stage 2 (`Fault.is_global`).
        found_by_requester: a translation, among them one that passes through, is found by the requester and PASID
            that brought it in, and by nothing else: its domain and space are there to invalidate it.
        interrupt_root: as `root`, for interrupt tables; None while interrupts are not remapped.
    """

    name: str
    source: str
    root: Callable[[RegistersT], Hashable | None]
    keeps: Callable[[RegistersT, Fault, Step], bool]
    everything: tuple[CachedEntry, ...]
    joined: frozenset[EntryKind] = frozenset()
    stage_2_drops_combined: bool = True
    combined_only: bool = False
    stage_2_root: EntryKind = EntryKind.DEVICE
    shares_global: bool = False
    faults_tell_global: bool = False
    found_by_requester: bool = False
    implied: Callable[[RegistersT, RegistersT], tuple[Invalidation, ...]] = nothing_implied
    interrupt_root: Callable[[RegistersT], Hashable | None] = lambda registers: None
