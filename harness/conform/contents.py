"""What devices have in their buffers. What a read has brought is in doubt until a write has shown it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.conform.attempt import Attempt
from harness.conform.edu import BUFFER_BYTES, first_buffer
from harness.conform.layout import DEVICES
from harness.conform.program import Dma
from harness.conform.request import Request
from harness.model.access import Fault

__all__ = ["Contents"]

_FIRST = {entry.id: first_buffer(number) for number, entry in enumerate(DEVICES)}


class _Doubt(NamedTuple):
    """What a read may have brought into a buffer, where more than one outcome was allowed.

    Attributes:
        offset: into the buffer.
        data: what may be there, each of the same length; that of the outcome that was taken first.
    """

    offset: int
    data: tuple[bytes, ...]


class Contents:
    """The buffers of all devices, each as at first."""

    def __init__(self) -> None:
        self._buffers: dict[str, bytearray] = {}
        self._reads: dict[str, list[Request]] = {}
        # Of each device the last read of which nothing has shown yet what it read.
        self._doubts: dict[str, _Doubt] = {}
        self._doubts_before: dict[str, _Doubt] = {}
        self.begin()

    def begin(self) -> None:
        """Be as at first."""
        self._buffers = {id: bytearray(data) for id, data in _FIRST.items()}
        self._reads.clear()
        self._doubts.clear()

    def plugged(self, id: str) -> None:
        """A device is a new one: there are zeroes in its buffer."""
        self._buffers[id] = bytearray(BUFFER_BYTES)
        self._doubts.pop(id, None)

    def mark(self) -> None:
        """A round begins."""
        self._doubts_before = dict(self._doubts)

    def rollback(self) -> None:
        """The round begins once more, with the same DMAs."""
        self._doubts = dict(self._doubts_before)

    def data(self, request: Request) -> bytes:
        """What a request writes, or has read."""
        return bytes(self._buffers[request.dma.device][request.offset : request.offset + request.access.length])

    def last_read(self, id: str) -> Request | None:
        """Of the last DMA in which a device read, the first request that must be blocked, or else the first."""
        requests = self._reads.get(id, [])
        return next((each for each in requests if isinstance(each.outcome, Fault)), next(iter(requests), None))

    def begin_read(self, id: str) -> None:
        """A DMA begins in which a device reads: what it read before is of no interest any more."""
        self._reads[id] = []
        self._doubts.pop(id, None)

    def take(self, request: Request, data: bytes) -> None:
        """A request has read."""
        self._buffers[request.dma.device][request.offset : request.offset + len(data)] = data
        self._reads[request.dma.device].append(request)

    def doubt(self, request: Request, others: Sequence[bytes]) -> None:
        """What a request has read may be something else, each as long."""
        found = list(dict.fromkeys((self.data(request), *others)))
        id = request.dma.device
        before = self._doubts.get(id)
        if before is not None and before.offset + len(before.data[0]) == request.offset:
            # The pieces of a DMA go the same way.
            whole = (
                before.data[min(number, len(before.data) - 1)] + found[min(number, len(found) - 1)]
                for number in range(max(len(before.data), len(found)))
            )
            self._doubts[id] = _Doubt(before.offset, tuple(whole))
        elif len(found) > 1:
            self._doubts[id] = _Doubt(request.offset, tuple(found))

    def decide(self, dma: Dma, attempt: Attempt) -> bool:
        """Before a write of what is in doubt: choose what that was; false where nothing is."""
        doubt = self._doubts.get(dma.device)
        if doubt is None or not (
            doubt.offset < dma.offset + dma.length and dma.offset < doubt.offset + len(doubt.data[0])
        ):
            return False
        data = doubt.data[attempt.choose(len(doubt.data))]
        self._buffers[dma.device][doubt.offset : doubt.offset + len(data)] = data
        self._doubts[dma.device] = _Doubt(doubt.offset, (data, *(each for each in doubt.data if each != data)))
        return True
