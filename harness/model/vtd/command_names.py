"""Short names of commands, by what they ask for: what was exercised is counted by them."""

from __future__ import annotations

from enum import Enum

from harness.model.vtd.invalidation.by_register import CCMD_REG, IOTLB_REG
from harness.model.vtd.invalidation.descriptors import (
    DESCRIPTORS,
    DescriptorType,
    Granularity,
    PasidCacheGranularity,
    PasidIotlbGranularity,
    descriptor_type,
)

__all__ = ["descriptor_name", "queue_circumstance", "register_command_name"]

_GRANULARITIES: dict[DescriptorType, type[Enum]] = {
    DescriptorType.CONTEXT_CACHE: Granularity,
    DescriptorType.IOTLB: Granularity,
    DescriptorType.PASID_CACHE: PasidCacheGranularity,
    DescriptorType.PASID_IOTLB: PasidIotlbGranularity,
    DescriptorType.HPT_CACHE: Granularity,
}


def descriptor_name(bits: int, error: Enum | None) -> str:
    """Such as "IOTLB selective" or "WAIT SW"; where it was refused, why."""
    kind = descriptor_type(bits)
    if kind is None:
        return "unknown type"
    layout = DESCRIPTORS[kind]
    words = [kind.name]
    if kind in _GRANULARITIES:
        words.append(_GRANULARITIES[kind](layout["G"].get(bits)).name.lower())
    elif kind is DescriptorType.INTERRUPT_ENTRY_CACHE:
        words.append("selective" if layout["G"].get(bits) else "global")
    elif kind is DescriptorType.WAIT:
        words += [name for name in ("IF", "SW", "FN", "PD") if layout[name].get(bits)]
    if error is not None:
        words.append(f"refused: {error.name}")
    return " ".join(words)


def queue_circumstance(bits: int | None, *, has_device_tlbs: bool) -> str:
    """What tells where the queue stands from other places, by the last descriptor; as a rule nothing."""
    if bits is None or has_device_tlbs:
        return ""
    for_device_tlb = descriptor_type(bits) in (DescriptorType.DEVICE_TLB, DescriptorType.PASID_DEVICE_TLB)
    return "no device TLBs" if for_device_tlb else ""


def register_command_name(key: str, bits: int) -> str:
    """Of what is written to CCMD_REG ("ccmd") or IOTLB_REG ("iotlb"); empty where it is no command."""
    layout, go, asked = (CCMD_REG, "ICC", "CIRG") if key == "ccmd" else (IOTLB_REG, "IVT", "IIRG")
    if not layout[go].get(bits):
        return ""
    return f"{layout.name} {Granularity(layout[asked].get(bits)).name.lower()}"
