"""Software for tests: it sets an SMMU of the model up, gives it commands, and looks at its events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from smmuv3_unit import IOVA, READ, SID
from smmuv3_unit import Unit as Tables

from harness.model.access import Access, AccessKind, Outcome
from harness.model.smmuv3 import Smmuv3Event, Smmuv3Opcode
from harness.model.smmuv3.commands import command_bits
from harness.model.smmuv3.register_map import REGISTERS
from harness.model.smmuv3.registers import CR0, Smmuv3Registers
from harness.model.smmuv3.unit import Smmuv3Unit
from harness.model.unit import Coverage

COMMANDS, EVENTS = 0x8_0000, 0x9_0000
QUEUE_BITS = 3
SMMUEN, EVENTQEN, CMDQEN = (CR0[name].mask for name in ("SMMUEN", "EVENTQEN", "CMDQEN"))
ON = SMMUEN | EVENTQEN | CMDQEN
SYNC = command_bits(Smmuv3Opcode.CMD_SYNC)
CFGI_ALL = command_bits(Smmuv3Opcode.CMD_CFGI_STE_RANGE, RANGE=31)
TLBI_ALL = command_bits(Smmuv3Opcode.CMD_TLBI_NSNH_ALL)


@dataclass
class Driver:
    """An SMMU with the tables of `smmuv3_unit.Unit` in its memory, set up by registers.

    Attributes:
        tables: what stands in memory.
        enables: CR0 after the set-up; nothing is set up with None.
        reset: registers with what a reset leaves.
        options: of the unit.
    """

    tables: Tables = field(default_factory=Tables)
    enables: int | None = ON
    reset: dict[str, int] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        registers = Smmuv3Registers(capabilities=self.tables.capabilities(), **self.reset)
        self.coverage = Coverage()
        self.unit = Smmuv3Unit(registers, self.tables.memory, coverage=self.coverage, **self.options)
        self.producer = 0
        if self.enables is not None:
            self.set_up(self.enables)

    def set_up(self, enables: int) -> None:
        self.write("CR1", 0)
        self.write("CR2", 0)
        self.write("STRTAB_BASE", self.tables.tables.strtab_base)
        self.write("STRTAB_BASE_CFG", self.tables.tables.strtab_base_cfg)
        for queue, base in (("CMDQ", COMMANDS), ("EVENTQ", EVENTS)):
            self.write(f"{queue}_BASE", base | QUEUE_BITS)
            self.write(f"{queue}_PROD", 0)
            self.write(f"{queue}_CONS", 0)
        self.producer = 0
        self.write("CR0", enables)

    def write(self, name: str, value: int) -> None:
        place = REGISTERS[f"SMMU_{name}"]
        self.unit.write(place.start, place.size, value)

    def read(self, name: str) -> int:
        """A register of which every bit must be known."""
        place = REGISTERS[f"SMMU_{name}"]
        readout = self.unit.read(place.start, place.size)
        assert readout.known == (1 << 8 * place.size) - 1, f"{name}: {readout.known:#x} is known"
        return readout.value

    def known(self, name: str) -> int:
        place = REGISTERS[f"SMMU_{name}"]
        return self.unit.read(place.start, place.size).known

    def cons(self) -> int:
        """CMDQ_CONS.RD, with its wrap flag."""
        readout = self.unit.read(REGISTERS["SMMU_CMDQ_CONS"].start, 4)
        assert readout.known & 0xFFFFF == 0xFFFFF
        return readout.value & 0xFFFFF

    def queue(self, *commands: int) -> None:
        """Put commands into the queue, without telling the SMMU."""
        for command in commands:
            at = COMMANDS + self.producer % (1 << QUEUE_BITS) * 16
            self.unit.store(at, command.to_bytes(16, "little"))
            self.producer = (self.producer + 1) % (2 << QUEUE_BITS)

    def submit(self, *commands: int) -> None:
        self.queue(*commands)
        self.write("CMDQ_PROD", self.producer)

    def invalidate_all(self) -> None:
        self.submit(CFGI_ALL, SYNC)
        self.submit(TLBI_ALL, SYNC)

    def access(self, kind: AccessKind = READ, *, iova: int = IOVA, requester: int = SID) -> Access:
        return Access(requester=requester, iova=iova, length=4, kind=kind)

    def outcomes(self, kind: AccessKind = READ, *, iova: int = IOVA, requester: int = SID) -> list[Outcome]:
        return list(self.unit.outcomes(self.access(kind, iova=iova, requester=requester)))

    def fault(self, iova: int = 0x1000, requester: int = SID) -> Smmuv3Event:
        """Let an access fault, in the only way that it can; its event."""
        access = self.access(iova=iova, requester=requester)
        (outcome,) = self.unit.outcomes(access)
        assert self.unit.settle(access, outcome) == ()
        record = getattr(outcome, "record", None)
        assert isinstance(record, Smmuv3Event), outcome
        return record

    def event(self, index: int) -> bytes:
        return self.unit.memory.read(EVENTS + index * 32, 32)
