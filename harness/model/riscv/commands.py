"""The commands of the command queue: their formats, what makes one illegal, what each leads to (4.1).

Where the specification leaves a choice: the device_id of a command is not limited while ddtp.iommu_mode is Off or Bare;
an address range of all ones with S=1 covers everything; the invalidation of one page by IOTINVAL takes away what the
address names, valid or not.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum
from typing import TypeAlias

from harness.errors import SpecError
from harness.model.access import MemoryWrite
from harness.model.bits import Field, Layout
from harness.model.engine import CommandResult, RawCommand, as_bits
from harness.model.invalidation import EntryKind, Invalidation
from harness.model.memory import Memory, OutsideMemory
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.riscv.tags import HOST

__all__ = [
    "ATS",
    "COMMAND_SIZE",
    "IODIR",
    "IOFENCE",
    "IOTINVAL",
    "RiscvIommuCommandError",
    "command_name",
    "complaint",
    "encode_command",
    "execute",
    "is_fence",
    "raises_wired_interrupt",
]

COMMAND_SIZE = 16
"""Bytes of a command."""

IOTINVAL = Layout(
    "IOTINVAL",
    "RISC-V IOMMU 4.1.1",
    (
        Field("opcode", 0, 7),
        Field("func3", 7, 3),
        Field("AV", 10, 1),
        Field("RSVD_11", 11, 1),
        Field("PSCID", 12, 20),
        Field("PSCV", 32, 1),
        Field("GV", 33, 1),
        Field("NL", 34, 1),
        Field("RSVD_35", 35, 9),
        Field("GSCID", 44, 16),
        Field("RSVD_60", 60, 4),
        Field("RSVD_64", 64, 9),
        Field("S", 73, 1),
        Field("ADDR", 74, 52),
        Field("RSVD_126", 126, 2),
    ),
)

IOFENCE = Layout(
    "IOFENCE",
    "RISC-V IOMMU 4.1.2",
    (
        Field("opcode", 0, 7),
        Field("func3", 7, 3),
        Field("AV", 10, 1),
        Field("WSI", 11, 1),
        Field("PR", 12, 1),
        Field("PW", 13, 1),
        Field("RSVD_14", 14, 18),
        Field("DATA", 32, 32),
        Field("ADDR", 64, 62),
        Field("RSVD_126", 126, 2),
    ),
)

IODIR = Layout(
    "IODIR",
    "RISC-V IOMMU 4.1.3",
    (
        Field("opcode", 0, 7),
        Field("func3", 7, 3),
        Field("RSVD_10", 10, 2),
        Field("PID", 12, 20),
        Field("RSVD_32", 32, 1),
        Field("DV", 33, 1),
        Field("RSVD_34", 34, 6),
        Field("DID", 40, 24),
        Field("RSVD_64", 64, 64),
    ),
)

ATS = Layout(
    "ATS",
    "RISC-V IOMMU 4.1.4",
    (
        Field("opcode", 0, 7),
        Field("func3", 7, 3),
        Field("RSVD_10", 10, 2),
        Field("PID", 12, 20),
        Field("PV", 32, 1),
        Field("DSV", 33, 1),
        Field("RSVD_34", 34, 6),
        Field("RID", 40, 16),
        Field("DSEG", 56, 8),
        Field("PAYLOAD", 64, 64),
    ),
)

# 4.1: opcodes, and the function numbers of each.
_LAYOUTS = {1: IOTINVAL, 2: IOFENCE, 3: IODIR, 4: ATS}
_VMA, _GVMA = 0, 1
_FENCE = 0
_INVAL_DDT, _INVAL_PDT = 0, 1
_INVAL, _PRGR = 0, 1
_NAMES = {
    "IOTINVAL.VMA": (IOTINVAL, 1, _VMA),
    "IOTINVAL.GVMA": (IOTINVAL, 1, _GVMA),
    "IOFENCE.C": (IOFENCE, 2, _FENCE),
    "IODIR.INVAL_DDT": (IODIR, 3, _INVAL_DDT),
    "IODIR.INVAL_PDT": (IODIR, 3, _INVAL_PDT),
    "ATS.INVAL": (ATS, 4, _INVAL),
    "ATS.PRGR": (ATS, 4, _PRGR),
}

_OPCODE = 0x7F
# By opcode, what a command that is not illegal has to have: for each rule what it is about, and whether it is broken.
_Rule: TypeAlias = tuple[str, Callable[[RiscvIommuRegisters, dict[str, int]], object]]
_RULES: dict[int, tuple[_Rule, ...]] = {
    1: (
        ("func3", lambda _, fields: fields["func3"] not in (_VMA, _GVMA)),
        # 9.2 and 9.3: NL and S are reserved where capabilities says that they are not there.
        ("NL", lambda registers, fields: fields["NL"] and not registers.has("NL")),
        ("S", lambda registers, fields: fields["S"] and not registers.has("S")),
        # 4.1.1: PSCV is for IOTINVAL.VMA only.
        ("PSCV", lambda _, fields: fields["func3"] == _GVMA and fields["PSCV"]),
    ),
    2: (
        ("func3", lambda _, fields: fields["func3"] != _FENCE),
        # 4.1.2: WSI is reserved without wired interrupts.
        ("WSI", lambda registers, fields: fields["WSI"] and not registers.wired_interrupts),
    ),
    3: (
        ("func3", lambda _, fields: fields["func3"] not in (_INVAL_DDT, _INVAL_PDT)),
        # 4.1.3: a DID no wider than ddtp.iommu_mode supports.
        ("DID", lambda registers, fields: fields["DV"] and fields["DID"] >> registers.device_id_bits),
        # INVAL_DDT: PID is reserved. INVAL_PDT: DV must be 1, and PID no wider than the IOMMU supports.
        ("PID", lambda _, fields: fields["func3"] == _INVAL_DDT and fields["PID"]),
        ("DV", lambda _, fields: fields["func3"] == _INVAL_PDT and not fields["DV"]),
        (
            "PID",
            lambda registers, fields: fields["func3"] == _INVAL_PDT and fields["PID"] >> registers.process_id_bits,
        ),
    ),
    4: (
        ("func3", lambda _, fields: fields["func3"] not in (_INVAL, _PRGR)),
        # 4.1.4: with capabilities.ATS only.
        ("no ATS", lambda registers, _: not registers.has("ATS")),
    ),
}

# The fields of one bit that say what a command is about.
_FLAGS = ("GV", "AV", "PSCV", "NL", "S", "WSI", "PR", "PW", "DV", "PV", "DSV")

_LEAVES = frozenset({EntryKind.LEAF})
_PAGES = _LEAVES | {EntryKind.TABLE}
_PROCESSES = frozenset({EntryKind.PROCESS})
_DIRECTORIES = _PROCESSES | {EntryKind.DEVICE}
_DEVICE_TLB = frozenset({EntryKind.DEVICE_TLB})
_INTERRUPTS = frozenset({EntryKind.INTERRUPT})
_LAST_PAGE = (1 << 52) - 1


class RiscvIommuCommandError(Enum):
    """Why the command queue stops at a command, by the bit of cqcsr that says so (6.15)."""

    ILLEGAL = "cmd_ill"
    """A reserved encoding or bit, or a command that the IOMMU does not have."""
    MEMORY_FAULT = "cqmf"
    """The command could not be fetched, or what it writes could not be written."""
    TIMEOUT = "cmd_to"
    """IOFENCE.C: an ATS.INVAL before it was not answered in time."""


def encode_command(name: str, *, big_endian: bool = False, **fields: int) -> bytes:
    """The bytes of a command: the mirror image of `execute`.

    Args:
        name: as in the specification ("IOTINVAL.VMA").
        big_endian: fctl.BE: each of the two doublewords is.
        fields: of its layout, reserved ones too. ADDR holds the upper bits of an address, as in the command.

    Raises:
        SpecError: no such command or field, or a value that does not fit.
    """
    if name not in _NAMES:
        raise SpecError(f"there is no command {name!r}", hint=f"there are {', '.join(_NAMES)}")
    layout, opcode, function = _NAMES[name]
    value = layout.encode({"opcode": opcode, "func3": function, **fields})
    return struct.pack(">2Q" if big_endian else "<2Q", value & (1 << 64) - 1, value >> 64)


def command_name(registers: RiscvIommuRegisters, command: RawCommand) -> str:
    """A command and its flags, "IOTINVAL.VMA GV AV"; "illegal" for one that the IOMMU does not carry out."""
    fields = _legal_fields(registers, _value(registers, command))
    if fields is None:
        return "illegal"
    function = fields["opcode"], fields["func3"]
    name = next(name for name, (_, opcode, func3) in _NAMES.items() if (opcode, func3) == function)
    return " ".join((name, *(flag for flag in _FLAGS if fields.get(flag))))


def complaint(registers: RiscvIommuRegisters, command: RawCommand) -> str:
    """What makes a command illegal, for a person: "NL", "RSVD_11"; empty for one that is legal and supported (4.1)."""
    return _broken_rule(registers, _value(registers, command))


def execute(registers: RiscvIommuRegisters, memory: Memory, command: RawCommand) -> CommandResult:
    """Carry out one command, the bytes of which are as in the queue.

    IOFENCE.C is taken to find every command before it completed.

    Raises:
        SpecError: not 16 bytes.
    """
    value = _value(registers, command)
    fields = _legal_fields(registers, value)
    if fields is None:
        return CommandResult(error=RiscvIommuCommandError.ILLEGAL)
    match fields["opcode"], fields["func3"]:
        case 1, 0:
            return CommandResult(invalidations=(_invalidate_first_stage(fields),))
        case 1, _:
            return CommandResult(invalidations=_invalidate_second_stage(fields))
        case 2, _:
            return _fence(registers, memory, fields)
        case 3, 0:
            requester = fields["DID"] if fields["DV"] else None
            return CommandResult(invalidations=(Invalidation(kinds=_DIRECTORIES, requester=requester),))
        case 3, _:
            one = Invalidation(kinds=_PROCESSES, requester=fields["DID"], space=fields["PID"])
            return CommandResult(invalidations=(one,))
        case 4, 0:
            return CommandResult(invalidations=(_invalidate_device_tlb(fields),))
    # ATS.PRGR: a message to the device; nothing of the IOMMU's changes.
    return CommandResult()


def is_fence(registers: RiscvIommuRegisters, command: bytes) -> bool:
    """Whether the command is a legal IOFENCE.C."""
    fields = _legal_fields(registers, _value(registers, command))
    return fields is not None and fields["opcode"] == 2


def raises_wired_interrupt(registers: RiscvIommuRegisters, command: bytes) -> bool:
    """Whether the command is an IOFENCE.C that sets cqcsr.fence_w_ip when it completes (4.1.2)."""
    return is_fence(registers, command) and bool(IOFENCE["WSI"].get(_value(registers, command)))


def _value(registers: RiscvIommuRegisters, command: RawCommand) -> int:
    data = as_bits(command, COMMAND_SIZE).to_bytes(COMMAND_SIZE, "little")
    low, high = struct.unpack(">2Q" if registers.big_endian else "<2Q", data)
    return int(low) | int(high) << 64


def _legal_fields(registers: RiscvIommuRegisters, value: int) -> dict[str, int] | None:
    """The fields of a command; None where it is illegal or not supported (4.1)."""
    return None if _broken_rule(registers, value) else dict(_LAYOUTS[value & _OPCODE].decode(value))


def _broken_rule(registers: RiscvIommuRegisters, value: int) -> str:
    """What makes a command illegal: a field of it, mostly; empty where nothing does."""
    layout = _LAYOUTS.get(value & _OPCODE)
    if layout is None:
        return "opcode"
    fields = dict(layout.decode(value))
    reserved = next((name for name in fields if name.startswith("RSVD") and fields[name]), "")
    return reserved or next((about for about, rule in _RULES[value & _OPCODE] if rule(registers, fields)), "")


def _range(fields: dict[str, int]) -> tuple[int | None, int | None]:
    """First and last address of an IOTINVAL; None without AV."""
    if not fields["AV"]:
        return None, None
    return _addresses(fields["ADDR"], is_range=bool(fields["S"]))


def _addresses(page: int, *, is_range: bool) -> tuple[int, int]:
    """First and last address that a page number of 52 bits names: one page, or a range of them.

    9.3, and the invalidation request of PCIe: the lowest 0 of the number, at position X, says that the range has
    2^(X+1) pages.
    """
    pages = 1
    if is_range:
        pages = (page ^ page + 1) + 1 if page != _LAST_PAGE else _LAST_PAGE + 1
        page &= -pages
    return page << 12, (page + pages << 12) - 1


def _invalidate_first_stage(fields: dict[str, int]) -> Invalidation:
    first, last = _range(fields)
    return Invalidation(
        # An address names leaf entries, with NL all levels; without one everything goes (4.1.1, 9.2).
        kinds=_PAGES if not fields["AV"] or fields["NL"] else _LEAVES,
        domain=fields["GSCID"] if fields["GV"] else HOST,
        space=fields["PSCID"] if fields["PSCV"] else None,
        stage=1,
        first=first,
        last=last,
    )


def _invalidate_second_stage(fields: dict[str, int]) -> tuple[Invalidation, ...]:
    # GV=0: all guests, and AV, NL and S are ignored. MSI page tables go with the second stage (3.8).
    if not fields["GV"]:
        return (Invalidation(kinds=_PAGES, stage=2), Invalidation(kinds=_INTERRUPTS))
    first, last = _range(fields)
    kinds = _PAGES if not fields["AV"] or fields["NL"] else _LEAVES
    return tuple(
        Invalidation(kinds=which, domain=fields["GSCID"], stage=2, first=first, last=last)
        for which in (kinds, _INTERRUPTS)
    )


def _fence(registers: RiscvIommuRegisters, memory: Memory, fields: dict[str, int]) -> CommandResult:
    if not fields["AV"]:
        return CommandResult()
    address = fields["ADDR"] << 2
    # 4.1.2: DATA is written to a 4-byte aligned address, in the byte order of fctl.BE (6.4).
    data = fields["DATA"].to_bytes(4, "big" if registers.big_endian else "little")
    if address >> registers.physical_address_size:
        return CommandResult(error=RiscvIommuCommandError.MEMORY_FAULT)
    try:
        memory.read(address, 4)
    except OutsideMemory:
        return CommandResult(error=RiscvIommuCommandError.MEMORY_FAULT)
    return CommandResult(writes=(MemoryWrite(address, data),))


def _invalidate_device_tlb(fields: dict[str, int]) -> Invalidation:
    # 4.1.4: the payload is that of a PCIe invalidation request: bit 0 G, bit 11 S, the address from bit 12 on.
    payload = fields["PAYLOAD"]
    first, last = _addresses(payload >> 12, is_range=bool(payload >> 11 & 1))
    requester = fields["RID"] | (fields["DSEG"] << 16 if fields["DSV"] else 0)
    return Invalidation(
        kinds=_DEVICE_TLB,
        requester=requester,
        # G: the address goes whatever the process.
        space=fields["PID"] if fields["PV"] and not payload & 1 else None,
        first=first,
        last=last,
    )
