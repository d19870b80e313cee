"""What the guest shows of firmware's tables, and of the functions on its PCI buses."""

from __future__ import annotations

from harness.live.machine import LiveMachine
from harness.model.firmware.tables import SIGNATURES
from harness.model.pci.config_space import read_tree
from harness.model.pci.tree import PciTree
from harness.pci import Address

__all__ = ["acpi_tables", "pci_tree"]

_FUNCTIONS = "/sys/bus/pci/devices"
_TABLES = "/sys/firmware/acpi/tables"


def acpi_tables(live: LiveMachine) -> dict[str, bytes]:
    """The tables that describe IOMMUs, of those that the guest has."""
    names = live.guest.run(f"ls {_TABLES}").stdout.split()
    return {name: _file(live, f"{_TABLES}/{name}") for name in names if name in SIGNATURES}


def pci_tree(live: LiveMachine) -> PciTree:
    """All functions, from their configuration spaces."""
    names = live.guest.run(f"ls {_FUNCTIONS}").stdout.split()
    return read_tree({Address.parse(name): _file(live, f"{_FUNCTIONS}/{name}/config") for name in names})


def _file(live: LiveMachine, path: str) -> bytes:
    """A whole file of sysfs, which gives a page at most with each read."""
    data = b""
    while more := live.agent.read_bytes(path, len(data), 4096):
        data += more
    return data
