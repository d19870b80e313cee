"""A malicious device that writes without pause, while something is done to the machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rogue import COUNT, RATE_LIMIT_SECONDS, canary, write

from harness.errors import HarnessError
from harness.guest.answers import Pages
from harness.live.machine import LiveMachine
from harness.report.record import Finding

__all__ = ["Stream", "check_ends", "stream", "stream_over_a_restart"]

_NEVER_LOADED = 2048  # offset into an edu's buffer: zeroes
_FIRST_SECONDS = 10.0
_MORE_SECONDS = 20.0
_ATTEMPTS = 3
_PAUSE_SECONDS = 0.01


class Stream:
    """One stream of writes of zeroes to one place, which the host fills with something else before each.

    Args:
        live: the machine.
        device: an edu device.
        iova: address that it puts on the bus.
        aim: guest physical address where that leads if nothing stops it.
        is_helped: whether the place is filled again, and a device that was reset is switched on again.
    """

    def __init__(self, live: LiveMachine, device: str, iova: int, aim: int, *, is_helped: bool = True) -> None:
        self._live, self._device, self._iova, self._aim, self._is_helped = live, device, iova, aim, is_helped
        self._rogue = live.rogue(device)
        self._pattern = canary()[:COUNT]
        self._arrived: list[bool] = []
        self._stop = threading.Event()
        self._worker = threading.Thread(target=self._go_on)

    def start(self) -> None:
        """Begin."""
        self._worker.start()

    def stop(self) -> None:
        """End, and wait until the last write has: also one that took so long that it was given up."""
        self._stop.set()
        self._worker.join()
        if self._is_helped:
            with suppress(HarnessError):  # the device has gone
                self._rogue.enable()
                self._rogue.wait_idle()

    def _go_on(self) -> None:
        while not self._stop.is_set():
            self._arrived.append(self._attempt())

    def _attempt(self) -> bool:
        """One write; whether it arrived. One that a reset interrupts does not, nor one of a device that has gone."""
        try:
            if self._is_helped:
                self._live.vmm.memory.write(self._aim, self._pattern)
            self._rogue.dma_from_device(_NEVER_LOADED, self._iova, COUNT, deadline=1)
            return self._live.vmm.memory.read(self._aim, COUNT) == bytes(COUNT)
        except HarnessError:
            time.sleep(_PAUSE_SECONDS)
            if self._is_helped:
                with suppress(HarnessError):
                    self._rogue.enable()
            return False

    @property
    def attempts(self) -> int:
        """Writes that have ended."""
        return len(self._arrived)

    def wait_for_arrival(self) -> None:
        """Wait until one write has arrived.

        Raises:
            HarnessError: none does.
        """
        end = time.monotonic() + _FIRST_SECONDS
        while not any(self._arrived):
            if time.monotonic() > end:
                raise HarnessError(f"{self._device} wrote for {_FIRST_SECONDS:g} s, and nothing arrived")
            time.sleep(_PAUSE_SECONDS)

    def check_all_arrived(self, what: str) -> Iterator[Finding]:
        """From the first write that arrived until now none was lost, and the next ones arrive too."""
        self._next()
        seen = self._arrived[self._arrived.index(True) :]
        if not all(seen):
            lost = f"{seen.count(False)} of {len(seen)} were lost"
            yield Finding(subject=f"writes of {self._device} {what}", expected="all of them arrive", seen=lost)

    def check_none_arrives(self, what: str) -> Iterator[Finding]:
        """No write arrives that is begun from now on."""
        if any(seen := self._next()):
            arrived = f"{seen.count(True)} of {len(seen)} arrived"
            yield Finding(subject=f"writes of {self._device} {what}", expected="none of them arrives", seen=arrived)

    def _next(self) -> list[bool]:
        """Whether the next writes arrive, without the one that is under way.

        Raises:
            HarnessError: the device has stopped writing.
        """
        first, end = len(self._arrived) + 1, time.monotonic() + _MORE_SECONDS
        while len(self._arrived) < first + _ATTEMPTS:
            if time.monotonic() > end:
                raise HarnessError(f"{self._device} has not written {_ATTEMPTS} times in {_MORE_SECONDS:g} s")
            time.sleep(_PAUSE_SECONDS)
        return self._arrived[first : first + _ATTEMPTS]


@contextmanager
def stream(live: LiveMachine, device: str, iova: int, aim: int) -> Iterator[Stream]:
    """Have a device write to an IOVA, which leads there if nothing stops it, while the block lasts."""
    writes = Stream(live, device, iova, aim)
    writes.start()
    try:
        yield writes
    finally:
        writes.stop()


def check_ends(
    live: LiveMachine, device: str, iova: int, page: Pages, end: Callable[[], None], what: str
) -> Iterator[Finding]:
    """While a device writes to a page, what lets it ends: no write that is begun from then on gets through.

    Args:
        live: the machine.
        device: an edu device.
        iova: where the page is mapped for it.
        page: of the guest.
        end: ends it.
        what: that is, for people.
    """
    with stream(live, device, iova, page.frames[0]) as writes:
        writes.wait_for_arrival()
        end()
        yield from writes.check_none_arrives(f"after {what}")
    time.sleep(RATE_LIMIT_SECONDS)  # so that the guest reports faults again
    frame = page.frames[0]
    for at, base in ((2048, iova), (3072, frame)):
        yield from write(live, device, base + at, frame + at, page, blocked=True, why=what, count=4)


@contextmanager
def stream_over_a_restart(live: LiveMachine, device: str, iova: int, aim: int) -> Iterator[None]:
    """The same while the kernel is replaced: the host writes nothing into memory that the next one may have by then.

    Raises:
        HarnessError: nothing arrived before, or the device did not go on during the block.
    """
    writes = Stream(live, device, iova, aim, is_helped=False)
    writes.start()
    try:
        writes.wait_for_arrival()
        before = writes.attempts
        yield
        if writes.attempts == before:
            raise HarnessError(f"{device} wrote nothing while the kernel was replaced")
    finally:
        writes.stop()
