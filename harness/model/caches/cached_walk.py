"""The rule: when caches can give the result of a walk, from when its values were in memory to when they were dropped.

For each entry of a table that the walk reads, from the top:

    It can be brought in at a moment when memory holds it and the way to it is known, from memory or from caches.
    It is then known until the first invalidation that drops it while it can no longer be brought in.

A driver writes a PTE at moment 3, clears it at 7 and invalidates it at 9, the tables above staying as they are: the PTE
was in memory in [3, 7), so it is known in [3, 9), and at 8 an access may still use it (RISC-V IOMMU 4.1.1 says so in
so many words; VT-d 6.1, IHI 0070 3.21 and 16.2 and AMD-Vi 2.4 come to the same).

What is known of an entry stands for the whole way that led to it: of an entry that leads to another page table it is a
paging-structure cache or walk cache, of a leaf it is a translation in an IOTLB. The entries above may be long gone.

`evaluate` puts the rule to one walk. `_Evaluation` has a method for each kind of entry, and says there what differs:
tables that say what to do with a device, stage 1, stage 2, both stages together, and a walk that another requester
takes over.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from harness.model.access import Bypassed, BypassReason, Fault
from harness.model.caches.invalidation_log import InvalidationLog
from harness.model.caches.moments import NEVER, Moments, both, either, held, is_endless
from harness.model.caches.policy import CachePolicy
from harness.model.caches.traces import (
    Tags,
    Trace,
    TracedEntry,
    entries_of,
    is_before_pages,
    is_found_below,
    is_of_device,
    last_of_device,
    last_table,
    lookup_tags,
    sought_tags,
    unread_page,
    with_space_of_process,
)
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind

__all__ = ["CachedWalk", "Setting", "Taker", "WalkedStep", "evaluate"]

RegistersT = TypeVar("RegistersT")

_KnownAndKept: TypeAlias = tuple[Moments, tuple[CachedEntry, ...]]
"""When something was known, and the cached entries of which a drop ends that."""

_PIECE = 4096  # what a cache keeps of a translation that has no page size of its own


class Setting(NamedTuple, Generic[RegistersT]):
    """What a walk was made in.

    Attributes:
        policy: of the architecture.
        registers: as they were for the walk.
        start: when the registers had the value that the walk starts from.
        active: when walks were made at all; what memory held at other times was not brought in.
        log: what was dropped.
    """

    policy: CachePolicy[RegistersT]
    registers: RegistersT
    start: Moments
    active: Moments
    log: InvalidationLog


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
        sought: under which one would be looked up there, as far as these say so.
        is_global: the address space does not matter.
        brings_pages: false where it ended at a table that no memory answers for, before it read any: no cache has that.
        signature: value of the device's entry (and process's) that tables of such led to: walks that agree in them
            agree in the tags, wherever their entries are.
        dead_end: number of the last read of the way after which nothing can be known; None where there is none.
        last_table: the last table before the end of the (first) stage, from which others can go on; None without one.
    """

    start: Moments
    steps: list[WalkedStep] = field(default_factory=list)
    device: Moments = NEVER
    result: Moments = NEVER
    tags: Tags | None = None
    sought: Tags | None = None
    is_global: bool = False
    brings_pages: bool = True
    signature: tuple[int | None, ...] = ()
    dead_end: int | None = None
    last_table: CachedEntry | None = None


def evaluate(trace: Trace[object], setting: Setting[RegistersT], taker: Taker | None = None) -> CachedWalk:
    """When the result of a walk could be had.

    Args:
        trace: the walk.
        setting: what it was made in.
        taker: who takes the walk over at its last table; None for the walk as it is.
    """
    return _Evaluation(trace, setting, taker).run()


class _Evaluation(Generic[RegistersT]):
    """The rule, put to one walk.

    `_read_device`, `_read_stage_1` and `_read_stage_2` take one entry each, and say when it was known and as what it is
    kept. `_tags_of` decides whether an entry is cached by itself, and `_hold` until when it is.

    Two ways are followed from the top. `_way` goes through the entries of the device and of stage 1. `_below` goes
    through those of stage 2, from what names the root of its tables: for each entry of stage 1 anew, and for the page
    of the request. Where both stages translate, they are put together each time that stage 2 has come to its end.
    """

    def __init__(self, trace: Trace[object], setting: Setting[RegistersT], taker: Taker | None) -> None:
        self._outcome = trace.outcome
        self._policy = policy = setting.policy
        self._setting = setting
        self._taker = taker
        self._entries = entries = entries_of(trace)
        self._fault = fault = trace.outcome if isinstance(trace.outcome, Fault) else None
        self._last_is_kept = fault is None or not entries or policy.keeps(setting.registers, fault, entries[-1].step)

        pages = [entry.cached for entry in entries if entry.cached is not None and not is_before_pages(entry.cached)]
        unread = [] if pages else unread_page(trace)
        pages = pages or unread
        first_stage = [page for page in pages if page.stage == 1]
        self._has_stage_1 = bool(first_stage)
        self._has_both = self._has_stage_1 and any(page.stage == 2 for page in pages)
        # Number of the entry from which on a taker goes its own way.
        self._turn = last_table(entries[:-1], stage=1 if self._has_stage_1 else None)

        # What has ended on the way to stage 1, in stage 2 or at an invalid entry, does not tell its tags.
        ended_before = self._fault is not None and policy.stage_2_root is EntryKind.DEVICE and _has_process(entries)
        tags, is_global = lookup_tags(first_stage or ([] if ended_before else pages))
        if policy.found_by_requester:
            tags = with_space_of_process(tags, entries)
        self._walk = CachedWalk(
            setting.start,
            device=setting.start,
            tags=tags,
            sought=tags or sought_tags(trace.steps),
            is_global=is_global,
            brings_pages=not unread,
            signature=tuple(last_of_device(entries).values()),
            last_table=None if self._turn is None else entries[self._turn].cached,
        )

        self._way = setting.start
        self._below: Moments | None = None  # None while no stage 2 is being walked
        self._below_root = setting.start  # when what names the root of stage 2 is known
        self._owner: CachedEntry | None = None  # the entry of stage 1 whose output stage 2 translates
        self._owner_at: int | None = None  # its number
        self._made_with: tuple[CachedEntry, ...] = ()  # entries of stage 2 that what stage 1 finds was made with

    def run(self) -> CachedWalk:
        """Go through the entries."""
        walk = self._walk
        for number, entry in enumerate(self._entries):
            in_memory = both(entry.in_memory, self._setting.active)
            if self._is_below(number):
                known, kept_as = self._read_stage_2(number, in_memory)
            else:
                if self._below is not None:
                    self._way = self._combine(self._way, self._below, self._owner)
                    self._below = None
                if entry.cached is not None and entry.cached.stage == 1:
                    known, kept_as = self._read_stage_1(number, in_memory)
                else:
                    known, kept_as = self._read_device(number, in_memory)
            walk.steps.append(WalkedStep(entry.step, entry.in_memory, known, kept_as))
            if not known and walk.dead_end is None:
                walk.dead_end = entry.last_read
        walk.result = self._end()
        return walk

    # --- one entry ---

    def _read_device(self, number: int, in_memory: Moments) -> _KnownAndKept:
        """An entry of the tables of devices and processes, or something that is never cached.

        VT-d 6.2.2 (context-cache) and 6.2.3 (PASID-cache), AMD-Vi 2.2, IHI 0070 3.21.3 and 16.2 (STE, CD), RISC-V IOMMU
        3.8 (device and process contexts). A process table that stage 2 translates comes after its end (`_combine`).
        """
        cached = self._entries[number].cached
        self._way, kept_as = self._hold(both(self._way, in_memory), self._tags_of(number))
        self._owner = self._owner_at = None
        if is_of_device(cached):
            self._walk.device = self._way
        if cached is not None and cached.kind in (EntryKind.DEVICE, self._policy.stage_2_root):
            self._below_root = self._way
        return self._way, kept_as

    def _read_stage_1(self, number: int, in_memory: Moments) -> _KnownAndKept:
        """A page-table entry of stage 1.

        It may be cached as it stands: a stage 1 walk cache (IHI 0070 16.2), guest addresses to guest addresses (RISC-V
        IOMMU 4.1.1). VT-d 6.2.4 and 6.2.5 have it only together with what stage 2 makes of its output (`_combine`).
        """
        self._owner, self._owner_at = self._tags_of(number), number
        apart = not (self._has_both and self._policy.combined_only)
        known, kept_as = self._hold(both(self._way, in_memory), self._owner if apart else None)
        # Of one that is kept together with what stage 2 makes of it, `_combine` says when the taker has found it.
        self._way = self._taken_over(number, known) if apart else known
        return self._way, kept_as

    def _read_stage_2(self, number: int, in_memory: Moments) -> _KnownAndKept:
        """An entry of stage 2, or of a table of interrupts.

        It is known by its own address alone, and not by what of stage 1 led to it: a guest-physical address may have
        been looked up for any other request (VT-d 6.2.5, IHI 0070 16.2, RISC-V IOMMU 4.1.1).
        """
        way = self._below_root if self._below is None else self._below
        known, kept_as = self._hold(both(way, in_memory), self._tags_of(number))
        self._below = self._taken_over(number, known)
        return self._below, kept_as

    # --- stages together, walks of two requesters, the end ---

    def _combine(self, way: Moments, below: Moments, owner: CachedEntry | None) -> Moments:
        """Stage 2 has come to its end: when an entry of stage 1 was known with what stage 2 has made of its output.

        Such a translation is tagged as stage 1 is, and is an entry of its own (VT-d 6.2.4, 6.2.5; IHI 0070 16.2; RISC-V
        IOMMU 4.1.1). What it is kept as is told with the last step, which is one of stage 2.
        """
        last = self._walk.steps[-1]
        known, kept_as = self._hold(both(way, below), owner)
        known = self._taken_over(self._owner_at, known)
        self._walk.steps[-1] = last._replace(
            known=either((last.known, known)),
            kept_as=tuple(dict.fromkeys((*last.kept_as, *kept_as))),
        )
        return known

    def _taken_over(self, number: int | None, known: Moments) -> Moments:
        """What is known of an entry where the walk is taken over: from the last table on it is the taker that goes on.

        VT-d 6.2.1, table 17: tables are found by domain (and PASID), so what one requester has brought in another one
        walks on from; the translation that it finds there is tagged with its own source-id and PASID.
        """
        if self._taker is None or number is None or number != self._turn:
            return known
        return both(known, self._taker.moments)

    def _end(self) -> Moments:
        """When the result was known."""
        known = self._way
        if self._below is not None:
            if self._has_stage_1:
                known = self._combine(known, self._below, self._owner if self._last_is_kept else None)
            else:
                known = self._below
        outcome = self._outcome
        by_requester = self._policy.found_by_requester
        if by_requester and isinstance(outcome, Bypassed) and outcome.reason is BypassReason.PASS_THROUGH:
            known = self._pass_through(known, outcome.address)
        return known

    def _pass_through(self, known: Moments, address: int) -> Moments:
        """When a translation that leaves the address as it is was known.

        VT-d 6.2.4: the IOTLB keeps it as well, as one of stage 2 that maps a page.
        """
        last = self._walk.steps[-1] if self._walk.steps else None
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
        known, kept_as = self._hold(known, entry)
        self._walk.steps[-1] = last._replace(known=known, kept_as=(*last.kept_as, *kept_as))
        return known

    # --- what an entry is kept as, and until when ---

    def _is_below(self, number: int) -> bool:
        """Whether an entry is one of stage 2 (or of interrupts)."""
        cached = self._entries[number].cached
        if cached is not None:
            return is_found_below(cached)
        # One that may not be cached has no tags; where it has ended the walk, the fault tells its stage.
        is_last = number == len(self._entries) - 1
        return is_last and self._below is not None and self._fault is not None and self._fault.stage == 2

    def _tags_of(self, number: int) -> CachedEntry | None:
        """As what an entry is kept; None where it is not, or not by itself."""
        cached = self._entries[number].cached
        is_last = number == len(self._entries) - 1
        if cached is None:
            return None
        if is_last and not self._last_is_kept:
            # VT-d 6.1: what faults is cached only as CAP_REG.CM says; RISC-V IOMMU 3.8: never with V=0.
            return None
        if cached.kind in self._policy.joined and not is_last and self._entries[number + 1].cached == cached:
            # VT-d 6.2.2, 6.2.3: the entry that follows is cached as one with it.
            return None
        if cached.kind is EntryKind.LEAF:
            if cached.stage == 2 and self._has_stage_1 and self._policy.combined_only:
                # VT-d 6.2.4: a page of stage 2 under stage 1 is in the translation of both, and nowhere else.
                return None
            if self._taker is not None and self._taker.space is not None and cached.space is not None:
                # VT-d 6.2.1, table 17: the taker keeps the translation with its own PASID.
                return replace(cached, space=self._taker.space)
        return cached

    def _hold(self, known: Moments, entry: CachedEntry | None) -> _KnownAndKept:
        """When something is known if a cache keeps it as an entry, and the entries of which a drop ends that.

        What stage 1 finds stands for addresses that stage 2 has translated. RISC-V IOMMU 4.1.1 has an invalidation of
        these pages of stage 2 drop it too, and of AMD-Vi (2.4.3) the same is taken. IHI 0070 4.4: one by IPA need not.
        """
        if entry is None:
            return known, ()
        kept_as: tuple[CachedEntry, ...] = (entry,)
        if is_found_below(entry):
            if entry.kind is not EntryKind.TABLE and self._policy.stage_2_drops_combined:
                self._made_with = (*self._made_with, entry)
        elif entry.stage == 1:
            kept_as = (entry, *self._made_with)
        if is_endless(known):
            # It can be brought in now: whatever drops it, it comes back at once.
            return known, kept_as
        return held(known, self._setting.log.times_of_any(kept_as)), kept_as


def _has_process(entries: list[TracedEntry]) -> bool:
    return any(entry.cached is not None and entry.cached.kind is EntryKind.PROCESS for entry in entries)
