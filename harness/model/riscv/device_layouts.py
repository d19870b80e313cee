"""Entries of the device directory and device contexts, bit by bit (3.1.1, 3.1.3)."""

from __future__ import annotations

from harness.model.bits import Field, Layout

__all__ = ["BASE_CONTEXT", "DIRECTORY_ENTRY", "DIRECTORY_RESERVED", "EXTENDED_CONTEXT"]

# 3.1.1; a non-leaf process directory entry is the same (3.2.1).
DIRECTORY_ENTRY = Layout(
    "non-leaf directory entry",
    "RISC-V IOMMU 3.1.1",
    (Field("V", 0, 1), Field("RSVD_1", 1, 9), Field("PPN", 10, 44), Field("RSVD_54", 54, 10)),
)

BASE_CONTEXT = Layout(
    "device context",
    "RISC-V IOMMU 3.1.3",
    (
        Field("tc.V", 0, 1),
        Field("tc.EN_ATS", 1, 1),
        Field("tc.EN_PRI", 2, 1),
        Field("tc.T2GPA", 3, 1),
        Field("tc.DTF", 4, 1),
        Field("tc.PDTV", 5, 1),
        Field("tc.PRPR", 6, 1),
        Field("tc.GADE", 7, 1),
        Field("tc.SADE", 8, 1),
        Field("tc.DPE", 9, 1),
        Field("tc.SBE", 10, 1),
        Field("tc.SXL", 11, 1),
        Field("RSVD_tc_12", 12, 12),
        Field("IGN_tc_custom", 24, 8),
        Field("RSVD_tc_32", 32, 32),
        Field("iohgatp.PPN", 64, 44),
        Field("iohgatp.GSCID", 108, 16),
        Field("iohgatp.MODE", 124, 4),
        Field("RSVD_ta_0", 128, 12),
        Field("ta.PSCID", 140, 20),
        Field("RSVD_ta_32", 160, 8),
        Field("ta.RCID", 168, 12),
        Field("ta.MCID", 180, 12),
        Field("fsc.PPN", 192, 44),
        Field("RSVD_fsc_44", 236, 16),
        Field("fsc.MODE", 252, 4),
    ),
)

EXTENDED_CONTEXT = Layout(
    "device context",
    "RISC-V IOMMU 3.1.3",
    (
        *BASE_CONTEXT.fields,
        Field("msiptp.PPN", 256, 44),
        Field("RSVD_msiptp_44", 300, 16),
        Field("msiptp.MODE", 316, 4),
        Field("msi_addr_mask.mask", 320, 52),
        Field("RSVD_msi_addr_mask_52", 372, 12),
        Field("msi_addr_pattern.pattern", 384, 52),
        Field("RSVD_msi_addr_pattern_52", 436, 12),
        Field("RSVD_448", 448, 64),
    ),
)

DIRECTORY_RESERVED = DIRECTORY_ENTRY.reserved
"""Reserved bits of a non-leaf entry."""
