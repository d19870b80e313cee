"""Mappings made by real drivers: walked by the model, and tried by a DMA."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rogue import COUNT, canary, write

from harness.checks.dma import check_bytes, check_outcome
from harness.checks.judge import judge
from harness.errors import HarnessError
from harness.guest.agent import Pages
from harness.live import LiveMachine
from harness.model.access import AccessKind
from harness.report.record import Finding

_PAGE = 4096
_SOURCE, _TARGET = 0x40000000, 0x7FFFE000
_DRIVER_BYTES = 4 << 20
_TRIES = 256


@pytest.mark.claim("IV-1", "IV-5", "IV-7")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_dma_to_a_mapping_lands_exactly_where_the_model_says(machine: LiveMachine) -> None:
    """A DMA to an IOVA that VFIO mapped lands where the model's walk of the live tables says; unmapped, it is blocked.

    Four scattered pages are mapped side by side; the write goes into the third, and all of them are looked at.
    """
    address = machine.address("edu0")
    source, target = machine.allocate(1, canary()), machine.allocate(4, canary())
    machine.give_to_vfio("edu0")
    machine.agent.vfio_map(address, source, _SOURCE, "r")
    machine.agent.vfio_map(address, target, _TARGET)

    for page, frame in enumerate(target.frames):
        access, outcome, walk = machine.expect("edu0", _TARGET + page * _PAGE, AccessKind.WRITE, _PAGE)
        judge(check_outcome(access, frame, outcome, walk, "VFIO_IOMMU_MAP_DMA, and the guest's /proc/self/pagemap"))

    machine.load("edu0", _SOURCE, source.frames[0], COUNT)
    iova, aim = _TARGET + 2 * _PAGE + 512, target.frames[2] + 512
    judge(write(machine, "edu0", iova, aim, target, blocked=False, why="VFIO_IOMMU_MAP_DMA"))

    machine.load("edu0", _SOURCE + 2048, source.frames[0] + 2048, COUNT)
    machine.agent.vfio_unmap(address, _TARGET, 4 * _PAGE)
    judge(write(machine, "edu0", iova, aim, target, blocked=True, why="VFIO_IOMMU_UNMAP_DMA"))


@pytest.mark.claim("IV-1")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_a_page_mapped_for_reading_cannot_be_written(machine: LiveMachine) -> None:
    """A DMA write to a page that VFIO mapped for reading only is blocked and reported."""
    judge(write_to_a_read_only_page(machine, read_first=False))


@pytest.mark.claim("IV-1", "IV-7")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_a_page_mapped_for_reading_cannot_be_written_after_it_was_read(machine: LiveMachine) -> None:
    """A DMA write to a page mapped for reading only is blocked and reported also when the device has just read it.

    Its translation may then be cached. The control: what it read arrives in a page that it may write.
    """
    judge(write_to_a_read_only_page(machine, read_first=True))


@pytest.mark.claim("IV-1", "QD-2")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_the_byte_before_a_mapping_cannot_be_written(machine: LiveMachine) -> None:
    """A DMA write to the one byte before a mapping is blocked and reported, and no byte of the memory there changes.

    Where it would land is the end of the page before the mapped one, in guest physical memory: both are looked at. The
    control: the first byte of the mapping is written.
    """
    source = machine.allocate(1, b"\xaa")
    before, page = neighbours(machine, b"\x55")
    machine.give_to_vfio("edu0")
    machine.agent.vfio_map(machine.address("edu0"), source, _SOURCE, "r")
    machine.agent.vfio_map(machine.address("edu0"), page, _TARGET)
    machine.load("edu0", _SOURCE, source.frames[0], COUNT)
    aim, why = page.frames[0], "VFIO_IOMMU_MAP_DMA from here on"
    judge(write(machine, "edu0", _TARGET, aim, before, page, blocked=False, why=why, count=1))
    judge(write(machine, "edu0", _TARGET - 1, aim - 1, before, page, blocked=True, why=why, count=1))


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


def write_to_a_read_only_page(live: LiveMachine, *, read_first: bool) -> Iterator[Finding]:
    """Map a page for reading, perhaps have the device read it, and have it write there."""
    readable, writable = live.allocate(1, canary()), live.allocate(1, canary())
    live.give_to_vfio("edu0")
    live.agent.vfio_map(live.address("edu0"), readable, _SOURCE, "r")
    live.agent.vfio_map(live.address("edu0"), writable, _TARGET, "w")
    if read_first:
        live.load("edu0", _SOURCE, readable.frames[0], COUNT)
        given = live.vmm.memory.read(readable.frames[0], COUNT)
        live.rogue("edu0").dma_from_device(0, _TARGET, COUNT)
        arrived = live.vmm.memory.read(writable.frames[0], COUNT)
        yield from check_bytes("control: what the device read from the page", given, arrived)
    why = "mapped without VFIO_DMA_MAP_FLAG_WRITE"
    yield from write(live, "edu0", _SOURCE + 512, readable.frames[0] + 512, readable, blocked=True, why=why)


@pytest.mark.claim("IV-1", "CH-1")
@pytest.mark.machine(devices=["virtio-blk,iommu=on", "edu,iommu=on"])
def test_a_kernel_driver_maps_what_it_needs_and_no_more(machine: LiveMachine) -> None:
    """What virtio-blk's driver has mapped, walked by the model, is a little RAM that is not anybody's; edu has nothing.

    The canary is a page of another process: no mapping of the driver's leads to it.
    """
    page = machine.allocate(1, canary())
    mapped = machine.mappings("virtio-blk0")
    total, ram = sum(mapping.size for mapping in mapped), machine.spec.memory_mib << 20
    subject = "what the model finds mapped for virtio-blk0"
    if not 0 < total <= _DRIVER_BYTES:
        judge([Finding(subject=subject, expected=f"1 to {_DRIVER_BYTES} bytes: its queues", seen=f"{total} bytes")])
    judge(
        Finding(subject=subject, expected=f"RAM, below {ram:#x}, and not {page.frames[0]:#x}", seen=str(mapping))
        for mapping in mapped
        if mapping.address + mapping.size > ram or 0 <= page.frames[0] - mapping.address < mapping.size
    )
    judge(
        Finding(subject="what is mapped for edu0", expected="nothing: no driver holds it", seen=str(mapping))
        for mapping in machine.mappings("edu0")
    )
