"""Devices plugged by QMP into a running guest."""

from __future__ import annotations

import pytest
from machines import machine
from rogue import canary, write_over
from traffic import check_disk, check_network

from harness.checks.inventory import check_functions, check_groups
from harness.checks.judge import judge
from harness.guest.lspci import lspci
from harness.plugin import Boot
from harness.spec import IommuKind

_ALL = tuple(
    f"{kind},iommu={tag},hotplug=on,id={kind}-{tag}"
    for kind in ("virtio-blk", "virtio-net", "edu")
    for tag in ("on", "off")
)


@pytest.mark.claim("CH-1", "CH-4", "CH-5")
def test_plugged_devices_come_to_stand_where_they_are_tagged(boot: Boot, iommu: IommuKind) -> None:
    """After each device_add groups and lspci are as expected: iommu=on in a group of its own, iommu=off in none."""
    live = boot(machine(iommu, *_ALL))
    judge(check_groups(live.topology, live.agent.iommu_groups()))
    for device in live.spec.devices:
        live.plug(device.id)
        judge(check_functions(live.topology, lspci(live.guest.ssh)))
        judge(check_groups(live.topology, live.agent.iommu_groups()))


@pytest.mark.claim("CH-1", "VQ-8")
@pytest.mark.parametrize("tag", ["on", "off"])
def test_plugged_virtio_devices_work(boot: Boot, iommu: IommuKind, tag: str) -> None:
    """A virtio-blk and a virtio-net that were plugged carry data."""
    live = boot(machine(iommu, f"virtio-blk,iommu={tag},hotplug=on", f"virtio-net,iommu={tag},hotplug=on"))
    for device in live.spec.devices:
        live.plug(device.id)
    judge(check_disk(live, "virtio-blk0"))
    judge(check_network(live, "virtio-net0"))


@pytest.mark.claim("QD-2", "CH-1")
def test_a_plugged_rogue_device_is_blocked_where_it_is_tagged(boot: Boot, iommu: IommuKind) -> None:
    """A malicious device plugged with iommu=on is blocked and reported; one plugged with iommu=off gets through."""
    live = boot(machine(iommu, "edu,iommu=on,hotplug=on,id=inside", "edu,iommu=off,hotplug=on,id=outside"))
    live.plug("inside")
    live.plug("outside")
    victim, control = live.allocate(1, canary()), live.allocate(1, canary())
    judge(write_over(live, "inside", victim, blocked=True))
    judge(write_over(live, "outside", control, blocked=False))
