"""The legacy-mode context-entry: how one function's requests are translated (VT-d 9.3)."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from harness.model.bits import Field, Layout
from harness.model.explanation import Step
from harness.model.memory import Memory, OutsideMemory
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.registers import VtdRegisters

__all__ = ["CONTEXT_ENTRY", "Context", "ContextBlocked", "ContextTables", "TranslationType", "context_entry_address"]

CONTEXT_ENTRY = Layout(
    "context-entry",
    "VT-d 9.3",
    (
        Field("P", 0, 1),
        Field("FPD", 1, 1),
        Field("TT", 2, 2),
        Field("RSVD", 4, 8),
        Field("SSPTPTR", 12, 52, in_place=True),
        Field("AW", 64, 3),
        Field("IGN", 67, 4),
        Field("RSVD_71", 71, 1),
        Field("DID", 72, 16),
        Field("RSVD_HIGH", 88, 40),
    ),
)

_P = CONTEXT_ENTRY["P"].mask
_FPD = CONTEXT_ENTRY["FPD"].mask
_RSVD = CONTEXT_ENTRY["RSVD"].mask
_RSVD_UPPER = (CONTEXT_ENTRY["RSVD_71"].mask | CONTEXT_ENTRY["RSVD_HIGH"].mask) >> 64


class TranslationType(IntEnum):
    """TT: which requests are let in, and how untranslated ones are translated (VT-d 9.3)."""

    SECOND_STAGE = 0b00
    SECOND_STAGE_DEVICE_TLB = 0b01
    PASS_THROUGH = 0b10
    RESERVED = 0b11


_PASS_THROUGH = int(TranslationType.PASS_THROUGH)


class Context(NamedTuple):
    """A context-entry that was found good. A tuple, since one is made for each walk.

    Attributes:
        translation_type: TT.
        table: SSPTPTR.
        levels: number of second-stage levels, from AW.
        fault_processing_disabled: FPD.
        domain_id: DID.
    """

    translation_type: int
    table: int
    levels: int
    fault_processing_disabled: bool
    domain_id: int


class ContextBlocked(NamedTuple):
    """A context-entry that blocks the request; FPD is evaluated whether the entry is present or not (VT-d 9.3)."""

    reason: VtdFaultReason
    fault_processing_disabled: bool


def context_entry_address(context_table: int, requester: int) -> int:
    """Where the context-entry of a requester is: 256 entries of 16 bytes, by device and function."""
    return context_table + ((requester & 0xFF) << 4)


class ContextTables:
    """Reads context-entries as a unit with these registers does."""

    def __init__(self, registers: VtdRegisters) -> None:
        self._host_address_width = registers.host_address_width
        # Domain-id bits that ND says are not there are reserved (VT-d 9.3, DID).
        unused = CONTEXT_ENTRY["DID"].mask >> 64 & ~((1 << 8 + registers.domain_id_width) - 1)
        self._upper_reserved = _RSVD_UPPER | unused
        # AW = n selects n + 2 levels; it must be a width that SAGAW reports (VT-d 9.3, AW).
        self._levels_of_aw = tuple(aw + 2 if aw + 2 in registers.supported_levels else 0 for aw in range(8))
        # TT 01b needs device TLBs, 10b needs pass-through, 11b is reserved (VT-d 9.3, TT).
        self._supported_types = (True, registers.extended.device_tlbs, registers.extended.pass_through, False)
        # What an entry says depends on its bits alone: few different ones are met again and again.
        self._decode = lru_cache(maxsize=1024)(self._check)

    def find(
        self, memory: Memory, context_table: int, requester: int, trace: list[Step] | None
    ) -> Context | ContextBlocked:
        """The context of a requester, or why there is none to work with."""
        address = context_entry_address(context_table, requester)
        try:
            low = memory.read_u64(address)
            high = memory.read_u64(address + 8)
        except OutsideMemory:
            # LCT.1: the context-table cannot be read.
            if trace is not None:
                trace.append(Step(_name(requester), "VT-d 9.3", address, note="no memory there", size=16))
            return ContextBlocked(VtdFaultReason.CONTEXT_TABLE_ACCESS, False)
        if trace is not None:
            value = high << 64 | low
            trace.append(Step(_name(requester), "VT-d 9.3", address, value, CONTEXT_ENTRY.describe(value), size=16))
        return self._decode(low, high)

    def _check(self, low: int, high: int) -> Context | ContextBlocked:
        disabled = bool(low & _FPD)
        # LCT.2: not present.
        if not low & _P:
            return ContextBlocked(VtdFaultReason.CONTEXT_NOT_PRESENT, disabled)
        # LCT.3: reserved fields. Pass-through ignores SSPTPTR, and with it its bits 63:HAW.
        translation_type = low >> 2 & 3
        if low & _RSVD or high & self._upper_reserved:
            return ContextBlocked(VtdFaultReason.CONTEXT_RESERVED, disabled)
        if low >> self._host_address_width and translation_type != _PASS_THROUGH:
            return ContextBlocked(VtdFaultReason.CONTEXT_RESERVED, disabled)
        # LCT.4: a width or a translation type that this hardware does not have.
        levels = self._levels_of_aw[high & 7]
        if not levels or not self._supported_types[translation_type]:
            return ContextBlocked(VtdFaultReason.CONTEXT_INVALID, disabled)
        return Context(translation_type, low & ~0xFFF, levels, disabled, high >> 8 & 0xFFFF)


def _name(requester: int) -> str:
    return f"context-entry [{requester >> 3 & 0x1F:#04x}.{requester & 7}]"
