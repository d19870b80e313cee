"""The commands of SMMUv3, as they stand in the Command queue, and what they lead to (IHI 0070, chapter 4).

Choices that IHI 0070 leaves open: reserved fields are not checked (4.1.5), out-of-range parameters are taken as they
are (4.1.7), a Size of CMD_ATC_INV above 52 means everything (4.5.1), and a range that is not aligned to its TTL is
invalidated as it is said (4.4.1.1). Commands may do more than they ask for; this much is taken as done:

- Leaf of CMD_CFGI_STE: level 1 descriptors go too (4.3.1 permits it).
- CMD_TLBI_NSNH_ALL: entries of the NS-EL2 regimes go too, since nothing in a cache's tags tells "any VMID" from "none".
- CMD_ATC_INV without SubstreamID: entries with one go too.
"""

from __future__ import annotations

from enum import IntEnum

from harness.model.access import MemoryWrite
from harness.model.bits import Field, Layout
from harness.model.engine import CommandResult, RawCommand, as_bits
from harness.model.invalidation import EntryKind, Invalidation
from harness.model.smmuv3.registers import Smmuv3Registers
from harness.model.smmuv3.stream import EL2_DOMAIN

__all__ = ["COMMANDS", "COMMAND_SIZE", "Commands", "Smmuv3CommandError", "Smmuv3Opcode", "command_bits"]

COMMAND_SIZE = 16
"""Bytes of a command."""


class Smmuv3CommandError(IntEnum):
    """SMMU_CMDQ_CONS.ERR (7.1)."""

    CERROR_ILL = 1
    """An opcode that is not there, or parameters that are not allowed."""
    CERROR_ABT = 2
    """No memory answers for the command."""
    CERROR_ATC_INV_SYNC = 3
    """A CMD_SYNC after a CMD_ATC_INV that an endpoint did not answer."""


class Smmuv3Opcode(IntEnum):
    """The first byte of a command (4.1.1): those that the Non-secure queue has."""

    CMD_PREFETCH_CONFIG = 0x01
    CMD_PREFETCH_ADDR = 0x02
    CMD_CFGI_STE = 0x03
    CMD_CFGI_STE_RANGE = 0x04
    CMD_CFGI_CD = 0x05
    CMD_CFGI_CD_ALL = 0x06
    CMD_TLBI_NH_ALL = 0x10
    CMD_TLBI_NH_ASID = 0x11
    CMD_TLBI_NH_VA = 0x12
    CMD_TLBI_NH_VAA = 0x13
    CMD_TLBI_EL2_ALL = 0x20
    CMD_TLBI_EL2_ASID = 0x21
    CMD_TLBI_EL2_VA = 0x22
    CMD_TLBI_EL2_VAA = 0x23
    CMD_TLBI_S12_VMALL = 0x28
    CMD_TLBI_S2_IPA = 0x2A
    CMD_TLBI_NSNH_ALL = 0x30
    CMD_ATC_INV = 0x40
    CMD_PRI_RESP = 0x41
    CMD_RESUME = 0x44
    CMD_STALL_TERM = 0x45
    CMD_SYNC = 0x46


_OPCODE = (Field("OPCODE", 0, 8),)
_SSEC = (Field("SSEC", 10, 1),)
_STREAM = (Field("STREAMID", 32, 32),)
_SUBSTREAM = (Field("SSV", 11, 1), Field("SUBSTREAMID", 12, 20))
_RANGE = (Field("NUM", 12, 5), Field("SCALE", 20, 6))
_VMID = (Field("VMID", 32, 16),)
_ASID = (Field("ASID", 48, 16),)
_LEAF = (Field("LEAF", 64, 1),)
_HINTS = (Field("TTL128", 71, 1), Field("TTL", 72, 2), Field("TG", 74, 2))
_ADDRESS = (Field("ADDRESS", 76, 52),)

_CMD = Smmuv3Opcode
_FIELDS: dict[Smmuv3Opcode, tuple[str, tuple[Field, ...]]] = {
    _CMD.CMD_PREFETCH_CONFIG: ("4.2.1", (*_SSEC, *_SUBSTREAM, *_STREAM)),
    _CMD.CMD_PREFETCH_ADDR: (
        "4.2.2",
        (*_SSEC, *_SUBSTREAM, *_STREAM, Field("SIZE", 64, 5), Field("STRIDE", 69, 5), Field("NS", 74, 1), *_ADDRESS),
    ),
    _CMD.CMD_CFGI_STE: ("4.3.1", (*_SSEC, *_STREAM, *_LEAF)),
    _CMD.CMD_CFGI_STE_RANGE: ("4.3.2", (*_SSEC, *_STREAM, Field("RANGE", 64, 5))),
    _CMD.CMD_CFGI_CD: ("4.3.3", (*_SSEC, Field("SUBSTREAMID", 12, 20), *_STREAM, *_LEAF)),
    _CMD.CMD_CFGI_CD_ALL: ("4.3.4", (*_SSEC, *_STREAM)),
    _CMD.CMD_TLBI_NH_ALL: ("4.4.2.1", _VMID),
    _CMD.CMD_TLBI_NH_ASID: ("4.4.2.2", (*_VMID, *_ASID)),
    _CMD.CMD_TLBI_NH_VAA: ("4.4.2.3", (*_RANGE, *_VMID, *_LEAF, *_HINTS, *_ADDRESS)),
    _CMD.CMD_TLBI_NH_VA: ("4.4.2.4", (*_RANGE, *_VMID, *_ASID, *_LEAF, *_HINTS, *_ADDRESS)),
    _CMD.CMD_TLBI_EL2_ALL: ("4.4.2.7", ()),
    _CMD.CMD_TLBI_EL2_VA: ("4.4.2.8", (*_RANGE, *_ASID, *_LEAF, *_HINTS, *_ADDRESS)),
    _CMD.CMD_TLBI_EL2_VAA: ("4.4.2.9", (*_RANGE, *_LEAF, *_HINTS, *_ADDRESS)),
    _CMD.CMD_TLBI_EL2_ASID: ("4.4.2.10", _ASID),
    _CMD.CMD_TLBI_S2_IPA: ("4.4.3.1", (*_RANGE, *_VMID, *_LEAF, *_HINTS, Field("ADDRESS", 76, 44))),
    _CMD.CMD_TLBI_S12_VMALL: ("4.4.3.2", _VMID),
    _CMD.CMD_TLBI_NSNH_ALL: ("4.4.4.1", ()),
    _CMD.CMD_ATC_INV: ("4.5.1", (Field("GLOBAL", 9, 1), *_SUBSTREAM, *_STREAM, Field("SIZE", 64, 6), *_ADDRESS)),
    _CMD.CMD_PRI_RESP: ("4.5.2", (*_SUBSTREAM, *_STREAM, Field("PRGINDEX", 64, 9), Field("RESP", 76, 2))),
    _CMD.CMD_RESUME: ("4.7.1", (*_SSEC, Field("AC", 12, 1), Field("AB", 13, 1), *_STREAM, Field("STAG", 64, 16))),
    _CMD.CMD_STALL_TERM: ("4.7.2", (*_SSEC, *_STREAM)),
    _CMD.CMD_SYNC: (
        "4.7.3",
        (
            Field("CS", 12, 2),
            Field("MSH", 22, 2),
            Field("MSIATTR", 24, 4),
            Field("MSIDATA", 32, 32),
            Field("MSIADDRESS", 66, 54),
        ),
    ),
}
COMMANDS = {opcode: Layout(opcode.name, f"IHI 0070 {at}", (*_OPCODE, *f)) for opcode, (at, f) in _FIELDS.items()}
"""Fields of each command. ADDRESS leaves out bits 11:0, MSIADDRESS bits 1:0 of the address."""

_DEVICE_AND_PROCESS = frozenset({EntryKind.DEVICE, EntryKind.PROCESS})
_TABLES = frozenset({EntryKind.TABLE, EntryKind.LEAF})
_GRANULE_OF_TG = {0b01: 12, 0b10: 14, 0b11: 16}
_STAGE1_ONLY = frozenset({_CMD.CMD_CFGI_CD, _CMD.CMD_CFGI_CD_ALL}) | {
    opcode for opcode in _CMD if opcode.name.startswith("CMD_TLBI_NH_")
}
_EL2_ONLY = frozenset(opcode for opcode in _CMD if opcode.name.startswith("CMD_TLBI_EL2_"))
_STAGE2_ONLY = frozenset({_CMD.CMD_TLBI_S12_VMALL, _CMD.CMD_TLBI_S2_IPA})
_STALLS_ONLY = frozenset({_CMD.CMD_RESUME, _CMD.CMD_STALL_TERM})
_ILLEGAL = CommandResult(error=Smmuv3CommandError.CERROR_ILL)
_NOTHING = CommandResult()


def command_bits(opcode: Smmuv3Opcode, **fields: int) -> int:
    """The 128 bits of a command.

    Args:
        opcode: which.
        fields: by their names in `COMMANDS`.

    Raises:
        SpecError: no such field, or a value that does not fit.
    """
    return COMMANDS[opcode].encode({"OPCODE": int(opcode), **fields})


class Commands:
    """Takes commands as an SMMU with these registers does."""

    def __init__(self, registers: Smmuv3Registers) -> None:
        self._registers = registers
        self._capabilities = registers.capabilities

    def submit(self, command: RawCommand) -> CommandResult:
        """What a command leads to.

        Prefetches, and answers to faults and page requests, lead to nothing here: there is no cache to fill, and
        no transaction waits.

        Raises:
            SpecError: not 128 bits.
        """
        command = as_bits(command, COMMAND_SIZE)
        number = command & 0xFF
        if number not in _FIELD_NUMBERS:
            return _ILLEGAL
        opcode = Smmuv3Opcode(number)
        fields = dict(COMMANDS[opcode].decode(command))
        if self._is_illegal(opcode, fields):
            return _ILLEGAL
        match opcode:
            case _CMD.CMD_CFGI_STE:
                return _drop(Invalidation(kinds=_DEVICE_AND_PROCESS, requester=fields["STREAMID"]))
            case _CMD.CMD_CFGI_STE_RANGE:
                return _drop(self._stream_range(fields["STREAMID"], fields["RANGE"]))
            case _CMD.CMD_CFGI_CD:
                return _drop(*_one_context(fields))
            case _CMD.CMD_CFGI_CD_ALL:
                return _drop(Invalidation(kinds=frozenset({EntryKind.PROCESS}), requester=fields["STREAMID"]))
            case _CMD.CMD_ATC_INV:
                return self._device_tlb(fields)
            case _CMD.CMD_SYNC:
                return self._sync(fields)
            case _ if opcode.name.startswith("CMD_TLBI_"):
                return _drop(*self._tlb(opcode, fields))
        return _NOTHING

    def _is_illegal(self, opcode: Smmuv3Opcode, fields: dict[str, int]) -> bool:
        """CERROR_ILL (4.1.3): a feature that is not there, or a value that is not allowed."""
        capabilities = self._capabilities
        # 4.1.6: the Non-secure queue has no say over Secure streams.
        if fields.get("SSEC"):
            return True
        if opcode in _STAGE1_ONLY and not capabilities.stage1:
            return True
        # 4.4.2: EL2 needs stage 1, and IDR0.HYP.
        if opcode in _EL2_ONLY and not (capabilities.stage1 and capabilities.el2_streams):
            return True
        if opcode in _STAGE2_ONLY and not capabilities.stage2:
            return True
        if opcode in _STALLS_ONLY and capabilities.stall_model == 0b01:
            return True
        if opcode is _CMD.CMD_ATC_INV:
            return not capabilities.ats
        if opcode is _CMD.CMD_PRI_RESP:
            # 4.5.2: Resp 0b11 is reserved.
            return not capabilities.pri or fields["RESP"] == 0b11
        if opcode is _CMD.CMD_SYNC:
            return fields["CS"] == 0b11
        # 4.4.1.1: a granule with neither a range nor a level.
        if self._granule(fields) is not None:
            return not (fields["NUM"] or self._scale(fields) or self._level(fields))
        return False

    def _tlb(self, opcode: Smmuv3Opcode, fields: dict[str, int]) -> list[Invalidation]:
        kinds = frozenset({EntryKind.LEAF}) if fields.get("LEAF") else _TABLES
        stage: int | None = 2 if opcode is _CMD.CMD_TLBI_S2_IPA else 1
        if opcode in (_CMD.CMD_TLBI_S12_VMALL, _CMD.CMD_TLBI_NSNH_ALL):
            stage = None
        first, last = self._range(fields) if "ADDRESS" in fields else (None, None)
        # 4.4.2.8: EL2 has ASIDs only with CR2.E2H.
        space = fields.get("ASID")
        if opcode is _CMD.CMD_TLBI_EL2_VA and not self._registers.el2_host:
            space = None
        return [
            Invalidation(
                kinds=kinds,
                domain=domain,
                space=space,
                stage=stage,
                first=first,
                last=last,
                # By address, global entries go whatever their ASID was (4.4.2.4); by ASID alone they stay (4.4.2.2).
                globals_too="ADDRESS" in fields,
                granule=self._granule(fields),
                level=self._level(fields),
            )
            for domain in self._domains(opcode, fields)
        ]

    def _domains(self, opcode: Smmuv3Opcode, fields: dict[str, int]) -> list[int | None]:
        """The VMIDs that a command matches: one, or a block of them with wildcards (3.17.6)."""
        if opcode in _EL2_ONLY:
            return [EL2_DOMAIN]
        if "VMID" not in fields:
            return [None]
        # 4.4.2: without stage 2 there are no VMIDs.
        if not self._capabilities.stage2:
            return [0]
        count = 1 << self._registers.wildcard_bits
        first = fields["VMID"] & -count
        return list(range(first, first + count))

    def _range(self, fields: dict[str, int]) -> tuple[int, int]:
        """First and last address (4.4.1.1). A range does not wrap at the top of the address space."""
        first = fields["ADDRESS"] << 12
        size = 1 << 12
        granule = self._granule(fields)
        if granule is not None:
            size = fields["NUM"] + 1 << self._scale(fields) + granule
        return first, min(first + size, 1 << 64) - 1

    def _stream_range(self, stream_id: int, bits: int) -> Invalidation:
        """An aligned block of 2^(Range + 1) StreamIDs; all that there are, as of CMD_CFGI_ALL (4.3.2, 4.3.6)."""
        if bits + 1 >= self._capabilities.stream_id_bits:
            return Invalidation(kinds=_DEVICE_AND_PROCESS)
        mask = (1 << 32) - (2 << bits)
        return Invalidation(kinds=_DEVICE_AND_PROCESS, requester=stream_id & mask, requester_mask=mask)

    def _granule(self, fields: dict[str, int]) -> int | None:
        """log2 of the granule that TG names; entries of others may stay (4.4.1.1)."""
        return _GRANULE_OF_TG.get(fields.get("TG", 0)) if self._capabilities.range_invalidation else None

    def _level(self, fields: dict[str, int]) -> int | None:
        """The level that TTL names, 1 for the last; pages of others may stay. Of 16 KB without DS 0b01 names none."""
        granule, level = self._granule(fields), fields.get("TTL", 0)
        if granule is None or not level or (granule == 14 and level == 1 and not self._capabilities.wide_descriptors):
            return None
        return 4 - level

    def _scale(self, fields: dict[str, int]) -> int:
        """SCALE as it counts (4.4.1.1): 5 bits without DS; with it 6 bits, and at most 39."""
        return min(fields["SCALE"], 39) if self._capabilities.wide_descriptors else fields["SCALE"] & 0x1F

    def _device_tlb(self, fields: dict[str, int]) -> CommandResult:
        # 4.5.1: ignored while translation is off.
        if not self._registers.enabled:
            return _NOTHING
        first: int | None = None
        last: int | None = None
        if fields["SIZE"] < 52:
            span = 1 << 12 + fields["SIZE"]
            first = fields["ADDRESS"] << 12 & -span
            last = first + span - 1
        return _drop(
            Invalidation(
                kinds=frozenset({EntryKind.DEVICE_TLB}),
                requester=fields["STREAMID"],
                space=fields["SUBSTREAMID"] if fields["SSV"] else None,
                first=first,
                last=last,
                globals_too=bool(fields["GLOBAL"]),
            )
        )

    def _sync(self, fields: dict[str, int]) -> CommandResult:
        # 4.7.3: SIG_IRQ writes the message where the SMMU has messages and the address is not 0.
        address = fields["MSIADDRESS"] << 2
        if fields["CS"] != 0b01 or not self._capabilities.msi or not address:
            return _NOTHING
        address &= (1 << self._capabilities.address_bits) - 1
        return CommandResult(writes=(MemoryWrite(address, fields["MSIDATA"].to_bytes(4, "little")),))


_FIELD_NUMBERS = frozenset(int(opcode) for opcode in Smmuv3Opcode)


def _drop(*invalidations: Invalidation) -> CommandResult:
    return CommandResult(invalidations=invalidations)


def _one_context(fields: dict[str, int]) -> list[Invalidation]:
    """The CD at an index, and without Leaf the L1CD that leads to it (4.3.3)."""
    process = frozenset({EntryKind.PROCESS})
    stream, substream = fields["STREAMID"], fields["SUBSTREAMID"]
    dropped = [Invalidation(kinds=process, requester=stream, space=substream)]
    if not fields["LEAF"]:
        # An L1CD is tagged with the range of SubstreamIDs that it serves, instead of a single one.
        dropped.append(Invalidation(kinds=process, requester=stream, has_space=False, first=substream, last=substream))
    return dropped
