"""What programs for intel-iommu can cover: faults, pages, commands and register fields that a build's IOMMU has."""

from __future__ import annotations

from harness.conform.targets.intel_plan import Plan
from harness.model.access import BypassReason
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.register_layouts import TranslationTableMode
from harness.model.vtd.register_map import register_map
from harness.model.vtd.registers import VtdRegisters

__all__ = ["UNREACHABLE", "universe"]

_NO_ATS = "no device of QEMU's that does DMA here makes ATS requests"
_NO_PASID = "no device of QEMU's that does DMA here has a PASID"
_NO_PAGE_REQUESTS = "no device of QEMU's that does DMA here makes page requests"
_NO_CAPABILITY = "the hardware would have to say that it has the feature"
UNREACHABLE: dict[tuple[str, str], str] = {
    ("fault", VtdFaultReason.TRANSLATION_TYPE_BLOCKS.name): _NO_ATS,
    ("fault", VtdFaultReason.DEVICE_TLB_DISABLED.name): _NO_ATS,
    ("fault", VtdFaultReason.BEYOND_HOST_PERMISSIONS.name): _NO_ATS,
    ("fault", VtdFaultReason.TRANSLATED_PASID_DISABLED.name): _NO_ATS,
    ("fault", VtdFaultReason.PASID_IN_LEGACY_MODE.name): _NO_PASID,
    ("fault", VtdFaultReason.PASID_DISABLED.name): _NO_PASID,
    ("fault", VtdFaultReason.PASID_BEYOND_DIRECTORY.name): _NO_PASID,
    ("fault", VtdFaultReason.PASID_IS_RID_PASID.name): _NO_PASID,
    ("fault", VtdFaultReason.PASID_BEYOND_SIZE.name): _NO_PASID,
    ("fault", VtdFaultReason.EXECUTE_REQUESTED.name): _NO_PASID,
    ("fault", VtdFaultReason.EXECUTE_NOT_SUPPORTED.name): _NO_PASID,
    ("fault", VtdFaultReason.SUPERVISOR_DISABLED.name): _NO_PASID,
    ("fault", VtdFaultReason.PAGE_REQUEST_IN_LEGACY_MODE.name): _NO_PAGE_REQUESTS,
    ("fault", VtdFaultReason.PAGE_REQUESTS_DISABLED.name): _NO_PAGE_REQUESTS,
    ("fault", VtdFaultReason.FIRST_STAGE_FLAGS_FAILED.name): "no memory here refuses a write",
    ("fault", VtdFaultReason.SECOND_STAGE_FLAGS_FAILED.name): "no memory here refuses a write",
    ("fault", VtdFaultReason.ABORT_MODE.name): _NO_CAPABILITY,
}
"""What no program reaches, with the reason."""

_LEGACY = frozenset(reason for reason in VtdFaultReason if reason <= VtdFaultReason.OUTPUT_IN_INTERRUPT_RANGE)
_INTERRUPTS = frozenset(
    reason
    for reason in VtdFaultReason
    if VtdFaultReason.INTERRUPT_REQUEST_RESERVED <= reason <= VtdFaultReason.INTERRUPT_SOURCE_REFUSED
)
_SCALABLE = frozenset(
    reason
    for reason in VtdFaultReason
    if VtdFaultReason.SCALABLE_ROOT_ACCESS <= reason <= VtdFaultReason.SUPERVISOR_DISABLED
)
_SECOND_STAGE = frozenset(
    reason
    for reason in VtdFaultReason
    if VtdFaultReason.SECOND_STAGE_ACCESS <= reason <= VtdFaultReason.SECOND_STAGE_ROOT_ACCESS
    or VtdFaultReason.BEYOND_HOST_WIDTH <= reason <= VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE
)
_FIRST_STAGE = frozenset(
    {
        *(VtdFaultReason.FIRST_STAGE_ACCESS, VtdFaultReason.FIRST_STAGE_NOT_PRESENT),
        *(VtdFaultReason.FIRST_STAGE_RESERVED, VtdFaultReason.FIRST_STAGE_ROOT_ACCESS),
        *(VtdFaultReason.NOT_CANONICAL, VtdFaultReason.USER_NOT_PERMITTED, VtdFaultReason.BEYOND_HOST_WIDTH),
        *(VtdFaultReason.SCALABLE_WRITE_NOT_PERMITTED, VtdFaultReason.SCALABLE_OUTPUT_IN_INTERRUPT_RANGE),
    }
)


def universe(registers: VtdRegisters, plan: Plan) -> frozenset[tuple[str, str]]:
    """Kinds and names, as a `Coverage` has them."""
    legacy = plan.mode is TranslationTableMode.LEGACY
    reasons = _LEGACY if legacy else _SCALABLE | (_FIRST_STAGE if plan.first_stage else _SECOND_STAGE)
    if plan.messages:
        reasons |= _INTERRUPTS
    found = {("fault", reason.name) for reason in reasons}
    found |= {("bypass", why.name) for why in (BypassReason.TRANSLATION_OFF, BypassReason.PASS_THROUGH)}
    if plan.messages:
        found |= {("interrupt", "remapped"), ("interrupt", "as it is")}
    found |= {("page", f"{1 << 9 * level + 3:#x}") for level in (1, *registers.large_page_levels)}
    found |= {("command", name) for name in _commands(plan, legacy=legacy)}
    for register in register_map(registers):
        for field in register.layout.fields:
            if field.mask & register.writable and not field.name.startswith("RSVD"):
                found.add(("register", f"{register.name}.{field.name}"))
    return frozenset(found)


def _commands(plan: Plan, *, legacy: bool) -> list[str]:
    names = ["CONTEXT_CACHE global", "CONTEXT_CACHE domain", "CONTEXT_CACHE selective", "IOTLB global", "IOTLB domain"]
    names += ["WAIT SW", "WAIT IF", "WAIT SW FN", "WAIT IF SW"]
    if legacy and not plan.messages and not plan.device_tlbs:
        names += [f"CCMD_REG {how}" for how in ("global", "domain", "selective")]
        names += [f"IOTLB_REG {how}" for how in ("global", "domain", "selective")]
    if plan.device_tlbs:
        names += ["DEVICE_TLB", "DEVICE_TLB refused: RESERVED_FIELD"]
    if not legacy:
        names += ["PASID_CACHE global", "PASID_CACHE domain", "PASID_CACHE pasid"]
    names.append("PASID_IOTLB page" if plan.first_stage else "IOTLB selective")
    if plan.messages:
        names += ["INTERRUPT_ENTRY_CACHE global", "INTERRUPT_ENTRY_CACHE selective"]
    return names
