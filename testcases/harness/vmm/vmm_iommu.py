"""An IOMMU of a real machine, driven as its driver would: what every architecture has in common.

A rig for each architecture, behind one protocol, stands in `vmm_iommu_x86` and `vmm_iommu_virt`. What QEMU writes
wrongly into its logs each rig names, with the section that says so; all else of a record is compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from vmm_bench import MEMORY_BYTES, Bench

from harness.model.access import FaultRecord, Permissions
from harness.model.engine import Engine
from harness.model.memory import OffsetMemory
from harness.model.radix import PageAllocator, RadixTable

__all__ = [
    "DATA",
    "DOMAIN",
    "FAULTS",
    "HOST_TABLES",
    "QUEUE_BITS",
    "SPACE",
    "TABLES",
    "WINDOW",
    "CommandQueue",
    "Mapper",
    "Rig",
    "Stages",
]

# Where things lie in the machine's memory, from its start on.
_COMMANDS = 0x10_0000
FAULTS = 0x20_0000
TABLES = range(0x100_0000, 0x110_0000)
"""Where all tables are."""
HOST_TABLES, _GUEST_TABLES = TABLES.start, TABLES.start + len(TABLES) // 2
DATA = 0x400_0000
"""Where the pages begin that devices may use."""

# Input addresses of the device. Where two stages stand in the way and the second is the one to try, the first makes the
# guest window of them. Below that are the guest's own tables, in the machine's memory from its start on.
WINDOW, _WINDOW_BYTES = 0x12_3400_0000, 16 << 20
_GUEST_WINDOW = 0x2000_0000

QUEUE_BITS = 8
"""log2 of the entries of a queue."""
DOMAIN, SPACE = 0x1D, 0x2E
"""Domain id, VMID, GSCID; and ASID, PSCID."""


class Mapper(NamedTuple):
    """The tables that a test maps in.

    Attributes:
        table: the tree.
        input_offset: from what a device asks for to the tree's input.
        output_offset: from an address in memory to the tree's output.
    """

    table: RadixTable
    input_offset: int = 0
    output_offset: int = 0

    def map(self, iova: int, address: int, size: int, permissions: Permissions) -> None:
        """Let the device's `iova` lead to `address`, in one page of `size` bytes."""
        self.table.map(iova + self.input_offset, address + self.output_offset, size, permissions, largest_page=size)

    def unmap(self, iova: int, size: int) -> None:
        """Take the page away."""
        self.table.unmap(iova + self.input_offset, size)


class Rig(Protocol):
    """One architecture's IOMMU."""

    @property
    def bench(self) -> Bench:
        """The machine."""
        ...

    @property
    def window(self) -> int:
        """First of the input addresses, 16 MiB, that a test may map."""
        ...

    def point_at_tables(self) -> Mapper:
        """Make tables in which nothing is mapped for the device, and have the IOMMU use them; it keeps no others."""
        ...

    def engine(self) -> Engine[Any, Any]:
        """The model, from the registers as they are now."""
        ...

    def invalidate(self, iova: int) -> None:
        """Tell the IOMMU that the last table's entry for the page at `iova` has changed, and no more than that."""
        ...

    def take_records(self) -> list[FaultRecord]:
        """The faults that the IOMMU wrote down since the last time."""
        ...

    def agreed(self, record: FaultRecord) -> FaultRecord:
        """A record without what this QEMU gets wrong in it."""
        ...


@dataclass
class CommandQueue:
    """A ring of commands in memory, and how many there ever were. Its registers are the rig's."""

    bench: Bench
    entry_size: int
    count: int = 1 << QUEUE_BITS
    written: int = 0

    @property
    def base(self) -> int:
        return self.bench.place(_COMMANDS)

    def put(self, engine: Engine[Any, Any], command: Any, data: bytes) -> None:
        """Store a command, which the model takes as well."""
        assert engine.submit(command).error is None
        assert len(data) == self.entry_size
        self.bench.memory.write(self.base + self.written % self.count * self.entry_size, data)
        self.written += 1


@dataclass(frozen=True)
class Stages:
    """Which stages there are, and which of them a test maps in.

    Attributes:
        first: there is a first stage.
        second: there is a second stage.
        tried: 1 or 2.
    """

    first: bool
    second: bool
    tried: int

    def guest_pages(self, bench: Bench, host: PageAllocator) -> PageAllocator:
        """Where first-stage tables lie: with a second stage in guest memory, whose address 0 is the start of memory."""
        if not self.second:
            return host
        return PageAllocator(OffsetMemory(bench.memory, bench.memory.start), _GUEST_TABLES)

    def mapper(self, bench: Bench, first: RadixTable | None, second: RadixTable | None) -> Mapper:
        """Fill the stage that is not tried: the second with guest memory, the first with the guest window."""
        if first is None or second is None:
            only = first or second
            assert only is not None
            return Mapper(only)
        second.map(0, bench.memory.start, MEMORY_BYTES, largest_page=2 << 20)
        if self.tried == 1:
            return Mapper(first, output_offset=-bench.memory.start)
        first.map(WINDOW, _GUEST_WINDOW, _WINDOW_BYTES, largest_page=2 << 20)
        return Mapper(second, input_offset=self.second_stage_input(0))

    def second_stage_input(self, iova: int) -> int:
        """What the first stage, where it is not the one that is tried, makes of an address of the window."""
        return iova + (_GUEST_WINDOW - WINDOW if self.first else 0)
