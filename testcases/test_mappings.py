"""Mappings made by real drivers: walked by the model, and tried by a DMA."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from machines import machine

from harness.checks.dma import check_memory, check_outcome, check_reported, check_unreported
from harness.checks.judge import judge
from harness.live import LiveMachine
from harness.model.access import AccessKind
from harness.plugin import Boot
from harness.report.record import Finding
from harness.spec import IommuKind

_PAGE = 4096
_COUNT = 64


@pytest.mark.claim("IV-1", "IV-5", "IV-7")
def test_dma_to_a_mapping_lands_exactly_where_the_model_says(boot: Boot, iommu: IommuKind) -> None:
    """A DMA to an IOVA that VFIO mapped lands where the model's walk of the live tables says; unmapped, it is blocked.

    Four scattered pages are mapped side by side; the write goes into the third, and all of them are looked at.
    """
    live = boot(machine(iommu, "edu,iommu=on"))
    address = live.address("edu0")
    source, target = live.agent.page_allocate(1, random.randbytes(_PAGE)), live.agent.page_allocate(4, b"\xa5\x5a")
    live.give_to_vfio("edu0")
    live.agent.vfio_map(address, source, 0x40000000, "r")
    live.agent.vfio_map(address, target, 0x7FFFE000)

    for page, frame in enumerate(target.frames):
        access, outcome, walk = live.expect("edu0", 0x7FFFE000 + page * _PAGE, AccessKind.WRITE, _PAGE)
        judge(check_outcome(access, frame, outcome, walk, "VFIO_IOMMU_MAP_DMA, and the guest's /proc/self/pagemap"))

    live.rogue("edu0").dma_to_device(0x40000000, 0, _COUNT)
    payload = live.vmm.memory.read(source.frames[0], _COUNT)
    iova = 0x7FFFE000 + 2 * _PAGE + 512
    access, outcome, walk = live.expect("edu0", iova, AccessKind.WRITE, _COUNT)
    seen = live.write_by_dma("edu0", iova, payload, (*target.frames, *source.frames))
    judge(check_memory(access, target.frames[2] + 512, seen, walk))
    judge(check_unreported(access, live.faults(wait=False)))

    live.agent.vfio_unmap(address, 0x7FFFE000, 4 * _PAGE)
    access, outcome, walk = live.expect("edu0", iova, AccessKind.WRITE, _COUNT)
    judge(check_outcome(access, None, outcome, walk, "VFIO_IOMMU_UNMAP_DMA"))
    seen = live.write_by_dma("edu0", iova, bytes(_COUNT), target.frames)
    judge(check_memory(access, None, seen, walk))
    judge(check_reported(access, live.faults(wait=True)))


@pytest.mark.claim("IV-1")
def test_a_page_mapped_for_reading_cannot_be_written(boot: Boot, iommu: IommuKind) -> None:
    """A DMA write to a page that VFIO mapped for reading only is blocked and reported."""
    live = boot(machine(iommu, "edu,iommu=on"))
    judge(write_to_a_read_only_page(live, read_first=False))


@pytest.mark.claim("IV-1", "IV-7")
def test_a_page_mapped_for_reading_cannot_be_written_after_it_was_read(boot: Boot, iommu: IommuKind) -> None:
    """A DMA write to a page mapped for reading only is blocked and reported also when the device has just read it.

    Its translation may then be cached. The control: the read goes through, and nothing is reported of it.
    """
    live = boot(machine(iommu, "edu,iommu=on"))
    judge(write_to_a_read_only_page(live, read_first=True))


def write_to_a_read_only_page(live: LiveMachine, *, read_first: bool) -> Iterator[Finding]:
    """Map a page for reading, perhaps have the device read it, and have it write there."""
    page = live.agent.page_allocate(1, b"\xa5\x5a")
    live.give_to_vfio("edu0")
    live.agent.vfio_map(live.address("edu0"), page, 0x40000000, "r")
    if read_first:
        read, outcome, walk = live.expect("edu0", 0x40000000, AccessKind.READ, _COUNT)
        yield from check_outcome(read, page.frames[0], outcome, walk, "mapped with VFIO_DMA_MAP_FLAG_READ")
        live.rogue("edu0").dma_to_device(0x40000000, 2048, _COUNT)
        yield from check_unreported(read, live.faults(wait=False))
    write, outcome, walk = live.expect("edu0", 0x40000000 + 512, AccessKind.WRITE, _COUNT)
    yield from check_outcome(write, None, outcome, walk, "mapped without VFIO_DMA_MAP_FLAG_WRITE")
    seen = live.write_by_dma("edu0", write.iova, bytes(_COUNT), page.frames)
    yield from check_memory(write, None, seen, walk)
    yield from check_reported(write, live.faults(wait=True))


@pytest.mark.claim("IV-1", "CH-1")
def test_a_kernel_driver_maps_no_more_than_ram(boot: Boot, iommu: IommuKind) -> None:
    """What virtio-blk's driver has mapped, walked by the model, is something, and all RAM; edu has nothing mapped."""
    live = boot(machine(iommu, "virtio-blk,iommu=on", "edu,iommu=on"))
    mapped = live.mappings("virtio-blk0")
    ram = live.spec.memory_mib << 20
    subject = "what the model finds mapped for virtio-blk0"
    judge([] if mapped else [Finding(subject=subject, expected="its queues, at least", seen="nothing")])
    judge(
        Finding(subject=subject, expected=f"below the end of RAM, {ram:#x}", seen=str(mapping))
        for mapping in mapped
        if mapping.address + mapping.size > ram
    )
    judge(
        Finding(
            subject="what the model finds mapped for edu0", expected="nothing: no driver holds it", seen=str(mapping)
        )
        for mapping in live.mappings("edu0")
    )
