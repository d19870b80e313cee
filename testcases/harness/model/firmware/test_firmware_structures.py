"""Every structure of the five tables that no table by hand has in it, beside bytes written by hand."""

from __future__ import annotations

import pytest
from firmware_samples import with_checksum

from harness.model.firmware.dmar import Dmar
from harness.model.firmware.dmar_structures import (
    Andd,
    Atsr,
    DeviceScope,
    DmarStructure,
    Rhsa,
    Rmrr,
    Satc,
    ScopeType,
    Sidp,
)
from harness.model.firmware.iort import Iort
from harness.model.firmware.iort_nodes import (
    IdMapping,
    IortNode,
    ItsGroup,
    MemoryRange,
    NamedComponent,
    Pmcg,
    ReservedMemoryRange,
)
from harness.model.firmware.ivhd_entries import AcpiDeviceEntry, AliasEntry, EntryType, ExtendedEntry, IvhdEntry
from harness.model.firmware.ivrs import Ivhd, Ivmd, Ivrs
from harness.model.firmware.rimt import IdMapping as RimtMapping
from harness.model.firmware.rimt import InterruptWire, Rimt, RimtIommu, RimtNode, RimtPlatformDevice
from harness.model.firmware.viot import MmioEndpoint, Viot, VirtioIommuMmio

HEAD = b"\1\0" + b"HARNES" + b"VIOMMU  " + b"\1\0\0\0" + b"VIOM" + b"\1\0\0\0"
"""Revision, checksum and the rest of the header that a built table has."""


def table(signature: str, body: str) -> bytes:
    return with_checksum(signature.encode() + bytes(4) + HEAD + bytes.fromhex(body))


NAME = "5c5f53422e4100"  # \_SB.A
SCOPES = (DeviceScope.of(ScopeType.PCI_SUB_HIERARCHY, 0x80, (0x1C, 3)),)
SCOPE = "02 08 00 00 00 80 1c 03"  # type, length, flags, reserved, enumeration id, start bus, path


@pytest.mark.parametrize(
    ("structure", "body"),
    [
        (  # 8.4: reserved, segment, base, limit
            Rmrr(
                segment_number=1,
                reserved_memory_region_base_address=0x7000_0000,
                reserved_memory_region_limit_address=0x7000_FFFF,
                device_scopes=SCOPES,
            ),
            f"0100 2000 0000 0100 0000007000000000 ffff007000000000 {SCOPE}",
        ),
        # 8.5: flags, reserved, segment
        (Atsr(flags=1, segment_number=1, device_scopes=SCOPES), f"0200 1000 01 00 0100 {SCOPE}"),
        # 8.6: reserved, register base address, proximity domain
        (Rhsa(register_base_address=0xFED9_1000, proximity_domain=3), "0300 1400 00000000 0010d9fe00000000 03000000"),
        # 8.7: reserved, device number, name
        (Andd(acpi_device_number=9, acpi_object_name="\\_SB.A"), f"0400 0f00 000000 09 {NAME}"),
        # 8.8: flags, reserved, segment
        (Satc(flags=1, segment_number=1, device_scopes=SCOPES), f"0500 1000 01 00 0100 {SCOPE}"),
        # 8.9: reserved, segment
        (Sidp(segment_number=1, device_scopes=SCOPES), f"0600 1000 0000 0100 {SCOPE}"),
    ],
)
def test_a_remapping_structure_of_a_dmar(structure: DmarStructure, body: str) -> None:
    data = table("DMAR", "26 00 00000000000000000000" + body)
    built = Dmar(host_address_width=38, structures=(structure,))
    assert built.encode() == data
    assert Dmar.parse(data) == built


@pytest.mark.parametrize(
    ("entry", "body"),
    [
        # type, device id, setting, reserved, source device id, reserved
        (
            AliasEntry(type=EntryType.ALIAS_SELECT, device_id=0x0102, dte_setting=3, source_device_id=0x0405),
            "42 0201 03 00 0504 00",
        ),
        (
            AliasEntry(type=EntryType.ALIAS_START_OF_RANGE, device_id=0x0102, source_device_id=0x0405),
            "43 0201 00 00 0504 00",
        ),
        # type, device id, setting, extended setting
        (
            ExtendedEntry(type=EntryType.EXTENDED_SELECT, device_id=0x0102, extended_dte_setting=0x8000_0001),
            "46 0201 00 01000080",
        ),
        (ExtendedEntry(type=EntryType.EXTENDED_START_OF_RANGE, device_id=0x0102), "47 0201 00 00000000"),
        # type, device id, setting, hardware id, compatible id or extended setting, format, length, unique id
        (
            AcpiDeviceEntry(device_id=0xA5, hardware_id=b"AMDI0020", unique_id_format=2, unique_id=b"UA"),
            "f0 a500 00 414d444930303230 0000000000000000 02 02 5541",
        ),
    ],
)
def test_a_device_entry_of_an_ivhd(entry: IvhdEntry, body: str) -> None:
    # type 40h, flags, length, device id, capability offset, base address, segment, info, attributes, two images
    length = 0x28 + len(bytes.fromhex(body))
    block = f"40 00 {length:02x}00 0200 4000 0000d8fe00000000 0100 0000 00000000 {'00' * 16}"
    data = table("IVRS", f"00000000 0000000000000000 {block} {body}")
    one = Ivhd(
        type=0x40,
        device_id=2,
        capability_offset=0x40,
        iommu_base_address=0xFED8_0000,
        pci_segment_group=1,
        entries=(entry,),
    )
    assert Ivrs(blocks=(one,)).encode() == data
    assert Ivrs.parse(data) == Ivrs(blocks=(one,))


def test_a_memory_definition_of_an_ivrs() -> None:
    # type, flags, length, device id, auxiliary data, segment, reserved, start address, length
    body = "22 07 2000 1000 1700 0100 000000000000 0000005000000000 0010000000000000"
    data = table("IVRS", f"00000000 0000000000000000 {body}")
    one = Ivmd(
        type=0x22,
        flags=7,
        device_id=0x10,
        auxiliary_data=0x17,
        pci_segment_group=1,
        start_address=0x5000_0000,
        memory_block_length=0x1000,
    )
    assert Ivrs(blocks=(one,)).encode() == data
    assert Ivrs.parse(data) == Ivrs(blocks=(one,))


MAPPING = "00000000 00000000 05000000 30000000 01000000"
"""Input base, number of ids, output base, reference to the first node, flags."""
MAPPINGS = (IdMapping(output_base=5, output_reference=0, flags=1),)


@pytest.mark.parametrize(
    ("node", "body"),
    [
        # Each: type, length, revision, identifier, number of mappings, reference to them.
        (  # node flags, memory access properties, address size limit, name
            NamedComponent(
                revision=4,
                identifier=7,
                node_flags=1,
                memory_access_properties=0x0300_0000_0000_0001,
                device_memory_address_size_limit=0x30,
                device_object_name="\\_SB.A",
                mappings=MAPPINGS,
            ),
            f"01 3800 04 07000000 01000000 24000000 01000000 0100000000000003 30 {NAME} {MAPPING}",
        ),
        (  # page 0, overflow interrupt, node that it counts for, page 1
            Pmcg(page_0_base_address=0x1000, overflow_interrupt_gsiv=9, page_1_base_address=0x2000, node_reference=0),
            "05 2800 00 00000000 00000000 00000000 0010000000000000 09000000 30000000 0020000000000000",
        ),
        (  # flags, number of ranges, reference to them; base, length, reserved
            ReservedMemoryRange(
                revision=3,
                flags=2,
                memory_ranges=(MemoryRange(physical_range_offset=0x6000_0000, physical_range_length=0x1_0000),),
                mappings=MAPPINGS,
            ),
            "06 4400 03 00000000 01000000 30000000 02000000 01000000 1c000000"
            f"0000006000000000 0000010000000000 00000000 {MAPPING}",
        ),
        (  # the same with something of a later revision before the ranges
            ReservedMemoryRange(memory_ranges=(MemoryRange(physical_range_offset=0x1000),), rest=b"\1\2\3\4"),
            "06 3400 00 00000000 00000000 00000000 00000000 01000000 20000000 01020304"
            "0010000000000000 0000000000000000 00000000",
        ),
    ],
)
def test_a_node_of_an_iort(node: IortNode, body: str) -> None:
    its = "00 1800 00 00000000 00000000 00000000 01000000 00000000"
    data = table("IORT", f"02000000 30000000 00000000 {its} {body}")
    built = Iort(nodes=(ItsGroup(its_identifiers=(0,)), node))
    assert built.encode() == data
    assert Iort.parse(data) == built


def test_the_mmio_nodes_of_a_viot() -> None:
    # type, reserved, length; reserved, base address. The same; endpoint, base address, output node, reserved.
    unit = "04 00 1000 00000000 0030000a00000000"
    endpoint = "02 00 1800 00000200 0000000a00000000 3000 000000000000"
    data = table("VIOT", f"0200 3000 0000000000000000 {unit} {endpoint}")
    nodes = (VirtioIommuMmio(base_address=0x0A00_3000), MmioEndpoint(endpoint=0x2_0000, base_address=0x0A00_0000))
    assert Viot(nodes=nodes).encode() == data
    assert Viot.parse(data) == Viot(nodes=nodes)


def test_wires_and_platform_devices_of_a_rimt() -> None:
    # type, revision, length, reserved, id; hardware id, base address, flags, proximity, segment, BDF, wires, offset
    unit = "00 01 3000 0000 0000 5253435630303034 0000010300000000 00000000 00000000 0000 0000 0100 2800"
    wire = "24000000 03000000"  # number, flags
    # offset of the mappings, how many, name (padded); source base, number, destination base, unit, flags
    device = f"02 01 2800 0000 0300 1400 0100 {NAME} 00 01000000 02000000 03000000 30000000 00000000"
    data = table("RIMT", f"02000000 30000000 00000000 {unit} {wire} {device}")
    wires = (InterruptWire(interrupt_number=36, flags=3),)
    mapping = RimtMapping(source_id_base=1, number_of_ids=2, destination_device_id_base=3)
    nodes: tuple[RimtNode, ...] = (
        RimtIommu(hardware_id=b"RSCV0004", base_address=0x0301_0000, interrupt_wires=wires),
        RimtPlatformDevice(id=3, device_object_name="\\_SB.A", id_mappings=(mapping,)),
    )
    assert Rimt(nodes=nodes).encode() == data
    assert Rimt.parse(data) == Rimt(nodes=nodes)
