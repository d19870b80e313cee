"""An AMD IOMMU that runs, for tests: a unit of the model, switched on by its registers, with one device behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from amdvi_unit import DOMAIN, IOVA, OUTPUT, RAM, RID

from harness.model.access import Access, AccessKind, Fault, Outcome
from harness.model.amdvi import AmdviEvent, AmdviRegisters, AmdviTables
from harness.model.amdvi.register_fields import CONTROL, STATUS
from harness.model.amdvi.registers import extended_features
from harness.model.amdvi.unit import AmdviUnit
from harness.model.memory import Region, SparseMemory
from harness.model.radix import RadixTable
from harness.model.unit import Coverage

__all__ = ["COMMANDS", "EVENTS", "RING", "RUNNING", "Alive", "Offset", "read_of"]

COMMANDS = 0x2_0000
EVENTS = 0x3_0000
RING = 256 * 16
RUNNING = {"IommuEn": 1, "EventLogEn": 1, "CmdBufEn": 1}


class Offset:
    """Where registers are."""

    DEVICE_TABLE = 0x0000
    COMMAND_BASE = 0x0008
    EVENT_BASE = 0x0010
    CONTROL = 0x0018
    EXCLUSION_BASE = 0x0020
    EXCLUSION_LIMIT = 0x0028
    FEATURES = 0x0030
    COMMAND_HEAD = 0x2000
    COMMAND_TAIL = 0x2008
    EVENT_HEAD = 0x2010
    EVENT_TAIL = 0x2018
    STATUS = 0x2020


def read_of(iova: int = IOVA, *, kind: AccessKind = AccessKind.READ, requester: int = RID, **options: Any) -> Access:
    return Access(requester=requester, iova=iova, length=4, kind=kind, **options)


class _Stored:
    """What software writes goes into the unit's history."""

    def __init__(self, unit: AmdviUnit) -> None:
        self._unit = unit
        self.read = unit.memory.read
        self.read_u64 = unit.memory.read_u64

    def write(self, address: int, data: bytes) -> None:
        self._unit.store(address, data)

    def write_u64(self, address: int, value: int) -> None:
        self._unit.store(address, value.to_bytes(8, "little"))


@dataclass
class Alive:
    """A unit over sparse memory, which maps one page for its device.

    `features` and `registers` say what a reset leaves, `control` what the driver sets.
    """

    features: int = field(default_factory=lambda: extended_features(features={"IASup": 1, "PreFSup": 1}))
    registers: dict[str, Any] = field(default_factory=dict)
    control: dict[str, int] = field(default_factory=lambda: dict(RUNNING))
    event_length: int = 8

    def __post_init__(self) -> None:
        memory = SparseMemory((Region(0, RAM),))
        at_reset = AmdviRegisters(
            **{"device_table_base": 0, "control": 0, "extended_feature": self.features, **self.registers}
        )
        self.coverage = Coverage()
        self.unit = AmdviUnit(at_reset, memory, coverage=self.coverage, sources=((RID, None),))
        self.tables = AmdviTables(_Stored(self.unit), 0x10_0000)
        self.table: RadixTable = self.tables.attach(RID, DOMAIN)
        self.table.map(IOVA, OUTPUT, 0x1000)
        self.turn_on()

    def turn_on(self) -> None:
        """As a driver does."""
        self.write(Offset.DEVICE_TABLE, self.tables.device_table_base)
        self.write(Offset.COMMAND_BASE, COMMANDS | 8 << 56)
        self.write(Offset.EVENT_BASE, EVENTS | self.event_length << 56)
        self.write(Offset.CONTROL, CONTROL.encode(self.control))

    def write(self, offset: int, value: int, size: int = 8) -> None:
        self.unit.write(offset, size, value)

    def read(self, offset: int) -> int:
        """A register of which everything that is looked at has to be known."""
        return self.unit.read(offset, 8).value

    def known(self, offset: int) -> int:
        return self.unit.read(offset, 8).known

    def status(self) -> set[str]:
        readout = self.unit.read(Offset.STATUS, 8)
        return {name for name, value in STATUS.decode(readout.value & readout.known) if value}

    def command(self, *commands: int) -> None:
        """Put commands into the ring, and move the tail."""
        tail = self.read(Offset.COMMAND_TAIL)
        for command in commands:
            self.unit.store(COMMANDS + tail, command.to_bytes(16, "little"))
            tail = (tail + 16) % RING
        self.write(Offset.COMMAND_TAIL, tail)

    def access(self, access: Access | None = None, choice: int = 0) -> Outcome:
        """One of the outcomes comes to pass."""
        access = read_of() if access is None else access
        outcome = self.unit.outcomes(access)[choice]
        self.unit.settle(access, outcome)
        return outcome

    def fault(self, iova: int = IOVA + 0x1000, **options: Any) -> Fault:
        """An access that no page is there for."""
        outcome = self.access(read_of(iova, **options))
        assert isinstance(outcome, Fault)
        return outcome

    def event(self, number: int = 0) -> AmdviEvent:
        """What stands in the event log."""
        return AmdviEvent.decode(self.unit.memory.read(EVENTS + 16 * number, 16))
