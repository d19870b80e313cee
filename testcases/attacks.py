"""The catalogue of attacks: where a malicious device aims, on one machine that all of them are tried on.

Each attack is a function of the scene, and gives the DMA. That it must be blocked is the claim; what the tables make of
it is the model's to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from holds import Opener
from rogue import COUNT, canary, read, write, write_in_parts

from harness.errors import HarnessError, Unsupported
from harness.live.machine import LiveMachine
from harness.model.access import AccessKind
from harness.report.record import Finding
from harness.vmm.qemu.processor import page_table

__all__ = ["ATTACKS", "DEVICES", "OUTSIDE", "READS", "ROGUE", "Dma", "Scene", "check_read", "check_write"]

ROGUE, OUTSIDE, _VICTIM = "rogue", "outside", "victim"
DEVICES = (f"edu,iommu=on,id={ROGUE}", f"edu,iommu=off,id={OUTSIDE}", f"virtio-blk,iommu=on,id={_VICTIM}")
"""The devices of a scene: the attacker, its like outside the IOMMU, and another device at work."""

_PAGE = 4096
_WHY = "three pages are mapped for the device, and nothing else"
_READABLE, _WRITABLE, _WINDOW = 0x40000000, 0x50000000, 0x60000000
_POOL = 128
_KERNEL_CODE = re.compile(r"^\s*([0-9a-f]+)-[0-9a-f]+ : Kernel code$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dma:
    """One DMA of an attack.

    Attributes:
        iova: address that the device puts on the bus.
        aim: guest physical address where that leads if nothing stops it.
        parts: of each part of a write, its bytes and whether it must be blocked.
        owned: whether what stands at the aim is the case's own, so that a device outside may write there.
    """

    iova: int
    aim: int
    parts: tuple[tuple[int, bool], ...] = ((COUNT, True),)
    owned: bool = True


class Scene:
    """A machine on which three pages are mapped for the rogue device: to read, to write, and for both.

    The last, the window, is between two others in guest physical memory, which nothing is mapped to; its IOVA is not
    next to any other either.

    Args:
        live: the machine.
        held_by: what maps them for it.

    Attributes:
        live: the machine.
        hold: what has mapped them.
        window: IOVA of the page for both.
        frame: its guest physical address.
        pages: all of them.
        readable, writable: those of the two others.
        secret: that of a page that is not mapped.
        show: IOVA of memory that the rogue may write to, and where that is.
    """

    def __init__(self, live: LiveMachine, held_by: Opener) -> None:
        self.live = live
        self.pages = live.allocate(_POOL, canary())
        frames = self.pages.frames
        self.frame = _between(frames)
        spare = [frame for frame in frames if abs(frame - self.frame) > _PAGE]
        self.readable, self.writable, self.secret = spare[:3]
        self.window = _WINDOW
        self.hold = held_by(live, ROGUE)
        for iova, frame, permission in (
            (_READABLE, self.readable, "r"),
            (_WRITABLE, self.writable, "w"),
            (_WINDOW, self.frame, "rw"),
        ):
            at = frames.index(frame) * _PAGE
            self.hold.map(self.pages, iova, permission, offset=at, size=_PAGE)
        # What stands at no other such offset. The two other pages are left alone: nothing of them is cached.
        live.load(ROGUE, _WINDOW + 1024, self.frame + 1024, COUNT)
        self.show = _WINDOW + 3072, self.frame + 3072


def _between(frames: tuple[int, ...]) -> int:
    """A page whose neighbours in guest physical memory are among the pages too."""
    for frame in frames:
        if {frame - _PAGE, frame + _PAGE} <= set(frames):
            return frame
    raise HarnessError(f"of {len(frames)} pages of the guest no three follow each other", hint="run the case again")


def _victim_page(scene: Scene) -> Dma:
    """The guest physical address of a page that was never given to any device."""
    return Dma(iova=scene.secret + 512, aim=scene.secret + 512)


def _own_page_by_its_address(scene: Scene) -> Dma:
    """The guest physical address of the very page that it may write to: that is not its IOVA."""
    return Dma(iova=scene.frame + 512, aim=scene.frame + 512)


def _kernel_code(scene: Scene) -> Dma:
    """The code of the guest's kernel."""
    iomem = scene.live.agent.read_file("/proc/iomem")
    found = _KERNEL_CODE.search(iomem)
    if found is None:
        raise HarnessError("the guest's /proc/iomem has no kernel code", evidence=iomem)
    start = int(found[1], 16) + _PAGE
    return Dma(iova=start, aim=start, owned=False)


def _kernel_page_table(scene: Scene) -> Dma:
    """The kernel half of the page table that the guest's processor uses."""
    entry = (
        page_table(scene.live.vmm.qmp) + 0x880
    )  # the start of the direct mapping: arch/x86/include/asm/pgtable_64_types.h
    return Dma(iova=entry, aim=entry, owned=False)


def _iommu_structure(which: int) -> Callable[[Scene], Dma]:
    def aim(scene: Scene) -> Dma:
        """What the IOMMU itself reads from memory: a table for this device, or the queue of requests."""
        access, _, _ = scene.live.expect(ROGUE, scene.window, AccessKind.WRITE, COUNT)
        found = list(scene.live.engine.structures(access).values())
        at = found[which] & -COUNT
        return Dma(iova=at, aim=at, owned=False)

    return aim


def _other_device(scene: Scene) -> Dma:
    """An IOVA that the driver of another device has mapped, at this moment."""
    mapping = max(scene.live.mappings(_VICTIM), key=lambda mapping: mapping.size)
    return Dma(iova=mapping.iova, aim=mapping.address, owned=False)


def _just_before(scene: Scene) -> Dma:
    """The last four bytes before what is mapped for it."""
    return Dma(iova=scene.window - 4, aim=scene.frame - 4, parts=((4, True),))


def _just_after(scene: Scene) -> Dma:
    """The first four bytes after what is mapped for it."""
    return Dma(iova=scene.window + _PAGE, aim=scene.frame + _PAGE, parts=((4, True),))


def _into_the_start(scene: Scene) -> Dma:
    """From before what is mapped into it: the part inside arrives."""
    return Dma(iova=scene.window - 32, aim=scene.frame - 32, parts=((32, True), (32, False)))


def _over_the_end(scene: Scene) -> Dma:
    """From inside what is mapped over its end: the part inside arrives."""
    at = _PAGE - 32
    return Dma(iova=scene.window + at, aim=scene.frame + at, parts=((32, False), (32, True)))


def _address_zero(scene: Scene) -> Dma:
    """IOVA 0."""
    return Dma(iova=0, aim=0, owned=False)


def _above_the_width(scene: Scene) -> Dma:
    """The IOVA of what is mapped for it, with a bit above the highest that the IOMMU translates."""
    _, last = max(scene.hold.ranges())
    if last == (1 << 64) - 1:
        raise Unsupported(f"IOVAs of this {scene.live.spec.iommu.kind} IOMMU have 64 bits: so VFIO says")
    return Dma(iova=(scene.window | last + 1) + 2048, aim=scene.frame + 2048)


def _wrong_way(scene: Scene) -> Dma:
    """A page that is mapped for the other direction alone: a write to the readable one."""
    return Dma(iova=_READABLE + 512, aim=scene.readable + 512)


def _read_of_what_may_be_written(scene: Scene) -> Dma:
    """A read of the page that is mapped for writing alone."""
    return Dma(iova=_WRITABLE + 512, aim=scene.writable + 512)


_BOTH: Mapping[str, Callable[[Scene], Dma]] = {
    "victim-page": _victim_page,
    "own-page-by-its-address": _own_page_by_its_address,
    "kernel-code": _kernel_code,
    "kernel-page-table": _kernel_page_table,
    "iommu-tables-first": _iommu_structure(0),
    "iommu-tables-last": _iommu_structure(-1),
    "other-device": _other_device,
    "address-zero": _address_zero,
    "above-the-width": _above_the_width,
}

ATTACKS: Mapping[str, Callable[[Scene], Dma]] = {
    **_BOTH,
    "just-before": _just_before,
    "just-after": _just_after,
    "into-the-start": _into_the_start,
    "over-the-end": _over_the_end,
    "wrong-way": _wrong_way,
}
"""Writes that must be blocked, by name."""

READS: Mapping[str, Callable[[Scene], Dma]] = {**_BOTH, "wrong-way": _read_of_what_may_be_written}
"""Reads that must be blocked, by name."""


def check_write(scene: Scene, attack: str) -> Iterator[Finding]:
    """The write of an attack is blocked, and two that are not arrive: the rogue's own, and one from outside."""
    live, dma = scene.live, ATTACKS[attack](scene)
    yield from write(live, ROGUE, scene.window, scene.frame, scene.pages, blocked=False, why=_WHY)
    yield from write_in_parts(live, ROGUE, dma.iova, dma.aim, scene.pages, parts=dma.parts, why=_WHY)
    if dma.owned:
        yield from write(live, OUTSIDE, dma.aim, dma.aim, scene.pages, blocked=False, why="iommu=off")
    else:
        yield from _read_outside(scene, dma)


def check_read(scene: Scene, attack: str) -> Iterator[Finding]:
    """The read of an attack is blocked, and two that are not give what they must."""
    live, dma = scene.live, READS[attack](scene)
    yield from read(live, ROGUE, scene.window, scene.frame, show=scene.show, blocked=False, why=_WHY)
    yield from read(live, ROGUE, dma.iova, dma.aim, show=scene.show, blocked=True, why=_WHY)
    yield from _read_outside(scene, dma)


def _read_outside(scene: Scene, dma: Dma) -> Iterator[Finding]:
    """The control: a device outside reads what the rogue aimed at, and shows it in a page of the case's own."""
    own = scene.secret + 1536
    yield from read(scene.live, OUTSIDE, dma.aim, dma.aim, show=(own, own), blocked=False, why="iommu=off")
