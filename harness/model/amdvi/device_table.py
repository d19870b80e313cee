"""The device table entry: how one device's requests and interrupts are treated (AMD-Vi 2.2.2)."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from harness.model.access import format_requester
from harness.model.amdvi.faults import AmdviFaultReason, Blocked
from harness.model.amdvi.register_fields import DEVICE_TABLE_BASE
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.bits import Field, Layout
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Memory, OutsideMemory

__all__ = ["DTE", "DTE_SIZE", "DeviceEntry", "DeviceTable", "non_zero"]

DTE_SIZE = 32
"""Bytes of a device table entry."""

DTE = Layout(
    "device table entry",
    "AMD-Vi 2.2.2.1",
    (
        Field("V", 0, 1),
        Field("TV", 1, 1),
        Field("RSVD_2", 2, 5),
        Field("HAD", 7, 2),
        Field("Mode", 9, 3),
        Field("HostPageTableRoot", 12, 40, in_place=True),
        Field("PPR", 52, 1),
        Field("GPRP", 53, 1),
        Field("GIoV", 54, 1),
        Field("GV", 55, 1),
        Field("GLX", 56, 2),
        Field("GCR3_14_12", 58, 3),
        Field("IR", 61, 1),
        Field("IW", 62, 1),
        Field("RSVD_63", 63, 1),
        Field("DomainID", 64, 16),
        Field("GCR3_30_15", 80, 16),
        Field("I", 96, 1),
        Field("SE", 97, 1),
        Field("SA", 98, 1),
        Field("IoCtl", 99, 2),
        Field("Cache", 101, 1),
        Field("SD", 102, 1),
        Field("EX", 103, 1),
        Field("SysMgt", 104, 2),
        Field("SATS", 106, 1),
        Field("GCR3_51_31", 107, 21),
        Field("IV", 128, 1),
        Field("IntTabLen", 129, 4),
        Field("IG", 133, 1),
        Field("IntTableRoot_51_6", 134, 46),
        Field("RSVD_180", 180, 2),
        Field("GuestPagingMode", 182, 2),
        Field("InitPass", 184, 1),
        Field("EIntPass", 185, 1),
        Field("NMIPass", 186, 1),
        Field("HPTMode", 187, 1),
        Field("IntCtl", 188, 2),
        Field("Lint0Pass", 190, 1),
        Field("Lint1Pass", 191, 1),
        Field("RSVD_192", 192, 15),
        Field("vImuEn", 207, 1),
        Field("GDeviceID", 208, 16),
        Field("GuestID", 224, 16),
        Field("RSVD_240", 240, 6),
        Field("AttrV", 246, 1),
        Field("Mode0FC", 247, 1),
        Field("SnoopAttribute", 248, 8),
    ),
)

_WORDS = struct.Struct("<4Q").unpack
_ADDRESS = DTE["HostPageTableRoot"].mask
_HAD_DIRTY_ONLY = 0b10


class DeviceEntry(NamedTuple):
    """The four words of an entry, as they were read. A tuple, since one is made for each walk."""

    word0: int
    word1: int
    word2: int
    word3: int

    @property
    def bits(self) -> int:
        """The 256 bits, as one little-endian number."""
        return self.word3 << 192 | self.word2 << 128 | self.word1 << 64 | self.word0

    def field(self, name: str) -> int:
        """A field by its name in `DTE`."""
        return DTE[name].get(self.bits)

    @property
    def domain(self) -> int:
        """DomainID."""
        return self.word1 & 0xFFFF

    @property
    def guest_cr3_table(self) -> int:
        """GCR3 Table Root Pointer, put together of its three parts."""
        return (self.word0 >> 58 & 7) << 12 | (self.word1 >> 16 & 0xFFFF) << 15 | (self.word1 >> 43) << 31

    @property
    def interrupt_table(self) -> int:
        """Interrupt Table Root Pointer; tables are aligned to 128 bytes (AMD-Vi 2.2.5)."""
        return self.word2 & _ADDRESS_OF_INTERRUPT_TABLE


_ADDRESS_OF_INTERRUPT_TABLE = ((1 << 52) - 1) & ~0x7F


class DeviceTable:
    """Reads device table entries as an IOMMU with these registers does."""

    def __init__(self, registers: AmdviRegisters) -> None:
        # DevTblSegEn: the table is cut into 2^n segments by the top bits of the DeviceID, as many as DevTblSegSup has
        # (AMD-Vi 2.2.2.3).
        bits = min(registers.controls("DevTblSegEn"), registers.feature("DevTblSegSup"))
        bases = (registers.device_table_base, *registers.device_table_segments)[: 1 << bits]
        self._bases = tuple(DEVICE_TABLE_BASE["DevTabBase"].get(base) for base in bases)
        # Size counts pages of 4 KiB, less one.
        self._ends = tuple((DEVICE_TABLE_BASE["Size"].get(base) + 1) * (4096 // DTE_SIZE) for base in bases)
        self._segment_shift = 16 - bits
        self._index_mask = (1 << self._segment_shift) - 1

        low, high = _reserved(registers)
        self._reserved0, self._reserved1 = low & (1 << 64) - 1, low >> 64
        self._reserved2, self._reserved3 = high & (1 << 64) - 1, high >> 64
        self._host_levels = registers.host_levels
        self._guest_levels = registers.guest_levels
        self._guest_cr3_levels = registers.feature("GLXSup")

    def find(self, memory: Memory, requester: int, trace: list[Step] | None) -> DeviceEntry | Blocked:
        """The entry of a device, not yet looked at."""
        device = requester & 0xFFFF
        segment = device >> self._segment_shift
        index = device & self._index_mask
        if index >= self._ends[segment]:
            if trace is not None:
                trace.append(Step(_name(requester), DTE.section, note="beyond the end of the device table"))
            return Blocked(AmdviFaultReason.DEVICE_BEYOND_TABLE)
        address = self._bases[segment] + index * DTE_SIZE
        try:
            entry = DeviceEntry._make(_WORDS(memory.read(address, DTE_SIZE)))
        except OutsideMemory:
            if trace is not None:
                trace.append(Step(_name(requester), DTE.section, address, note="no memory there", size=DTE_SIZE))
            return Blocked(AmdviFaultReason.DEVICE_TABLE_ACCESS, entry=address)
        if trace is not None:
            cached = CachedEntry(kind=EntryKind.DEVICE, requester=requester, domain=entry.domain)
            bits = entry.bits
            trace.append(
                Step(_name(requester), DTE.section, address, bits, _fields_of(bits), size=DTE_SIZE, cached=cached)
            )
        return entry

    def check_translation(self, entry: DeviceEntry) -> AmdviFaultReason | None:
        """What is illegal in an entry with V=1, in bits 127:0 and, with GV, in GuestPagingMode."""
        word0 = entry[0]
        if word0 & self._reserved0 or entry[1] & self._reserved1 or word0 >> 7 & 3 == _HAD_DIRTY_ONLY:
            return AmdviFaultReason.DTE_RESERVED
        # TV=0: nothing of what follows is looked at (AMD-Vi 2.2.2.2).
        if not word0 & 2:
            return None
        # Mode 7 is reserved, and a deeper table than HATS says is not supported. Without host translation there is no
        # root pointer either.
        if word0 >> 9 & 7 > self._host_levels or (not self._host_levels and word0 & _ADDRESS):
            return AmdviFaultReason.DTE_INVALID_LEVEL
        if word0 & _GV and (word0 >> 56 & 3 > self._guest_cr3_levels or 4 + (entry[2] >> 54 & 3) > self._guest_levels):
            return AmdviFaultReason.DTE_INVALID_LEVEL
        return None

    def check_interrupts(self, entry: DeviceEntry) -> AmdviFaultReason | None:
        """What is illegal in bits 255:128 of an entry with IV=1."""
        if entry[2] & self._reserved2 or entry[3] & self._reserved3:
            return AmdviFaultReason.DTE_RESERVED
        return None


_GV = DTE["GV"].mask


def _reserved(registers: AmdviRegisters) -> tuple[int, int]:
    """The bits of each half that must be zero, those of features that are not there among them (AMD-Vi 2.2.2.1)."""
    names = {"RSVD_2", "RSVD_63", "RSVD_180", "RSVD_192", "RSVD_240"}
    for feature, fields in (
        ("HASup", ("HAD",)),
        ("PPRSup", ("PPR", "GPRP")),
        ("GIoSup", ("GIoV",)),
        ("GTSup", ("GV", "GLX", "GCR3_14_12", "GCR3_30_15", "GCR3_51_31")),
        ("SNPSup", ("SATS",)),
        ("vImuSup", ("vImuEn", "GDeviceID", "GuestID")),
        ("AttrFWSup", ("AttrV", "Mode0FC", "SnoopAttribute")),
    ):
        if not registers.feature(feature):
            names |= set(fields)
    mask = sum(DTE[name].mask for name in names)
    if not registers.feature("HDSup"):
        mask |= 1 << 8
    return mask & (1 << 128) - 1, mask >> 128


def non_zero(layout: Layout, bits: int) -> tuple[tuple[str, int], ...]:
    """The fields of a long structure that are not zero, for a person."""
    return tuple(pair for pair in layout.decode(bits) if pair[1])


@lru_cache(maxsize=1024)
def _fields_of(bits: int) -> tuple[tuple[str, int], ...]:
    """Of an entry; kept, since each walk with steps asks for it."""
    return non_zero(DTE, bits)


def _name(requester: int) -> str:
    return f"device table entry [{format_requester(requester)}]"
