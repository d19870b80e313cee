"""The PASID directory and the PASID table: how the requests with one PASID are translated (VT-d 9.5, 9.6)."""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from harness.model.bits import Field, Layout
from harness.model.explanation import Step
from harness.model.memory import Memory, OutsideMemory
from harness.model.vtd.extended_capabilities import ExtendedCapabilities
from harness.model.vtd.faults import VtdFaultReason
from harness.model.vtd.registers import VtdRegisters

__all__ = [
    "DIRECTORY_ENTRY",
    "PASID_ENTRY",
    "PasidBlocked",
    "PasidEntry",
    "PasidTables",
    "PasidTranslation",
    "directory_entry_address",
    "pasid_entry_address",
]

DIRECTORY_ENTRY = Layout(
    "PASID directory entry",
    "VT-d 9.5",
    (
        Field("P", 0, 1),
        Field("FPD", 1, 1),
        Field("RSVD", 2, 10),
        Field("SMPTBLPTR", 12, 52, in_place=True),
    ),
)

PASID_ENTRY = Layout(
    "PASID table entry",
    "VT-d 9.6",
    (
        Field("P", 0, 1),
        Field("FPD", 1, 1),
        Field("AW", 2, 3),
        Field("RSVD_5", 5, 1),
        Field("PGTT", 6, 3),
        Field("SSADE", 9, 1),
        Field("RSVD_10", 10, 2),
        Field("SSPTPTR", 12, 52, in_place=True),
        Field("DID", 64, 16),
        Field("RSVD_80", 80, 7),
        Field("PWSNP", 87, 1),
        Field("PGSNP", 88, 1),
        Field("CD", 89, 1),
        Field("EMTE", 90, 1),
        Field("RSVD_91", 91, 5),
        Field("PAT", 96, 32),
        Field("SRE", 128, 1),
        Field("RSVD_129", 129, 1),
        Field("FSPM", 130, 2),
        Field("WPE", 132, 1),
        Field("IGN_133", 133, 2),
        Field("EAFE", 135, 1),
        Field("RSVD_136", 136, 4),
        Field("FSPTPTR", 140, 52, in_place=True),
        Field("RSVD_192", 192, 64),
        Field("HPTSZ", 256, 2),
        Field("HPTPFD", 258, 1),
        Field("RSVD_259", 259, 9),
        Field("HPTPTR", 268, 52, in_place=True),
        Field("HPTDID", 320, 16),
        Field("RSVD_336", 336, 176),
    ),
)

_DIRECTORY_SIZE = 8
_ENTRY_SIZE = 64
_WORDS = struct.Struct("<8Q")
_WORD = (1 << 64) - 1
_P = DIRECTORY_ENTRY["P"].mask
_FPD = DIRECTORY_ENTRY["FPD"].mask
_ADDRESS = DIRECTORY_ENTRY["SMPTBLPTR"].mask


class PasidTranslation(IntEnum):
    """PGTT: PASID granular translation type; the values that are not here are reserved (VT-d 9.6)."""

    FIRST_STAGE = 0b001
    SECOND_STAGE = 0b010
    NESTED = 0b011
    PASS_THROUGH = 0b100


_FIRST_STAGE = int(PasidTranslation.FIRST_STAGE)
_SECOND_STAGE = int(PasidTranslation.SECOND_STAGE)
_NESTED = int(PasidTranslation.NESTED)
_PASS_THROUGH = int(PasidTranslation.PASS_THROUGH)


class PasidEntry(NamedTuple):
    """A PASID table entry that was found good. What its PGTT has no use for is zero.

    Attributes:
        translation: PGTT.
        domain_id: DID.
        fault_processing_disabled: FPD of the entry itself or of its directory entry.
        second_table: SSPTPTR.
        second_levels: number of second-stage levels, from AW.
        second_flags: SSADE.
        first_table: FSPTPTR.
        first_levels: number of first-stage levels, from FSPM.
        write_protect: WPE.
        extended_accessed: EAFE.
        supervisor: SRE.
        walk_snoop: PWSNP.
        page_snoop: PGSNP.
        host_permission_table: HPTPTR.
        host_permission_size: HPTSZ.
    """

    translation: int
    domain_id: int
    fault_processing_disabled: bool
    second_table: int
    second_levels: int
    second_flags: bool
    first_table: int
    first_levels: int
    write_protect: bool
    extended_accessed: bool
    supervisor: bool
    walk_snoop: bool
    page_snoop: bool
    host_permission_table: int
    host_permission_size: int


class PasidBlocked(NamedTuple):
    """A directory or table entry that blocks the request; FPD is evaluated whether it is present or not."""

    reason: VtdFaultReason
    fault_processing_disabled: bool


def directory_entry_address(directory: int, pasid: int) -> int:
    """Where the directory entry of a PASID is: 8 bytes for each 64 PASIDs."""
    return directory + (pasid >> 6 << 3)


def pasid_entry_address(table: int, pasid: int) -> int:
    """Where the table entry of a PASID is: 64 entries of 64 bytes."""
    return table + ((pasid & 0x3F) << 6)


class PasidTables:
    """Reads PASID directories and tables as a unit with these registers does."""

    def __init__(self, registers: VtdRegisters) -> None:
        capabilities = registers.extended
        self._above_haw = _ADDRESS & ~((1 << registers.host_address_width) - 1)
        self._directory_reserved = DIRECTORY_ENTRY["RSVD"].mask | self._above_haw
        self._reserved = _reserved(registers, capabilities)
        # AW = n selects n + 2 levels; it must be a width that SAGAW reports (VT-d 9.6, AW).
        self._levels_of_aw = tuple(aw + 2 if aw + 2 in registers.supported_levels else 0 for aw in range(8))
        # FSPM 00b: 4 levels; 01b: 5 levels, where CAP_REG.FS5LP has them; others are reserved (VT-d 9.6, FSPM).
        self._levels_of_fspm = (4, 5 if registers.first_stage_5_levels else 0, 0, 0)
        self._supported = {
            _FIRST_STAGE: capabilities.first_stage,
            _SECOND_STAGE: capabilities.second_stage,
            _NESTED: capabilities.nested,
            _PASS_THROUGH: capabilities.pass_through,
        }
        self._guest_address_width = registers.guest_address_width
        # What an entry says depends on its bits alone: few different ones are met again and again.
        self._decode = lru_cache(maxsize=1024)(self._check)

    def find(self, memory: Memory, directory: int, pasid: int, trace: list[Step] | None) -> PasidEntry | PasidBlocked:
        """What becomes of requests with a PASID, by its directory and table entries."""
        address = directory_entry_address(directory, pasid)
        try:
            entry = memory.read_u64(address)
        except OutsideMemory:
            # SPD.1: the directory cannot be read.
            if trace is not None:
                trace.append(_step(DIRECTORY_ENTRY, pasid, address, None, _DIRECTORY_SIZE))
            return PasidBlocked(VtdFaultReason.PASID_DIRECTORY_ACCESS, False)
        if trace is not None:
            trace.append(_step(DIRECTORY_ENTRY, pasid, address, entry, _DIRECTORY_SIZE))
        disabled = bool(entry & _FPD)
        # SPD.2: not present.
        if not entry & _P:
            return PasidBlocked(VtdFaultReason.PASID_DIRECTORY_NOT_PRESENT, disabled)
        # SPD.3: reserved fields.
        if entry & self._directory_reserved:
            return PasidBlocked(VtdFaultReason.PASID_DIRECTORY_RESERVED, disabled)
        address = pasid_entry_address(entry & _ADDRESS, pasid)
        try:
            raw = memory.read(address, _ENTRY_SIZE)
        except OutsideMemory:
            # SPT.1: the table cannot be read.
            if trace is not None:
                trace.append(_step(PASID_ENTRY, pasid, address, None, _ENTRY_SIZE))
            return PasidBlocked(VtdFaultReason.PASID_TABLE_ACCESS, disabled)
        if trace is not None:
            trace.append(_step(PASID_ENTRY, pasid, address, int.from_bytes(raw, "little"), _ENTRY_SIZE))
        return self._decode(raw, disabled)

    def _check(self, raw: bytes, disabled: bool) -> PasidEntry | PasidBlocked:
        words = _WORDS.unpack(raw)
        disabled = disabled or bool(words[0] & _FPD)
        # SPT.2: not present.
        if not words[0] & _P:
            return PasidBlocked(VtdFaultReason.PASID_TABLE_NOT_PRESENT, disabled)
        # SPT.3: reserved fields.
        if any(word & reserved for word, reserved in zip(words, self._reserved, strict=True)):
            return PasidBlocked(VtdFaultReason.PASID_TABLE_RESERVED, disabled)
        value = int.from_bytes(raw, "little")
        # SPT.4.2: a translation type that is reserved, or that this hardware does not have.
        translation = PASID_ENTRY["PGTT"].get(value)
        if not self._supported.get(translation, False):
            return PasidBlocked(VtdFaultReason.PASID_TABLE_INVALID, disabled)
        second = translation in (_SECOND_STAGE, _NESTED)
        first = translation in (_FIRST_STAGE, _NESTED)
        # SPT.4.1, SPT.4.3: a number of levels that this hardware does not have, where the stage is in use.
        second_levels = self._levels_of_aw[PASID_ENTRY["AW"].get(value)] if second else 0
        first_levels = self._levels_of_fspm[PASID_ENTRY["FSPM"].get(value)] if first else 0
        if (second and not second_levels) or (first and not first_levels):
            return PasidBlocked(VtdFaultReason.PASID_TABLE_INVALID, disabled)
        # SPT.4.4: nested, FSPTPTR is a guest-physical address and must be below the second stage's width.
        first_table = PASID_ENTRY["FSPTPTR"].get(value) >> 128 if first else 0
        if first and second and first_table >> min(self._guest_address_width, 12 + 9 * second_levels):
            return PasidBlocked(VtdFaultReason.PASID_TABLE_INVALID, disabled)
        return PasidEntry(
            translation=translation,
            domain_id=PASID_ENTRY["DID"].get(value),
            fault_processing_disabled=disabled,
            second_table=PASID_ENTRY["SSPTPTR"].get(value) if second else 0,
            second_levels=second_levels,
            second_flags=second and bool(PASID_ENTRY["SSADE"].get(value)),
            first_table=first_table,
            first_levels=first_levels,
            write_protect=bool(PASID_ENTRY["WPE"].get(value)),
            extended_accessed=first and bool(PASID_ENTRY["EAFE"].get(value)),
            supervisor=bool(PASID_ENTRY["SRE"].get(value)),
            walk_snoop=bool(PASID_ENTRY["PWSNP"].get(value)),
            page_snoop=bool(PASID_ENTRY["PGSNP"].get(value)),
            host_permission_table=PASID_ENTRY["HPTPTR"].get(value) >> 256,
            host_permission_size=PASID_ENTRY["HPTSZ"].get(value),
        )


def _reserved(registers: VtdRegisters, capabilities: ExtendedCapabilities) -> tuple[int, ...]:
    """The reserved bits of a PASID table entry, word by word: fields of what the hardware does not have are (VT-d 9.6).

    The host-address bits above HAW are reserved in each pointer, whether PGTT makes use of it or not.
    """
    names = {entry.name for entry in PASID_ENTRY.fields if entry.name.startswith("RSVD")}
    if not capabilities.first_stage:
        names |= {"FSPTPTR", "WPE", "FSPM"}
    if not capabilities.second_stage:
        names |= {"SSPTPTR", "AW"}
    if not capabilities.second_stage or not capabilities.second_stage_flags:
        names |= {"SSADE"}
    if not capabilities.extended_accessed:
        names |= {"EAFE"}
    if not capabilities.supervisor_requests:
        names |= {"SRE"}
    if not capabilities.memory_types:
        names |= {"PAT", "EMTE", "CD"}
    if not capabilities.snoop_control:
        names |= {"PGSNP"}
    if not capabilities.walk_coherency:
        names |= {"PWSNP"}
    if not capabilities.host_permissions:
        names |= {"HPTSZ", "HPTPFD", "HPTPTR", "HPTDID"}
    bits = sum(PASID_ENTRY[name].mask for name in names)
    # Domain-id bits that ND says are not there are reserved.
    beyond_nd = 0xFFFF & ~((1 << registers.domain_id_width) - 1)
    bits |= PASID_ENTRY["DID"].put(beyond_nd) | PASID_ENTRY["HPTDID"].put(beyond_nd)
    above_haw = _ADDRESS & ~((1 << registers.host_address_width) - 1)
    bits |= above_haw | above_haw << 128 | above_haw << 256
    return tuple(bits >> 64 * word & _WORD for word in range(_ENTRY_SIZE // 8))


def _step(layout: Layout, pasid: int, address: int, value: int | None, size: int) -> Step:
    what = f"{layout.name} [pasid {pasid:#x}]"
    if value is None:
        return Step(what, layout.section, address, note="no memory there", size=size)
    return Step(what, layout.section, address, value, layout.describe(value), size=size)
