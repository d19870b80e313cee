"""The functions of a machine as a tree: root buses, the bridges below them, and what hangs on each bus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from harness.errors import SpecError
from harness.model.pci.functions import Function
from harness.pci import Address

__all__ = ["PciTree", "RootBus"]


@dataclass(frozen=True, slots=True)
class RootBus:
    """The first bus of a host bridge: of the chipset's own, or of an expander (pxb-pcie).

    Attributes:
        number: its bus number.
        last: the highest number that a bus below it may have.
        segment: PCI segment.
    """

    number: int = 0
    last: int = 0xFF
    segment: int = 0

    def __str__(self) -> str:
        return f"{self.segment:04x}:{self.number:02x}"


class PciTree:
    """All functions, with what is above each and below each. Not changed once it is made.

    Raises:
        SpecError: a function on a bus that nothing leads to, a bus that two lead to, a bridge whose buses are not among
            those of the bridge or root bus above it, root buses that share numbers, two functions at one address.
    """

    def __init__(self, roots: Iterable[RootBus], functions: Iterable[Function]) -> None:
        """Put the functions in their places."""
        self.roots = tuple(sorted(roots, key=lambda root: (root.segment, root.number)))
        self._functions: dict[Address, Function] = {}
        self._above: dict[tuple[int, int], Function | None] = {}
        self._on: dict[tuple[int, int], list[Function]] = {}
        self._root_of: dict[tuple[int, int], RootBus] = {}
        for root, following in pairwise(self.roots):
            if root.segment == following.segment and following.number <= root.last:
                raise SpecError(f"root bus {following} is among the buses of {root}, which end at {root.last:02x}")
        for root in self.roots:
            self._add_bus(root.segment, root.number, None, root)
        # Buses are numbered downwards, so that in ascending order each one's bridge has been seen before it.
        for function in sorted(functions, key=_in_order):
            address = function.address
            bus = (address.segment, address.bus)
            if address in self._functions:
                raise SpecError(f"two functions are at {address}")
            if bus not in self._above:
                raise SpecError(f"{address}: no root bus or bridge leads to bus {address.bus:02x}")
            self._functions[address] = function
            self._on[bus].append(function)
            if function.secondary is not None:
                self._check_range(function)
                self._add_bus(address.segment, function.secondary, function, self._root_of[bus])

    def __iter__(self) -> Iterator[Function]:
        """Every function, in the order in which Linux finds them.

        A bus is scanned whole, then what is below each of its bridges (Linux, drivers/pci/probe.c,
        `pci_scan_child_bus_extend`): whatever leads to a function comes before it.
        """
        for root in self.roots:
            yield from self._scan(root.segment, root.number)

    def __contains__(self, address: Address) -> bool:
        return address in self._functions

    def function(self, address: Address) -> Function:
        """The function at an address.

        Raises:
            SpecError: there is none.
        """
        try:
            return self._functions[address]
        except KeyError:
            raise SpecError(f"there is no PCI function at {address}") from None

    def root_of(self, function: Function) -> RootBus:
        """The root bus that it is on or below."""
        return self._root_of[function.address.segment, function.address.bus]

    def bridge_above(self, function: Function) -> Function | None:
        """The bridge that leads to its bus; None on a root bus."""
        return self._above[function.address.segment, function.address.bus]

    def bridges_above(self, function: Function) -> Iterator[Function]:
        """Every bridge between a function and its root bus, from the nearest upwards."""
        bridge = self.bridge_above(function)
        while bridge is not None:
            yield bridge
            bridge = self.bridge_above(bridge)

    def neighbours(self, function: Function) -> Iterator[Function]:
        """The other functions on its bus."""
        return (other for other in self._on[function.address.segment, function.address.bus] if other != function)

    def follow(self, segment: int, bus: int, path: Iterable[tuple[int, int]]) -> Function | None:
        """The function that a path of device and function numbers leads to, from a root bus down through bridges.

        None where a step leads to nothing, or the bus is no root bus.
        """
        at: int | None = bus if any((root.segment, root.number) == (segment, bus) for root in self.roots) else None
        found = None
        for device, number in path:
            if at is None or device > 0x1F or number > 7:
                return None
            found = self._functions.get(Address(at, device, number, segment))
            at = found.secondary if found is not None else None
        return found

    def _scan(self, segment: int, bus: int) -> Iterator[Function]:
        yield from self._on[segment, bus]
        for function in self._on[segment, bus]:
            if function.secondary is not None:
                yield from self._scan(segment, function.secondary)

    def _add_bus(self, segment: int, number: int, above: Function | None, root: RootBus) -> None:
        if (segment, number) in self._above:
            raise SpecError(f"two ways lead to bus {segment:04x}:{number:02x}")
        self._above[segment, number] = above
        self._on[segment, number] = []
        self._root_of[segment, number] = root

    def _check_range(self, bridge: Function) -> None:
        above = self.bridge_above(bridge)
        last = self.root_of(bridge).last if above is None else above.subordinate
        assert last is not None
        assert bridge.subordinate is not None
        if bridge.subordinate > last:
            raise SpecError(
                f"{bridge.address} leads to bus {bridge.subordinate:02x}; what is above it ends at {last:02x}"
            )


def _in_order(function: Function) -> tuple[int, int, int, int]:
    address = function.address
    return address.segment, address.bus, address.device, address.function
