"""When caches can give the result of a walk: from when its values were in memory, to when they were dropped.

The rule, for each entry of a table that a walk reads, from the top:

    An entry can be brought in at a moment when memory holds it and the way to it is known, from memory or from caches.
    It is then known until the first invalidation that drops it while it can no longer be brought in.

So what is known of an entry stands for the whole way that led to it: of a page-table entry that leads to another table
it is a paging-structure or walk cache, of a leaf it is a translation in an IOTLB. The entries above may be long gone.

Where two stages are walked, an entry of stage 2 is known by its own address alone, and not by what of stage 1 led to
it; and what stage 1 finds stands for the addresses that stage 2 has translated on the way. Whether an invalidation of
stage 2 drops that too is the architecture's to say (`CachePolicy.stage_2_drops_combined`), and so is whether stage 1 is
kept without what stage 2 has made of it (`CachePolicy.combined_only`).

A translation is found by its tags; or, where `CachePolicy.found_by_requester` says so, by the requester and PASID that
brought it in. Tables are found by their tags then all the same: who looks those up goes on from what another walk has
found, and keeps the translation as its own. `evaluate` takes when that was (`Taker`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, TypeVar

from harness.model.access import Bypassed, BypassReason, Fault, format_requester
from harness.model.caches.history import Read
from harness.model.caches.moments import ALWAYS, NEVER, Moments, both, either, held
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind, Invalidation

__all__ = [
    "CachePolicy",
    "CachedWalk",
    "Drop",
    "InvalidationLog",
    "Tags",
    "Taker",
    "WalkedStep",
    "describe_entry",
    "describe_invalidation",
    "evaluate",
    "is_of_device",
    "nothing_implied",
]

RegistersT = TypeVar("RegistersT")
_BEFORE_PAGES = (EntryKind.DEVICE, EntryKind.PROCESS)
_PIECE = 4096  # what a cache keeps of a translation that has no page size of its own
_UNNAMED = Step("something", "no entry of a table")


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
    found_by_requester: bool = False
    implied: Callable[[RegistersT, RegistersT], tuple[Invalidation, ...]] = nothing_implied
    interrupt_root: Callable[[RegistersT], Hashable | None] = lambda registers: None


class Drop(NamedTuple):
    """An invalidation, and when it was."""

    moment: int
    invalidation: Invalidation


class InvalidationLog:
    """The invalidations that were done, and which of them drop an entry."""

    def __init__(self) -> None:
        self._drops: list[Drop] = []
        # Of each entry that was asked about: how many invalidations were looked at, and when it is dropped.
        self._known: dict[CachedEntry, tuple[int, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._drops)

    def add(self, moment: int, invalidation: Invalidation) -> None:
        """One more, not earlier than the others."""
        self._drops.append(Drop(moment, invalidation))

    def forget(self, before: int) -> None:
        """Let go of those before a moment."""
        self._drops = [drop for drop in self._drops if drop.moment >= before]
        self._known.clear()

    def times(self, entry: CachedEntry) -> Sequence[int]:
        """The moments at which an entry is dropped, ascending."""
        seen, times = self._known.get(entry, (0, []))
        if seen < len(self._drops):
            times += [drop.moment for drop in self._drops[seen:] if drop.invalidation.drops(entry)]
            self._known[entry] = (len(self._drops), times)
        return times

    def times_of_any(self, entries: Iterable[CachedEntry]) -> Sequence[int]:
        """The moments at which any of some entries is dropped, ascending."""
        return sorted({moment for entry in entries for moment in self.times(entry)})

    def at(self, moment: int, entries: Iterable[CachedEntry]) -> Invalidation | None:
        """The invalidation that drops one of some entries at a moment."""
        entries = tuple(entries)
        for drop in self._drops:
            if drop.moment == moment and any(drop.invalidation.drops(entry) for entry in entries):
                return drop.invalidation
        return None


class Tags(NamedTuple):
    """What a lookup of a translation, or of an interrupt entry, has to find.

    Attributes:
        requester: where translations are tagged with it.
        domain: likewise.
        space: likewise.
    """

    requester: int | None
    domain: int | None
    space: int | None


class Taker(NamedTuple):
    """A requester that goes on from the last table that a walk has found (`CachePolicy.found_by_requester`).

    Attributes:
        moments: when it looked that table up.
        space: that its own translations are tagged with; None for the one of the walk.
    """

    moments: Moments
    space: int | None


class WalkedStep(NamedTuple):
    """An entry that a walk read.

    Attributes:
        step: what it is.
        in_memory: when it was there.
        known: when it, and the way that led to it, could be had from memory or caches.
        kept_as: every entry of which a drop ends that; empty where it is not cached.
    """

    step: Step
    in_memory: Moments
    known: Moments
    kept_as: tuple[CachedEntry, ...]


@dataclass(slots=True)
class CachedWalk:
    """A walk, and when caches could give its result.

    Attributes:
        start: when the registers said so.
        steps: the entries that it read.
        device: when the entries of the device (and process) were known.
        result: when the result was known, to a lookup with the same tags.
        tags: under which the result is looked up; None where nothing but entries of the device was read.
        is_global: the address space does not matter.
        signature: values of the device's (and process's) entries: walks that agree in them agree in the tags.
        dead_end: number of the last read of the way after which nothing can be known; None where there is none.
        last_table: the last table before the end of the (first) stage, from which others can go on; None without one.
    """

    start: Moments
    steps: list[WalkedStep] = field(default_factory=list)
    device: Moments = NEVER
    result: Moments = NEVER
    tags: Tags | None = None
    is_global: bool = False
    signature: tuple[int | None, ...] = ()
    dead_end: int | None = None
    last_table: CachedEntry | None = None


def evaluate(
    outcome: object,
    steps: Sequence[Step],
    reads: Sequence[Read],
    start: Moments,
    active: Moments,
    log: InvalidationLog,
    policy: CachePolicy[RegistersT],
    registers: RegistersT,
    taker: Taker | None = None,
) -> CachedWalk:
    """When the result of a walk could be had.

    Args:
        outcome: that the walk ended with.
        steps: what it traced.
        reads: what it read. One that no step names is of nothing that is cached: it counts while it is in memory.
        start: when the registers had the value that it starts from.
        active: when walks were made at all; what memory held at other times was not brought in.
        log: what was dropped.
        policy: of the architecture.
        registers: as they were for the walk.
        taker: who takes the walk over at its last table; None for the walk as it is.
    """
    walk = CachedWalk(start)
    fault = outcome if isinstance(outcome, Fault) else None
    entries = _entries(steps, reads)
    pages = [step.cached for step, _, _ in entries if step.cached and step.cached.kind not in _BEFORE_PAGES]
    two_stages = any(entry.stage == 1 for entry in pages)
    two_below = two_stages and any(entry.stage == 2 for entry in pages)
    walk.tags, walk.is_global = _lookup([entry for entry in pages if entry.stage == 1] if two_stages else pages)
    turn = _last_table([step.cached for step, _, _ in entries[:-1]], two_stages)
    if turn is not None:
        walk.last_table = entries[turn][0].cached
    if policy.found_by_requester:
        walk.tags = _with_space_of_process(walk.tags, entries)
    walk.signature = tuple(step.value for step, _, _ in entries if is_of_device(step.cached))
    last_is_kept = fault is None or not entries or policy.keeps(registers, fault, entries[-1][0])

    keep = _Keeper(log, policy.stage_2_drops_combined)
    known = walk.device = below_root = start
    second: Moments | None = None  # what is known of stage 2, on the way to the next entry of stage 1
    owner: CachedEntry | None = None  # the entry of stage 1 whose output stage 2 translates
    for number, (step, there, last_read) in enumerate(entries):
        in_memory = both(there, active)
        entry = step.cached if last_is_kept or number < len(entries) - 1 else None
        if entry is not None and entry.kind in policy.joined and number + 1 < len(entries):
            entry = None if entries[number + 1][0].cached == entry else entry
        if entry is not None and entry.kind is EntryKind.LEAF:
            if two_stages and entry.stage == 2 and policy.combined_only:
                entry = None
            elif taker is not None and taker.space is not None and entry.space is not None:
                entry = replace(entry, space=taker.space)
        # From the last table on, it is the one who takes the walk over that goes on.
        taken = taker.moments if taker is not None and turn is not None and number >= turn else ALWAYS
        # An entry that may not be cached has no tags; where it has ended the walk the fault tells its stage.
        ends_second = second is not None and fault is not None and fault.stage == 2 and number == len(entries) - 1
        if _is_below(step.cached) if step.cached is not None else ends_second:
            second, kept_as = keep(both(below_root if second is None else second, in_memory), entry)
            if number == turn:
                second = both(second, taken)
            now_known = second
        else:
            if second is not None:
                known = both(_combine(walk, keep, both(known, second), owner), taken)
                second = None
            apart = entry is None or entry.stage != 1 or not (two_below and policy.combined_only)
            known, kept_as = keep(both(known, in_memory), entry if apart else None)
            if number == turn:
                known = both(known, taken)
            now_known = known
            owner = entry if entry is not None and entry.stage == 1 else None
            if is_of_device(step.cached):
                walk.device = known
            if step.cached is not None and step.cached.kind in (EntryKind.DEVICE, policy.stage_2_root):
                below_root = known
        walk.steps.append(WalkedStep(step, there, now_known, kept_as))
        if not now_known and walk.dead_end is None:
            walk.dead_end = last_read
    if second is not None:
        known = _combine(walk, keep, both(known, second), owner if last_is_kept else None) if two_stages else second
    if policy.found_by_requester and isinstance(outcome, Bypassed) and outcome.reason is BypassReason.PASS_THROUGH:
        known = _pass_through(walk, known, outcome.address, keep)
    walk.result = known
    return walk


def _combine(walk: CachedWalk, keep: _Keeper, known: Moments, owner: CachedEntry | None) -> Moments:
    """When an entry of stage 1 was known together with what stage 2 has made of its output."""
    known, kept_as = keep(known, owner)
    last = walk.steps[-1]
    kept_as = tuple(dict.fromkeys((*last.kept_as, *kept_as)))
    walk.steps[-1] = last._replace(known=either((last.known, known)), kept_as=kept_as)
    return known


def _pass_through(walk: CachedWalk, known: Moments, address: int, keep: _Keeper) -> Moments:
    """When a translation that leaves the address as it is was known: it is kept as one of stage 2 that maps a page."""
    last = walk.steps[-1] if walk.steps else None
    if last is None or last.step.cached is None:
        return known
    page = address & -_PIECE
    entry = CachedEntry(
        kind=EntryKind.LEAF,
        domain=last.step.cached.domain,
        space=last.step.cached.space,
        stage=2,
        first=page,
        last=page + _PIECE - 1,
    )
    known, kept_as = keep(known, entry)
    walk.steps[-1] = last._replace(known=known, kept_as=(*last.kept_as, *kept_as))
    return known


class _Keeper:
    """Holds what is known, until what it is kept as is dropped."""

    def __init__(self, log: InvalidationLog, stage_2_drops_combined: bool) -> None:
        self._log = log
        self._combined = stage_2_drops_combined
        self._second_stage: tuple[CachedEntry, ...] = ()

    def __call__(self, known: Moments, entry: CachedEntry | None) -> tuple[Moments, tuple[CachedEntry, ...]]:
        """When it is known with a cache, and the entries of which a drop ends it."""
        if entry is None:
            return known, ()
        if _is_below(entry):
            if entry.kind is not EntryKind.TABLE and self._combined:
                self._second_stage = (*self._second_stage, entry)
            return held(known, self._log.times(entry)), (entry,)
        if entry.stage == 1 and self._second_stage:
            kept_as = (entry, *self._second_stage)
            return held(known, self._log.times_of_any(kept_as)), kept_as
        return held(known, self._log.times(entry)), (entry,)


def is_of_device(entry: CachedEntry | None) -> bool:
    """Whether an entry is one of a requester, found by its name, and not by tags that others can have as well."""
    return entry is not None and entry.kind in _BEFORE_PAGES and entry.requester is not None


def _is_below(entry: CachedEntry) -> bool:
    """Whether an entry is found by an address that stage 1 has given, where there is one."""
    return entry.stage == 2 or entry.kind is EntryKind.INTERRUPT


def _lookup(entries: Sequence[CachedEntry]) -> tuple[Tags | None, bool]:
    """The tags under which a translation is looked up, and whether its address space does not matter."""
    if not entries:
        return None, False
    last = entries[-1]
    # A global entry has no address space; those above it may have the one that was asked for.
    tagged = next((entry for entry in reversed(entries) if not entry.is_global), last)
    return Tags(tagged.requester, tagged.domain, tagged.space), last.is_global


def _last_table(entries: Sequence[CachedEntry | None], two_stages: bool) -> int | None:
    """Number of the last entry that leads to another table, of the first stage where there are two."""
    for number in range(len(entries) - 1, -1, -1):
        entry = entries[number]
        if entry is not None and entry.kind is EntryKind.TABLE and (entry.stage == 1 or not two_stages):
            return number
    return None


def _with_space_of_process(tags: Tags | None, entries: Sequence[tuple[Step, Moments, int]]) -> Tags | None:
    """Tags of a walk that may have ended at a table without an address space: a translation would have it."""
    if tags is None or tags.space is not None:
        return tags
    spaces = (step.cached.space for step, _, _ in entries if step.cached and step.cached.kind is EntryKind.PROCESS)
    return tags._replace(space=next(spaces, None))


def _entries(steps: Sequence[Step], reads: Sequence[Read]) -> list[tuple[Step, Moments, int]]:
    """Each step that reads memory, with when its value was there and the number of its last read.

    An entry that is read in several pieces was there when all of them were. What no step names comes as a step too.
    """
    entries: list[tuple[Step, Moments, int]] = []
    at = 0
    for step in steps:
        if step.address is None:
            continue
        first, end = step.address, step.address + step.size
        own = next((n for n in range(at, len(reads)) if first <= reads[n].address < end), None)
        if own is None:
            continue
        while at < own:
            entries.append((_UNNAMED, reads[at].moments, at))
            at += 1
        moments = reads[at].moments
        at += 1
        while at < len(reads) and first <= reads[at].address < end:
            moments = both(moments, reads[at].moments)
            at += 1
        entries.append((step, moments, at - 1))
    entries += [(_UNNAMED, reads[n].moments, n) for n in range(at, len(reads))]
    return entries


def describe_entry(entry: CachedEntry) -> str:
    """The tags of an entry, for a person."""
    parts = [str(entry.kind)]
    if entry.stage is not None:
        parts.append(f"stage {entry.stage}")
    if entry.requester is not None:
        parts.append(f"requester {format_requester(entry.requester)}")
    if entry.domain is not None:
        parts.append(f"domain {entry.domain:#x}")
    if entry.space is not None:
        parts.append(f"space {entry.space:#x}")
    if entry.first is not None and entry.last is not None:
        parts.append(f"{entry.first:#x}..{entry.last:#x}")
    if entry.index is not None:
        parts.append(f"index {entry.index:#x}")
    return " ".join(parts)


def describe_invalidation(invalidation: Invalidation) -> str:
    """What an invalidation drops, for a person."""
    parts = [", ".join(sorted(invalidation.kinds))]
    if invalidation.stage is not None:
        parts.append(f"stage {invalidation.stage}")
    if invalidation.requester is not None:
        parts.append(f"requester {format_requester(invalidation.requester)} mask {invalidation.requester_mask:#x}")
    if invalidation.domain is not None:
        parts.append(f"domain {invalidation.domain:#x}")
    if invalidation.space is not None:
        parts.append(f"space {invalidation.space:#x}")
    if invalidation.first is not None or invalidation.last is not None:
        last = "" if invalidation.last is None else f"{invalidation.last:#x}"
        parts.append(f"{invalidation.first or 0:#x}..{last}")
    if invalidation.indexes is not None:
        parts.append(f"indexes {invalidation.indexes[0]:#x}..{invalidation.indexes[1]:#x}")
    return " ".join(parts)
