"""One table of each kind with every structure in it, and ways to break them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from pci_trees import bridge, conventional, endpoint, port

from harness.model.firmware.acpi import HARNESS_HEADER
from harness.model.firmware.dmar import Dmar
from harness.model.firmware.dmar_structures import (
    Andd,
    Atsr,
    DeviceScope,
    Drhd,
    Rhsa,
    Rmrr,
    Satc,
    ScopeType,
    Sidp,
    UnknownStructure,
)
from harness.model.firmware.iort import Iort
from harness.model.firmware.iort_nodes import (
    IdMapping,
    ItsGroup,
    MemoryRange,
    NamedComponent,
    OtherNode,
    Pmcg,
    ReservedMemoryRange,
    RootComplex,
    SmmuV3,
)
from harness.model.firmware.ivhd_entries import (
    AcpiDeviceEntry,
    AliasEntry,
    DeviceEntry,
    EntryType,
    ExtendedEntry,
    SpecialEntry,
    UnknownEntry,
    Variety,
)
from harness.model.firmware.ivrs import Ivhd, Ivmd, Ivrs, UnknownBlock
from harness.model.firmware.rimt import (
    IdMapping as RimtMapping,
)
from harness.model.firmware.rimt import (
    InterruptWire,
    Rimt,
    RimtIommu,
    RimtPcieRootComplex,
    RimtPlatformDevice,
)
from harness.model.firmware.rimt import (
    UnknownNode as UnknownRimtNode,
)
from harness.model.firmware.table import FirmwareTable
from harness.model.firmware.viot import MmioEndpoint, PciRange, UnknownNode, Viot, VirtioIommuMmio, VirtioIommuPci
from harness.model.pci.functions import PortType
from harness.model.pci.tree import PciTree, RootBus

__all__ = ["SAMPLES", "TREE", "damaged", "with_checksum"]

TREE = PciTree(
    [RootBus(0, last=0x7F), RootBus(0x80)],
    [
        endpoint("00:02.0"),
        port("00:1c.0", 1, 3),
        bridge("01:00.0", 2, 3, type=PortType.PCIE_TO_PCI_BRIDGE),
        conventional("02:05.0"),
        bridge("02:06.0", 3),
        conventional("03:01.0"),
        port("80:00.0", 0x81),
        endpoint("81:00.0"),
    ],
)
"""Two root buses; below a root port a PCIe-to-PCI bridge with another bridge below it."""

_SCOPES = (
    DeviceScope.of(ScopeType.PCI_ENDPOINT_DEVICE, 0, (2, 0)),
    DeviceScope.of(ScopeType.PCI_SUB_HIERARCHY, 0, (0x1C, 0), (0, 0)),
    DeviceScope.of(ScopeType.IOAPIC, 0xFF, (0, 0), enumeration_id=4),
    DeviceScope.of(ScopeType.ACPI_NAMESPACE_DEVICE, 0, (0x15, 1), enumeration_id=9),
    DeviceScope(type=77, flags=1, reserved=2),
)

DMAR = Dmar(
    host_address_width=45,
    flags=5,
    structures=(
        Drhd(size=1, register_base_address=0xFED9_1000, device_scopes=_SCOPES),
        Rmrr(
            reserved_memory_region_base_address=0x7000_0000,
            reserved_memory_region_limit_address=0x7000_FFFF,
            device_scopes=_SCOPES[:1],
        ),
        Atsr(flags=1),
        Rhsa(register_base_address=0xFED9_1000, proximity_domain=3),
        Andd(acpi_device_number=9, acpi_object_name="\\_SB.PCI0.UART"),
        Satc(flags=1, device_scopes=_SCOPES[:1]),
        Sidp(device_scopes=(replace(_SCOPES[0], flags=3),)),
        UnknownStructure(type=200, data=b"later"),
        Drhd(flags=1, register_base_address=0xFED9_0000),
    ),
)

_ENTRIES = (
    DeviceEntry(type=EntryType.PAD_4),
    DeviceEntry(type=EntryType.SELECT, device_id=0x0010, dte_setting=0xC0),
    DeviceEntry(type=EntryType.START_OF_RANGE, device_id=0x0100),
    DeviceEntry(type=EntryType.END_OF_RANGE, device_id=0x01FF),
    AliasEntry(type=EntryType.ALIAS_START_OF_RANGE, device_id=0x0200, source_device_id=0x0200),
    DeviceEntry(type=EntryType.END_OF_RANGE, device_id=0x03FF),
    AliasEntry(type=EntryType.ALIAS_SELECT, device_id=0x0400, source_device_id=0x0010),
    ExtendedEntry(type=EntryType.EXTENDED_SELECT, device_id=0x0500, extended_dte_setting=1 << 31),
    SpecialEntry(handle=2, source_device_id=0x00A0, variety=Variety.IOAPIC),
    UnknownEntry(type=65, data=bytes(7)),
    UnknownEntry(type=130, data=bytes(15)),
    UnknownEntry(type=200, data=bytes(31)),
)
IVRS = Ivrs(
    iv_info=0x0020_3043,
    blocks=(
        Ivhd(type=0x10, device_id=0x0002, iommu_base_address=0xFED8_0000, entries=_ENTRIES),
        Ivhd(
            type=0x40,
            device_id=0x0002,
            iommu_base_address=0xFED8_0000,
            efr_register_image=7,
            efr_register_image_2=8,
            entries=(
                *_ENTRIES,
                AcpiDeviceEntry(device_id=0xA5, hardware_id=b"AMDI0020", unique_id_format=2, unique_id=b"UART"),
            ),
        ),
        Ivmd(type=0x21, device_id=0x0010, flags=7, start_address=0x5000_0000, memory_block_length=0x1000),
        UnknownBlock(type=0x77, flags=1, data=b"later"),
    ),
)

VIOT = Viot(
    nodes=(
        VirtioIommuPci(pci_bdf=0x0010),
        PciRange(endpoint_start=0x100, pci_bdf_start=0x0000, pci_bdf_end=0x7FFF, output_node=0),
        MmioEndpoint(endpoint=0x20000, base_address=0x0A00_0000, output_node=4),
        UnknownNode(type=9, data=b"later"),
        VirtioIommuMmio(base_address=0x0A00_3000),
    )
)

IORT = Iort(
    nodes=(
        ItsGroup(its_identifiers=(0, 1), identifier=1),
        SmmuV3(
            revision=4,
            base_address=0x0905_0000,
            mappings=(
                IdMapping(number_of_ids=0xFFFF, output_base=0x1_0000, output_reference=0),
                IdMapping(output_base=0x99, output_reference=0, flags=1),
            ),
            device_id_mapping_index=1,
        ),
        RootComplex(
            revision=3,
            memory_address_size_limit=64,
            rest=b"\1\0\0\0",
            mappings=(
                IdMapping(number_of_ids=0x7FFF, output_base=0x2_0000, output_reference=1),
                IdMapping(input_base=0x8000, number_of_ids=0x7FFF, output_base=0x8000, output_reference=0),
            ),
        ),
        NamedComponent(
            device_object_name="\\_SB.DMA0", mappings=(IdMapping(output_base=5, output_reference=1, flags=1),)
        ),
        Pmcg(page_0_base_address=0x1000, node_reference=1, mappings=(IdMapping(output_reference=0, flags=1),)),
        ReservedMemoryRange(
            revision=3,
            memory_ranges=(MemoryRange(physical_range_offset=0x6000_0000, physical_range_length=0x1_0000),),
            mappings=(IdMapping(output_base=0x2_0010, output_reference=1),),
        ),
        OtherNode(type=3, rest=bytes(60)),
    ),
    header=replace(HARNESS_HEADER, revision=6),
)

RIMT = Rimt(
    nodes=(
        RimtIommu(
            hardware_id=b"RSCV0004",
            base_address=0x0301_0000,
            interrupt_wires=(InterruptWire(interrupt_number=36, flags=3), InterruptWire(interrupt_number=37)),
        ),
        RimtIommu(hardware_id=b"00101014", flags=1, pcie_bdf=0x8000, id=1),
        RimtPcieRootComplex(
            id=2,
            flags=3,
            id_mappings=(
                RimtMapping(number_of_ids=0x8000, destination_device_id_base=0x10000, destination_iommu=0),
                RimtMapping(source_id_base=0x8000, number_of_ids=0x8000, destination_iommu=1),
            ),
        ),
        RimtPlatformDevice(
            id=3, device_object_name="\\_SB.DMA", id_mappings=(RimtMapping(number_of_ids=1, destination_iommu=0),)
        ),
        UnknownRimtNode(type=9, revision=2, id=4, data=b"later"),
    )
)

SAMPLES: dict[str, FirmwareTable] = {"DMAR": DMAR, "IVRS": IVRS, "VIOT": VIOT, "IORT": IORT, "RIMT": RIMT}


def with_checksum(data: bytes) -> bytes:
    """The bytes with a length and checksum that fit them."""
    table = bytearray(data)
    if len(table) >= 10:
        table[4:8] = len(table).to_bytes(4, "little")
        table[9] = 0
        table[9] = -sum(table) & 0xFF
    return bytes(table)


@st.composite
def damaged(draw: st.DrawFn, signature: str) -> bytes:
    """The sample of that table, with bits flipped, numbers replaced, cut short; length and checksum right again."""
    data = bytearray(SAMPLES[signature].encode())
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(36, len(data) - 1))
        data[place] = draw(
            st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 0xFF, data[place] ^ 1, data[place] ^ 0x80]))
        )
    if draw(st.booleans()):
        data = data[: draw(st.integers(10, len(data)))]
    return with_checksum(bytes(data))
