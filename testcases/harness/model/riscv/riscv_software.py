"""Software that drives a `RiscvIommuUnit` in tests: queues, commands, registers."""

from __future__ import annotations

from collections.abc import Sequence

from riscv_unit import DEVICE, IOVA, Unit

from harness.model.access import Access, AccessKind, Outcome
from harness.model.riscv import RiscvIommuFaultRecord, RiscvIommuRegisters
from harness.model.riscv.commands import encode_command
from harness.model.riscv.registers import InterruptGeneration, capabilities
from harness.model.riscv.unit import RiscvIommuUnit
from harness.model.unit import AnyBytes, Coverage

FCTL, DDTP, CQB, CQH, CQT, FQB, FQH, FQT = 8, 16, 24, 32, 36, 40, 48, 52
PQB, PQH, PQT, CQCSR, FQCSR, PQCSR, IPSR = 56, 64, 68, 72, 76, 80, 84
TR_REQ_IOVA, TR_REQ_CTL, TR_RESPONSE, ICVEC, MSI_CFG_TBL = 600, 608, 616, 760, 768
COMMANDS, FAULTS, STATUS = 0x18_0000, 0x19_0000, 0x1A_0000
ENABLE, INTERRUPT, ON = 1, 2, 1 << 16
MEMORY_FAULT, OVERFLOW, TIMEOUT, ILLEGAL, FENCE = 1 << 8, 1 << 9, 1 << 9, 1 << 10, 1 << 11
CIP, FIP = 1, 2
OFF, BARE = 0, 1
SIZE = 8
"""Entries of the queues."""


class Software:
    """A unit behind a driver, over the tables of a `riscv_unit.Unit`.

    Args:
        tables: what is in memory; one page with a first stage when left out.
        features: capabilities beside those of the tables.
        without: capabilities that are not there.
        igs: capabilities.IGS.
        vectors: see `RiscvIommuUnit`.
        controllers: likewise.
    """

    def __init__(
        self,
        tables: Unit | None = None,
        *,
        features: frozenset[str] = frozenset(),
        without: frozenset[str] = frozenset({"AMO_HWAD"}),
        igs: InterruptGeneration = InterruptGeneration.BOTH,
        vectors: int = 16,
        controllers: Sequence[range] | None = None,
    ) -> None:
        self.tables = tables or Unit("Sv39")
        found = capabilities(without=without, interrupt_generation=igs)
        if features:
            found |= capabilities(features=features, interrupt_generation=igs)
        self.coverage = Coverage()
        self.unit = RiscvIommuUnit(
            RiscvIommuRegisters(capabilities=found),
            self.tables.memory,
            coverage=self.coverage,
            vectors=vectors,
            controllers=controllers,
        )
        self.tail = 0

    def read(self, offset: int, size: int = 4) -> int:
        """A register, of which all is known."""
        readout = self.unit.read(offset, size)
        assert readout.known == (1 << 8 * size) - 1, f"{offset:#x}: {readout.known:#x} is known"
        return readout.value

    def field(self, offset: int, mask: int, size: int = 4) -> int:
        """Bits of a register, of which all are known."""
        readout = self.unit.read(offset, size)
        assert not mask & ~readout.known
        return readout.value & mask

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self.unit.write(offset, size, value)

    def set_up(self, *, features: int = 0, interrupts: int = 0) -> None:
        """Features, then both queues, as they have to be after a reset."""
        self.write(FCTL, features)
        self.write(CQB, COMMANDS >> 2 | SIZE.bit_length() - 2, 8)
        self.write(CQT, 0)
        self.write(CQCSR, ENABLE | interrupts)
        self.write(FQB, FAULTS >> 2 | SIZE.bit_length() - 2, 8)
        self.write(FQH, 0)
        self.write(FQCSR, ENABLE | interrupts)
        self.tail = 0

    def translate(self) -> None:
        """Turn it on, with the tables."""
        self.write(DDTP, self.tables.tables.ddtp, 8)

    def message(self, vector: int, address: int, data: int, control: int = 0) -> None:
        """Write an entry of msi_cfg_tbl."""
        at = MSI_CFG_TBL + 16 * vector
        self.write(at, address, 8)
        self.write(at + 8, data)
        self.write(at + 12, control)

    def command(self, name: str, *, big_endian: bool = False, **fields: int) -> None:
        """Submit one command."""
        self.raw_command(encode_command(name, big_endian=big_endian, **fields))

    def raw_command(self, *commands: bytes) -> None:
        """Submit commands, all at once."""
        for data in commands:
            self.unit.store(COMMANDS + 16 * self.tail, data)
            self.tail = (self.tail + 1) % SIZE
        self.write(CQT, self.tail)

    def access(self, kind: AccessKind = AccessKind.READ, iova: int = IOVA, device: int = DEVICE) -> Access:
        return Access(requester=device, iova=iova, length=4, kind=kind)

    def request(self, kind: AccessKind = AccessKind.READ, iova: int = IOVA, device: int = DEVICE) -> Outcome:
        """A request that can have one outcome only, and has it."""
        access = self.access(kind, iova, device)
        outcomes = self.unit.outcomes(access)
        assert len(outcomes) == 1
        assert all(isinstance(write, AnyBytes) for write in self.unit.settle(access, outcomes[0]))
        return outcomes[0]

    def record(self, index: int, *, big_endian: bool = False) -> RiscvIommuFaultRecord:
        """A record of the fault queue."""
        return RiscvIommuFaultRecord.decode(self.unit.memory.read(FAULTS + 32 * index, 32), big_endian=big_endian)

    def change_leaf(self, bits: int, iova: int = IOVA) -> None:
        """Turn bits over in the last page-table entry of a walk."""
        address = self.unit.explain(self.access(iova=iova)).steps[-1].address
        assert address is not None
        entry = self.unit.memory.read_u64(address) ^ bits
        self.unit.store(address, entry.to_bytes(8, "little"))
