"""RISC-V IOMMU (architecture specification 1.0, with the chapter and section numbers of its version 20260222).

That version counts its preface as chapter 1: what older ones have as chapter 2, data structures, is chapter 3 here. Of
other documents are cited the Privileged Architecture, and the Advanced Interrupt Architecture (AIA).
"""

from harness.model.riscv.commands import RiscvIommuCommandError
from harness.model.riscv.engine import RiscvIommuEngine
from harness.model.riscv.faults import (
    RiscvIommuBlocked,
    RiscvIommuCause,
    RiscvIommuFaultRecord,
    RiscvIommuHardwareCause,
)
from harness.model.riscv.pages import SCHEMES, PagingScheme, PteFormat
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.riscv.tables import RiscvIommuTables

__all__ = [
    "SCHEMES",
    "PagingScheme",
    "PteFormat",
    "RiscvIommuBlocked",
    "RiscvIommuCause",
    "RiscvIommuCommandError",
    "RiscvIommuEngine",
    "RiscvIommuFaultRecord",
    "RiscvIommuHardwareCause",
    "RiscvIommuRegisters",
    "RiscvIommuTables",
]
