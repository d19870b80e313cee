"""Where the data of a device's write are that must not have arrived."""

from __future__ import annotations

from collections.abc import Sequence

from harness.conform.contents import Contents
from harness.conform.edu import LANDING
from harness.conform.memory import TwinMemory
from harness.conform.request import Request
from harness.model.access import Fault
from harness.model.unit import Unit

__all__ = ["Arrivals"]

_WORD = 8
_PAGE = 4096  # the smallest page of all architectures: translation leaves the address within it alone
_SHORTEST_PAYLOAD = 4  # bytes that occur nowhere else


class Arrivals:
    """Looks for them on one machine.

    Args:
        unit: of the model.
        memory: the real memory and its twin.
        ram: physical address where memory begins.
        contents: of the devices' buffers.
    """

    def __init__(self, unit: Unit, memory: TwinMemory, ram: int, contents: Contents) -> None:
        self._unit = unit
        self._memory = memory
        self._ram = ram
        self._contents = contents

    def find(self, request: Request, data: bytes, differing: Sequence[int]) -> int | None:
        """Where the data of a blocked write arrived: at its place in a page, or where nothing else is like it.

        Args:
            request: the write.
            data: what it wrote, as far as that is known.
            differing: offsets of the words of memory that differ.
        """
        within = request.access.iova % _PAGE
        places = [word // _PAGE * _PAGE + within for word in differing if word % _PAGE == within & -_WORD]
        for at in places:
            if self._is_new(at, data):
                return at
        if self._is_unknown(request):
            return next((at for at in places if self._is_all_that_changed(at, len(data))), None)
        # Few bytes stand elsewhere as well, and so does what a device has read before.
        if len(data) < _SHORTEST_PAYLOAD or request.dma.offset in LANDING:
            return None
        for word in differing:
            at = self._memory.real.find(data, word, word + _WORD - 1 + len(data))
            if at >= 0 and self._unit.structure_at(at + self._ram) is None:
                return at
        return None

    def vagueness(self, request: Request) -> tuple[bool, bool, bool]:
        """How little what is seen of a write tells whose it is.

        What arrived where it must not may have come over what had to be there. Data that are known tell more than
        others, and zeroes next to nothing: a device writes them wherever a read has brought none.
        """
        must_arrive = request.address is not None
        is_blank = not must_arrive and not any(self._contents.data(request))
        return is_blank, must_arrive, self._is_unknown(request)

    def _is_unknown(self, request: Request) -> bool:
        """Whether what a blocked write has written is not known: the device may have read what it must not."""
        read = self._contents.last_read(request.dma.device) if request.dma.offset in LANDING else None
        return read is not None and isinstance(read.outcome, Fault)

    def _is_new(self, at: int, data: bytes) -> bool:
        """Whether these bytes are there, and must not be, and nothing that the IOMMU itself writes is."""
        twin = bytes(self._memory.twin[at : at + len(data)])
        return self._memory.real_has(at, data) and twin != data and self._unit.structure_at(at + self._ram) is None

    def _is_all_that_changed(self, at: int, length: int) -> bool:
        """Whether of the words that some bytes are in no others differ, and the IOMMU itself writes none of them."""
        rest = [*range(at & -_WORD, at), *range(at + length, (at + length + _WORD - 1) & -_WORD)]
        same = all(self._memory.real[each] == self._memory.twin[each] for each in rest)
        return same and self._unit.structure_at(at + self._ram) is None
