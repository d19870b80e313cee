"""Two IOMMUs, one above the other: what a nested guest's IOMMU gives is translated again by an outer stage.

The inner stage is the guest's: it turns an IOVA into a guest-physical address, from tables that are themselves at
guest-physical addresses. The outer stage is its host's: another engine, or the ranges in which a hypervisor maps guest
memory (`FixedStage`). `TwoStages` is both as one engine; `shadow` is the mapping that a hypervisor has to put into a
single table in their place.

>>> outer = FixedStage([Mapping(0x0, 0x4000_0000, 0x10_0000, Permissions.READ | Permissions.WRITE)])
>>> staged = StagedMemory(outer, memory)                                                             # doctest: +SKIP
>>> engine = TwoStages(VtdEngine(registers, staged), staged)                                         # doctest: +SKIP

A fault says whose it is: one of the inner stage comes as it is, to be passed up to the guest; one of the outer stage
is an `OuterFault`, with the guest-physical address that it is about, and is the host's. A table of the guest that the
outer stage does not let it read is memory that is not there, for the inner stage: its own fault, of the kind that
its architecture has for that (`explain` shows the outer fault behind it).

An interrupt goes the same way as a write: a doorbell that the inner stage translates (SMMUv3, RISC-V) is translated
again, and an address that it takes for an interrupt (0xFEEx_xxxx) is put to the outer stage unchanged.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from harness.errors import SpecError
from harness.model.access import (
    Access,
    AccessKind,
    Attributes,
    Bypassed,
    Fault,
    Mapping,
    MemoryWrite,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.engine import CommandResult, Engine, check_within_page, split
from harness.model.explanation import Explanation, Step
from harness.model.memory import Memory, OutsideMemory

__all__ = [
    "FixedStage",
    "FixedStageFault",
    "OuterFault",
    "OuterStage",
    "OutsideStage",
    "StagedMemory",
    "TwoStages",
    "compose",
    "shadow",
]

CommandT = TypeVar("CommandT")
ReplyT = TypeVar("ReplyT")

_NEEDED = {
    AccessKind.READ: Permissions.READ,
    AccessKind.WRITE: Permissions.WRITE,
    AccessKind.EXECUTE: Permissions.READ,
}
# What a leaf of the outer stage says of its own tables, not of memory.
_OF_ONE_STAGE = Attributes.GLOBAL | Attributes.PRIVILEGED


class OuterStage(Protocol):
    """What an outer stage offers; every engine does."""

    @property
    def granule(self) -> int:
        """See `Engine`."""
        ...

    def translate(self, access: Access) -> Outcome:
        """See `Engine`."""
        ...

    def explain(self, access: Access) -> Explanation:
        """See `Engine`."""
        ...

    def iter_mappings(self, requester: int, pasid: int | None = None) -> Iterator[Mapping]:
        """See `Engine`."""
        ...


class FixedStageFault(StrEnum):
    """Why a `FixedStage` blocks an access."""

    NOT_MAPPED = "nothing is mapped there"
    NOT_PERMITTED = "the mapping does not allow it"


class FixedStage:
    """An outer stage of fixed ranges, the same for every requester: a hypervisor's map of its guest's memory.

    Args:
        mappings: guest-physical to host-physical, in any order.
        granule: bytes; the ranges are whole multiples of it.

    Raises:
        SpecError: ranges overlap, or are no multiples of the granule.
    """

    def __init__(self, mappings: Iterable[Mapping], granule: int = 4096) -> None:
        self._mappings = sorted(mappings, key=lambda mapping: mapping.iova)
        self._starts = [mapping.iova for mapping in self._mappings]
        self._granule = granule
        end = 0
        for mapping in self._mappings:
            if mapping.size <= 0 or (mapping.iova | mapping.address | mapping.size) % granule:
                raise SpecError(f"{mapping} is not a multiple of {granule:#x} bytes")
            if mapping.iova < end:
                raise SpecError(f"{mapping} overlaps with the range before it")
            end = mapping.iova + mapping.size

    @property
    def granule(self) -> int:
        """See `Engine`."""
        return self._granule

    def translate(self, access: Access) -> Outcome:
        """See `Engine`. Execution needs the right to read."""
        check_within_page(access, self._granule)
        mapping = self._find(access.iova)
        if mapping is None:
            return self._fault(access, FixedStageFault.NOT_MAPPED)
        if _NEEDED[access.kind] not in mapping.permissions:
            return self._fault(access, FixedStageFault.NOT_PERMITTED)
        return Translated(access.iova - mapping.iova + mapping.address, mapping.size, mapping.permissions)

    def explain(self, access: Access) -> Explanation:
        """See `Engine`."""
        outcome = self.translate(access)
        mapping = self._find(access.iova)
        step = Step("guest memory", "host", note="not mapped" if mapping is None else str(mapping))
        return Explanation(access, (step,), outcome)

    def iter_mappings(self, requester: int, pasid: int | None = None) -> Iterator[Mapping]:
        """See `Engine`."""
        return iter(self._mappings)

    def _find(self, address: int) -> Mapping | None:
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        mapping = self._mappings[at]
        return mapping if address < mapping.iova + mapping.size else None

    def _fault(self, access: Access, code: FixedStageFault) -> Fault:
        return Fault(code, access.requester, access.iova & ~0xFFF, access.kind is AccessKind.WRITE)


class OutsideStage(OutsideMemory):
    """The outer stage does not let an address be reached.

    Attributes:
        fault: of the outer stage.
    """

    def __init__(self, address: int, size: int, fault: Fault) -> None:
        super().__init__(address, size)
        self.fault = fault


class StagedMemory:
    """Memory at guest-physical addresses: each read is translated by the outer stage.

    Args:
        outer: the outer stage.
        memory: host-physical memory.
        requester: in whose name the outer stage sees the reads.
    """

    def __init__(self, outer: OuterStage, memory: Memory, requester: int = 0) -> None:
        self.outer = outer
        self.memory = memory
        self.requester = requester

    def read_u64(self, address: int) -> int:
        """See `Memory`.

        Raises:
            OutsideStage: the outer stage blocks it.
        """
        return int.from_bytes(self.read(address, 8), "little")

    def read(self, address: int, size: int) -> bytes:
        """See `Memory`.

        Raises:
            OutsideStage: the outer stage blocks it.
        """
        pieces = [self.memory.read(piece.address, piece.size) for piece in self.locate(address, size, AccessKind.READ)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def locate(self, address: int, size: int, kind: AccessKind) -> Iterator[Mapping]:
        """Where a range is in host-physical memory, in pieces that are contiguous there.

        Raises:
            OutsideStage: the outer stage blocks it.
            OutsideMemory: it runs over the end of the address space.
        """
        if address + size > 1 << 64:
            raise OutsideMemory(address, size)
        whole = Access(requester=self.requester, iova=address, length=size, kind=kind)
        for part in split(whole, self.outer.granule):
            outcome = self.outer.translate(part)
            if isinstance(outcome, Fault):
                raise OutsideStage(part.iova, part.length, outcome)
            permissions = outcome.permissions if isinstance(outcome, Translated) else _NEEDED[kind]
            yield Mapping(part.iova, outcome.address, part.length, permissions)


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterFault(Fault):
    """A fault of the outer stage: the guest's tables are not to blame.

    Code, requester, stage, level and record are those of the outer stage, `iova` is the page of the guest-physical
    address.

    Attributes:
        inner: what the inner stage said.
    """

    inner: Outcome

    def __str__(self) -> str:
        return f"outer stage: {Fault.__str__(self)} at guest-physical {self.iova:#x}"


class TwoStages(Generic[CommandT, ReplyT]):
    """An inner engine over an outer stage, as one engine.

    A translation has the size that is smaller of both, and the permissions that both give. An access may reach up to
    the next page boundary of the stage that has the smaller pages.

    Args:
        inner: the guest's engine, built over `tables`.
        tables: the guest's memory, as the IOMMU reads its tables there.
        outer: the outer stage that the device's accesses go through; that of `tables` where it is left out.
        requester: in whose name it sees an access of a requester; the same where it is left out.
    """

    def __init__(
        self,
        inner: Engine[CommandT, ReplyT],
        tables: StagedMemory,
        outer: OuterStage | None = None,
        requester: Callable[[int], int] = lambda requester: requester,
    ) -> None:
        self.inner = inner
        self.tables = tables
        self.outer = tables.outer if outer is None else outer
        self._requester = requester

    @property
    def granule(self) -> int:
        """See `Engine`: the smaller one of both."""
        return min(self.inner.granule, self.outer.granule)

    def translate(self, access: Access) -> Outcome:
        """See `Engine`. A fault of the outer stage is an `OuterFault`."""
        check_within_page(access, self.granule)
        inner = self.inner.translate(access)
        if isinstance(inner, Fault):
            return self._relocated(inner)
        return self._joined(inner, self.outer.translate(self._below(access, inner.address)))

    def explain(self, access: Access) -> Explanation:
        """See `Engine`: the inner walk, with where the outer stage has each of its tables, then the outer walk."""
        check_within_page(access, self.granule)
        inner = self.inner.explain(access)
        steps: list[Step] = []
        for step in inner.steps:
            steps.append(step)
            if step.address is not None:
                steps.append(Step("  outer stage of it", "nested", note=self._where(step.address, step.size)))
        if isinstance(inner.outcome, Fault):
            return Explanation(access, tuple(steps), self._relocated(inner.outcome))
        steps.append(Step("guest-physical address", "nested", note=str(inner.outcome)))
        outer = self.outer.explain(self._below(access, inner.outcome.address))
        steps += (replace(step, what=f"outer {step.what}") for step in outer.steps)
        return Explanation(access, tuple(steps), self._joined(inner.outcome, outer.outcome))

    def submit(self, command: CommandT) -> ReplyT:
        """See `Engine`: a command of the guest. Status that it stores is stored where the outer stage has it.

        Raises:
            OutsideMemory: the outer stage does not let the status be stored.
        """
        reply = self.inner.submit(command)
        if isinstance(reply, CommandResult) and reply.writes:
            return replace(reply, writes=self._moved(reply.writes))
        return reply

    def iter_mappings(self, requester: int, pasid: int | None = None) -> Iterator[Mapping]:
        """See `Engine`. What flags it would set, and tables that the outer stage hides, are not looked at twice."""
        outer = self.outer.iter_mappings(self._requester(requester))
        return compose(self.inner.iter_mappings(requester, pasid), outer)

    def _below(self, access: Access, address: int) -> Access:
        """The access as the outer stage sees it."""
        requester = self._requester(access.requester)
        return Access(requester=requester, iova=address, length=access.length, kind=access.kind)

    def _where(self, address: int, size: int) -> str:
        try:
            pieces = list(self.tables.locate(address, size, AccessKind.READ))
        except OutsideStage as error:
            return f"{address:#x}: {error.fault}"
        except OutsideMemory:
            return f"{address:#x}: beyond every address"
        return f"{address:#x} is at {pieces[0].address:#x}"

    def _joined(self, inner: Translated | Bypassed, outer: Outcome) -> Outcome:
        moved = self._relocated(inner)
        if isinstance(moved, Fault):
            return moved
        set_before = moved.writes if isinstance(moved, Translated) else ()
        if isinstance(outer, Fault):
            return _outer_fault(outer, inner, set_before)
        if isinstance(outer, Bypassed):
            return replace(moved, address=outer.address)
        if isinstance(moved, Bypassed):
            return outer
        return Translated(
            outer.address,
            min(moved.size, outer.size),
            moved.permissions & outer.permissions,
            moved.attributes | outer.attributes & ~_OF_ONE_STAGE,
            set_before + outer.writes,
        )

    def _relocated(self, outcome: Outcome) -> Outcome:
        """An outcome of the inner stage, with the flags that it sets where the outer stage has them."""
        if isinstance(outcome, Bypassed) or not outcome.writes:
            return outcome
        try:
            moved: Outcome = replace(outcome, writes=self._moved(outcome.writes))
        except OutsideStage as error:
            return _outer_fault(error.fault, outcome, ())
        return moved

    def _moved(self, writes: Iterable[MemoryWrite]) -> tuple[MemoryWrite, ...]:
        """Writes to guest-physical addresses, as writes to host-physical ones.

        Raises:
            OutsideStage: the outer stage blocks one.
        """
        moved = []
        for write in writes:
            for piece in self.tables.locate(write.address, len(write.data), AccessKind.WRITE):
                start = piece.iova - write.address
                moved.append(MemoryWrite(piece.address, write.data[start : start + piece.size]))
        return tuple(moved)


def _outer_fault(fault: Fault, inner: Outcome, set_before: tuple[MemoryWrite, ...]) -> OuterFault:
    return OuterFault(
        fault.code,
        fault.requester,
        fault.iova,
        fault.is_write,
        fault.stage,
        fault.level,
        fault.record,
        fault.completion,
        set_before + fault.writes,
        inner=inner,
    )


def compose(inner: Iterable[Mapping], outer: Iterable[Mapping]) -> Iterator[Mapping]:
    """What two stages map together: every piece of an inner mapping that the outer one maps, in the inner's order.

    A piece is as large as both allow; where they have no permission in common there is none.

    Args:
        inner: to guest-physical addresses.
        outer: from guest-physical addresses, in ascending order and apart from each other.
    """
    below = tuple(outer)
    starts = [mapping.iova for mapping in below]
    for mapping in inner:
        end = mapping.address + mapping.size
        at = max(bisect_right(starts, mapping.address) - 1, 0)
        while at < len(below) and below[at].iova < end:
            part = below[at]
            first = max(mapping.address, part.iova)
            last = min(end, part.iova + part.size)
            permissions = mapping.permissions & part.permissions
            if first < last and permissions:
                iova = mapping.iova + first - mapping.address
                yield Mapping(iova, part.address + first - part.iova, last - first, permissions)
            at += 1


def shadow(inner: OuterStage, outer: OuterStage, requester: int, pasid: int | None = None) -> tuple[Mapping, ...]:
    """What a hypervisor's shadow table must hold for a device of its guest, and nothing else.

    That is the guest's mappings, with host-physical addresses and the permissions of both stages. Neighbours that go on
    in both address spaces with the same permissions are joined, so that a table of any page size compares with it.

    Args:
        inner: the guest's engine.
        outer: where the host has guest memory; it is asked for the same requester, without a PASID.
        requester: the device.
        pasid: or None.
    """
    joined: list[Mapping] = []
    for mapping in compose(inner.iter_mappings(requester, pasid), outer.iter_mappings(requester)):
        if joined:
            last = joined[-1]
            follows = last.iova + last.size == mapping.iova and last.address + last.size == mapping.address
            if follows and last.permissions == mapping.permissions:
                joined[-1] = replace(last, size=last.size + mapping.size)
                continue
        joined.append(mapping)
    return tuple(joined)
