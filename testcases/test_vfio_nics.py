"""Network cards in VFIO's hands: every byte that they send or store comes from a mapping, or goes to one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
from nic_scene import QUEUES, NicScene, Part, apart, frames_from, fresh_frame, over_the_end, within
from rogue import canary, neighbours, scattered
from traffic import check_frames

from harness.checks.dma import check_bytes, check_outcome, check_reported, check_sent, check_unreported
from harness.checks.judge import judge
from harness.checks.work import check_driver, check_translated
from harness.guest.answers import PAGE
from harness.live.machine import LiveMachine
from harness.model.access import AccessKind
from harness.report.record import Finding

_BUFFERS, _OTHERS = 0x40000000, 0x50000000
_POOL = 8
_LENGTHS = (61, 257, 1514)
_DRIVERS = {"virtio-net": "virtio-pci", "e1000e": "e1000e", "igb": "igb"}
_MAPPED = "VFIO_IOMMU_MAP_DMA"


def _marks(kind: str, iommu: str = "on") -> tuple[pytest.MarkDecorator, ...]:
    """Of a case with one network card of that kind. An igb is an e1000e with other registers: it may wait."""
    machine = pytest.mark.machine(devices=[f"{kind},iommu={iommu},id=nic"])
    return (machine, pytest.mark.nightly) if kind == "igb" else (machine,)


_nics = pytest.mark.parametrize("kind", [pytest.param(kind, marks=_marks(kind)) for kind in _DRIVERS])
_ways = pytest.mark.parametrize("way", ["send", "receive"])


@pytest.mark.claim("IV-1", "IV-5")
@_nics
def test_a_nic_sends_and_stores_frames_to_the_byte(machine: LiveMachine, kind: str) -> None:
    """Frames of three lengths over the borders of scattered pages come from, and go to, where their mapping leads.

    What is sent has a descriptor for each page. What is received has one alone, and changes no byte beside it.
    """
    scene = NicScene(machine, "nic")
    frames = _side_by_side(scene)
    for count in _LENGTHS:
        judge(scene.send(*apart(_over_a_border(frames, count)), why=_MAPPED))
        judge(scene.receive(_over_a_border(frames, count), why=_MAPPED, beside=frames))


@pytest.mark.claim("IV-5")
@_nics
def test_a_nic_sends_a_buffer_of_scattered_pages(machine: LiveMachine, kind: str) -> None:
    """A frame that one descriptor names is sent to the byte where its pages are not neighbours in memory.

    The control: the same frame with a descriptor for each page.
    """
    scene = NicScene(machine, "nic")
    frames = _side_by_side(scene)
    parts = _over_a_border(frames, _LENGTHS[-1])
    judge(scene.send(*apart(parts), why=_MAPPED))
    judge(scene.send(parts, why=_MAPPED))


def _side_by_side(scene: NicScene) -> list[int]:
    """Map pages side by side none of which stands right behind the one before in memory; where they are."""
    pool = scene.allocate(_POOL)
    order = scattered(pool)
    for at, number in enumerate(order):
        scene.map(pool, _BUFFERS + at * PAGE, page=number)
    return [pool.frames[number] for number in order]


def _over_a_border(frames: Sequence[int], count: int) -> tuple[Part, Part]:
    """Any place for so many bytes of which at least two are in each of two pages."""
    page, inside = random.randrange(len(frames) - 1), random.randrange(2, count - 1)
    border = _BUFFERS + (page + 1) * PAGE
    return (
        Part(border - inside, frames[page] + PAGE - inside, inside),
        Part(border, frames[page + 1], count - inside),
    )


@pytest.mark.claim("IV-1", "QD-2")
@_nics
def test_a_nic_is_held_to_the_permission_of_a_page(machine: LiveMachine, kind: str) -> None:
    """Nothing is stored in a page that is mapped for reading alone, nothing sent of one that is mapped for writing.

    The controls: what is received before that page is stored, and each page is reached the other way.
    """
    scene = NicScene(machine, "nic")
    pages = scene.allocate(3)
    free, readable, writable = pages.frames
    scene.map(pages, _BUFFERS, page=0)
    scene.map(pages, _BUFFERS + PAGE, "r", page=1)
    scene.map(pages, _OTHERS, page=0)
    scene.map(pages, _OTHERS + PAGE, "w", page=2)
    # First of all, so that nothing of these pages is cached.
    beyond = over_the_end(_BUFFERS, free, readable)
    judge(scene.receive(beyond, why="mapped for reading", beside=pages.frames))
    judge(scene.send(*apart(over_the_end(_OTHERS, free, writable)), why="mapped for writing"))
    judge(scene.send(within(_BUFFERS + PAGE, readable), why="mapped for reading"))
    judge(scene.receive(within(_OTHERS + PAGE, writable), why="mapped for writing", beside=pages.frames))


@pytest.mark.claim("IV-1", "IV-7", "QD-2")
@pytest.mark.parametrize("aim", ["never-mapped", "unmapped", "own-address"])
@_nics
def test_a_nic_reaches_nothing_that_is_not_mapped(machine: LiveMachine, kind: str, aim: str) -> None:
    """Nothing is sent of a page, or stored in it, that was never mapped, is no longer, or is named by its own address.

    The controls: what is received before that page is stored; to the one that is no longer mapped both ways led; and
    the page before it is reached both ways.
    """
    scene = NicScene(machine, "nic")
    page, behind = (scene.hold(each) for each in neighbours(machine, canary()))
    start, beyond = page.frames[0], behind.frames[0]
    # By its own address it is next to the other for the card as well.
    iova = start if aim == "own-address" else _BUFFERS
    scene.map(page, iova)
    judge(scene.send(within(iova, start), why=_MAPPED))
    if aim == "unmapped":
        scene.map(behind, iova + PAGE)
        judge(scene.send(within(iova + PAGE, beyond), why=_MAPPED))
        judge(scene.receive(within(iova + PAGE, beyond), why=_MAPPED, beside=[start]))
        machine.agent.vfio_unmap(scene.address, iova + PAGE, PAGE)
    parts = over_the_end(iova, start, beyond)
    judge(scene.send(*apart(parts), why=aim))
    judge(scene.receive(parts, why=aim))


@pytest.mark.claim("IV-1", "IV-7", "QD-2")
@_ways
@_nics
def test_a_nic_works_from_no_queue_that_is_not_mapped(machine: LiveMachine, kind: str, way: str) -> None:
    """A queue that is unmapped under a card at work is not read any more: no frame is sent of it, or stored by it.

    The controls: a frame each way before, and one that is sent when the queue is mapped again and the card was reset.
    """
    scene = NicScene(machine, "nic")
    buffers = scene.allocate(2)
    scene.map(buffers, _BUFFERS)
    first, second = buffers.frames
    number = 0 if way == "send" else 1
    judge(scene.send(within(_BUFFERS, first), why=_MAPPED))
    judge(scene.receive(within(_BUFFERS, first), why=_MAPPED, beside=[second]))
    machine.agent.vfio_unmap(scene.address, QUEUES + number * PAGE, PAGE)
    judge(_without_queue(scene, QUEUES + number * PAGE, second, way))
    scene.map(scene.queues, QUEUES + number * PAGE, page=number)
    scene.start()
    judge(scene.send(within(_BUFFERS, first), why="mapped again"))


def _without_queue(scene: NicScene, queue: int, target: int, way: str) -> Iterator[Finding]:
    """Order a frame by a queue that is out of the card's reach, in the second page of buffers; what is wrong."""
    live = scene.live
    access, outcome, walk = live.expect(scene.id, queue, AccessKind.READ, PAGE)
    yield from check_outcome(access, None, outcome, walk, "VFIO_IOMMU_UNMAP_DMA")
    frame = fresh_frame()
    if way == "send":
        live.vmm.memory.write(target, frame)
    mark, before = live.log_mark(), live.vmm.memory.read(target, PAGE)
    if way == "send":
        scene.nic.send((_BUFFERS + PAGE, len(frame)))
    else:
        scene.nic.offer(_BUFFERS + PAGE, len(frame))
        scene.cable.send(frame)
    reports = live.faults(access.requester, since=mark, wait=True)
    yield from check_reported(access, [report for report in reports if not report.is_write])
    yield from check_sent(access, frame, frames_from(live, scene.id, comes=False), secret=range(len(frame)))
    yield from check_bytes("the page that it was for", before, live.vmm.memory.read(target, PAGE))


@pytest.mark.claim("VQ-8", "IV-1")
@pytest.mark.parametrize(
    ("kind", "driver"),
    [pytest.param(kind, driver, id=kind, marks=_marks(kind)) for kind, driver in _DRIVERS.items()],
)
def test_a_nic_that_vfio_gives_back_works_for_its_driver(machine: LiveMachine, kind: str, driver: str) -> None:
    """A card that VFIO had works for the kernel's own driver, by the mappings of that one and without a fault."""
    if driver != "virtio-pci":  # which is there from boot on
        machine.load_modules(driver)
    scene = NicScene(machine, "nic")
    page = scene.allocate(1)
    scene.map(page, _BUFFERS)
    judge(scene.receive(within(_BUFFERS, page.frames[0]), why=_MAPPED))
    machine.agent.vfio_close(scene.address)
    mark = machine.log_mark()
    machine.agent.pci_bind(scene.address, driver)
    judge(check_frames(machine, "nic"))
    judge(check_driver(machine.function("nic"), machine.agent.pci_functions(), driver))
    judge(check_translated("nic", machine.mappings("nic")))
    access, outcome, walk = machine.expect("nic", _BUFFERS, AccessKind.WRITE, PAGE)
    judge(check_outcome(access, None, outcome, walk, "VFIO has closed the container"))
    judge(check_unreported(access, machine.faults(access.requester, since=mark, wait=False)))


@pytest.mark.claim("CH-1", "QD-1")
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=_marks(kind, "off")) for kind in _DRIVERS])
def test_a_nic_outside_the_iommu_reaches_all_memory(machine: LiveMachine, kind: str) -> None:
    """A card with iommu=off sends any page of the guest, and stores frames in it, and the guest hears nothing of it."""
    scene = NicScene(machine, "nic")
    page = scene.allocate(1).frames[0]
    judge(scene.send(within(page + 1024, page + 1024), why="iommu=off"))
    judge(scene.receive(within(page + 2048, page + 2048), why="iommu=off"))
