"""Which MMIO registers an AMD IOMMU has, and which of their bits software may rely on (AMD-Vi 3.4).

A bit is settled where the specification says what it reads as: what software last wrote, or what hardware keeps there.
Reserved bits are not, and neither are those of features that the extended feature register lacks, nor the control bits
CRW, SlfWBdis and PrivAbrtEn, of which the specification's text was not at hand. Registers that are not in the map
(performance counters, SMI filters, memory access routing, guest virtual APIC logs) read as anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.model.amdvi.register_fields import (
    BUFFER_BASE,
    BUFFER_POINTER,
    CONTROL,
    DEVICE_TABLE_BASE,
    EXCLUSION_BASE,
    EXCLUSION_LIMIT,
    EXTENDED_FEATURE,
    EXTENDED_FEATURE_2,
    STATUS,
    XT_INTERRUPT,
)
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.bits import Layout

__all__ = ["MmioRegister", "register_map", "segment_key"]

_CONTROL_OF_ALL = (
    *("IommuEn", "EventLogEn", "EventIntEn", "ComWaitIntEn", "InvTimeOut", "PassPW", "ResPassPW", "Coherent", "Isoc"),
    "CmdBufEn",
)
# Of each feature the fields of the control register that are there with it.
_CONTROL_OF_FEATURE = {
    "PPRSup": ("PPRLogEn", "PPRIntEn", "PPREn"),
    "GTSup": ("GTEn",),
    "GASup": ("GAEn",),
    "SmiFSup": ("SmiFEn", "SmiFLogEn"),
    "GAMSup": ("GAMEn", "GALogEn", "GAIntEn"),
    "DualPprLogSup": ("DualPprLogEn",),
    "DualEventLogSup": ("DualEventLogEn",),
    "DevTblSegSup": ("DevTblSegEn",),
    "PprAutoRspSup": ("PprAutoRspEn", "PprAutoRspAon"),
    "MarcSup": ("MarcEn",),
    "BlkStopMrkSup": ("BlkStopMrkEn",),
    "EPHSup": ("EPHEn",),
    "HASup": ("HADUpdate",),
    "XTSup": ("XTEn", "IntCapXTEn"),
    "GAUpdateDisSup": ("GAUpdateDis",),
}
_WRITE_ONE_CLEARS = ("EventOverflow", "EventLogInt", "ComWaitInt")
_KEPT_BY_HARDWARE = ("EventLogRun", "CmdBufRun")
_MSI_HEADER_WRITABLE = 0x0071_0000  # MsiEn and MsiMultMessEn
_MSI_ADDRESS_WRITABLE = 0xFFFF_FFFC
_MSI_DATA_WRITABLE = 0xFFFF
_ALL_OF_32 = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class MmioRegister:
    """One register.

    Attributes:
        key: its attribute of `AmdviRegisters`, or a name of its own where that has none.
        name: as coverage and places have it.
        offset: of its first byte.
        size: 4 or 8 bytes.
        layout: its fields; None where it has none.
        writable: bits that software writes and reads back.
        clears: bits that writing a 1 clears.
        fixed: bits that only hardware changes.
    """

    key: str
    name: str
    offset: int
    size: int
    layout: Layout | None
    writable: int = 0
    clears: int = 0
    fixed: int = 0

    @property
    def settled(self) -> int:
        """Bits of which the specification says what they read as."""
        return self.writable | self.clears | self.fixed


def segment_key(number: int) -> str:
    """The key of the base register of a device table segment, 1 to 7."""
    return f"device_table_segment_{number}"


def register_map(registers: AmdviRegisters) -> tuple[MmioRegister, ...]:
    """The registers of an IOMMU with these features, in ascending order."""

    def plain(
        key: str, name: str, offset: int, layout: Layout, feature: str | None = None, *, fixed: bool = False
    ) -> MmioRegister:
        """One of 8 bytes of which all fields are alike."""
        bits = _named(layout) if feature is None or registers.feature(feature) else 0
        if fixed:
            return MmioRegister(key, name, offset, 8, layout, fixed=bits)
        return MmioRegister(key, name, offset, 8, layout, writable=bits)

    def msi(key: str, name: str, offset: int, writable: int) -> MmioRegister:
        """One that shows the MSI capability of the PCI function."""
        there = registers.feature("MsiCapMmioSup")
        return MmioRegister(key, name, offset, 4, None, writable=writable if there else 0)

    # DevTblSegSup: 2, 4 or 8 segments, of which the first one has the device table base register.
    segments = (1 << registers.feature("DevTblSegSup")) - 1
    status = STATUS
    return (
        plain("device_table_base", "DeviceTableBase", 0x0000, DEVICE_TABLE_BASE),
        plain("command_buffer_base", "CommandBufferBase", 0x0008, BUFFER_BASE),
        plain("event_log_base", "EventLogBase", 0x0010, BUFFER_BASE),
        MmioRegister("control", "Control", 0x0018, 8, CONTROL, writable=_control(registers)),
        plain("exclusion_base", "ExclusionBase", 0x0020, EXCLUSION_BASE),
        plain("exclusion_limit", "ExclusionLimit", 0x0028, EXCLUSION_LIMIT),
        plain("extended_feature", "ExtendedFeature", 0x0030, EXTENDED_FEATURE, fixed=True),
        plain("ppr_log_base", "PprLogBase", 0x0038, BUFFER_BASE, "PPRSup"),
        *(
            MmioRegister(
                segment_key(number),
                "DeviceTableSegmentBase",
                0x00F8 + 8 * number,
                8,
                DEVICE_TABLE_BASE,
                writable=_named(DEVICE_TABLE_BASE) if number <= segments else 0,
            )
            for number in range(1, 8)
        ),
        msi("msi_header", "MsiCapabilityHeader", 0x0158, _MSI_HEADER_WRITABLE),
        msi("msi_address_low", "MsiAddressLow", 0x015C, _MSI_ADDRESS_WRITABLE),
        msi("msi_address_high", "MsiAddressHigh", 0x0160, _ALL_OF_32),
        msi("msi_data", "MsiData", 0x0164, _MSI_DATA_WRITABLE),
        plain("xt_interrupt", "XtGeneralInterruptControl", 0x0170, XT_INTERRUPT, "XTSup"),
        plain("extended_feature_2", "ExtendedFeature2", 0x01A0, EXTENDED_FEATURE_2, fixed=True),
        plain("command_buffer_head", "CommandBufferHead", 0x2000, BUFFER_POINTER),
        plain("command_buffer_tail", "CommandBufferTail", 0x2008, BUFFER_POINTER),
        plain("event_log_head", "EventLogHead", 0x2010, BUFFER_POINTER),
        plain("event_log_tail", "EventLogTail", 0x2018, BUFFER_POINTER),
        MmioRegister(
            "status",
            "Status",
            0x2020,
            8,
            status,
            clears=_mask(status, _WRITE_ONE_CLEARS),
            fixed=_mask(status, _KEPT_BY_HARDWARE),
        ),
        plain("ppr_log_head", "PprLogHead", 0x2030, BUFFER_POINTER, "PPRSup"),
        plain("ppr_log_tail", "PprLogTail", 0x2038, BUFFER_POINTER, "PPRSup"),
    )


def _control(registers: AmdviRegisters) -> int:
    """The bits of the control register that are there."""
    mask = _mask(CONTROL, _CONTROL_OF_ALL)
    for feature, names in _CONTROL_OF_FEATURE.items():
        if registers.feature(feature):
            mask |= _mask(CONTROL, names)
    if registers.capability("HtTunnel"):
        mask |= CONTROL["HtTunEn"].mask
    if EXTENDED_FEATURE_2["NumIntRemapSup"].get(registers.extended_feature_2):
        mask |= CONTROL["NumIntRemapMode"].mask
    return mask


def _mask(layout: Layout, names: Iterable[str]) -> int:
    return sum(layout[name].mask for name in names)


def _named(layout: Layout) -> int:
    """The bits of every field that is not reserved."""
    return sum(entry.mask for entry in layout.fields) & ~layout.reserved
