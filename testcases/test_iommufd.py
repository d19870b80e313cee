"""A user-space driver in the guest, by iommufd: its device reaches what its address space maps, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attacks import DEVICES, Scene, check_read, check_write
from holds import check_lands, iommufd
from machines import spec
from rogue import canary, write
from streams import check_ends

from harness.checks.judge import judge
from harness.checks.work import check_count, check_refused
from harness.guest.answers import PAGE
from harness.lab import Lab
from harness.live.machine import LiveMachine
from harness.live.user_space import VfioBackEnd, address_space, give_to_iommufd
from harness.plugin import Lease
from harness.report.record import Finding
from harness.spec import Iommu, IommuKind

_TARGET = 0x7FFFE000
_MSI_RANGE = 0xFEE00000


@pytest.fixture(autouse=True)
def _iommufd(lab: Lab) -> None:
    """Looks before a machine is started that would be of no use."""
    lab.require_modules(VfioBackEnd.IOMMUFD)
    lab.require_option("CONFIG_VFIO_DEVICE_CDEV", "way from VFIO to iommufd")


@pytest.mark.claim("IV-1", "IV-7")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_dma_through_iommufd_lands_exactly_where_the_model_says(machine: LiveMachine) -> None:
    """A DMA to an IOVA that iommufd mapped lands where the model's walk of the tables says; unmapped, it is blocked.

    Four scattered pages are mapped side by side; the write goes into the third, and all of them are looked at.
    """
    judge(check_lands(machine, "edu0", iommufd))


@pytest.mark.claim("QD-2", "IV-1")
@pytest.mark.machine(devices=DEVICES)
@pytest.mark.parametrize("attack", ["own-page-by-its-address", "just-before", "over-the-end", "wrong-way"])
def test_a_rogue_write_is_blocked_by_iommufd(machine: LiveMachine, attack: str) -> None:
    """A device writes outside of what its address space maps: memory is untouched, and the guest reports it.

    The controls: it writes to what is mapped for it, and a device outside of the IOMMU gets to where this one aimed.
    """
    judge(check_write(Scene(machine, iommufd), attack))


@pytest.mark.claim("QD-2", "IV-1")
@pytest.mark.machine(devices=DEVICES)
@pytest.mark.parametrize("attack", ["own-page-by-its-address", "wrong-way"])
def test_a_rogue_read_is_blocked_by_iommufd(machine: LiveMachine, attack: str) -> None:
    """A device reads outside of what its address space maps: it gets nothing of what stands there, and it is reported.

    The controls: it reads what is mapped for it, and a device outside of the IOMMU reads what this one aimed at.
    """
    judge(check_read(Scene(machine, iommufd), attack))


@pytest.mark.claim("IV-1", "QD-2")
@pytest.mark.machine(devices=["edu,iommu=on,id=one", "edu,iommu=on,id=other"])
def test_address_spaces_are_worlds_of_their_own(machine: LiveMachine) -> None:
    """Two address spaces map one IOVA to two pages, and a device of each reaches its own; in one space both reach one.

    The device that comes into the space of the other is attached to it in one step, and has left its own.
    """
    judge(_address_spaces(machine))


def _address_spaces(live: LiveMachine) -> Iterator[Finding]:
    first, second = live.allocate(1, canary()), live.allocate(2, canary())
    of_one, of_other = address_space(live), address_space(live)
    of_one.map(first, _TARGET)
    of_other.map(second, _TARGET)
    give_to_iommufd(live, "one", of_one)
    give_to_iommufd(live, "other", of_other)
    pages, own = (first, second), "mapped in its own address space"
    yield from write(live, "one", _TARGET, first.frames[0], *pages, blocked=False, why=own)
    yield from write(live, "other", _TARGET, second.frames[0], *pages, blocked=False, why=own)
    at, aim = _TARGET + PAGE + 512, second.frames[1] + 512
    yield from write(live, "one", at, aim, *pages, blocked=True, why="mapped in another address space", count=4)
    yield from write(live, "other", at, aim, *pages, blocked=False, why=own)
    of_one.attach(live.address("other"))
    aim, why = first.frames[0] + 1024, "mapped in the address space of both"
    yield from write(live, "other", _TARGET + 1024, aim, *pages, blocked=False, why=why)
    at, aim, why = _TARGET + PAGE + 1024, second.frames[1] + 1024, "mapped in the address space that it has left"
    yield from write(live, "other", at, aim, *pages, blocked=True, why=why, count=4)


@pytest.mark.claim("IV-7", "QD-2")
@pytest.mark.machine(devices=["edu,iommu=on"])
@pytest.mark.parametrize("end", ["unmap", "detach", "attach-to-another", "close", "kill"])
def test_nothing_is_left_of_an_address_space_that_ended_during_dma(machine: LiveMachine, end: str) -> None:
    """While a device writes without pause, its mapping or its address space ends: no write from then on gets through.

    The control: before that, they did. With the process that is killed go its files of iommufd and of the device.
    """
    address, owner = machine.address("edu0"), machine.agent.child()
    page = machine.allocate(1, canary())
    space = address_space(machine, owner)
    give_to_iommufd(machine, "edu0", space)
    space.map(owner.adopt(page), _TARGET)

    def end_it() -> None:
        match end:
            case "unmap":
                space.unmap(_TARGET, PAGE)
            case "detach":
                space.detach(address)
            case "attach-to-another":
                address_space(machine, owner).attach(address)
            case "close":
                space.close(address)
            case "kill":
                owner.kill()

    judge(check_ends(machine, "edu0", _TARGET, page, end_it, f"{end} of what was mapped"))


@pytest.mark.claim("IV-1", "IV-7")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_an_address_space_outlives_its_devices(machine: LiveMachine) -> None:
    """What is mapped in an address space is not reached while its device is closed, and is again when it comes back."""
    judge(_comes_back(machine))


def _comes_back(live: LiveMachine) -> Iterator[Finding]:
    page, space = live.allocate(1, canary()), address_space(live)
    space.map(page, _TARGET)
    give_to_iommufd(live, "edu0", space)
    yield from write(live, "edu0", _TARGET, page.frames[0], page, blocked=False, why="mapped")
    space.close(live.address("edu0"))
    yield from write(live, "edu0", _TARGET + 512, page.frames[0] + 512, page, blocked=True, why="it was closed")
    space.attach(live.address("edu0"))
    yield from write(live, "edu0", _TARGET + 1024, page.frames[0] + 1024, page, blocked=False, why="still mapped")


@pytest.mark.claim("IV-1", "IV-7")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_an_address_space_in_use_is_not_destroyed(machine: LiveMachine) -> None:
    """To unmap a part of a mapping is refused, and to destroy an address space with a device in it, and both stay.

    Without the device it is destroyed, and is no more.
    """
    judge(_in_use(machine))


def _in_use(live: LiveMachine) -> Iterator[Finding]:
    pages, space = live.allocate(4, canary()), address_space(live)
    space.map(pages, _TARGET)
    give_to_iommufd(live, "edu0", space)
    yield from check_refused("to unmap a part", "ENOENT", space.unmap, _TARGET + PAGE, PAGE)
    yield from check_refused("to destroy what is used", "EBUSY", space.destroy)
    yield from write(live, "edu0", _TARGET + PAGE, pages.frames[1], pages, blocked=False, why="both were refused")
    space.detach(live.address("edu0"))
    yield from check_count("bytes that were unmapped", 4 * PAGE, space.unmap(_TARGET, 4 * PAGE))
    space.destroy()
    yield from check_refused("a mapping where there is nothing", "ENOENT", space.map, pages, _TARGET)
    aim = pages.frames[1] + 512
    yield from write(live, "edu0", _TARGET + PAGE + 512, aim, pages, blocked=True, why="its space was destroyed")


@pytest.mark.claim("IV-1", "QD-6")
@pytest.mark.machine(devices=["edu,iommu=on"])
def test_the_range_of_msi_messages_is_in_no_address_space_with_a_device(machine: LiveMachine) -> None:
    """Where a device is attached nothing is mapped at the page of MSI messages; where that is mapped, none is attached.

    The device that was refused stays where it was. An address space without a device has that page like any other.
    """
    judge(_msi_range(machine))


def _msi_range(live: LiveMachine) -> Iterator[Finding]:
    page, space, empty = live.allocate(1, canary()), address_space(live), address_space(live)
    give_to_iommufd(live, "edu0", space)
    for first, last in space.ranges():
        if first <= _MSI_RANGE <= last:
            seen = f"{first:#x}..{last:#x}"
            yield Finding(subject="a range that iommufd offers", expected=f"not {_MSI_RANGE:#x}", seen=seen)
    yield from check_refused("a page of MSI", "EINVAL", space.map, page, _MSI_RANGE)
    space.map(page, _TARGET)
    empty.map(page, _MSI_RANGE)
    address = live.address("edu0")
    yield from check_refused("a device where MSI is mapped", "EADDRINUSE", empty.attach, address)
    yield from write(live, "edu0", _TARGET, page.frames[0], page, blocked=False, why="it stays in its address space")
    empty.unmap(_MSI_RANGE, PAGE)
    empty.attach(address)
    aim = page.frames[0] + 512
    yield from write(live, "edu0", _TARGET + 512, aim, page, blocked=True, why="its address space is empty now")


@pytest.mark.claim("IV-3", "QD-6")
def test_without_interrupt_remapping_iommufd_refuses_devices(lease: Lease, iommu: IommuKind) -> None:
    """Where interrupts are not remapped iommufd refuses a device, unless allow_unsafe_interrupts is set."""
    remapping = None if iommu is IommuKind.VIRTIO else False
    live = lease(spec(Iommu(kind=iommu, interrupt_remapping=remapping), "edu,iommu=on"))
    address, space = live.address("edu0"), address_space(live)
    give_to_iommufd(live, "edu0", space)  # sets allow_unsafe_interrupts
    space.close(address)
    live.agent.write_file(VfioBackEnd.IOMMUFD.unsafe_interrupts, "N")
    judge(check_refused("a device without interrupt remapping", "EPERM", space.attach, address))
