"""Physical memory as the engines read it: sparse in tests, mapped from a file, or asked of a live guest.

An address that nothing answers raises `OutsideMemory`; engines turn it into the fault that their specification has.
"""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import HarnessError, SpecError

__all__ = [
    "CallableMemory",
    "MappedMemory",
    "Memory",
    "OffsetMemory",
    "OutsideMemory",
    "Region",
    "SparseMemory",
    "WritableMemory",
    "split_ram",
]

_PAGE = 4096
_U64 = struct.Struct("<Q")
_unpack_u64 = _U64.unpack_from
_WORD_MASK = (1 << 64) - 1


class OutsideMemory(HarnessError):
    """No memory answers at an address.

    Attributes:
        address: the first byte that was asked for.
        size: bytes that were asked for.
    """

    def __init__(self, address: int, size: int = 8) -> None:
        super().__init__(f"no memory answers for {size} bytes at {address:#x}")
        self.address = address
        self.size = size


class Memory(Protocol):
    """Physical memory, little-endian. Both methods raise `OutsideMemory` where any byte of the range is not there."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes from `address` on."""
        ...

    def read_u64(self, address: int) -> int:
        """The 64-bit word at `address`."""
        ...


class WritableMemory(Memory, Protocol):
    """Memory that a builder writes. Both methods raise `OutsideMemory`, and then nothing has been written."""

    def write(self, address: int, data: bytes) -> None:
        """Store `data` from `address` on."""
        ...

    def write_u64(self, address: int, value: int) -> None:
        """Store a 64-bit word at `address`."""
        ...


@dataclass(frozen=True, slots=True)
class Region:
    """A run of physical memory.

    Attributes:
        base: physical address of its first byte.
        size: bytes.
        offset: where it starts in the file or buffer behind it.
    """

    base: int
    size: int
    offset: int = 0


def split_ram(size: int, low: int, high_base: int = 1 << 32) -> tuple[Region, ...]:
    """The regions of an x86 machine's RAM, which goes on above 4 GiB where the hole below it begins.

    Args:
        size: bytes of RAM.
        low: bytes of it that lie below 4 GiB at most (a property of the machine).
        high_base: where the rest goes on.
    """
    if size <= low:
        return (Region(0, size),)
    return (Region(0, low), Region(high_base, size - low, offset=low))


class _Regions:
    """Which physical addresses there are, found by bisection."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self.sorted = sorted(regions, key=lambda region: region.base)
        for before, after in zip(self.sorted, self.sorted[1:], strict=False):
            if before.base + before.size > after.base:
                raise SpecError(f"memory regions overlap at {after.base:#x}")
        self._bases = [region.base for region in self.sorted]

    def find(self, address: int, size: int) -> Region:
        """The region that holds the whole range.

        Raises:
            OutsideMemory: none does.
        """
        region = self.sorted[bisect_right(self._bases, address) - 1]
        if not region.base <= address <= region.base + region.size - size:
            raise OutsideMemory(address, size)
        return region


class SparseMemory:
    """Memory of which only what was written takes room; the rest of it reads as zero.

    Args:
        regions: what there is; 2^52 bytes from 0 on when left out.
    """

    def __init__(self, regions: Sequence[Region] = (Region(0, 1 << 52),)) -> None:
        self._words: dict[int, int] = {}
        self._regions = _Regions(regions)

    def read_u64(self, address: int) -> int:
        """See `Memory`."""
        word = self._words.get(address)
        if word is not None:
            return word
        if address & 7:
            return int.from_bytes(self.read(address, 8), "little")
        self._regions.find(address, 8)
        return 0

    def read(self, address: int, size: int) -> bytes:
        """See `Memory`."""
        self._regions.find(address, size)
        first = address & ~7
        words = self._words
        data = b"".join(_U64.pack(words.get(at, 0)) for at in range(first, address + size, 8))
        return data[address - first :][:size]

    def write_u64(self, address: int, value: int) -> None:
        """See `WritableMemory`."""
        if address & 7:
            self.write(address, _U64.pack(value))
            return
        self._regions.find(address, 8)
        self._words[address] = value & _WORD_MASK

    def write(self, address: int, data: bytes) -> None:
        """See `WritableMemory`."""
        self._regions.find(address, len(data))
        first = address & ~7
        last = -(-(address + len(data)) // 8) * 8
        whole = bytearray(b"".join(_U64.pack(self._words.get(at, 0)) for at in range(first, last, 8)))
        whole[address - first : address - first + len(data)] = data
        for at in range(first, last, 8):
            self._words[at] = _unpack_u64(whole, at - first)[0]

    def words(self) -> Iterator[tuple[int, int]]:
        """Every aligned word that was written, with its address."""
        return iter(self._words.items())


class MappedMemory:
    """Memory over a buffer: an mmap of a guest's memory backend, or a dump.

    The first region is tried first: put the one that holds the tables there.

    Args:
        buffer: mmap, bytearray or bytes.
        regions: what of it lies where; the whole of it at 0 when left out.

    Raises:
        SpecError: a region reaches beyond the buffer (a truncated dump), or regions overlap.
    """

    def __init__(self, buffer: mmap.mmap | bytearray | bytes | memoryview, regions: Sequence[Region] = ()) -> None:
        with memoryview(buffer) as view:
            available = view.nbytes
        regions = tuple(regions) or (Region(0, available),)
        _Regions(regions)
        for region in regions:
            if region.offset + region.size > available:
                raise SpecError(
                    f"a region of {region.size:#x} bytes at {region.base:#x} needs {region.offset + region.size:#x}"
                    f" bytes of the file, which has {available:#x}",
                    hint="the file is truncated, or the machine has less memory than was said",
                )
        self._whole = whole = memoryview(buffer).cast("B")
        self._views = tuple((r.base, r.base + r.size, whole[r.offset : r.offset + r.size]) for r in regions)
        self._base, end, self._first = self._views[0]
        self._size = end - self._base
        self._last_word = end - 8

    @classmethod
    @contextmanager
    def open(cls, path: Path, regions: Sequence[Region] = (), *, writable: bool = False) -> Iterator[MappedMemory]:
        """Map a file for as long as the context lasts.

        Raises:
            SpecError: the file cannot be mapped, or is shorter than the regions say.
        """
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        try:
            with path.open("r+b" if writable else "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=access)
        except (OSError, ValueError) as error:
            raise SpecError(f"{path} cannot be mapped as memory: {error}") from error
        with mapped:
            memory = cls(mapped, regions)
            try:
                yield memory
            finally:
                memory.release()

    def release(self) -> None:
        """Let go of the buffer; the memory cannot be read afterwards."""
        for _, _, view in self._views:
            view.release()
        self._whole.release()

    def read_u64(self, address: int) -> int:
        """See `Memory`."""
        # One word in the first region is what a walk asks for, so it costs two comparisons and no call.
        if self._base <= address <= self._last_word:
            word: int = _unpack_u64(self._first, address - self._base)[0]
            return word
        view, offset = self._find(address, 8)
        other: int = _unpack_u64(view, offset)[0]
        return other

    def read(self, address: int, size: int) -> bytes:
        """See `Memory`."""
        offset = address - self._base
        if 0 <= offset <= self._size - size:
            return self._first[offset : offset + size].tobytes()
        view, offset = self._find(address, size)
        return view[offset : offset + size].tobytes()

    def write_u64(self, address: int, value: int) -> None:
        """See `WritableMemory`."""
        view, offset = self._find(address, 8)
        _U64.pack_into(view, offset, value & _WORD_MASK)

    def write(self, address: int, data: bytes) -> None:
        """See `WritableMemory`."""
        view, offset = self._find(address, len(data))
        view[offset : offset + len(data)] = data

    def _find(self, address: int, size: int) -> tuple[memoryview, int]:
        for base, end, view in self._views:
            if base <= address and address + size <= end:
                return view, address - base
        raise OutsideMemory(address, size)


@dataclass(frozen=True, slots=True)
class OffsetMemory:
    """Memory as it is addressed from behind a stage of translation that maps all of it to one run of another.

    Attributes:
        memory: what it is mapped to.
        offset: where address 0 lies there; may be negative.
    """

    memory: WritableMemory
    offset: int

    def read(self, address: int, size: int) -> bytes:
        """See `Memory`."""
        return self.memory.read(address + self.offset, size)

    def read_u64(self, address: int) -> int:
        """See `Memory`."""
        return self.memory.read_u64(address + self.offset)

    def write(self, address: int, data: bytes) -> None:
        """See `WritableMemory`."""
        self.memory.write(address + self.offset, data)

    def write_u64(self, address: int, value: int) -> None:
        """See `WritableMemory`."""
        self.memory.write_u64(address + self.offset, value)


class CallableMemory:
    """Memory behind a function: a live guest over qtest or QMP.

    Args:
        read: gives `size` bytes from `address` on.
        regions: what there is. Outside of it the function is never called: a bus read of nothing answers ones.
        cached: read whole pages of 4 KiB and keep them until `forget`; for a guest that is stopped.

    Raises:
        SpecError: `cached`, with regions that are not whole pages.
    """

    def __init__(self, read: Callable[[int, int], bytes], regions: Sequence[Region], *, cached: bool = False) -> None:
        self._read = read
        self._regions = _Regions(regions)
        self._pages: dict[int, bytes] | None = {} if cached else None
        if cached and any(region.base % _PAGE or region.size % _PAGE for region in regions):
            raise SpecError("cached memory needs regions of whole 4 KiB pages", hint="use cached=False")

    def forget(self) -> None:
        """Drop what was cached: the guest has run since."""
        if self._pages is not None:
            self._pages.clear()

    def read_u64(self, address: int) -> int:
        """See `Memory`."""
        return int.from_bytes(self.read(address, 8), "little")

    def read(self, address: int, size: int) -> bytes:
        """See `Memory`."""
        self._regions.find(address, size)
        pages = self._pages
        if pages is None:
            return self._read(address, size)
        first = address - address % _PAGE
        needed = range(first, address + size, _PAGE)
        for page in needed:
            if page not in pages:
                pages[page] = self._read(page, _PAGE)
        return b"".join(pages[page] for page in needed)[address - first :][:size]
