"""The RISC-V IOMMU registers that matter to translation and to the queues, as raw values and what they say (chapter 6).

Not here: performance counters, the debug translation request, and iommu_qosid, none of which changes an outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from harness.errors import SpecError
from harness.model.riscv.register_fields import CAPABILITIES, DDTP, FCTL

__all__ = ["InterruptGeneration", "IommuMode", "MsiTableEntry", "RiscvIommuRegisters", "capabilities"]

# Offset and bytes of each register (6.1).
_OFFSETS = {
    "capabilities": (0, 8),
    "fctl": (8, 4),
    "ddtp": (16, 8),
    "cqb": (24, 8),
    "cqh": (32, 4),
    "cqt": (36, 4),
    "fqb": (40, 8),
    "fqh": (48, 4),
    "fqt": (52, 4),
    "pqb": (56, 8),
    "pqh": (64, 4),
    "pqt": (68, 4),
    "cqcsr": (72, 4),
    "fqcsr": (76, 4),
    "pqcsr": (80, 4),
    "ipsr": (84, 4),
    "icvec": (760, 8),
}
_MSI_CFG_TBL = 768
_VECTORS = 16


class IommuMode(IntEnum):
    """ddtp.iommu_mode (6.5)."""

    OFF = 0
    BARE = 1
    ONE_LEVEL = 2
    TWO_LEVEL = 3
    THREE_LEVEL = 4


class InterruptGeneration(IntEnum):
    """capabilities.IGS (6.3)."""

    MSI = 0
    WSI = 1
    BOTH = 2


@dataclass(frozen=True, slots=True)
class MsiTableEntry:
    """One entry of msi_cfg_tbl (6.29).

    Attributes:
        address: msi_addr, where the message is written.
        data: msi_data.
        control: msi_vec_ctl; bit 0 masks the vector.
    """

    address: int = 0
    data: int = 0
    control: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RiscvIommuRegisters:
    """The registers of one IOMMU, raw, and what its implementation chose that no register tells.

    Attributes:
        capabilities: 64 bits.
        fctl: 32 bits.
        ddtp: 64 bits.
        cqb, cqh, cqt, cqcsr: of the command queue; 64, 32, 32 and 32 bits.
        fqb, fqh, fqt, fqcsr: of the fault queue.
        pqb, pqh, pqt, pqcsr: of the page-request queue.
        ipsr: 32 bits.
        icvec: 64 bits.
        msi_cfg_tbl: up to 16 entries.
        gxl_writable: software may change fctl.GXL, so DC.tc.SXL may be 1 though GXL is 0 (3.1.4).
        be_writable: software may change fctl.BE, so DC.tc.SBE may differ from it; capabilities.END where left out.
        qos_id_bits: width of RCID and MCID, where capabilities.QOSID is 1 (9.1).
        big_endian_msis: MSIs in big-endian byte order can be stored in a memory-resident interrupt file, as where the
            machine's interrupt files have seteipnum_be (Advanced Interrupt Architecture, MRIF mode).

    Raises:
        SpecError: a value is wider than its register.
    """

    capabilities: int
    fctl: int = 0
    ddtp: int = 0
    cqb: int = 0
    cqh: int = 0
    cqt: int = 0
    cqcsr: int = 0
    fqb: int = 0
    fqh: int = 0
    fqt: int = 0
    fqcsr: int = 0
    pqb: int = 0
    pqh: int = 0
    pqt: int = 0
    pqcsr: int = 0
    ipsr: int = 0
    icvec: int = 0
    msi_cfg_tbl: tuple[MsiTableEntry, ...] = ()
    gxl_writable: bool = False
    be_writable: bool | None = None
    qos_id_bits: int = 12
    big_endian_msis: bool = False

    def __post_init__(self) -> None:
        for name, (_, size) in _OFFSETS.items():
            value = getattr(self, name)
            if not 0 <= value < 1 << 8 * size:
                raise SpecError(f"{name}={value:#x} is not a value of a {8 * size}-bit register")
        if not 0 <= self.qos_id_bits <= 12:
            raise SpecError(f"qos_id_bits={self.qos_id_bits}: RCID and MCID have 0 to 12 bits")
        if len(self.msi_cfg_tbl) > _VECTORS:
            raise SpecError(f"msi_cfg_tbl has {len(self.msi_cfg_tbl)} entries: there are {_VECTORS} vectors")

    @classmethod
    def read(
        cls,
        read: Callable[[int, int], int],
        *,
        gxl_writable: bool = False,
        be_writable: bool | None = None,
        qos_id_bits: int = 12,
        big_endian_msis: bool = False,
    ) -> Self:
        """Read every register of a live IOMMU.

        Args:
            read: gives the value of an MMIO read at an offset (bytes) of a size (4 or 8 bytes).
            gxl_writable: see the class; likewise the rest.
            be_writable: see the class.
            qos_id_bits: see the class.
            big_endian_msis: see the class.
        """
        table = tuple(
            MsiTableEntry(read(entry, 8), read(entry + 8, 4), read(entry + 12, 4))
            for entry in range(_MSI_CFG_TBL, _MSI_CFG_TBL + 16 * _VECTORS, 16)
        )
        values = {name: read(offset, size) for name, (offset, size) in _OFFSETS.items()}
        return cls(
            **values,
            msi_cfg_tbl=table,
            gxl_writable=gxl_writable,
            be_writable=be_writable,
            qos_id_bits=qos_id_bits,
            big_endian_msis=big_endian_msis,
        )

    def has(self, capability: str) -> bool:
        """Whether a field of `CAPABILITIES` is not zero."""
        return bool(CAPABILITIES[capability].get(self.capabilities))

    @property
    def physical_address_size(self) -> int:
        """capabilities.PAS: bits of a physical address (6.3)."""
        return CAPABILITIES["PAS"].get(self.capabilities)

    @property
    def interrupt_generation(self) -> int:
        """capabilities.IGS; 3 is reserved."""
        return CAPABILITIES["IGS"].get(self.capabilities)

    @property
    def iommu_mode(self) -> IommuMode:
        """ddtp.iommu_mode. The field holds legal values only (WARL): any other is taken for Off."""
        mode = DDTP["iommu_mode"].get(self.ddtp)
        return IommuMode(mode) if mode <= IommuMode.THREE_LEVEL else IommuMode.OFF

    @property
    def ddt_root(self) -> int:
        """Physical address of the root device directory table, from ddtp.PPN."""
        return DDTP["PPN"].get(self.ddtp) << 12

    @property
    def extended_contexts(self) -> bool:
        """Device contexts have the extended format of 64 bytes: capabilities.MSI_FLAT (3.1.2)."""
        return self.has("MSI_FLAT")

    @property
    def device_id_bits(self) -> int:
        """Bits of a device_id that ddtp.iommu_mode lets through (3.3 step 5); 24 where there is no directory."""
        shift = 0 if self.extended_contexts else 1
        return {IommuMode.ONE_LEVEL: 6 + shift, IommuMode.TWO_LEVEL: 15 + shift}.get(self.iommu_mode, 24)

    @property
    def process_id_bits(self) -> int:
        """Bits of a process_id, from the widest of PD8, PD17 and PD20 that is there (6.3)."""
        return next((bits for bits in (20, 17, 8) if self.has(f"PD{bits}")), 0)

    @property
    def guest_address_bits(self) -> int:
        """MGPAW, bits of the widest guest physical address (3.1.3.6)."""
        widths = {"Sv57x4": 59, "Sv48x4": 50, "Sv39x4": 41, "Sv32x4": 34}
        return next((bits for name, bits in widths.items() if self.has(name)), self.physical_address_size)

    @property
    def big_endian(self) -> bool:
        """fctl.BE: device directory, second-stage and MSI tables and the queues are big-endian (3.10)."""
        return bool(FCTL["BE"].get(self.fctl))

    @property
    def either_byte_order(self) -> bool:
        """DC.tc.SBE may be 0 or 1: fctl.BE is writable (3.1.4)."""
        return self.has("END") if self.be_writable is None else self.be_writable

    @property
    def wired_interrupts(self) -> bool:
        """fctl.WSI."""
        return bool(FCTL["WSI"].get(self.fctl))

    @property
    def guest_is_32_bit(self) -> bool:
        """fctl.GXL: guest physical addresses are translated by Sv32x4 (6.4)."""
        return bool(FCTL["GXL"].get(self.fctl))


_EVERYTHING = frozenset(
    {"Sv32", "Sv39", "Sv48", "Sv57", "Sv32x4", "Sv39x4", "Sv48x4", "Sv57x4", "Svpbmt", "ATS", "T2GPA"}
    | {"MSI_FLAT", "MSI_MRIF", "AMO_MRIF", "AMO_HWAD", "PD8", "PD17", "PD20"}
)


def capabilities(
    *,
    features: frozenset[str] = _EVERYTHING,
    without: frozenset[str] = frozenset(),
    physical_address_size: int = 56,
    interrupt_generation: InterruptGeneration = InterruptGeneration.BOTH,
    version: int = 0x10,
) -> int:
    """A capabilities register that says so: the mirror image of `RiscvIommuRegisters.has` and its properties.

    Args:
        features: names of one-bit fields of `CAPABILITIES`; what real tables may use, when left out.
        without: names to take out of them.
        physical_address_size: PAS.
        interrupt_generation: IGS.
        version: of the specification, two digits.

    Raises:
        SpecError: no such field, or a value that does not fit.
    """
    numbers = {"version": version, "IGS": interrupt_generation, "PAS": physical_address_size}
    return CAPABILITIES.encode({**dict.fromkeys(features - without, 1), **numbers})
