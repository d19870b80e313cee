"""A network card driven by the host, on pages of the guest: each frame is looked at in memory and in the cable.

A frame that is sent is a DMA read, and what comes out of the cable shows what was read. A frame that is received is a
DMA write. Frames have no zero byte, which is what a blocked read gives.

Of a transfer that must be blocked mostly just the end is, which lies beyond a page of what is mapped: one of 60 bytes
that is refused as a whole is a fault for each access of four that QEMU makes of it, and after ten the guest is silent
for five seconds.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rogue import canary

from harness.checks.dma import check_memory, check_outcome, check_reported, check_sent, check_unreported
from harness.errors import GuestError
from harness.guest.answers import PAGE, Pages
from harness.live.machine import LiveMachine
from harness.live.user_space import give_to_vfio
from harness.model.access import Access, AccessKind
from harness.observations import DmaSeen
from harness.report.record import Finding
from harness.vmm.qemu.nic.protocol import QueuePage

__all__ = ["QUEUES", "NicScene", "Part", "apart", "frames_from", "fresh_frame", "over_the_end", "within"]

QUEUES = 0x10000000
"""IOVA of the queue that frames are sent from, and behind it that of those that are received."""

_HEADER = bytes.fromhex("5254aabbcc01 5254aabbcc02 88b5")  # two stations of nobody, local experimental EtherType
_FRAME_BYTES = 60  # of the shortest frame, without its checksum: cards fill up what is shorter
_BEYOND = 4
_COMES_SECONDS, _QUIET_SECONDS = 1.0, 0.02  # it says that it is done when what it sends is in the cable


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a transfer that lies in one page.

    Attributes:
        iova: address that the card puts on the bus.
        address: guest physical address where it leads, or would if nothing stopped it.
        count: bytes.
        blocked: whether it must be stopped and reported.
    """

    iova: int
    address: int
    count: int
    blocked: bool = False


def within(iova: int, address: int) -> tuple[Part, ...]:
    """A transfer that gets through, in one page."""
    return (Part(iova, address, _FRAME_BYTES),)


def over_the_end(iova: int, page: int, beyond: int) -> tuple[Part, ...]:
    """A transfer over the end of a page into one that is out of bounds.

    Args:
        iova: of the page.
        page: guest physical address of it.
        beyond: guest physical address of the one that it goes on in if nothing stops it.
    """
    inside = _FRAME_BYTES - _BEYOND
    return Part(iova + PAGE - inside, page + PAGE - inside, inside), Part(iova + PAGE, beyond, _BEYOND, blocked=True)


def apart(parts: Sequence[Part]) -> tuple[tuple[Part, ...], ...]:
    """Each part in a piece of its own."""
    return tuple((part,) for part in parts)


def fresh_frame(count: int = _FRAME_BYTES) -> bytes:
    """A frame of so many bytes that has not been there before."""
    return _HEADER + bytes(random.choices(range(1, 256), k=count - len(_HEADER)))


def frames_from(live: LiveMachine, id: str, *, comes: bool) -> list[bytes]:
    """What has come out of the cable of a card; waits for the first where one must come."""
    seen: list[bytes] = []
    with suppress(GuestError):
        while True:
            wait = _COMES_SECONDS if comes and not seen else _QUIET_SECONDS
            seen.append(live.vmm.network(id).receive(deadline=wait))
    return seen


class NicScene:
    """A card in VFIO's hands, or in nobody's where it stands outside of the IOMMU, with queues and nothing else.

    Attributes:
        live: the machine.
        id: of the card.
        nic: its driver.
        cable: the other end of its cable.
        queues: pages of both queues.
    """

    def __init__(self, live: LiveMachine, id: str) -> None:
        self.live, self.id = live, id
        self.nic, self.cable = live.nic(id), live.vmm.network(id)
        self._held: list[Pages] = []
        self.queues = self.allocate(2)
        if live.function(id).translated:
            give_to_vfio(live, id)
            for number in range(2):  # each on its own, so that it can be unmapped
                self.map(self.queues, QUEUES + number * PAGE, page=number)
        else:
            live.agent.pci_bind(self.address, "")
        self.start()

    @property
    def address(self) -> str:
        """Of the card, as sysfs has it."""
        return self.live.address(self.id)

    def start(self) -> None:
        """Reset the card and give it its queues, empty."""
        sending, receiving = self.queues.frames
        if self.live.function(self.id).translated:
            self.nic.start(QueuePage(QUEUES, sending), QueuePage(QUEUES + PAGE, receiving))
        else:
            self.nic.start(QueuePage(sending, sending), QueuePage(receiving, receiving))

    def allocate(self, count: int) -> Pages:
        """Pages that hold no zero; with each transfer it is seen that they have not moved."""
        return self.hold(self.live.allocate(count, canary()))

    def hold(self, pages: Pages) -> Pages:
        """Have pages looked after as those of `allocate`."""
        self._held.append(pages)
        return pages

    def map(self, pages: Pages, iova: int, permission: str = "rw", *, page: int | None = None) -> None:
        """Map pages for the card, or the one of that number."""
        agent = self.live.agent
        if page is None:
            agent.vfio_map(self.address, pages, iova, permission)
        else:
            agent.vfio_map(self.address, pages, iova, permission, offset=page * PAGE, size=PAGE)

    def send(self, *pieces: Sequence[Part], why: str) -> Iterator[Finding]:
        """Write a frame into memory and have it sent; what is wrong with the model's walk, the cable, or the log.

        Args:
            pieces: of the frame, each in parts whose IOVAs follow each other.
            why: where the claim comes from.
        """
        parts = [part for piece in pieces for part in piece]
        live, frame = self.live, fresh_frame(sum(part.count for part in parts))
        walks = yield from self._expect(parts, AccessKind.READ, why)
        done, secret = 0, set[int]()
        for part in parts:
            live.vmm.memory.write(part.address, frame[done : done + part.count])
            if part.blocked:
                secret.update(range(done, done + part.count))
            done += part.count
        mark = live.log_mark()
        self.nic.send(*((piece[0].iova, sum(part.count for part in piece)) for piece in pieces))
        self.nic.wait_sent()
        seen = frames_from(self.live, self.id, comes=not secret)
        yield from self._check_log(mark, walks, parts)
        yield from check_sent(walks[-1][0], frame, seen, secret=secret)

    def receive(self, parts: Sequence[Part], *, why: str, beside: Sequence[int] = ()) -> Iterator[Finding]:
        """Have a frame received; what is wrong with the model's walk, memory, or the guest's log.

        Args:
            parts: of the buffer for it, whose IOVAs follow each other.
            why: where the claim comes from.
            beside: guest physical addresses of pages to look at, beside those that it is aimed at.
        """
        memory, frame = self.live.vmm.memory, fresh_frame(sum(part.count for part in parts))
        walks = yield from self._expect(parts, AccessKind.WRITE, why)
        watch = [{part.address & -PAGE} for part in parts]
        watch[0].update(set(beside).difference(*watch))
        before = [{page: memory.read(page, PAGE) for page in pages} for pages in watch]
        mark = self.live.log_mark()
        self.nic.offer(parts[0].iova, len(frame))
        self.cable.send(frame)
        self.nic.wait_received()
        after = [{page: memory.read(page, PAGE) for page in pages} for pages in watch]
        yield from self._check_log(mark, walks, parts)
        done = 0
        for number, (part, (access, walk)) in enumerate(zip(parts, walks, strict=True)):
            payload = frame[done : done + part.count]
            seen = DmaSeen(before=before[number], after=after[number], payload=payload, aim=part.address)
            yield from check_memory(access, seen, walk, arrives=() if part.blocked else range(part.count))
            done += part.count

    def _expect(
        self, parts: Sequence[Part], kind: AccessKind, why: str
    ) -> Generator[Finding, None, list[tuple[Access, str]]]:
        """What the model says of each part: what is wrong with it, and then the accesses with their walks."""
        walks = []
        for part in parts:
            access, outcome, walk = self.live.expect(self.id, part.iova, kind, part.count)
            yield from check_outcome(access, None if part.blocked else part.address, outcome, walk, why)
            walks.append((access, walk))
        return walks

    def _check_log(self, mark: int, walks: Sequence[tuple[Access, str]], parts: Sequence[Part]) -> Iterator[Finding]:
        blocked = [access for part, (access, _) in zip(parts, walks, strict=True) if part.blocked]
        access = walks[0][0]
        reports = self.live.faults(access.requester, since=mark, wait=bool(blocked))
        for pages in self._held:
            self.live.check_unmoved(pages)
        yield from check_reported(blocked[0], reports) if blocked else check_unreported(access, reports)
