"""Descriptors of programs for intel-iommu that stop the invalidation queue (VT-d 6.5.2.11)."""

from __future__ import annotations

from random import Random

from harness.conform.memory import DATA
from harness.model.vtd.invalidation.descriptors import DESCRIPTORS, DescriptorType, Granularity, build_descriptor

__all__ = ["illegal_descriptor", "illegal_device_tlb_descriptor"]

_DEVICE_TLB = DESCRIPTORS[DescriptorType.DEVICE_TLB]
_PFSID = _DEVICE_TLB["PFSID_LOW"].mask | _DEVICE_TLB["PFSID_HIGH"].mask  # reserved without ECAP_REG.DIT
_FROM_128 = 128  # bits that are not there in legacy mode
_RESERVED = tuple(bit for bit in range(_FROM_128) if (_DEVICE_TLB.reserved | _PFSID) >> bit & 1)


def illegal_descriptor(random: Random) -> int:
    """One of no type, with a reserved bit set, or with a value that its field may not have."""
    good = build_descriptor(DescriptorType.IOTLB, {"G": Granularity.GLOBAL})
    return random.choice(
        (
            0,
            0xF,
            build_descriptor(DescriptorType.IOTLB, {"G": Granularity.RESERVED}),
            build_descriptor(DescriptorType.CONTEXT_CACHE, {"G": Granularity.RESERVED}),
            build_descriptor(DescriptorType.IOTLB, {"G": Granularity.SELECTIVE, "AM": 63}),
            good | 1 << random.choice((8, 40, 63)),
            good | 1 << random.choice((71, 75)),
            build_descriptor(DescriptorType.WAIT, {"SW": 1, "ADDR": DATA.start >> 2}) | 1 << 20,
        )
    )


def illegal_device_tlb_descriptor(random: Random, requester: int, *, has_device_tlbs: bool) -> int:
    """One for the TLB of a device, with a reserved bit set where there are such TLBs."""
    good = build_descriptor(DescriptorType.DEVICE_TLB, {"SID": requester})
    return good | 1 << random.choice(_RESERVED) if has_device_tlbs else good
