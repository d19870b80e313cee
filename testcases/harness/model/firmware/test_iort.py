"""IORT (Arm DEN 0049): its bytes, and which SMMU and which ITS are for which function."""

from __future__ import annotations

from dataclasses import replace

import pytest
from firmware_samples import IORT, TREE, with_checksum
from pci_trees import at

from harness.model.firmware.acpi import BadTable
from harness.model.firmware.iort import Iort
from harness.model.firmware.iort_nodes import (
    IdMapping,
    IortNode,
    ItsGroup,
    NamedComponent,
    OtherNode,
    RootComplex,
    SmmuV3,
)
from harness.model.pci.platform import ReservedRegion, UnitPlace

HEAD = b"IORT" + bytes(4) + b"\3\0" + b"OEMID_" + b"OEMTABLE" + b"\1\0\0\0" + b"CRTR" + b"\2\0\0\0"
# Node: type, length, revision, identifier, number of mappings, reference to them.
ITS = "00 1800 01 00000000 00000000 00000000  01000000 00000000"
SMMU = (
    "04 5800 04 01000000 01000000 44000000"
    # base address, flags, reserved, VATOS address, model, event, PRI, GERR, sync, proximity domain, mapping index
    "0000050900000000 01000000 00000000 0000000000000000 00000000 6a000000 6b000000 6d000000 6c000000 00000000 00000000"
    # mapping: input base, number of ids less one, output base, reference, flags
    "00000000 ffff0000 00000000 30000000 00000000"
)
ROOT = (
    "02 4c00 03 02000000 02000000 24000000"
    # memory access properties, ATS, segment, address size limit, PASID capabilities, reserved
    "0100000000000003 00000000 00000000 40 0000 00"
    "00000000 ff7f0000 00000100 48000000 00000000"  # 0000 to 7fff to the SMMU, from 10000 on
    "00800000 ff7f0000 00800000 30000000 00000000"  # 8000 to ffff past it to the ITS
)
BY_HAND = with_checksum(HEAD + bytes.fromhex(f"03000000 30000000 00000000 {ITS} {SMMU} {ROOT}"))

PLACE = UnitPlace(registers=0x0905_0000)


def seen(table: Iort, where: str) -> list[tuple[UnitPlace, set[int]]]:
    found = table.behind(TREE, TREE.function(at(where)))
    return [(behind.unit, set(behind.ids)) for behind in found]


def iort(*mappings: IdMapping, smmu: SmmuV3 | None = None) -> Iort:
    """An ITS group (0), an SMMU (1), and a root complex with those mappings."""
    smmu = smmu or SmmuV3(base_address=0x0905_0000)
    return Iort(nodes=(ItsGroup(its_identifiers=(0,)), smmu, RootComplex(mappings=mappings)))


def test_a_table_by_hand_is_read_field_by_field() -> None:
    table = Iort.parse(BY_HAND)
    its, smmu, root = table.nodes
    assert its == ItsGroup(revision=1, its_identifiers=(0,))
    assert smmu == SmmuV3(
        revision=4,
        identifier=1,
        base_address=0x0905_0000,
        flags=1,
        event=0x6A,
        pri=0x6B,
        gerr=0x6D,
        sync=0x6C,
        mappings=(IdMapping(number_of_ids=0xFFFF, output_reference=0),),
    )
    assert isinstance(root, RootComplex)
    assert (root.memory_address_size_limit, root.pci_segment_number, root.ats_supported) == (64, 0, False)
    assert [mapping.output_reference for mapping in root.mappings] == [1, 0]
    assert table.encode() == BY_HAND


def test_a_mapped_id_goes_to_the_smmu_and_another_past_it() -> None:
    table = Iort.parse(BY_HAND)
    assert seen(table, "00:02.0") == [(PLACE, {0x1_0010})]
    assert seen(table, "02:05.0") == [(PLACE, {0x1_0228, 0x1_0200})]
    assert seen(table, "80:00.0") == []


def test_interrupts_go_to_the_its_by_way_of_the_smmu_or_past_it() -> None:
    table = Iort.parse(BY_HAND)
    assert table.interrupts_of(0, 0x8000) == (table.nodes[0], 0x8000)
    # The stream id 10010 is above what the SMMU's mapping takes.
    assert table.interrupts_of(0, 0x0010) is None
    assert table.interrupts_of(1, 0x0010) is None
    wider = IdMapping(number_of_ids=0xF_FFFF, output_base=0x50_0000, output_reference=0)
    assert isinstance(table.nodes[1], SmmuV3)
    nodes = (table.nodes[0], replace(table.nodes[1], mappings=(wider,)), table.nodes[2])
    assert Iort(nodes=nodes).interrupts_of(0, 0x0010) == (nodes[0], 0x51_0010)


def test_the_number_of_ids_is_one_less_than_there_are() -> None:
    table = iort(IdMapping(input_base=0x10, number_of_ids=0, output_base=7, output_reference=1))
    assert seen(table, "00:02.0") == [(PLACE, {7})]
    assert IdMapping(input_base=0x10, number_of_ids=1).output(0x11) == 1
    assert IdMapping(input_base=0x10, number_of_ids=1).output(0x12) is None
    assert IdMapping(input_base=0x10, number_of_ids=1).output(0xF) is None


def test_a_single_mapping_takes_whatever_id_there_is() -> None:
    table = iort(IdMapping(input_base=0x9999, output_base=7, output_reference=1, flags=1))
    assert seen(table, "81:00.0") == [(PLACE, {7})]


def test_a_root_complex_of_another_segment_has_nothing_here() -> None:
    nodes: tuple[IortNode, ...] = (
        SmmuV3(base_address=1),
        RootComplex(pci_segment_number=1, mappings=(IdMapping(number_of_ids=0xFFFF, output_reference=0),)),
    )
    assert seen(Iort(nodes=nodes), "00:02.0") == []


def test_of_two_root_complexes_of_a_segment_the_one_that_maps_the_id_counts() -> None:
    nodes: tuple[IortNode, ...] = (
        SmmuV3(base_address=1),
        SmmuV3(base_address=2),
        RootComplex(mappings=(IdMapping(number_of_ids=0x7FFF, output_reference=0),)),
        RootComplex(mappings=(IdMapping(input_base=0x8000, number_of_ids=0x7FFF, output_reference=1),)),
    )
    assert seen(Iort(nodes=nodes), "00:02.0") == [(UnitPlace(registers=1), {0x10})]
    assert seen(Iort(nodes=nodes), "80:00.0") == [(UnitPlace(registers=2), {0})]


def test_nodes_that_map_in_a_circle_lead_nowhere() -> None:
    circle = IdMapping(number_of_ids=0xFFFF, output_reference=0)
    assert seen(Iort(nodes=(RootComplex(mappings=(circle,)),)), "00:02.0") == []
    both: tuple[IortNode, ...] = (
        RootComplex(mappings=(replace(circle, output_reference=1),)),
        OtherNode(type=3, mappings=(circle,)),
    )
    assert seen(Iort(nodes=both), "00:02.0") == []


@pytest.mark.parametrize(
    ("smmu", "own"),
    [
        (SmmuV3(revision=0, device_id_mapping_index=1), None),
        (SmmuV3(revision=1, device_id_mapping_index=1), 1),
        (SmmuV3(revision=4, device_id_mapping_index=1, event=1, pri=2, gerr=3), 1),
        (SmmuV3(revision=4, device_id_mapping_index=1, event=1, pri=2, gerr=3, sync=4), None),
        (SmmuV3(revision=5, device_id_mapping_index=1), None),
        (SmmuV3(revision=5, device_id_mapping_index=1, flags=1 << 4), 1),
    ],
)
def test_the_mapping_of_an_smmu_s_own_interrupts_is_for_no_stream(smmu: SmmuV3, own: int | None) -> None:
    assert smmu.own_mapping == own
    to_its = IdMapping(number_of_ids=0xFFFF, output_base=0x100, output_reference=0)
    smmu = replace(smmu, mappings=(IdMapping(number_of_ids=0), to_its))
    table = iort(IdMapping(number_of_ids=0xFFFF, output_reference=1), smmu=smmu)
    found = table.interrupts_of(0, 0x0010)
    assert (found is None) == (own == 1)


def test_a_named_component_has_a_stream_for_each_single_mapping() -> None:
    streams = (
        IdMapping(output_base=5, output_reference=0, flags=1),
        IdMapping(output_base=9, output_reference=0, flags=1),
    )
    component = NamedComponent(device_object_name="\\_SB.DMA", mappings=streams)
    table = Iort(nodes=(SmmuV3(base_address=1), component))
    assert table.behind_component("\\_SB.DMA") == ((UnitPlace(registers=1), 5), (UnitPlace(registers=1), 9))
    assert table.behind_component("\\_SB.OTHER") == ()


def test_reserved_memory_is_for_the_functions_whose_streams_it_has() -> None:
    """The sample's RMR node has stream 20010 of the SMMU, which is 00:02.0's."""
    region = ReservedRegion(function=at("00:02.0"), base=0x6000_0000, last=0x6000_FFFF)
    assert IORT.reserved(TREE) == {region}


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("00 0000 01 00000000 00000000 00000000", "node of 0 bytes"),
        ("00 1400 01 00000000 00000000 00000000 02000000", "ITS identifiers of 8 bytes"),
        ("00 1400 01 00000000 01000000 14000000 00000000", "ID mappings of 20 bytes"),
        ("00 2800 01 00000000 01000000 08000000" + "00" * 24, "ID mappings at 0x8"),
        (ROOT, "points at 0x48, where no node starts"),
        ("04 1400 04 00000000 00000000 00000000 00000000", "SmmuV3 of 52 bytes"),
        ("01 2000 00 00000000 00000000 00000000" + "41" * 16, "no zero byte ends the name"),
        ("06 1c00 00 00000000 00000000 00000000 00000000 01000000 04000000", "memory ranges at 0x4"),
        ("06 1c00 00 00000000 00000000 00000000 00000000 ffffffff 1c000000", "memory ranges of"),
        ("05 2800 00 00000000 00000000 00000000" + "00" * 24, "points at 0x0"),
    ],
)
def test_a_broken_node_is_told(node: str, words: str) -> None:
    with pytest.raises(BadTable, match=words):
        Iort.parse(with_checksum(HEAD + bytes.fromhex(f"01000000 30000000 00000000 {node}")))


def test_mappings_over_a_node_s_own_fields_are_told() -> None:
    """An array of mappings that starts within the fields of an SMMU leaves it too few."""
    node = bytearray.fromhex(SMMU)
    node[12:16] = (0x20).to_bytes(4, "little")  # reference to the array
    node[0x2C:0x30] = (0x30).to_bytes(4, "little")  # which makes this the output reference
    with pytest.raises(BadTable, match="SmmuV3 of 52 bytes"):
        Iort.parse(with_checksum(HEAD + bytes.fromhex(f"02000000 30000000 00000000 {ITS}") + node))
