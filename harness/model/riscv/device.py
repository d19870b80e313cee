"""The device directory table, and the device context in it: how one device is translated (3.1, 3.3.1).

A device context is judged by its bytes and the registers alone, so what was found is kept by these bytes: the same
context is decoded and checked once, however many accesses use it. Memory is read anew each time.

Where the specification leaves a choice: a physical address wider than PAS is found when it is used, not here (3.1.4,
note); MSI translation with a Bare second stage is a misconfiguration, as is recommended; custom modes are not there,
and custom fields are ignored.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from harness.model.explanation import Step
from harness.model.memory import Memory, OutsideMemory
from harness.model.riscv.device_layouts import BASE_CONTEXT, DIRECTORY_ENTRY, DIRECTORY_RESERVED, EXTENDED_CONTEXT
from harness.model.riscv.faults import RiscvIommuCause
from harness.model.riscv.page_walk import PageTableWalk, beyond_physical_addresses, entry_reader
from harness.model.riscv.pages import FIRST_STAGE_SCHEMES, SCHEMES, SECOND_STAGE_SCHEMES
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.riscv.tags import HOST, directory_entry

__all__ = [
    "BARE_STAGE",
    "PDT_LEVELS",
    "DeviceContext",
    "DeviceDirectory",
    "FirstStage",
    "FirstStages",
    "device_indexes",
    "directory_step",
]

PDT_LEVELS = {1: 1, 2: 2, 3: 3}
"""Levels of the process directory by pdtp.MODE: PD8, PD17, PD20 (3.1.3.4). Mode 0 is Bare."""

_DIRECTORY_PPN = DIRECTORY_ENTRY["PPN"].mask
_PDT_CAPABILITY = {1: "PD8", 2: "PD17", 3: "PD20"}
_PROCESS_ID_BITS = {0: 20, 1: 8, 2: 17, 3: 20}
_MSI_OFF, _MSI_FLAT = 0, 1
_HAS_PROCESSES = "a process directory"
_CAUSE = RiscvIommuCause
_KEPT = 4096  # contexts; far more than there are devices, few enough for a fuzzer to go on for ever


class FirstStage(NamedTuple):
    """How a device or process context has IOVAs translated.

    Attributes:
        walk: None for Bare.
        root: address of the root table.
        pscid: PSCID.
        reaches_user: SUM: requests of supervisor privilege reach user pages as well.
    """

    walk: PageTableWalk | None
    root: int
    pscid: int
    reaches_user: bool


BARE_STAGE = FirstStage(None, 0, 0, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceContext:
    """A device context that was found good, in the terms of a walk.

    Attributes:
        en_ats, en_pri, t2gpa, dtf, pdtv, prpr, gade, sade, dpe: bits of tc.
        sbe: process directory and first-stage tables are big-endian.
        sxl: 1 for 32-bit first-stage schemes.
        gscid: iohgatp.GSCID, or `HOST` where the second stage is Bare.
        second: walks the second stage; None where it is Bare.
        second_root: its root table.
        first: the first stage where PDTV is 0.
        pdt_levels: levels of the process directory where PDTV is 1; 0 where pdtp.MODE is Bare.
        pdt_root: its root table.
        process_id_bits: what pdtp.MODE lets through.
        msi_table: address of the MSI page table; None where msiptp.MODE is Off.
        msi_mask, msi_pattern: which guest physical pages are those of virtual interrupt files.
    """

    en_ats: bool
    en_pri: bool
    t2gpa: bool
    dtf: bool
    pdtv: bool
    prpr: bool
    gade: bool
    sade: bool
    dpe: bool
    sbe: bool
    sxl: int
    gscid: int
    second: PageTableWalk | None
    second_root: int
    first: FirstStage
    pdt_levels: int
    pdt_root: int
    process_id_bits: int
    msi_table: int | None
    msi_mask: int
    msi_pattern: int


class FirstStages:
    """The first-stage walks that an implementation has, by the fields that select one."""

    def __init__(self, registers: RiscvIommuRegisters, memory: Memory) -> None:
        self._walks = {
            (sxl, mode, big_endian): PageTableWalk(SCHEMES[name], 1, registers, memory, big_endian=big_endian)
            for sxl, modes in FIRST_STAGE_SCHEMES.items()
            for mode, name in modes.items()
            for big_endian in (False, True)
            if registers.has(name)
        }

    def supports(self, sxl: int, mode: int) -> bool:
        """Whether a MODE of iosatp or of a process context is valid and there."""
        return not mode or (sxl, mode, False) in self._walks

    def find(
        self, sxl: int, mode: int, ppn: int, pscid: int, *, big_endian: bool, reaches_user: bool = False
    ) -> FirstStage:
        """The first stage of a supported mode, of which a context says the rest."""
        return FirstStage(self._walks.get((sxl, mode, big_endian)), ppn << 12, pscid, reaches_user)


def device_indexes(device_id: int, *, extended: bool) -> tuple[int, int, int]:
    """DDI[0], DDI[1] and DDI[2] (3.3 steps 3 and 4)."""
    leaf_bits = 6 if extended else 7
    return device_id & (1 << leaf_bits) - 1, device_id >> leaf_bits & 0x1FF, device_id >> leaf_bits + 9


class DeviceDirectory:
    """Finds device contexts as an IOMMU with these registers does.

    Args:
        registers: of the IOMMU.
        memory: where the tables are.
        first_stages: what a context may select.
    """

    def __init__(self, registers: RiscvIommuRegisters, memory: Memory, first_stages: FirstStages) -> None:
        self._registers = registers
        self._memory = memory
        self._first_stages = first_stages
        self._big_endian = registers.big_endian
        self._read = entry_reader(memory, 8, big_endian=registers.big_endian)
        self._extended = registers.extended_contexts
        self._layout = EXTENDED_CONTEXT if self._extended else BASE_CONTEXT
        self._size = 64 if self._extended else 32
        self._size_shift = 6 if self._extended else 5
        self._leaf_bits = 6 if self._extended else 7
        self._words = struct.Struct(f"{'>' if self._big_endian else '<'}{self._size // 8}Q")
        self._limit = 1 << registers.physical_address_size
        self._root = registers.ddt_root
        # Bits of the device_id above which the indexes of the non-leaf levels stand, from the root down.
        levels = max(registers.iommu_mode - 1, 1)
        self._shifts = tuple(self._leaf_bits + 9 * (level - 1) for level in range(levels - 1, 0, -1))
        self._good: dict[bytes, DeviceContext | RiscvIommuCause] = {}
        # Value, fields, V, and the rule that is broken, for traces.
        self._described: dict[bytes, tuple[int, tuple[tuple[str, int], ...], bool, str]] = {}
        gxl = int(registers.guest_is_32_bit)
        self._second_stages = {
            (sxl, mode): PageTableWalk(
                SCHEMES[name],
                2,
                registers,
                memory,
                big_endian=registers.big_endian,
                # 3.1.3.1: with SXL=1 a guest physical address has no bits beyond 33.
                width=34 if sxl else None,
            )
            for mode, name in SECOND_STAGE_SCHEMES[gxl].items()
            for sxl in (0, 1)
            if registers.has(name)
        }
        self._rules = self._misconfigurations()

    def find(self, device_id: int, trace: list[Step] | None) -> DeviceContext | RiscvIommuCause:
        """The context of a device, whose id is known not to be too wide, or why there is none (3.3.1)."""
        # 1. Start at the root that ddtp.PPN gives.
        address = self._root
        memory, limit = self._memory, self._limit
        # 2. to 7. Go down the levels above the last.
        for shift in self._shifts:
            # 3. Read the entry; where nothing answers, cause 257. (4. is about poisoned data.)
            where = address + ((device_id >> shift & 0x1FF) << 3)
            try:
                if where >= limit:
                    beyond_physical_addresses(where, 8)
                entry = self._read(where)
            except OutsideMemory:
                if trace is not None:
                    trace.append(Step("DDT entry", DIRECTORY_ENTRY.section, where, note="no memory there"))
                return _CAUSE.DDT_ENTRY_LOAD_ACCESS_FAULT
            if trace is not None:
                trace.append(directory_step("DDT entry", where, entry, device_id, None, self._big_endian))
            # 5. V is 0: cause 258.
            if not entry & 1:
                return _CAUSE.DDT_ENTRY_NOT_VALID
            # 6. A reserved bit: cause 259.
            if entry & DIRECTORY_RESERVED:
                return _CAUSE.DDT_ENTRY_MISCONFIGURED
            # 7. Go on with the next table.
            address = (entry & _DIRECTORY_PPN) << 2
        # 8. Read the device context; where nothing answers, cause 257.
        where = address + ((device_id & (1 << self._leaf_bits) - 1) << self._size_shift)
        try:
            if where >= limit:
                beyond_physical_addresses(where, self._size)
            data = memory.read(where, self._size)
        except OutsideMemory:
            if trace is not None:
                trace.append(
                    Step("device context", self._layout.section, where, size=self._size, note="no memory there")
                )
            return _CAUSE.DDT_ENTRY_LOAD_ACCESS_FAULT
        if trace is not None:
            trace.append(self._context_step(where, data, device_id))
        # 9. V is 0: cause 258. 10. Misconfigured by 3.1.4: cause 259. 11. The device context is found.
        found = self._good.get(data)
        if found is None:
            if len(self._good) >= _KEPT:
                self._good.clear()
            found = self._good[data] = self._judge(data)
        return found

    def _judge(self, data: bytes) -> DeviceContext | RiscvIommuCause:
        fields = dict(self._layout.decode(self._decode(data)))
        if not fields["tc.V"]:
            return _CAUSE.DDT_ENTRY_NOT_VALID
        if self._broken_rule(fields):
            return _CAUSE.DDT_ENTRY_MISCONFIGURED
        sxl, pdtv, guest_mode = fields["tc.SXL"], bool(fields["tc.PDTV"]), fields["iohgatp.MODE"]
        first_mode = 0 if pdtv else fields["fsc.MODE"]
        pdt_mode = fields["fsc.MODE"] if pdtv else 0
        sbe = bool(fields["tc.SBE"])
        msi_on = fields.get("msiptp.MODE", _MSI_OFF) != _MSI_OFF
        return DeviceContext(
            en_ats=bool(fields["tc.EN_ATS"]),
            en_pri=bool(fields["tc.EN_PRI"]),
            t2gpa=bool(fields["tc.T2GPA"]),
            dtf=bool(fields["tc.DTF"]),
            pdtv=pdtv,
            prpr=bool(fields["tc.PRPR"]),
            gade=bool(fields["tc.GADE"]),
            sade=bool(fields["tc.SADE"]),
            dpe=bool(fields["tc.DPE"]),
            sbe=sbe,
            sxl=sxl,
            gscid=fields["iohgatp.GSCID"] if guest_mode else HOST,
            second=self._second_stages.get((sxl, guest_mode)),
            second_root=fields["iohgatp.PPN"] << 12,
            first=self._first_stages.find(sxl, first_mode, fields["fsc.PPN"], fields["ta.PSCID"], big_endian=sbe),
            pdt_levels=PDT_LEVELS.get(pdt_mode, 0),
            pdt_root=fields["fsc.PPN"] << 12,
            process_id_bits=_PROCESS_ID_BITS.get(pdt_mode, 20),
            msi_table=fields["msiptp.PPN"] << 12 if msi_on else None,
            msi_mask=fields.get("msi_addr_mask.mask", 0),
            msi_pattern=fields.get("msi_addr_pattern.pattern", 0),
        )

    def _broken_rule(self, fields: dict[str, int]) -> str:
        """What the first rule is about that makes a context a misconfiguration; empty where none does."""
        return next((about for about, rule in self._rules if rule(fields)), "")

    def _misconfigurations(self) -> tuple[tuple[str, Callable[[dict[str, int]], object]], ...]:
        """The rules of 3.1.4, in their order, with what each is about: a context for which one is true is wrong."""
        registers = self._registers
        has = registers.has
        gxl = int(registers.guest_is_32_bit)
        reserved = [field.name for field in self._layout.fields if field.name.startswith("RSVD")]
        beyond_qos = -1 << registers.qos_id_bits if has("QOSID") else -1
        beyond_guest = -1 << max(registers.guest_address_bits - 12, 0)
        legal_sxl = (1,) if gxl else (0, 1) if registers.gxl_writable else (0,)
        legal_sbe = (0, 1) if registers.either_byte_order else (int(registers.big_endian),)
        directory_modes = {0} | {mode for mode, name in _PDT_CAPABILITY.items() if has(name)}
        first_stages, second_stages = self._first_stages, self._second_stages
        return (
            # 1. A reserved bit. RCID and MCID are reserved without QOSID, and with it have so many bits (the last
            #    rule); mask and pattern of the MSI address have no bits beyond MGPAW (3.1.3.6).
            *((name, itemgetter(name)) for name in reserved),
            *((name, lambda dc, name=name: dc[name] & beyond_qos) for name in ("ta.RCID", "ta.MCID")),
            (
                "MSI address beyond MGPAW",
                lambda dc: (dc.get("msi_addr_mask.mask", 0) | dc.get("msi_addr_pattern.pattern", 0)) & beyond_guest,
            ),
            # 2. ATS or page requests, which the IOMMU does not have.
            ("no ATS", lambda dc: not has("ATS") and (dc["tc.EN_ATS"] or dc["tc.EN_PRI"] or dc["tc.PRPR"])),
            # 3. and 4. T2GPA or EN_PRI without EN_ATS.
            ("no EN_ATS", lambda dc: not dc["tc.EN_ATS"] and (dc["tc.T2GPA"] or dc["tc.EN_PRI"])),
            # 5. PRPR without EN_PRI.
            ("no EN_PRI", lambda dc: not dc["tc.EN_PRI"] and dc["tc.PRPR"]),
            # 6. and 7. T2GPA, which the IOMMU does not have, or with a Bare second stage.
            ("T2GPA", lambda dc: dc["tc.T2GPA"] and not (has("T2GPA") and dc["iohgatp.MODE"])),
            # 8. A process directory of a mode that is reserved or not there.
            ("pdtp.MODE", lambda dc: dc["tc.PDTV"] and dc["fsc.MODE"] not in directory_modes),
            # 9. to 11. A first stage of a mode that is reserved or not there.
            ("iosatp.MODE", lambda dc: not dc["tc.PDTV"] and not first_stages.supports(dc["tc.SXL"], dc["fsc.MODE"])),
            # 12. DPE without a process directory.
            ("DPE without PDTV", lambda dc: dc["tc.DPE"] and not dc["tc.PDTV"]),
            # 13. to 15. A second stage of a mode that is reserved or not there.
            ("iohgatp.MODE", lambda dc: dc["iohgatp.MODE"] and (0, dc["iohgatp.MODE"]) not in second_stages),
            # 16. An MSI table of a mode that is reserved.
            ("msiptp.MODE", lambda dc: dc.get("msiptp.MODE", _MSI_OFF) not in (_MSI_OFF, _MSI_FLAT)),
            # 17. A second-stage root that is not aligned to its 16 KiB.
            ("iohgatp.PPN is not aligned", lambda dc: dc["iohgatp.MODE"] and dc["iohgatp.PPN"] & 3),
            # 18. Flags to be set by hardware that does not.
            *((name, lambda dc, name=name: not has("AMO_HWAD") and dc[name]) for name in ("tc.SADE", "tc.GADE")),
            # 19. One byte order only, and it is the other.
            ("SBE without END", lambda dc: not has("END") and dc["tc.SBE"] != int(registers.big_endian)),
            # 20. and 21. SXL or SBE is not legal.
            ("SXL", lambda dc: dc["tc.SXL"] not in legal_sxl),
            ("SBE", lambda dc: dc["tc.SBE"] not in legal_sbe),
            # After the list: with a Bare second stage there is no MSI translation.
            (
                "msiptp with a Bare second stage",
                lambda dc: not dc["iohgatp.MODE"] and dc.get("msiptp.MODE", _MSI_OFF) != _MSI_OFF,
            ),
        )

    def _decode(self, data: bytes) -> int:
        return sum(word << 64 * number for number, word in enumerate(self._words.unpack(data)))

    def _context_step(self, where: int, data: bytes, device_id: int) -> Step:
        described = self._described.get(data)
        if described is None:
            if len(self._described) >= _KEPT:
                self._described.clear()
            decoded = self._decode(data)
            context = dict(self._layout.decode(decoded))
            reason = self._broken_rule(context) or _HAS_PROCESSES * context["tc.PDTV"] if decoded & 1 else ""
            described = self._described[data] = (
                int.from_bytes(data, "little"),
                self._layout.describe(decoded),
                bool(decoded & 1),
                reason,
            )
        value, fields, is_valid, reason = described
        return Step(
            f"device context [{device_id:#x}]",
            self._layout.section,
            where,
            value,
            fields,
            size=self._size,
            cached=directory_entry(device_id, None, is_leaf=True) if is_valid else None,
            reason=reason,
        )


def directory_step(what: str, where: int, entry: int, device_id: int, process_id: int | None, big_endian: bool) -> Step:
    """The step of a non-leaf entry of the device directory, or with a process_id of the process directory."""
    cached = directory_entry(device_id, process_id, is_leaf=False) if entry & 1 else None
    value = int.from_bytes(entry.to_bytes(8, "big"), "little") if big_endian else entry
    return Step(what, DIRECTORY_ENTRY.section, where, value, DIRECTORY_ENTRY.describe(entry), cached=cached)
