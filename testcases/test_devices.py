"""Devices at work, with a driver bound: through the IOMMU, outside of it, and around it."""

from __future__ import annotations

import pytest
from machines import spec
from rogue import canary
from traffic import check_disk, check_network

from harness.checks.hotplug import check_nothing_left
from harness.checks.inventory import check_groups
from harness.checks.judge import judge
from harness.checks.work import check_platform_access, check_untranslated
from harness.live.machine import LiveMachine
from harness.plugin import Lease
from harness.report.record import Finding
from harness.spec import IommuKind

_DRIVER_BYTES = 4 << 20


@pytest.mark.claim("CH-1", "VQ-8")
@pytest.mark.parametrize("tag", ["on", "off"])
def test_virtio_blk_reads_back_what_was_written(lease: Lease, iommu: IommuKind, tag: str) -> None:
    """virtio-blk works: what the guest writes stands on the host's side of the disk, and reads back the same."""
    live = lease(spec(iommu, f"virtio-blk,iommu={tag}"))
    judge(check_disk(live, "virtio-blk0"))


@pytest.mark.claim("CH-1", "VQ-8")
@pytest.mark.parametrize("tag", ["on", "off"])
def test_virtio_net_carries_traffic_both_ways(lease: Lease, iommu: IommuKind, tag: str) -> None:
    """virtio-net works: frames of random content arrive unchanged, from the guest and to it."""
    live = lease(spec(iommu, f"virtio-net,iommu={tag}"))
    judge(check_network(live, "virtio-net0"))


@pytest.mark.claim("VQ-8", "IV-7")
@pytest.mark.machine(devices=["virtio-blk,iommu=on"])
def test_a_driver_that_is_bound_again_starts_afresh(machine: LiveMachine) -> None:
    """When a driver is unbound nothing of what it had mapped is left; bound again, its device works as before."""
    judge(check_disk(machine, "virtio-blk0"))
    mapped = machine.mappings("virtio-blk0")
    machine.agent.pci_bind(machine.address("virtio-blk0"), "")
    judge(check_nothing_left("virtio-blk0", mapped, machine.mappings("virtio-blk0")))
    machine.agent.pci_bind(machine.address("virtio-blk0"), "virtio-pci")
    judge(check_disk(machine, "virtio-blk0"))


@pytest.mark.claim("VQ-2")
@pytest.mark.machine(devices=["virtio-blk,iommu=on"])
def test_virtio_without_access_platform_goes_around_the_iommu(machine: LiveMachine) -> None:
    """A virtio device without ACCESS_PLATFORM works with nothing mapped for it, though the guest has it in a group.

    It is the NIC that SSH goes through, so that it works is seen already.
    """
    nic = "management NIC"
    judge(check_platform_access(nic, machine.virtio_features(nic), expected=False))
    judge(check_untranslated(nic, machine.mappings(nic)))
    covered = machine.topology.only(nic)
    judge(check_groups(covered, [g for g in machine.agent.iommu_groups() if machine.address(nic) in g.devices]))


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
