"""Fields of SMMU_IDR0 to SMMU_IDR5, by which an SMMU says what it can do (IHI 0070, 6.3.1 to 6.3.6)."""

from __future__ import annotations

from harness.model.bits import Field, Layout

__all__ = ["IDR0", "IDR1", "IDR3", "IDR5"]

IDR0 = Layout(
    "SMMU_IDR0",
    "IHI 0070 6.3.1",
    (
        Field("S2P", 0, 1),
        Field("S1P", 1, 1),
        Field("TTF", 2, 2),
        Field("COHACC", 4, 1),
        Field("BTM", 5, 1),
        Field("HTTU", 6, 2),
        Field("DORMHINT", 8, 1),
        Field("HYP", 9, 1),
        Field("ATS", 10, 1),
        Field("NS1ATS", 11, 1),
        Field("ASID16", 12, 1),
        Field("MSI", 13, 1),
        Field("SEV", 14, 1),
        Field("ATOS", 15, 1),
        Field("PRI", 16, 1),
        Field("VMW", 17, 1),
        Field("VMID16", 18, 1),
        Field("CD2L", 19, 1),
        Field("VATOS", 20, 1),
        Field("TTENDIAN", 21, 2),
        Field("ATSRECERR", 23, 1),
        Field("STALL_MODEL", 24, 2),
        Field("TERM_MODEL", 26, 1),
        Field("ST_LEVEL", 27, 2),
        Field("RSVD_29", 29, 1),
        Field("RME_IMPL", 30, 1),
        Field("RSVD_31", 31, 1),
    ),
)

IDR1 = Layout(
    "SMMU_IDR1",
    "IHI 0070 6.3.2",
    (
        Field("SIDSIZE", 0, 6),
        Field("SSIDSIZE", 6, 5),
        Field("PRIQS", 11, 5),
        Field("EVENTQS", 16, 5),
        Field("CMDQS", 21, 5),
        Field("ATTR_PERMS_OVR", 26, 1),
        Field("ATTR_TYPES_OVR", 27, 1),
        Field("REL", 28, 1),
        Field("QUEUES_PRESET", 29, 1),
        Field("TABLES_PRESET", 30, 1),
        Field("ECMDQ", 31, 1),
    ),
)

IDR3 = Layout(
    "SMMU_IDR3",
    "IHI 0070 6.3.4",
    (
        Field("RSVD", 0, 2),
        Field("HAD", 2, 1),
        Field("PBHA", 3, 1),
        Field("XNX", 4, 1),
        Field("PPS", 5, 1),
        Field("RSVD_6", 6, 1),
        Field("MPAM", 7, 1),
        Field("FWB", 8, 1),
        Field("STT", 9, 1),
        Field("RIL", 10, 1),
        Field("BBML", 11, 2),
        Field("E0PD", 13, 1),
        Field("PTWNNC", 14, 1),
        Field("DPT", 15, 1),
        Field("PASIDTT", 16, 1),
        Field("EPAN", 17, 1),
        Field("S1PI", 18, 1),
        Field("S2PI", 19, 1),
        Field("S2PO", 20, 1),
        Field("THE", 21, 1),
        Field("MTEPERM", 22, 1),
        Field("AIE", 23, 1),
        Field("RSVD_24", 24, 8),
    ),
)

IDR5 = Layout(
    "SMMU_IDR5",
    "IHI 0070 6.3.6",
    (
        Field("OAS", 0, 3),
        Field("RSVD_3", 3, 1),
        Field("GRAN4K", 4, 1),
        Field("GRAN16K", 5, 1),
        Field("GRAN64K", 6, 1),
        Field("DS", 7, 1),
        Field("D128", 8, 1),
        Field("RSVD_9", 9, 1),
        Field("VAX", 10, 2),
        Field("RSVD_12", 12, 4),
        Field("STALL_MAX", 16, 16),
    ),
)
