"""Two copies of a machine's memory, the real one and what must be in it: how they are compared, and what is written.

Memory is laid out the same way on every board::

    0x000000  not used, and not compared: boards have other things there, or a reset puts a device tree there
    0x100000  queues, records, status
    0x140000  tables
    0x400000  data: pages that devices may reach; every word of them tells where it stands
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Sequence
from functools import cache

from harness.conform.command import RAM_BYTES
from harness.model.memory import WritableMemory

__all__ = ["DATA", "HOT_DATA", "QUEUES", "TABLES", "TwinMemory", "WatchedMemory", "first_word"]

QUEUES = range(0x10_0000, 0x14_0000)
"""Where queues, records and status are, from the start of memory on."""
TABLES = range(0x14_0000, 0x3F_0000)
"""Where tables are; the last of them is no neighbour of data."""
DATA = range(0x40_0000, RAM_BYTES)
"""Where pages are that devices may reach."""
HOT_DATA = range(DATA.start, DATA.start + 0x4_0000)
"""Those of them that most DMA goes to."""

_FIRST = QUEUES.start
_WORD = 8
_BLOCK = 4096
_PART = 64 * _BLOCK
_HOT = (QUEUES, HOT_DATA)

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def first_word(at: int) -> int:
    """What a word of data at an offset holds at first: its own place, in a form that no program makes up."""
    return 0xDA7A << 48 | at


@cache
def _first_content() -> bytes:
    """All of memory at the beginning of a program."""
    data = b"".join(first_word(at).to_bytes(_WORD, "little") for at in range(DATA.start, DATA.stop, _WORD))
    return bytes(DATA.start) + data


class TwinMemory:
    """The real memory and its twin.

    Args:
        real: of the machine.
        start: what is at its start and stays there: the processor may not have come to it yet.

    Attributes:
        real: the same.
        twin: what must be in it.
    """

    def __init__(self, real: mmap.mmap, start: bytes = b"") -> None:
        self.real = real
        self.twin = bytearray(RAM_BYTES)
        self._first = start + _first_content()[len(start) :]
        # Neither moves while it is open.
        self._real_at = ctypes.addressof(ctypes.c_char.from_buffer(real))
        self._twin_at = ctypes.addressof(ctypes.c_char.from_buffer(self.twin))
        self.begin()

    def begin(self) -> None:
        """Both hold what they hold at the beginning of a program."""
        self.real[:] = self._first
        self.twin[:] = self._first

    def hot_agrees(self) -> bool:
        """Whether they are the same where most changes are."""
        return not any(self._differ(where.start, len(where)) for where in _HOT)

    def agrees(self) -> bool:
        """Whether they are the same everywhere."""
        return not self._differ(_FIRST, RAM_BYTES - _FIRST)

    def real_has(self, at: int, data: bytes) -> bool:
        """Whether the real memory holds these bytes at an offset."""
        return self.real[at : at + len(data)] == data

    def twin_has(self, at: int, data: bytes) -> bool:
        """Whether the twin does."""
        return self.twin[at : at + len(data)] == data

    def hot_differences(self) -> Sequence[int]:
        """Those of `differences` that are where most changes are."""
        return [at for where in _HOT for at in self._differences(where)]

    def differences(self) -> Sequence[int]:
        """Offsets of the 64-bit words that differ, in ascending order."""
        return list(self._differences(range(_FIRST, RAM_BYTES)))

    def _differences(self, where: range) -> Iterator[int]:
        for part in range(where.start, where.stop, _PART):
            end = min(part + _PART, where.stop)
            if self._differ(part, end - part):
                for block in range(part, end, _BLOCK):
                    if self._differ(block, _BLOCK):
                        yield from self._words(block)

    def _words(self, block: int) -> Iterator[int]:
        """Those in one block."""
        real, twin = (int.from_bytes(copy[block : block + _BLOCK], "little") for copy in (self.real, self.twin))
        differing = real ^ twin
        at = block
        while differing:
            same = ((differing & -differing).bit_length() - 1) // (8 * _WORD)
            at += same * _WORD
            yield at
            at += _WORD
            differing >>= 8 * _WORD * (same + 1)

    def _differ(self, start: int, size: int) -> bool:
        return bool(_memcmp(self._real_at + start, self._twin_at + start, size))


class WatchedMemory:
    """Passes everything on, and notes what is written: the unit's records.

    Args:
        memory: what is behind it.

    Attributes:
        writes: address and data of each write, until somebody clears them.
    """

    def __init__(self, memory: WritableMemory) -> None:
        self._memory = memory
        self.writes: list[tuple[int, bytes]] = []
        self.read = memory.read
        self.read_u64 = memory.read_u64

    def write(self, address: int, data: bytes) -> None:
        """See `WritableMemory`."""
        self._memory.write(address, data)
        self.writes.append((address, data))

    def write_u64(self, address: int, value: int) -> None:
        """See `WritableMemory`."""
        self.write(address, value.to_bytes(_WORD, "little"))
