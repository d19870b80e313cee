"""What an IOMMU may cache, and what an invalidation drops: one vocabulary for every architecture.

A walk names, for each table entry that it reads, the tags under which an implementation may keep it (`CachedEntry`). A
command of the driver becomes one or more `Invalidation`: it drops each cached entry whose tags it matches.
Which results follow from that is `harness.model.caches.iotlb`'s to say.

==========  ====================  ==================  ==================  ====================
            VT-d                  AMD-Vi              SMMUv3              RISC-V
==========  ====================  ==================  ==================  ====================
requester   source id             DeviceID            StreamID            device_id
domain      DID                   DomainID            VMID                GSCID
space       PASID                 PASID               ASID                PSCID
==========  ====================  ==================  ==================  ====================
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["EVERYTHING", "CachedEntry", "EntryKind", "Invalidation"]


class EntryKind(StrEnum):
    """What a cached entry was made from."""

    DEVICE = "device"
    """Root and context entries, a device table entry, an STE, a device context."""
    PROCESS = "process"
    """PASID directory and table entries, a GCR3 table entry, a CD, a process context."""
    TABLE = "table"
    """A page-table entry that leads to another table."""
    LEAF = "leaf"
    """A page-table entry that maps a page, and every translation made with it."""
    INTERRUPT = "interrupt"
    """An interrupt remapping table entry, an MSI page-table entry."""
    DEVICE_TLB = "device TLB"
    """A translation that a device keeps (ATS)."""


EVERYTHING = frozenset(EntryKind) - {EntryKind.DEVICE_TLB}
"""Every kind that the IOMMU itself keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedEntry:
    """The tags of an entry. What an architecture does not tag it with is None, and no invalidation spares it for that.

    Attributes:
        kind: what it was made from.
        requester: of the access that brought it in.
        domain: as the table above has it.
        space: likewise; None for a request without one.
        stage: 1 or 2 for a page-table entry.
        first: first input address (of its stage) that the entry serves, bytes.
        last: last one, inclusive. Both are SubstreamIDs for an SMMU's L1CD, which serves a range of them.
        is_global: a stage 1 leaf that serves every address space of its domain: an invalidation of one spares it.
        granule: of a page-table entry of an SMMU, log2 of its granule in bytes,
        level: and its level, 1 for the last.
        index: number of an interrupt remapping entry.
    """

    kind: EntryKind
    requester: int | None = None
    domain: int | None = None
    space: int | None = None
    stage: int | None = None
    first: int | None = None
    last: int | None = None
    is_global: bool = False
    granule: int | None = None
    level: int | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Invalidation:
    """Drops the entries that match in every tag given here; None matches all.

    Attributes:
        kinds: of entries.
        requester: only of that requester,
        requester_mask: compared in these bits.
        domain: only of that domain.
        space: only of that address space.
        has_space: only entries with an address space, whichever, or only those without one.
        stage: only page-table entries of that stage.
        first: only entries that serve an address from here,
        last: to here, inclusive.
        globals_too: entries that serve every address space go too, though `space` names one.
        granule: only page-table entries of that granule,
        level: and only pages of that level, and what leads to them.
        indexes: first and last interrupt remapping entry, inclusive.
    """

    kinds: frozenset[EntryKind]
    requester: int | None = None
    requester_mask: int = (1 << 32) - 1
    domain: int | None = None
    space: int | None = None
    has_space: bool | None = None
    stage: int | None = None
    first: int | None = None
    last: int | None = None
    globals_too: bool = False
    granule: int | None = None
    level: int | None = None
    indexes: tuple[int, int] | None = None

    def drops(self, entry: CachedEntry) -> bool:
        """Whether nothing of the entry is left after this."""
        if entry.kind not in self.kinds:
            return False
        if self.space is not None and not (entry.is_global and self.globals_too) and entry.space != self.space:
            return False
        if self.has_space is not None and self.has_space != (entry.space is not None):
            return False
        return (
            _same(self.requester, entry.requester, self.requester_mask)
            and _same(self.domain, entry.domain)
            and _same(self.stage, entry.stage)
            and _same(self.granule, entry.granule)
            and (self.level is None or entry.level is None or self._is_on_the_way(entry.kind, entry.level))
            and not (self.first is not None and entry.last is not None and entry.last < self.first)
            and not (self.last is not None and entry.first is not None and entry.first > self.last)
            and not (self.indexes and entry.index is not None and not self.indexes[0] <= entry.index <= self.indexes[1])
        )

    def _is_on_the_way(self, kind: EntryKind, level: int) -> bool:
        """Whether an entry is a page of the level that is named, or leads to one."""
        return self.level is not None and (level == self.level if kind is EntryKind.LEAF else level > self.level)


def _same(wanted: int | None, tag: int | None, mask: int = -1) -> bool:
    return wanted is None or tag is None or not (wanted ^ tag) & mask
