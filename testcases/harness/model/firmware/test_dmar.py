"""DMAR (VT-d chapter 8): its bytes, and which unit stands before which function."""

from __future__ import annotations

from dataclasses import replace

import pytest
from firmware_samples import DMAR, TREE, with_checksum
from pci_trees import at, conventional, endpoint, port, tree

from harness.model.firmware.acpi import BadTable
from harness.model.firmware.dmar import Dmar
from harness.model.firmware.dmar_structures import (
    Atsr,
    DeviceScope,
    DmarStructure,
    Drhd,
    Rmrr,
    Satc,
    ScopeType,
    UnknownStructure,
)
from harness.model.pci.functions import PortType
from harness.model.pci.platform import ReservedRegion, UnitPlace
from harness.model.pci.tree import PciTree

ENDPOINT, SUB_HIERARCHY = ScopeType.PCI_ENDPOINT_DEVICE, ScopeType.PCI_SUB_HIERARCHY

# A table by hand: HAW 38 (39 bits), INTR_REMAP; one DRHD with INCLUDE_PCI_ALL at fed90000 and an I/O APIC scope.
BY_HAND = with_checksum(
    b"DMAR"
    + bytes(4)
    + b"\1\0"
    + b"OEMID_"
    + b"OEMTABLE"
    + b"\1\0\0\0"
    + b"CRTR"
    + b"\2\0\0\0"
    # host address width, flags, reserved
    + bytes.fromhex("26 01 00000000000000000000")
    # DRHD: type, length, flags, size, segment, register base address
    + bytes.fromhex("0000 1800 01 00 0000 0000d9fe00000000")
    # scope: type, length, flags, reserved, enumeration id, start bus, path
    + bytes.fromhex("03 08 00 00 02 f0 1f 07")
)


def units(table: Dmar, where: str, found: PciTree = TREE) -> list[int | None]:
    """Register base addresses of the units that stand before a function."""
    return [behind.unit.registers for behind in table.behind(found, found.function(at(where)))]


def drhd(base: int, *scopes: DeviceScope, include_all: bool = False, segment: int = 0) -> Drhd:
    return Drhd(flags=int(include_all), segment_number=segment, register_base_address=base, device_scopes=scopes)


def dmar(*structures: DmarStructure) -> Dmar:
    return Dmar(host_address_width=47, structures=structures)


def test_a_table_by_hand_is_read_field_by_field() -> None:
    table = Dmar.parse(BY_HAND)
    assert table.physical_address_bits == 39
    assert (table.interrupt_remapping, table.x2apic_opt_out, table.dma_ctrl_platform_opt_in) == (True, False, False)
    scope = DeviceScope(type=3, enumeration_id=2, start_bus_number=0xF0, path=((0x1F, 7),))
    assert table.structures == (Drhd(flags=1, register_base_address=0xFED9_0000, device_scopes=(scope,)),)
    assert table.drhds[0].include_pci_all
    assert table.sources(ScopeType.IOAPIC) == {2: (UnitPlace(registers=0xFED9_0000), 0xF0FF)}
    assert table.encode() == BY_HAND


@pytest.mark.parametrize(
    ("flags", "expected"), [(1, (True, False, False)), (2, (False, True, False)), (4, (False, False, True))]
)
def test_each_flag_has_its_bit(flags: int, expected: tuple[bool, bool, bool]) -> None:
    """8.1: bit 0 INTR_REMAP, bit 1 X2APIC_OPT_OUT, bit 2 DMA_CTRL_PLATFORM_OPT_IN_FLAG."""
    table = Dmar(host_address_width=38, flags=flags)
    assert (table.interrupt_remapping, table.x2apic_opt_out, table.dma_ctrl_platform_opt_in) == expected


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        ("0000 0000", "structure of 0 bytes"),
        ("0000 0300", "structure of 3 bytes"),
        ("0000 0800 00000000", "Drhd of 12 bytes"),
        ("0000 1000 00 00 0000", "structure of 16 bytes"),
        ("0000 1600 00 00 0000 0000d9fe00000000 01 05 00 00 00 00", "a device scope of 5 bytes"),
        ("0000 1700 00 00 0000 0000d9fe00000000 01 07 00 00 00 00 00", "a device scope of 7 bytes"),
        ("0000 1600 00 00 0000 0000d9fe00000000 01 08 00 00 00 00", "device scope of 8 bytes"),
        ("0000 1200 00 00 0000 0000d9fe00000000 01 00", "a device scope of 0 bytes"),
        ("0300 1800 00000000 0000d9fe00000000 00000000 00000000", "RHSA structure of 24 bytes"),
        ("0400 0a00 000000 01 4142", "no zero byte ends the name"),
        ("0400 0a00 000000 01 ff00", "not ASCII"),
    ],
)
def test_a_broken_structure_is_told(structure: str, words: str) -> None:
    with pytest.raises(BadTable, match=words) as caught:
        Dmar.parse(with_checksum(BY_HAND[:48] + bytes.fromhex(structure)))
    assert 48 <= caught.value.offset <= 48 + len(bytes.fromhex(structure))


def test_a_structure_of_a_later_type_is_passed_over() -> None:
    """8.2: types above are reserved, and software has to skip what it does not know."""
    table = Dmar.parse(with_checksum(BY_HAND + bytes.fromhex("0700 0600 aabb")))
    assert table.structures[-1] == UnknownStructure(type=7, data=b"\xaa\xbb")
    assert units(table, "00:02.0") == [0xFED9_0000]


# Who is behind which unit (8.3, 8.3.1).


def test_include_pci_all_takes_all_that_no_other_unit_of_its_segment_names() -> None:
    table = dmar(
        drhd(1, DeviceScope.of(ENDPOINT, 0, (2, 0))),
        drhd(2, include_all=True),
        drhd(3, DeviceScope.of(ENDPOINT, 0, (0x1C, 0)), segment=1),
    )
    assert units(table, "00:02.0") == [1]
    assert units(table, "00:1c.0") == [2]
    assert units(table, "81:00.0") == [2]
    assert units(dmar(drhd(2, include_all=True, segment=1)), "00:02.0") == []


def test_an_endpoint_scope_names_the_function_that_its_path_leads_to() -> None:
    table = dmar(drhd(1, DeviceScope.of(ENDPOINT, 0, (0x1C, 0), (0, 0), (5, 0))))
    assert [str(f.address) for f in TREE if table.behind(TREE, f)] == ["0000:02:05.0"]


def test_a_sub_hierarchy_scope_names_a_bridge_and_all_that_is_below_it() -> None:
    table = dmar(drhd(1, DeviceScope.of(SUB_HIERARCHY, 0, (0x1C, 0), (0, 0))))
    named = [str(function.address)[5:] for function in TREE if table.behind(TREE, function)]
    assert named == ["01:00.0", "02:05.0", "02:06.0", "03:01.0"]


def test_an_endpoint_scope_that_leads_to_a_bridge_names_nothing_below_it() -> None:
    table = dmar(drhd(1, DeviceScope.of(ENDPOINT, 0x80, (0, 0))))
    assert units(table, "80:00.0") == [1]
    assert units(table, "81:00.0") == []


def test_the_nearest_scope_decides_in_whatever_order_they_stand() -> None:
    port_scope = drhd(1, DeviceScope.of(SUB_HIERARCHY, 0, (0x1C, 0)))
    function_scope = drhd(2, DeviceScope.of(ENDPOINT, 0, (0x1C, 0), (0, 0), (5, 0)))
    for table in (dmar(port_scope, function_scope), dmar(function_scope, port_scope)):
        assert units(table, "02:05.0") == [2]
        assert units(table, "03:01.0") == [1]


def test_two_units_that_name_one_function_are_both_told() -> None:
    scope = DeviceScope.of(ENDPOINT, 0, (2, 0))
    assert units(dmar(drhd(1, scope), drhd(2, scope)), "00:02.0") == [1, 2]
    assert units(dmar(drhd(1, scope, scope)), "00:02.0") == [1]


@pytest.mark.parametrize(
    "scope",
    [
        DeviceScope.of(ENDPOINT, 2, (5, 0)),  # no bus of a host bridge
        DeviceScope.of(ENDPOINT, 0, (2, 1)),  # no such function
        DeviceScope.of(ENDPOINT, 0),  # no path
        DeviceScope.of(ScopeType.IOAPIC, 0, (2, 0)),
        DeviceScope.of(ScopeType.MSI_CAPABLE_HPET, 0, (2, 0)),
        DeviceScope(type=6, path=((2, 0),)),
    ],
)
def test_a_scope_of_another_kind_or_to_nowhere_names_no_function(scope: DeviceScope) -> None:
    assert not any(dmar(drhd(1, scope)).behind(TREE, function) for function in TREE)


def test_a_virtual_function_is_where_its_physical_function_is() -> None:
    virtual = replace(endpoint("00:02.1"), physical=at("00:02.0"))
    found = tree(endpoint("00:02.0"), virtual)
    table = dmar(drhd(1, DeviceScope.of(ENDPOINT, 0, (2, 0))), drhd(2, include_all=True))
    assert units(table, "00:02.1", found) == [1]


def test_source_ids_are_those_that_reach_the_root_complex() -> None:
    (behind,) = dmar(drhd(1, include_all=True)).behind(TREE, TREE.function(at("02:05.0")))
    assert behind.ids == {0x0228, 0x0200}


# The rest of the table.


def test_a_reserved_region_is_for_the_functions_of_its_scopes() -> None:
    """8.4; the limit is the last byte."""
    region = Rmrr(
        reserved_memory_region_base_address=0x7000_0000,
        reserved_memory_region_limit_address=0x7000_FFFF,
        device_scopes=(DeviceScope.of(ENDPOINT, 0, (2, 0)),),
    )
    expected = ReservedRegion(function=at("00:02.0"), base=0x7000_0000, last=0x7000_FFFF)
    assert dmar(region).reserved(TREE) == {expected}
    assert dmar(replace(region, segment_number=1)).reserved(TREE) == set()


def test_a_name_space_device_is_found_by_its_name() -> None:
    """8.7: the ACPI device number of the declaration is the enumeration id of a scope."""
    assert DMAR.namespace_devices() == {"\\_SB.PCI0.UART": (UnitPlace(registers=0xFED9_1000), 0x00A9)}


def test_affinity_is_by_the_unit_s_registers() -> None:
    """8.6."""
    assert DMAR.proximity_domain(UnitPlace(registers=0xFED9_1000)) == 3
    assert DMAR.proximity_domain(UnitPlace(registers=0xFED9_0000)) is None


def test_ats_is_for_what_is_below_a_listed_root_port() -> None:
    """8.5."""
    found = tree(port("00:01.0", 1), port("00:02.0", 2), endpoint("01:00.0"), endpoint("02:00.0"), endpoint("00:03.0"))
    table = dmar(Atsr(device_scopes=(DeviceScope.of(SUB_HIERARCHY, 0, (1, 0)),)))
    allowed = [str(function.address)[5:] for function in found if table.may_use_ats(found, function)]
    assert allowed == ["00:01.0", "00:02.0", "00:03.0", "01:00.0"]
    assert dmar(Atsr(flags=1)).may_use_ats(found, found.function(at("02:00.0")))
    assert not dmar(Atsr(flags=1, segment_number=1)).may_use_ats(found, found.function(at("02:00.0")))


def test_satc_says_which_functions_need_ats() -> None:
    """8.8; only with ATC_REQUIRED."""
    listing = Satc(flags=1, device_scopes=(DeviceScope.of(ENDPOINT, 0, (2, 0)),))
    needing = [str(function.address)[5:] for function in TREE if dmar(listing).needs_ats(TREE, function)]
    assert needing == ["00:02.0"]
    assert not dmar(replace(listing, flags=0)).needs_ats(TREE, TREE.function(at("00:02.0")))


def test_there_is_no_ats_below_conventional_pci() -> None:
    assert not dmar(Atsr(flags=1)).may_use_ats(TREE, TREE.function(at("02:05.0")))
    below = tree(replace(port("00:01.0", 1), port_type=PortType.PCIE_TO_PCI_BRIDGE), conventional("01:00.0"))
    assert not dmar(Atsr(flags=1)).may_use_ats(below, below.function(at("01:00.0")))
