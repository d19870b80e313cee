"""What programs for riscv-iommu-pci can cover: faults, pages, commands and register fields that a build has."""

from __future__ import annotations

from harness.model.access import BypassReason
from harness.model.riscv.faults import RiscvIommuCause
from harness.model.riscv.pages import SCHEMES, PteFormat
from harness.model.riscv.register_map import register_map
from harness.model.riscv.registers import RiscvIommuRegisters

__all__ = ["UNREACHABLE", "universe"]

_NO_EXECUTION = "no device of QEMU's that does DMA here reads to execute"
_NO_MESSAGES = "QEMU takes interrupts only of devices that name themselves in a request, which an edu's DMA does not"
_NO_PROCESS = "no device of QEMU's that does DMA here has a process_id"
UNREACHABLE = {
    ("fault", "INSTRUCTION_ACCESS_FAULT"): _NO_EXECUTION,
    ("fault", "INSTRUCTION_PAGE_FAULT"): _NO_EXECUTION,
    ("fault", "INSTRUCTION_GUEST_PAGE_FAULT"): _NO_EXECUTION,
    ("fault", "MSI_PTE_LOAD_ACCESS_FAULT"): _NO_MESSAGES,
    ("fault", "MSI_PTE_NOT_VALID"): _NO_MESSAGES,
    ("fault", "MSI_PTE_MISCONFIGURED"): _NO_MESSAGES,
    ("fault", "MRIF_ACCESS_FAULT"): _NO_MESSAGES,
    ("fault", "IOMMU_MSI_WRITE_ACCESS_FAULT"): "no request has it: it is of the IOMMU's own messages",
}
"""What no program reaches, with the reason."""

_NOT_SET = ("capabilities.", "fqt.", "cqh.", "pqt.", "tr_response.", "iohpm", "iocount", "fctl.")
_HARDWARE = (".cqon", ".fqon", ".pqon", ".busy")
# Nothing here brings about what these bits tell.
_NEVER = (".cmd_to", ".fence_w_ip", ".pqmf", ".pqof", ".pmip", ".pip")


def universe(registers: RiscvIommuRegisters, vectors: int) -> frozenset[tuple[str, str]]:
    """Kinds and names, as a `Coverage` has them."""
    found = {("fault", cause.name) for cause in RiscvIommuCause if _can_fault(registers, cause)}
    found |= {("bypass", why.name) for why in (BypassReason.TRANSLATION_OFF, BypassReason.PASS_THROUGH)}
    for name, scheme in SCHEMES.items():
        if registers.has(name) and not name.startswith("Sv32"):
            found |= {("page", f"{1 << size.shift:#x}") for size in PteFormat(scheme).page_sizes if size.level < 5}
    found |= {("command", name) for name in _commands(registers)}
    for register in register_map(registers, vectors):
        for field in register.layout.fields if register.layout is not None else ():
            full = f"{register.name}.{field.name}"
            settable = field.mask & register.settled & ~register.zeros
            if settable and not full.startswith(_NOT_SET) and not full.endswith((*_HARDWARE, *_NEVER)):
                found.add(("register", full))
    return frozenset(found)


def _can_fault(registers: RiscvIommuRegisters, cause: RiscvIommuCause) -> bool:
    name = cause.name
    if "GUEST_PAGE" in name:
        return registers.has("Sv39x4")
    if name.endswith("PAGE_FAULT") or name.startswith("PDT"):
        return registers.has("Sv39")
    return not name.startswith(("MSI_PTE", "MRIF")) or registers.has("MSI_FLAT")


def _commands(registers: RiscvIommuRegisters) -> list[str]:
    flags = ("", " GV", " AV", " GV AV", " PSCV", " GV PSCV", " AV PSCV", " GV AV PSCV")
    names = [f"IOTINVAL.VMA{flag}" for flag in flags]
    names += ["IOTINVAL.GVMA", "IOTINVAL.GVMA GV", "IOTINVAL.GVMA GV AV", "IOTINVAL.GVMA AV"]
    names += ["IOFENCE.C", "IOFENCE.C AV", "IOFENCE.C PR PW", "IOFENCE.C AV PR PW"]
    names += ["IODIR.INVAL_DDT", "IODIR.INVAL_DDT DV", "illegal"]
    if registers.has("PD8"):
        names.append("IODIR.INVAL_PDT DV")
    if registers.has("ATS"):
        names += ["ATS.INVAL", "ATS.INVAL PV", "ATS.INVAL DSV", "ATS.PRGR"]
    return names
