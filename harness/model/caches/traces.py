"""A walk that was made: the entries of tables that it read, in their order, and the tags that its translation gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from harness.model.caches.history import Read
from harness.model.caches.moments import Moments, both
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind

__all__ = [
    "Tags",
    "Trace",
    "TracedEntry",
    "entries_of",
    "is_before_pages",
    "is_found_below",
    "is_of_device",
    "last_of_device",
    "last_table",
    "lookup_tags",
    "sought_tags",
    "unread_page",
    "with_space_of_process",
]

ResultT_co = TypeVar("ResultT_co", covariant=True)

_UNNAMED = Step("something", "no entry of a table")
_BEFORE_PAGES = (EntryKind.DEVICE, EntryKind.PROCESS)


class Trace(NamedTuple, Generic[ResultT_co]):
    """A walk that was made over a history of memory.

    Attributes:
        outcome: that it ended with.
        steps: that its engine names, those that read nothing among them.
        reads: what it read of memory.
    """

    outcome: ResultT_co
    steps: Sequence[Step]
    reads: tuple[Read, ...]


class TracedEntry(NamedTuple):
    """An entry of a table that a walk read.

    Attributes:
        step: what it is.
        in_memory: when it had the value that was read.
        last_read: number of the read that it was complete with.
        cached: as what it may be cached; None where it may not.
    """

    step: Step
    in_memory: Moments
    last_read: int
    cached: CachedEntry | None = None


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


def entries_of(trace: Trace[object]) -> list[TracedEntry]:
    """The entries that a walk read.

    One that is read in several pieces was in memory when all of them were. What no step names comes as an entry too:
    it is of nothing that is cached, and counts while it is in memory.
    """
    reads = trace.reads
    entries: list[TracedEntry] = []
    at = 0
    for step in trace.steps:
        first = step.address
        if first is None:
            continue
        end = first + step.size
        own = at
        while own < len(reads) and not first <= reads[own].address < end:
            own += 1
        if own == len(reads):
            continue
        entries += [TracedEntry(_UNNAMED, reads[n].moments, n) for n in range(at, own)]
        moments = reads[own].moments
        at = own + 1
        while at < len(reads) and first <= reads[at].address < end:
            moments = both(moments, reads[at].moments)
            at += 1
        entries.append(TracedEntry(step, moments, at - 1, step.cached))
    entries += (TracedEntry(_UNNAMED, reads[n].moments, n) for n in range(at, len(reads)))
    return entries


def is_before_pages(entry: CachedEntry) -> bool:
    """Whether an entry is one of the tables that say which page tables a request goes through."""
    return entry.kind in _BEFORE_PAGES


def is_of_device(entry: CachedEntry | None) -> bool:
    """Whether an entry is one of a requester, found by its name, and not by tags that others can have as well."""
    return entry is not None and is_before_pages(entry) and entry.requester is not None


def last_of_device(entries: Iterable[TracedEntry]) -> dict[EntryKind, int | None]:
    """Value of the last entry of each kind that is one of a requester: what others of its kind have led to."""
    return {
        entry.cached.kind: entry.step.value
        for entry in entries
        if entry.cached is not None and is_of_device(entry.cached)
    }


def is_found_below(entry: CachedEntry) -> bool:
    """Whether an entry is found by an address that stage 1 has given, where there is a stage 1."""
    return entry.stage == 2 or entry.kind is EntryKind.INTERRUPT


def lookup_tags(pages: Sequence[CachedEntry]) -> tuple[Tags | None, bool]:
    """The tags under which a translation is looked up, and whether its address space does not matter.

    Args:
        pages: page-table entries of the stage that translates the address of the request.
    """
    if not pages:
        return None, False
    last = pages[-1]
    # A global entry has no address space; those above it may have the one that was asked for.
    tagged = next((entry for entry in reversed(pages) if not entry.is_global), last)
    return Tags(tagged.requester, tagged.domain, tagged.space), last.is_global


def unread_page(trace: Trace[object]) -> list[CachedEntry]:
    """The tags of a page-table entry at which a walk has ended before it was read, since no memory answers for it."""
    last = trace.steps[-1].cached if trace.steps else None
    return [last] if last is not None and not is_before_pages(last) else []


def sought_tags(steps: Sequence[Step]) -> Tags | None:
    """The tags of the translations that a walk would have come to, as its steps say it."""
    sought = next((step.sought for step in reversed(steps) if step.sought is not None), None)
    return None if sought is None else Tags(sought.requester, sought.domain, sought.space)


def with_space_of_process(tags: Tags | None, entries: Sequence[TracedEntry]) -> Tags | None:
    """Tags of a walk that may have ended at a table without an address space: its translation would have had it."""
    if tags is None or tags.space is not None:
        return tags
    cached = (entry.cached for entry in entries)
    spaces = (entry.space for entry in cached if entry is not None and entry.kind is EntryKind.PROCESS)
    return tags._replace(space=next(spaces, None))


def last_table(entries: Sequence[TracedEntry], stage: int | None) -> int | None:
    """Number of the last entry that leads to another page table, of one stage or of any."""
    for number in range(len(entries) - 1, -1, -1):
        entry = entries[number].cached
        if entry is not None and entry.kind is EntryKind.TABLE and stage in (None, entry.stage):
            return number
    return None
