"""Devices plugged by QMP into a running guest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from machines import spec
from rogue import COUNT, canary, write, write_over
from shown import acpi_tables, pci_tree
from streams import stream
from traffic import check_disk, check_network

from harness.checks.dma import check_bytes, check_outcome, check_reported, check_unreported
from harness.checks.firmware import check_tables
from harness.checks.hotplug import check_leftovers, check_nothing_left
from harness.checks.inventory import check_functions, check_groups
from harness.checks.judge import judge
from harness.checks.pci_tree import check_pci_tree
from harness.guest.answers import PAGE, Pages
from harness.guest.lspci import lspci
from harness.live.machine import LiveMachine
from harness.live.plug_rounds import leftovers, plug_rounds
from harness.live.user_space import give_to_vfio
from harness.model.access import AccessKind
from harness.plugin import Lease
from harness.report.record import Finding
from harness.spec import IommuKind

_ALL = tuple(
    f"{kind},iommu={tag},hotplug=on,id={kind}-{tag}"
    for kind in ("virtio-blk", "virtio-net", "edu")
    for tag in ("on", "off")
)
_TWO = (
    "virtio-blk,iommu=on,hotplug=on",
    "edu,iommu=off,hotplug=on",
)  # by PCI Express each takes five seconds to let go
_WAYS = pytest.mark.parametrize(
    "native", [pytest.param(False, id="acpi"), pytest.param(True, id="native", marks=pytest.mark.nightly)]
)
_WITH_BUS = ("edu,iommu=on,bridge=b,hotplug=on,id=rogue", "virtio-blk,iommu=on")
_IOVA = 0x12345000


@pytest.mark.claim("CH-1", "CH-4", "CH-5")
@pytest.mark.machine(devices=_ALL)
def test_plugged_devices_come_to_stand_where_they_are_tagged(machine: LiveMachine) -> None:
    """After each device_add groups and lspci are as expected: iommu=on in a group of its own, iommu=off in none."""
    judge(check_groups(machine.topology, machine.agent.iommu_groups()))
    for device in machine.spec.devices:
        machine.plug(device.id)
        judge(check_functions(machine.topology, lspci(machine.guest.ssh)))
        judge(check_groups(machine.topology, machine.agent.iommu_groups()))


@pytest.mark.claim("CH-1", "VQ-8")
@pytest.mark.parametrize("tag", ["on", "off"])
def test_plugged_virtio_devices_work(lease: Lease, iommu: IommuKind, tag: str) -> None:
    """A virtio-blk and a virtio-net that were plugged carry data."""
    live = lease(spec(iommu, f"virtio-blk,iommu={tag},hotplug=on", f"virtio-net,iommu={tag},hotplug=on"))
    for device in live.spec.devices:
        live.plug(device.id)
    judge(check_disk(live, "virtio-blk0"))
    judge(check_network(live, "virtio-net0"))


@pytest.mark.claim("QD-2", "CH-1")
@pytest.mark.machine(devices=["edu,iommu=on,hotplug=on,id=inside", "edu,iommu=off,hotplug=on,id=outside"])
def test_a_plugged_rogue_device_is_blocked_where_it_is_tagged(machine: LiveMachine) -> None:
    """A malicious device plugged with iommu=on is blocked and reported; one plugged with iommu=off gets through."""
    machine.plug("inside")
    machine.plug("outside")
    victim, control = machine.allocate(1, canary()), machine.allocate(1, canary())
    judge(write_over(machine, "inside", victim, blocked=True))
    judge(write_over(machine, "outside", control, blocked=False))


@pytest.mark.nightly
@pytest.mark.claim("CH-4", "CH-5", "VQ-3")
def test_a_bus_that_is_plugged_is_behind_the_iommu(lease: Lease, iommu: IommuKind) -> None:
    """A device that comes with a bridge, and so with a bus of its own, is in one group with it, as lspci shows it.

    Firmware's tables were made before that bus was there, and are true of it. Nothing is left of both once unplugged.
    """
    live = lease(spec(iommu, *_WITH_BUS))
    for there in (True, False):
        (live.plug if there else live.unplug)("rogue")
        judge(check_tables(live.topology.platform, acpi_tables(live)))
        judge(check_pci_tree(live.topology.platform.tree, pci_tree(live)))
        judge(check_functions(live.topology, lspci(live.guest.ssh)))
        judge(check_groups(live.topology, live.agent.iommu_groups()))


@pytest.mark.nightly
@pytest.mark.claim("IV-1", "QD-2", "VQ-8")
def test_a_device_on_a_bus_that_is_plugged_is_held_back(lease: Lease, iommu: IommuKind) -> None:
    """A device that comes with a bridge reaches nothing; then what VFIO maps for it, and nothing of that in the end."""
    live = lease(spec(iommu, *_WITH_BUS))
    live.plug("rogue")
    judge(write_over(live, "rogue", live.allocate(1, canary()), blocked=True))
    live.agent.pci_bind(_above(live, "rogue"), "")  # the bridge is of the group, and its driver is the kernel's
    give_to_vfio(live, "rogue")
    page, address, requester = live.allocate(1, canary()), live.address("rogue"), live.function("rogue").requester
    live.agent.vfio_map(address, page, _IOVA)
    aim = page.frames[0] + 512
    judge(write(live, "rogue", _IOVA + 512, aim, page, blocked=False, why="mapped by VFIO"))
    mapped = live.mappings("rogue")
    live.agent.vfio_close(address)
    live.unplug("rogue")
    judge(check_nothing_left("rogue", mapped, live.engine.iter_mappings(requester)))


def _above(live: LiveMachine, id: str) -> str:
    """Address of the bridge that a device stands behind."""
    tree = live.topology.platform.tree
    return str(next(iter(tree.bridges_above(tree.function(live.function(id).address)))).address)


@pytest.mark.nightly_for("virtio")
@pytest.mark.claim("CH-1", "CH-4")
@_WAYS
def test_unplugged_devices_leave_their_groups(lease: Lease, iommu: IommuKind, native: bool) -> None:
    """After each device_del the device is gone from lspci and from its group, and so are its mappings."""
    live = lease(spec(iommu, *(_ALL if not native else _TWO), native_hotplug=native))
    for device in live.spec.devices:
        live.plug(device.id)
    for device in live.spec.devices:
        requester, mapped = live.function(device.id).requester, live.mappings(device.id) if device.iommu else ()
        live.unplug(device.id)
        judge(check_functions(live.topology, lspci(live.guest.ssh)))
        judge(check_groups(live.topology, live.agent.iommu_groups()))
        judge(check_nothing_left(device.id, mapped, live.engine.iter_mappings(requester)))


@pytest.mark.claim("IV-7", "QD-2")
@_WAYS
def test_the_next_device_in_a_slot_inherits_nothing(lease: Lease, iommu: IommuKind, native: bool) -> None:
    """A device that comes into the slot of another reaches nothing of what was mapped for that one.

    The control: the device before it wrote to the same page by the same IOVA, and the translation may be cached.
    """
    live = lease(spec(iommu, "edu,iommu=on,hotplug=on,id=guest", native_hotplug=native))
    pattern = canary()[:PAGE]
    page = live.allocate(1, pattern)
    for blocked in (False, True):
        live.plug("guest")
        address = live.address("guest")
        if not blocked:
            give_to_vfio(live, "guest")
            live.agent.vfio_map(address, page, _IOVA)
        why = "mapped by VFIO" if not blocked else "mapped for the device that was there before"
        judge(write(live, "guest", _IOVA + 512, page.frames[0] + 512, page, blocked=blocked, why=why))
        if not blocked:
            live.agent.vfio_close(address)
            live.unplug("guest")
            live.agent.page_write(page, 0, pattern)


@pytest.mark.claim("QD-2", "VQ-8")
@pytest.mark.parametrize("tag", ["on", "off"])
def test_a_device_is_unplugged_in_the_middle_of_its_dma(lease: Lease, iommu: IommuKind, tag: str) -> None:
    """A device that goes on with DMA while it is unplugged reaches what its tag lets it; once gone, nothing."""
    live = lease(spec(iommu, f"edu,iommu={tag},hotplug=on,id=busy"))
    live.plug("busy")
    page = live.allocate(1, canary())
    judge(_unplug_while_busy(live, page, blocked=tag == "on"))
    judge(check_groups(live.topology, live.agent.iommu_groups()))
    live.check_unmoved(page)


def _unplug_while_busy(live: LiveMachine, page: Pages, *, blocked: bool) -> Iterator[Finding]:
    aim, mark = page.frames[0] + 512, live.log_mark()
    access, outcome, walk = live.expect("busy", aim, AccessKind.WRITE, COUNT)
    yield from check_outcome(access, None if blocked else aim, outcome, walk, f"{live.spec.device('busy')}")
    before = live.vmm.memory.read(page.frames[0], PAGE)
    with stream(live, "busy", aim, aim) as writes:
        if blocked:
            yield from writes.check_none_arrives("before it is unplugged")
            yield from check_reported(access, live.faults(access.requester, since=mark, wait=True))
        else:
            writes.wait_for_arrival()
        live.unplug("busy")
        yield from writes.check_none_arrives("after it was unplugged")
    beside = live.vmm.memory.read(page.frames[0], PAGE)
    yield from check_bytes("memory before where it wrote", before[:512], beside[:512])
    yield from check_bytes("memory behind", before[512 + COUNT :], beside[512 + COUNT :])
    if not blocked:
        yield from check_unreported(access, live.faults(access.requester, since=mark, wait=False))


@pytest.mark.claim("VQ-8")
@pytest.mark.machine(devices=["edu,iommu=on,hotplug=on", "virtio-blk,iommu=on,hotplug=on"])
def test_rounds_of_plugging_and_unplugging_leave_nothing_behind(machine: LiveMachine) -> None:
    """After ten rounds more there are no more groups, functions and descriptors, nor more memory than allocators keep.

    How much that is `harness.checks.hotplug` says; a smaller leak shows in `viommu bench hotplug`, over hundreds.
    """
    ids = [device.id for device in machine.spec.devices]
    plug_rounds(machine, ids, 2)
    before = leftovers(machine)
    plug_rounds(machine, ids, 10)
    judge(check_leftovers(before, leftovers(machine)))
    judge(check_groups(machine.topology, machine.agent.iommu_groups()))
