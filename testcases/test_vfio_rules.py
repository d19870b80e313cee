"""The bookkeeping of VFIO in the guest: what it maps once, unmaps whole, refuses, counts, and calls dirty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rogue import COUNT, canary, write

from harness.checks.judge import judge
from harness.checks.work import check_count, check_refused
from harness.guest.answers import PAGE
from harness.live.machine import LiveMachine
from harness.live.user_space import give_to_vfio, load_vfio
from harness.report.record import Finding

_TARGET = 0x7FFFE000
_MSI_RANGE = 0xFEE00000
_LIMIT = 6
_NOTED = 70  # pages: more than a word of a bitmap has bits


@pytest.mark.claim("IV-1")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_an_iova_is_mapped_once(machine: LiveMachine) -> None:
    """A second mapping over a first is refused, wholly or in part over it, and DMA goes on to where the first leads."""
    address = machine.address("edu0")
    first, second = machine.allocate(2, canary()), machine.allocate(2, canary())
    give_to_vfio(machine, "edu0")
    machine.agent.vfio_map(address, first, _TARGET)
    for iova in (_TARGET - PAGE, _TARGET, _TARGET + PAGE):
        judge(check_refused("a mapping over another", "EEXIST", machine.agent.vfio_map, address, second, iova))
    for page, frame in enumerate(first.frames):
        iova = _TARGET + page * PAGE + 512
        judge(write(machine, "edu0", iova, frame + 512, first, second, blocked=False, why="mapped first"))


@pytest.mark.claim("IV-1", "IV-7")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_a_mapping_is_unmapped_as_a_whole_or_not_at_all(machine: LiveMachine) -> None:
    """Part of a mapping cannot be unmapped, and stays reachable then; of two mappings one can, and the other stays."""
    address = machine.address("edu0")
    first, second = machine.allocate(4, canary()), machine.allocate(4, canary())
    give_to_vfio(machine, "edu0")
    machine.agent.vfio_map(address, first, _TARGET)
    machine.agent.vfio_map(address, second, _TARGET + 4 * PAGE)
    judge(check_refused("to unmap a part", "EINVAL", machine.agent.vfio_unmap, address, _TARGET + PAGE, PAGE))
    judge(write(machine, "edu0", _TARGET + PAGE, first.frames[1], first, blocked=False, why="its unmap was refused"))
    gone = machine.agent.vfio_unmap(address, _TARGET, 4 * PAGE)
    judge(check_count("bytes that were unmapped", 4 * PAGE, gone))
    judge(write(machine, "edu0", _TARGET + PAGE + 512, first.frames[1] + 512, first, blocked=True, why="unmapped"))
    judge(write(machine, "edu0", _TARGET + 4 * PAGE, second.frames[0], second, blocked=False, why="still mapped"))


@pytest.mark.claim("IV-1")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_the_last_page_of_the_iova_space_is_mapped_like_any_other(machine: LiveMachine) -> None:
    """The last page that VFIO says can be mapped is reached to its last byte; one page more is refused."""
    address = machine.address("edu0")
    page = machine.allocate(1, canary())
    give_to_vfio(machine, "edu0")
    end = max(machine.agent.vfio_limits(address).ranges)[1] + 1
    machine.agent.vfio_map(address, page, end - PAGE)
    judge(write(machine, "edu0", end - COUNT, page.frames[0] + PAGE - COUNT, page, blocked=False, why="the last page"))
    if end < 1 << 64:
        judge(check_refused("a page beyond", "EINVAL", machine.agent.vfio_map, address, page, end))


@pytest.mark.claim("IV-1", "QD-6")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_the_range_of_msi_messages_cannot_be_mapped(machine: LiveMachine) -> None:
    """The page that MSI messages are sent to is in no range that can be mapped, and to map it is refused."""
    address = machine.address("edu0")
    page = machine.allocate(1, canary())
    give_to_vfio(machine, "edu0")
    judge(
        Finding(subject="a range that VFIO offers", expected=f"not {_MSI_RANGE:#x}", seen=f"{first:#x}..{last:#x}")
        for first, last in machine.agent.vfio_limits(address).ranges
        if first <= _MSI_RANGE <= last
    )
    judge(check_refused("a page of MSI", "EINVAL", machine.agent.vfio_map, address, page, _MSI_RANGE))


@pytest.mark.claim("IV-1")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_mappings_are_limited_in_number(machine: LiveMachine) -> None:
    """As many mappings as VFIO says are left are made, one more is refused, and all of the others hold."""
    address = machine.address("edu0")
    pages = machine.allocate(8, canary())
    load_vfio(machine)
    machine.agent.write_file("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", str(_LIMIT))
    give_to_vfio(machine, "edu0")
    left = machine.agent.vfio_limits(address).mappings
    judge(check_count("mappings that VFIO says are left", _LIMIT, left))

    def map_page(number: int) -> None:
        machine.agent.vfio_map(address, pages, _TARGET + number * PAGE, offset=number * PAGE, size=PAGE)

    for number in range(left):
        map_page(number)
    judge(check_refused("a seventh mapping", "ENOSPC", map_page, left))
    for number in (0, left - 1):
        iova = _TARGET + number * PAGE
        judge(write(machine, "edu0", iova, pages.frames[number], pages, blocked=False, why="mapped"))
    iova, aim = _TARGET + left * PAGE, pages.frames[left]
    judge(write(machine, "edu0", iova, aim, pages, blocked=True, why="refused"))


@pytest.mark.claim("IV-1")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_what_a_device_has_written_is_dirty(machine: LiveMachine) -> None:
    """A page that a device writes while VFIO takes note of that is among those that may be dirty, each time again.

    Others may be called so too: where an IOMMU does not tell, all that is mapped is (drivers/vfio/vfio_iommu_type1.c,
    update_user_bitmap). VFIO refuses to tell before it takes note, and afterwards.
    """
    judge(_dirty(machine))


def _dirty(live: LiveMachine) -> Iterator[Finding]:
    address, target = live.address("edu0"), live.allocate(_NOTED, canary())
    give_to_vfio(live, "edu0")
    live.agent.vfio_map(address, target, _TARGET)
    yield from check_refused("dirty pages", "EINVAL", live.agent.vfio_dirty_pages, address, _TARGET, _NOTED * PAGE)
    live.agent.vfio_dirty_log(address, on=True)
    for page in (3, _NOTED - 1, 3):
        frame = target.frames[page]
        live.agent.page_write(target, page * PAGE, b"\xaa" * PAGE)
        yield from write(live, "edu0", _TARGET + page * PAGE, frame, target, blocked=False, why="mapped")
        noted = live.agent.vfio_dirty_pages(address, _TARGET, _NOTED * PAGE)
        if page not in noted:
            subject = f"pages that VFIO calls dirty after a write to page {page}"
            yield Finding(subject=subject, expected=f"{page} among them", seen=", ".join(map(str, sorted(noted))))
    live.agent.vfio_dirty_log(address, on=False)
    yield from check_refused("dirty pages", "EINVAL", live.agent.vfio_dirty_pages, address, _TARGET, _NOTED * PAGE)
