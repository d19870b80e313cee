"""Mappings of a domain by virtual address: sorted, disjoint, found and changed in logarithmic time.

A list of buckets of at most 512 mappings each, found by two bisections. An insertion moves at most one bucket (4 KiB a
column), and the list of buckets only when one of them splits or empties, so that it stays cheap where one long sorted
list would move megabytes. Buckets keep numbers, not objects: 25 bytes a mapping and what is left free in its bucket.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["MappedRange", "RangeMap"]

_BUCKET = 512


class MappedRange(NamedTuple):
    """What one MAP request made: virt_start..virt_end (inclusive) go to phys_start and on; flags are its 8 lowest."""

    virt_start: int
    virt_end: int
    phys_start: int
    flags: int


class _Bucket:
    """Neighbouring mappings, a column for each of their numbers."""

    __slots__ = ("ends", "flags", "phys", "starts")

    def __init__(self, starts: array[int], ends: array[int], phys: array[int], flags: bytearray) -> None:
        self.starts = starts
        self.ends = ends
        self.phys = phys
        self.flags = flags

    def __getitem__(self, index: int) -> MappedRange:
        return MappedRange(self.starts[index], self.ends[index], self.phys[index], self.flags[index])

    def insert(self, index: int, mapped: MappedRange) -> None:
        self.starts.insert(index, mapped.virt_start)
        self.ends.insert(index, mapped.virt_end)
        self.phys.insert(index, mapped.phys_start)
        self.flags.insert(index, mapped.flags)

    def remove(self, index: int) -> None:
        del self.starts[index], self.ends[index], self.phys[index], self.flags[index]

    def split(self) -> _Bucket:
        """Give away the upper half."""
        half = len(self.starts) // 2
        upper = _Bucket(self.starts[half:], self.ends[half:], self.phys[half:], self.flags[half:])
        del self.starts[half:], self.ends[half:], self.phys[half:], self.flags[half:]
        return upper


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
            yield from map(bucket.__getitem__, range(len(bucket.starts)))

    def extents(self) -> list[tuple[int, int]]:
        """First address and size of each."""
        return [
            (start, end - start + 1)
            for bucket in self._buckets
            for start, end in zip(bucket.starts, bucket.ends, strict=True)
        ]

    def find(self, address: int) -> MappedRange | None:
        """The mapping that holds an address."""
        index = bisect_right(self._firsts, address) - 1
        if index < 0:
            return None
        bucket = self._buckets[index]
        position = bisect_right(bucket.starts, address) - 1
        return bucket[position] if address <= bucket.ends[position] else None

    def overlapping(self, start: int, end: int) -> list[MappedRange]:
        """Every mapping that shares an address with start..end (inclusive), in ascending order."""
        found: list[MappedRange] = []
        for index in range(max(bisect_right(self._firsts, start) - 1, 0), len(self._buckets)):
            bucket = self._buckets[index]
            for position in range(max(bisect_right(bucket.starts, start) - 1, 0), len(bucket.starts)):
                if bucket.starts[position] > end:
                    return found
                if bucket.ends[position] >= start:
                    found.append(bucket[position])
        return found

    def insert(self, mapped: MappedRange) -> None:
        """Add a mapping that overlaps none of those that are there."""
        self._length += 1
        if not self._buckets:
            self._buckets.append(_Bucket(array("Q"), array("Q"), array("Q"), bytearray()))
            self._firsts.append(mapped.virt_start)
        index = max(bisect_right(self._firsts, mapped.virt_start) - 1, 0)
        bucket = self._buckets[index]
        bucket.insert(bisect_left(bucket.starts, mapped.virt_start), mapped)
        self._firsts[index] = bucket.starts[0]
        if len(bucket.starts) > _BUCKET:
            upper = bucket.split()
            self._buckets.insert(index + 1, upper)
            self._firsts.insert(index + 1, upper.starts[0])

    def remove(self, mapped: MappedRange) -> None:
        """Take out a mapping that is there."""
        self._length -= 1
        index = bisect_right(self._firsts, mapped.virt_start) - 1
        bucket = self._buckets[index]
        bucket.remove(bisect_left(bucket.starts, mapped.virt_start))
        if bucket.starts:
            self._firsts[index] = bucket.starts[0]
        else:
            del self._buckets[index], self._firsts[index]
