"""Structures bit by bit, beside numbers written by hand: what the builders write, and where every field stands."""

from __future__ import annotations

import pytest
from amdvi_unit import DOMAIN, RID, Unit, guest_unit

from harness.model.amdvi.device_table import DTE
from harness.model.amdvi.guest_entries import GCR3_ENTRY, GUEST_LEAF_ENTRY, GUEST_TABLE_ENTRY
from harness.model.amdvi.host_tables import PDE, PTE
from harness.model.amdvi.interrupts import IRTE_32, IRTE_128, IRTE_128_GUEST
from harness.model.amdvi.register_fields import (
    BUFFER_BASE,
    CAPABILITY_HEADER,
    CONTROL,
    DEVICE_TABLE_BASE,
    EXCLUSION_BASE,
    EXTENDED_FEATURE,
    STATUS,
    XT_INTERRUPT,
)
from harness.model.bits import Layout


def written(unit: Unit) -> dict[int, int]:
    return {address: value for address, value in unit.memory.words() if value}


@pytest.mark.parametrize(
    ("layout", "bits"),
    [
        (DTE, 256),
        (PDE, 64),
        (PTE, 64),
        (GCR3_ENTRY, 64),
        (GUEST_TABLE_ENTRY, 64),
        (GUEST_LEAF_ENTRY, 64),
        (IRTE_32, 32),
        (IRTE_128, 128),
        (IRTE_128_GUEST, 128),
        (CAPABILITY_HEADER, 32),
        (DEVICE_TABLE_BASE, 64),
        (BUFFER_BASE, 64),
        (CONTROL, 64),
        (EXCLUSION_BASE, 64),
        (EXTENDED_FEATURE, 64),
        (XT_INTERRUPT, 64),
    ],
    ids=lambda value: value.name if isinstance(value, Layout) else "",
)
def test_a_layout_has_every_bit_once_in_ascending_order(layout: Layout, bits: int) -> None:
    at = 0
    for entry in layout.fields:
        assert entry.low == at, entry.name
        at += entry.width
    assert at == bits


# The device table entry (2.2.2.1): each field alone, all ones, and the doubleword that it makes.
DTE_FIELDS = [
    ("V", 0x1, 0, 0x1),
    ("TV", 0x1, 0, 0x2),
    ("HAD", 0x3, 0, 0x180),
    ("Mode", 0x7, 0, 0xE00),
    ("HostPageTableRoot", 0xF_FFFF_FFFF_F000, 0, 0x000F_FFFF_FFFF_F000),
    ("PPR", 0x1, 0, 0x0010_0000_0000_0000),
    ("GPRP", 0x1, 0, 0x0020_0000_0000_0000),
    ("GIoV", 0x1, 0, 0x0040_0000_0000_0000),
    ("GV", 0x1, 0, 0x0080_0000_0000_0000),
    ("GLX", 0x3, 0, 0x0300_0000_0000_0000),
    ("GCR3_14_12", 0x7, 0, 0x1C00_0000_0000_0000),
    ("IR", 0x1, 0, 0x2000_0000_0000_0000),
    ("IW", 0x1, 0, 0x4000_0000_0000_0000),
    ("DomainID", 0xFFFF, 1, 0xFFFF),
    ("GCR3_30_15", 0xFFFF, 1, 0xFFFF_0000),
    ("I", 0x1, 1, 0x1_0000_0000),
    ("SE", 0x1, 1, 0x2_0000_0000),
    ("SA", 0x1, 1, 0x4_0000_0000),
    ("IoCtl", 0x3, 1, 0x18_0000_0000),
    ("Cache", 0x1, 1, 0x20_0000_0000),
    ("SD", 0x1, 1, 0x40_0000_0000),
    ("EX", 0x1, 1, 0x80_0000_0000),
    ("SysMgt", 0x3, 1, 0x300_0000_0000),
    ("SATS", 0x1, 1, 0x400_0000_0000),
    ("GCR3_51_31", 0x1F_FFFF, 1, 0xFFFF_F800_0000_0000),
    ("IV", 0x1, 2, 0x1),
    ("IntTabLen", 0xF, 2, 0x1E),
    ("IG", 0x1, 2, 0x20),
    ("IntTableRoot_51_6", 0x3FFF_FFFF_FFFF, 2, 0x000F_FFFF_FFFF_FFC0),
    ("GuestPagingMode", 0x3, 2, 0x00C0_0000_0000_0000),
    ("InitPass", 0x1, 2, 0x0100_0000_0000_0000),
    ("EIntPass", 0x1, 2, 0x0200_0000_0000_0000),
    ("NMIPass", 0x1, 2, 0x0400_0000_0000_0000),
    ("HPTMode", 0x1, 2, 0x0800_0000_0000_0000),
    ("IntCtl", 0x3, 2, 0x3000_0000_0000_0000),
    ("Lint0Pass", 0x1, 2, 0x4000_0000_0000_0000),
    ("Lint1Pass", 0x1, 2, 0x8000_0000_0000_0000),
    ("vImuEn", 0x1, 3, 0x8000),
    ("GDeviceID", 0xFFFF, 3, 0xFFFF_0000),
    ("GuestID", 0xFFFF, 3, 0xFFFF_0000_0000),
    ("AttrV", 0x1, 3, 0x0040_0000_0000_0000),
    ("Mode0FC", 0x1, 3, 0x0080_0000_0000_0000),
    ("SnoopAttribute", 0xFF, 3, 0xFF00_0000_0000_0000),
]


@pytest.mark.parametrize(("name", "value", "word", "bits"), DTE_FIELDS)
def test_a_field_of_the_device_table_entry_stands_where_2_2_2_1_has_it(
    name: str, value: int, word: int, bits: int
) -> None:
    unit = Unit()
    unit.set(**{name: value})
    address = unit.tables.entry_address(RID)
    assert [unit.memory.read_u64(address + 8 * number) for number in range(4)] == [
        bits if number == word else 0 for number in range(4)
    ]


def test_every_field_of_the_device_table_entry_is_among_them() -> None:
    reserved = {"RSVD_2", "RSVD_63", "RSVD_180", "RSVD_192", "RSVD_240"}
    assert {entry.name for entry in DTE.fields} == {name for name, *_ in DTE_FIELDS} | reserved


def test_host_tables_are_built_as_2_2_3_has_them() -> None:
    unit = Unit()
    unit.map()
    # Four pages of device table, and four tables behind them. IOVA has the indexes 0, 1, 1, 1.
    assert written(unit) == {
        0x10_2500: 0x6000_0000_0010_4803,
        0x10_2508: DOMAIN,
        0x10_4000: 0x6000_0000_0010_5601,
        0x10_5008: 0x6000_0000_0010_6401,
        0x10_6008: 0x6000_0000_0010_7201,
        0x10_7008: 0x6000_0000_8000_0001,
    }


def test_guest_tables_are_built_as_2_2_6_has_them() -> None:
    unit, _ = guest_unit()
    # The GCR3 table is at 0x104000: bits 14:12 are 4, bits 30:15 are 0x20.
    assert written(unit) == {
        0x10_2500: 0x7080_0000_0000_0003,
        0x10_2508: 0x0020_0000 | DOMAIN,
        0x10_4028: 0x10_5001,
        0x10_5000: 0x10_6027,
        0x10_6008: 0x10_7027,
        0x10_7008: 0x10_8027,
        0x10_8008: 0x8000_0000_8000_0067,
    }


def test_interrupt_entries_are_built_as_2_2_5_has_them() -> None:
    unit = Unit()
    narrow = unit.tables.attach_interrupts(RID)
    fields = {"IntType": 1, "RqEoi": 1, "DM": 1, "Vector": 0x41}
    narrow.set(5, {**fields, "SupIOPF": 1, "Destination": 0x23})
    assert unit.memory.read(narrow.root + 20, 4) == bytes.fromhex("67 23 41 00")
    wide = unit.tables.attach_interrupts(RID, wide=True)
    wide.set(5, {**fields, "Destination": 0x23_4567, "DestinationHi": 0x89})
    assert unit.memory.read_u64(wide.root + 80) == 0x2345_6765
    assert unit.memory.read_u64(wide.root + 88) == 0x8900_0000_0000_0041
    guest = {"GuestMode": 1, "GALogIntr": 1, "IsRun": 1, "GATag": 0xAABB_CCDD, "Vector": 0x7A}
    root = {"GuestVirtualAPICTableRoot": 0x12_3456_789A, "Destination": 0x23_4567, "DestinationHi": 0x89}
    wide.set(5, {**guest, **root})
    assert unit.memory.read_u64(wide.root + 80) == 0xAABB_CCDD_2345_67C5
    assert unit.memory.read_u64(wide.root + 88) == 0x8901_2345_6789_A07A


def test_the_fields_of_the_remaining_registers_stand_where_3_4_has_them() -> None:
    status = ("EventOverflow", "EventLogInt", "ComWaitInt", "EventLogRun", "CmdBufRun", "PprOverflow", "PprInt")
    assert [STATUS[name].low for name in status] == list(range(7))
    assert DEVICE_TABLE_BASE.encode({"Size": 0x1FF, "DevTabBase": 0xF_FFFF_FFFF_F000}) == 0xF_FFFF_FFFF_F1FF
    assert BUFFER_BASE.encode({"Base": 0xF_FFFF_FFFF_F000, "Len": 0xF}) == 0x0F0F_FFFF_FFFF_F000
    assert EXCLUSION_BASE.encode({"ExEn": 1, "Allow": 1, "Base": 0xF_FFFF_FFFF_F000}) == 0xF_FFFF_FFFF_F003
    interrupt = {"DM": 1, "Destination": 0x23_4567, "Vector": 0x41, "DestinationHi": 0x89}
    assert XT_INTERRUPT.encode(interrupt) == 0x8900_0041_2345_6704
