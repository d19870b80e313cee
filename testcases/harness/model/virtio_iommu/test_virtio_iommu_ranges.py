"""The table of mappings: right after any history, as cheap as the logarithm says, and small."""

from __future__ import annotations

import math
import tracemalloc
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model.virtio_iommu.ranges import MappedRange, RangeMap


@settings(max_examples=20)
@given(st.integers(0, 1 << 32), st.integers(0, 1600))
def test_mappings_are_found_after_any_order_of_insertions_and_removals(seed: int, removed: int) -> None:
    order = list(range(1600))
    Random(seed).shuffle(order)
    ranges = RangeMap()
    entries = [MappedRange(number * 10, number * 10 + 4, number, 1) for number in range(1600)]
    for number in order:
        ranges.insert(entries[number])
    for number in order[:removed]:
        ranges.remove(entries[number])
    left = set(order[removed:])
    assert [entry.phys_start for entry in ranges] == sorted(left)
    assert len(ranges) == len(left)
    for number in order:
        expected = entries[number] if number in left else None
        assert ranges.find(number * 10) == ranges.find(number * 10 + 4) == expected
        assert ranges.find(number * 10 + 5) is None
        assert ranges.overlapping(number * 10 + 4, number * 10 + 9) == ([expected] if expected else [])


def test_every_mapping_is_found_right_after_a_bucket_splits() -> None:
    ranges = RangeMap()
    for number in range(513):
        ranges.insert(MappedRange(number, number, number, 1))
    assert [entry and entry.phys_start for entry in map(ranges.find, range(513))] == list(range(513))


class _Counted(int):
    """An address that counts how often it is compared: what a bisection costs."""

    comparisons = 0

    def __lt__(self, other: int) -> bool:
        _Counted.comparisons += 1
        return int(self) < other

    def __le__(self, other: int) -> bool:
        _Counted.comparisons += 1
        return int(self) <= other

    def __gt__(self, other: int) -> bool:
        _Counted.comparisons += 1
        return int(self) > other

    def __ge__(self, other: int) -> bool:
        _Counted.comparisons += 1
        return int(self) >= other


@pytest.mark.parametrize("count", [1_000, 10_000, 100_000])
def test_finding_mappings_takes_as_many_comparisons_as_the_logarithm_says(count: int) -> None:
    ranges = RangeMap()
    for number in range(count):
        ranges.insert(MappedRange(number * 2, number * 2, number, 1))
    sample = range(0, count, count // 500)
    _Counted.comparisons = 0
    for number in sample:
        assert ranges.find(_Counted(number * 2)) is not None
    # One bisection over the buckets and one within a bucket, each with up to one comparison more than its logarithm.
    assert math.log2(count) - 3 <= _Counted.comparisons / len(sample) <= math.log2(count) + 3
    _Counted.comparisons = 0
    for number in sample:
        assert len(ranges.overlapping(_Counted(number * 2), _Counted(number * 2))) == 1
    # The same, and two for each mapping that is looked at: the one before, the one found, the one after.
    assert _Counted.comparisons / len(sample) <= math.log2(count) + 3 + 6


def test_a_mapping_takes_less_than_thirty_bytes() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        ranges = RangeMap()
        for number in range(20_000):
            ranges.insert(MappedRange(number << 40, (number << 40) + 4095, number << 12, 3))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 25 <= taken / len(ranges) < 30
