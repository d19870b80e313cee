"""IOMMU groups: who is in which, and of which type."""

from __future__ import annotations

import pytest
from machines import spec

from harness.checks.inventory import check_functions, check_group_types, check_groups
from harness.checks.judge import judge
from harness.guest.lspci import lspci
from harness.live.machine import LiveMachine
from harness.plugin import Lease
from harness.spec import DmaMode, IommuKind

_MIX = ("virtio-blk,iommu=on", "virtio-net,iommu=on", "edu,iommu=on", "virtio-blk,iommu=off", "edu,iommu=off")


@pytest.mark.claim("CH-1", "CH-4")
@pytest.mark.machine(devices=_MIX, boot="cold")
def test_groups_hold_exactly_the_devices_behind_the_iommu(machine: LiveMachine) -> None:
    """Each device with iommu=on is in one group with exactly the members expected; one with iommu=off is in none."""
    judge(check_groups(machine.topology, machine.agent.iommu_groups()))


@pytest.mark.claim("CH-5", "CH-2")
@pytest.mark.machine(devices=_MIX, boot="cold")
def test_lspci_shows_every_function_and_no_other(machine: LiveMachine) -> None:
    """lspci shows every function of the machine as what it is, a virtio-iommu as 1af4:1057, and nothing else."""
    judge(check_functions(machine.topology, lspci(machine.guest.ssh)))


@pytest.mark.claim("VQ-7")
@pytest.mark.parametrize("dma_mode", [DmaMode.STRICT, DmaMode.LAZY, DmaMode.PASSTHROUGH], ids=str)
def test_group_type_follows_the_kernel_command_line(lease: Lease, iommu: IommuKind, dma_mode: DmaMode) -> None:
    """Each group has the type that the guest's command line asks for: DMA, DMA-FQ or identity."""
    live = lease(spec(iommu, "virtio-blk,iommu=on", "edu,iommu=on", dma_mode=dma_mode))
    judge(check_groups(live.topology, live.agent.iommu_groups()))
    judge(check_group_types(live.topology, live.agent.iommu_groups()))


@pytest.mark.claim("CH-1")
@pytest.mark.machine(devices=["virtio-blk,iommu=on"], dma_mode=DmaMode.OFF)
def test_a_kernel_told_not_to_use_its_iommu_has_no_groups(machine: LiveMachine) -> None:
    """With the IOMMU switched off on the guest's command line there is no IOMMU group at all."""
    judge(check_groups(machine.topology, machine.agent.iommu_groups()))
    judge(check_group_types(machine.topology, machine.agent.iommu_groups()))
