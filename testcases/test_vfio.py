"""A user-space driver in the guest, by VFIO: what it has mapped its device reaches, to the byte, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain

import pytest
from holds import check_lands, type1
from rogue import COUNT, canary, neighbours, read, write, write_in_parts
from streams import check_ends, stream

from harness.checks.dma import check_bytes, check_outcome, check_reported, check_unreported
from harness.checks.judge import judge
from harness.errors import HarnessError
from harness.guest.answers import PAGE, Pages
from harness.live.machine import LiveMachine
from harness.live.user_space import give_to_uio, give_to_vfio
from harness.model.access import AccessKind
from harness.report.record import Finding
from harness.spec import DmaMode
from harness.vmm.qemu.qtest import Width

_SOURCE, _TARGET = 0x40000000, 0x7FFFE000
_TRIES, _REACH, _LOW_IOVA = 2048, 1 << 26, 0x2000000
_LEFT_ALONE = 0x7000  # Linux leaves the first 64 KiB to firmware: arch/x86/kernel/setup.c
_LENGTHS = (1, 3, 4, 7, 64, 257, 1000, 4095)
_LIVENESS = 4  # register of edu that holds the inverse of what is written there: QEMU, docs/specs/edu.rst


@pytest.mark.claim("IV-1", "IV-7")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_dma_to_a_mapping_lands_exactly_where_the_model_says(machine: LiveMachine) -> None:
    """A DMA to an IOVA that VFIO mapped lands where the model's walk of the live tables says; unmapped, it is blocked.

    Four scattered pages are mapped side by side; the write goes into the third, and all of them are looked at.
    """
    judge(check_lands(machine, "edu0", type1))


@pytest.mark.claim("IV-1", "IV-7")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_a_page_mapped_for_reading_cannot_be_written_after_it_was_read(machine: LiveMachine) -> None:
    """A DMA write to a page mapped for reading only is blocked and reported also when the device has just read it.

    Its translation may then be cached. The control: what it read arrives in a page that it may write.
    """
    readable, writable = machine.allocate(1, canary()), machine.allocate(1, canary())
    give_to_vfio(machine, "edu0")
    machine.agent.vfio_map(machine.address("edu0"), readable, _SOURCE, "r")
    machine.agent.vfio_map(machine.address("edu0"), writable, _TARGET, "w")
    show = _TARGET + 1024, writable.frames[0] + 1024
    judge(read(machine, "edu0", _SOURCE, readable.frames[0], show=show, blocked=False, why="VFIO_DMA_MAP_FLAG_READ"))
    why = "mapped without VFIO_DMA_MAP_FLAG_WRITE"
    judge(write(machine, "edu0", _SOURCE + 512, readable.frames[0] + 512, readable, blocked=True, why=why))


@pytest.mark.claim("IV-1", "QD-2")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_the_byte_before_a_mapping_cannot_be_written(machine: LiveMachine) -> None:
    """A DMA write to the one byte before a mapping is blocked and reported, and no byte of the memory there changes.

    Where it would land is the end of the page before the mapped one, in guest physical memory: both are looked at. The
    control: the first byte of the mapping is written.
    """
    source = machine.allocate(1, b"\xaa")
    before, page = neighbours(machine, b"\x55")
    give_to_vfio(machine, "edu0")
    machine.agent.vfio_map(machine.address("edu0"), source, _SOURCE, "r")
    machine.agent.vfio_map(machine.address("edu0"), page, _TARGET)
    machine.load("edu0", _SOURCE, source.frames[0], COUNT)
    aim, why = page.frames[0], "VFIO_IOMMU_MAP_DMA from here on"
    judge(write(machine, "edu0", _TARGET, aim, before, page, blocked=False, why=why, count=1))
    judge(write(machine, "edu0", _TARGET - 1, aim - 1, before, page, blocked=True, why=why, count=1))


@pytest.mark.claim("IV-1", "IV-5")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_the_last_byte_of_a_mapping_is_its_own(machine: LiveMachine) -> None:
    """A DMA write to the last byte of a mapping lands there, also where another begins at the next address.

    The control: two bytes before it. Four scattered pages are mapped side by side, and of each the page before it in
    guest physical memory, where a byte that goes astray may land, is looked at too.
    """
    source = machine.allocate(1, b"\xaa")
    pairs = [neighbours(machine, b"\x55") for _ in range(4)]
    give_to_vfio(machine, "edu0")
    machine.agent.vfio_map(machine.address("edu0"), source, _SOURCE, "r")
    for number, (_, page) in enumerate(pairs):
        machine.agent.vfio_map(machine.address("edu0"), page, _TARGET + number * PAGE)
    machine.load("edu0", _SOURCE, source.frames[0], COUNT)
    found: list[Finding] = []
    watched, why = list(chain.from_iterable(pairs)), "VFIO_IOMMU_MAP_DMA of one page after the other"
    for number, (_, page) in enumerate(pairs[:3]):
        iova, aim = _TARGET + (number + 1) * PAGE, page.frames[0] + PAGE
        judge(write(machine, "edu0", iova - 4, aim - 4, *watched, blocked=False, why=why, count=2))
        found += write(machine, "edu0", iova - 1, aim - 1, *watched, blocked=False, why=why, count=1)
    judge(found)


@pytest.mark.claim("IV-5", "IV-1")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_a_dma_over_scattered_pages_goes_on_in_the_next_one(machine: LiveMachine) -> None:
    """Pages that do not follow each other in memory are mapped side by side: a DMA over their border fills both.

    All else stays as it was, the page that follows the first one in memory too.
    """
    source, second = machine.allocate(1, canary()), machine.allocate(1, canary())
    first, behind = neighbours(machine, canary())
    give_to_vfio(machine, "edu0")
    machine.agent.vfio_map(machine.address("edu0"), source, _SOURCE, "r")
    for number, page in enumerate((first, second)):
        machine.agent.vfio_map(machine.address("edu0"), page, _TARGET + number * PAGE)
    machine.load("edu0", _SOURCE, source.frames[0], COUNT)
    payload, half = machine.vmm.memory.read(source.frames[0], COUNT), COUNT // 2
    start, end, beside = (page.frames[0] for page in (first, second, behind))
    before = {frame: machine.vmm.memory.read(frame, PAGE) for frame in (start, end, beside)}
    for iova, aim in ((_TARGET + PAGE - half, start + PAGE - half), (_TARGET + PAGE, end)):
        access, outcome, walk = machine.expect("edu0", iova, AccessKind.WRITE, half)
        judge(check_outcome(access, aim, outcome, walk, "VFIO_IOMMU_MAP_DMA, and the guest's /proc/self/pagemap"))
    machine.rogue("edu0").dma_from_device(0, _TARGET + PAGE - half, COUNT)
    wanted = before | {start: before[start][:-half] + payload[:half], end: payload[half:] + before[end][half:]}
    for frame, data in wanted.items():
        judge(check_bytes(f"the page at {frame:#x} afterwards", data, machine.vmm.memory.read(frame, PAGE)))


@pytest.mark.claim("IV-1")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_dma_of_any_length_lands_to_the_byte(machine: LiveMachine) -> None:
    """DMAs of many lengths, at any offset in eight scattered pages, change exactly the bytes that they are for."""
    source, target = machine.allocate(1, canary()), machine.allocate(8, canary())
    give_to_vfio(machine, "edu0")
    machine.agent.vfio_map(machine.address("edu0"), source, _SOURCE, "r")
    machine.agent.vfio_map(machine.address("edu0"), target, _TARGET)
    machine.load("edu0", _SOURCE, source.frames[0], max(_LENGTHS))
    filling = machine.agent.page_read(target, 0, 8 * PAGE)
    for count in _LENGTHS:
        page = random.randrange(8)
        offset = random.randrange(PAGE - count + 1)
        why = f"{count} bytes at {offset:#x} of page {page}"
        judge(
            write(
                machine,
                "edu0",
                _TARGET + page * PAGE + offset,
                target.frames[page] + offset,
                target,
                blocked=False,
                why=why,
                count=count,
            )
        )
        machine.agent.page_write(target, 0, filling)


@pytest.mark.claim("IV-1")
@pytest.mark.parametrize("huge", [pytest.param(21, id="2M"), pytest.param(30, id="1G", marks=pytest.mark.nightly)])
@pytest.mark.machine(
    devices=["edu,iommu=on"], memory_mib=2560, kernel_args=["hugepagesz=1G", "hugepages=1"], boot="cold"
)
def test_a_huge_page_ends_where_it_ends(machine: LiveMachine, huge: int) -> None:
    """A huge page of the guest that VFIO has mapped is reached at its start and end, and no byte beyond is.

    The write that goes over its end has the part inside arrive, and the part outside blocked.
    """
    if huge == 21:
        machine.agent.write_file("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "1")
    pages = machine.allocate_huge(huge)
    iova, start, size = 1 << 32, pages.frames[0], 1 << huge
    give_to_vfio(machine, "edu0")
    machine.agent.vfio_map(machine.address("edu0"), pages, iova)
    why = f"one page of {size:#x} bytes, mapped by VFIO"
    machine.vmm.memory.write(start, canary()[:COUNT])
    machine.load("edu0", iova, start, COUNT)
    for at in (COUNT, size // 2, size - COUNT):
        judge(write(machine, "edu0", iova + at, start + at, blocked=False, why=why))
    over = size - COUNT // 2
    parts = (COUNT // 2, False), (COUNT // 2, True)
    judge(write_in_parts(machine, "edu0", iova + over, start + over, parts=parts, why=why))


@pytest.mark.claim("IV-1", "QD-2")
@pytest.mark.machine(devices=["edu,iommu=on,id=one", "edu,iommu=on,id=other"])
def test_containers_are_worlds_of_their_own(machine: LiveMachine) -> None:
    """What is mapped in one container the device in another does not reach; two devices in one container share all."""
    judge(_containers(machine))


def _containers(machine: LiveMachine) -> Iterator[Finding]:
    page = machine.allocate(1, canary())
    give_to_vfio(machine, "one")
    give_to_vfio(machine, "other")
    machine.agent.vfio_map(machine.address("one"), page, _TARGET)
    yield from write(machine, "one", _TARGET, page.frames[0], page, blocked=False, why="mapped in its container")
    aim = page.frames[0] + 512
    yield from write(machine, "other", _TARGET + 512, aim, page, blocked=True, why="mapped in another container")
    machine.agent.vfio_close(machine.address("other"))
    give_to_vfio(machine, "other", beside="one")
    yield from write(machine, "other", _TARGET + 512, aim, page, blocked=False, why="mapped in the container of both")


@pytest.mark.claim("IV-1", "IV-6")
@pytest.mark.machine(devices=["edu,iommu=on,id=one", "edu,iommu=on,id=peer"])
def test_a_device_reaches_the_registers_of_another_only_through_a_mapping(machine: LiveMachine) -> None:
    """DMA from peer to peer goes to a BAR that is mapped, and is blocked at the BAR's own address.

    What shows it is a register that holds the inverse of what is written to it.
    """
    source = machine.allocate(1, canary())
    give_to_vfio(machine, "one")
    give_to_vfio(machine, "peer")
    machine.agent.vfio_map(machine.address("one"), source, _SOURCE, "r")
    machine.agent.vfio_map_bar(machine.address("one"), machine.address("peer"), 0, _TARGET, PAGE)
    machine.rogue("peer")  # switches its memory on, as a driver would
    bar = machine.config_space(machine.function("peer").address).bar(0)
    machine.load("one", _SOURCE, source.frames[0], 4)
    sent = machine.vmm.memory.read(source.frames[0], 4)

    def check_register(iova: int, aim: int | None, expected: bytes) -> Iterator[Finding]:
        access, outcome, walk = machine.expect("one", iova, AccessKind.WRITE, 4)
        yield from check_outcome(access, aim, outcome, walk, "VFIO_IOMMU_MAP_DMA of a BAR")
        mark = machine.log_mark()
        machine.vmm.qtest.write_value(bar + _LIVENESS, 0, Width.LONG)
        machine.rogue("one").dma_from_device(0, iova, 4)
        reports = machine.faults(access.requester, since=mark, wait=aim is None)
        seen = machine.vmm.qtest.read_value(bar + _LIVENESS, Width.LONG).to_bytes(4, "little")
        yield from check_bytes(f"the register of the peer after {access}", expected, seen)
        yield from check_reported(access, reports) if aim is None else check_unreported(access, reports)

    inverse = bytes(byte ^ 0xFF for byte in sent)
    by_mapping = check_register(_TARGET + _LIVENESS, bar + _LIVENESS, inverse)
    judge(chain(by_mapping, check_register(bar + _LIVENESS, None, bytes(4 * [0xFF]))))


@pytest.mark.nightly_for("virtio")
@pytest.mark.claim("IV-7", "QD-2")
@pytest.mark.machine(devices=["edu,iommu=on"])
@pytest.mark.parametrize(
    "end",
    [
        "unmap",
        pytest.param("close", marks=pytest.mark.nightly),
        "kill",
        pytest.param("kill-and-unbind", marks=pytest.mark.nightly),
    ],
)
def test_nothing_is_left_of_a_mapping_that_ended_during_dma(machine: LiveMachine, end: str) -> None:
    """While a device writes without pause, its mapping ends: no write that is begun from then on gets through.

    The control: before that, they did.
    """
    address, owner = machine.address("edu0"), machine.agent.child()
    page = machine.allocate(1, canary())
    give_to_vfio(machine, "edu0", by=owner)
    owner.vfio_map(address, owner.adopt(page), _TARGET)

    def end_it() -> None:
        match end:
            case "unmap":
                owner.vfio_unmap(address, _TARGET, PAGE)
            case "close":
                owner.vfio_close(address)
            case "kill" | "kill-and-unbind":
                owner.kill()
        if end == "kill-and-unbind":
            machine.agent.pci_bind(address, "")

    judge(check_ends(machine, "edu0", _TARGET, page, end_it, f"{end} of what was mapped"))


@pytest.mark.claim("IV-1", "QD-2")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_a_device_that_is_reset_is_held_to_the_same_mappings(machine: LiveMachine) -> None:
    """VFIO resets a device in the middle of its DMA: what is mapped for it is reached afterwards, and nothing else."""
    address, page = machine.address("edu0"), machine.allocate(2, canary())
    give_to_vfio(machine, "edu0")
    machine.agent.vfio_map(address, page, _TARGET, size=PAGE)
    with stream(machine, "edu0", _TARGET, page.frames[0]) as writes:
        writes.wait_for_arrival()
        machine.agent.vfio_reset(address)
    judge(
        chain(
            write(machine, "edu0", _TARGET + 1024, page.frames[0] + 1024, page, blocked=False, why="mapped by VFIO"),
            write(machine, "edu0", _TARGET + PAGE, page.frames[1], page, blocked=True, why="not mapped", count=4),
        )
    )


@pytest.mark.claim("IV-4")
@pytest.mark.machine(devices=["edu,iommu=on,dma-bits=26,id=short", "edu,iommu=off,dma-bits=26,id=outside"])
def test_a_device_with_short_addresses_reaches_memory_above_them(machine: LiveMachine) -> None:
    """A device whose addresses have 26 bits reads and writes a page above 64 MiB, by an IOVA below them.

    The control: outside of the IOMMU it has no address for that page, and reads what is at the lower 26 bits of it.
    """
    page = _beyond_reach(machine)
    high = page.frames[0]
    give_to_vfio(machine, "short")
    machine.agent.vfio_map(machine.address("short"), page, _LOW_IOVA)
    machine.load("short", _LOW_IOVA + 1024, high + 1024, COUNT)
    judge(write(machine, "short", _LOW_IOVA, high, page, blocked=False, why="mapped by VFIO"))
    wanted, low, outside = high + 512, (high + 512) % _REACH, machine.rogue("outside")
    there, reached = machine.vmm.memory.read(wanted, COUNT), machine.vmm.memory.read(low, COUNT)
    if there == reached:
        raise HarnessError(f"the same stands at {low:#x} and at {wanted:#x}: nothing would show")
    outside.dma_to_device(wanted, 0, COUNT)
    outside.dma_from_device(0, _LEFT_ALONE, COUNT)
    shown = machine.vmm.memory.read(_LEFT_ALONE, COUNT)
    judge(check_bytes(f"what a device of 26 bits reads at {wanted:#x}", reached, shown))


def _beyond_reach(machine: LiveMachine) -> Pages:
    """A page of the guest at an address that has more bits than those of the device.

    Raises:
        HarnessError: the guest gives none.
    """
    for _ in range(_TRIES):
        page = machine.allocate(1, canary())
        if page.frames[0] >= _REACH:
            return page
    raise HarnessError(f"none of {_TRIES} pages of the guest is above {_REACH:#x}", hint="run the case again")


@pytest.mark.claim("QD-4", "VQ-7")
@pytest.mark.machine(devices=["edu,iommu=on,id=vfio", "edu,iommu=on,id=uio"], dma_mode=DmaMode.PASSTHROUGH)
def test_a_user_space_driver_is_safe_through_vfio_only(machine: LiveMachine) -> None:
    """In one guest, with iommu=pt, a device in VFIO's hands is held to its mappings, and one in UIO's is not.

    The kernel asks for nothing more of UIO, since nothing that it knows of protects the guest from the device.
    """
    page = machine.allocate(2, canary())
    give_to_vfio(machine, "vfio")
    machine.agent.vfio_map(machine.address("vfio"), page, _TARGET, offset=0, size=PAGE)
    give_to_uio(machine, "uio")
    aim = page.frames[1] + 512
    judge(write(machine, "vfio", _TARGET, page.frames[0], page, blocked=False, why="mapped by VFIO"))
    judge(write(machine, "vfio", aim, aim, page, blocked=True, why="not mapped by VFIO", count=4))
    judge(write(machine, "uio", aim, aim, page, blocked=False, why="UIO maps nothing: the group is passed through"))
