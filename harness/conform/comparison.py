"""Compares what was seen with what must be, and says what differs and whose doing it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from mmap import mmap

from harness.conform.arrivals import Arrivals
from harness.conform.contents import Contents
from harness.conform.divergence import Divergence, Kind, Probe, differing_fields
from harness.conform.edu import LANDING
from harness.conform.memory import DATA, TwinMemory
from harness.conform.owners import blocked, is_next
from harness.conform.request import Request
from harness.conform.wording import after, said
from harness.model.access import Access, AccessKind, Fault, Outcome, Translated
from harness.model.engine import MsiOutcome
from harness.model.unit import Place, Readout, Unit

__all__ = ["LETTERS", "Comparison"]

LETTERS = {1: "b", 2: "w", 4: "l", 8: "q"}
"""What qtest commands end with, by the size of the access."""

_WORD = 8
_ALL_BITS = (1 << 64) - 1
_NARROW = 4  # bytes; signatures tell when an access is of fewer, and whether it reads as ones
_EXPLAINED = 2  # walks that are shown


class Comparison:
    """Compares one machine with one unit.

    Args:
        target: name of it, for signatures.
        unit: of the model.
        registers: physical address of offset 0 of the IOMMU's registers.
        memory: the real memory and its twin.
        ram: physical address where memory begins.
        contents: of the devices' buffers.
        report: takes each divergence; may raise to end the program.
    """

    def __init__(
        self,
        target: str,
        unit: Unit,
        registers: int,
        memory: TwinMemory,
        ram: int,
        contents: Contents,
        report: Callable[[Divergence], None],
    ) -> None:
        self._target = target
        self._unit = unit
        self._registers = registers
        self._memory = memory
        self._copies = memory.twin, memory.real
        self._ram = ram
        self._contents = contents
        self._arrivals = Arrivals(unit, memory, ram, contents)
        self._told: set[str] = set()  # in this program
        # Why requests have their outcomes, while nothing changes of what that comes from; None while something may.
        self._reasons: dict[tuple[Access, Outcome | MsiOutcome], str] | None = None
        self._report = report

    def begin(self) -> None:
        """A program begins."""
        self._told.clear()

    def register(
        self, step: int, offset: int, size: int, wanted: Readout, seen: int, requests: Sequence[Request] = ()
    ) -> None:
        """Compare what a register reads as.

        Args:
            step: number of the program's step.
            offset, size: what was read, bytes.
            wanted: what it must read as.
            seen: what it did.
            requests: that may have changed it.
        """
        if wanted.agrees(seen):
            return
        place = self._unit.register_at(offset)
        section = place.layout.section if place is not None and place.layout is not None else ""
        text = self._register_text(offset, size, wanted, seen, requests)
        detail = f"register at {offset:#x}: must be {wanted.value:#x} in the bits {wanted.known:#x}, is {seen:#x}"
        probe = Probe(f"read{LETTERS[size]} {self._registers + offset:#x}", wanted.value, wanted.known, seen)
        self._say(Kind.REGISTER, step, text, section, detail, requests, probe)

    def register_signature(self, offset: int, size: int, wanted: Readout, seen: int) -> str:
        """The signature of what `register` would report, were there no requests."""
        return f"{self._target}: {Kind.REGISTER}: {self._register_text(offset, size, wanted, seen, ())}"

    def record_signature(self, at: int, *requests: Request) -> str:
        """The signature of what `memory` would report of a word of a record after requests; empty where it is none."""
        place = self._unit.structure_at(at + self._ram)
        return "" if place is None else f"{self._target}: {Kind.MEMORY}: {self._record_text(place, at, requests)}"

    def _register_text(self, offset: int, size: int, wanted: Readout, seen: int, requests: Sequence[Request]) -> str:
        place = self._unit.register_at(offset)
        if place is None:
            return f"register at {offset:#x} reads as {seen:#x} for {wanted.value:#x}"
        fields = differing_fields(place, offset, wanted.value, seen, wanted.known)
        ones = ", as ones" if seen == (1 << 8 * size) - 1 else ""
        narrow = f" by {size}{ones}" if size < _NARROW else ""
        return f"{place.name}{narrow}: {', '.join(fields)}{after(requests)}"

    def unrecorded(self, step: int, requests: Sequence[Request], probe: Probe | None) -> None:
        """Report faults that were not recorded, of a unit that keeps the first record.

        Args:
            step: number of the program's step.
            requests: that had them.
            probe: what shows it.
        """
        for request in requests:
            detail = f"{request.access}: {request.outcome}; no record of it"
            self._say(Kind.REGISTER, step, self._unrecorded_text(request), "", detail, [request], probe)

    def unrecorded_signature(self, request: Request) -> str:
        """The signature of what `unrecorded` would report of a request."""
        return f"{self._target}: {Kind.REGISTER}: {self._unrecorded_text(request)}"

    def _unrecorded_text(self, request: Request) -> str:
        page = ""
        if request.message is None:  # behind an interrupt there is no page
            other = AccessKind.READ if request.access.kind is AccessKind.WRITE else AccessKind.WRITE
            allowed = self._unit.outcomes(replace(request.access, kind=other))
            page = f" where a {other} may pass" if any(isinstance(each, Translated) for each in allowed) else ""
        return f"{said(request.outcome)}{page} is not recorded"

    def are_of_same_requests(self, differing: Sequence[int]) -> bool:
        """Whether words of memory differ in nothing but what records say of a request that both copies have it of."""
        places = (self._unit.structure_at(at + self._ram) for at in differing)
        sources = (None if place is None else self._sources(place) for place in places)
        return all(found is not None and found[0] == found[1] for found in sources)

    def nameless_signature(self, at: int, requests: Sequence[Request]) -> str:
        """The signature of what `memory` would report of a word of a record that names no requester; else empty."""
        place = self._place_of_difference(at)
        if place is None or self._sources(place) is not None:
            return ""
        return f"{self._target}: {Kind.MEMORY}: {self._word_text(place, at, requests)}"

    def writes(self, step: int, requests: Sequence[Request], differing: Sequence[int]) -> frozenset[int]:
        """Find out which writes of devices went where they must not, or did not go where they must.

        Args:
            step: number of the program's step.
            requests: that were made.
            differing: offsets of the words of memory that differ.

        Returns:
            Those whose difference that explains.
        """
        explained: set[int] = set()
        writes = [request for request in requests if request.dma.kind is AccessKind.WRITE]
        for request in sorted(writes, key=self._arrivals.vagueness):
            left = [at for at in differing if at not in explained] if explained else differing
            explained |= self._write(step, request, left, requests)
        return frozenset(explained)

    def memory(
        self,
        step: int,
        requests: Sequence[Request],
        differing: Sequence[int],
        explained: frozenset[int] = frozenset(),
        *,
        records_only: bool = False,
    ) -> None:
        """Find out what else differs in memory; afterwards nothing of that does: the twin has what is there.

        Args:
            step: number of the program's step.
            requests: that may have changed it.
            differing: offsets of the words that differ.
            explained: those of them that `writes` has told of.
            records_only: look only where the unit itself writes.
        """
        places = {at: self._unit.structure_at(at + self._ram) for at in differing}
        differing = [at for at, place in places.items() if place is not None or not records_only]
        # Sorting leaves what has no sequence in its order, before what has.
        differing.sort(key=lambda at: place.sequence if (place := places[at]) is not None else 0)
        self._reasons = {}
        try:
            for at in differing:
                if at not in explained:
                    self._word(step, at, requests)
        finally:
            self._reasons = None
            for at in differing:
                self._memory.twin[at : at + _WORD] = self._memory.real[at : at + _WORD]

    def _write(self, step: int, request: Request, differing: Sequence[int], requests: Sequence[Request]) -> set[int]:
        """The words whose difference one write explains, which is then reported."""
        data = self._contents.data(request)
        if request.address is not None:
            at = request.address - self._ram
            words = set(range(at & -_WORD, at + len(data), _WORD))
            if words.isdisjoint(differing) or self._memory.real_has(at, data):
                return set()
            self._foreign_records(step, differing, requests)
            self._dma(step, request, "did not arrive", at)
            return words
        place = self._arrivals.find(request, data, differing)
        if place is None:
            return set()
        if request.passing is not None:
            # It was not blocked, so it is held to the outcome with which it passes.
            self._dma(step, request._replace(outcome=request.passing), "did not arrive", place, is_elsewhere=True)
        else:
            untranslated = place + self._ram == request.access.iova
            self._dma(step, request, "arrived untranslated" if untranslated else "arrived", place)
        return set(range(place & -_WORD, place + len(data), _WORD))

    def _foreign_records(self, step: int, differing: Sequence[int], requests: Sequence[Request]) -> None:
        """Report records of other requests than must be there: a choice of outcomes may have gone astray for them."""
        places = {at: place for at in differing if (place := self._unit.structure_at(at + self._ram)) is not None}
        for at, place in sorted(places.items(), key=lambda found: found[1].sequence):
            sources = self._sources(place)
            if sources is not None and sources[0] != sources[1]:
                self._word(step, at, requests)

    def _dma(self, step: int, request: Request, seen: str, at: int, *, is_elsewhere: bool = False) -> None:
        """Say what a write did; where its data had been read before, and are others, what the read did.

        Args:
            step: number of the program's step.
            request: the write.
            seen: what it did.
            at: where, an offset in memory.
            is_elsewhere: it did not arrive where it must, but its data are there.
        """
        read = self._contents.last_read(request.dma.device) if request.dma.offset in LANDING else None
        write = f"{request.dma.kind} with {self._said(request)}"
        text, source = f"{write} {seen}", ""
        if read is not None:
            source = f"\nwhat it wrote it had read before: {read.access}: {read.outcome}"
            if seen == "did not arrive" and not is_elsewhere:
                text = f"read with {self._said(read)}, and {write} of what was read {seen}"
        where = f"{seen}, but is at" if is_elsewhere else f"{seen} at"
        detail = f"{request.access}: must be {request.outcome}; it {where} {at + self._ram:#x}{source}"
        told = [request] if read is None else [read, request]
        self._say(Kind.DMA, step, text, "", detail, told, self._probe(at & -_WORD))

    def _word(self, step: int, at: int, requests: Sequence[Request]) -> None:
        probe = self._probe(at)
        place = self._place_of_difference(at)
        section = place.layout.section if place is not None and place.layout else ""
        detail = f"memory at {at + self._ram:#x}: must be {probe.wanted:#018x}, is {probe.seen:#018x}"
        self._say(Kind.MEMORY, step, self._word_text(place, at, requests), section, detail, requests, probe)

    def _word_text(self, place: Place | None, at: int, requests: Sequence[Request]) -> str:
        """What differs in a word of memory, which is in that place."""
        if place is None:
            return f"memory changed in {'data' if at in DATA else 'tables or queues'}{after(requests)}"
        return self._record_text(place, at, requests) + self._uncalled_for(place, requests)

    def _place_of_difference(self, at: int) -> Place | None:
        """What the first byte is a part of that differs in a word of memory."""
        probe = self._probe(at)
        difference = probe.wanted ^ probe.seen
        first = ((difference & -difference).bit_length() - 1) // 8
        return self._unit.structure_at(at + self._ram + first)

    def _record_text(self, place: Place, at: int, requests: Sequence[Request]) -> str:
        """What differs in a record, with why its request is blocked; or which record is missing, or one too many."""
        about, asked = "", 0
        if place.layout is not None and place.source in place.layout:
            record = self._record_at(place, self._memory.real)
            asked = place.layout[place.input].get(record) if place.input in place.layout else 0
            due = self._record_at(place, self._memory.twin)
            wanted, seen = (place.layout[place.source].get(each) for each in (due, record))
            address = place.layout[place.input].get(due) if place.input in place.layout else None
            kind = place.layout.fields[0]
            code = kind.get(record)
            owner = blocked(requests, wanted, place.layout.name, address)
            if wanted != seen:
                others = [request for request in requests if request.access.requester == seen]
                is_of_this_round = not asked or any(request.access.iova == asked for request in requests)
                if is_of_this_round and others and blocked(others, seen) is None:
                    what = self._said(others[0])
                    present = others[0]._replace(outcome=self._unit.explain(others[0].access).outcome)
                    if isinstance(present.outcome, Fault) and not isinstance(others[0].outcome, Fault):
                        what += f", by now {self._said(present)}"
                    return f"a record of {kind.name} {code:#x} of {what}"
            if owner is not None and (wanted != seen or is_next(owner, code, asked, requests)):
                return f"{self._said(owner)} is not recorded"
            about = self._reason(owner) if owner is not None else ""
        probe = self._probe(at)
        fields = differing_fields(place, at + self._ram, probe.wanted, probe.seen, probe.known, asked)
        return f"{place.name}{about}: {', '.join(fields)}"

    def _sources(self, place: Place) -> tuple[int, int] | None:
        """Whose record must be at a place, and whose is; None where what is there names no requester."""
        if place.layout is None or place.source not in place.layout:
            return None
        source = place.layout[place.source]
        wanted, seen = (source.get(self._record_at(place, copy)) for copy in self._copies)
        return wanted, seen

    def _record_at(self, place: Place, copy: bytearray | mmap) -> int:
        """The bits of a record in the real memory or its twin."""
        at = place.start - self._ram
        return int.from_bytes(copy[at : at + place.size], "little")

    def _uncalled_for(self, place: Place, requests: Sequence[Request]) -> str:
        """Of a record where there must be none: what there was that must leave none, as far as that is one thing."""
        at = place.start - self._ram
        if place.source or any(self._memory.twin[at : at + place.size]):
            return ""
        if not requests:
            return " where no request was made"
        faults = [request.outcome for request in requests if isinstance(request.outcome, Fault)]
        return " where a fault must have no record" if any(fault.record is None for fault in faults) else ""

    def _said(self, request: Request) -> str:
        """What must become of a request; by what page, and whether it is blocked only because it is not privileged."""
        text = said(request.outcome) + self._reason(request)
        if isinstance(request.outcome, Translated) and request.outcome.size > self._unit.granule:
            text += " by a large page"
        if isinstance(request.outcome, Fault) and not request.access.privileged:
            others = self._unit.outcomes(replace(request.access, privileged=True))
            if not any(isinstance(each, Fault) for each in others):
                text += " of an unprivileged request"
        return text

    def _reason(self, request: Request) -> str:
        """What the model says of an outcome that tells it from others of its kind: why a request is blocked."""
        if self._reasons is None:
            return self._find_reason(request)
        question = request.access, request.outcome
        if question not in self._reasons:
            self._reasons[question] = self._find_reason(request)
        return self._reasons[question]

    def _find_reason(self, request: Request) -> str:
        """The same, as the model is now."""
        explanation = self._unit.explain(request.access)
        if said(explanation.outcome) != said(request.outcome):
            return ""
        reasons = dict.fromkeys(step.reason for step in explanation.steps if step.reason)
        return f" ({'; '.join(reasons)})" if reasons else ""

    def _probe(self, at: int) -> Probe:
        """The 64-bit word of memory at an offset, both sides."""
        wanted, seen = (int.from_bytes(copy[at : at + _WORD], "little") for copy in self._copies)
        return Probe(f"readq {at + self._ram:#x}", wanted, _ALL_BITS, seen)

    def _walks(self, requests: Sequence[Request]) -> Iterator[str]:
        """The model's walks of the first requests that are blocked, or else of the first."""
        faults = [request for request in requests if isinstance(request.outcome, Fault)]
        for request in (faults or list(requests))[:_EXPLAINED]:
            yield str(self._unit.explain(request.access))

    def _say(
        self,
        kind: Kind,
        step: int,
        text: str,
        section: str,
        detail: str,
        requests: Sequence[Request],
        probe: Probe | None,
    ) -> None:
        """Report a divergence; with walks where it is the first of its signature in the program."""
        walks = () if text in self._told else self._walks(requests)
        self._told.add(text)
        self._report(
            Divergence(
                kind=kind,
                signature=f"{self._target}: {kind}: {text}",
                step=step,
                section=section,
                detail="\n".join((detail, *walks)),
                probe=probe,
            )
        )
