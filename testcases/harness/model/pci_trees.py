"""PCI trees for tests: some by hand, and any at all."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from harness.model.pci.functions import ISOLATION, Acs, AcsCapability, Function, PortType, Quirks
from harness.model.pci.tree import PciTree, RootBus
from harness.pci import Address

__all__ = ["ALL_ACS", "NO_ACS", "at", "bridge", "conventional", "endpoint", "isolated", "port", "tree", "trees"]

ALL_ACS = AcsCapability(ISOLATION, ISOLATION)
NO_ACS = None


def at(text: str) -> Address:
    return Address.parse(text)


def endpoint(where: str, *, multifunction: bool = False, acs: AcsCapability | None = None) -> Function:
    """A PCIe endpoint."""
    return Function(address=at(where), port_type=PortType.ENDPOINT, multifunction=multifunction, acs=acs)


def conventional(where: str, *, multifunction: bool = False) -> Function:
    """A function without a PCIe capability."""
    return Function(address=at(where), multifunction=multifunction)


def port(
    where: str,
    secondary: int,
    last: int | None = None,
    *,
    type: PortType = PortType.ROOT_PORT,
    acs: AcsCapability | None = ALL_ACS,
    multifunction: bool = False,
) -> Function:
    """A PCIe port; with ACS unless it is told otherwise."""
    return Function(
        address=at(where), port_type=type, secondary=secondary, subordinate=last, acs=acs, multifunction=multifunction
    )


def bridge(where: str, secondary: int, last: int | None = None, *, type: PortType | None = None) -> Function:
    """A conventional bridge, or one between PCIe and PCI."""
    return Function(address=at(where), port_type=type, secondary=secondary, subordinate=last)


def tree(*functions: Function) -> PciTree:
    """One root bus."""
    return PciTree([RootBus()], functions)


_BRIDGES = (
    None,
    PortType.ROOT_PORT,
    PortType.UPSTREAM_PORT,
    PortType.DOWNSTREAM_PORT,
    PortType.PCIE_TO_PCI_BRIDGE,
    PortType.PCI_TO_PCIE_BRIDGE,
)
_ENDS = (
    None,
    PortType.ENDPOINT,
    PortType.LEGACY_ENDPOINT,
    PortType.RC_INTEGRATED_ENDPOINT,
    PortType.RC_EVENT_COLLECTOR,
)
_ACS = (None, ALL_ACS, AcsCapability(ISOLATION), AcsCapability(Acs.SOURCE_VALIDATION, Acs.SOURCE_VALIDATION))


@st.composite
def trees(draw: st.DrawFn, *, quirky: bool = True) -> PciTree:
    """Any tree of up to about twenty functions: each bus hangs below a bridge on a bus with a lower number."""
    quirks = _quirks() if quirky else st.just(Quirks())
    buses = draw(st.integers(1, 5))
    parent = [0] + [draw(st.integers(0, bus - 1)) for bus in range(1, buses)]
    # Numbered as firmware does it, downwards first, so that the buses below a bridge are a range.
    children: dict[int, list[int]] = {bus: [b for b in range(1, buses) if parent[b] == bus] for bus in range(buses)}
    functions: list[Function] = []

    def number(bus: int, first: int) -> int:
        """Places what is on a bus; returns the highest number used below it."""
        last = first
        used: set[int] = set()
        for child in children[bus]:
            devfn = draw(st.integers(0, 15).filter(lambda devfn: devfn not in used))
            used.add(devfn)
            secondary = last + 1
            last = number(child, secondary)
            functions.append(
                Function(
                    address=Address.of_requester(first << 8 | devfn),
                    port_type=draw(st.sampled_from(_BRIDGES)),
                    multifunction=draw(st.booleans()),
                    secondary=secondary,
                    subordinate=last,
                    acs=draw(st.sampled_from(_ACS)),
                    quirks=draw(quirks),
                )
            )
        for devfn in draw(st.sets(st.integers(0, 15).filter(lambda devfn: devfn not in used), max_size=4)):
            functions.append(
                Function(
                    address=Address.of_requester(first << 8 | devfn),
                    port_type=draw(st.sampled_from(_ENDS)),
                    multifunction=draw(st.booleans()),
                    acs=draw(st.sampled_from(_ACS)),
                    quirks=draw(quirks),
                )
            )
        return last

    number(0, 0)
    return PciTree([RootBus()], [_as_found(function, functions) for function in functions])


def _as_found(function: Function, functions: list[Function]) -> Function:
    """Function 0 of a device with several says so: without that nobody would find the others."""
    address = function.address
    others = any(
        (other.address.bus, other.address.device) == (address.bus, address.device) and other is not function
        for other in functions
    )
    return replace(function, multifunction=True) if others and address.function == 0 else function


def _quirks() -> st.SearchStrategy[Quirks]:
    """Mostly none."""
    some = st.builds(
        Quirks,
        dma_aliases=st.sets(st.integers(0, 15), max_size=2).map(frozenset),
        no_bridge_alias=st.booleans(),
        express_bridge_alias=st.booleans(),
        isolated=st.sampled_from((None, None, True, False)),
    )
    return st.one_of(st.just(Quirks()), st.just(Quirks()), some)


def isolated(function: Function) -> Function:
    """The same, known to keep apart what is to be kept apart."""
    return replace(function, quirks=replace(function.quirks, isolated=True))
