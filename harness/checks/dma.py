"""One DMA of a rogue device: what is claimed of it, against the model's walk, guest memory, and the guest's log.

A claim is the guest physical address that the DMA must land at, or None where it must be blocked. Whoever did the DMA
and looked at memory does not judge; this module does no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from harness.guest.faults import ReportedFault
from harness.model.access import Access, AccessKind, Bypassed, Fault, Outcome, Translated
from harness.observations import DmaSeen
from harness.pci import Address
from harness.report.record import Finding

__all__ = [
    "check_absent",
    "check_bytes",
    "check_memory",
    "check_outcome",
    "check_reported",
    "check_sent",
    "check_unexplained",
    "check_unreported",
]

_PAGE = 4096


def check_outcome(access: Access, target: int | None, outcome: Outcome, walk: str, why: str) -> Iterator[Finding]:
    """The machine's own tables, walked by the model, say what is claimed.

    Args:
        access: the DMA.
        target: address that it must land at; None where it must be blocked.
        outcome: what the model makes of it.
        walk: how the model came to that, for a person.
        why: where the claim comes from.
    """
    match outcome:
        case Fault():
            says = None
        case Translated(address=address) | Bypassed(address=address):
            says = address
    if says != target:
        yield Finding(
            subject=f"the model's walk of this machine's tables for {access}",
            expected="blocked" if target is None else f"goes to {target:#x}",
            seen=str(outcome),
            citation=why,
            detail=walk,
        )


def check_memory(access: Access, seen: DmaSeen, walk: str, *, arrives: Collection[int]) -> Iterator[Finding]:
    """Memory holds the payload where it was aimed, or what must arrive of it, and is unchanged everywhere else.

    Args:
        access: the DMA.
        seen: memory before and after.
        walk: how the model came to what it says of it, for a person.
        arrives: numbers of the bytes of the payload that must arrive; none where all of it must be blocked.

    Raises:
        ValueError: the case could not fail: nobody looked where the payload would stand, or it stood there before.
    """
    for part in (arrives, [n for n in range(len(seen.payload)) if n not in arrives]):
        _require_that_it_would_show(seen, part)
    for start, before in sorted(seen.before.items()):
        wanted = bytearray(before)
        for n in arrives:
            if 0 <= seen.aim + n - start < len(before):
                wanted[seen.aim + n - start] = seen.payload[n]
        after = seen.after[start]
        if after != wanted:
            first = next(i for i, (a, b) in enumerate(zip(after, wanted, strict=True)) if a != b) & ~7
            due = "unchanged" if wanted[first : first + 16] == before[first : first + 16] else "payload"
            yield Finding(
                subject=f"memory at {start + first:#x} after {access}",
                expected=f"{wanted[first : first + 16].hex(' ')} ({due})",
                seen=after[first : first + 16].hex(" "),
                detail=walk,
            )


def check_absent(access: Access, seen: DmaSeen, walk: str) -> Iterator[Finding]:
    """What a write that is blocked has for payload is not where it was aimed, in memory that somebody else uses.

    Whoever that is may change it at any time, so that nothing else tells.

    Args:
        access, seen, walk: as for `check_memory`.

    Raises:
        ValueError: as `check_memory` does.
    """
    _require_that_it_would_show(seen, range(len(seen.payload)))
    if _aimed_at(seen.after, seen) == list(seen.payload):
        yield Finding(
            subject=f"memory at {seen.aim:#x} after {access}",
            expected=f"not {seen.payload[:16].hex(' ')} (payload)",
            seen=seen.payload[:16].hex(" "),
            detail=walk,
        )


def _require_that_it_would_show(seen: DmaSeen, part: Collection[int]) -> None:
    """Refuse a DMA of which some bytes, by their numbers, would not show if they arrived."""
    old = _aimed_at(seen.before, seen)
    if any(old[n] is None for n in part) or (part and all(old[n] == seen.payload[n] for n in part)):
        there = " ".join("??" if byte is None else f"{byte:02x}" for byte in old)
        raise ValueError(f"a DMA to {seen.aim:#x} would not show: there stood {there} (??: nobody looked)")


def _aimed_at(pages: Mapping[int, bytes], seen: DmaSeen) -> list[int | None]:
    """What stands where the payload was aimed; None for a byte that nobody looked at."""
    addresses = range(seen.aim, seen.aim + len(seen.payload))
    return [
        next((page[address - start] for start, page in pages.items() if 0 <= address - start < len(page)), None)
        for address in addresses
    ]


def check_bytes(subject: str, wanted: bytes, seen: bytes) -> Iterator[Finding]:
    """Bytes are as they must be."""
    if seen != wanted:
        yield Finding(subject=subject, expected=wanted.hex(" "), seen=seen.hex(" "))


def check_sent(access: Access, frame: bytes, seen: Sequence[bytes], *, secret: Collection[int]) -> Iterator[Finding]:
    """A frame came out of a cable as it stands in memory, or nothing of what must not be read of it.

    Args:
        access: the DMA that reads it, or the part that must be blocked.
        frame: what stands in memory: no byte of it zero, which is what a read that is blocked gives.
        seen: all frames that came out.
        secret: numbers of its bytes that must be blocked. Where there are any, what becomes of the rest is the
            card's to decide.
    """
    if not all(frame):
        raise ValueError(f"a byte of {frame.hex(' ')} that leaks would not show: it is zero")
    if not secret:
        wanted, came = frame.hex(" "), " | ".join(each.hex(" ") for each in seen) or "nothing"
        if came != wanted:
            yield Finding(subject=f"what came out of the cable after {access}", expected=wanted, seen=came)
        return
    for each in seen:
        for n in sorted(secret):
            if n < len(each) and each[n] == frame[n]:
                subject = f"byte {n} of a frame that came out after {access}"
                yield Finding(subject=subject, expected="not what stands in memory", seen=f"{each[n]:#04x}")


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


def check_unexplained(faults: Sequence[ReportedFault]) -> Iterator[Finding]:
    """No device had a DMA refused that the case did not ask to see refused; one finding for each that had."""
    for requester in sorted({-1 if fault.requester is None else fault.requester for fault in faults}):
        lines = [fault.line.strip() for fault in faults if fault.requester in (requester, None)]
        who = "an unnamed device" if requester < 0 else str(Address.of_requester(requester))
        yield Finding(subject=f"DMA faults of {who}", expected="none: its driver was left alone", seen=lines[0])
