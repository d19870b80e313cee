"""Machines whose kernel ends and begins again: what was mapped has gone, and what is mapped then holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import chain

import pytest
from machines import spec
from next_kernel import load_same_kernel
from rogue import COUNT, RATE_LIMIT_SECONDS, canary, write, write_over
from shown import acpi_tables, pci_tree
from streams import stream, stream_over_a_restart
from traffic import check_disk, check_network

from harness.checks.firmware import check_tables
from harness.checks.inventory import check_functions, check_groups
from harness.checks.judge import judge
from harness.checks.pci_tree import check_pci_tree
from harness.errors import GuestUnreachable, HarnessError
from harness.guest.answers import PAGE, Pages
from harness.guest.lspci import lspci
from harness.lab import BOOT_SECONDS, Lab
from harness.live.life_cycle import plug_memory, plug_processor, suspend, wake
from harness.live.machine import LiveMachine
from harness.live.user_space import give_to_vfio
from harness.plugin import Lease
from harness.report.record import Finding
from harness.spec import IommuKind, Room

_SOURCE, _TARGET, _ADDED = 0x40000000, 0x7FFFE000, 0x60000000
_MODULE_MIB = 256
_TRIES = 64
_ROGUE, _DISK, _NIC, _PLACE = "rogue", "disk", "nic", "place"
_DEVICES = (f"edu,iommu=on,id={_ROGUE}", f"virtio-blk,iommu=on,id={_DISK}", f"virtio-net,iommu=on,id={_NIC}")


def _reboot(machine: LiveMachine) -> None:
    """By the guest: its drivers are told to shut their devices down first."""
    machine.guest.run("(sleep 0.2; reboot -f) >/dev/null 2>&1 &")


def _reset(machine: LiveMachine) -> None:
    """By the VMM: nobody in the guest is told."""
    machine.vmm.qmp.execute("system_reset")


_RESETS: Mapping[str, Callable[[LiveMachine], None]] = {"reboot": _reboot, "system-reset": _reset}


@pytest.mark.nightly_for("virtio")
@pytest.mark.claim("IV-1", "VQ-3", "VQ-8")
@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.nightly if how == "reboot" else ()) for how in _RESETS]
)
def test_no_mapping_outlives_a_reset(lab: Lab, lease: Lease, iommu: IommuKind, how: str) -> None:
    """After a reset of the machine a device is held to what the new kernel maps: nothing from before lets it through.

    The control: before it, VFIO's mapping did. virtio-blk and virtio-net carry data before and after.
    """
    asked = spec(iommu, *_DEVICES)
    machine = lease(asked, replace(lab.options(asked), reboots=True))
    frame = map_and_try(machine)
    machine.restart(lambda: _RESETS[how](machine), BOOT_SECONDS)
    judge(after_a_restart(machine, frame))


@pytest.mark.nightly_for("virtio")
@pytest.mark.claim("IV-1", "VQ-1", "VQ-3", "VQ-8")
def test_a_reset_that_gives_buses_other_numbers_leads_no_device_astray(
    lab: Lab, lease: Lease, iommu: IommuKind
) -> None:
    """After a reset with one bridge more each device is held to its own mappings, under the requester id it has now.

    The rogue has the bus number then that virtio-blk had before. Firmware's tables, lspci, groups, and the types of
    bridges are as they must be. The control: before it, VFIO's mapping let the rogue through.
    """
    asked = spec(iommu, f"edu,iommu=on,hotplug=on,id={_PLACE}", *(f"{device},hotplug=on" for device in _DEVICES))
    machine = lease(asked, replace(lab.options(asked), reboots=True))
    for id in (_ROGUE, _DISK, _NIC):
        machine.plug(id)
    frame, number = map_and_try(machine), machine.function(_DISK).address.bus
    machine.restart_with_bridge(_PLACE, BOOT_SECONDS)
    assert machine.function(_ROGUE).address.bus == number
    judge(check_functions(machine.topology, lspci(machine.guest.ssh)))
    judge(check_tables(machine.topology.platform, acpi_tables(machine)))
    judge(check_pci_tree(machine.topology.platform.tree, pci_tree(machine)))
    judge(after_a_restart(machine, frame))


@pytest.mark.nightly_for("virtio")
@pytest.mark.claim("IV-1", "VQ-3", "VQ-8")
@pytest.mark.machine(devices=_DEVICES)
def test_no_mapping_outlives_a_kexec(lab: Lab, machine: LiveMachine) -> None:
    """When another kernel is started by the one that runs, a device is held to what the new one maps.

    The device writes without pause meanwhile. No firmware runs in between, and the IOMMU is not reset. The control:
    before it, VFIO's mapping let the device through.
    """
    start = load_same_kernel(lab, machine, _DISK)
    frame = map_and_try(machine)
    with stream_over_a_restart(machine, _ROGUE, _TARGET + 1024, frame + 1024):
        machine.restart(start, BOOT_SECONDS)
    judge(after_a_restart(machine, frame))


@pytest.mark.nightly_for("virtio")
@pytest.mark.claim("IV-1", "VQ-3", "VQ-8")
@pytest.mark.machine(devices=_DEVICES, memory_mib=768, kernel_args=("crashkernel=256M",))
def test_dma_in_flight_goes_nowhere_new_in_a_crash_kernel(lab: Lab, machine: LiveMachine) -> None:
    """After a panic with DMA under way a device reaches nothing of the crash kernel that this has not given it.

    What was mapped before stays so until the device has a driver again where the kernel takes over the tables that it
    finds (VT-d: drivers/iommu/intel/iommu.c, copy_translation_tables; AMD-Vi: amd/init.c, copy_device_table), so that
    DMA under way does no harm. A virtio-iommu is reset, and has forgotten it.
    """
    start = load_same_kernel(lab, machine, _DISK, crash=True)
    frame = map_and_try(machine)
    with stream_over_a_restart(machine, _ROGUE, _TARGET + 1024, frame + 1024):
        machine.restart(start, BOOT_SECONDS, panics=True)
    time.sleep(RATE_LIMIT_SECONDS)  # so that the guest reports faults again
    judge(after_a_crash(machine, frame))


@pytest.mark.claim("VQ-3", "VQ-8")
@pytest.mark.machine(devices=_DEVICES, room=Room(cpus=1))
def test_mappings_hold_while_a_processor_is_plugged(machine: LiveMachine) -> None:
    """A device writes without pause while a processor is plugged: what is mapped holds, and nothing else is reached.

    virtio-blk and virtio-net carry data before and after.
    """
    frame = map_and_try(machine)
    with stream(machine, _ROGUE, _TARGET + 1024, frame + 1024) as writes:
        writes.wait_for_arrival()
        plug_processor(machine)
        judge(writes.check_all_arrived("while a processor is plugged"))
    judge(chain(old_mapping_holds(machine, frame), devices_work(machine)))


@pytest.mark.nightly_for("virtio")
@pytest.mark.claim("IV-1", "VQ-3", "VQ-8")
@pytest.mark.machine(devices=_DEVICES, room=Room(memory_mib=_MODULE_MIB))
def test_dma_reaches_memory_that_was_plugged_only_through_a_mapping(machine: LiveMachine) -> None:
    """When memory was plugged, a page of it that is mapped is reached, and no other, nor that one when it is unmapped.

    The device writes without pause while it is plugged, and what was mapped before holds.
    """
    frame = map_and_try(machine)
    with stream(machine, _ROGUE, _TARGET + 1024, frame + 1024) as writes:
        writes.wait_for_arrival()
        module = plug_memory(machine, _MODULE_MIB)
        judge(writes.check_all_arrived("while memory is plugged"))
    judge(chain(new_memory_is_held(machine, module), old_mapping_holds(machine, frame), devices_work(machine)))


@pytest.mark.nightly_for("virtio")
@pytest.mark.claim("IV-1", "VQ-3", "VQ-8")
@pytest.mark.machine(devices=_DEVICES)
def test_mappings_hold_after_a_suspend(machine: LiveMachine) -> None:
    """After the guest was suspended to RAM and has woken, what was mapped before is reached, and nothing else.

    Waking resets the machine: registers and caches of the IOMMU are the driver's to bring back.
    """
    frame = map_and_try(machine)
    judge(sleep_and_wake(machine))
    groups = check_groups(machine.topology, machine.agent.iommu_groups())
    judge(chain(old_mapping_holds(machine, frame), groups, devices_work(machine)))


def after_a_crash(machine: LiveMachine, old: int) -> Iterator[Finding]:
    """What is wrong with a machine that a crash kernel has; `old`: where the rogue's page was before."""
    forgotten = machine.spec.iommu.kind is IommuKind.VIRTIO
    why = "mapped by VFIO before the panic"
    yield from write(machine, _ROGUE, _TARGET + 2048, old + 2048, blocked=forgotten, why=why, count=4)
    page = machine.allocate(1, canary())
    aim = page.frames[0]
    yield from write(machine, _ROGUE, aim, aim, page, blocked=True, why="mapped by nobody", count=4)
    give_to_vfio(machine, _ROGUE)
    yield from write(machine, _ROGUE, _TARGET + 3072, old + 3072, blocked=True, why="a new container", count=4)
    machine.agent.vfio_map(machine.address(_ROGUE), page, _TARGET)
    yield from write(machine, _ROGUE, _TARGET, aim, page, blocked=False, why="mapped by VFIO anew")
    yield from devices_work(machine)


def sleep_and_wake(machine: LiveMachine) -> Iterator[Finding]:
    """Have a guest suspend to RAM and wake it; what is wrong if it does not go or does not come back."""
    for what, step in (("suspends", suspend), ("wakes", wake)):
        try:
            step(machine)
        except GuestUnreachable as error:
            yield Finding(subject=f"a guest that {what}", expected="it answers to that", seen=error.message)
            return


def old_mapping_holds(machine: LiveMachine, frame: int) -> Iterator[Finding]:
    """What `map_and_try` has mapped is reached, and a page that is not is not."""
    yield from write(machine, _ROGUE, _TARGET + 2048, frame + 2048, blocked=False, why="mapped by VFIO before")
    yield from write_over(machine, _ROGUE, machine.allocate(1, canary()), blocked=True)


def new_memory_is_held(machine: LiveMachine, module: range) -> Iterator[Finding]:
    """Of memory that was plugged a page is reached while it is mapped, and no other one is."""
    given, withheld = pages_in(machine, module), pages_in(machine, module)
    machine.agent.vfio_map(machine.address(_ROGUE), given, _ADDED)
    aim, secret = given.frames[0], withheld.frames[0]
    yield from write(machine, _ROGUE, _ADDED, aim, given, blocked=False, why="mapped by VFIO, in new memory")
    yield from write(machine, _ROGUE, secret, secret, given, withheld, blocked=True, why="mapped by nobody", count=4)
    machine.agent.vfio_unmap(machine.address(_ROGUE), _ADDED, PAGE)
    iova, why = _ADDED + 512, "unmapped by VFIO, in new memory"
    yield from write(machine, _ROGUE, iova, aim + 512, given, blocked=True, why=why, count=4)


def pages_in(machine: LiveMachine, module: range) -> Pages:
    """A page of the guest's in the memory of a module.

    Raises:
        HarnessError: the guest gives none of it.
    """
    for _ in range(_TRIES):
        page = machine.allocate(1, canary())
        if page.frames[0] in module:
            return page
    raise HarnessError(f"none of {_TRIES} pages of the guest is in the memory that was plugged at {module.start:#x}")


def map_and_try(machine: LiveMachine) -> int:
    """Have VFIO map a page for the rogue, and all devices work; guest physical address of that page."""
    source, target = machine.allocate(1, canary()), machine.allocate(1, canary())
    give_to_vfio(machine, _ROGUE)
    machine.agent.vfio_map(machine.address(_ROGUE), source, _SOURCE, "r")
    machine.agent.vfio_map(machine.address(_ROGUE), target, _TARGET)
    machine.load(_ROGUE, _SOURCE, source.frames[0], COUNT)
    judge(write(machine, _ROGUE, _TARGET, target.frames[0], target, blocked=False, why="mapped by VFIO"))
    judge(devices_work(machine))
    return target.frames[0]


def after_a_restart(machine: LiveMachine, old: int) -> Iterator[Finding]:
    """What is wrong with a machine whose kernel is another one: with old mappings, groups, new mappings, devices.

    Args:
        machine: it.
        old: guest physical address of what the rogue had been given before.
    """
    yield from check_groups(machine.topology, machine.agent.iommu_groups())
    why = "mapped by VFIO for the kernel before this one"
    # The new kernel may have given the page to anybody.
    yield from write(machine, _ROGUE, _TARGET + 2048, old + 2048, blocked=True, why=why, count=4, in_use=True)
    page = machine.allocate(1, canary())
    aim = page.frames[0]
    yield from write(machine, _ROGUE, aim, aim, page, blocked=True, why="mapped by nobody", count=4)
    give_to_vfio(machine, _ROGUE)
    machine.agent.vfio_map(machine.address(_ROGUE), page, _TARGET)
    yield from write(machine, _ROGUE, _TARGET, aim, page, blocked=False, why="mapped by VFIO anew")
    machine.agent.vfio_unmap(machine.address(_ROGUE), _TARGET, PAGE)
    yield from write(machine, _ROGUE, _TARGET + 512, aim + 512, page, blocked=True, why="unmapped by VFIO", count=4)
    yield from devices_work(machine)


def devices_work(machine: LiveMachine) -> Iterator[Finding]:
    """virtio-blk and virtio-net carry data."""
    yield from check_disk(machine, _DISK)
    yield from check_network(machine, _NIC)
