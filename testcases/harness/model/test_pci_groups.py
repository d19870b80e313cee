"""IOMMU groups, as Linux makes them (drivers/iommu/iommu.c, pci_device_group)."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from pci_trees import ALL_ACS, NO_ACS, at, bridge, conventional, endpoint, isolated, port, tree, trees

from harness.model.pci.aliases import dma_aliases
from harness.model.pci.functions import ISOLATION, Acs, AcsCapability, Function, PortType, Quirks
from harness.model.pci.groups import iommu_groups
from harness.model.pci.tree import PciTree
from harness.pci import Address


def groups(found: PciTree, *, without: str = "") -> list[str]:
    """Each group as the addresses of its members, of all functions but one."""
    behind = [function.address for function in found if str(function.address)[5:] != without]
    return [" ".join(sorted(str(member)[5:] for member in group)) for group in iommu_groups(found, behind)]


def test_single_functions_on_a_root_bus_are_alone() -> None:
    assert groups(tree(endpoint("00:01.0"), conventional("00:02.0"))) == ["00:01.0", "00:02.0"]


def test_functions_of_a_device_without_acs_are_together() -> None:
    found = tree(endpoint("00:01.0", multifunction=True), endpoint("00:01.1"), conventional("00:01.2"))
    assert groups(found) == ["00:01.0 00:01.1 00:01.2"]


def test_functions_of_a_device_with_acs_are_apart() -> None:
    found = tree(endpoint("00:01.0", multifunction=True, acs=ALL_ACS), endpoint("00:01.1", acs=ALL_ACS))
    assert groups(found) == ["00:01.0", "00:01.1"]


def test_a_function_that_isolates_leaves_the_others_of_its_device_together() -> None:
    found = tree(
        endpoint("00:01.0", multifunction=True),
        endpoint("00:01.1", acs=ALL_ACS),
        endpoint("00:01.2"),
        endpoint("00:02.0"),
    )
    assert groups(found) == ["00:01.0 00:01.2", "00:01.1", "00:02.0"]


def test_virtual_functions_are_alone() -> None:
    physical = at("00:01.0")
    virtual = [replace(endpoint(where), physical=physical) for where in ("00:01.1", "00:01.2")]
    assert groups(tree(endpoint("00:01.0"), *virtual)) == ["00:01.0", "00:01.1", "00:01.2"]


def test_what_is_below_a_port_with_acs_is_alone() -> None:
    assert groups(tree(port("00:01.0", 1), endpoint("01:00.0"))) == ["00:01.0", "01:00.0"]


def test_what_is_below_a_port_without_acs_is_in_its_group() -> None:
    assert groups(tree(port("00:01.0", 1, acs=NO_ACS), endpoint("01:00.0"))) == ["00:01.0 01:00.0"]


def test_acs_that_is_not_switched_on_keeps_nothing_apart() -> None:
    off = AcsCapability(ISOLATION)
    assert groups(tree(port("00:01.0", 1, acs=off), endpoint("01:00.0"))) == ["00:01.0 01:00.0"]
    assert groups(tree(port("00:01.0", 1, acs=off.as_linux_sets_it()), endpoint("01:00.0"))) == ["00:01.0", "01:00.0"]


def test_a_service_that_the_capability_lacks_counts_as_there() -> None:
    only = AcsCapability(Acs.SOURCE_VALIDATION, Acs.SOURCE_VALIDATION)
    assert groups(tree(port("00:01.0", 1, acs=only), endpoint("01:00.0"))) == ["00:01.0", "01:00.0"]


def test_each_of_the_four_services_is_needed() -> None:
    for service in (Acs.SOURCE_VALIDATION, Acs.REQUEST_REDIRECT, Acs.COMPLETION_REDIRECT, Acs.UPSTREAM_FORWARDING):
        lacking = AcsCapability(ISOLATION, ISOLATION & ~service)
        assert groups(tree(port("00:01.0", 1, acs=lacking), endpoint("01:00.0"))) == ["00:01.0 01:00.0"], service
    other = Acs.TRANSLATION_BLOCKING | Acs.DIRECT_TRANSLATED
    assert (
        len(groups(tree(port("00:01.0", 1, acs=AcsCapability(ISOLATION | other, ISOLATION)), endpoint("01:00.0")))) == 2
    )


def test_ports_of_one_device_without_acs_and_all_below_them_are_together() -> None:
    found = tree(
        port("00:1c.0", 1, acs=NO_ACS, multifunction=True),
        port("00:1c.1", 2, acs=NO_ACS),
        endpoint("01:00.0"),
        endpoint("02:00.0"),
    )
    assert groups(found) == ["00:1c.0 00:1c.1 01:00.0 02:00.0"]


def test_a_switch_with_acs_keeps_what_is_below_it_apart() -> None:
    found = tree(
        port("00:01.0", 1, 4),
        port("01:00.0", 2, 4, type=PortType.UPSTREAM_PORT, acs=NO_ACS),  # a single function needs none
        port("02:00.0", 3, type=PortType.DOWNSTREAM_PORT),
        port("02:01.0", 4, type=PortType.DOWNSTREAM_PORT),
        endpoint("03:00.0"),
        endpoint("04:00.0"),
    )
    assert len(groups(found)) == 6


def test_a_root_port_without_acs_takes_a_whole_switch_with_acs_along() -> None:
    found = tree(
        port("00:01.0", 1, 3, acs=NO_ACS),
        port("01:00.0", 2, 3, type=PortType.UPSTREAM_PORT),
        port("02:00.0", 3, type=PortType.DOWNSTREAM_PORT),
        endpoint("03:00.0"),
        endpoint("00:02.0"),
    )
    assert groups(found) == ["00:01.0 01:00.0 02:00.0 03:00.0", "00:02.0"]


def test_a_pcie_to_pci_bridge_and_all_below_it_are_together() -> None:
    found = tree(
        port("00:01.0", 1, 3),
        bridge("01:00.0", 2, 3, type=PortType.PCIE_TO_PCI_BRIDGE),
        conventional("02:01.0"),
        conventional("02:02.0"),
        bridge("02:03.0", 3),
        conventional("03:01.0"),
    )
    assert groups(found) == ["00:01.0", "01:00.0 02:01.0 02:02.0 02:03.0 03:01.0"]


def test_a_conventional_bridge_and_all_below_it_are_together() -> None:
    found = tree(bridge("00:1e.0", 1), conventional("01:01.0"), conventional("01:02.0"), endpoint("00:02.0"))
    assert groups(found) == ["00:02.0", "00:1e.0 01:01.0 01:02.0"]


def test_a_function_that_takes_the_id_of_another_is_in_its_group() -> None:
    taker = replace(endpoint("00:05.0"), quirks=Quirks(dma_aliases=frozenset({0x30})))
    assert groups(tree(taker, endpoint("00:06.0"), endpoint("00:07.0"))) == ["00:05.0 00:06.0", "00:07.0"]


def test_a_chain_of_taken_ids_is_one_group_though_the_link_is_found_last() -> None:
    link = replace(endpoint("00:07.0"), quirks=Quirks(dma_aliases=frozenset({0x28, 0x30})))
    assert groups(tree(endpoint("00:05.0"), endpoint("00:06.0"), link)) == ["00:05.0 00:06.0 00:07.0"]


def test_functions_whose_requests_another_makes_are_in_its_group() -> None:
    served = replace(endpoint("00:06.0"), quirks=Quirks(dma_device=at("00:05.0")))
    assert groups(tree(endpoint("00:05.0"), served)) == ["00:05.0 00:06.0"]


def test_what_is_behind_no_iommu_is_in_no_group() -> None:
    assert groups(tree(endpoint("00:01.0"), endpoint("00:02.0")), without="00:01.0") == ["00:02.0"]


def test_a_bridge_that_no_iommu_stands_before_joins_nobody() -> None:
    found = tree(port("00:01.0", 1, acs=NO_ACS), endpoint("01:00.0"), endpoint("01:01.0"))
    assert groups(found) == ["00:01.0 01:00.0 01:01.0"]
    assert groups(found, without="00:01.0") == ["01:00.0", "01:01.0"]


def test_what_is_below_such_a_bridge_joins_the_other_functions_of_the_bridge() -> None:
    found = tree(
        port("00:1c.0", 1, acs=NO_ACS, multifunction=True), port("00:1c.1", 2, acs=NO_ACS), endpoint("01:00.0")
    )
    assert groups(found, without="00:1c.0") == ["00:1c.1 01:00.0"]


# For any tree.


def addresses(found: PciTree) -> frozenset[Address]:
    return frozenset(function.address for function in found)


@given(trees(), st.randoms())
def test_groups_are_a_partition_of_what_is_behind(found: PciTree, random: Random) -> None:
    behind = frozenset(address for address in addresses(found) if random.random() < 0.7)
    made = iommu_groups(found, behind)
    assert frozenset().union(*made) == behind
    assert sum(map(len, made)) == len(behind)


@given(trees())
def test_groups_are_what_is_joined_by_ids_bridges_and_devices(found: PciTree) -> None:
    """With every function behind an IOMMU the order makes no difference: they are the connected parts of a graph."""
    assert set(iommu_groups(found, addresses(found))) == connected(found)


@given(trees())
def test_isolation_only_ever_splits_groups(found: PciTree) -> None:
    behind = addresses(found)
    finer = iommu_groups(PciTree(found.roots, map(isolated, found)), behind)
    coarser = iommu_groups(found, behind)
    assert all(any(group <= other for other in coarser) for group in finer)


@given(trees())
def test_functions_that_share_an_id_by_topology_are_together(found: PciTree) -> None:
    group_of = {member: group for group in iommu_groups(found, addresses(found)) for member in group}
    for function in found:
        for who, _ in dma_aliases(found, function):
            assert group_of[who.address] == group_of[function.address]


def connected(found: PciTree) -> set[frozenset[Address]]:
    """The connected parts, found by joining both ends of every link until nothing changes."""
    part = {address: frozenset({address}) for address in addresses(found)}
    for one, other in links(found):
        joined = part[one] | part[other]
        for member in joined:
            part[member] = joined
    return set(part.values())


def links(found: PciTree) -> list[tuple[Address, Address]]:
    """Pairs of functions that nothing keeps apart."""
    pairs = []
    for function in found:
        above = list(found.bridges_above(function))
        pairs += [(function.address, who.address) for who, _ in dma_aliases(found, function)]
        if above and not all(bridge.isolates for bridge in above):
            pairs.append((function.address, above[0].address))
        for other in found.neighbours(function):
            if takes(function, other) or one_device(function, other):
                pairs.append((function.address, other.address))
    return pairs


def takes(one: Function, other: Function) -> bool:
    return (other.address.requester & 0xFF) in one.quirks.dma_aliases


def one_device(one: Function, other: Function) -> bool:
    leaky = not one.isolates and not other.isolates
    # Linux asks the one that it is about to group, whichever that is; one that says "single" is not asked about others.
    return leaky and one.address.device == other.address.device and one.is_multifunction
