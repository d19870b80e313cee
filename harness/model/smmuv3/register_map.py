"""Where each register of the Non-secure programming interface is, and which of its bits an SMMU has (IHI 0070 6.2).

The interface has two pages of 64 KB; what other pages follow is not described here. Registers of Secure state lie in
the first page, and read as zero to Non-secure accesses.
"""

from __future__ import annotations

from harness.model.bits import Field, Layout
from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.id_registers import IDR0, IDR1, IDR3, IDR5
from harness.model.smmuv3.registers import (
    CR0,
    CR2,
    GBPA,
    GERROR,
    IRQ_CTRL,
    QUEUE_BASE,
    QUEUE_CONS,
    QUEUE_PROD,
    STRTAB_BASE,
    STRTAB_BASE_CFG,
)
from harness.model.unit import Place

__all__ = ["CR1", "PAGE_1", "REGISTERS", "SPACE", "implemented", "is_unspecified", "register_of"]

PAGE_1 = 0x10000
"""Offset of the second page."""

SPACE = 0x20000
"""Bytes of both pages."""

CR1 = Layout(
    "SMMU_CR1",
    "IHI 0070 6.3.11",
    (
        Field("QUEUE_IC", 0, 2),
        Field("QUEUE_OC", 2, 2),
        Field("QUEUE_SH", 4, 2),
        Field("TABLE_IC", 6, 2),
        Field("TABLE_OC", 8, 2),
        Field("TABLE_SH", 10, 2),
        Field("RSVD", 12, 20),
    ),
)
_AIDR = Layout(
    "SMMU_AIDR",
    "IHI 0070 6.3.8",
    (Field("ARCHMINORREV", 0, 4), Field("ARCHMAJORREV", 4, 4), Field("RSVD", 8, 24)),
)
_IDR2 = Layout("SMMU_IDR2", "IHI 0070 6.3.3", (Field("BA_VATOS", 0, 10), Field("RSVD", 10, 22)))
_STATUSR = Layout("SMMU_STATUSR", "IHI 0070 6.3.13", (Field("DORMANT", 0, 1), Field("RSVD", 1, 31)))
_IRQ_CFG0 = Layout(
    "SMMU_GERROR_IRQ_CFG0, SMMU_EVENTQ_IRQ_CFG0, SMMU_PRIQ_IRQ_CFG0",
    "IHI 0070 6.3.21, 6.3.30, 6.3.34",
    (Field("RSVD", 0, 2), Field("ADDR", 2, 54, in_place=True), Field("RSVD_56", 56, 8)),
)
_IRQ_CFG1 = Layout(
    "SMMU_GERROR_IRQ_CFG1, SMMU_EVENTQ_IRQ_CFG1, SMMU_PRIQ_IRQ_CFG1",
    "IHI 0070 6.3.22, 6.3.31, 6.3.35",
    (Field("DATA", 0, 32),),
)
_IRQ_CFG2 = Layout(
    "SMMU_GERROR_IRQ_CFG2, SMMU_EVENTQ_IRQ_CFG2, SMMU_PRIQ_IRQ_CFG2",
    "IHI 0070 6.3.23, 6.3.32, 6.3.36",
    (Field("MEMATTR", 0, 4), Field("SH", 4, 2), Field("RSVD", 6, 26)),
)

REGISTERS = {
    place.name: place
    for place in (
        Place("SMMU_IDR0", 0x00, 4, IDR0),
        Place("SMMU_IDR1", 0x04, 4, IDR1),
        Place("SMMU_IDR2", 0x08, 4, _IDR2),
        Place("SMMU_IDR3", 0x0C, 4, IDR3),
        Place("SMMU_IDR4", 0x10, 4),
        Place("SMMU_IDR5", 0x14, 4, IDR5),
        Place("SMMU_IIDR", 0x18, 4),
        Place("SMMU_AIDR", 0x1C, 4, _AIDR),
        Place("SMMU_CR0", 0x20, 4, CR0),
        Place("SMMU_CR0ACK", 0x24, 4, CR0),
        Place("SMMU_CR1", 0x28, 4, CR1),
        Place("SMMU_CR2", 0x2C, 4, CR2),
        Place("SMMU_STATUSR", 0x40, 4, _STATUSR),
        Place("SMMU_GBPA", 0x44, 4, GBPA),
        Place("SMMU_AGBPA", 0x48, 4),
        Place("SMMU_IRQ_CTRL", 0x50, 4, IRQ_CTRL),
        Place("SMMU_IRQ_CTRLACK", 0x54, 4, IRQ_CTRL),
        Place("SMMU_GERROR", 0x60, 4, GERROR),
        Place("SMMU_GERRORN", 0x64, 4, GERROR),
        Place("SMMU_GERROR_IRQ_CFG0", 0x68, 8, _IRQ_CFG0),
        Place("SMMU_GERROR_IRQ_CFG1", 0x70, 4, _IRQ_CFG1),
        Place("SMMU_GERROR_IRQ_CFG2", 0x74, 4, _IRQ_CFG2),
        Place("SMMU_STRTAB_BASE", 0x80, 8, STRTAB_BASE),
        Place("SMMU_STRTAB_BASE_CFG", 0x88, 4, STRTAB_BASE_CFG),
        Place("SMMU_CMDQ_BASE", 0x90, 8, QUEUE_BASE),
        Place("SMMU_CMDQ_PROD", 0x98, 4, QUEUE_PROD),
        Place("SMMU_CMDQ_CONS", 0x9C, 4, QUEUE_CONS),
        Place("SMMU_EVENTQ_BASE", 0xA0, 8, QUEUE_BASE),
        Place("SMMU_EVENTQ_IRQ_CFG0", 0xB0, 8, _IRQ_CFG0),
        Place("SMMU_EVENTQ_IRQ_CFG1", 0xB8, 4, _IRQ_CFG1),
        Place("SMMU_EVENTQ_IRQ_CFG2", 0xBC, 4, _IRQ_CFG2),
        Place("SMMU_PRIQ_BASE", 0xC0, 8, QUEUE_BASE),
        Place("SMMU_PRIQ_IRQ_CFG0", 0xD0, 8, _IRQ_CFG0),
        Place("SMMU_PRIQ_IRQ_CFG1", 0xD8, 4, _IRQ_CFG1),
        Place("SMMU_PRIQ_IRQ_CFG2", 0xDC, 4, _IRQ_CFG2),
        Place("SMMU_EVENTQ_PROD", PAGE_1 + 0xA8, 4, QUEUE_PROD),
        Place("SMMU_EVENTQ_CONS", PAGE_1 + 0xAC, 4, QUEUE_CONS),
        Place("SMMU_PRIQ_PROD", PAGE_1 + 0xC8, 4, QUEUE_PROD),
        Place("SMMU_PRIQ_CONS", PAGE_1 + 0xCC, 4, QUEUE_CONS),
    )
}
"""Every register that is described, by its name."""

_BY_WORD = {word: place for place in REGISTERS.values() for word in range(place.start, place.start + place.size, 4)}

# What there is only with a feature: the registers, or fields of one, and the field of an ID register that announces it.
_FEATURES: tuple[tuple[Layout, str, tuple[tuple[str, str], ...]], ...] = (
    (
        IDR0,
        "PRI",
        (
            *((f"SMMU_{name}", "PRIQEN") for name in ("CR0", "CR0ACK")),
            *((f"SMMU_{name}", "PRIQ_IRQEN") for name in ("IRQ_CTRL", "IRQ_CTRLACK")),
            *((f"SMMU_{name}", f"{kind}PRIQ_ABT_ERR") for name in ("GERROR", "GERRORN") for kind in ("", "MSI_")),
            *((f"SMMU_PRIQ_{name}", "") for name in ("BASE", "PROD", "CONS", "IRQ_CFG0", "IRQ_CFG1", "IRQ_CFG2")),
        ),
    ),
    (
        IDR0,
        "MSI",
        (
            *(
                (f"SMMU_{name}", f"MSI_{source}_ABT_ERR")
                for name in ("GERROR", "GERRORN")
                for source in ("CMDQ", "EVENTQ", "PRIQ", "GERROR")
            ),
            *(
                (f"SMMU_{source}_IRQ_{name}", "")
                for source in ("GERROR", "EVENTQ", "PRIQ")
                for name in ("CFG0", "CFG1", "CFG2")
            ),
        ),
    ),
    (IDR0, "ATS", (("SMMU_CR0", "ATSCHK"), ("SMMU_CR0ACK", "ATSCHK"))),
    (IDR0, "VMW", (("SMMU_CR0", "VMW"), ("SMMU_CR0ACK", "VMW"))),
    (IDR0, "HYP", (("SMMU_CR2", "E2H"),)),
    (IDR0, "BTM", (("SMMU_CR2", "PTM"),)),
    (IDR0, "ATSRECERR", (("SMMU_CR2", "REC_CFG_ATS"),)),
    (IDR0, "DORMHINT", (("SMMU_STATUSR", "DORMANT"),)),
    (IDR0, "VATOS", (("SMMU_IDR2", "BA_VATOS"),)),
    (IDR0, "ST_LEVEL", (("SMMU_STRTAB_BASE_CFG", "FMT"), ("SMMU_STRTAB_BASE_CFG", "SPLIT"))),
    (IDR1, "ECMDQ", (("SMMU_GERROR", "CMDQP_ERR"), ("SMMU_GERRORN", "CMDQP_ERR"))),
    (
        IDR3,
        "DPT",
        (
            *((f"SMMU_{name}", "DPT_WALK_EN") for name in ("CR0", "CR0ACK")),
            *((f"SMMU_{name}", "DPT_ERR") for name in ("GERROR", "GERRORN")),
        ),
    ),
)
# Fields of the queues' indexes that are not in both of a kind: OVFLG is the Event queue's, ERR the Command queue's.
_NOT_OF = {
    "SMMU_CMDQ_PROD": ("OVFLG",),
    "SMMU_CMDQ_CONS": ("OVACKFLG",),
    "SMMU_EVENTQ_CONS": ("ERR",),
    "SMMU_PRIQ_CONS": ("ERR",),
}
# First and last byte of what has contents that the architecture leaves to the implementation (6.2.1).
_IMPLEMENTATION_DEFINED = ((0xE00, 0xEFF), (0xFD0, 0x3FFF), (0x8E00, 0x8EFF), (0x9000, 0xBFFF))
# Likewise, of features that are not modelled, with what announces them: ATOS, MPAM, VATOS, ECMDQ, DPT, S2PI.
_UNMODELLED = (
    (IDR0, "ATOS", ((0x100, 0x11F),)),
    (IDR0, "VATOS", ((0x180, 0x183),)),
    (IDR1, "ECMDQ", ((0x190, 0x193), (0x4000, 0x7FFF))),
    (IDR3, "MPAM", ((0x130, 0x133), (0x138, 0x13F))),
    (IDR3, "DPT", ((0x200, 0x217),)),
    (IDR3, "S2PI", ((0x30, 0x37),)),
)


def register_of(offset: int) -> Place | None:
    """The register that a byte belongs to; None for an undefined or Reserved location."""
    return _BY_WORD.get(offset & ~3)


def implemented(capabilities: Smmuv3Capabilities) -> dict[str, int]:
    """Of each register, by name, the bits of fields that the SMMU has; all others are RES0.

    Address bits above the OAS are RES0 as well (6.3.24).
    """
    missing = {
        name
        for layout, feature, names in _FEATURES
        if not layout[feature].get(_id_register(capabilities, layout))
        for name in names
    }
    address_bits = (1 << capabilities.address_bits) - 1
    found = {}
    for name, place in REGISTERS.items():
        bits = 0
        if place.layout is None:
            bits = (1 << 8 * place.size) - 1
        elif (name, "") not in missing:
            for field in place.layout.fields:
                if field.name.startswith("RSVD") or (name, field.name) in missing:
                    continue
                if field.name not in _NOT_OF.get(name, ()):
                    bits |= field.mask & address_bits if field.name == "ADDR" else field.mask
        found[name] = bits
    return found


def is_unspecified(offset: int, capabilities: Smmuv3Capabilities) -> bool:
    """Whether a location is for the implementation to define, or belongs to a feature that is not modelled."""
    if offset >= SPACE:
        return True
    offset %= PAGE_1
    ranges = [
        *_IMPLEMENTATION_DEFINED,
        *(
            each
            for layout, feature, found in _UNMODELLED
            if layout[feature].get(_id_register(capabilities, layout))
            for each in found
        ),
    ]
    return any(first <= offset <= last for first, last in ranges)


def _id_register(capabilities: Smmuv3Capabilities, layout: Layout) -> int:
    value: int = getattr(capabilities, layout.name.removeprefix("SMMU_").lower())
    return value
