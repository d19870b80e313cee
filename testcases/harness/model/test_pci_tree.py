"""The tree of PCI functions, the requester ids of what is in it, and who is behind which IOMMU."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from pci_trees import at, bridge, conventional, endpoint, port, tree, trees

from harness.errors import SpecError
from harness.model.pci.aliases import requester_ids, seen_as
from harness.model.pci.functions import Function, PortType, Quirks
from harness.model.pci.platform import Platform, Unit, UnitPlace
from harness.model.pci.tree import PciTree, RootBus

DEEP = tree(
    port("00:01.0", 1, 3),
    port("01:00.0", 2, 3, type=PortType.UPSTREAM_PORT),
    port("02:04.0", 3, type=PortType.DOWNSTREAM_PORT),
    endpoint("03:00.0"),
    endpoint("00:02.0"),
)


def test_bridges_above_are_all_from_the_nearest_upwards() -> None:
    above = [str(found.address) for found in DEEP.bridges_above(DEEP.function(at("03:00.0")))]
    assert above == ["0000:02:04.0", "0000:01:00.0", "0000:00:01.0"]


def test_a_path_is_followed_through_bridges_by_the_numbers_of_their_buses() -> None:
    assert DEEP.follow(0, 0, [(1, 0), (0, 0), (4, 0), (0, 0)]) == DEEP.function(at("03:00.0"))


@pytest.mark.parametrize(
    ("bus", "path"),
    [
        (1, [(0, 0)]),  # no root bus
        (0, [(3, 0)]),  # no such function
        (0, [(2, 0), (0, 0)]),  # through an endpoint
        (0, [(0x20, 0)]),  # no such device number
        (0, []),
    ],
)
def test_a_path_that_leads_nowhere_leads_to_none(bus: int, path: list[tuple[int, int]]) -> None:
    assert DEEP.follow(0, bus, path) is None


def test_functions_come_in_the_order_in_which_linux_finds_them() -> None:
    found = tree(port("00:01.0", 1), endpoint("01:00.0"), endpoint("00:02.0"))
    assert [str(function.address) for function in found] == ["0000:00:01.0", "0000:00:02.0", "0000:01:00.0"]


@given(trees())
def test_every_function_comes_once_and_after_all_bridges_above_it(found: PciTree) -> None:
    seen: list[Function] = []
    for function in found:
        assert set(found.bridges_above(function)) <= set(seen)
        assert function not in seen
        seen.append(function)


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        ([endpoint("01:00.0")], "leads to bus 01"),
        ([port("00:01.0", 1), port("00:02.0", 1)], "two ways lead to bus"),
        ([endpoint("00:01.0"), endpoint("00:01.0")], "two functions are at"),
        ([port("00:01.0", 1, 1), port("01:00.0", 2, 2)], "ends at 01"),
    ],
)
def test_a_tree_that_cannot_be_is_refused(functions: list[Function], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        tree(*functions)


def test_root_buses_must_not_share_numbers() -> None:
    with pytest.raises(SpecError, match="is among the buses of"):
        PciTree([RootBus(), RootBus(0x80)], [])
    with pytest.raises(SpecError, match="is among the buses of"):
        PciTree([RootBus(last=0x80), RootBus(0x80)], [])
    assert len(PciTree([RootBus(last=0x7F), RootBus(0x80)], []).roots) == 2


def test_a_bridge_needs_a_bus_below_it_and_an_endpoint_has_none() -> None:
    with pytest.raises(SpecError, match="without a secondary bus"):
        Function(address=at("00:01.0"), port_type=PortType.ROOT_PORT)
    with pytest.raises(SpecError, match="no bridge"):
        Function(address=at("00:01.0"), port_type=PortType.ENDPOINT, secondary=1)
    with pytest.raises(SpecError, match="cannot be below it"):
        Function(address=at("02:01.0"), secondary=1)


# Requester ids: Linux, drivers/pci/search.c, pci_for_each_dma_alias.


def ids(found: PciTree, where: str) -> list[str]:
    return [f"{id:04x}" for id in requester_ids(found, found.function(at(where)))]


def test_pcie_ports_and_switches_leave_requester_ids_alone() -> None:
    assert ids(DEEP, "03:00.0") == ["0300"]


def test_a_pcie_to_pci_bridge_gives_requests_the_first_id_of_its_secondary_bus() -> None:
    found = tree(bridge("00:1e.0", 2, type=PortType.PCIE_TO_PCI_BRIDGE), conventional("02:05.0"))
    assert ids(found, "02:05.0") == ["0228", "0200"]
    assert seen_as(found, found.function(at("02:05.0"))) == at("02:00.0")


def test_a_conventional_bridge_gives_requests_its_own_id() -> None:
    found = tree(bridge("00:1e.0", 2), conventional("02:05.0"))
    assert ids(found, "02:05.0") == ["0228", "00f0"]


def test_a_pci_to_pcie_bridge_gives_requests_its_own_id() -> None:
    found = tree(bridge("00:1e.0", 2, type=PortType.PCI_TO_PCIE_BRIDGE), endpoint("02:00.0"))
    assert ids(found, "02:00.0") == ["0200", "00f0"]


def test_the_outermost_bridge_that_takes_ids_over_is_who_reaches_the_root_complex() -> None:
    found = tree(
        bridge("00:1e.0", 2, 3, type=PortType.PCIE_TO_PCI_BRIDGE), bridge("02:01.0", 3), conventional("03:07.0")
    )
    assert ids(found, "03:07.0") == ["0338", "0208", "0200"]
    assert seen_as(found, found.function(at("03:07.0"))) == at("02:00.0")


@pytest.mark.parametrize(
    ("quirks", "type", "expected"),
    [
        (Quirks(no_bridge_alias=True), PortType.PCIE_TO_PCI_BRIDGE, ["0228"]),
        (Quirks(express_bridge_alias=True), None, ["0228", "0200"]),
        (Quirks(translation_root=True), PortType.PCIE_TO_PCI_BRIDGE, ["0228"]),
    ],
)
def test_bridges_that_are_known_to_be_otherwise_are(quirks: Quirks, type: PortType | None, expected: list[str]) -> None:
    found = tree(replace(bridge("00:1e.0", 2, type=type), quirks=quirks), conventional("02:05.0"))
    assert ids(found, "02:05.0") == expected


def test_a_function_may_take_ids_of_its_bus_and_may_have_another_make_its_requests() -> None:
    odd = replace(endpoint("00:05.0"), quirks=Quirks(dma_aliases=frozenset({0x29, 0x2A})))
    served = replace(endpoint("00:06.0"), quirks=Quirks(dma_device=at("00:05.0")))
    below = replace(endpoint("01:00.0"), quirks=Quirks(dma_aliases=frozenset({0x29})))
    found = tree(odd, served, port("00:07.0", 1), below)
    assert ids(found, "00:05.0") == ["0028", "0029", "002a"]
    assert ids(found, "01:00.0") == ["0100", "0129"]
    assert ids(found, "00:06.0") == ["0028", "0029", "002a"]


# Who is behind what.


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (UnitPlace(registers=1), UnitPlace(registers=1), True),
        (UnitPlace(registers=1), UnitPlace(registers=2), False),
        (UnitPlace(registers=1), UnitPlace(registers=1, function=at("00:02.0")), True),
        (UnitPlace(function=at("00:02.0")), UnitPlace(registers=1, function=at("00:02.0")), True),
        (UnitPlace(registers=1, function=at("00:02.0")), UnitPlace(registers=1, function=at("00:03.0")), False),
        (UnitPlace(registers=2, function=at("00:02.0")), UnitPlace(registers=1, function=at("00:02.0")), False),
        (UnitPlace(registers=1), UnitPlace(function=at("00:02.0")), False),
        (UnitPlace(), UnitPlace(), False),
    ],
)
def test_places_are_the_same_where_they_share_something_and_nothing_differs(
    one: UnitPlace, other: UnitPlace, same: bool
) -> None:
    assert one.is_same(other) is same
    assert other.is_same(one) is same


def unit(name: int, **claims: object) -> Unit:
    return replace(Unit(place=UnitPlace(registers=name), table="DMAR"), **claims)  # type: ignore[arg-type]


TWO_ROOTS = PciTree(
    [RootBus(0, last=0x7F), RootBus(0x80)],
    [port("00:01.0", 1), endpoint("01:00.0"), endpoint("00:02.0"), port("80:00.0", 0x81), endpoint("81:00.0")],
)


def behind(platform: Platform) -> dict[str, int]:
    found = ((function, platform.unit_of(function)) for function in platform.tree)
    return {str(f.address)[5:]: owner.place.registers or 0 for f, owner in found if owner is not None}


def test_a_unit_of_a_root_bus_stands_before_all_that_is_below_it() -> None:
    platform = Platform(tree=TWO_ROOTS, units=(unit(1, root_buses=frozenset({0x80})),))
    assert behind(platform) == {"80:00.0": 1, "81:00.0": 1}


def test_the_rest_of_a_segment_leaves_out_what_bypasses() -> None:
    rest = unit(1, rest=True)
    assert len(behind(Platform(tree=TWO_ROOTS, units=(rest,)))) == 5
    assert behind(Platform(tree=TWO_ROOTS, units=(rest,), bypass=frozenset({(0, 0x80)}))) == {
        "00:01.0": 1,
        "00:02.0": 1,
        "01:00.0": 1,
    }


def test_the_nearest_claim_decides() -> None:
    units = (
        unit(1, rest=True),
        unit(2, root_buses=frozenset({0x80})),
        unit(3, functions=frozenset({at("80:00.0")})),
        unit(4, functions=frozenset({at("81:00.0")})),
    )
    assert behind(Platform(tree=TWO_ROOTS, units=units)) == {
        "00:01.0": 1,
        "00:02.0": 1,
        "01:00.0": 1,
        "80:00.0": 3,
        "81:00.0": 4,
    }


def test_a_virtual_function_is_where_its_physical_function_is() -> None:
    found = tree(endpoint("00:02.0"), replace(endpoint("00:02.1"), physical=at("00:02.0")), endpoint("00:03.0"))
    platform = Platform(tree=found, units=(unit(1, functions=frozenset({at("00:02.0")})),))
    assert behind(platform) == {"00:02.0": 1, "00:02.1": 1}


def test_an_iommu_is_not_behind_itself() -> None:
    own = Unit(place=UnitPlace(function=at("00:02.0")), table="VIOT", rest=True)
    assert at("00:02.0") not in Platform(tree=TWO_ROOTS, units=(own,)).behind()


def test_a_unit_of_another_segment_stands_before_nothing_here() -> None:
    assert behind(Platform(tree=TWO_ROOTS, units=(unit(1, rest=True, segment=1),))) == {}


def test_two_units_cannot_claim_the_same() -> None:
    with pytest.raises(SpecError, match="claims what is another's"):
        Platform(tree=TWO_ROOTS, units=(unit(1, rest=True), unit(2, rest=True)))
    with pytest.raises(SpecError, match="claims what is another's"):
        Platform(tree=TWO_ROOTS, units=(unit(1, root_buses=frozenset({0})),), bypass=frozenset({(0, 0)}))
