"""The fields of the AMD-Vi registers (AMD-Vi 3.2 and 3.4)."""

from __future__ import annotations

from harness.model.bits import Field, Layout

__all__ = [
    "BUFFER_BASE",
    "BUFFER_POINTER",
    "CAPABILITY_HEADER",
    "CONTROL",
    "DEVICE_TABLE_BASE",
    "EXCLUSION_BASE",
    "EXCLUSION_LIMIT",
    "EXTENDED_FEATURE",
    "EXTENDED_FEATURE_2",
    "STATUS",
    "XT_INTERRUPT",
]

_MMIO = "AMD-Vi 3.4"

# Capability header of the PCI function, offset 00h of the capability block (AMD-Vi 3.2).
CAPABILITY_HEADER = Layout(
    "capability header",
    "AMD-Vi 3.2",
    (
        Field("CapId", 0, 8),
        Field("CapPtr", 8, 8),
        Field("CapType", 16, 3),
        Field("CapRev", 19, 5),
        Field("IotlbSup", 24, 1),
        Field("HtTunnel", 25, 1),
        Field("NpCache", 26, 1),
        Field("EFRSup", 27, 1),
        Field("CapExt", 28, 1),
        Field("RSVD_29", 29, 3),
    ),
)

# MMIO offset 0000h; the segment registers at 0100h to 0130h are the same.
DEVICE_TABLE_BASE = Layout(
    "device table base",
    _MMIO,
    (Field("Size", 0, 9), Field("RSVD_9", 9, 3), Field("DevTabBase", 12, 40, in_place=True), Field("RSVD_52", 52, 12)),
)

# MMIO offsets 0008h and 0010h: the command buffer and the event log.
BUFFER_BASE = Layout(
    "buffer base",
    _MMIO,
    (
        Field("RSVD_0", 0, 12),
        Field("Base", 12, 40, in_place=True),
        Field("RSVD_52", 52, 4),
        Field("Len", 56, 4),
        Field("RSVD_60", 60, 4),
    ),
)

# MMIO offsets 2000h to 2018h: head and tail of the command buffer and of the event log, bytes from its base.
BUFFER_POINTER = Layout(
    "buffer pointer", _MMIO, (Field("RSVD_0", 0, 4), Field("Pointer", 4, 15, in_place=True), Field("RSVD_19", 19, 45))
)

# MMIO offset 0018h.
CONTROL = Layout(
    "IOMMU control",
    _MMIO,
    (
        Field("IommuEn", 0, 1),
        Field("HtTunEn", 1, 1),
        Field("EventLogEn", 2, 1),
        Field("EventIntEn", 3, 1),
        Field("ComWaitIntEn", 4, 1),
        Field("InvTimeOut", 5, 3),
        Field("PassPW", 8, 1),
        Field("ResPassPW", 9, 1),
        Field("Coherent", 10, 1),
        Field("Isoc", 11, 1),
        Field("CmdBufEn", 12, 1),
        Field("PPRLogEn", 13, 1),
        Field("PPRIntEn", 14, 1),
        Field("PPREn", 15, 1),
        Field("GTEn", 16, 1),
        Field("GAEn", 17, 1),
        Field("CRW", 18, 4),
        Field("SmiFEn", 22, 1),
        Field("SlfWBdis", 23, 1),
        Field("SmiFLogEn", 24, 1),
        Field("GAMEn", 25, 3),
        Field("GALogEn", 28, 1),
        Field("GAIntEn", 29, 1),
        Field("DualPprLogEn", 30, 2),
        Field("DualEventLogEn", 32, 2),
        Field("DevTblSegEn", 34, 3),
        Field("PrivAbrtEn", 37, 2),
        Field("PprAutoRspEn", 39, 1),
        Field("MarcEn", 40, 1),
        Field("BlkStopMrkEn", 41, 1),
        Field("PprAutoRspAon", 42, 1),
        Field("NumIntRemapMode", 43, 2),
        Field("EPHEn", 45, 1),
        Field("HADUpdate", 46, 2),
        Field("GDUpdateDis", 48, 1),
        Field("RSVD_49", 49, 1),
        Field("XTEn", 50, 1),
        Field("IntCapXTEn", 51, 1),
        Field("RSVD_52", 52, 2),
        Field("GAUpdateDis", 54, 1),
        Field("RSVD_55", 55, 9),
    ),
)

# MMIO offset 0020h.
EXCLUSION_BASE = Layout(
    "exclusion range base",
    _MMIO,
    (
        Field("ExEn", 0, 1),
        Field("Allow", 1, 1),
        Field("RSVD_2", 2, 10),
        Field("Base", 12, 40, in_place=True),
        Field("RSVD_52", 52, 12),
    ),
)

# MMIO offset 0028h; bits 11:0 count as ones.
EXCLUSION_LIMIT = Layout(
    "exclusion range limit",
    _MMIO,
    (Field("RSVD_0", 0, 12), Field("Limit", 12, 40, in_place=True), Field("RSVD_52", 52, 12)),
)

# MMIO offset 0030h.
EXTENDED_FEATURE = Layout(
    "extended feature",
    _MMIO,
    (
        Field("PreFSup", 0, 1),
        Field("PPRSup", 1, 1),
        Field("XTSup", 2, 1),
        Field("NXSup", 3, 1),
        Field("GTSup", 4, 1),
        Field("GAPPISup", 5, 1),
        Field("IASup", 6, 1),
        Field("GASup", 7, 1),
        Field("HESup", 8, 1),
        Field("PCSup", 9, 1),
        Field("HATS", 10, 2),
        Field("GATS", 12, 2),
        Field("GLXSup", 14, 2),
        Field("SmiFSup", 16, 2),
        Field("SmiFRC", 18, 3),
        Field("GAMSup", 21, 3),
        Field("DualPprLogSup", 24, 2),
        Field("RSVD_26", 26, 2),
        Field("DualEventLogSup", 28, 2),
        Field("RSVD_30", 30, 2),
        Field("PASMax", 32, 5),
        Field("USSup", 37, 1),
        Field("DevTblSegSup", 38, 2),
        Field("PprOvrflwEarlySup", 40, 1),
        Field("PprAutoRspSup", 41, 1),
        Field("MarcSup", 42, 2),
        Field("BlkStopMrkSup", 44, 1),
        Field("PerfOptSup", 45, 1),
        Field("MsiCapMmioSup", 46, 1),
        Field("RSVD_47", 47, 1),
        Field("GIoSup", 48, 1),
        Field("HASup", 49, 1),
        Field("EPHSup", 50, 1),
        Field("AttrFWSup", 51, 1),
        Field("HDSup", 52, 1),
        Field("RSVD_53", 53, 1),
        Field("InvIotlbTypeSup", 54, 1),
        Field("vImuSup", 55, 1),
        Field("RSVD_56", 56, 5),
        Field("GAUpdateDisSup", 61, 1),
        Field("ForcePhyDestSup", 62, 1),
        Field("SNPSup", 63, 1),
    ),
)

# MMIO offset 01A0h; of its fields those that the model looks at.
EXTENDED_FEATURE_2 = Layout("extended feature 2", _MMIO, (Field("NumIntRemapSup", 8, 2), Field("HTRangeIgnore", 11, 1)))

# MMIO offset 2020h.
STATUS = Layout(
    "IOMMU status",
    _MMIO,
    (
        Field("EventOverflow", 0, 1),
        Field("EventLogInt", 1, 1),
        Field("ComWaitInt", 2, 1),
        Field("EventLogRun", 3, 1),
        Field("CmdBufRun", 4, 1),
        Field("PprOverflow", 5, 1),
        Field("PprInt", 6, 1),
        Field("PprLogRun", 7, 1),
        Field("GALogRun", 8, 1),
        Field("GALOverflow", 9, 1),
        Field("GAInt", 10, 1),
    ),
)

# MMIO offset 0170h: the interrupt that the IOMMU itself sends while IntCapXTEn is set.
XT_INTERRUPT = Layout(
    "XT IOMMU general interrupt control",
    _MMIO,
    (
        Field("RSVD_0", 0, 2),
        Field("DM", 2, 1),
        Field("RSVD_3", 3, 5),
        Field("Destination", 8, 24),
        Field("Vector", 32, 8),
        Field("RSVD_40", 40, 16),
        Field("DestinationHi", 56, 8),
    ),
)
