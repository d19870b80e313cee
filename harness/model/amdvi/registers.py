"""The AMD-Vi registers that matter to translation, commands and events (AMD-Vi 3.4, MMIO registers)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from harness.errors import SpecError
from harness.model.amdvi.register_fields import (
    CAPABILITY_HEADER,
    CONTROL,
    EXTENDED_FEATURE,
    EXTENDED_FEATURE_2,
    STATUS,
)

__all__ = ["AmdviRegisters", "extended_features"]

_SEGMENTS = 7
_POINTER = 0x7FFF0  # bits 18:4 of head and tail pointers
_MSI_ENABLE = 1 << 16
# Bits 1:0 of HATS and GATS count levels from 4 on; 11b of HATS says that there is no host translation.
_NO_HOST_TRANSLATION = 0b11

# Where each register stands, with its size in bytes.
_OFFSETS: Mapping[str, tuple[int, int]] = {
    "device_table_base": (0x0000, 8),
    "command_buffer_base": (0x0008, 8),
    "event_log_base": (0x0010, 8),
    "control": (0x0018, 8),
    "exclusion_base": (0x0020, 8),
    "exclusion_limit": (0x0028, 8),
    "extended_feature": (0x0030, 8),
    "msi_header": (0x0158, 4),
    "msi_address_low": (0x015C, 4),
    "msi_address_high": (0x0160, 4),
    "msi_data": (0x0164, 4),
    "xt_interrupt": (0x0170, 8),
    "extended_feature_2": (0x01A0, 8),
    "command_buffer_head": (0x2000, 8),
    "command_buffer_tail": (0x2008, 8),
    "event_log_head": (0x2010, 8),
    "event_log_tail": (0x2018, 8),
    "status": (0x2020, 8),
}
_SEGMENT_OFFSET = 0x0100


@dataclass(frozen=True, slots=True, kw_only=True)
class AmdviRegisters:
    """The registers of one IOMMU, as raw values; those left out are zero.

    Attributes:
        device_table_base: MMIO 0000h.
        device_table_segments: MMIO 0100h to 0130h: the bases of segments 1 to 7.
        command_buffer_base: MMIO 0008h.
        command_buffer_head: MMIO 2000h.
        command_buffer_tail: MMIO 2008h.
        event_log_base: MMIO 0010h.
        event_log_head: MMIO 2010h.
        event_log_tail: MMIO 2018h.
        control: MMIO 0018h.
        status: MMIO 2020h.
        exclusion_base: MMIO 0020h.
        exclusion_limit: MMIO 0028h.
        extended_feature: MMIO 0030h.
        extended_feature_2: MMIO 01A0h.
        msi_header: MMIO 0158h, the MSI capability header; 32 bits, as the three that follow.
        msi_address_low: MMIO 015Ch.
        msi_address_high: MMIO 0160h.
        msi_data: MMIO 0164h.
        xt_interrupt: MMIO 0170h.
        capability_header: of PCI configuration space, 32 bits; no MMIO register shows it.
        device_id: DeviceID of the IOMMU itself, under which it sends its own interrupts.

    Raises:
        SpecError: a value is wider than its register.
    """

    device_table_base: int
    extended_feature: int
    control: int
    device_table_segments: tuple[int, ...] = (0,) * _SEGMENTS
    command_buffer_base: int = 0
    command_buffer_head: int = 0
    command_buffer_tail: int = 0
    event_log_base: int = 0
    event_log_head: int = 0
    event_log_tail: int = 0
    status: int = 0
    exclusion_base: int = 0
    exclusion_limit: int = 0
    extended_feature_2: int = 0
    msi_header: int = 0
    msi_address_low: int = 0
    msi_address_high: int = 0
    msi_data: int = 0
    xt_interrupt: int = 0
    capability_header: int = CAPABILITY_HEADER.encode({"CapId": 0xF, "CapType": 3, "IotlbSup": 1, "EFRSup": 1})
    device_id: int = 0

    def __post_init__(self) -> None:
        values = [(name, getattr(self, name), 8 * size) for name, (_, size) in _OFFSETS.items()]
        values += [(f"segment {number}", value, 64) for number, value in enumerate(self.device_table_segments, 1)]
        values += [("capability_header", self.capability_header, 32), ("device_id", self.device_id, 16)]
        for name, value, width in values:
            if not 0 <= value < 1 << width:
                raise SpecError(f"{name}={value:#x} is not a value of {width} bits")
        if len(self.device_table_segments) != _SEGMENTS:
            raise SpecError(f"there are {_SEGMENTS} segment registers, not {len(self.device_table_segments)}")

    @classmethod
    def read(cls, read: Callable[[int, int], int], *, capability_header: int | None = None, device_id: int = 0) -> Self:
        """Every register of a live device.

        Args:
            read: gives the value at an MMIO offset, of that many bytes (4 or 8).
            capability_header: from PCI configuration space; the default of this class when left out.
            device_id: of the IOMMU itself.
        """
        values = {name: read(offset, size) for name, (offset, size) in _OFFSETS.items()}
        segments = tuple(read(_SEGMENT_OFFSET + 8 * number, 8) for number in range(_SEGMENTS))
        if capability_header is not None:
            values["capability_header"] = capability_header
        return cls(device_table_segments=segments, device_id=device_id, **values)

    def controls(self, name: str) -> int:
        """A field of the control register."""
        return CONTROL[name].get(self.control)

    def feature(self, name: str) -> int:
        """A field of the extended feature register."""
        return EXTENDED_FEATURE[name].get(self.extended_feature)

    def is_set(self, name: str) -> bool:
        """A bit of the status register."""
        return bool(STATUS[name].get(self.status))

    def capability(self, name: str) -> int:
        """A field of the capability header."""
        return CAPABILITY_HEADER[name].get(self.capability_header)

    @property
    def enabled(self) -> bool:
        """IommuEn."""
        return bool(self.controls("IommuEn"))

    @property
    def host_levels(self) -> int:
        """The deepest host table, from HATS: 4 to 6 levels; 0 where there is no host translation."""
        hats = self.feature("HATS")
        return 0 if hats == _NO_HOST_TRANSLATION else 4 + hats

    @property
    def guest_levels(self) -> int:
        """The deepest guest table, from GATS: 4 or 5 levels. DTEs cannot ask for more than 5."""
        return min(4 + self.feature("GATS"), 5)

    @property
    def guest_translation(self) -> bool:
        """GTEn, which needs GTSup: PASIDs and guest tables are there."""
        return bool(self.feature("GTSup") and self.controls("GTEn"))

    @property
    def pasid_bits(self) -> int:
        """Width of a PASID, from PASMax, which holds one less."""
        return min(self.feature("PASMax") + 1, 20)

    @property
    def wide_interrupt_entries(self) -> bool:
        """GAEn, which needs GASup: interrupt remapping table entries have 128 bits."""
        return bool(self.feature("GASup") and self.controls("GAEn"))

    @property
    def virtual_apic(self) -> bool:
        """GAMEn=001b, which needs GAMSup=001b: interrupt table entries may have GuestMode set."""
        return self.wide_interrupt_entries and self.feature("GAMSup") == 1 and self.controls("GAMEn") == 1

    @property
    def wide_destinations(self) -> bool:
        """XTEn, which needs XTSup: interrupt destinations have 32 bits."""
        return bool(self.feature("XTSup") and self.controls("XTEn"))

    @property
    def long_interrupt_tables(self) -> bool:
        """NumIntRemapMode=01b, which needs NumIntRemapSup=01b: a message may name any of 2048 entries."""
        supported = EXTENDED_FEATURE_2["NumIntRemapSup"].get(self.extended_feature_2)
        return supported == 1 and self.controls("NumIntRemapMode") == 1

    @property
    def caches_not_present(self) -> bool:
        """NpCache: page-table entries that are not present may be cached too."""
        return bool(self.capability("NpCache"))

    @property
    def ignores_hypertransport_range(self) -> bool:
        """HTRangeIgnore: FD_0000_0000h to FF_FFFF_FFFFh are addresses like all others."""
        return bool(EXTENDED_FEATURE_2["HTRangeIgnore"].get(self.extended_feature_2))

    @property
    def interrupt_message(self) -> tuple[int, int] | None:
        """Address and data of the interrupts that the IOMMU itself sends by MSI; None while MSI is off."""
        if not self.msi_header & _MSI_ENABLE:
            return None
        return self.msi_address_high << 32 | self.msi_address_low, self.msi_data

    @property
    def command_buffer_offsets(self) -> tuple[int, int]:
        """Head and tail of the command buffer, bytes from its base."""
        return self.command_buffer_head & _POINTER, self.command_buffer_tail & _POINTER

    @property
    def event_log_offsets(self) -> tuple[int, int]:
        """Head and tail of the event log, bytes from its base."""
        return self.event_log_head & _POINTER, self.event_log_tail & _POINTER


# Features whose absence the model knows: a command, an entry format or a field goes with them.
_MODELLED = (
    *("PreFSup", "PPRSup", "XTSup", "NXSup", "GTSup", "IASup", "GASup", "GAMSup", "USSup", "GIoSup"),
    *("HASup", "HDSup", "AttrFWSup", "InvIotlbTypeSup", "GAUpdateDisSup"),
)


def extended_features(
    *,
    host_levels: int = 6,
    guest_levels: int = 5,
    guest_cr3_levels: int = 3,
    pasid_bits: int = 20,
    features: Mapping[str, int] | None = None,
) -> int:
    """An extended feature register that says so: the mirror image of the properties of `AmdviRegisters`.

    Args:
        host_levels: 4, 5 or 6; 0 for no host translation.
        guest_levels: 4 or 5.
        guest_cr3_levels: 1, 2 or 3 levels of GCR3 tables.
        pasid_bits: 1 to 20.
        features: fields of `EXTENDED_FEATURE`; where left out, everything that the model knows is there.

    Raises:
        SpecError: a value that the register cannot hold.
    """
    if features is None:
        features = {**dict.fromkeys(_MODELLED, 1), "DevTblSegSup": 3}
    return EXTENDED_FEATURE.encode(
        {
            "HATS": host_levels - 4 if host_levels else _NO_HOST_TRANSLATION,
            "GATS": guest_levels - 4,
            "GLXSup": guest_cr3_levels - 1,
            "PASMax": pasid_bits - 1,
            **features,
        }
    )
