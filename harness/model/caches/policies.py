"""What each architecture allows its caches, beside the tags that its walks name.

Where nothing is said of faults, the tags say it: an entry that may not be cached has none. The tags, by which entries
are found in a cache and dropped from it:

===========  ==============  =====================  ==========================  ===========================
             device entries  process entries        page tables                 translations
===========  ==============  =====================  ==========================  ===========================
VT-d legacy  source id, DID                         DID                         source id; DID
VT-d         source id       source id, DID, PASID  DID, first stage also PASID source id, PASID; DID
AMD-Vi       DeviceID        DomainID, PASID        DomainID, guest also PASID  the same
SMMUv3       StreamID        StreamID, SubstreamID  VMID, stage 1 also ASID     the same
RISC-V       device_id       device_id, process_id  GSCID, stage 1 also PSCID   the same
===========  ==============  =====================  ==========================  ===========================

What is found by tags that others can have as well (tables, translations, AMD-Vi's process entries), any of those may
have brought in. VT-d (6.2.1, table 17) finds a translation by the source id and PASID of who brought it in, and not by
its domain, which is there to invalidate it: so it outlives the context-entry that named that domain. In scalable
mode translations have a PASID in either stage, tables in the first stage only.

Large pages. VT-d may cache one in pieces of 4 KiB, of which an invalidation of other addresses spares the others
(6.2.4.1, 6.5.3.2): its walks tag the piece around the access. Elsewhere one address of a page takes all of it along,
and walks tag the whole page: RISC-V drops every entry made from "leaf page table entries corresponding to" the address
(4.1.1), and Arm every entry for a block that the address lies in, however many are kept of it (DDI 0487, TLB
maintenance; IHI 0070 4.4 has the same operations). The same is taken for AMD-Vi (2.4.3), where S and the address say
how much goes at least.
"""

from __future__ import annotations

from collections.abc import Hashable

from harness.model.access import Fault
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.caches.policy import CachePolicy
from harness.model.explanation import Step
from harness.model.invalidation import EVERYTHING, CachedEntry, EntryKind, Invalidation
from harness.model.riscv.registers import IommuMode, RiscvIommuRegisters
from harness.model.riscv.tags import HOST
from harness.model.smmuv3.registers import Smmuv3Registers
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.register_layouts import CAP_REG, ECAP_REG, TranslationTableMode
from harness.model.vtd.registers import VtdRegisters

__all__ = ["AMDVI", "RISCV", "SMMUV3", "VIRTIO_IOMMU", "VTD_LEGACY", "VTD_SCALABLE", "vtd_policy"]

_DEVICES = CachedEntry(kind=EntryKind.DEVICE)
_PROCESSES = CachedEntry(kind=EntryKind.PROCESS)
_TABLES = CachedEntry(kind=EntryKind.TABLE)
_LEAVES = CachedEntry(kind=EntryKind.LEAF)

# Made from an entry that is not present, or not good.
_OF_A_BAD_ENTRY = frozenset(
    reason for reason in VtdFaultReason if reason.name.endswith(("_NOT_PRESENT", "_RESERVED", "_INVALID"))
)
# Made from one that is present without a right, or from one that is not present because it gives none.
_OF_A_RIGHT = frozenset({VtdFaultReason.WRITE_NOT_PERMITTED, VtdFaultReason.READ_NOT_PERMITTED})
# VT-d 6.2.2, 6.2.3: a context-cache entry is made from root-entry and context-entry, a PASID-cache entry from the
# entries of directory and table.
_JOINED = frozenset({EntryKind.DEVICE, EntryKind.PROCESS})
_ALL_OF_DMA = Invalidation(kinds=EVERYTHING - {EntryKind.INTERRUPT})
_ALL_OF_INTERRUPTS = Invalidation(kinds=frozenset({EntryKind.INTERRUPT}))


def _vtd_root(registers: VtdRegisters) -> int | None:
    return registers.rtaddr if registers.translation_enabled else None


def _vtd_interrupt_root(registers: VtdRegisters) -> int | None:
    return registers.irta if registers.interrupt_remapping_enabled else None


def _vtd_keeps(registers: VtdRegisters, fault: Fault, last: Step) -> bool:
    # VT-d 6.1: without CAP_REG.CM entries that are not present, or erroneous, are not cached.
    if registers.caching_mode:
        return True
    if fault.code in _OF_A_RIGHT:
        return any(value for name, value in last.fields if name in ("R", "W"))
    return fault.code not in _OF_A_BAD_ENTRY


def _vtd_implied(old: VtdRegisters, new: VtdRegisters) -> tuple[Invalidation, ...]:
    # CAP_REG.ESRTPS and ESIRTPS (VT-d 11.4.2): a new pointer invalidates what depends on the old one. 11.4.4.1: so does
    # disabling DMA remapping with ECAP_REG.SMTS, and disabling interrupt remapping with ESIRTPS.
    new_root = CAP_REG["ESRTPS"].get(new.cap) and new.rtaddr != old.rtaddr
    disabled = ECAP_REG["SMTS"].get(new.ecap) and old.translation_enabled and not new.translation_enabled
    new_table = new.irta != old.irta or (old.interrupt_remapping_enabled and not new.interrupt_remapping_enabled)
    dropped = []
    if new_root or disabled:
        dropped.append(_ALL_OF_DMA)
    if CAP_REG["ESIRTPS"].get(new.cap) and new_table:
        dropped.append(_ALL_OF_INTERRUPTS)
    return tuple(dropped)


VTD_LEGACY: CachePolicy[VtdRegisters] = CachePolicy(
    name="VT-d, legacy mode",
    source="VT-d 6.1, 6.2",
    root=_vtd_root,
    keeps=_vtd_keeps,
    everything=(_DEVICES, _TABLES, _LEAVES),
    joined=_JOINED,
    found_by_requester=True,
    implied=_vtd_implied,
    interrupt_root=_vtd_interrupt_root,
)

# 6.2.4, 6.2.5: of two stages the IOTLB has the page of a request with the frame that both lead to, and paging-structure
# caches have first-stage entries with the frame of the table; second-stage ones serve guest-physical addresses as well.
VTD_SCALABLE: CachePolicy[VtdRegisters] = CachePolicy(
    name="VT-d, scalable mode",
    source="VT-d 6.1, 6.2",
    root=_vtd_root,
    keeps=_vtd_keeps,
    everything=(_DEVICES, _PROCESSES, _TABLES, _LEAVES),
    joined=_JOINED,
    combined_only=True,
    stage_2_root=EntryKind.PROCESS,
    found_by_requester=True,
    implied=_vtd_implied,
    interrupt_root=_vtd_interrupt_root,
)


def vtd_policy(registers: VtdRegisters) -> CachePolicy[VtdRegisters]:
    """The one for the mode that RTADDR_REG.TTM selects."""
    legacy = registers.translation_table_mode is TranslationTableMode.LEGACY
    return VTD_LEGACY if legacy else VTD_SCALABLE


def _always(registers: object, fault: Fault, last: Step) -> bool:
    return True


def _amdvi_root(registers: AmdviRegisters) -> Hashable | None:
    return (registers.device_table_base, registers.device_table_segments) if registers.enabled else None


# INVALIDATE_IOMMU_ALL alone drops everything at once; without it history is let go by `reset` only. Host pages that are
# invalidated (GN=0) are taken to drop the guest translations that were made with them.
AMDVI: CachePolicy[AmdviRegisters] = CachePolicy(
    name="AMD-Vi",
    source="AMD-Vi 2.4, 2.2.2",
    root=_amdvi_root,
    keeps=_always,
    everything=(_DEVICES, _PROCESSES, _TABLES, _LEAVES),
    shares_global=True,
    interrupt_root=_amdvi_root,
)


def _smmuv3_root(registers: Smmuv3Registers) -> Hashable | None:
    return (registers.strtab_base, registers.strtab_base_cfg) if registers.enabled else None


# A translation of both stages is tagged with VMID, ASID and VA: one by IPA (CMD_TLBI_S2_IPA) need not reach it.
SMMUV3: CachePolicy[Smmuv3Registers] = CachePolicy(
    name="SMMUv3",
    source="IHI 0070 3.17, 3.21, 4.3, 4.4",
    root=_smmuv3_root,
    keeps=_always,
    everything=(_DEVICES, _PROCESSES, _TABLES, _LEAVES),
    stage_2_drops_combined=False,
    faults_tell_global=True,
    shares_global=True,
)


def _riscv_root(registers: RiscvIommuRegisters) -> int | None:
    return None if registers.iommu_mode in (IommuMode.OFF, IommuMode.BARE) else registers.ddtp


# IOTINVAL.VMA without GV is for addresses of the host. What guests have of a first stage goes with their second stage,
# by IOTINVAL.GVMA: a translation of both must not outlive what it was made from (3.8, 4.1.1).
RISCV: CachePolicy[RiscvIommuRegisters] = CachePolicy(
    name="RISC-V IOMMU",
    source="RISC-V IOMMU 3.8, 4.1",
    root=_riscv_root,
    keeps=_always,
    faults_tell_global=True,
    everything=(
        _DEVICES,
        _PROCESSES,
        CachedEntry(kind=EntryKind.TABLE, stage=2),
        CachedEntry(kind=EntryKind.LEAF, stage=2),
        CachedEntry(kind=EntryKind.INTERRUPT),
        CachedEntry(kind=EntryKind.TABLE, stage=1, domain=HOST),
        CachedEntry(kind=EntryKind.LEAF, stage=1, domain=HOST),
    ),
    shares_global=True,
)

# Nothing is stale once a request has been answered (virtio 5.13.6.6.2): its engine keeps the mappings, and there is no
# table in memory that anything could be cached of.
VIRTIO_IOMMU: CachePolicy[object] = CachePolicy(
    name="virtio-iommu",
    source="virtio 5.13.6.6.2",
    root=lambda registers: None,
    keeps=_always,
    everything=(),
)
