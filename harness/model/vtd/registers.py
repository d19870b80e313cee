"""The registers of a VT-d unit: their values, where they stand, and what CAP_REG and others say (VT-d chapter 11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import attrgetter, or_
from typing import Self

from harness.errors import SpecError
from harness.model.vtd.extended_capabilities import ExtendedCapabilities
from harness.model.vtd.register_layouts import (
    CAP_REG,
    GSTS_REG,
    RTADDR_REG,
    TranslationTableMode,
)

__all__ = [
    "TranslationTableMode",
    "VtdRegisters",
    "capabilities",
]

# Where each register stands (offset) and its size, both in bytes (VT-d 11.4); of some the capabilities tell the place.
_REGISTERS = {
    "ver": (0x00, 4),
    "cap": (0x08, 8),
    "ecap": (0x10, 8),
    "gsts": (0x1C, 4),
    "rtaddr": (0x20, 8),
    "ccmd": (0x28, 8),
    "fsts": (0x34, 4),
    "fectl": (0x38, 4),
    "fedata": (0x3C, 4),
    "feaddr": (0x40, 4),
    "feuaddr": (0x44, 4),
    "pmen": (0x64, 4),
    "plmbase": (0x68, 4),
    "plmlimit": (0x6C, 4),
    "phmbase": (0x70, 8),
    "phmlimit": (0x78, 8),
    "iqh": (0x80, 8),
    "iqt": (0x88, 8),
    "iqa": (0x90, 8),
    "ics": (0x9C, 4),
    "iectl": (0xA0, 4),
    "iedata": (0xA4, 4),
    "ieaddr": (0xA8, 4),
    "ieuaddr": (0xAC, 4),
    "iqercd": (0xB0, 8),
    "irta": (0xB8, 8),
    "pqh": (0xC0, 8),
    "pqt": (0xC8, 8),
    "pqa": (0xD0, 8),
    "prs": (0xDC, 4),
    "pectl": (0xE0, 4),
    "pedata": (0xE4, 4),
    "peaddr": (0xE8, 4),
    "peuaddr": (0xEC, 4),
}
_IVA_SIZE = 8  # IVA_REG stands at the offset that ECAP_REG.IRO gives, IOTLB_REG after it.
_FRCD_SIZE = 16  # FRCD_REG[0] stands at the offset that CAP_REG.FRO gives.
_SIZES = {name: size for name, (_, size) in _REGISTERS.items()} | {"iva": _IVA_SIZE, "iotlb": _IVA_SIZE}
_VALUES = {size: attrgetter(*(name for name in _SIZES if _SIZES[name] == size)) for size in set(_SIZES.values())}

# SAGAW has bit n set for an adjusted guest address width of 30 + 9n bits, which takes n + 2 levels; bits 0 and 4
# are reserved (VT-d 11.4.2).
_LEVELS_OF_SAGAW_BIT = {1: 3, 2: 4, 3: 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class VtdRegisters:
    """The registers of one remapping unit.

    Attributes:
        rtaddr: RTADDR_REG as it was when GCMD_REG.SRTP last took it over.
        cap: CAP_REG.
        ecap: ECAP_REG.
        gsts: GSTS_REG, 32 bits.
        host_address_width: HAW, bits, as the DMAR table gives it (its field holds one less); no register does.
        ver: VER_REG, 32 bits.
        pmen: PMEN_REG, 32 bits, as are PLMBASE_REG and PLMLIMIT_REG.
        plmbase: PLMBASE_REG.
        plmlimit: PLMLIMIT_REG.
        phmbase: PHMBASE_REG.
        phmlimit: PHMLIMIT_REG.
        protected_memory_alignment: bytes, a power of two: 2^(N+1), bits N:0 of those four being fixed. Software finds N
            by writing ones; no register says it.
        ccmd: CCMD_REG.
        fsts: FSTS_REG, 32 bits, as are FECTL_REG, FEDATA_REG, FEADDR_REG and FEUADDR_REG.
        iqh: IQH_REG.
        iqt: IQT_REG.
        iqa: IQA_REG.
        ics: ICS_REG, 32 bits, as are IECTL_REG, IEDATA_REG, IEADDR_REG and IEUADDR_REG.
        iqercd: IQERCD_REG.
        irta: IRTA_REG as it was when GCMD_REG.SIRTP last took it over.
        pqh: PQH_REG.
        pqt: PQT_REG.
        pqa: PQA_REG.
        prs: PRS_REG, 32 bits, as are PECTL_REG, PEDATA_REG, PEADDR_REG and PEUADDR_REG.
        iva: IVA_REG.
        iotlb: IOTLB_REG.
        frcd: the fault recording registers, 128 bits each; those that are left out at the end are zero.

    Raises:
        SpecError: a value is wider than its register, or no host address width.
    """

    rtaddr: int
    cap: int
    ecap: int
    gsts: int
    host_address_width: int = 52
    ver: int = 0
    pmen: int = 0
    plmbase: int = 0
    plmlimit: int = 0
    phmbase: int = 0
    phmlimit: int = 0
    protected_memory_alignment: int = 1 << 21
    ccmd: int = 0
    fsts: int = 0
    fectl: int = 0
    fedata: int = 0
    feaddr: int = 0
    feuaddr: int = 0
    iqh: int = 0
    iqt: int = 0
    iqa: int = 0
    ics: int = 0
    iectl: int = 0
    iedata: int = 0
    ieaddr: int = 0
    ieuaddr: int = 0
    iqercd: int = 0
    irta: int = 0
    pqh: int = 0
    pqt: int = 0
    pqa: int = 0
    prs: int = 0
    pectl: int = 0
    pedata: int = 0
    peaddr: int = 0
    peuaddr: int = 0
    iva: int = 0
    iotlb: int = 0
    frcd: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # Software changes registers all the time: one look at all that are of a size finds out whether one is wrong.
        too_wide = any(reduce(or_, values(self)) >> 8 * size for size, values in _VALUES.items())
        if too_wide or self.frcd:
            self._check_values()
        if len(self.frcd) > self.fault_recording_registers:
            raise SpecError(
                f"{len(self.frcd)} fault records, but CAP_REG.NFR says {self.fault_recording_registers}",
            )
        alignment = self.protected_memory_alignment
        if alignment < 1 or alignment & alignment - 1:
            raise SpecError(f"protected_memory_alignment={alignment:#x} is not a power of two")
        if not 12 < self.host_address_width <= 52:
            raise SpecError(
                f"host_address_width={self.host_address_width}: paging entries hold addresses of 13 to 52 bits",
                hint="the DMAR table's field is one less than the width",
            )

    def _check_values(self) -> None:
        values = [(name, getattr(self, name), size) for name, size in _SIZES.items()]
        values += [(f"frcd[{index}]", value, _FRCD_SIZE) for index, value in enumerate(self.frcd)]
        for name, value, size in values:
            if not 0 <= value < 1 << 8 * size:
                raise SpecError(f"{name}={value:#x} is not a value of a {8 * size}-bit register")

    @classmethod
    def read(cls, read: Callable[[int, int], int], *, host_address_width: int = 52) -> Self:
        """The registers of a live unit.

        A pointer that software has written but not yet set (SRTP, SIRTP) cannot be told from one in use.

        Args:
            read: an MMIO read, of an offset and a size, in bytes: 4 or 8.
            host_address_width: as for the class.
        """
        values = {name: read(offset, size) for name, (offset, size) in _REGISTERS.items()}
        iva = ExtendedCapabilities.decode(values["ecap"]).iotlb_registers
        frcd = _FRCD_SIZE * CAP_REG["FRO"].get(values["cap"])
        records = range(frcd, frcd + _FRCD_SIZE * (CAP_REG["NFR"].get(values["cap"]) + 1), _FRCD_SIZE)
        return cls(
            host_address_width=host_address_width,
            iva=read(iva, _IVA_SIZE),
            iotlb=read(iva + _IVA_SIZE, _IVA_SIZE),
            frcd=tuple(read(record + 8, 8) << 64 | read(record, 8) for record in records),
            **values,
        )

    @property
    def extended(self) -> ExtendedCapabilities:
        """What ECAP_REG says."""
        return ExtendedCapabilities.decode(self.ecap)

    @property
    def translation_enabled(self) -> bool:
        """GSTS_REG.TES."""
        return bool(GSTS_REG["TES"].get(self.gsts))

    @property
    def interrupt_remapping_enabled(self) -> bool:
        """GSTS_REG.IRES."""
        return bool(GSTS_REG["IRES"].get(self.gsts))

    @property
    def translation_table_mode(self) -> TranslationTableMode:
        """RTADDR_REG.TTM."""
        return TranslationTableMode(RTADDR_REG["TTM"].get(self.rtaddr))

    @property
    def root_table(self) -> int:
        """RTADDR_REG.RTA; hardware may ignore and not implement bits 63:HAW."""
        return RTADDR_REG["RTA"].get(self.rtaddr) & ((1 << self.host_address_width) - 1)

    @property
    def major_version(self) -> int:
        """VER_REG.MAX."""
        return self.ver >> 4 & 0xF

    @property
    def io_permissions(self) -> bool:
        """RTADDR_REG.SSIRWE where ECAP_REG.SSIRWS has it: second-stage entries allow by IR and IW, not by R and W."""
        return bool(RTADDR_REG["SSIRWE"].get(self.rtaddr)) and self.extended.io_permissions

    @property
    def largest_level(self) -> int:
        """The largest number of second-stage levels; 0 where CAP_REG.SAGAW has none."""
        return max(self.supported_levels, default=0)

    @property
    def first_stage_1g_pages(self) -> bool:
        """CAP_REG.FS1GP."""
        return bool(CAP_REG["FS1GP"].get(self.cap))

    @property
    def first_stage_5_levels(self) -> bool:
        """CAP_REG.FS5LP."""
        return bool(CAP_REG["FS5LP"].get(self.cap))

    @property
    def guest_address_width(self) -> int:
        """Maximum guest address width in bits; CAP_REG.MGAW holds one less."""
        return CAP_REG["MGAW"].get(self.cap) + 1

    @property
    def supported_levels(self) -> frozenset[int]:
        """Numbers of second-stage levels, from CAP_REG.SAGAW."""
        sagaw = CAP_REG["SAGAW"].get(self.cap)
        return frozenset(levels for bit, levels in _LEVELS_OF_SAGAW_BIT.items() if sagaw >> bit & 1)

    @property
    def large_page_levels(self) -> frozenset[int]:
        """Levels that may hold a page: 2 for 2 MiB, 3 for 1 GiB, from CAP_REG.SSLPS."""
        sslps = CAP_REG["SSLPS"].get(self.cap)
        return frozenset(level for bit, level in ((0, 2), (1, 3)) if sslps >> bit & 1)

    @property
    def domain_id_width(self) -> int:
        """Bits of a domain id, from CAP_REG.ND: 4 + 2 * ND, and 16 for the reserved encodings above 6."""
        return min(4 + 2 * CAP_REG["ND"].get(self.cap), 16)

    @property
    def caching_mode(self) -> bool:
        """CAP_REG.CM: not-present and erroneous entries may be cached."""
        return bool(CAP_REG["CM"].get(self.cap))

    @property
    def zero_length_reads(self) -> bool:
        """CAP_REG.ZLR: zero-length reads of write-only pages go through."""
        return bool(CAP_REG["ZLR"].get(self.cap))

    @property
    def fault_recording_registers(self) -> int:
        """How many there are; CAP_REG.NFR holds one less."""
        return CAP_REG["NFR"].get(self.cap) + 1

    @property
    def max_address_mask(self) -> int | None:
        """The largest AM of a page-selective invalidation, from CAP_REG.MAMV; None where CAP_REG.PSI lacks those."""
        return CAP_REG["MAMV"].get(self.cap) if CAP_REG["PSI"].get(self.cap) else None

    @property
    def posted_interrupts(self) -> bool:
        """CAP_REG.PI: the posted format of an interrupt remapping table entry is there."""
        return bool(CAP_REG["PI"].get(self.cap))

    @property
    def queued_invalidation_enabled(self) -> bool:
        """GSTS_REG.QIES."""
        return bool(GSTS_REG["QIES"].get(self.gsts))

    @property
    def compatibility_format_interrupts(self) -> bool:
        """GSTS_REG.CFIS."""
        return bool(GSTS_REG["CFIS"].get(self.gsts))


def capabilities(
    *,
    levels: frozenset[int] = frozenset({3, 4, 5}),
    guest_address_width: int = 57,
    large_page_levels: frozenset[int] = frozenset({2, 3}),
    domain_id_width: int = 16,
    zero_length_reads: bool = True,
    caching_mode: bool = False,
    protected_memory: bool = False,
    first_stage_1g_pages: bool = True,
    first_stage_5_levels: bool = True,
    posted_interrupts: bool = False,
    max_address_mask: int | None = None,
    fault_recording_registers: int = 1,
) -> int:
    """A CAP_REG that says so: the mirror image of the properties of `VtdRegisters`.

    Raises:
        SpecError: a value that the register cannot hold.
    """
    return CAP_REG.encode(
        {
            "ND": (domain_id_width - 4) // 2,
            "SAGAW": sum(1 << bit for bit, number in _LEVELS_OF_SAGAW_BIT.items() if number in levels),
            "MGAW": guest_address_width - 1,
            "ZLR": int(zero_length_reads),
            "CM": int(caching_mode),
            "PLMR": int(protected_memory),
            "PHMR": int(protected_memory),
            "FS1GP": int(first_stage_1g_pages),
            "FS5LP": int(first_stage_5_levels),
            "PI": int(posted_interrupts),
            "PSI": int(max_address_mask is not None),
            "MAMV": max_address_mask or 0,
            "NFR": fault_recording_registers - 1,
            "SSLPS": sum(1 << level - 2 for level in large_page_levels),
        }
    )
