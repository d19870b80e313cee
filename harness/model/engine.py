"""What every IOMMU model offers, and how an access of any length is put to it.

An engine is built from its registers (or configuration) and a physical memory, and changes neither: what the hardware
would write it says, in outcomes and results. It answers `translate(access)` with a `Translated`, a `Bypassed` or a
`Fault`, never with an exception from the inside. What it does not model raises `NotModelled`: an unknown is never
dressed up as an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Protocol, TypeAlias, TypeVar

from harness.errors import HarnessError, SpecError
from harness.model.access import Access, Fault, Mapping, MemoryWrite, Outcome
from harness.model.explanation import Explanation
from harness.model.invalidation import Invalidation

__all__ = [
    "AccessCrossesPage",
    "CommandResult",
    "Engine",
    "Interrupt",
    "InterruptRemapper",
    "MsiOutcome",
    "MsiWrite",
    "NotModelled",
    "Piece",
    "PostedInterrupt",
    "RawCommand",
    "Sending",
    "TableLoop",
    "as_bits",
    "check_within_page",
    "split",
    "translate_range",
]


class NotModelled(HarnessError):
    """The question needs a part of the architecture that the model does not have: nothing can be said."""


class AccessCrossesPage(SpecError):
    """An access was put to `translate` that crosses a page boundary; `translate_range` takes those."""


class TableLoop(HarnessError):
    """A table is reached again below itself: its mappings cannot be listed.

    Translation of one address still ends, since each entry takes one level at least.

    Args:
        stage: what kind of table it is.
        table: its address.
        address: input address for which it is reached again.
    """

    def __init__(self, stage: str, table: int, address: int) -> None:
        super().__init__(
            f"the {stage} table at {table:#x} is reached again below itself, for address {address:#x}",
            hint="these tables are corrupt, or map themselves on purpose; translate single addresses instead",
        )


class Sending(Enum):
    """Whether an IOMMU sends a message of its own."""

    SENT = auto()
    OPTIONAL = auto()
    """It may, and need not."""
    DISABLED = auto()
    """It does not: there is something to tell, but a register says to keep it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MsiWrite:
    """A write to an interrupt address.

    Attributes:
        requester: requester id.
        address: where it goes.
        data: 32 bits.
        sending: of a message of the IOMMU's own, whether it is sent,
        occasion: and on what occasion, where that tells it from others; messages that differ in nothing else are equal.
    """

    requester: int
    address: int
    data: int
    sending: Sending = Sending.SENT
    occasion: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Interrupt:
    """An interrupt that goes through: the message that reaches the interrupt controller.

    Attributes:
        address: message address after remapping.
        data: message data after remapping.
        remapped: whether a table entry made it, or the message went through as it was.
    """

    address: int
    data: int
    remapped: bool


@dataclass(frozen=True, slots=True)
class PostedInterrupt:
    """An interrupt that is recorded in memory for a virtual processor instead of being sent.

    Attributes:
        address: of the structure that takes it: a VT-d posted-interrupt descriptor, an AMD-Vi guest vAPIC backing
            page, a RISC-V memory-resident interrupt file.
        number: which bit of it: vector or interrupt identity.
        notify: the interrupt that tells a processor of it; None where none is sent.
        writes: what the hardware stores in it.
    """

    address: int
    number: int
    notify: Interrupt | None
    writes: tuple[MemoryWrite, ...] = ()


MsiOutcome: TypeAlias = Interrupt | PostedInterrupt | Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What a command of a hardware queue, or of a register, leads to.

    Attributes:
        error: the engine's code for a command that it refuses; None for one that is carried out.
        invalidations: what caches drop.
        writes: status that a wait command stores.
        interrupt: the message that it sends, where it asks for one.
    """

    error: Enum | None = None
    invalidations: tuple[Invalidation, ...] = ()
    writes: tuple[MemoryWrite, ...] = ()
    interrupt: MsiWrite | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a longer access, and what became of it."""

    access: Access
    outcome: Outcome


RawCommand: TypeAlias = int | bytes
"""One command of a hardware queue: its bytes as they stand there, or the bits of these, the first byte lowest."""

CommandT = TypeVar("CommandT", contravariant=True)
ReplyT = TypeVar("ReplyT", covariant=True)


class Engine(Protocol[CommandT, ReplyT]):
    """What every IOMMU model offers. Built from its registers or configuration and a physical memory."""

    @property
    def granule(self) -> int:
        """Smallest page, bytes: an access handed to `translate` must not cross a multiple of it."""
        ...

    def translate(self, access: Access) -> Outcome:
        """What becomes of the access, from the tables as they are now, with no cache.

        Raises:
            AccessCrossesPage: the access crosses a multiple of `granule`; use `translate_range`.
            NotModelled: the answer needs a part of the architecture that is not modelled.
        """
        ...

    def explain(self, access: Access) -> Explanation:
        """The same, step by step; `str()` of it is for a person. Raises as `translate` does."""
        ...

    def submit(self, command: CommandT) -> ReplyT:
        """Take one command or request of the driver.

        For a hardware queue it is a `RawCommand`, and the reply a `CommandResult`.

        Raises:
            SpecError: it is not as long as a command of that queue.
        """
        ...

    def iter_mappings(self, requester: int, pasid: int | None = None) -> Iterator[Mapping]:
        """Every range that the requester's tables map now, in ascending order, without or with a PASID.

        Raises:
            TableLoop: a table is its own ancestor.
        """
        ...


class InterruptRemapper(Protocol):
    """An engine whose architecture remaps interrupts."""

    def remap_msi(self, write: MsiWrite) -> MsiOutcome:
        """What becomes of a write to the interrupt address range."""
        ...


def as_bits(command: RawCommand, size: int) -> int:
    """The bits of a command of `size` bytes.

    Raises:
        SpecError: it has more bits, or another number of bytes.
    """
    given = len(command) if isinstance(command, bytes) else size
    bits = int.from_bytes(command, "little") if isinstance(command, bytes) else command
    if given != size or not 0 <= bits < 1 << 8 * size:
        raise SpecError(f"{bits:#x} in {given} bytes is no command of {8 * size} bits")
    return bits


def check_within_page(access: Access, granule: int) -> None:
    """Refuse an access that crosses a multiple of `granule`.

    Raises:
        AccessCrossesPage: it does.
    """
    if access.iova % granule + access.length > granule:
        raise AccessCrossesPage(
            f"{access} crosses a boundary of {granule:#x} bytes",
            hint="use translate_range, which splits it",
        )


def split(access: Access, granule: int) -> Iterator[Access]:
    """The access cut at every multiple of `granule` (bytes, a power of two), in ascending order.

    A zero-length read comes back as it is.
    """
    iova = access.iova
    left = access.length
    first = True
    while left or first:
        length = min(left, granule - iova % granule)
        yield replace(access, iova=iova, length=length)
        iova += length
        left -= length
        first = False


def translate_range(engine: Engine[CommandT, ReplyT], access: Access) -> tuple[Piece, ...]:
    """Translate an access of any length, and join what is contiguous.

    Neighbouring pieces are joined where they are all translated or all bypassed, to addresses that follow each other,
    with the same permissions, attributes and mapping size. Faults are never joined: each is a record of its own.
    """
    pieces: list[Piece] = []
    for part in split(access, engine.granule):
        outcome = engine.translate(part)
        if pieces and _continues(pieces[-1], outcome):
            last = pieces[-1]
            whole = replace(last.access, length=last.access.length + part.length)
            pieces[-1] = Piece(whole, last.outcome)
        else:
            pieces.append(Piece(part, outcome))
    return tuple(pieces)


def _continues(piece: Piece, outcome: Outcome) -> bool:
    before = piece.outcome
    if isinstance(before, Fault) or isinstance(outcome, Fault):
        return False
    return replace(before, address=before.address + piece.access.length) == outcome
