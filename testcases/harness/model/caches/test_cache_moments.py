"""Sets of moments against sets of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.model.caches.moments import ALWAYS, FOREVER, NEVER, Moments, both, either, held, holds_now, last_end

END = 12  # stands for "now" among the moments that are counted out

_RUNS = st.lists(st.integers(0, END), max_size=8, unique=True).map(sorted)


@st.composite
def moments(draw: st.DrawFn) -> Moments:
    bounds = draw(_RUNS)
    runs = list(zip(bounds[::2], bounds[1::2], strict=False))
    if len(bounds) % 2:
        runs.append((bounds[-1], FOREVER))
    return tuple(runs)


def counted(found: Moments) -> set[int]:
    return {moment for start, end in found for moment in range(start, min(end, END + 1))}


def is_normal(found: Moments) -> bool:
    flat = [bound for run in found for bound in run]
    return flat == sorted(set(flat))


@given(moments(), moments())
def test_both_and_either_are_those_of_sets(one: Moments, other: Moments) -> None:
    assert counted(both(one, other)) == counted(one) & counted(other)
    assert counted(either((one, other))) == counted(one) | counted(other)
    assert is_normal(both(one, other))
    assert is_normal(either((one, other)))


@given(moments(), st.lists(st.integers(0, END), max_size=4, unique=True).map(sorted))
def test_what_is_held_is_what_a_cache_that_is_filled_at_every_moment_has(found: Moments, drops: list[int]) -> None:
    has = False
    expected = set()
    for moment in range(END + 1):
        # The drop comes first at its moment; what can still be had is brought in again at once.
        has = (has and moment not in drops) or moment in counted(found)
        if has:
            expected.add(moment)
    assert counted(held(found, drops)) == expected
    assert is_normal(held(found, drops))


def test_what_has_not_ended_holds_now() -> None:
    assert holds_now(ALWAYS)
    assert not holds_now(NEVER)
    assert not holds_now(((1, 3),))
    assert holds_now(held(((1, 3),), [2]))
    assert not holds_now(held(((1, 3),), [3]))
    assert last_end(((1, 3), (5, 7))) == 7
