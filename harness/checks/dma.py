"""One DMA of a rogue device: what the model says of it, against what memory and the guest's log show.

`judge_write` takes what is expected of an access and what was seen, and says where they differ. Whoever did the DMA and
looked at memory does not judge; this module does no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.guest.faults import ReportedFault
from harness.model.access import Access, AccessKind, Bypassed, Fault, Outcome, Translated
from harness.pci import Address
from harness.report.record import Finding

__all__ = ["DmaSeen", "check_outcome", "check_reported", "check_unreported", "check_write"]

_PAGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaSeen:
    """What a DMA write left behind.

    Attributes:
        before: guest memory, by guest physical address, as it was before: the target and its surroundings.
        after: the same addresses, afterwards.
        payload: what the device wrote.
    """

    before: dict[int, bytes]
    after: dict[int, bytes]
    payload: bytes


def check_outcome(access: Access, expected: type[Outcome], outcome: Outcome, walk: str, why: str) -> Iterator[Finding]:
    """The machine's own tables, walked by the model, give the kind of outcome that the spec demands."""
    if not isinstance(outcome, expected):
        yield Finding(
            subject=f"the model's walk for {access}",
            expected=f"{expected.__name__.lower()} ({why})",
            seen=str(outcome),
            citation=why,
            detail=walk,
        )


def check_write(access: Access, outcome: Outcome, seen: DmaSeen, walk: str) -> Iterator[Finding]:
    """Memory holds the payload exactly where the outcome says, and is unchanged everywhere else that was looked at."""
    match outcome:
        case Fault():
            target = None
        case Translated(address=address) | Bypassed(address=address):
            target = address
    for start, before in sorted(seen.before.items()):
        wanted = bytearray(before)
        if target is not None and start <= target and target + len(seen.payload) <= start + len(before):
            wanted[target - start : target - start + len(seen.payload)] = seen.payload
        after = seen.after[start]
        if after != wanted:
            first = next(i for i, (a, b) in enumerate(zip(after, wanted, strict=True)) if a != b)
            first -= first % 8
            yield Finding(
                subject=f"memory at {start + first:#x} after {access}",
                expected=f"{bytes(wanted[first : first + 16]).hex(' ')} ({outcome})",
                seen=after[first : first + 16].hex(" "),
                detail=walk,
            )


def check_reported(access: Access, faults: Sequence[ReportedFault]) -> Iterator[Finding]:
    """The guest reported the fault, with the requester and the page of the access, and did not call a read a write."""
    of_requester = [fault for fault in faults if fault.requester == access.requester]
    who = Address.of_requester(access.requester)
    if not of_requester:
        others = ", ".join(sorted({str(fault.requester) for fault in faults})) or "none"
        yield Finding(
            subject=f"fault report of {who} in the guest's log",
            expected=f"a fault of {who} at {access.iova:#x}",
            seen=f"no fault of {who} (faults of other requesters: {others})",
        )
        return
    first, last = access.iova, access.iova + access.length - 1
    strays = [f for f in of_requester if f.address is None or not first - first % _PAGE <= f.address <= last]
    for fault in strays:
        yield Finding(
            subject=f"address of a fault that the guest reports for {who}",
            expected=f"in {first:#x}..{last:#x}",
            seen=fault.line,
        )
    wrong = [f for f in of_requester if f.is_write is not None and f.is_write != (access.kind is AccessKind.WRITE)]
    for fault in wrong:
        yield Finding(subject=f"direction of a fault of {who}", expected=str(access.kind), seen=fault.line)


def check_unreported(access: Access, faults: Sequence[ReportedFault]) -> Iterator[Finding]:
    """The guest reported no fault of this requester: the access was allowed."""
    for fault in faults:
        if fault.requester == access.requester:
            yield Finding(subject=f"fault report after {access}", expected="none: it is allowed", seen=fault.line)
