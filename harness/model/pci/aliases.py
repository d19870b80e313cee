"""Requester ids: which ids the requests of a function may carry when they reach the root complex, where the IOMMU is.

A conventional PCI bus carries no requester id. The bridge that turns its transactions into PCIe requests gives them one
of its own: a PCIe-to-PCI bridge that of device 0, function 0 on its secondary bus (PCI Express to PCI/PCI-X Bridge
specification 1.0, 2.3), a conventional bridge its own. The walk is that of Linux, drivers/pci/search.c,
`pci_for_each_dma_alias`.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.model.pci.functions import Function, PortType
from harness.model.pci.tree import PciTree
from harness.pci import Address

__all__ = ["dma_aliases", "requester_ids", "seen_as"]


def dma_aliases(tree: PciTree, function: Function) -> Iterator[tuple[Function, int]]:
    """Every requester id that its requests may carry, and the function that puts it there, from itself upwards.

    The same id can come more than once.
    """
    if function.quirks.dma_device is not None:
        function = tree.function(function.quirks.dma_device)
    yield function, function.address.requester
    for devfn in sorted(function.quirks.dma_aliases):
        yield function, function.address.bus << 8 | devfn
    for bridge in tree.bridges_above(function):
        if bridge.quirks.translation_root:
            return
        assert bridge.secondary is not None
        match bridge.port_type:
            case PortType.PCIE_TO_PCI_BRIDGE if not bridge.quirks.no_bridge_alias:
                yield bridge, bridge.secondary << 8
            case None if bridge.quirks.express_bridge_alias:
                yield bridge, bridge.secondary << 8
            case None | PortType.PCI_TO_PCIE_BRIDGE:
                yield bridge, bridge.address.requester


def requester_ids(tree: PciTree, function: Function) -> tuple[int, ...]:
    """The same ids, each once."""
    return tuple(dict.fromkeys(requester for _, requester in dma_aliases(tree, function)))


def seen_as(tree: PciTree, function: Function) -> Address:
    """The address whose requester id its requests carry at the root complex: that of the last who puts one there."""
    *_, (_, requester) = dma_aliases(tree, function)
    return Address.of_requester(requester, function.address.segment)
