"""What the firmware set up and tells: do its tables say the truth about who is behind the IOMMU?"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from shown import acpi_tables, pci_tree

from harness.checks.firmware import check_tables
from harness.checks.inventory import check_functions, check_groups
from harness.checks.judge import judge
from harness.checks.pci_tree import check_pci_tree
from harness.errors import Unsupported
from harness.guest.lspci import lspci
from harness.live.machine import LiveMachine

_DMAR_HEADER, _DRHD, _INCLUDE_PCI_ALL = 48, 0, 1
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
    judge(check_functions(machine.topology, lspci(machine.guest.ssh)))
    judge(check_pci_tree(machine.topology.platform.tree, pci_tree(machine)))


@pytest.mark.claim("VQ-6")
@pytest.mark.machine(iommu="intel", devices=_MIX, boot="cold")
def test_a_kernel_lives_with_units_that_name_each_device(machine: LiveMachine) -> None:
    """Where no unit of the DMAR table says that it is for all the rest, a guest comes up, and its groups are right."""
    for at, flags in _drhd_flags(acpi_tables(machine)["DMAR"]):
        if flags & _INCLUDE_PCI_ALL:
            raise Unsupported(f"the DRHD at {at:#x} of this QEMU's DMAR table is for all the rest (INCLUDE_PCI_ALL)")
    judge(check_groups(machine.topology, machine.agent.iommu_groups()))


def _drhd_flags(table: bytes) -> Iterator[tuple[int, int]]:
    """Where each DRHD of a DMAR table is, and its flags (VT-d 8.1, 8.3)."""
    at = _DMAR_HEADER
    while at < len(table):
        kind, length = struct.unpack_from("<HH", table, at)
        if kind == _DRHD:
            yield at, table[at + 4]
        at += length
