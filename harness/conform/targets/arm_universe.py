"""What programs for arm-smmuv3 can cover: faults, pages, commands and register fields that a build's SMMU has."""

from __future__ import annotations

from harness.conform.targets.arm_commands import COMMAND_ERRORS, answers, refused_for_features
from harness.model.access import BypassReason
from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.command_names import command_name
from harness.model.smmuv3.descriptors import BLOCK_LEVELS, level_shift
from harness.model.smmuv3.events import Smmuv3EventType, Smmuv3Terminated
from harness.model.smmuv3.register_map import REGISTERS, implemented

__all__ = ["UNREACHABLE", "universe"]

_NO_ATS = "no device of QEMU's that does DMA here makes ATS requests"
_NO_SUBSTREAMS = "no device of QEMU's that does DMA here has a PASID"
UNREACHABLE = {
    ("fault", "F_UUT"): _NO_ATS,
    ("fault", "F_BAD_ATS_TREQ"): _NO_ATS,
    ("fault", "F_TRANSL_FORBIDDEN"): _NO_ATS,
    ("fault", "F_STREAM_DISABLED"): _NO_SUBSTREAMS,
    ("fault", "C_BAD_SUBSTREAMID"): _NO_SUBSTREAMS,
    ("register", "IRQ_CTRL.PRIQ_IRQEN"): "QEMU has no PRI queue",
    ("register", "CMDQ_CONS.ERR"): "the SMMU alone gives it a meaning; it is compared where a command is refused",
}
"""What no program reaches, with the reason."""

_READ_ONLY = ("IDR", "IIDR", "AIDR", "CR0ACK", "STATUSR", "IRQ_CTRLACK", "GERROR.")
# GERRORN: a field is only set to acknowledge an error that nothing here brings about.
_NEVER_ACTIVE = ("GERRORN.SFM_ERR", "GERRORN.MSI_", "GERRORN.CMDQP_ERR", "GERRORN.DPT_ERR")


def universe(capabilities: Smmuv3Capabilities) -> frozenset[tuple[str, str]]:
    """Kinds and names, as a `Coverage` has them."""
    found = {("fault", event.name) for event in Smmuv3EventType}
    found |= {("fault", why.name) for why in Smmuv3Terminated}
    found |= {("bypass", why.name) for why in (BypassReason.TRANSLATION_OFF, BypassReason.PASS_THROUGH)}
    for granule in capabilities.granules:
        for level in (1, *BLOCK_LEVELS[granule]):
            found.add(("page", f"{1 << level_shift(granule, level):#x}"))
    found |= {("command", name) for name in _commands(capabilities)}
    for name, bits in implemented(capabilities).items():
        layout = REGISTERS[name].layout
        for field in layout.fields if layout is not None else ():
            full = f"{name.removeprefix('SMMU_')}.{field.name}"
            settable = field.mask & bits and not full.startswith((*_READ_ONLY, *_NEVER_ACTIVE))
            if settable and not field.name.startswith("RSVD"):
                found.add(("register", full))
    return frozenset(found)


def _commands(capabilities: Smmuv3Capabilities) -> list[str]:
    names = ["CMD_SYNC", "CMD_SYNC interrupt", "CMD_SYNC event", "CMD_PREFETCH_CONFIG", "CMD_PREFETCH_ADDR"]
    names += ["CMD_CFGI_STE", "CMD_CFGI_STE leaf", "CMD_CFGI_STE_RANGE", "CMD_CFGI_STE_RANGE all"]
    names.append("CMD_TLBI_NSNH_ALL")
    names += [command_name(each) for each in answers(capabilities)]
    refused = (*COMMAND_ERRORS, *refused_for_features(capabilities))
    names += [command_name(each, is_illegal=True) for each in refused]
    by_address = []
    if capabilities.stage1:
        names += ["CMD_CFGI_CD", "CMD_CFGI_CD leaf", "CMD_CFGI_CD_ALL", "CMD_TLBI_NH_ALL", "CMD_TLBI_NH_ASID"]
        by_address += ["CMD_TLBI_NH_VA", "CMD_TLBI_NH_VAA"]
    if capabilities.stage2:
        names += ["CMD_TLBI_S12_VMALL"]
        by_address += ["CMD_TLBI_S2_IPA"]
    for name in by_address:
        names += [name, f"{name} leaf"]
        if capabilities.range_invalidation:
            names += [f"{name} range", f"{name} leaf range"]
    return names
