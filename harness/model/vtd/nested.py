"""The second stage under a first one: where guest-physical addresses are, and who may go there (VT-d 3.8).

With SSADE set the second stage takes every access to a first-stage entry for one that seeks the right to write: it must
grant R and W (VT-d 3.8.1). D stands for such requests (9.8, D), so that the page of the table is marked dirty; 3.7.2,
which speaks of writes to an input address, does not say it. The reason for a missing W is SFS.8, since it is what flags
are set for.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.model.access import PERMISSIONS, Mapping, Permissions
from harness.model.explanation import Step
from harness.model.memory import Memory, OutsideMemory
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.first_stage import TablePlace
from harness.model.vtd.flags import Flags
from harness.model.vtd.pasid import PasidEntry
from harness.model.vtd.second_stage import LEAF_ENTRY, Leaf, SecondStage, WalkBlocked, level_shift

__all__ = ["GuestListing", "GuestPhysical"]

_R = 0b01
_W = 0b10
_ADDRESS = LEAF_ENTRY["ADDR"].mask


class GuestPhysical:
    """The guest-physical addresses of one PASID table entry, for one request.

    Args:
        memory: physical memory.
        stage: walks the second stage.
        entry: whose tables they are.
        width: bits of a guest-physical address.
        pasid: of the request, or RID_PASID; only the trace shows it.
        flags: of the request.
        trace: takes a step for each second-stage entry.
    """

    def __init__(
        self,
        memory: Memory,
        stage: SecondStage,
        entry: PasidEntry,
        width: int,
        pasid: int,
        flags: Flags,
        trace: list[Step] | None,
    ) -> None:
        self.width = width
        self._memory = memory
        self._stage = stage
        self._entry = entry
        self._pasid = pasid
        self._flags = flags if entry.second_flags else None
        self._trace = trace

    def find_page(self, address: int, needed: int) -> Leaf | WalkBlocked:
        """The second-stage page of an address; `needed` as for `SecondStage.walk`."""
        entry = self._entry
        return self._stage.walk(
            self._memory,
            entry.second_table,
            entry.second_levels,
            address,
            needed,
            entry.domain_id,
            self._trace,
            self._flags,
            self._pasid,
        )

    def use(self, leaf: Leaf, *, dirty: bool) -> WalkBlocked | None:
        """Set the flags of a page's second-stage entry, where SSADE has them."""
        return None if self._flags is None else self._stage.use(leaf, self._flags, dirty=dirty)

    def find_entry(self, address: int, level: int, *, top: bool) -> TablePlace | WalkBlocked:
        """See `GuestTables`."""
        found = self.find_page(address, _R | _W)
        if isinstance(found, WalkBlocked):
            return found
        entry, shift, rights, _ = found
        # SFS.6 for the topmost table, SFS.7 for those below.
        if not rights & _R:
            unreadable = VtdFaultReason.FIRST_STAGE_ENTRY_UNREADABLE
            return WalkBlocked(VtdFaultReason.FIRST_STAGE_ROOT_UNREADABLE if top else unreadable, level, 1)
        writable = bool(rights & _W)
        if self._flags is not None and not writable:
            return WalkBlocked(VtdFaultReason.FIRST_STAGE_FLAGS_UNWRITABLE, level, 1)
        if (failure := self.use(found, dirty=True)) is not None:
            return failure
        return TablePlace(entry & _ADDRESS | address & (1 << shift) - 1, writable)


class GuestListing:
    """First-stage tables, and what they map, read at guest-physical addresses: for a listing, so without flags."""

    def __init__(self, memory: Memory, guest: GuestPhysical) -> None:
        self._memory = memory
        self._guest = guest

    def read(self, address: int, size: int) -> bytes:
        """See `TableMemory`."""
        return self._memory.read(self._find(address), size)

    def iter_pages(self, mapping: Mapping) -> Iterator[Mapping]:
        """What the second stage makes of a mapping to guest-physical addresses: a piece for each of its pages."""
        offset = 0
        while offset < mapping.size and not mapping.address + offset >> self._guest.width:
            address = mapping.address + offset
            found = self._guest.find_page(address, _R | _W)
            if isinstance(found, WalkBlocked):
                shift, permissions = level_shift(found.level), Permissions.NONE
            else:
                shift, permissions = found.shift, mapping.permissions & PERMISSIONS[found.rights]
            # Pages of both stages are aligned to their sizes: the smaller one lies within the larger.
            size = min(mapping.size, 1 << shift)
            if isinstance(found, Leaf) and permissions:
                target = found.entry & _ADDRESS | address & (1 << shift) - 1
                yield Mapping(mapping.iova + offset, target, size, permissions)
            offset += size

    def _find(self, address: int) -> int:
        if address >> self._guest.width:
            raise OutsideMemory(address)
        place = self._guest.find_entry(address, 0, top=False)
        if isinstance(place, WalkBlocked):
            raise OutsideMemory(address)
        return place.address
