"""What a network card can be told to do, whatever kind it is.

A frame that is sent is a DMA read whose bytes come out of the cable, one that is received a DMA write of bytes that
went into it. The card never tells whether the IOMMU let it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from harness.errors import VmmTimeout

__all__ = ["QUEUE_BYTES", "Nic", "QueuePage", "wait_until"]

QUEUE_BYTES = 4096
"""What a queue takes, bytes."""

_POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class QueuePage:
    """Memory of the guest that a queue is kept in: `QUEUE_BYTES`, aligned to them.

    Attributes:
        iova: address by which the card reaches it.
        address: guest physical address, by which the host writes to it.
    """

    iova: int
    address: int


class Nic(Protocol):
    """One card. What it is told it begins at once; none of these waits for the end, except where that is said."""

    def start(self, sending: QueuePage, receiving: QueuePage) -> None:
        """Reset it, and set up both queues; waits until it has a link.

        Raises:
            SpecError: another device, or none, is there.
            VmmError: it does not take what is set up.
            VmmTimeout: it does not become ready.
        """

    def send(self, *pieces: tuple[int, int]) -> None:
        """Send a frame that stands in pieces, each an IOVA and its bytes; a descriptor for each."""

    def offer(self, iova: int, count: int) -> None:
        """Offer a buffer of `count` bytes at `iova` for the next frame that is received; not less than that has."""

    def wait_sent(self, *, deadline: float = 5.0) -> None:
        """Wait until it is done with every frame that it was told to send.

        Raises:
            VmmTimeout: it is not, in so many seconds.
        """

    def wait_received(self, *, deadline: float = 5.0) -> None:
        """Wait until it is done with every buffer that it was offered.

        Raises:
            VmmTimeout: it is not, in so many seconds.
        """


def wait_until(done: Callable[[], bool], what: str, deadline: float) -> None:
    """Poll.

    Args:
        done: whether it has come about.
        what: for people: "the NIC at ... has not sent ...".
        deadline: seconds.

    Raises:
        VmmTimeout: it has not.
    """
    end = time.monotonic() + deadline
    while not done():
        if time.monotonic() > end:
            raise VmmTimeout(f"{what} within {deadline:g} s", hint="it runs in the guest's time: is the guest stopped?")
        time.sleep(_POLL_SECONDS)
