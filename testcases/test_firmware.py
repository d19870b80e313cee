"""What the firmware set up and tells: do its tables say the truth about who is behind the IOMMU?"""

from __future__ import annotations

import pytest

from harness.checks.firmware import check_tables
from harness.checks.judge import judge
from harness.checks.pci_tree import check_pci_tree
from harness.live import LiveMachine
from harness.model.firmware.tables import SIGNATURES
from harness.model.pci.config_space import read_tree
from harness.pci import Address

_FUNCTIONS = "/sys/bus/pci/devices"
_DIRECTORY = "/sys/firmware/acpi/tables"
_MIX = ("virtio-blk,iommu=on", "edu,iommu=on", "virtio-net,iommu=on", "virtio-blk,iommu=off", "edu,iommu=off")


def _tables(live: LiveMachine) -> dict[str, bytes]:
    """The tables of the five that the guest has."""
    names = live.guest.run(f"ls {_DIRECTORY}").stdout.split()
    return {name: _file(live, f"{_DIRECTORY}/{name}") for name in names if name in SIGNATURES}


def _file(live: LiveMachine, path: str) -> bytes:
    """A whole file of sysfs, which gives a page at most with each read."""
    data = b""
    while more := live.agent.read_bytes(path, len(data), 4096):
        data += more
    return data


@pytest.mark.claim("VQ-1", "CH-2")
@pytest.mark.machine(devices=_MIX, boot="cold")
def test_firmware_tells_the_truth_about_every_device(machine: LiveMachine) -> None:
    """The IOMMU's table is there, names that IOMMU, and puts exactly those devices behind it that are."""
    judge(check_tables(machine.topology.platform, _tables(machine)))


@pytest.mark.claim("VQ-1", "CH-2")
@pytest.mark.machine(devices=["virtio-blk,iommu=on", "edu,iommu=on"], boot="cold")
def test_firmware_tells_the_truth_where_every_device_is_behind(machine: LiveMachine) -> None:
    """With no device outside the table says so too, and a VT-d unit that remaps interrupts is said to do so."""
    judge(check_tables(machine.topology.platform, _tables(machine)))


@pytest.mark.claim("CH-4")
@pytest.mark.machine(devices=_MIX, boot="cold")
def test_functions_show_what_their_groups_follow_from(machine: LiveMachine) -> None:
    """Port types, bridges and ACS of all functions, which decide the IOMMU groups, are as the topology has them."""
    names = machine.guest.run(f"ls {_FUNCTIONS}").stdout.split()
    shown = read_tree({Address.parse(name): _file(machine, f"{_FUNCTIONS}/{name}/config") for name in names})
    judge(check_pci_tree(machine.topology.platform.tree, shown))
