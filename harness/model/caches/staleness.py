"""What is said of an outcome that was seen: allowed, not allowed and why, or undecided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from harness.errors import HarnessError
from harness.model.access import Access, Outcome, format_requester
from harness.model.caches.cached_walk import CachedWalk
from harness.model.caches.descriptions import describe_entry
from harness.model.caches.moments import holds_now, last_end
from harness.model.invalidation import CachedEntry

__all__ = [
    "ALLOWED",
    "TOO_MANY_HINT",
    "Allowed",
    "NotAllowed",
    "Possible",
    "Stale",
    "TooManyWalks",
    "Undecided",
    "Verdict",
    "stale_parts",
]

TOO_MANY_HINT = "invalidate everything from time to time, or begin anew with reset()"


class TooManyWalks(HarnessError):
    """There are more ways in which caches can have got here than are tried: nothing is said of what they allow."""


@dataclass(frozen=True, slots=True)
class Stale:
    """Something that memory or the registers no longer say, and a cache may.

    Attributes:
        what: its name.
        address: where it was read; None for registers.
        value: what was there.
        until: the moment (number of the change) at which it was written over.
        kept_as: the cached entries that still stand for it; the invalidation that ends it drops each of them.
    """

    what: str
    address: int | None
    value: int | None
    until: int
    kept_as: tuple[CachedEntry, ...]

    def __str__(self) -> str:
        where = "" if self.address is None else f" @{self.address:#x} = {self.value or 0:#x}"
        kept = "; ".join(describe_entry(entry) for entry in self.kept_as)
        return f"{self.what}{where}, written over at change {self.until}, still cached as: {kept}"


@dataclass(frozen=True, slots=True)
class Possible:
    """An outcome that is allowed.

    Attributes:
        outcome: with no `writes`.
        stale: what of it is not in memory any more; empty for what the tables say now.
        requester: whose walk brought it in.
    """

    outcome: Outcome
    stale: tuple[Stale, ...]
    requester: int

    def __str__(self) -> str:
        if not self.stale:
            return f"{self.outcome}: what the tables of {format_requester(self.requester)} say now"
        return "\n".join((f"{self.outcome}: from caches", *(f"    {entry}" for entry in self.stale)))


@dataclass(frozen=True, slots=True)
class Allowed:
    """What was seen is what may be.

    Attributes:
        how: how caches come by it; None for the present outcome.
    """

    how: Possible | None = None

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return "allowed: what the tables say now" if self.how is None else f"allowed: {self.how}"


@dataclass(frozen=True, slots=True)
class NotAllowed:
    """What was seen may not be.

    Attributes:
        access: what was asked.
        seen: what was seen.
        possible: what may be.
        gone: why the outcome that was seen is not among them, where it has been the right one before.
    """

    access: Access
    seen: Outcome
    possible: tuple[Possible, ...]
    gone: str = ""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        lines = [f"{self.access}", f"  was {self.seen}, which is not allowed"]
        if self.gone:
            lines.append(f"  {self.gone}")
        lines.append("  allowed is:")
        lines += [f"    {line}" for entry in self.possible for line in str(entry).splitlines()]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Undecided:
    """Not the present outcome; whether caches may hold it cannot be said, so much was written since an invalidation."""

    access: Access
    seen: Outcome
    why: str

    def __bool__(self) -> bool:
        raise TooManyWalks(f"{self.access} was {self.seen}: {self.why}", hint=TOO_MANY_HINT)

    def __str__(self) -> str:
        return f"{self.access} was {self.seen}: undecided, {self.why}"


Verdict: TypeAlias = Allowed | NotAllowed | Undecided

ALLOWED = Allowed()


def stale_parts(walk: CachedWalk) -> tuple[Stale, ...]:
    """What of a walk is not in memory, or registers, any more."""
    found = []
    if not holds_now(walk.start):
        found.append(Stale("registers", None, None, last_end(walk.start), _kept_now(walk, 0)))
    for number, (step, in_memory, _, _) in enumerate(walk.steps):
        if not holds_now(in_memory):
            found.append(Stale(step.what, step.address, step.value, last_end(in_memory), _kept_now(walk, number)))
    return tuple(found)


def _kept_now(walk: CachedWalk, number: int) -> tuple[CachedEntry, ...]:
    """The cached entries, from a step on, that stand for the way up to them."""
    kept = (entry for step in walk.steps[number:] if holds_now(step.known) for entry in step.kept_as)
    return tuple(dict.fromkeys(kept))
