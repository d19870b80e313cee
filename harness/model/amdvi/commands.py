"""The commands of the command buffer: their 128 bits, what is illegal in them, and what they invalidate (AMD-Vi 2.4).

A command with a reserved bit set is illegal, and so is one whose feature the extended feature register lacks. GN and
the PASID are reserved without GTSup; a PASID is ignored where GN is 0. INVALIDATE_IOTLB_PAGES takes every Type alike.

Cached GCR3 table entries go with the directory entries of their address space: INVALIDATE_IOMMU_PAGES with GN and PDE
drops them, whatever its range.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from harness.model.access import MemoryWrite, format_size
from harness.model.amdvi.events import AmdviEventCode
from harness.model.amdvi.register_fields import XT_INTERRUPT
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.bits import Field, Layout
from harness.model.engine import CommandResult, MsiWrite, RawCommand, as_bits
from harness.model.invalidation import EVERYTHING, EntryKind, Invalidation
from harness.model.memory import Memory, OutsideMemory
from harness.model.x86_message import X86Message

__all__ = [
    "COMMANDS",
    "COMMAND_SIZE",
    "AmdviCommands",
    "AmdviOpcode",
    "command_name",
    "iommu_interrupt",
    "make_command",
]

COMMAND_SIZE = 16
"""Bytes of a command."""


class AmdviOpcode(IntEnum):
    """Bits 63:60 of a command."""

    COMPLETION_WAIT = 0x1
    INVALIDATE_DEVTAB_ENTRY = 0x2
    INVALIDATE_IOMMU_PAGES = 0x3
    INVALIDATE_IOTLB_PAGES = 0x4
    INVALIDATE_INTERRUPT_TABLE = 0x5
    PREFETCH_IOMMU_PAGES = 0x6
    COMPLETE_PPR_REQUEST = 0x7
    INVALIDATE_IOMMU_ALL = 0x8
    INSERT_GUEST_EVENT = 0x9
    """2.4.9; of virtual IOMMUs, which are not part of the model: always illegal."""
    RESET_VMMIO = 0xA
    """2.4.10; likewise."""


_OPCODE = Field("Opcode", 60, 4)
_DEVICE = Field("DeviceID", 0, 16)
_ADDRESS = Field("Address", 76, 52, in_place=True)

COMMANDS: Mapping[AmdviOpcode, Layout] = {
    AmdviOpcode.COMPLETION_WAIT: Layout(
        "COMPLETION_WAIT",
        "AMD-Vi 2.4.1",
        (
            Field("s", 0, 1),
            Field("i", 1, 1),
            Field("f", 2, 1),
            Field("StoreAddress", 3, 49, in_place=True),
            Field("RSVD_52", 52, 8),
            _OPCODE,
            Field("StoreData", 64, 64),
        ),
    ),
    AmdviOpcode.INVALIDATE_DEVTAB_ENTRY: Layout(
        "INVALIDATE_DEVTAB_ENTRY",
        "AMD-Vi 2.4.2",
        (_DEVICE, Field("RSVD_16", 16, 44), _OPCODE, Field("RSVD_64", 64, 64)),
    ),
    AmdviOpcode.INVALIDATE_IOMMU_PAGES: Layout(
        "INVALIDATE_IOMMU_PAGES",
        "AMD-Vi 2.4.3",
        (
            Field("PASID", 0, 20),
            Field("RSVD_20", 20, 12),
            Field("DomainID", 32, 16),
            Field("RSVD_48", 48, 12),
            _OPCODE,
            Field("S", 64, 1),
            Field("PDE", 65, 1),
            Field("GN", 66, 1),
            Field("RSVD_67", 67, 9),
            _ADDRESS,
        ),
    ),
    AmdviOpcode.INVALIDATE_IOTLB_PAGES: Layout(
        "INVALIDATE_IOTLB_PAGES",
        "AMD-Vi 2.4.4",
        (
            _DEVICE,
            Field("PASID_15_8", 16, 8),
            Field("Maxpend", 24, 8),
            Field("QueueID", 32, 16),
            Field("PASID_7_0", 48, 8),
            Field("PASID_19_16", 56, 4),
            _OPCODE,
            Field("S", 64, 1),
            Field("RSVD_65", 65, 1),
            Field("GN", 66, 1),
            Field("RSVD_67", 67, 1),
            Field("Type", 68, 2),
            Field("RSVD_70", 70, 6),
            _ADDRESS,
        ),
    ),
    AmdviOpcode.INVALIDATE_INTERRUPT_TABLE: Layout(
        "INVALIDATE_INTERRUPT_TABLE",
        "AMD-Vi 2.4.5",
        (_DEVICE, Field("RSVD_16", 16, 44), _OPCODE, Field("RSVD_64", 64, 64)),
    ),
    AmdviOpcode.PREFETCH_IOMMU_PAGES: Layout(
        "PREFETCH_IOMMU_PAGES",
        "AMD-Vi 2.4.6",
        (
            _DEVICE,
            Field("RSVD_16", 16, 8),
            Field("PFCount", 24, 8),
            Field("PASID", 32, 20),
            Field("RSVD_52", 52, 8),
            _OPCODE,
            Field("S", 64, 1),
            Field("RSVD_65", 65, 1),
            Field("GN", 66, 1),
            Field("RSVD_67", 67, 1),
            Field("Inval", 68, 1),
            Field("RSVD_69", 69, 7),
            _ADDRESS,
        ),
    ),
    AmdviOpcode.COMPLETE_PPR_REQUEST: Layout(
        "COMPLETE_PPR_REQUEST",
        "AMD-Vi 2.4.7",
        (
            _DEVICE,
            Field("RSVD_16", 16, 16),
            Field("PASID", 32, 20),
            Field("RSVD_52", 52, 8),
            _OPCODE,
            Field("RSVD_64", 64, 2),
            Field("GN", 66, 1),
            Field("RSVD_67", 67, 29),
            Field("CompletionTag", 96, 16),
            Field("RSVD_112", 112, 16),
        ),
    ),
    AmdviOpcode.INVALIDATE_IOMMU_ALL: Layout(
        "INVALIDATE_IOMMU_ALL",
        "AMD-Vi 2.4.8",
        (Field("RSVD_0", 0, 60), _OPCODE, Field("RSVD_64", 64, 64)),
    ),
}

_OPCODES = frozenset(int(opcode) for opcode in COMMANDS)
_ILLEGAL = CommandResult(error=AmdviEventCode.ILLEGAL_COMMAND_ERROR)
_HARDWARE_ERROR = CommandResult(error=AmdviEventCode.COMMAND_HARDWARE_ERROR)
_LAST_ADDRESS = (1 << 64) - 1


def make_command(opcode: AmdviOpcode, values: Mapping[str, int] | None = None) -> int:
    """A command from its fields, named as in `COMMANDS`; those left out are zero. An address stands in place.

    Raises:
        SpecError: no such field, or a value that does not fit.
    """
    layout = COMMANDS[opcode]
    fields = dict(values or {})
    address = fields.pop("Address", 0)
    return layout.encode({"Opcode": opcode, **fields}) | (layout["Address"].put(address << 64) if address else 0)


# What of a command tells it from others of its kind, beside the range.
_FLAGS = ("s", "i", "f", "PDE", "GN", "Inval")


def command_name(command: int) -> str:
    """A command by its kind, the flags that it has set, and where it names one the size of its range.

    >>> command_name(make_command(AmdviOpcode.INVALIDATE_IOMMU_PAGES, {"S": 1, "PDE": 1, "Address": 0xFF000}))
    'INVALIDATE_IOMMU_PAGES PDE size 2 MiB'
    """
    number = _OPCODE.get(command)
    if number not in _OPCODES:
        return f"opcode {number:#x}"
    opcode = AmdviOpcode(number)
    fields = dict(COMMANDS[opcode].decode(command))
    parts = [opcode.name, *(name for name in _FLAGS if fields.get(name))]
    if "S" in fields:
        first, last = _range(fields)
        parts.append("every page" if last == _LAST_ADDRESS else f"size {format_size(last + 1 - first)}")
    return " ".join(parts)


def iommu_interrupt(registers: AmdviRegisters) -> MsiWrite | None:
    """The interrupt that the IOMMU itself sends for its event log and for completion waits; None where it cannot.

    IntCapXTEn takes it from the XT register (AMD-Vi 3.4); else it is the MSI of the PCI function.
    """
    if registers.controls("IntCapXTEn"):
        fields = dict(XT_INTERRUPT.decode(registers.xt_interrupt))
        message = X86Message(
            destination=fields["DestinationHi"] << 24 | fields["Destination"],
            vector=fields["Vector"],
            logical=bool(fields["DM"]),
        )
        address, data = message.encode()
    elif (plain := registers.interrupt_message) is not None:
        address, data = plain
    else:
        return None
    return MsiWrite(requester=registers.device_id, address=address, data=data)


class AmdviCommands:
    """Carries out commands as an IOMMU with these registers does."""

    def __init__(self, registers: AmdviRegisters, memory: Memory) -> None:
        self._registers = registers
        self._memory = memory
        self._guest = bool(registers.feature("GTSup"))
        supported = {
            AmdviOpcode.INVALIDATE_IOTLB_PAGES: registers.capability("IotlbSup"),
            AmdviOpcode.PREFETCH_IOMMU_PAGES: registers.feature("PreFSup"),
            AmdviOpcode.COMPLETE_PPR_REQUEST: registers.feature("PPRSup"),
            AmdviOpcode.INVALIDATE_IOMMU_ALL: registers.feature("IASup"),
        }
        self._missing = frozenset(opcode for opcode, there in supported.items() if not there)

    def submit(self, command: RawCommand) -> CommandResult:
        """Take a command.

        Raises:
            SpecError: not 128 bits.
        """
        command = as_bits(command, COMMAND_SIZE)
        number = _OPCODE.get(command)
        # AMD-Vi 2.5.6: unknown, not supported, or a reserved bit set.
        if number not in _OPCODES:
            return _ILLEGAL
        opcode = AmdviOpcode(number)
        layout = COMMANDS[opcode]
        fields = {name: value for name, value in layout.decode(command) if not name.startswith("RSVD")}
        if opcode in self._missing or command & layout.reserved:
            return _ILLEGAL
        if not self._guest and (fields.get("GN") or any(fields[name] for name in fields if name.startswith("PASID"))):
            return _ILLEGAL
        match opcode:
            case AmdviOpcode.COMPLETION_WAIT:
                return self._wait(fields)
            case AmdviOpcode.INVALIDATE_DEVTAB_ENTRY:
                return _drop(EntryKind.DEVICE, requester=fields["DeviceID"])
            case AmdviOpcode.INVALIDATE_IOMMU_PAGES:
                return _pages(fields)
            case AmdviOpcode.INVALIDATE_IOTLB_PAGES:
                return self._device_tlb(fields)
            case AmdviOpcode.INVALIDATE_INTERRUPT_TABLE:
                return _drop(EntryKind.INTERRUPT, requester=fields["DeviceID"])
            case AmdviOpcode.INVALIDATE_IOMMU_ALL:
                return CommandResult(invalidations=(Invalidation(kinds=EVERYTHING),))
            case _:
                # Prefetching changes nothing that can be seen, and page requests are not modelled: their completion
                # goes to the device.
                return CommandResult()

    def _wait(self, fields: Mapping[str, int]) -> CommandResult:
        """COMPLETION_WAIT: s stores, i interrupts; f only orders commands, which are carried out in order here."""
        writes: tuple[MemoryWrite, ...] = ()
        if fields["s"]:
            address = fields["StoreAddress"]
            try:
                self._memory.read(address, 8)
            except OutsideMemory:
                return _HARDWARE_ERROR
            writes = (MemoryWrite(address, fields["StoreData"].to_bytes(8, "little")),)
        interrupt = None
        if fields["i"] and self._registers.controls("ComWaitIntEn"):
            interrupt = iommu_interrupt(self._registers)
        return CommandResult(writes=writes, interrupt=interrupt)

    def _device_tlb(self, fields: Mapping[str, int]) -> CommandResult:
        # Type is reserved without InvIotlbTypeSup.
        if fields["Type"] and not self._registers.feature("InvIotlbTypeSup"):
            return _ILLEGAL
        pasid = fields["PASID_19_16"] << 16 | fields["PASID_15_8"] << 8 | fields["PASID_7_0"]
        first, last = _range(fields)
        return _drop(
            EntryKind.DEVICE_TLB,
            requester=fields["DeviceID"],
            space=pasid if fields["GN"] else None,
            has_space=bool(fields["GN"]),
            first=first,
            last=last,
        )


def _drop(
    *kinds: EntryKind,
    requester: int | None = None,
    space: int | None = None,
    has_space: bool | None = None,
    first: int | None = None,
    last: int | None = None,
) -> CommandResult:
    invalidation = Invalidation(
        kinds=frozenset(kinds),
        requester=requester,
        requester_mask=0xFFFF,
        space=space,
        has_space=has_space,
        first=first,
        last=last,
    )
    return CommandResult(invalidations=(invalidation,))


def _pages(fields: Mapping[str, int]) -> CommandResult:
    """INVALIDATE_IOMMU_PAGES: host entries of a domain, or with GN guest entries of one of its address spaces."""
    first, last = _range(fields)
    kinds = {EntryKind.LEAF}
    # AMD-Vi 2.4.3: with PDE=0 cached directory entries stay.
    if fields["PDE"]:
        kinds.add(EntryKind.TABLE)
    domain = fields["DomainID"]
    if not fields["GN"]:
        host = Invalidation(kinds=frozenset(kinds), domain=domain, stage=2, first=first, last=last)
        return CommandResult(invalidations=(host,))
    pasid = fields["PASID"]
    guest = Invalidation(kinds=frozenset(kinds), domain=domain, space=pasid, stage=1, first=first, last=last)
    if not fields["PDE"]:
        return CommandResult(invalidations=(guest,))
    process = Invalidation(kinds=frozenset({EntryKind.PROCESS}), domain=domain, space=pasid)
    return CommandResult(invalidations=(guest, process))


def _range(fields: Mapping[str, int]) -> tuple[int, int]:
    """First and last address of a command: 4 KiB, or with S what the lowest zero of the address from bit 12 on says.

    7FFF_FFFF_FFFF_F000h with S is everything (AMD-Vi 2.4.3).
    """
    address = fields["Address"] >> 64
    size = 1 << 12
    if fields["S"]:
        ones = address >> 12
        size = 1 << 13 + ((ones ^ (ones + 1)).bit_length() - 1)
    first = address & -size
    return first, min(first + size - 1, _LAST_ADDRESS)
