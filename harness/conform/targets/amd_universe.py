"""What programs for amd-iommu can cover: faults, pages, commands and register fields that a build's IOMMU has."""

from __future__ import annotations

from harness.model.access import BypassReason
from harness.model.amdvi.commands import AmdviOpcode
from harness.model.amdvi.faults import AmdviFaultReason
from harness.model.amdvi.host_tables import host_level_shift
from harness.model.amdvi.register_map import register_map
from harness.model.amdvi.registers import AmdviRegisters

__all__ = ["UNREACHABLE", "universe"]

_NO_ATS = "no device of QEMU's that does DMA here makes ATS requests"
_NO_PASID = "no device of QEMU's that does DMA here has a PASID"
UNREACHABLE = {
    ("fault", AmdviFaultReason.TRANSLATED_REQUEST.name): _NO_ATS,
    ("fault", AmdviFaultReason.TRANSLATION_REQUEST.name): _NO_ATS,
    ("fault", AmdviFaultReason.TRANSLATION_REQUEST_ADDRESS.name): _NO_ATS,
    ("fault", AmdviFaultReason.TRANSLATION_REQUEST_DEVICE.name): _NO_ATS,
    ("fault", AmdviFaultReason.INTERRUPT_WITH_PASID.name): _NO_PASID,
    ("fault", AmdviFaultReason.PASID_NOT_ENABLED.name): _NO_PASID,
    ("fault", AmdviFaultReason.PASID_BEYOND_TABLE.name): _NO_PASID,
}
"""What no program reaches, with the reason."""

_GUEST = frozenset({"NOT_CANONICAL", "SUPERVISOR_PAGE", "GCR3_NOT_PRESENT", "GCR3_RESERVED"})
_INTERRUPTS = frozenset(
    {
        *("INTERRUPT_BEYOND_TABLE", "INTERRUPT_NOT_ENABLED", "INTERRUPT_ENTRY_RESERVED", "INTERRUPT_TYPE"),
        *("INTERRUPT_ABORTED", "INTERRUPT_TABLE_ACCESS", "DTE_INTERRUPT_CONTROL", "DTE_INTERRUPT_TABLE_LENGTH"),
        *("INTERRUPT_CONTROL",),
    }
)


def universe(registers: AmdviRegisters, *, interrupts: bool) -> frozenset[tuple[str, str]]:
    """Kinds and names, as a `Coverage` has them."""
    left_out = set() if registers.feature("GIoSup") and registers.feature("GTSup") else set(_GUEST)
    if not interrupts:
        left_out |= _INTERRUPTS
    found = {("fault", why.name) for why in AmdviFaultReason if why.name not in left_out}
    found |= {
        ("bypass", why.name)
        for why in (
            *(BypassReason.TRANSLATION_OFF, BypassReason.PASS_THROUGH, BypassReason.ENTRY_NOT_VALID),
            BypassReason.EXCLUSION_RANGE,
        )
    }
    if interrupts:
        found |= {("interrupt", "remapped"), ("interrupt", "as it is")}
    found |= {("page", f"{1 << host_level_shift(level):#x}") for level in range(1, 6)}
    found |= {("page", f"{1 << shift:#x}") for shift in range(13, 21)}
    found |= {("command", name) for name in _commands()}
    for register in register_map(registers):
        for field in register.layout.fields if register.layout is not None else ():
            if field.mask & (register.writable | register.clears) and not field.name.startswith("RSVD"):
                found.add(("register", f"{register.name}.{field.name}"))
    return frozenset(found)


def _commands() -> list[str]:
    invalidate = AmdviOpcode.INVALIDATE_IOMMU_PAGES.name
    return [
        *("COMPLETION_WAIT s", "COMPLETION_WAIT s i", "COMPLETION_WAIT i", "COMPLETION_WAIT s f"),
        *(f"{invalidate} size 4 KiB", f"{invalidate} PDE size 4 KiB", f"{invalidate} PDE size 2 MiB"),
        f"{invalidate} PDE every page",
        *(AmdviOpcode.INVALIDATE_DEVTAB_ENTRY.name, AmdviOpcode.INVALIDATE_INTERRUPT_TABLE.name),
        *(AmdviOpcode.INVALIDATE_IOMMU_ALL.name, f"{AmdviOpcode.INVALIDATE_IOTLB_PAGES.name} size 4 KiB"),
        *(f"{AmdviOpcode.PREFETCH_IOMMU_PAGES.name} size 4 KiB", "opcode 0x0"),
    ]
