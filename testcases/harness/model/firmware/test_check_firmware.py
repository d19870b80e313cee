"""Do the tables tell the truth? Truthful tables of any platform pass, and each lie is found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from firmware_samples import with_checksum
from hypothesis import given, settings
from hypothesis import strategies as st
from pci_trees import at, endpoint, port, tree, trees

from harness.checks.firmware import check_tables
from harness.model.firmware.dmar import Dmar
from harness.model.firmware.dmar_structures import DeviceScope, Drhd, Rmrr, ScopeType
from harness.model.firmware.iort import Iort
from harness.model.firmware.iort_nodes import IdMapping, RootComplex, SmmuV3
from harness.model.firmware.ivhd_entries import AliasEntry, DeviceEntry, EntryType, IvhdEntry, SpecialEntry, Variety
from harness.model.firmware.ivrs import Ivhd, Ivrs
from harness.model.firmware.rimt import IdMapping as RimtMapping
from harness.model.firmware.rimt import Rimt, RimtIommu, RimtPcieRootComplex
from harness.model.firmware.table import FirmwareTable
from harness.model.firmware.viot import PciRange, Viot, VirtioIommuMmio
from harness.model.pci.aliases import requester_ids, seen_as
from harness.model.pci.functions import Function
from harness.model.pci.platform import Platform, ReservedRegion, Unit, UnitPlace
from harness.model.pci.tree import PciTree, RootBus
from harness.pci import Address

BASE = 0xFED9_0000
TREE = tree(endpoint("00:02.0"), port("00:1c.0", 1), endpoint("01:00.0"), endpoint("00:03.0"))
BEHIND = frozenset({at("00:02.0"), at("00:1c.0")})


def platform(signature: str, found: PciTree = TREE, behind: frozenset[Address] = BEHIND) -> Platform:
    """A machine whose IOMMU stands before some functions of the root bus, and all that is below them."""
    unit = Unit(place=UnitPlace(registers=BASE), table=signature, functions=behind, id_base=_ID_BASE[signature])
    remapping = True if signature == "DMAR" else None
    return Platform(tree=found, units=(unit,), interrupt_remapping=remapping, address_width=40, ioapics=frozenset({2}))


_ID_BASE = {"DMAR": 0, "IVRS": 0, "VIOT": 0x4_0000, "IORT": 0x5_0000, "RIMT": 0x6_0000}


# Truthful tables, each in the simplest way that its kind has.


def dmar(is_so: Platform) -> Dmar:
    scopes = [DeviceScope.of(ScopeType.IOAPIC, 0xFF, (0, 0), enumeration_id=2)]
    for function in claimed(is_so):
        kind = ScopeType.PCI_SUB_HIERARCHY if function.is_bridge else ScopeType.PCI_ENDPOINT_DEVICE
        scopes.append(DeviceScope.of(kind, 0, (function.address.device, function.address.function)))
    unit = Drhd(register_base_address=BASE, device_scopes=tuple(scopes))
    return Dmar(host_address_width=39, flags=1, structures=(unit,))


def ivrs(is_so: Platform) -> Ivrs:
    entries: list[IvhdEntry] = [SpecialEntry(handle=2, source_device_id=0xA0, variety=Variety.IOAPIC)]
    for function in behind(is_so):
        own, source = function.address.requester, seen_as(is_so.tree, function).requester
        if own == source:
            entries.append(DeviceEntry(type=EntryType.SELECT, device_id=own))
        else:
            entries.append(AliasEntry(type=EntryType.ALIAS_SELECT, device_id=own, source_device_id=source))
    # Its own function is on no bus of the tree.
    block = Ivhd(type=0x11, device_id=0xFF00, iommu_base_address=BASE, entries=tuple(entries))
    return Ivrs(iv_info=40 << 8, blocks=(block,))


def viot(is_so: Platform) -> Viot:
    ranges = (
        PciRange(endpoint_start=0x4_0000 + id, pci_bdf_start=id, pci_bdf_end=id, output_node=0) for id in ids(is_so)
    )
    return Viot(nodes=(VirtioIommuMmio(base_address=BASE), *ranges))


def iort(is_so: Platform) -> Iort:
    mappings = (IdMapping(input_base=id, output_base=0x5_0000 + id, output_reference=0) for id in ids(is_so))
    return Iort(nodes=(SmmuV3(base_address=BASE), RootComplex(mappings=tuple(mappings))))


def rimt(is_so: Platform) -> Rimt:
    mappings = (
        RimtMapping(source_id_base=id, number_of_ids=1, destination_device_id_base=0x6_0000 + id) for id in ids(is_so)
    )
    return Rimt(nodes=(RimtIommu(base_address=BASE), RimtPcieRootComplex(id_mappings=tuple(mappings))))


def claimed(is_so: Platform) -> list[Function]:
    return [function for function in is_so.tree if function.address in is_so.units[0].functions]


def behind(is_so: Platform) -> list[Function]:
    return [function for function in is_so.tree if is_so.unit_of(function) is not None]


def ids(is_so: Platform) -> list[int]:
    return sorted({id for function in behind(is_so) for id in requester_ids(is_so.tree, function)})


TRUTHFUL: dict[str, Callable[[Platform], FirmwareTable]] = {
    "DMAR": dmar,
    "IVRS": ivrs,
    "VIOT": viot,
    "IORT": iort,
    "RIMT": rimt,
}
every_table = pytest.mark.parametrize("signature", sorted(TRUTHFUL))


def subjects(is_so: Platform, table: FirmwareTable | bytes, signature: str) -> list[str]:
    data = table if isinstance(table, bytes) else table.encode()
    return [finding.subject for finding in check_tables(is_so, {signature: data})]


@st.composite
def sides(draw: st.DrawFn) -> tuple[PciTree, frozenset[Address], frozenset[Address]]:
    """A tree, and two choices of functions on its root bus."""
    found = draw(trees(quirky=False))
    on_root = sorted(function.address for function in found if found.bridge_above(function) is None)
    some = st.frozensets(st.sampled_from(on_root)) if on_root else st.just(frozenset[Address]())
    return found, draw(some), draw(some)


@every_table
@settings(max_examples=40)
@given(sides())
def test_the_truth_passes_and_every_function_on_the_wrong_side_is_found(
    signature: str, sides: tuple[PciTree, frozenset[Address], frozenset[Address]]
) -> None:
    found, true, told = sides
    is_so, as_told = platform(signature, found, true), platform(signature, found, told)
    told_table = TRUTHFUL[signature](as_told)
    assert subjects(as_told, told_table, signature) == []
    wrong = [f.address for f in found if (is_so.unit_of(f) is None) != (as_told.unit_of(f) is None)]
    assert subjects(is_so, told_table, signature) == [f"{signature}: what stands before {where}" for where in wrong]


@every_table
def test_a_table_that_is_not_there_is_found(signature: str) -> None:
    assert [f.subject for f in check_tables(platform(signature), {"FACP": b""})] == [f"ACPI table {signature}"]


@every_table
def test_a_table_of_an_iommu_that_the_machine_does_not_have_is_found(signature: str) -> None:
    bare = replace(platform(signature), units=())
    (first, *rest) = check_tables(bare, {signature: TRUTHFUL[signature](platform(signature)).encode()})
    assert first.expected == "none: the machine has no IOMMU of that kind"
    assert f"{signature}: IOMMUs" in [finding.subject for finding in rest]


@every_table
def test_a_table_that_cannot_be_read_is_found_with_its_bytes(signature: str) -> None:
    broken = TRUTHFUL[signature](platform(signature)).encode()[:-1]
    (finding,) = check_tables(platform(signature), {signature: broken})
    assert "at offset" in finding.seen
    assert finding.detail.startswith(f"0000  {signature.encode().hex(' ')}")
    assert finding.citation


@every_table
def test_an_iommu_at_another_place_is_found(signature: str) -> None:
    is_so = platform(signature)
    moved = replace(is_so, units=(replace(is_so.units[0], place=UnitPlace(registers=BASE + 0x1000)),))
    found = subjects(moved, TRUTHFUL[signature](is_so), signature)
    assert found.count(f"{signature}: IOMMUs") == 2
    assert len(found) == 2 + len(behind(is_so))


@pytest.mark.parametrize("signature", ["VIOT", "IORT", "RIMT"])
def test_a_wrong_id_is_found(signature: str) -> None:
    is_so = platform(signature)
    shifted = replace(is_so, units=(replace(is_so.units[0], id_base=_ID_BASE[signature] + 1),))
    assert len(subjects(shifted, TRUTHFUL[signature](is_so), signature)) == len(behind(is_so))


def test_an_alias_that_is_not_so_is_found() -> None:
    is_so = platform("IVRS")
    table = ivrs(is_so)
    (block,) = table.ivhds
    alias = AliasEntry(type=EntryType.ALIAS_SELECT, device_id=0x0100, source_device_id=0x00E0)
    told = replace(table, blocks=(replace(block, entries=(*block.entries, alias)),))
    assert subjects(is_so, told, "IVRS") == ["IVRS: what stands before 0000:01:00.0"]


def test_two_iommus_before_one_function_are_found_out() -> None:
    first = platform("DMAR")
    second = Unit(place=UnitPlace(registers=BASE + 0x1000), table="DMAR", functions=frozenset({at("00:03.0")}))
    is_so = replace(first, units=(*first.units, second))
    both = tuple(DeviceScope.of(ScopeType.PCI_ENDPOINT_DEVICE, 0, (device, 0)) for device in (2, 3))
    other = Drhd(register_base_address=BASE + 0x1000, device_scopes=both)
    table = dmar(first)
    assert subjects(is_so, replace(table, structures=(*table.structures, other)), "DMAR") == [
        "DMAR: what stands before 0000:00:02.0"
    ]
    honest = replace(other, device_scopes=both[1:])
    assert subjects(is_so, replace(table, structures=(*table.structures, honest)), "DMAR") == []


def test_an_iommu_that_is_described_twice_is_found() -> None:
    table = dmar(platform("DMAR"))
    twice = replace(table, structures=table.structures * 2)
    assert subjects(platform("DMAR"), twice, "DMAR") == ["DMAR: IOMMUs"]


def test_a_wrong_interrupt_remapping_flag_is_found_either_way() -> None:
    is_so, table = platform("DMAR"), dmar(platform("DMAR"))
    assert subjects(is_so, replace(table, flags=0), "DMAR") == ["DMAR: interrupt remapping"]
    (finding,) = check_tables(is_so, {"DMAR": replace(table, flags=0).encode()})
    assert (finding.expected, finding.seen) == ("said to be there", "it is not")
    without = replace(is_so, interrupt_remapping=False)
    assert subjects(without, table, "DMAR") == ["DMAR: interrupt remapping"]
    assert subjects(without, replace(table, flags=0), "DMAR") == []


@pytest.mark.parametrize(("haw", "expected"), [(38, ["DMAR: width of physical addresses"]), (39, []), (51, [])])
def test_a_host_address_width_must_reach_all_memory(haw: int, expected: list[str]) -> None:
    """The platform has addresses of 40 bits; the field has one less than the width."""
    assert subjects(platform("DMAR"), replace(dmar(platform("DMAR")), host_address_width=haw), "DMAR") == expected


def test_an_io_apic_that_is_left_out_or_made_up_is_found() -> None:
    """VT-d 8.3.1.1: with INTR_REMAP every I/O APIC is in the scope of a unit."""
    is_so = platform("DMAR")
    table = dmar(is_so)
    (unit,) = table.drhds
    without = replace(table, structures=(replace(unit, device_scopes=unit.device_scopes[1:]),))
    assert subjects(is_so, without, "DMAR") == ["DMAR: I/O APIC 2"]
    other = replace(unit.device_scopes[0], enumeration_id=3)
    more = replace(table, structures=(replace(unit, device_scopes=(*unit.device_scopes, other)),))
    assert subjects(is_so, more, "DMAR") == ["DMAR: I/O APIC 3"]
    off = replace(is_so, interrupt_remapping=False)
    assert subjects(off, replace(without, flags=0), "DMAR") == []


def test_a_reserved_region_that_is_left_out_or_made_up_is_found() -> None:
    is_so, table = platform("DMAR"), dmar(platform("DMAR"))
    region = Rmrr(
        reserved_memory_region_base_address=0x1000,
        reserved_memory_region_limit_address=0x1FFF,
        device_scopes=(DeviceScope.of(ScopeType.PCI_ENDPOINT_DEVICE, 0, (2, 0)),),
    )
    told = replace(table, structures=(*table.structures, region))
    reserved = replace(is_so, reserved=frozenset({ReservedRegion(function=at("00:02.0"), base=0x1000, last=0x1FFF)}))
    expected = ["DMAR: memory 0x1000..0x1fff for 0000:00:02.0"]
    assert subjects(is_so, told, "DMAR") == expected
    assert subjects(reserved, table, "DMAR") == expected
    assert subjects(reserved, told, "DMAR") == []
    # A table that cannot tell of them is not blamed.
    assert subjects(replace(platform("VIOT"), reserved=reserved.reserved), viot(platform("VIOT")), "VIOT") == []


def test_functions_of_two_kinds_of_iommu_are_each_told_by_their_own_table() -> None:
    found = PciTree([RootBus(0, last=0x7F), RootBus(0x80)], [endpoint("00:02.0"), endpoint("80:00.0")])
    units = (
        Unit(place=UnitPlace(registers=1), table="VIOT", root_buses=frozenset({0})),
        Unit(place=UnitPlace(registers=2), table="RIMT", root_buses=frozenset({0x80})),
    )
    one = Viot(nodes=(VirtioIommuMmio(base_address=1), PciRange(pci_bdf_end=0x7FFF, output_node=0)))
    other = Rimt(
        nodes=(
            RimtIommu(base_address=2),
            RimtPcieRootComplex(
                id_mappings=(
                    RimtMapping(source_id_base=0x8000, number_of_ids=0x8000, destination_device_id_base=0x8000),
                )
            ),
        )
    )
    both = {"VIOT": one.encode(), "RIMT": other.encode()}
    assert list(check_tables(Platform(tree=found, units=units), both)) == []


def test_a_table_with_a_wrong_checksum_is_found() -> None:
    data = bytearray(dmar(platform("DMAR")).encode())
    data[9] ^= 0xFF
    (finding,) = check_tables(platform("DMAR"), {"DMAR": bytes(data)})
    assert "checksum" in finding.seen
    assert list(check_tables(platform("DMAR"), {"DMAR": with_checksum(bytes(data))})) == []


def test_a_finding_says_in_words_what_stands_before_a_function() -> None:
    is_so = platform("VIOT", tree(endpoint("00:02.0")), frozenset({at("00:02.0")}))
    nobody = Viot(nodes=(VirtioIommuMmio(base_address=BASE),))
    unit = "the IOMMU with registers at 0xfed90000, which knows it as 0x40010"
    (finding,) = check_tables(is_so, {"VIOT": nobody.encode()})
    assert (finding.expected, finding.seen) == (unit, "no IOMMU")
    outside = replace(is_so, units=(replace(is_so.units[0], functions=frozenset()),))
    (finding,) = check_tables(outside, {"VIOT": viot(is_so).encode()})
    assert (finding.expected, finding.seen) == ("no IOMMU", unit)
