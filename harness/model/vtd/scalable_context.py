"""The scalable-mode context-entry: which requests of a function are let in, and where its PASIDs are (VT-d 9.4)."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from harness.model.bits import Field, Layout
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Memory, OutsideMemory
from harness.model.vtd.context import ContextBlocked
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.registers import VtdRegisters

__all__ = ["SCALABLE_CONTEXT_ENTRY", "ScalableContext", "ScalableContextTables", "scalable_context_address"]

SCALABLE_CONTEXT_ENTRY = Layout(
    "scalable-mode context-entry",
    "VT-d 9.4",
    (
        Field("P", 0, 1),
        Field("FPD", 1, 1),
        Field("DTE", 2, 1),
        Field("PASIDE", 3, 1),
        Field("PRE", 4, 1),
        Field("HPTE", 5, 1),
        Field("EPTR", 6, 1),
        Field("RSVD_7", 7, 2),
        Field("PDTS", 9, 3),
        Field("PASIDDIRPTR", 12, 52, in_place=True),
        Field("RID_PASID", 64, 20),
        Field("RID_PRIV", 84, 1),
        Field("RSVD_85", 85, 171),
    ),
)

_SIZE = 32
_WORDS = struct.Struct("<4Q")


def _in_first_word(name: str) -> int:
    return SCALABLE_CONTEXT_ENTRY[name].mask


_P = _in_first_word("P")
_FPD = _in_first_word("FPD")
_DTE = _in_first_word("DTE")
_PASIDE = _in_first_word("PASIDE")
_PRE = _in_first_word("PRE")
_HPTE = _in_first_word("HPTE")
_EPTR = _in_first_word("EPTR")
_RID_PASID = SCALABLE_CONTEXT_ENTRY["RID_PASID"].mask >> 64
_RID_PRIV = SCALABLE_CONTEXT_ENTRY["RID_PRIV"].mask >> 64
_RSVD_SECOND = SCALABLE_CONTEXT_ENTRY["RSVD_85"].mask >> 64 & (1 << 64) - 1


class ScalableContext(NamedTuple):
    """A scalable-mode context-entry that was found good, as far as that does not depend on the request.

    Attributes:
        directory: PASIDDIRPTR.
        max_pasid: the largest one that the directory of PDTS has room for.
        rid_pasid: RID_PASID, for requests without PASID.
        rid_privileged: RID_PRIV.
        device_tlb: DTE.
        pasid: PASIDE.
        page_requests: PRE.
        host_permissions: HPTE.
        translated_pasid: EPTR.
        fault_processing_disabled: FPD.
    """

    directory: int
    max_pasid: int
    rid_pasid: int
    rid_privileged: bool
    device_tlb: bool
    pasid: bool
    page_requests: bool
    host_permissions: bool
    translated_pasid: bool
    fault_processing_disabled: bool


def scalable_context_address(context_table: int, requester: int) -> int:
    """Where the entry of a requester is: 128 entries of 32 bytes, by the low four bits of the device and function."""
    return context_table + ((requester & 0x7F) << 5)


class ScalableContextTables:
    """Reads scalable-mode context-entries as a unit with these registers does."""

    def __init__(self, registers: VtdRegisters) -> None:
        capabilities = registers.extended
        above_haw = _in_first_word("PASIDDIRPTR") & ~((1 << registers.host_address_width) - 1)
        # VT-d 9.4: fields of what the hardware does not have are reserved.
        self._reserved = (
            _in_first_word("RSVD_7") | above_haw
            | (0 if capabilities.device_tlbs else _DTE)
            | (0 if capabilities.pasid else _PASIDE)
            | (0 if capabilities.page_requests else _PRE)
            | (0 if capabilities.host_permissions else _HPTE)
            | (0 if capabilities.translated_with_pasid else _EPTR)
        )  # fmt: skip
        self._reserved_second = (
            _RSVD_SECOND
            | (0 if capabilities.rid_pasid else _RID_PASID)
            | (0 if capabilities.rid_privilege else _RID_PRIV)
        )
        # What an entry says depends on its bits alone: few different ones are met again and again.
        self._decode = lru_cache(maxsize=1024)(self._check)

    def find(
        self, memory: Memory, context_table: int, requester: int, trace: list[Step] | None
    ) -> ScalableContext | ContextBlocked:
        """The context of a requester, or why there is none to work with."""
        address = scalable_context_address(context_table, requester)
        try:
            raw = memory.read(address, _SIZE)
        except OutsideMemory:
            # SCT.1: the context-table cannot be read.
            if trace is not None:
                trace.append(Step(_name(requester), "VT-d 9.4", address, note="no memory there", size=_SIZE))
            return ContextBlocked(VtdFaultReason.SCALABLE_CONTEXT_ACCESS, False)
        if trace is not None:
            value = int.from_bytes(raw, "little")
            # VT-d 6.2.2: in scalable mode the context-cache is not tagged with a domain.
            cached = CachedEntry(kind=EntryKind.DEVICE, requester=requester)
            fields = SCALABLE_CONTEXT_ENTRY.describe(value)
            trace.append(Step(_name(requester), "VT-d 9.4", address, value, fields, size=_SIZE, cached=cached))
        return self._decode(raw)

    def _check(self, raw: bytes) -> ScalableContext | ContextBlocked:
        first, second, *rest = _WORDS.unpack(raw)
        disabled = bool(first & _FPD)
        # SCT.2: not present.
        if not first & _P:
            return ContextBlocked(VtdFaultReason.SCALABLE_CONTEXT_NOT_PRESENT, disabled)
        # SCT.3: reserved fields.
        if first & self._reserved or second & self._reserved_second or any(rest):
            return ContextBlocked(VtdFaultReason.SCALABLE_CONTEXT_RESERVED, disabled)
        # SCT.4.1: page requests come from a device TLB.
        if first & _PRE and not first & _DTE:
            return ContextBlocked(VtdFaultReason.SCALABLE_CONTEXT_INVALID, disabled)
        # SCT.4.2: a directory of 2^(PDTS+7) entries, each for 64 PASIDs, has RID_PASID in it.
        max_pasid = (1 << (first >> 9 & 7) + 13) - 1
        rid_pasid = second & _RID_PASID
        if rid_pasid > max_pasid:
            return ContextBlocked(VtdFaultReason.SCALABLE_CONTEXT_INVALID, disabled)
        return ScalableContext(
            directory=first & ~0xFFF,
            max_pasid=max_pasid,
            rid_pasid=rid_pasid,
            rid_privileged=bool(second & _RID_PRIV),
            device_tlb=bool(first & _DTE),
            pasid=bool(first & _PASIDE),
            page_requests=bool(first & _PRE),
            host_permissions=bool(first & _HPTE),
            translated_pasid=bool(first & _EPTR),
            fault_processing_disabled=disabled,
        )


def _name(requester: int) -> str:
    return f"scalable-mode context-entry [{requester >> 3 & 0x1F:#04x}.{requester & 7}]"
