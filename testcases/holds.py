"""What holds the device of a user-space driver to its mappings: VFIO's type 1, or iommufd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from rogue import COUNT, canary, write

from harness.checks.dma import check_outcome
from harness.guest.answers import PAGE, Pages, Ranges
from harness.live.machine import LiveMachine
from harness.live.user_space import address_space, give_to_iommufd, give_to_vfio
from harness.model.access import AccessKind
from harness.report.record import Finding

__all__ = ["HOLDS", "Hold", "Opener", "check_lands", "iommufd", "type1"]

_SOURCE, _TARGET = 0x40000000, 0x7FFFE000


class Hold(Protocol):
    """What can be told to it."""

    def map(self, pages: Pages, iova: int, permission: str = "rw", *, offset: int = 0, size: int | None = None) -> None:
        """Map pages at an IOVA: arguments as of `Agent.vfio_map`."""

    def unmap(self, iova: int, size: int) -> int:
        """Unmap a range (bytes); the bytes that were mapped."""

    def ranges(self) -> Ranges:
        """Ranges of IOVAs that can be mapped: first and last byte of each."""


Opener = Callable[[LiveMachine, str], Hold]
"""Gives a device of a machine, by its id, into such hands."""


class _Container:
    def __init__(self, live: LiveMachine, id: str) -> None:
        give_to_vfio(live, id)
        self._agent, self._address = live.agent, live.address(id)

    def map(self, pages: Pages, iova: int, permission: str = "rw", *, offset: int = 0, size: int | None = None) -> None:
        self._agent.vfio_map(self._address, pages, iova, permission, offset=offset, size=size)

    def unmap(self, iova: int, size: int) -> int:
        return self._agent.vfio_unmap(self._address, iova, size)

    def ranges(self) -> Ranges:
        return self._agent.vfio_limits(self._address).ranges


def type1(live: LiveMachine, id: str) -> Hold:
    """A VFIO container of its own; raises Unsupported as `give_to_vfio`."""
    return _Container(live, id)


def iommufd(live: LiveMachine, id: str) -> Hold:
    """An address space of its own; raises Unsupported where the kernel has no iommufd."""
    space = address_space(live)
    give_to_iommufd(live, id, space)
    return space


HOLDS: Mapping[str, Opener] = {"type1": type1, "iommufd": iommufd}


def check_lands(live: LiveMachine, device: str, held_by: Opener) -> Iterator[Finding]:
    """A DMA to an IOVA that was mapped lands where the model's walk of the live tables says; unmapped, it is blocked.

    Four scattered pages are mapped side by side; the write goes into the third, and all of them are looked at.
    """
    source, target = live.allocate(1, canary()), live.allocate(4, canary())
    hold = held_by(live, device)
    hold.map(source, _SOURCE, "r")
    hold.map(target, _TARGET)

    for page, frame in enumerate(target.frames):
        access, outcome, walk = live.expect(device, _TARGET + page * PAGE, AccessKind.WRITE, PAGE)
        yield from check_outcome(access, frame, outcome, walk, "what was mapped, and the guest's /proc/self/pagemap")

    live.load(device, _SOURCE, source.frames[0], COUNT)
    iova, aim = _TARGET + 2 * PAGE + 512, target.frames[2] + 512
    yield from write(live, device, iova, aim, target, blocked=False, why="it was mapped")

    live.load(device, _SOURCE + 2048, source.frames[0] + 2048, COUNT)
    hold.unmap(_TARGET, 4 * PAGE)
    yield from write(live, device, iova, aim, target, blocked=True, why="it was unmapped")
