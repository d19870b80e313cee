"""Invalidation descriptors, bit by bit (VT-d 6.5.2, and 7.6.1 for the page group response).

Those of 128 bits are padded with 128 zero bits where the queue takes 256 (IQA_REG.DW); the others are there only then.

>>> bits = build_descriptor(DescriptorType.IOTLB, {"G": Granularity.DOMAIN, "DID": 5})
>>> hex(bits)
'0x50022'
>>> descriptor_type(bits)
<DescriptorType.IOTLB: 2>

What they do is in `harness.model.vtd.invalidation.commands`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from harness.model.bits import Field, Layout

__all__ = [
    "DESCRIPTORS",
    "DescriptorType",
    "Granularity",
    "PasidCacheGranularity",
    "PasidIotlbGranularity",
    "ResponseCode",
    "build_descriptor",
    "descriptor_type",
]


class DescriptorType(IntEnum):
    """Bits 11:9 and 3:0 of a descriptor, taken together."""

    CONTEXT_CACHE = 0x1
    IOTLB = 0x2
    DEVICE_TLB = 0x3
    INTERRUPT_ENTRY_CACHE = 0x4
    WAIT = 0x5
    PASID_IOTLB = 0x6
    PASID_CACHE = 0x7
    PASID_DEVICE_TLB = 0x8
    PAGE_GROUP_RESPONSE = 0x9
    HPT_CACHE = 0xA


class Granularity(IntEnum):
    """G of the context-cache, IOTLB and HPT cache descriptors, CIRG of CCMD_REG and IIRG of IOTLB_REG."""

    RESERVED = 0b00
    GLOBAL = 0b01
    DOMAIN = 0b10
    SELECTIVE = 0b11
    """One device (and its phantom functions) of a domain, or a range of pages of a domain."""


class PasidCacheGranularity(IntEnum):
    """G of the PASID-cache descriptor (VT-d 6.5.2.2)."""

    DOMAIN = 0b00
    PASID = 0b01
    RESERVED = 0b10
    GLOBAL = 0b11


class PasidIotlbGranularity(IntEnum):
    """G of the PASID-based IOTLB descriptor (VT-d 6.5.2.4)."""

    RESERVED_0 = 0b00
    RESERVED_1 = 0b01
    PASID = 0b10
    PAGE = 0b11


class ResponseCode(IntEnum):
    """RC of a page group response, which software sends, or hardware by itself (VT-d 7.6.1, 7.4.1)."""

    SUCCESS = 0x0
    INVALID_REQUEST = 0x1
    FAILURE = 0xF


def _layout(name: str, section: str, *between: Field) -> Layout:
    """A descriptor: its type in two pieces, `between` them and around what it has, and the gaps as reserved fields."""
    fields = sorted((Field("TYPE", 0, 4), Field("TYPE_HIGH", 9, 3), *between), key=lambda entry: entry.low)
    whole: list[Field] = []
    end = 0
    for entry in fields:
        if entry.low > end:
            whole.append(Field(f"RSVD_{end}", end, entry.low - end))
        whole.append(entry)
        end = entry.low + entry.width
    if end < 256:
        whole.append(Field(f"RSVD_{end}", end, 256 - end))
    return Layout(name, section, tuple(whole))


DESCRIPTORS: Mapping[DescriptorType, Layout] = {
    DescriptorType.CONTEXT_CACHE: _layout(
        "cc_inv_dsc",
        "VT-d 6.5.2.1",
        Field("G", 4, 2),
        Field("DID", 16, 16),
        Field("SID", 32, 16),
        Field("FM", 48, 2),
    ),
    DescriptorType.PASID_CACHE: _layout(
        "pc_inv_dsc",
        "VT-d 6.5.2.2",
        Field("G", 4, 2),
        Field("DID", 16, 16),
        Field("PASID", 32, 20),
    ),
    DescriptorType.IOTLB: _layout(
        "iotlb_inv_dsc",
        "VT-d 6.5.2.3",
        Field("G", 4, 2),
        Field("DW", 6, 1),
        Field("DR", 7, 1),
        Field("DID", 16, 16),
        Field("AM", 64, 6),
        Field("IH", 70, 1),
        Field("ADDR", 76, 52),
    ),
    DescriptorType.PASID_IOTLB: _layout(
        "p_iotlb_inv_dsc",
        "VT-d 6.5.2.4",
        Field("G", 4, 2),
        Field("DID", 16, 16),
        Field("PASID", 32, 20),
        Field("AM", 64, 6),
        Field("IH", 70, 1),
        Field("ADDR", 76, 52),
    ),
    DescriptorType.DEVICE_TLB: _layout(
        "dev_tlb_inv_dsc",
        "VT-d 6.5.2.5",
        Field("PFSID_LOW", 12, 4),
        Field("MIP", 16, 5),
        Field("SID", 32, 16),
        Field("PFSID_HIGH", 52, 12),
        Field("S", 64, 1),
        Field("ADDR", 76, 52),
    ),
    DescriptorType.PASID_DEVICE_TLB: _layout(
        "p_dev_tlb_inv_dsc",
        "VT-d 6.5.2.6",
        Field("MIP", 4, 5),
        Field("PFSID_LOW", 12, 4),
        Field("SID", 16, 16),
        Field("PASID", 32, 20),
        Field("PFSID_HIGH", 52, 12),
        Field("GI", 64, 1),
        Field("S", 75, 1),
        Field("ADDR", 76, 52),
    ),
    DescriptorType.HPT_CACHE: _layout(
        "hpt_inv_dsc",
        "VT-d 6.5.2.7 (revision 5)",
        Field("G", 4, 2),
        Field("HPTDID", 16, 16),
        Field("AM", 64, 6),
        Field("IH", 70, 2),
        Field("ADDR", 76, 52),
    ),
    DescriptorType.INTERRUPT_ENTRY_CACHE: _layout(
        "iec_inv_dsc",
        "VT-d 6.5.2.8",
        Field("G", 4, 1),
        Field("IM", 27, 5),
        Field("IIDX", 32, 16),
    ),
    DescriptorType.WAIT: _layout(
        "inv_wait_dsc",
        "VT-d 6.5.2.9",
        Field("IF", 4, 1),
        Field("SW", 5, 1),
        Field("FN", 6, 1),
        Field("PD", 7, 1),
        Field("DATA", 32, 32),
        # Bits 127:64+HAW of it are ignored.
        Field("ADDR", 66, 62),
    ),
    DescriptorType.PAGE_GROUP_RESPONSE: _layout(
        "page_grp_resp_dsc",
        "VT-d 7.6.1",
        Field("PP", 4, 1),
        Field("RC", 12, 4),
        Field("RID", 16, 16),
        Field("PASID", 32, 20),
        Field("IGN", 66, 1),
        Field("PRGI", 67, 9),
    ),
}
"""Fields of each type, in the 256 bits that the widest queue takes; address fields without their low zeros."""

_TYPES = {int(member): member for member in DescriptorType}


def descriptor_type(bits: int) -> DescriptorType | None:
    """Which descriptor it is; None for a type that there is not."""
    return _TYPES.get(bits >> 5 & 0x70 | bits & 0xF)


def build_descriptor(kind: DescriptorType, values: Mapping[str, int]) -> int:
    """The bits of a descriptor: its fields by their names in `DESCRIPTORS`, reserved ones too.

    Raises:
        SpecError: no such field, or a value that does not fit.
    """
    return DESCRIPTORS[kind].encode({"TYPE": kind, **values})
