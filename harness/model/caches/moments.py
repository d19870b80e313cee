"""Sets of moments: when something was so, as runs from a moment to before another.

A moment is a number that counts changes; it never goes back. A set is a tuple of runs (first moment, first moment
that is no longer in it), ascending and apart from each other. A run that ends at `FOREVER` holds now: what was so from
change 3 to change 7 and is again since change 9 is ((3, 7), (9, FOREVER)).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TypeAlias

__all__ = ["ALWAYS", "FOREVER", "NEVER", "Moments", "both", "either", "held", "holds_now", "is_endless", "last_end"]

FOREVER = 1 << 62
"""The end of what has not ended."""

Moments: TypeAlias = tuple[tuple[int, int], ...]

ALWAYS: Moments = ((0, FOREVER),)
NEVER: Moments = ()


def holds_now(moments: Moments) -> bool:
    """Whether the present moment is in the set."""
    return bool(moments) and moments[-1][1] == FOREVER


def is_endless(moments: Moments) -> bool:
    """Whether the set is one run that has not ended: no drop takes anything from what could be brought in then."""
    return len(moments) == 1 and moments[0][1] == FOREVER


def last_end(moments: Moments) -> int:
    """The first moment after the set; 0 for an empty one."""
    return moments[-1][1] if moments else 0


def both(one: Moments, other: Moments) -> Moments:
    """The moments that are in both sets."""
    if one is ALWAYS:
        return other
    if other is ALWAYS:
        return one
    found = []
    mine, theirs = 0, 0
    while mine < len(one) and theirs < len(other):
        start = max(one[mine][0], other[theirs][0])
        end = min(one[mine][1], other[theirs][1])
        if start < end:
            found.append((start, end))
        if one[mine][1] < other[theirs][1]:
            mine += 1
        else:
            theirs += 1
    return tuple(found)


def either(sets: Iterable[Moments]) -> Moments:
    """The moments that are in any of the sets."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(run for moments in sets for run in moments):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def held(moments: Moments, drops: Sequence[int]) -> Moments:
    """When a cache may have something that could be put into it at `moments` and is dropped at `drops`.

    What is dropped while it could still be put there comes back at once; what ended is there until the next drop.

    Args:
        moments: when it could be brought in.
        drops: ascending.
    """
    if not moments or is_endless(moments):
        return moments
    runs = []
    for start, end in moments:
        at = bisect_left(drops, end)
        runs.append((start, drops[at] if at < len(drops) else FOREVER))
    return either((tuple(runs),))
