"""Mappings of a domain by virtual address: sorted, disjoint, found and changed in logarithmic time.

A list of buckets of at most 512 mappings each, found by two bisections. An insertion moves at most one bucket (4 KiB of
pointers), and the list of buckets only when one of them splits or empties, so that it stays cheap where one long
sorted list would move megabytes. A mapping takes about 180 bytes: object, numbers, and two places in a bucket.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["MappedRange", "RangeMap"]

_BUCKET = 512


@dataclass(frozen=True, slots=True)
class MappedRange:
    """What one MAP request made: virt_start..virt_end (inclusive) go to phys_start and on."""

    virt_start: int
    virt_end: int
    phys_start: int
    flags: int


class _Bucket:
    __slots__ = ("ranges", "starts")

    def __init__(self, starts: list[int], ranges: list[MappedRange]) -> None:
        self.starts = starts
        self.ranges = ranges


class RangeMap:
    """The mappings of one domain."""

    def __init__(self) -> None:
        self._buckets: list[_Bucket] = []
        # First address of each bucket, to find the bucket by.
        self._firsts: list[int] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[MappedRange]:
        for bucket in self._buckets:
            yield from bucket.ranges

    def find(self, address: int) -> MappedRange | None:
        """The mapping that holds an address."""
        index = bisect_right(self._firsts, address) - 1
        if index < 0:
            return None
        bucket = self._buckets[index]
        found = bucket.ranges[bisect_right(bucket.starts, address) - 1]
        return found if address <= found.virt_end else None

    def overlapping(self, start: int, end: int) -> list[MappedRange]:
        """Every mapping that shares an address with start..end (inclusive), in ascending order."""
        found: list[MappedRange] = []
        for index in range(max(bisect_right(self._firsts, start) - 1, 0), len(self._buckets)):
            bucket = self._buckets[index]
            for position in range(max(bisect_right(bucket.starts, start) - 1, 0), len(bucket.ranges)):
                mapped = bucket.ranges[position]
                if mapped.virt_start > end:
                    return found
                if mapped.virt_end >= start:
                    found.append(mapped)
        return found

    def insert(self, mapped: MappedRange) -> None:
        """Add a mapping that overlaps none of those that are there."""
        self._length += 1
        if not self._buckets:
            self._buckets.append(_Bucket([mapped.virt_start], [mapped]))
            self._firsts.append(mapped.virt_start)
            return
        index = max(bisect_right(self._firsts, mapped.virt_start) - 1, 0)
        bucket = self._buckets[index]
        position = bisect_left(bucket.starts, mapped.virt_start)
        bucket.starts.insert(position, mapped.virt_start)
        bucket.ranges.insert(position, mapped)
        self._firsts[index] = bucket.starts[0]
        if len(bucket.starts) > _BUCKET:
            half = _BUCKET // 2
            upper = _Bucket(bucket.starts[half:], bucket.ranges[half:])
            del bucket.starts[half:], bucket.ranges[half:]
            self._buckets.insert(index + 1, upper)
            self._firsts.insert(index + 1, upper.starts[0])

    def remove(self, mapped: MappedRange) -> None:
        """Take out a mapping that is there."""
        self._length -= 1
        index = bisect_right(self._firsts, mapped.virt_start) - 1
        bucket = self._buckets[index]
        position = bisect_left(bucket.starts, mapped.virt_start)
        del bucket.starts[position], bucket.ranges[position]
        if bucket.starts:
            self._firsts[index] = bucket.starts[0]
        else:
            del self._buckets[index], self._firsts[index]
