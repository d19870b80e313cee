"""The layouts of the VT-d registers that more than one module reads (VT-d chapter 11, register descriptions).

Those of a queue, an event or a fault record stand beside what works with them.
"""

from __future__ import annotations

from enum import IntEnum

from harness.model.bits import Field, Layout

__all__ = ["CAP_REG", "ECAP_REG", "GSTS_REG", "PMEN_REG", "RTADDR_REG", "TranslationTableMode"]

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
        Field("ECMDS", 61, 1),
        Field("ESIRTPS", 62, 1),
        Field("ESRTPS", 63, 1),
    ),
)

# ECAP_REG: extended capability register.
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
        Field("IRO", 8, 10),
        Field("MHMV", 20, 4),
        Field("MTS", 25, 1),
        Field("NEST", 26, 1),
        Field("PRS", 29, 1),
        Field("ERS", 30, 1),
        Field("SRS", 31, 1),
        Field("NWFS", 33, 1),
        Field("EAFS", 34, 1),
        Field("PSS", 35, 5),
        Field("PASID", 40, 1),
        Field("DIT", 41, 1),
        Field("PDS", 42, 1),
        Field("SMTS", 43, 1),
        Field("VCS", 44, 1),
        Field("SSADS", 45, 1),
        Field("SSTS", 46, 1),
        Field("FSTS", 47, 1),
        Field("SMPWCS", 48, 1),
        Field("RPS", 49, 1),
        Field("TDXCS", 50, 1),
        Field("PMS", 51, 1),
        Field("ADMS", 52, 1),
        Field("RPRIVS", 53, 1),
        Field("HPTS", 55, 1),
        Field("PTRS", 56, 1),
        Field("SSIRWS", 57, 1),
        Field("SMS", 58, 1),
        Field("HPT1GPS", 59, 1),
        Field("RDTS", 60, 1),
        Field("EIMER", 61, 1),
        Field("IRREQ", 62, 1),
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
RTADDR_REG = Layout(
    "RTADDR_REG",
    "VT-d 11.4.5",
    (Field("SSIRWE", 7, 1), Field("TTM", 10, 2), Field("RTA", 12, 52, in_place=True)),
)

# PMEN_REG: protected memory enable register.
PMEN_REG = Layout("PMEN_REG", "VT-d 11.4.8.1", (Field("PRS", 0, 1), Field("EPM", 31, 1)))


class TranslationTableMode(IntEnum):
    """RTADDR_REG.TTM: how the root table is read (VT-d 11.4.5)."""

    LEGACY = 0
    SCALABLE = 1
    RESERVED = 2
    ABORT_DMA = 3
