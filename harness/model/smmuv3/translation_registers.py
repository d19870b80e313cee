"""The registers of an SMMU that a translation depends on, as they are, and what is not known of them (IHI 0070 6.3)."""

from __future__ import annotations

from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.register_file import RegisterFile
from harness.model.smmuv3.register_map import REGISTERS
from harness.model.smmuv3.registers import CR0, CR2, GBPA, STRTAB_BASE, Smmuv3Registers

__all__ = ["other_bypass", "translation_registers", "unknown_register"]

_CR0, _CR2, _GBPA, _STRTAB_BASE, _STRTAB_BASE_CFG = (
    REGISTERS[f"SMMU_{name}"].start for name in ("CR0", "CR2", "GBPA", "STRTAB_BASE", "STRTAB_BASE_CFG")
)
_OF_TRANSLATION = CR0["SMMUEN"].mask | CR0["ATSCHK"].mask | CR0["VMW"].mask
_RECINVSID, _E2H, _ABORT = CR2["RECINVSID"].mask, CR2["E2H"].mask, GBPA["ABORT"].mask
_ADDRESS = STRTAB_BASE["ADDR"].mask


def translation_registers(file: RegisterFile, capabilities: Smmuv3Capabilities) -> Smmuv3Registers:
    """Those that outcomes depend on, with the values that they have; the others are zero."""
    cr2 = file.value(_CR2)
    if not file.known(_CR2) & _RECINVSID:
        # What it permits is not more than what both of its values do.
        cr2 |= _RECINVSID
    return Smmuv3Registers(
        capabilities=capabilities,
        cr0=file.value(_CR0) & _OF_TRANSLATION,
        cr2=cr2,
        gbpa=file.value(_GBPA) & _ABORT,
        strtab_base=file.value64(_STRTAB_BASE) & _ADDRESS,
        strtab_base_cfg=file.value(_STRTAB_BASE_CFG),
    )


def unknown_register(file: RegisterFile) -> str | None:
    """Which register enabled translation depends on without its being known; None where all are."""
    fields = (
        ("SMMU_STRTAB_BASE", ~file.known64(_STRTAB_BASE) & _ADDRESS),
        ("SMMU_STRTAB_BASE_CFG", ~file.known(_STRTAB_BASE_CFG) & file.fields(_STRTAB_BASE_CFG)),
        ("SMMU_CR2", ~file.known(_CR2) & file.fields(_CR2) & _E2H),
    )
    return next((name for name, unknown in fields if unknown), None)


def other_bypass(file: RegisterFile) -> int | None:
    """GBPA.ABORT as it may be as well, where it is not known; else None."""
    return None if file.known(_GBPA) & _ABORT else file.value(_GBPA) & _ABORT ^ _ABORT
