"""Cached entries and invalidations in words."""

from __future__ import annotations

from harness.model.access import format_requester
from harness.model.invalidation import CachedEntry, Invalidation

__all__ = ["describe_entry", "describe_invalidation"]


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
