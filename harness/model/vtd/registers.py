"""The VT-d registers that matter to translation, field by field (VT-d chapter 11, register descriptions)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from harness.errors import SpecError
from harness.model.bits import Field, Layout

__all__ = ["CAP_REG", "ECAP_REG", "GSTS_REG", "RTADDR_REG", "TranslationTableMode", "VtdRegisters", "capabilities"]

# CAP_REG: capability register.
CAP_REG = Layout(
    "CAP_REG",
    "VT-d 11.4.2",
    (
        Field("ND", 0, 3),
        Field("AFL", 3, 1),
        Field("RWBF", 4, 1),
        Field("PLMR", 5, 1),
        Field("PHMR", 6, 1),
        Field("CM", 7, 1),
        Field("SAGAW", 8, 5),
        Field("MGAW", 16, 6),
        Field("ZLR", 22, 1),
        Field("FRO", 24, 10),
        Field("SSLPS", 34, 4),
        Field("PSI", 39, 1),
        Field("NFR", 40, 8),
        Field("MAMV", 48, 6),
        Field("DWD", 54, 1),
        Field("DRD", 55, 1),
        Field("FS1GP", 56, 1),
        Field("PI", 59, 1),
        Field("FS5LP", 60, 1),
    ),
)

# ECAP_REG: extended capability register; of its fields those that legacy mode looks at.
ECAP_REG = Layout(
    "ECAP_REG",
    "VT-d 11.4.3",
    (
        Field("C", 0, 1),
        Field("QI", 1, 1),
        Field("DT", 2, 1),
        Field("IR", 3, 1),
        Field("EIM", 4, 1),
        Field("PT", 6, 1),
        Field("SC", 7, 1),
        Field("SMTS", 43, 1),
    ),
)

# GSTS_REG: global status register. GCMD_REG has the same bits as commands.
GSTS_REG = Layout(
    "GSTS_REG",
    "VT-d 11.4.4.2",
    (
        Field("CFIS", 23, 1),
        Field("IRTPS", 24, 1),
        Field("IRES", 25, 1),
        Field("QIES", 26, 1),
        Field("WBFS", 27, 1),
        Field("RTPS", 30, 1),
        Field("TES", 31, 1),
    ),
)

# RTADDR_REG: root table address register.
RTADDR_REG = Layout("RTADDR_REG", "VT-d 11.4.5", (Field("TTM", 10, 2), Field("RTA", 12, 52, in_place=True)))

# SAGAW has bit n set for an adjusted guest address width of 30 + 9n bits, which takes n + 2 levels; bits 0 and 4
# are reserved (VT-d 11.4.2).
_LEVELS_OF_SAGAW_BIT = {1: 3, 2: 4, 3: 5}


class TranslationTableMode(IntEnum):
    """RTADDR_REG.TTM: how the root table is read (VT-d 11.4.5)."""

    LEGACY = 0
    SCALABLE = 1
    RESERVED = 2
    ABORT_DMA = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class VtdRegisters:
    """The registers of one remapping unit.

    Attributes:
        rtaddr: RTADDR_REG as it was when GCMD_REG.SRTP last took it over.
        cap: CAP_REG.
        ecap: ECAP_REG.
        gsts: GSTS_REG, 32 bits.
        host_address_width: HAW, bits, as the DMAR table gives it (its field holds one less); no register does.

    Raises:
        SpecError: a value is wider than its register, or no host address width.
    """

    rtaddr: int
    cap: int
    ecap: int
    gsts: int
    host_address_width: int = 52

    def __post_init__(self) -> None:
        for name, width in (("rtaddr", 64), ("cap", 64), ("ecap", 64), ("gsts", 32)):
            value = getattr(self, name)
            if not 0 <= value < 1 << width:
                raise SpecError(f"{name}={value:#x} is not a value of a {width}-bit register")
        if not 12 < self.host_address_width <= 52:
            raise SpecError(
                f"host_address_width={self.host_address_width}: paging entries hold addresses of 13 to 52 bits",
                hint="the DMAR table's field is one less than the width",
            )

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
    def pass_through(self) -> bool:
        """ECAP_REG.PT: translation type 10b is there."""
        return bool(ECAP_REG["PT"].get(self.ecap))

    @property
    def device_tlbs(self) -> bool:
        """ECAP_REG.DT: translation type 01b is there."""
        return bool(ECAP_REG["DT"].get(self.ecap))

    @property
    def snoop_control(self) -> bool:
        """ECAP_REG.SC: the SNP bit of a leaf is there."""
        return bool(ECAP_REG["SC"].get(self.ecap))


def capabilities(
    *,
    levels: frozenset[int] = frozenset({3, 4, 5}),
    guest_address_width: int = 57,
    large_page_levels: frozenset[int] = frozenset({2, 3}),
    domain_id_width: int = 16,
    zero_length_reads: bool = True,
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
            "SSLPS": sum(1 << level - 2 for level in large_page_levels),
        }
    )
