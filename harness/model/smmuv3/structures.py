"""The configuration structures of SMMUv3 in memory, field by field (IHI 0070, chapter 5).

IHI 0070 lets an SMMU ignore reserved fields or find a structure with one set invalid (chapter 5): here they are
ignored. Fields of features that are not modelled are reserved here.
"""

from __future__ import annotations

from functools import lru_cache

from harness.model.bits import Field, Layout

__all__ = ["CD", "L1CD", "L1STD", "STE", "STE_SIZE", "shown_cd", "shown_ste"]

STE_SIZE = 64
"""Bytes of an STE, and of a CD."""

L1STD = Layout(
    "L1STD",
    "IHI 0070 5.1",
    (
        Field("SPAN", 0, 5),
        Field("RSVD_5", 5, 1),
        Field("L2PTR", 6, 50, in_place=True),
        Field("RSVD_56", 56, 8),
    ),
)

STE = Layout(
    "STE",
    "IHI 0070 5.2",
    (
        Field("V", 0, 1),
        Field("CONFIG", 1, 3),
        Field("S1FMT", 4, 2),
        Field("S1CONTEXTPTR", 6, 50, in_place=True),
        Field("RSVD_56", 56, 3),
        Field("S1CDMAX", 59, 5),
        Field("S1DSS", 64, 2),
        Field("S1CIR", 66, 2),
        Field("S1COR", 68, 2),
        Field("S1CSH", 70, 2),
        Field("S2HWU", 72, 4),
        Field("DRE", 76, 1),
        Field("CONT", 77, 4),
        Field("DCP", 81, 1),
        Field("PPAR", 82, 1),
        Field("MEV", 83, 1),
        Field("SW_RESERVED", 84, 4),
        Field("S1PIE", 88, 1),
        Field("S2FWB", 89, 1),
        Field("S1MPAM", 90, 1),
        Field("S1STALLD", 91, 1),
        Field("EATS", 92, 2),
        Field("STRW", 94, 2),
        Field("MEMATTR", 96, 4),
        Field("MTCFG", 100, 1),
        Field("ALLOCCFG", 101, 4),
        Field("RSVD_105", 105, 3),
        Field("SHCFG", 108, 2),
        Field("NSCFG", 110, 2),
        Field("PRIVCFG", 112, 2),
        Field("INSTCFG", 114, 2),
        Field("IGN_116", 116, 12),
        Field("S2VMID", 128, 16),
        Field("IGN_144", 144, 16),
        Field("S2T0SZ", 160, 6),
        Field("S2SL0", 166, 2),
        Field("S2IR0", 168, 2),
        Field("S2OR0", 170, 2),
        Field("S2SH0", 172, 2),
        Field("S2TG", 174, 2),
        Field("S2PS", 176, 3),
        Field("S2AA64", 179, 1),
        Field("S2ENDI", 180, 1),
        Field("S2AFFD", 181, 1),
        Field("S2PTW", 182, 1),
        Field("S2HD", 183, 1),
        Field("S2HA", 184, 1),
        Field("S2S", 185, 1),
        Field("S2R", 186, 1),
        Field("S2HAFT", 187, 1),
        Field("S2PIE", 188, 1),
        Field("S2POE", 189, 1),
        Field("DPT_VMATCH", 190, 2),
        Field("S2NSW", 192, 1),
        Field("S2NSA", 193, 1),
        Field("S2SL0_2", 194, 1),
        Field("S2DS", 195, 1),
        Field("S2TTB", 196, 52),
        Field("RSVD_248", 248, 8),
        Field("RSVD_UPPER", 256, 256),
    ),
)
"""S2TTB holds bits 55:4 of the address."""

L1CD = Layout(
    "L1CD",
    "IHI 0070 5.3",
    (
        Field("V", 0, 1),
        Field("RSVD_1", 1, 11),
        Field("L2PTR", 12, 44, in_place=True),
        Field("RSVD_56", 56, 8),
    ),
)

CD = Layout(
    "CD",
    "IHI 0070 5.4",
    (
        Field("T0SZ", 0, 6),
        Field("TG0", 6, 2),
        Field("IR0", 8, 2),
        Field("OR0", 10, 2),
        Field("SH0", 12, 2),
        Field("EPD0", 14, 1),
        Field("ENDI", 15, 1),
        Field("T1SZ", 16, 6),
        Field("TG1", 22, 2),
        Field("IR1", 24, 2),
        Field("OR1", 26, 2),
        Field("SH1", 28, 2),
        Field("EPD1", 30, 1),
        Field("V", 31, 1),
        Field("IPS", 32, 3),
        Field("AFFD", 35, 1),
        Field("WXN", 36, 1),
        Field("UWXN", 37, 1),
        Field("TBI0", 38, 1),
        Field("TBI1", 39, 1),
        Field("PAN", 40, 1),
        Field("AA64", 41, 1),
        Field("HD", 42, 1),
        Field("HA", 43, 1),
        Field("S", 44, 1),
        Field("R", 45, 1),
        Field("A", 46, 1),
        Field("ASET", 47, 1),
        Field("ASID", 48, 16),
        Field("NSCFG0", 64, 1),
        Field("HAD0", 65, 1),
        Field("E0PD0", 66, 1),
        Field("HAFT", 67, 1),
        Field("TTB0", 68, 52),
        Field("RSVD_120", 120, 2),
        Field("PNCH", 122, 1),
        Field("EPAN", 123, 1),
        Field("HWU0", 124, 4),
        Field("NSCFG1", 128, 1),
        Field("HAD1", 129, 1),
        Field("E0PD1", 130, 1),
        Field("AIE", 131, 1),
        Field("TTB1", 132, 52),
        Field("RSVD_184", 184, 2),
        Field("DS", 186, 1),
        Field("PIE", 187, 1),
        Field("HWU1", 188, 4),
        Field("MAIR", 192, 64),
        Field("AMAIR", 256, 64),
        Field("IGN_320", 320, 32),
        Field("PARTID", 352, 16),
        Field("PMG", 368, 8),
        Field("RSVD_376", 376, 8),
        Field("PIIU", 384, 48),
        Field("RSVD_432", 432, 16),
        Field("PIIP", 448, 48),
        Field("RSVD_496", 496, 16),
    ),
)
"""TTB0 and TTB1 hold bits 55:4 of the address."""


@lru_cache(maxsize=4096)
def shown_ste(value: int) -> tuple[tuple[str, int], ...]:
    """The fields of an STE that are not zero, for a person: there are too many to show them all."""
    return tuple(pair for pair in STE.decode(value) if pair[1])


@lru_cache(maxsize=4096)
def shown_cd(value: int) -> tuple[tuple[str, int], ...]:
    """The same of a CD."""
    return tuple(pair for pair in CD.decode(value) if pair[1])
