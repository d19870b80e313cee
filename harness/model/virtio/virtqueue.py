"""Split virtqueues as the device works with them (virtio 1.3, 2.7).

What a device does with a chain that a driver must not make is not said. Here it is told apart (`MalformedChain`),
before anything of the chain is used, and whoever serves the queue decides.

Where the specification leaves the device a choice, this is the one taken: buffers are used in the order in which they
were made available; `flags` of the used ring stays 0, so that the driver notifies each time; behind the used length
nothing is written.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from harness.errors import HarnessError
from harness.model.access import MemoryWrite
from harness.model.bits import Field, Layout
from harness.model.engine import NotModelled
from harness.model.memory import OutsideMemory, WritableMemory
from harness.model.unit import Place

__all__ = [
    "ALIGNMENTS",
    "USED_ELEMENT_SIZE",
    "Buffer",
    "Chain",
    "DescriptorFlags",
    "MalformedChain",
    "QueueState",
    "Rings",
    "SplitQueue",
]

ALIGNMENTS = (16, 2, 4)
"""Of descriptor table, available ring and used ring, bytes (2.7)."""

_DESCRIPTOR = struct.Struct("<QIHH")
_USED_ELEMENT = struct.Struct("<II")
USED_ELEMENT_SIZE = _USED_ELEMENT.size
"""struct virtq_used_elem, bytes (2.7.8)."""
_U16 = struct.Struct("<H")
_INDEX_MASK = 0xFFFF
_NO_INTERRUPT = 1
_LONGEST_CHAIN = 1 << 32  # bytes (2.7.5.2)

_USED_HEAD = Layout("virtq_used", "virtio 2.7.8", (Field("flags", 0, 16), Field("idx", 16, 16)))
_USED_ELEM = Layout("virtq_used_elem", "virtio 2.7.8", (Field("id", 0, 32), Field("len", 32, 32)))


class DescriptorFlags:
    """VIRTQ_DESC_F_* (2.7.5)."""

    NEXT = 1
    WRITE = 2
    INDIRECT = 4


class MalformedChain(HarnessError):
    """The driver has made available what it must not."""


class Buffer(NamedTuple):
    """One element of a chain: physical address and bytes."""

    address: int
    length: int


@dataclass(frozen=True, slots=True)
class Chain:
    """A buffer that the driver has made available.

    Attributes:
        head: index of its first descriptor.
        readable: its device-readable elements.
        writable: its device-writable elements.
        indirect: whether it has an indirect table.
    """

    head: int
    readable: tuple[Buffer, ...]
    writable: tuple[Buffer, ...]
    indirect: bool = False

    @property
    def writable_size(self) -> int:
        """Device-writable bytes."""
        return sum(element.length for element in self.writable)

    def writable_at(self, number: int) -> int:
        """Physical address of a device-writable byte, by its number."""
        for address, length in self.writable:
            if number < length:
                return address + number
            number -= length
        raise IndexError("a chain has fewer device-writable bytes")

    def scatter(self, data: bytes) -> Iterator[MemoryWrite]:
        """The writes that put `data` into the device-writable elements, from the first on."""
        at = 0
        for address, length in self.writable:
            part = data[at : at + length]
            if part:
                yield MemoryWrite(address, part)
            at += length


@dataclass(frozen=True, slots=True)
class Rings:
    """Where a queue lies.

    Attributes:
        size: Queue Size, descriptors.
        descriptors: physical address of the descriptor table,
        driver: of the available ring,
        device: of the used ring.
    """

    size: int
    descriptors: int
    driver: int
    device: int


class QueueState(NamedTuple):
    """How far the device is: the indices of the next entries of the available and of the used ring."""

    available: int
    used: int


class SplitQueue:
    """A queue that is enabled.

    Args:
        memory: physical memory.
        rings: where it lies.
        indirect: whether INDIRECT_DESC was negotiated.
        event_idx: whether EVENT_IDX was negotiated.
        advises: whether the device keeps `avail_event` at the entry that it takes next, where EVENT_IDX was negotiated
            (it may, 2.7.10); else it never writes it. An entry that names no descriptor is not taken.
        signal: is called for each buffer that is used, with whether a notification must be sent (2.7.7).

    Attributes:
        rings: the same.
    """

    def __init__(
        self,
        memory: WritableMemory,
        rings: Rings,
        *,
        indirect: bool,
        event_idx: bool,
        advises: bool,
        signal: Callable[[bool], None],
    ) -> None:
        self.rings = rings
        self._memory = memory
        self._indirect = indirect
        self._event_idx = event_idx
        self._advises = advises and event_idx
        self._signal = signal
        self._available = 0
        self._used = 0

    def save(self) -> QueueState:
        """A point to come back to."""
        return QueueState(self._available, self._used)

    def restore(self, state: QueueState) -> None:
        """Be as at `save`; memory is not touched."""
        self._available, self._used = state

    def take(self) -> Chain | None:
        """The next buffer that is available (2.7.6, 2.7.13).

        Raises:
            MalformedChain: it is none that a driver may make.
            NotModelled: an element is not in memory or of no bytes, or more buffers are available than the queue holds.
        """
        rings = self.rings
        waiting = self._read_u16(rings.driver + 2) - self._available & _INDEX_MASK
        if not waiting:
            return None
        if waiting > rings.size:
            raise NotModelled(f"{waiting} buffers are available in a queue of {rings.size}")
        head = self._read_u16(rings.driver + 4 + 2 * (self._available % rings.size))
        if head >= rings.size:
            raise MalformedChain(f"descriptor {head} of a table of {rings.size}")
        self._available = self._available + 1 & _INDEX_MASK
        if self._advises:
            self._write(rings.device + 4 + 8 * rings.size, _U16.pack(self._available))
        return self._chain(head)

    def gather(self, chain: Chain, limit: int) -> bytes:
        """The first `limit` device-readable bytes of a chain."""
        return self._join(chain.readable, limit)

    def peek(self, chain: Chain, limit: int) -> bytes:
        """What stands in the first `limit` device-writable bytes of a chain."""
        return self._join(chain.writable, limit)

    def put(self, chain: Chain, data: bytes) -> None:
        """Write `data` into a chain, and give it back to the driver: the used length is that of `data` (2.7.8)."""
        for write in chain.scatter(data):
            self._write(write.address, write.data)
        rings = self.rings
        place = rings.device + 4 + 8 * (self._used % rings.size)
        self._write(place, _USED_ELEMENT.pack(chain.head, len(data)))
        self._signal(self._must_notify())
        self._used = self._used + 1 & _INDEX_MASK
        self._write(rings.device + 2, _U16.pack(self._used))

    def place_at(self, address: int) -> Place | None:
        """The part of the used ring that a byte of memory belongs to."""
        rings = self.rings
        at = address - rings.device
        if 0 <= at < 4:
            return Place("virtq_used", rings.device, 4, _USED_HEAD)
        number = (at - 4) // 8
        if 0 <= number < rings.size:
            return Place("virtq_used_elem", rings.device + 4 + 8 * number, 8, _USED_ELEM)
        if self._event_idx and 0 <= at - 4 - 8 * rings.size < 2:
            return Place("avail_event", rings.device + 4 + 8 * rings.size, 2)
        return None

    def chains(self) -> Iterator[Chain]:
        """Every well-formed chain that an entry of the available ring names, the one that was taken last first."""
        for number in range(1, self.rings.size + 1):
            place = (self._available - number) % self.rings.size
            try:
                yield self._chain(self._read_u16(self.rings.driver + 4 + 2 * place))
            except (MalformedChain, NotModelled):
                continue

    # 2.7.7: where the driver may not want to be told, it need not be.
    def _must_notify(self) -> bool:
        rings = self.rings
        if self._event_idx:
            return self._read_u16(rings.driver + 4 + 2 * rings.size) == self._used
        return not self._read_u16(rings.driver) & _NO_INTERRUPT

    def _chain(self, head: int) -> Chain:
        readable: list[Buffer] = []
        writable: list[Buffer] = []
        table, count, index, indirect = self.rings.descriptors, self.rings.size, head, False
        while True:
            if index >= count:
                raise MalformedChain(f"descriptor {index} of a table of {count}")
            address, length, flags, following = _DESCRIPTOR.unpack(self._read(table + 16 * index, 16))
            if flags & DescriptorFlags.INDIRECT:
                # 2.7.5.3.1; of an indirect descriptor WRITE is ignored (2.7.5.3.2).
                if not self._indirect or indirect or flags & DescriptorFlags.NEXT or not length or length % 16:
                    raise MalformedChain(f"descriptor {index}: no indirect table may be here, or not this one")
                table, count, index, indirect = address, length // 16, 0, True
                continue
            if not length:
                raise NotModelled(f"descriptor {index} is of no bytes, of which virtio 2.7.5 does not speak")
            self._check(address, length)
            if flags & DescriptorFlags.WRITE:
                writable.append(Buffer(address, length))
            elif writable:
                raise MalformedChain(f"descriptor {index} is device-readable, behind a device-writable one (2.7.4.2)")
            else:
                readable.append(Buffer(address, length))
            if not flags & DescriptorFlags.NEXT:
                break
            if len(readable) + len(writable) == self.rings.size:
                raise MalformedChain(f"a chain of more than {self.rings.size} descriptors (2.7.5.3.1)")
            index = following
        if sum(element.length for element in (*readable, *writable)) > _LONGEST_CHAIN:
            raise MalformedChain("a chain of more than 4 GiB (2.7.5.2)")
        return Chain(head, tuple(readable), tuple(writable), indirect)

    def _join(self, elements: tuple[Buffer, ...], limit: int) -> bytes:
        data = b""
        for address, length in elements:
            data += self._read(address, min(length, limit - len(data)))
        return data

    def _check(self, address: int, length: int) -> None:
        """Both ends of an element must be in memory."""
        self._read(address, 1)
        self._read(address + length - 1, 1)

    def _read_u16(self, address: int) -> int:
        return int.from_bytes(self._read(address, 2), "little")

    def _read(self, address: int, size: int) -> bytes:
        try:
            return self._memory.read(address, size)
        except OutsideMemory as error:
            raise _not_memory(error) from None

    def _write(self, address: int, data: bytes) -> None:
        try:
            self._memory.write(address, data)
        except OutsideMemory as error:
            raise _not_memory(error) from None


def _not_memory(error: OutsideMemory) -> NotModelled:
    return NotModelled(f"a part of a virtqueue is not in memory: {error.message}")
