"""What was seen of a machine, as data: written by whoever drives it, read by `harness.checks`.

What the guest's agent and lspci report has its types where it is read, in `harness.guest`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DmaSeen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaSeen:
    """What a DMA write left behind.

    Attributes:
        before: guest memory, by guest physical address, as it was before: the target and its surroundings.
        after: the same addresses, afterwards.
        payload: what stood in the device's buffer.
        aim: guest physical address where the payload stands afterwards if nothing stops the write.
    """

    before: dict[int, bytes]
    after: dict[int, bytes]
    payload: bytes
    aim: int
