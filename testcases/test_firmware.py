"""What the firmware set up and tells: do its tables say the truth about who is behind the IOMMU?"""

from __future__ import annotations

import pytest
from shown import acpi_tables, pci_tree

from harness.checks.firmware import check_tables
from harness.checks.judge import judge
from harness.checks.pci_tree import check_pci_tree
from harness.live import LiveMachine

_MIX = ("virtio-blk,iommu=on", "edu,iommu=on", "virtio-net,iommu=on", "virtio-blk,iommu=off", "edu,iommu=off")


@pytest.mark.claim("VQ-1", "CH-2")
@pytest.mark.machine(devices=_MIX, boot="cold")
def test_firmware_tells_the_truth_about_every_device(machine: LiveMachine) -> None:
    """The IOMMU's table is there, names that IOMMU, and puts exactly those devices behind it that are."""
    judge(check_tables(machine.topology.platform, acpi_tables(machine)))


@pytest.mark.claim("VQ-1", "CH-2")
@pytest.mark.machine(devices=["virtio-blk,iommu=on", "edu,iommu=on"], boot="cold")
def test_firmware_tells_the_truth_where_every_device_is_behind(machine: LiveMachine) -> None:
    """With no device outside the table says so too, and a VT-d unit that remaps interrupts is said to do so."""
    judge(check_tables(machine.topology.platform, acpi_tables(machine)))


@pytest.mark.claim("CH-4")
@pytest.mark.machine(devices=_MIX, boot="cold")
def test_functions_show_what_their_groups_follow_from(machine: LiveMachine) -> None:
    """Port types, bridges and ACS of all functions, which decide the IOMMU groups, are as the topology has them."""
    judge(check_pci_tree(machine.topology.platform.tree, pci_tree(machine)))
