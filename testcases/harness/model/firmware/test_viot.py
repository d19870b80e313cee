"""VIOT (ACPI 6.5): its bytes, and which virtio-iommu stands before which function."""

from __future__ import annotations

import pytest
from firmware_samples import TREE, VIOT, with_checksum
from pci_trees import at

from harness.errors import SpecError
from harness.model.firmware.acpi import BadTable
from harness.model.firmware.viot import PciRange, UnknownNode, Viot, ViotNode, VirtioIommuMmio, VirtioIommuPci
from harness.model.pci.platform import UnitPlace

HEAD = b"VIOT" + bytes(4) + b"\0\0" + b"OEMID_" + b"OEMTABLE" + b"\1\0\0\0" + b"CRTR" + b"\2\0\0\0"
IOMMU = "03 00 1000 0000 0800 0000000000000000"  # type, reserved, length, segment, BDF 00:01.0, reserved
# type, reserved, length, endpoint start, segments, BDFs, output node, reserved
RANGE = "01 00 1800 00010000 0000 0100 0000 ffff 3000 000000000000"
BY_HAND = with_checksum(HEAD + bytes.fromhex(f"0200 3000 0000000000000000 {IOMMU} {RANGE}"))


def seen(table: Viot, where: str) -> list[tuple[UnitPlace, set[int]]]:
    found = table.behind(TREE, TREE.function(at(where)))
    return [(behind.unit, set(behind.ids)) for behind in found]


def viot(*nodes: ViotNode) -> Viot:
    return Viot(nodes=(VirtioIommuPci(pci_bdf=8), *nodes))


ONE = UnitPlace(function=at("00:01.0"))


def test_a_table_by_hand_is_read_field_by_field() -> None:
    table = Viot.parse(BY_HAND)
    assert table.nodes == (
        VirtioIommuPci(pci_segment=0, pci_bdf=0x0008),
        PciRange(endpoint_start=0x100, pci_segment_end=1, pci_bdf_end=0xFFFF, output_node=0),
    )
    assert table.units == (ONE,)
    assert table.encode() == BY_HAND


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("0100 3000 0000000000000000 03 00 0000", "node of 0 bytes"),
        ("0100 3000 0000000000000000 03 00 0300", "node of 3 bytes"),
        ("0100 3000 0000000000000000 03 00 1000 0000", "node of 16 bytes"),
        ("0100 3000 0000000000000000 03 00 0c00 0000 0800 00000000", "type 3 with 12 bytes: it has 16"),
        ("0100 2000 0000000000000000" + IOMMU, "within the 0x30 bytes before them"),
        ("0200 3000 0000000000000000" + IOMMU, "node length"),
        ("0100 3000 0000000000000000" + RANGE.replace("3000", "4000"), "points at 0x40, where no node starts"),
    ],
)
def test_a_broken_table_is_told(rest: str, words: str) -> None:
    with pytest.raises(BadTable, match=words):
        Viot.parse(with_checksum(HEAD + bytes.fromhex(rest)))


def test_a_node_of_a_later_type_is_passed_over() -> None:
    table = Viot.parse(with_checksum(HEAD + bytes.fromhex(f"0200 3000 0000000000000000 05 00 0600 aabb {IOMMU}")))
    assert table.nodes[0] == UnknownNode(type=5, data=b"\xaa\xbb")
    assert table.units == (ONE,)


def test_endpoint_ids_count_from_the_first_of_the_range() -> None:
    table = viot(PciRange(endpoint_start=0x1000, pci_bdf_start=0x0010, pci_bdf_end=0x00FF, output_node=0))
    assert seen(table, "00:02.0") == [(ONE, {0x1000})]
    assert seen(table, "00:1c.0") == [(ONE, {0x10D0})]
    assert seen(table, "80:00.0") == []


def test_each_further_segment_adds_65536_endpoint_ids() -> None:
    found = PciRange(endpoint_start=5, pci_segment_start=1, pci_segment_end=3, pci_bdf_start=8, pci_bdf_end=0xFFFF)
    assert found.endpoint(1, 8) == 5
    assert found.endpoint(3, 10) == 0x2_0007
    assert found.endpoint(0, 10) is None
    assert found.endpoint(4, 10) is None
    assert found.endpoint(1, 7) is None


def test_every_id_that_reaches_the_root_complex_is_looked_up() -> None:
    table = viot(PciRange(pci_bdf_end=0xFFFF, output_node=0))
    assert seen(table, "02:05.0") == [(ONE, {0x0228, 0x0200})]


def test_a_virtio_iommu_is_not_behind_itself() -> None:
    table = Viot(nodes=(VirtioIommuPci(pci_bdf=0x10), PciRange(pci_bdf_end=0xFFFF)))
    assert seen(table, "00:02.0") == []
    assert len(seen(table, "00:1c.0")) == 1


def test_ranges_to_two_iommus_are_both_told() -> None:
    one = PciRange(pci_bdf_end=0xFF, output_node=0)
    other = PciRange(pci_bdf_end=0xFF, output_node=1)
    table = Viot(nodes=(VirtioIommuPci(pci_bdf=8), VirtioIommuMmio(base_address=0xA00), one, other))
    assert [unit for unit, _ in seen(table, "00:02.0")] == [ONE, UnitPlace(registers=0xA00)]


def test_a_range_whose_output_is_no_iommu_or_whose_end_is_before_its_start_names_nothing() -> None:
    assert seen(Viot(nodes=(PciRange(pci_bdf_end=0xFFFF, output_node=0),)), "00:02.0") == []
    assert seen(viot(PciRange(pci_bdf_start=0xFFFF, pci_bdf_end=0, output_node=0)), "00:02.0") == []


def test_an_mmio_endpoint_is_found_by_its_base_address() -> None:
    assert VIOT.behind_mmio(0x0A00_0000) == (UnitPlace(registers=0x0A00_3000), 0x20000)
    assert VIOT.behind_mmio(0x0A00_0004) is None


def test_a_reference_to_no_node_cannot_be_written() -> None:
    with pytest.raises(SpecError, match="node 7 of 2"):
        viot(PciRange(output_node=7)).encode()
