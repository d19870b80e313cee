"""What a malicious device does: the scenarios that several cases share.

The device is QEMU's edu, driven by the host behind the guest's back. Its buffer is all zeroes until something is
loaded, and the guest's pages hold no zero byte, so that a write that gets through shows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from harness.checks.dma import check_memory, check_outcome, check_reported, check_unreported
from harness.guest.agent import Pages
from harness.live import LiveMachine
from harness.model.access import AccessKind
from harness.report.record import Finding

__all__ = ["COUNT", "canary", "copy", "write", "write_over"]

COUNT = 64
"""Bytes of a DMA."""

_AT = 1024


def canary() -> bytes:
    """A page of random bytes, none of them zero."""
    return bytes(random.choices(range(1, 256), k=4096))


def write_over(live: LiveMachine, device: str, page: Pages, *, blocked: bool) -> Iterator[Finding]:
    """Have a device write into a page of the guest, at its guest physical address; what is wrong with the outcome."""
    aim = page.frames[0] + _AT
    why = f"{live.spec.device(device)} with DMA mode {live.spec.dma_mode}"
    yield from write(live, device, aim, aim, page, blocked=blocked, why=why)


def write(
    live: LiveMachine,
    device: str,
    iova: int,
    aim: int,
    *pages: Pages,
    blocked: bool,
    why: str,
    count: int = COUNT,
) -> Iterator[Finding]:
    """Have a device write what is in its buffer; what is wrong with the model's walk, memory, or the guest's log.

    Args:
        live: the machine.
        device: an edu device.
        iova: address that it puts on the bus.
        aim: guest physical address where that leads if nothing stops it.
        pages: pages to look at before and after.
        blocked: whether it must be stopped and reported; else it must get through, and nothing be reported.
        why: where that comes from.
        count: bytes.
    """
    access, outcome, walk = live.expect(device, iova, AccessKind.WRITE, count)
    yield from check_outcome(access, None if blocked else aim, outcome, walk, why)
    mark = live.log_mark()
    seen = live.store(device, iova, count, aim=aim, watch=[frame for held in pages for frame in held.frames])
    reports = live.faults(access.requester, since=mark, wait=blocked)
    for held in pages:
        live.check_unmoved(held)
    yield from check_memory(access, seen, walk, blocked=blocked)
    yield from check_reported(access, reports) if blocked else check_unreported(access, reports)


def copy(live: LiveMachine, device: str) -> Iterator[Finding]:
    """Have a device copy from one page of the guest into another, at their guest physical addresses."""
    source, target = live.allocate(1, canary()), live.allocate(1, canary())
    read, outcome, walk = live.expect(device, source.frames[0], AccessKind.READ, COUNT)
    yield from check_outcome(read, source.frames[0], outcome, walk, f"DMA mode {live.spec.dma_mode}")
    live.load(device, source.frames[0], source.frames[0], COUNT)
    yield from write_over(live, device, target, blocked=False)
