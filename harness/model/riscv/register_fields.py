"""The fields of the RISC-V IOMMU registers (chapter 6)."""

from __future__ import annotations

from harness.model.bits import Field, Layout

__all__ = ["CAPABILITIES", "CQCSR", "DDTP", "FCTL", "FQCSR", "ICVEC", "IPSR", "PQCSR", "QUEUE_BASE"]

CAPABILITIES = Layout(
    "capabilities",
    "RISC-V IOMMU 6.3",
    (
        Field("version", 0, 8),
        Field("Sv32", 8, 1),
        Field("Sv39", 9, 1),
        Field("Sv48", 10, 1),
        Field("Sv57", 11, 1),
        Field("RSVD_12", 12, 2),
        Field("Svrsw60t59b", 14, 1),
        Field("Svpbmt", 15, 1),
        Field("Sv32x4", 16, 1),
        Field("Sv39x4", 17, 1),
        Field("Sv48x4", 18, 1),
        Field("Sv57x4", 19, 1),
        Field("RSVD_20", 20, 1),
        Field("AMO_MRIF", 21, 1),
        Field("MSI_FLAT", 22, 1),
        Field("MSI_MRIF", 23, 1),
        Field("AMO_HWAD", 24, 1),
        Field("ATS", 25, 1),
        Field("T2GPA", 26, 1),
        Field("END", 27, 1),
        Field("IGS", 28, 2),
        Field("HPM", 30, 1),
        Field("DBG", 31, 1),
        Field("PAS", 32, 6),
        Field("PD8", 38, 1),
        Field("PD17", 39, 1),
        Field("PD20", 40, 1),
        Field("QOSID", 41, 1),
        Field("NL", 42, 1),
        Field("S", 43, 1),
        Field("RSVD_44", 44, 12),
        Field("custom", 56, 8),
    ),
)

FCTL = Layout(
    "fctl",
    "RISC-V IOMMU 6.4",
    (
        Field("BE", 0, 1),
        Field("WSI", 1, 1),
        Field("GXL", 2, 1),
        Field("RSVD_3", 3, 13),
        Field("custom", 16, 16),
    ),
)

DDTP = Layout(
    "ddtp",
    "RISC-V IOMMU 6.5",
    (
        Field("iommu_mode", 0, 4),
        Field("busy", 4, 1),
        Field("RSVD_5", 5, 5),
        Field("PPN", 10, 44),
        Field("RSVD_54", 54, 10),
    ),
)

# cqb, fqb and pqb look the same (6.6, 6.9, 6.12).
QUEUE_BASE = Layout(
    "queue base",
    "RISC-V IOMMU 6.6, 6.9, 6.12",
    (Field("LOG2SZ-1", 0, 5), Field("RSVD_5", 5, 5), Field("PPN", 10, 44), Field("RSVD_54", 54, 10)),
)

CQCSR = Layout(
    "cqcsr",
    "RISC-V IOMMU 6.15",
    (
        Field("cqen", 0, 1),
        Field("cie", 1, 1),
        Field("RSVD_2", 2, 6),
        Field("cqmf", 8, 1),
        Field("cmd_to", 9, 1),
        Field("cmd_ill", 10, 1),
        Field("fence_w_ip", 11, 1),
        Field("RSVD_12", 12, 4),
        Field("cqon", 16, 1),
        Field("busy", 17, 1),
        Field("RSVD_18", 18, 10),
        Field("custom", 28, 4),
    ),
)

FQCSR = Layout(
    "fqcsr",
    "RISC-V IOMMU 6.16",
    (
        Field("fqen", 0, 1),
        Field("fie", 1, 1),
        Field("RSVD_2", 2, 6),
        Field("fqmf", 8, 1),
        Field("fqof", 9, 1),
        Field("RSVD_10", 10, 6),
        Field("fqon", 16, 1),
        Field("busy", 17, 1),
        Field("RSVD_18", 18, 10),
        Field("custom", 28, 4),
    ),
)

PQCSR = Layout(
    "pqcsr",
    "RISC-V IOMMU 6.17",
    (
        Field("pqen", 0, 1),
        Field("pie", 1, 1),
        Field("RSVD_2", 2, 6),
        Field("pqmf", 8, 1),
        Field("pqof", 9, 1),
        Field("RSVD_10", 10, 6),
        Field("pqon", 16, 1),
        Field("busy", 17, 1),
        Field("RSVD_18", 18, 10),
        Field("custom", 28, 4),
    ),
)

IPSR = Layout(
    "ipsr",
    "RISC-V IOMMU 6.18",
    (
        Field("cip", 0, 1),
        Field("fip", 1, 1),
        Field("pmip", 2, 1),
        Field("pip", 3, 1),
        Field("RSVD_4", 4, 4),
        Field("custom", 8, 8),
        Field("RSVD_16", 16, 16),
    ),
)

ICVEC = Layout(
    "icvec",
    "RISC-V IOMMU 6.28",
    (
        Field("civ", 0, 4),
        Field("fiv", 4, 4),
        Field("pmiv", 8, 4),
        Field("piv", 12, 4),
        Field("RSVD_16", 16, 16),
        Field("custom", 32, 32),
    ),
)
