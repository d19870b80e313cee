"""Devices plugged by QMP into a running guest."""

from __future__ import annotations

import pytest
from machines import spec
from rogue import canary, write_over
from traffic import check_disk, check_network

from harness.checks.inventory import check_functions, check_groups
from harness.checks.judge import judge
from harness.guest.lspci import lspci
from harness.live import LiveMachine
from harness.plugin import Lease
from harness.spec import IommuKind

_ALL = tuple(
    f"{kind},iommu={tag},hotplug=on,id={kind}-{tag}"
    for kind in ("virtio-blk", "virtio-net", "edu")
    for tag in ("on", "off")
)


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
