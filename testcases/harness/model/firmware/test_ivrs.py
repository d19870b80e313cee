"""IVRS (AMD 48882, chapter 5): its bytes, and which IOMMU stands before which function."""

from __future__ import annotations

from dataclasses import replace

import pytest
from firmware_samples import IVRS, TREE, with_checksum
from pci_trees import at

from harness.model.firmware.acpi import BadTable
from harness.model.firmware.ivhd_entries import (
    AliasEntry,
    DeviceEntry,
    EntryType,
    ExtendedEntry,
    IvhdEntry,
    SpecialEntry,
    UnknownEntry,
    Variety,
)
from harness.model.firmware.ivrs import Ivhd, Ivmd, Ivrs, UnknownBlock
from harness.model.pci.platform import ReservedRegion, UnitPlace

HEAD = b"IVRS" + bytes(4) + b"\2\0" + b"OEMID_" + b"OEMTABLE" + b"\1\0\0\0" + b"CRTR" + b"\2\0\0\0"
# IVinfo: EFRSup, PASize 48, VASize 64; reserved
INFO = bytes.fromhex("01302000 0000000000000000")
# type, flags, length, device id, capability offset, base address, segment, info, feature info
IVHD_10 = bytes.fromhex("10 f1 2c00 0200 4000 0000d8fe00000000 0000 0000 44000000")
ENTRIES = bytes.fromhex(
    "02 0001 d7"  # select 01:00.0 with LINT1, LINT0, SysMgt 01b, NMI, EInt, INIT
    "03 0003 00  04 ff03 00"  # range 03:00.0 to 03:1f.7
    "48 0000 00 02 a000 01"  # I/O APIC 2, 00:14.0
)
BY_HAND = with_checksum(HEAD + INFO + IVHD_10 + ENTRIES)

ALL = DeviceEntry(type=EntryType.ALL)


def select(id: int) -> DeviceEntry:
    return DeviceEntry(type=EntryType.SELECT, device_id=id)


def start(id: int) -> DeviceEntry:
    return DeviceEntry(type=EntryType.START_OF_RANGE, device_id=id)


def end(id: int) -> DeviceEntry:
    return DeviceEntry(type=EntryType.END_OF_RANGE, device_id=id)


def ivhd(base: int, *entries: IvhdEntry, type: int = 0x10, device_id: int = 2, segment: int = 0) -> Ivhd:
    return Ivhd(type=type, device_id=device_id, iommu_base_address=base, pci_segment_group=segment, entries=entries)


def seen(table: Ivrs, where: str) -> list[tuple[int | None, set[int]]]:
    """Register base address, and the ids, for every IOMMU that stands before a function."""
    found = table.behind(TREE, TREE.function(at(where)))
    return [(behind.unit.registers, set(behind.ids)) for behind in found]


def test_a_table_by_hand_is_read_field_by_field() -> None:
    table = Ivrs.parse(BY_HAND)
    assert (table.efr_supported, table.physical_address_bits, table.virtual_address_bits) == (True, 48, 64)
    block = Ivhd(
        type=0x10,
        flags=0xF1,
        device_id=0x0002,
        capability_offset=0x40,
        iommu_base_address=0xFED8_0000,
        iommu_feature_info=0x44,
        entries=(
            DeviceEntry(type=2, device_id=0x0100, dte_setting=0xD7),
            start(0x0300),
            end(0x03FF),
            SpecialEntry(handle=2, source_device_id=0x00A0, variety=1),
        ),
    )
    assert table.blocks == (block,)
    assert block.place == UnitPlace(registers=0xFED8_0000, function=at("00:00.2"))
    assert table.special_devices(Variety.IOAPIC) == {2: (block.place, 0x00A0)}
    assert table.encode() == BY_HAND


def test_blocks_of_type_11_and_40_have_two_register_images_before_their_entries() -> None:
    for type in (0x11, 0x40):
        block = bytes.fromhex(f"{type:02x} 00 2c00 0200 4000 0000d8fe00000000 0000 0000 01000000")
        block += bytes.fromhex("0102030405060708 1112131415161718 01 0000 00")
        (read,) = Ivrs.parse(with_checksum(HEAD + INFO + block)).blocks
        assert isinstance(read, Ivhd)
        assert (read.efr_register_image, read.efr_register_image_2) == (0x0807060504030201, 0x1817161514131211)
        assert read.entries == (ALL,)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("10 00 0000", "a block of 0 bytes"),
        ("10 00 0300", "a block of 3 bytes"),
        ("10 00 0600 0000", "IVHD block of 20 bytes"),
        ("11 00 1800 0200 4000 0000d8fe00000000 0000 0000 00000000", "EFR register image"),
        ("10 00 1a00 0200 4000 0000d8fe00000000 0000 0000 00000000 0200", "device entry of 4 bytes"),
        ("10 00 1c00 0200 4000 0000d8fe00000000 0000 0000 00000000 46000000", "device entry of 8 bytes"),
        ("10 00 1c00 0200 4000 0000d8fe00000000 0000 0000 00000000 f0000000", "unique id length"),
        ("20 00 1f00" + "00" * 27, "IVMD block of 31 bytes"),
    ],
)
def test_a_broken_block_is_told(block: str, words: str) -> None:
    with pytest.raises(BadTable, match=words):
        Ivrs.parse(with_checksum(HEAD + INFO + bytes.fromhex(block)))


@pytest.mark.parametrize(
    ("type", "length"), [(5, 4), (63, 4), (65, 8), (127, 8), (128, 16), (191, 16), (192, 32), (239, 32)]
)
def test_the_type_of_an_unknown_entry_gives_its_length(type: int, length: int) -> None:
    """5.2: bits 7:6 of the type."""
    entry = UnknownEntry(type=type, data=bytes(length - 1))
    table = Ivrs(blocks=(ivhd(1, entry, select(0x10)),))
    assert Ivrs.parse(table.encode()) == table


def test_an_unknown_block_is_passed_over() -> None:
    table = Ivrs.parse(with_checksum(BY_HAND + bytes.fromhex("77 01 0600 aabb")))
    assert table.blocks[-1] == UnknownBlock(type=0x77, flags=1, data=b"\xaa\xbb")


# Who is behind which IOMMU.


def test_an_entry_for_all_has_every_function_of_its_segment() -> None:
    assert seen(Ivrs(blocks=(ivhd(1, ALL),)), "81:00.0") == [(1, {0x8100})]
    assert seen(Ivrs(blocks=(ivhd(1, ALL, segment=1),)), "81:00.0") == []


def test_a_range_has_both_its_ends() -> None:
    table = Ivrs(blocks=(ivhd(1, start(0x0010), end(0x8000)),))
    assert seen(table, "00:02.0") == [(1, {0x10})]
    assert seen(table, "80:00.0") == [(1, {0x8000})]
    assert seen(table, "81:00.0") == []


def test_a_range_that_never_ends_has_nothing() -> None:
    assert seen(Ivrs(blocks=(ivhd(1, start(0)),)), "00:02.0") == []
    assert seen(Ivrs(blocks=(ivhd(1, end(0xFFFF)),)), "00:02.0") == []


def test_an_alias_range_gives_all_the_id_of_the_bridge() -> None:
    alias = AliasEntry(type=EntryType.ALIAS_START_OF_RANGE, device_id=0x0200, source_device_id=0x0200)
    table = Ivrs(blocks=(ivhd(1, alias, end(0x03FF)),))
    assert seen(table, "02:05.0") == [(1, {0x0200})]
    assert seen(table, "03:01.0") == [(1, {0x0200})]
    assert seen(table, "00:02.0") == []


def test_an_alias_select_has_the_device_and_the_one_whose_id_it_takes() -> None:
    alias = AliasEntry(type=EntryType.ALIAS_SELECT, device_id=0x8100, source_device_id=0x0010)
    table = Ivrs(blocks=(ivhd(1, alias),))
    assert seen(table, "81:00.0") == [(1, {0x0010})]
    assert seen(table, "00:02.0") == [(1, {0x0010})]


def test_extended_entries_name_devices_as_plain_ones_do() -> None:
    extended = ExtendedEntry(type=EntryType.EXTENDED_SELECT, device_id=0x0010)
    assert seen(Ivrs(blocks=(ivhd(1, extended),)), "00:02.0") == [(1, {0x10})]
    ranged = ExtendedEntry(type=EntryType.EXTENDED_START_OF_RANGE, device_id=0x0010)
    assert seen(Ivrs(blocks=(ivhd(1, ranged, end(0x00FF)),)), "00:1c.0") == [(1, {0xE0})]


def test_a_later_entry_replaces_what_an_earlier_one_says() -> None:
    alias = AliasEntry(type=EntryType.ALIAS_SELECT, device_id=0x8100, source_device_id=0x0010)
    assert seen(Ivrs(blocks=(ivhd(1, select(0x8100), alias),)), "81:00.0") == [(1, {0x10})]
    assert seen(Ivrs(blocks=(ivhd(1, alias, select(0x8100)),)), "81:00.0") == [(1, {0x8100})]


def test_of_the_blocks_of_one_iommu_the_highest_type_known_counts() -> None:
    """48882, 5.2."""
    blocks = (ivhd(1, ALL), ivhd(1, select(0x10), type=0x40), ivhd(1, ALL, type=0x11))
    table = Ivrs(blocks=blocks)
    assert len(table.units) == 1
    assert seen(table, "00:02.0") == [(1, {0x10})]
    assert seen(table, "81:00.0") == []


@pytest.mark.parametrize(
    ("entries", "source"),
    [
        ((select(0x10),), 0x10),
        ((start(0x10), end(0x17)), 0x10),
        ((ExtendedEntry(type=EntryType.EXTENDED_SELECT, device_id=0x10),), 0x10),
        ((AliasEntry(type=EntryType.ALIAS_SELECT, device_id=0x10, source_device_id=0x20),), 0x20),
        ((AliasEntry(type=EntryType.ALIAS_START_OF_RANGE, device_id=0x10, source_device_id=0x20), end(0x17)), 0x20),
    ],
)
def test_an_iommu_that_names_a_device_counts_before_one_that_has_all(
    entries: tuple[IvhdEntry, ...], source: int
) -> None:
    table = Ivrs(blocks=(ivhd(1, ALL), ivhd(2, *entries, device_id=3)))
    assert seen(table, "00:02.0") == [(2, {source})]
    assert seen(table, "00:1c.0") == [(1, {0xE0})]


def test_two_iommus_that_name_one_device_are_both_told() -> None:
    table = Ivrs(blocks=(ivhd(1, select(0x10)), ivhd(2, select(0x10), device_id=3)))
    assert seen(table, "00:02.0") == [(1, {0x10}), (2, {0x10})]


def test_an_iommu_is_not_behind_itself() -> None:
    assert seen(Ivrs(blocks=(ivhd(1, ALL, device_id=0x10),)), "00:02.0") == []


@pytest.mark.parametrize(
    ("type", "id", "aux", "expected"),
    [
        (0x20, 0, 0, {str(f.address)[5:] for f in TREE}),
        (0x21, 0x8100, 0, {"81:00.0"}),
        (0x22, 0x0200, 0x02FF, {"02:05.0", "02:06.0"}),
    ],
)
def test_reserved_memory_is_for_all_one_or_a_range(type: int, id: int, aux: int, expected: set[str]) -> None:
    """48882, 5.2."""
    block = Ivmd(type=type, device_id=id, auxiliary_data=aux, start_address=0x1000, memory_block_length=0x2000)
    regions = Ivrs(blocks=(block,)).reserved(TREE)
    assert {str(region.function)[5:] for region in regions} == expected
    assert {(region.base, region.last) for region in regions} == {(0x1000, 0x2FFF)}
    assert Ivrs(blocks=(replace(block, pci_segment_group=1),)).reserved(TREE) == set()


def test_the_sample_has_reserved_memory_for_its_device() -> None:
    assert IVRS.reserved(TREE) == {ReservedRegion(function=at("00:02.0"), base=0x5000_0000, last=0x5000_0FFF)}
