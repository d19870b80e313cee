"""What a malicious device does: one DMA, and everything that is to be seen of it.

The device is QEMU's edu, driven by the host behind the guest's back. Its buffer is all zeroes until something is
loaded, and the guest's pages hold no zero byte, so that a write that gets through shows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from harness.checks.dma import check_absent, check_bytes, check_memory, check_outcome, check_reported, check_unreported
from harness.errors import HarnessError
from harness.guest.answers import Pages
from harness.live.machine import LiveMachine
from harness.model.access import AccessKind
from harness.report.record import Finding

__all__ = [
    "COUNT",
    "RATE_LIMIT_SECONDS",
    "canary",
    "copy",
    "neighbours",
    "read",
    "scattered",
    "write",
    "write_in_parts",
    "write_over",
    "write_unheard",
]

COUNT = 64
"""Bytes of a DMA."""

RATE_LIMIT_SECONDS = 5
"""How long a guest is silent when it has reported ten faults: Linux, include/linux/ratelimit_types.h."""

_AT = 1024
_PAGE = 4096
_TRIES = 256


def canary() -> bytes:
    """Random bytes, none of them zero, to fill pages with: three more than a page, so that no two pages are alike."""
    return bytes(random.choices(range(1, 256), k=_PAGE + 3))


def neighbours(live: LiveMachine, fill: bytes) -> tuple[Pages, Pages]:
    """Two pages of the guest that follow each other in guest physical memory.

    Raises:
        HarnessError: among the pages that the guest gives there are none.
    """
    held: dict[int, Pages] = {}
    for _ in range(_TRIES):
        page = live.allocate(1, fill)
        frame = page.frames[0]
        held[frame] = page
        for first in (frame - _PAGE, frame):
            if first in held and first + _PAGE in held:
                return held[first], held[first + _PAGE]
    raise HarnessError(f"of {_TRIES} pages of the guest no two follow each other", hint="run the case again")


def scattered(pages: Pages) -> list[int]:
    """Numbers of the pages in an order in which none stands right behind the one before it in guest physical memory."""
    order = sorted(range(len(pages.frames)), key=lambda number: pages.frames[number])
    half = len(order) // 2
    return [order[n // 2 + n % 2 * half] for n in range(2 * half)]


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
    in_use: bool = False,
) -> Iterator[Finding]:
    """Have a device write what is in its buffer; what is wrong with the model's walk, memory, or the guest's log.

    Args:
        live: the machine.
        device: an edu device.
        iova: address that it puts on the bus.
        aim: guest physical address where that leads if nothing stops it.
        pages: pages to look at before and after, beside that one.
        blocked: whether it must be stopped and reported; else it must get through, and nothing be reported.
        why: where that comes from.
        count: bytes.
        in_use: somebody else writes to the page that it is aimed at, where nothing may arrive.
    """
    yield from write_in_parts(live, device, iova, aim, *pages, parts=((count, blocked),), why=why, in_use=in_use)


def write_in_parts(
    live: LiveMachine,
    device: str,
    iova: int,
    aim: int,
    *pages: Pages,
    parts: Sequence[tuple[int, bool]],
    why: str,
    in_use: bool = False,
) -> Iterator[Finding]:
    """As `write`, where one DMA meets what stops it on its way.

    Args:
        live, device, iova, aim, pages, why, in_use: as for `write`.
        parts: of each part, in the order of the addresses: its bytes, and whether it must be blocked. Not more than one
            part is.
    """
    total, done = sum(count for count, _ in parts), 0
    blocked_part, arrives, whole = None, set[int](), ""
    for count, blocked in parts:
        access, outcome, walk = live.expect(device, iova + done, AccessKind.WRITE, count)
        yield from check_outcome(access, None if blocked else aim + done, outcome, walk, why)
        if blocked:
            blocked_part = access
        else:
            arrives.update(range(done, done + count))
        done, whole = done + count, walk
    mark = live.log_mark()
    aimed = range(aim & -_PAGE, aim + total, _PAGE)
    watch = {*aimed, *(frame for held in pages for frame in held.frames)}
    seen = live.store(device, iova, total, aim=aim, watch=watch)
    reports = live.faults(access.requester, since=mark, wait=blocked_part is not None)
    for held in pages:
        live.check_unmoved(held)
    if in_use:
        yield from check_absent(access, seen, whole)
    else:
        yield from check_memory(access, seen, whole, arrives=arrives)
    yield from check_reported(blocked_part, reports) if blocked_part else check_unreported(access, reports)


def write_unheard(live: LiveMachine, device: str, aim: int, *, blocked: bool, why: str) -> Iterator[Finding]:
    """As `write`, at a guest physical address that nobody uses, while there is no guest that could report anything.

    What gets through the device has read from the same page before.
    """
    access, outcome, walk = live.expect(device, aim, AccessKind.WRITE, COUNT)
    yield from check_outcome(access, None if blocked else aim, outcome, walk, why)
    page = aim & -_PAGE
    live.vmm.memory.write(page, canary()[:_PAGE])
    if not blocked:
        live.load(device, page, page, COUNT)
    seen = live.store(device, aim, COUNT, aim=aim, watch=(page,))
    yield from check_memory(access, seen, walk, arrives=() if blocked else range(COUNT))


def read(
    live: LiveMachine, device: str, iova: int, source: int, *, show: tuple[int, int], blocked: bool, why: str
) -> Iterator[Finding]:
    """Have a device read, and then write what it has into a page that it may write to; what is wrong.

    Args:
        live: the machine.
        device: an edu device.
        iova: address that it puts on the bus.
        source: guest physical address where that leads if nothing stops it.
        show: IOVA of memory that it may write to, and where that is.
        blocked: whether the read must be stopped and reported, and give nothing of what stands there; else it must give
            just that, and nothing be reported.
        why: where that comes from.
    """
    access, outcome, walk = live.expect(device, iova, AccessKind.READ, COUNT)
    yield from check_outcome(access, None if blocked else source, outcome, walk, why)
    mark, there, before = live.log_mark(), live.vmm.memory.read(source, COUNT), live.vmm.memory.read(show[1], COUNT)
    if blocked:
        live.rogue(device).dma_to_device(iova, 0, COUNT)
    else:
        live.load(device, iova, source, COUNT)
    live.rogue(device).dma_from_device(0, show[0], COUNT)
    shown = live.vmm.memory.read(show[1], COUNT)
    reports = live.faults(access.requester, since=mark, wait=blocked)
    if shown == before:
        yield Finding(subject=f"what {device} shows of its read", expected="anything", seen="it wrote nothing")
    if not blocked:
        yield from check_bytes(f"what {access} gave", there, shown)
        yield from check_unreported(access, reports)
        return
    if not any(there):
        raise ValueError(f"{access} would not show: there stand zeroes, which a read that is blocked gives too")
    for n, (a, b) in enumerate(zip(shown, there, strict=True)):
        if a == b != 0:
            yield Finding(subject=f"byte {n} of what {access} gave", expected="not what stands there", seen=f"{a:#04x}")
    yield from check_reported(access, reports)


def copy(live: LiveMachine, device: str) -> Iterator[Finding]:
    """Have a device copy from one page of the guest into another, at their guest physical addresses."""
    source, target = live.allocate(1, canary()), live.allocate(1, canary())
    why = f"DMA mode {live.spec.dma_mode}"
    own, shown = source.frames[0], target.frames[0] + 2048
    yield from read(live, device, own, own, show=(shown, shown), blocked=False, why=why)
    yield from write_over(live, device, target, blocked=False)
