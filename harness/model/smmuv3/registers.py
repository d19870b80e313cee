"""The SMMUv3 registers that matter to translation, commands and events: the Non-secure programming interface.

IHI 0070, chapter 6. What the SMMU can do is in `harness.model.smmuv3.capabilities`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

from harness.errors import SpecError
from harness.model.access import MemoryWrite
from harness.model.bits import Field, Layout
from harness.model.smmuv3.capabilities import Smmuv3Capabilities

__all__ = [
    "CR0",
    "CR2",
    "GBPA",
    "GERROR",
    "IRQ_CTRL",
    "QUEUE_BASE",
    "QUEUE_CONS",
    "QUEUE_PROD",
    "REGISTER_OFFSETS",
    "STRTAB_BASE",
    "STRTAB_BASE_CFG",
    "Queue",
    "Smmuv3Registers",
]

CR0 = Layout(
    "SMMU_CR0",
    "IHI 0070 6.3.9",
    (
        Field("SMMUEN", 0, 1),
        Field("PRIQEN", 1, 1),
        Field("EVENTQEN", 2, 1),
        Field("CMDQEN", 3, 1),
        Field("ATSCHK", 4, 1),
        Field("RSVD_5", 5, 1),
        Field("VMW", 6, 3),
        Field("RSVD_9", 9, 1),
        Field("DPT_WALK_EN", 10, 1),
        Field("RSVD_11", 11, 21),
    ),
)

CR2 = Layout(
    "SMMU_CR2",
    "IHI 0070 6.3.12",
    (
        Field("E2H", 0, 1),
        Field("RECINVSID", 1, 1),
        Field("PTM", 2, 1),
        Field("REC_CFG_ATS", 3, 1),
        Field("RSVD", 4, 28),
    ),
)

GBPA = Layout(
    "SMMU_GBPA",
    "IHI 0070 6.3.14",
    (
        Field("MEMATTR", 0, 4),
        Field("MTCFG", 4, 1),
        Field("RSVD_5", 5, 3),
        Field("ALLOCCFG", 8, 4),
        Field("SHCFG", 12, 2),
        Field("RSVD_14", 14, 2),
        Field("PRIVCFG", 16, 2),
        Field("INSTCFG", 18, 2),
        Field("ABORT", 20, 1),
        Field("RSVD_21", 21, 10),
        Field("UPDATE", 31, 1),
    ),
)

IRQ_CTRL = Layout(
    "SMMU_IRQ_CTRL",
    "IHI 0070 6.3.16",
    (
        Field("GERROR_IRQEN", 0, 1),
        Field("PRIQ_IRQEN", 1, 1),
        Field("EVENTQ_IRQEN", 2, 1),
        Field("RSVD", 3, 29),
    ),
)

# GERRORN has the same fields; an error is active where the two differ.
GERROR = Layout(
    "SMMU_GERROR",
    "IHI 0070 6.3.19",
    (
        Field("CMDQ_ERR", 0, 1),
        Field("RSVD_1", 1, 1),
        Field("EVENTQ_ABT_ERR", 2, 1),
        Field("PRIQ_ABT_ERR", 3, 1),
        Field("MSI_CMDQ_ABT_ERR", 4, 1),
        Field("MSI_EVENTQ_ABT_ERR", 5, 1),
        Field("MSI_PRIQ_ABT_ERR", 6, 1),
        Field("MSI_GERROR_ABT_ERR", 7, 1),
        Field("SFM_ERR", 8, 1),
        Field("CMDQP_ERR", 9, 1),
        Field("DPT_ERR", 10, 1),
        Field("RSVD_11", 11, 21),
    ),
)

STRTAB_BASE = Layout(
    "SMMU_STRTAB_BASE",
    "IHI 0070 6.3.24",
    (
        Field("RSVD", 0, 6),
        Field("ADDR", 6, 50, in_place=True),
        Field("RSVD_56", 56, 6),
        Field("RA", 62, 1),
        Field("RSVD_63", 63, 1),
    ),
)

STRTAB_BASE_CFG = Layout(
    "SMMU_STRTAB_BASE_CFG",
    "IHI 0070 6.3.25",
    (
        Field("LOG2SIZE", 0, 6),
        Field("SPLIT", 6, 5),
        Field("RSVD_11", 11, 5),
        Field("FMT", 16, 2),
        Field("RSVD_18", 18, 14),
    ),
)

QUEUE_BASE = Layout(
    "SMMU_CMDQ_BASE, SMMU_EVENTQ_BASE",
    "IHI 0070 6.3.26, 6.3.29",
    (
        Field("LOG2SIZE", 0, 5),
        Field("ADDR", 5, 51, in_place=True),
        Field("RSVD_56", 56, 6),
        Field("ALLOCATE", 62, 1),
        Field("RSVD_63", 63, 1),
    ),
)

# OVFLG is EVENTQ_PROD's alone; ERR is CMDQ_CONS's, OVACKFLG EVENTQ_CONS's.
QUEUE_PROD = Layout(
    "SMMU_CMDQ_PROD, SMMU_EVENTQ_PROD",
    "IHI 0070 6.3.27, 6.3.95",
    (Field("WR", 0, 20), Field("RSVD", 20, 11), Field("OVFLG", 31, 1)),
)
QUEUE_CONS = Layout(
    "SMMU_CMDQ_CONS, SMMU_EVENTQ_CONS",
    "IHI 0070 6.3.28, 6.3.96",
    (Field("RD", 0, 20), Field("RSVD", 20, 4), Field("ERR", 24, 7), Field("OVACKFLG", 31, 1)),
)

# Offset and size in bytes of each register. CR0 and IRQ_CTRL are read as the SMMU has acknowledged them (CR0ACK,
# IRQ_CTRLACK); the Event queue's indexes are in page 1 (6.2.2).
REGISTER_OFFSETS = {
    "cr0": (0x24, 4),
    "cr2": (0x2C, 4),
    "gbpa": (0x44, 4),
    "irq_ctrl": (0x54, 4),
    "gerror": (0x60, 4),
    "gerrorn": (0x64, 4),
    "gerror_irq_cfg0": (0x68, 8),
    "gerror_irq_cfg1": (0x70, 4),
    "strtab_base": (0x80, 8),
    "strtab_base_cfg": (0x88, 4),
    "cmdq_base": (0x90, 8),
    "cmdq_prod": (0x98, 4),
    "cmdq_cons": (0x9C, 4),
    "eventq_base": (0xA0, 8),
    "eventq_prod": (0x100A8, 4),
    "eventq_cons": (0x100AC, 4),
    "eventq_irq_cfg0": (0xB0, 8),
    "eventq_irq_cfg1": (0xB8, 4),
}
_CAPABILITY_OFFSETS = {"idr0": 0x0, "idr1": 0x4, "idr3": 0xC, "idr5": 0x14}
# IRQ_CFG0.ADDR[55:2].
_MSI_ADDRESS = ((1 << 56) - 1) & ~0b11


class Queue(NamedTuple):
    """A circular queue as its registers have it (3.5.1).

    Attributes:
        base: address of its first entry.
        bits: log2 of the number of entries.
        producer: write index with its wrap flag on top.
        consumer: read index, likewise.
    """

    base: int
    bits: int
    producer: int
    consumer: int

    @classmethod
    def of(cls, base: int, producer: int, consumer: int, entry_size: int, most: int, address_bits: int) -> Self:
        """From the registers, as they read.

        Args:
            base: of the queue.
            producer: PROD.
            consumer: CONS.
            entry_size: bytes.
            most: log2 of the largest number of entries (IDR1).
            address_bits: OAS.
        """
        # LOG2SIZE is capped at what IDR1 says; the base is aligned to the queue's size, at least 32 bytes, and
        # truncated to the OAS (6.3.26, 3.4.3).
        bits = min(QUEUE_BASE["LOG2SIZE"].get(base), most)
        size = max(entry_size << bits, 32)
        address = QUEUE_BASE["ADDR"].get(base) & -size & ((1 << address_bits) - 1)
        mask = (2 << bits) - 1
        return cls(address, bits, producer & mask, consumer & mask)

    @property
    def used(self) -> int:
        """Entries between the indexes; more than there are where the indexes are inconsistent."""
        return (self.producer - self.consumer) % (2 << self.bits)

    @property
    def size(self) -> int:
        """Entries that there are."""
        return 1 << self.bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Smmuv3Registers:
    """The registers of one SMMU, each as it reads.

    Attributes:
        capabilities: SMMU_IDR0 to IDR5.
        cr0: as acknowledged in SMMU_CR0ACK.
        cr2: SMMU_CR2. (SMMU_CR1 holds only memory attributes of the SMMU's own accesses.)
        gbpa: SMMU_GBPA.
        irq_ctrl: as acknowledged in SMMU_IRQ_CTRLACK.
        gerror: SMMU_GERROR.
        gerrorn: SMMU_GERRORN.
        gerror_irq_cfg0: address of the GERROR message.
        gerror_irq_cfg1: its data.
        strtab_base: SMMU_STRTAB_BASE.
        strtab_base_cfg: SMMU_STRTAB_BASE_CFG.
        cmdq_base: SMMU_CMDQ_BASE.
        cmdq_prod: SMMU_CMDQ_PROD.
        cmdq_cons: SMMU_CMDQ_CONS.
        eventq_base: SMMU_EVENTQ_BASE.
        eventq_prod: SMMU_EVENTQ_PROD.
        eventq_cons: SMMU_EVENTQ_CONS.
        eventq_irq_cfg0: address of the Event queue's message.
        eventq_irq_cfg1: its data.

    Raises:
        SpecError: a value is wider than its register.
    """

    capabilities: Smmuv3Capabilities
    cr0: int = 0
    cr2: int = 0
    gbpa: int = 0
    irq_ctrl: int = 0
    gerror: int = 0
    gerrorn: int = 0
    gerror_irq_cfg0: int = 0
    gerror_irq_cfg1: int = 0
    strtab_base: int = 0
    strtab_base_cfg: int = 0
    cmdq_base: int = 0
    cmdq_prod: int = 0
    cmdq_cons: int = 0
    eventq_base: int = 0
    eventq_prod: int = 0
    eventq_cons: int = 0
    eventq_irq_cfg0: int = 0
    eventq_irq_cfg1: int = 0

    def __post_init__(self) -> None:
        for name, (_, size) in REGISTER_OFFSETS.items():
            value = getattr(self, name)
            if not 0 <= value < 1 << 8 * size:
                raise SpecError(f"{name}={value:#x} is not a value of a {8 * size}-bit register")

    @classmethod
    def read(cls, read: Callable[[int, int], int]) -> Self:
        """Read every register of a live SMMU, those of 64 bits in two halves, as 6.2 allows.

        Args:
            read: takes the offset from the SMMU's base and a size of 4 bytes, and gives the value.
        """

        def read_register(at: int, size: int) -> int:
            return read(at, 4) | (read(at + 4, 4) << 32 if size == 8 else 0)

        return cls(
            capabilities=Smmuv3Capabilities(**{name: read(at, 4) for name, at in _CAPABILITY_OFFSETS.items()}),
            **{name: read_register(at, size) for name, (at, size) in REGISTER_OFFSETS.items()},
        )

    @property
    def enabled(self) -> bool:
        """CR0.SMMUEN."""
        return bool(CR0["SMMUEN"].get(self.cr0))

    @property
    def events_enabled(self) -> bool:
        """CR0.EVENTQEN."""
        return bool(CR0["EVENTQEN"].get(self.cr0))

    @property
    def commands_enabled(self) -> bool:
        """CR0.CMDQEN."""
        return bool(CR0["CMDQEN"].get(self.cr0))

    @property
    def checks_translated(self) -> bool:
        """CR0.ATSCHK: requests that devices have translated are checked against their STE."""
        return bool(CR0["ATSCHK"].get(self.cr0))

    @property
    def wildcard_bits(self) -> int:
        """CR0.VMW: low bits of a VMID that invalidations do not compare; reserved values and no IDR0.VMW give 0."""
        value = CR0["VMW"].get(self.cr0) if self.capabilities.vmid_wildcards else 0
        return value if value <= 4 else 0

    @property
    def el2_host(self) -> bool:
        """CR2.E2H: EL2 streams are of the NS-EL2-E2H StreamWorld."""
        return bool(CR2["E2H"].get(self.cr2))

    @property
    def records_bad_stream_ids(self) -> bool:
        """CR2.RECINVSID: C_BAD_STREAMID is recorded."""
        return bool(CR2["RECINVSID"].get(self.cr2))

    @property
    def records_ats_errors(self) -> bool:
        """CR2.REC_CFG_ATS: configuration errors that ATS requests meet are recorded."""
        return bool(CR2["REC_CFG_ATS"].get(self.cr2))

    @property
    def aborts_when_disabled(self) -> bool:
        """GBPA.ABORT."""
        return bool(GBPA["ABORT"].get(self.gbpa))

    @property
    def stream_table(self) -> int:
        """STRTAB_BASE.ADDR, aligned to the size of the table (6.3.24)."""
        entry_bits = 3 if self.split_bits is not None else 6
        size_bits = max(self.stream_table_bits - (self.split_bits or 0), 0) + entry_bits
        return STRTAB_BASE["ADDR"].get(self.strtab_base) >> size_bits << size_bits

    @property
    def stream_table_bits(self) -> int:
        """LOG2SIZE, at most IDR1.SIDSIZE."""
        return min(STRTAB_BASE_CFG["LOG2SIZE"].get(self.strtab_base_cfg), self.capabilities.stream_id_bits)

    @property
    def split_bits(self) -> int | None:
        """SPLIT of a two-level stream table; None for a linear one. Reserved values of FMT are linear, of SPLIT 6."""
        if not self.capabilities.two_level_streams or STRTAB_BASE_CFG["FMT"].get(self.strtab_base_cfg) != 1:
            return None
        split = STRTAB_BASE_CFG["SPLIT"].get(self.strtab_base_cfg)
        return split if split in (6, 8, 10) else 6

    @property
    def command_queue(self) -> Queue:
        """The Command queue, of entries of 16 bytes."""
        return self._queue(self.cmdq_base, self.cmdq_prod, self.cmdq_cons, 16, self.capabilities.command_queue_bits)

    @property
    def event_queue(self) -> Queue:
        """The Event queue, of entries of 32 bytes."""
        return self._queue(self.eventq_base, self.eventq_prod, self.eventq_cons, 32, self.capabilities.event_queue_bits)

    def error_is_active(self, name: str) -> bool:
        """Whether GERROR and GERRORN differ in a field (7.5)."""
        return bool(GERROR[name].get(self.gerror ^ self.gerrorn))

    def message(self, source: str) -> MemoryWrite | None:
        """The message of an interrupt source, "gerror" or "eventq": a write of 32 bits to a physical address (3.18.1).

        None where the source is not enabled, the SMMU has no messages, or the address is 0.
        """
        address = getattr(self, f"{source}_irq_cfg0") & _MSI_ADDRESS
        enabled = IRQ_CTRL[f"{source.upper()}_IRQEN"].get(self.irq_ctrl)
        if not enabled or not address or not self.capabilities.msi:
            return None
        data: int = getattr(self, f"{source}_irq_cfg1")
        # 3.4.3: addresses of messages are truncated to the OAS.
        return MemoryWrite(address & ((1 << self.capabilities.address_bits) - 1), data.to_bytes(4, "little"))

    def _queue(self, base: int, producer: int, consumer: int, entry_size: int, most: int) -> Queue:
        return Queue.of(base, producer, consumer, entry_size, most, self.capabilities.address_bits)
