"""What of PCI functions decides IOMMU groups and requester ids: what the topology says, against what a guest shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from harness.model.pci.functions import Acs, AcsCapability, Function, PortType
from harness.model.pci.tree import PciTree
from harness.report.record import Finding

__all__ = ["check_pci_tree"]

# What configuration space shows, and where (PCI Express Base 5.0).
_SHOWN = {
    "port_type": "PCIe 5.0, 7.5.3.2",
    "multifunction": "PCIe 5.0, 7.5.1.1.9",
    "secondary": "PCIe 5.0, 7.5.1.3",
    "subordinate": "PCIe 5.0, 7.5.1.3",
    "acs": "PCIe 5.0, 7.7.8; Linux, drivers/pci/pci.c, pci_std_enable_acs",
}
assert _SHOWN.keys() < {field.name for field in fields(Function)}


def check_pci_tree(expected: PciTree, shown: PciTree) -> Iterator[Finding]:
    """Each function that both have is of the same type, leads to the same buses, and has the same ACS switched on.

    That all functions are there is `harness.checks.inventory.check_functions`'s to see.
    """
    for function in expected:
        if function.address not in shown:
            continue
        other = shown.function(function.address)
        for name, citation in _SHOWN.items():
            must_be, is_seen = getattr(function, name), getattr(other, name)
            if must_be != is_seen:
                yield Finding(
                    subject=f"{name} of {function.address}",
                    expected=_text(must_be),
                    seen=_text(is_seen),
                    citation=citation,
                )


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case PortType():
            return value.name
        case AcsCapability():
            return f"{_bits(value.control)} on, of {_bits(value.capability)}"
        case bool():
            return "yes" if value else "no"
        case _:
            return f"bus {value:02x}"


def _bits(acs: Acs) -> str:
    return " ".join(str(bit.name) for bit in acs) or "nothing"
