"""Devices that have gone: what of them must have gone with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import fields

from harness.model.access import Mapping
from harness.observations import Leftovers
from harness.report.record import Finding

__all__ = ["check_leftovers", "check_nothing_left"]

# What may be there for other reasons: per-CPU caches of the guest's allocator; what QEMU keeps of translated code, and
# its allocator's arenas, which grow by over a dozen MiB at first and then no more (`viommu bench hotplug`).
_ROOM = {"guest_kib": 1024, "vmm_kib": 32 * 1024, "threads": 4}


def check_nothing_left(what: str, before: Collection[Mapping], after: Iterable[Mapping]) -> Iterator[Finding]:
    """Nothing that was mapped for a device is mapped any more for the requester that it was.

    Args:
        what: the device.
        before: its mappings while it was there.
        after: those of its requester id. Without a domain an endpoint of a virtio-iommu may bypass it (virtio 1.3,
            5.13.6.2): that is no mapping that was left.
    """
    for mapping in set(after) & set(before):
        yield Finding(
            subject=f"what the model finds mapped for {what}, which is gone", expected="nothing", seen=str(mapping)
        )


def check_leftovers(before: Leftovers, after: Leftovers) -> Iterator[Finding]:
    """There is no more of anything than before."""
    for field in fields(Leftovers):
        was, now, room = getattr(before, field.name), getattr(after, field.name), _ROOM.get(field.name, 0)
        if now > was + room:
            expected = f"{was}" + (f", or up to {room} more" if room else "")
            yield Finding(subject=f"{field.name} after plugging and unplugging", expected=expected, seen=str(now))
