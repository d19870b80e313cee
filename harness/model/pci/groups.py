"""IOMMU groups: which functions Linux puts together, because nothing keeps one from reaching another, or from passing
for it, without going through the IOMMU.

The steps are those of Linux, drivers/iommu/iommu.c, `pci_device_group`, taken for each function in the order in which
Linux finds them, since a function joins a group that is there already:

1. Requester ids. Functions whose requests carry the same id are one group: who puts the last id on them stands for all.
2. Bridges. Up to the first from which on every bridge isolates, what is below a bridge is in its group.
3. Aliases. A function that takes the id of a neighbour on its bus, or whose id a neighbour takes, is in its group.
4. Functions of one device that do not isolate are one group.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from harness.model.pci.aliases import dma_aliases
from harness.model.pci.functions import Function
from harness.model.pci.tree import PciTree
from harness.pci import Address

__all__ = ["iommu_groups"]


def iommu_groups(tree: PciTree, behind: Collection[Address]) -> tuple[frozenset[Address], ...]:
    """The groups, in the order of their lowest member.

    Args:
        tree: all functions, with ACS as the system has set it.
        behind: those that an IOMMU stands before; the others are in no group.
    """
    grouping = _Grouping(tree)
    for function in tree:
        if function.address in behind:
            grouping.add(function)
    return tuple(sorted(map(frozenset, grouping.members()), key=min))


class _Grouping:
    """Groups while they grow; a group is the list of its members."""

    def __init__(self, tree: PciTree) -> None:
        self._tree = tree
        self._group_of: dict[Address, list[Address]] = {}

    def add(self, function: Function) -> None:
        """Put one more function where it belongs."""
        group = self._find(function)
        if group is None:
            group = []
        group.append(function.address)
        self._group_of[function.address] = group

    def members(self) -> Iterable[list[Address]]:
        """Each group, once."""
        return {id(group): group for group in self._group_of.values()}.values()

    def _find(self, function: Function) -> list[Address] | None:
        """The group that is there for it already."""
        stands_for = function
        for stands_for, _ in dma_aliases(self._tree, function):
            if (group := self._group_of.get(stands_for.address)) is not None:
                return group
        for bridge in self._tree.bridges_above(stands_for):
            if self._isolated_upwards(bridge):
                break
            stands_for = bridge
            if (group := self._group_of.get(bridge.address)) is not None:
                return group
        visited: set[Address] = set()
        return self._of_aliases(stands_for, visited) or self._of_functions(stands_for, visited)

    def _isolated_upwards(self, bridge: Function) -> bool:
        """Linux, drivers/pci/pci.c, `pci_acs_path_enabled` up to the root bus."""
        return bridge.isolates and all(above.isolates for above in self._tree.bridges_above(bridge))

    def _of_aliases(self, function: Function, visited: set[Address]) -> list[Address] | None:
        """Its group, or that of any that it shares a requester id with (`get_pci_alias_group`)."""
        if function.address in visited:
            return None
        visited.add(function.address)
        if (group := self._group_of.get(function.address)) is not None:
            return group
        for other in self._tree.neighbours(function):
            if _share_an_id(function, other):
                found = self._of_aliases(other, visited) or self._of_functions(other, visited)
                if found is not None:
                    return found
        return None

    def _of_functions(self, function: Function, visited: set[Address]) -> list[Address] | None:
        """The group of another function of its device, where both do not isolate (`get_pci_function_alias_group`)."""
        if not function.is_multifunction or function.isolates:
            return None
        for other in self._same_device(function):
            if not other.isolates and (group := self._of_aliases(other, visited)) is not None:
                return group
        return None

    def _same_device(self, function: Function) -> Iterator[Function]:
        device = function.address.device
        return (other for other in self._tree.neighbours(function) if other.address.device == device)


def _share_an_id(one: Function, other: Function) -> bool:
    """Whether one takes the other's requester id (Linux, drivers/pci/pci.c, `pci_devs_are_dma_aliases`)."""
    return any(
        taken.address.requester & 0xFF in taker.quirks.dma_aliases or taker.quirks.dma_device == taken.address
        for taker, taken in ((one, other), (other, one))
    )
