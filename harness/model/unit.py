"""One IOMMU as its driver and its devices meet it over time: registers, queues, caches, and the records of faults.

An engine says what tables and registers mean at one moment. A unit lives: software writes its registers and memory,
devices make requests, and it works through its queues, keeps what caches may hold, and writes down what went wrong.

An architecture leaves its hardware choices, so a unit does not say what happens but what may. Of a request it gives
every outcome that is allowed (`outcomes`), and is then told which of them came to pass (`settle`). Of a register it
gives the bits that are settled (`Readout`).

Whoever drives a unit beside real hardware does the same to both, in the same order, and compares: the outcome of each
request, each register that is read, and all of memory, into which the unit writes what the hardware must.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from harness.model.access import Access, MemoryWrite, Outcome
from harness.model.bits import Layout
from harness.model.engine import MsiOutcome, MsiWrite
from harness.model.explanation import Explanation, Step
from harness.model.memory import WritableMemory

__all__ = ["AnyBytes", "Coverage", "InterruptUnit", "Place", "Readout", "Unit", "UnitState"]


@dataclass(frozen=True, slots=True)
class Readout:
    """What a register reads as.

    Attributes:
        value: its bits.
        known: which of them the architecture settles; of the others any value is right.
    """

    value: int
    known: int

    def agrees(self, seen: int) -> bool:
        """Whether hardware may give this."""
        return not (self.value ^ seen) & self.known


@dataclass(frozen=True, slots=True)
class AnyBytes:
    """Memory in which hardware may leave anything: a part of a record that has no meaning.

    Attributes:
        address: of its first byte.
        size: bytes.
    """

    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Place:
    """A register, or a structure in memory that the unit writes.

    Attributes:
        name: as in the specification, the same for all of a kind: "FRCD_REG", "event log entry".
        start: offset or address of its first byte.
        size: bytes.
        layout: its fields, from `start` on; None where it has none.
        source: of a record that moves up where an earlier one is missing: its field with the requester,
        input: and the one with the address that was asked for; records of some kinds have none.
        sequence: number of a record in the order in which they are written, which a ring does not have them in.
    """

    name: str
    start: int
    size: int
    layout: Layout | None = None
    source: str = ""
    input: str = ""
    sequence: int = 0


@dataclass
class Coverage:
    """What was exercised, and how often: by kind ("fault", "command", "register", "page", "format") and name."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def note(self, kind: str, name: str) -> None:
        """It was, once more."""
        self.counts[kind, name] += 1


UnitState: TypeAlias = Any
"""What `Unit.save` gives; only the unit looks into it."""


class Unit(Protocol):
    """One IOMMU. Built from what its registers say right after a reset, and a memory that is its own to write."""

    @property
    def memory(self) -> WritableMemory:
        """What memory must hold now: what software stored, and what the unit wrote. Software's way in is `store`."""
        ...

    @property
    def coverage(self) -> Coverage:
        """Where the unit notes each command that it takes and each register field that software sets."""
        ...

    @property
    def granule(self) -> int:
        """Smallest page, bytes: see `Engine`."""
        ...

    @property
    def evidence(self) -> Sequence[tuple[int, int]]:
        """Offset and size of the registers that tell, beside records in memory, which faults there were."""
        ...

    @property
    def keeps_first_record(self) -> bool:
        """Whether of many faults the first is recorded, and of the others no more than that there were some."""
        ...

    @property
    def records_pages(self) -> bool:
        """Whether records tell the page of a request, not its address: blocked requests to a page have equal faults."""
        ...

    def reset(self) -> None:
        """The machine was reset: registers are as at first, caches are empty; memory stays."""
        ...

    def read(self, offset: int, size: int) -> Readout:
        """Software reads `size` bytes of the registers; what that changes is changed."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Software writes registers. Whatever it sets going is finished when this returns: commands, their writes."""
        ...

    def store(self, address: int, data: bytes) -> None:
        """Software writes memory.

        Raises:
            OutsideMemory: there is none.
        """
        ...

    def outcomes(self, access: Access) -> Sequence[Outcome]:
        """Every outcome that a request may have now, the one that needs no cache first; nothing changes.

        Raises:
            AccessCrossesPage, NotModelled: as an engine does.
            TooManyWalks: there is too much history to say.
        """
        ...

    def settle(self, access: Access, outcome: Outcome) -> Sequence[MemoryWrite | AnyBytes]:
        """One of `outcomes` came to pass: flags are set, the fault is recorded.

        Returns:
            Writes that hardware may have made or not, which are not in `memory`: whoever sees them there stores them.
            `AnyBytes` of a record that was written: whatever is seen there is right.
        """
        ...

    def explain(self, access: Access) -> Explanation:
        """The walk without caches, for a person."""
        ...

    def take_interrupts(self) -> Sequence[MsiWrite]:
        """Messages of the unit itself since the last time, in their order, with whether they are sent."""
        ...

    def save(self) -> UnitState:
        """A point to come back to; cheap. Before `restore` only `settle` and `settle_interrupt` are called."""
        ...

    def restore(self, state: UnitState) -> None:
        """Be as at `save`, memory included; may be done again."""
        ...

    def register_at(self, offset: int) -> Place | None:
        """The register that a byte of the register space belongs to."""
        ...

    def structure_at(self, address: int) -> Place | None:
        """The record or status in memory that the unit writes there, as its registers are now."""
        ...


class InterruptUnit(Unit, Protocol):
    """A unit that remaps interrupts: requests whose outcome is a bypass for being one are put to it again as such."""

    def interrupts(self, write: MsiWrite) -> Sequence[MsiOutcome]:
        """As `outcomes`, for a write to the interrupt address range."""
        ...

    def settle_interrupt(self, write: MsiWrite, outcome: MsiOutcome) -> None:
        """As `settle`."""
        ...

    @property
    def own_messages(self) -> Sequence[MsiWrite]:
        """What messages of its own say, as its registers are now, whether it sends any or not."""
        ...

    def explain_interrupt(self, write: MsiWrite) -> Sequence[Step]:
        """As `explain`: what is looked at for it."""
        ...
