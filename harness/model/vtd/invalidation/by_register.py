"""Invalidation by writing CCMD_REG or IOTLB_REG: the interface before the queue (VT-d 6.5.1, 11.4.6, revision 5.10).

Hardware answers at once here: the command bit (ICC, IVT) reads as zero afterwards, and the granularity that was
performed stands beside it (CAIG, IAIG), zero for a request that is wrong and does nothing. Which granularity that is,
hardware may choose, as long as it is no finer than asked.

Software must not use these registers while the queue is enabled; the specification does not say what becomes of that.
Taken here: a wrong request.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import NamedTuple

from harness.model.bits import Field, Layout, changed
from harness.model.engine import CommandResult
from harness.model.invalidation import Invalidation
from harness.model.vtd.invalidation import scopes
from harness.model.vtd.invalidation.descriptors import Granularity
from harness.model.vtd.register_layouts import TranslationTableMode
from harness.model.vtd.registers import VtdRegisters

__all__ = [
    "CCMD_REG",
    "IOTLB_REG",
    "IVA_REG",
    "RegisterInvalidation",
    "VtdWrongRequest",
    "write_ccmd",
    "write_iotlb",
]

CCMD_REG = Layout(
    "CCMD_REG",
    "VT-d 11.4.6.1",
    (
        Field("DID", 0, 16),
        Field("SID", 16, 16),
        Field("FM", 32, 2),
        Field("RSVD_34", 34, 25),
        Field("CAIG", 59, 2),
        Field("CIRG", 61, 2),
        Field("ICC", 63, 1),
    ),
)

IOTLB_REG = Layout(
    "IOTLB_REG",
    "VT-d 11.4.6.3",
    (
        Field("RSVD_0", 0, 32),
        Field("DID", 32, 16),
        Field("DW", 48, 1),
        Field("DR", 49, 1),
        Field("RSVD_50", 50, 7),
        Field("IAIG", 57, 2),
        Field("RSVD_59", 59, 1),
        Field("IIRG", 60, 2),
        Field("RSVD_62", 62, 1),
        Field("IVT", 63, 1),
    ),
)

IVA_REG = Layout(
    "IVA_REG",
    "VT-d 11.4.6.4",
    (Field("AM", 0, 6), Field("IH", 6, 1), Field("RSVD_7", 7, 5), Field("ADDR", 12, 52, in_place=True)),
)

# Hardware of a higher major version takes no invalidation through registers (VT-d 6.5).
_LAST_MAJOR_VERSION = 5


class VtdWrongRequest(Enum):
    """Why hardware ignores an invalidation request in a register, and reports granularity 0."""

    VERSION = "VER_REG.MAX is above 5"
    QUEUE_ENABLED = "queued invalidation is enabled"
    NOT_LEGACY_MODE = "RTADDR_REG.TTM is not legacy mode"
    RESERVED_GRANULARITY = "the requested granularity is 0"
    ADDRESS_MASK = "IVA_REG.AM is above CAP_REG.MAMV"


class RegisterInvalidation(NamedTuple):
    """What a write led to, and the registers afterwards."""

    result: CommandResult
    registers: VtdRegisters


def write_ccmd(
    registers: VtdRegisters, value: int, *, finest: Granularity = Granularity.SELECTIVE
) -> RegisterInvalidation:
    """Software writes CCMD_REG: a context-cache invalidation, where ICC is set.

    Args:
        registers: before the write.
        value: 64 bits.
        finest: the finest granularity that this hardware performs.
    """
    registers = replace(registers, ccmd=changed(CCMD_REG, value, {"CAIG": CCMD_REG["CAIG"].get(registers.ccmd)}))
    if not CCMD_REG["ICC"].get(value):
        return RegisterInvalidation(CommandResult(), registers)
    asked = Granularity(CCMD_REG["CIRG"].get(value))
    error = _wrong(registers, asked)
    performed = Granularity.RESERVED if error is not None else min(asked, finest)
    invalidations: tuple[Invalidation, ...] = ()
    if error is None:
        domain = scopes.domain_of(registers, CCMD_REG["DID"].get(value))
        source_id, function_mask = CCMD_REG["SID"].get(value), CCMD_REG["FM"].get(value)
        invalidations = scopes.context_cache(performed, domain, source_id, function_mask, scalable=False)
    ccmd = changed(CCMD_REG, registers.ccmd, {"ICC": 0, "CAIG": performed})
    return RegisterInvalidation(CommandResult(error=error, invalidations=invalidations), replace(registers, ccmd=ccmd))


def write_iotlb(
    registers: VtdRegisters, value: int, *, finest: Granularity = Granularity.SELECTIVE
) -> RegisterInvalidation:
    """Software writes IOTLB_REG: an IOTLB invalidation, where IVT is set; IVA_REG was written before.

    Args: as for `write_ccmd`. Hardware without CAP_REG.PSI performs a page-selective request for the whole domain.
    """
    registers = replace(registers, iotlb=changed(IOTLB_REG, value, {"IAIG": IOTLB_REG["IAIG"].get(registers.iotlb)}))
    if not IOTLB_REG["IVT"].get(value):
        return RegisterInvalidation(CommandResult(), registers)
    asked = Granularity(IOTLB_REG["IIRG"].get(value))
    largest = registers.max_address_mask
    address_mask = IVA_REG["AM"].get(registers.iva)
    error = _wrong(registers, asked)
    if error is None and asked is Granularity.SELECTIVE and largest is not None and address_mask > largest:
        error = VtdWrongRequest.ADDRESS_MASK
    if largest is None:
        finest = min(finest, Granularity.DOMAIN)
    performed = Granularity.RESERVED if error is not None else min(asked, finest)
    invalidations: tuple[Invalidation, ...] = ()
    if error is None:
        domain = scopes.domain_of(registers, IOTLB_REG["DID"].get(value))
        pages = scopes.second_stage_pages(registers, IVA_REG["ADDR"].get(registers.iva), address_mask)
        keep_tables = bool(IVA_REG["IH"].get(registers.iva))
        invalidations = scopes.iotlb(performed, domain, pages, keep_tables=keep_tables)
    iotlb = changed(IOTLB_REG, registers.iotlb, {"IVT": 0, "IAIG": performed})
    return RegisterInvalidation(
        CommandResult(error=error, invalidations=invalidations), replace(registers, iotlb=iotlb)
    )


def _wrong(registers: VtdRegisters, asked: Granularity) -> VtdWrongRequest | None:
    if registers.major_version > _LAST_MAJOR_VERSION:
        return VtdWrongRequest.VERSION
    if registers.queued_invalidation_enabled:
        return VtdWrongRequest.QUEUE_ENABLED
    if registers.translation_table_mode is not TranslationTableMode.LEGACY:
        return VtdWrongRequest.NOT_LEGACY_MODE
    if asked is Granularity.RESERVED:
        return VtdWrongRequest.RESERVED_GRANULARITY
    return None
