"""Under which tags an implementation may cache what it reads (3.8).

Two marks stand where the specification has no identifier:

* `HOST` is the domain of first-stage entries whose second stage is Bare. IOTINVAL.VMA with GV=0 operates on these and
  on no guest's, so they need a domain of their own; a GSCID is never negative.
* `SHARED` is the device_id, or the process_id, of a directory entry that leads to another table. IODIR.INVAL_DDT and
  IODIR.INVAL_PDT for one device or process drop the leaf entry only (4.1.3), so no single device or process is its tag.

A first-stage entry with G set carries no address space: an invalidation of one spares it (4.1.1).
"""

from __future__ import annotations

from typing import NamedTuple

from harness.model.invalidation import CachedEntry, EntryKind

__all__ = ["HOST", "SHARED", "StageTags", "directory_entry", "msi_entry", "page_entry"]

HOST = -1
SHARED = -1


class StageTags(NamedTuple):
    """What every page-table entry of one stage of a walk is tagged with.

    Attributes:
        stage: 1 or 2.
        domain: GSCID, or `HOST`.
        space: PSCID; None for the second stage.
    """

    stage: int
    domain: int
    space: int | None


def directory_entry(requester: int, process_id: int | None, *, is_leaf: bool) -> CachedEntry:
    """Of a device directory entry, or with a process_id of a process directory entry."""
    if process_id is None:
        return CachedEntry(kind=EntryKind.DEVICE, requester=requester if is_leaf else SHARED)
    return CachedEntry(kind=EntryKind.PROCESS, requester=requester, space=process_id if is_leaf else SHARED)


def page_entry(tags: StageTags, first: int, size: int, *, is_leaf: bool, is_global: bool) -> CachedEntry:
    """Of a page-table entry that serves `size` bytes of input addresses from `first` on."""
    return CachedEntry(
        kind=EntryKind.LEAF if is_leaf else EntryKind.TABLE,
        domain=tags.domain,
        space=None if is_global else tags.space,
        stage=tags.stage,
        first=first,
        last=first + size - 1,
        is_global=is_global,
    )


def msi_entry(gscid: int, guest_page: int, number: int) -> CachedEntry:
    """Of the MSI page-table entry of an interrupt file number, for the page of its guest physical address."""
    return CachedEntry(kind=EntryKind.INTERRUPT, domain=gscid, first=guest_page, last=guest_page + 0xFFF, index=number)
