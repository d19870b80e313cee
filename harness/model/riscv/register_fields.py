"""The fields of the RISC-V IOMMU registers (chapter 6)."""

from __future__ import annotations

from harness.model.bits import Field, Layout

__all__ = [
    "CAPABILITIES",
    "CQCSR",
    "CYCLES",
    "DDTP",
    "EVENT_COUNTER",
    "EVENT_SELECTOR",
    "FCTL",
    "FQCSR",
    "ICVEC",
    "INDEX",
    "IPSR",
    "MSI_ADDRESS",
    "MSI_DATA",
    "MSI_VECTOR_CONTROL",
    "OVERFLOWS",
    "PQCSR",
    "QOS_ID",
    "QUEUE_BASE",
    "TR_REQ_CTL",
    "TR_REQ_IOVA",
    "TR_RESPONSE",
]

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

# cqh, cqt, fqh, fqt, pqh and pqt look the same (6.7, 6.8, 6.10, 6.11, 6.13, 6.14).
INDEX = Layout("queue index", "RISC-V IOMMU 6.7, 6.8, 6.10, 6.11, 6.13, 6.14", (Field("index", 0, 32),))

# iocountovf and iocountinh look the same (6.19, 6.20).
OVERFLOWS = Layout("counter bits", "RISC-V IOMMU 6.19, 6.20", (Field("CY", 0, 1), Field("HPM", 1, 31)))

CYCLES = Layout("iohpmcycles", "RISC-V IOMMU 6.21", (Field("counter", 0, 63), Field("OF", 63, 1)))

EVENT_COUNTER = Layout("iohpmctr", "RISC-V IOMMU 6.22", (Field("counter", 0, 64),))

EVENT_SELECTOR = Layout(
    "iohpmevt",
    "RISC-V IOMMU 6.23",
    (
        Field("eventID", 0, 15),
        Field("DMASK", 15, 1),
        Field("PID_PSCID", 16, 20),
        Field("DID_GSCID", 36, 24),
        Field("PV_PSCV", 60, 1),
        Field("DV_GSCV", 61, 1),
        Field("IDT", 62, 1),
        Field("OF", 63, 1),
    ),
)

TR_REQ_IOVA = Layout("tr_req_iova", "RISC-V IOMMU 6.24", (Field("RSVD_0", 0, 12), Field("vpn", 12, 52)))

TR_REQ_CTL = Layout(
    "tr_req_ctl",
    "RISC-V IOMMU 6.25",
    (
        Field("Go/Busy", 0, 1),
        Field("Priv", 1, 1),
        Field("Exe", 2, 1),
        Field("NW", 3, 1),
        Field("RSVD_4", 4, 8),
        Field("PID", 12, 20),
        Field("PV", 32, 1),
        Field("RSVD_33", 33, 3),
        Field("custom", 36, 4),
        Field("DID", 40, 24),
    ),
)

TR_RESPONSE = Layout(
    "tr_response",
    "RISC-V IOMMU 6.26",
    (
        Field("fault", 0, 1),
        Field("RSVD_1", 1, 6),
        Field("PBMT", 7, 2),
        Field("S", 9, 1),
        Field("PPN", 10, 44),
        Field("RSVD_54", 54, 6),
        Field("custom", 60, 4),
    ),
)

QOS_ID = Layout(
    "iommu_qosid",
    "RISC-V IOMMU 6.27",
    (Field("RCID", 0, 12), Field("RSVD_12", 12, 4), Field("MCID", 16, 12), Field("RSVD_28", 28, 4)),
)

MSI_ADDRESS = Layout(
    "msi_addr", "RISC-V IOMMU 6.29", (Field("RSVD_0", 0, 2), Field("ADDR", 2, 54), Field("RSVD_56", 56, 8))
)

MSI_DATA = Layout("msi_data", "RISC-V IOMMU 6.29", (Field("data", 0, 32),))

MSI_VECTOR_CONTROL = Layout("msi_vec_ctl", "RISC-V IOMMU 6.29", (Field("M", 0, 1), Field("RSVD_1", 1, 31)))
