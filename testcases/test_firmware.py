"""What the firmware set up and tells: do its tables say the truth about who is behind the IOMMU?"""

from __future__ import annotations

import pytest
from machines import machine

from harness.checks.firmware import check_tables
from harness.checks.judge import judge
from harness.checks.pci_tree import check_pci_tree
from harness.live import LiveMachine
from harness.model.firmware.tables import SIGNATURES
from harness.model.pci.config_space import read_tree
from harness.pci import Address
from harness.plugin import Boot
from harness.spec import IommuKind

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
def test_firmware_tells_the_truth_about_every_device(boot: Boot, iommu: IommuKind) -> None:
    """The IOMMU's table is there, names that IOMMU, and puts exactly those devices behind it that are."""
    live = boot(machine(iommu, *_MIX))
    judge(check_tables(live.topology.platform, _tables(live)))


@pytest.mark.claim("VQ-1", "CH-2")
def test_firmware_tells_the_truth_where_every_device_is_behind(boot: Boot, iommu: IommuKind) -> None:
    """With no device outside the table says so too, and a VT-d unit that remaps interrupts is said to do so."""
    live = boot(machine(iommu, "virtio-blk,iommu=on", "edu,iommu=on"))
    judge(check_tables(live.topology.platform, _tables(live)))


@pytest.mark.claim("CH-4")
def test_functions_show_what_their_groups_follow_from(boot: Boot, iommu: IommuKind) -> None:
    """Port types, bridges and ACS of all functions, which decide the IOMMU groups, are as the topology has them."""
    live = boot(machine(iommu, *_MIX))
    names = live.guest.run(f"ls {_FUNCTIONS}").stdout.split()
    shown = read_tree({Address.parse(name): _file(live, f"{_FUNCTIONS}/{name}/config") for name in names})
    judge(check_pci_tree(live.topology.platform.tree, shown))
