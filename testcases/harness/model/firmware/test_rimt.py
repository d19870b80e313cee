"""RIMT (RISC-V IO Mapping Table 1.0): its bytes, and which IOMMU stands before which function."""

from __future__ import annotations

import pytest
from firmware_samples import RIMT, TREE, with_checksum
from pci_trees import at

from harness.model.firmware.acpi import BadTable
from harness.model.firmware.rimt import IdMapping, Rimt, RimtIommu, RimtPcieRootComplex
from harness.model.pci.platform import UnitPlace

HEAD = b"RIMT" + bytes(4) + b"\1\0" + b"OEMID_" + b"OEMTABLE" + b"\1\0\0\0" + b"CRTR" + b"\2\0\0\0"
# Node: type, revision, length, reserved, id.
IOMMU = (
    "00 01 2800 0000 0000"
    # hardware id, base address, flags, proximity domain, segment, BDF 00:01.0, wires, their offset
    "3030313031303134 0000000000000000 01000000 00000000 0000 0800 0000 2800"
)
ROOT = (
    "01 01 2800 0000 0100"
    # flags, reserved, segment, offset of mappings, how many
    "01000000 0000 0000 1400 0100"
    # mapping: source id base, number of ids, destination device id base, destination IOMMU offset, flags
    "10000000 f0ff0000 00000100 30000000 00000000"
)
BY_HAND = with_checksum(HEAD + bytes.fromhex(f"02000000 30000000 00000000 {IOMMU} {ROOT}"))

PLACE = UnitPlace(function=at("00:01.0"))


def seen(table: Rimt, where: str) -> list[tuple[UnitPlace, set[int]]]:
    found = table.behind(TREE, TREE.function(at(where)))
    return [(behind.unit, set(behind.ids)) for behind in found]


def rimt(*mappings: IdMapping) -> Rimt:
    return Rimt(nodes=(RimtIommu(flags=1, pcie_bdf=8), RimtPcieRootComplex(id_mappings=mappings)))


def test_a_table_by_hand_is_read_field_by_field() -> None:
    table = Rimt.parse(BY_HAND)
    mapping = IdMapping(source_id_base=0x10, number_of_ids=0xFFF0, destination_device_id_base=0x1_0000)
    assert table.nodes == (
        RimtIommu(hardware_id=b"00101014", flags=1, pcie_bdf=8),
        RimtPcieRootComplex(id=1, flags=1, id_mappings=(mapping,)),
    )
    assert isinstance(root := table.nodes[1], RimtPcieRootComplex)
    assert (root.ats_supported, root.pri_supported) == (True, False)
    assert table.units == (PLACE,)
    assert table.encode() == BY_HAND


def test_an_iommu_is_a_function_or_a_platform_device_by_its_flag() -> None:
    assert RimtIommu(base_address=5, pcie_bdf=8).place == UnitPlace(registers=5)
    assert RimtIommu(base_address=5, pcie_bdf=8, flags=1).place == PLACE


def test_device_ids_count_from_the_first_of_the_range() -> None:
    table = Rimt.parse(BY_HAND)
    assert seen(table, "00:02.0") == [(PLACE, {0x1_0000})]
    assert seen(table, "02:05.0") == [(PLACE, {0x1_0218, 0x1_01F0})]


def test_the_number_of_ids_is_the_number_of_ids() -> None:
    """RIMT, ID mapping structure: not one less, as in IORT."""
    mapping = IdMapping(source_id_base=0x10, number_of_ids=1, destination_device_id_base=7)
    assert [mapping.device_id(source) for source in (0xF, 0x10, 0x11)] == [None, 7, None]
    assert seen(rimt(IdMapping(source_id_base=0x10, number_of_ids=0)), "00:02.0") == []


def test_a_root_complex_of_another_segment_has_nothing_here() -> None:
    other = RimtPcieRootComplex(pcie_segment_number=1, id_mappings=(IdMapping(number_of_ids=0x10000),))
    assert seen(Rimt(nodes=(RimtIommu(base_address=1), other)), "00:02.0") == []


def test_an_iommu_is_not_behind_itself() -> None:
    table = Rimt(
        nodes=(RimtIommu(flags=1, pcie_bdf=0x10), RimtPcieRootComplex(id_mappings=(IdMapping(number_of_ids=0x10000),)))
    )
    assert seen(table, "00:02.0") == []
    assert len(seen(table, "00:1c.0")) == 1


def test_a_destination_that_is_no_iommu_translates_nothing() -> None:
    assert seen(rimt(IdMapping(number_of_ids=0x10000, destination_iommu=1)), "00:02.0") == []


def test_a_platform_device_is_found_by_its_name() -> None:
    ((place, mapping),) = RIMT.behind_platform("\\_SB.DMA")
    assert place == UnitPlace(registers=0x0301_0000)
    assert mapping.number_of_ids == 1
    assert RIMT.behind_platform("\\_SB.OTHER") == ()


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("00 01 0000 0000 0000", "node of 0 bytes"),
        ("00 01 0c00 0000 0000 00000000", "bytes at 0x54"),
        ("00 01 2800 0000 0000" + "00" * 28 + "0100 2800", "interrupt wires of 8 bytes"),
        ("00 01 3000 0000 0000" + "00" * 28 + "0100 1000" + "00" * 8, "interrupt wires at 0x10"),
        ("01 01 1400 0000 0000 00000000 0000 0000 1400 0100", "ID mappings of 20 bytes"),
        ("01 01 2800 0000 0000 00000000 0000 0000 1000 0100" + "00" * 20, "ID mappings at 0x10"),
        (ROOT.replace("30000000", "31000000"), "points at 0x31, where no node starts"),
        ("02 01 1000 0000 0000 0c00 0000 41424344", "no zero byte ends the name"),
    ],
)
def test_a_broken_node_is_told(node: str, words: str) -> None:
    with pytest.raises(BadTable, match=words):
        Rimt.parse(with_checksum(HEAD + bytes.fromhex(f"01000000 30000000 00000000 {node}")))
