"""An implementation with real caches, for the tests: what it may give is what the model has to allow.

It fills caches from the walks that it makes and drops what an invalidation asks for, and nothing else: there is no
notion of time in it. A cached entry of a table stands for the whole way that led to it, so a hit skips what is above.

It comes in two kinds: one that keeps at random what it likes, and one that keeps everything, prefetches all the time,
and gives every outcome that any choice could lead to (but for stage 2 under a stage 1, of which only the first kind
keeps anything by itself).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

from harness.model.access import Access, Bypassed, BypassReason, Fault, Outcome, Translated
from harness.model.caches.iotlb import CacheModel
from harness.model.caches.policy import CachePolicy
from harness.model.caches.traces import is_of_device
from harness.model.engine import Engine
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind, Invalidation
from harness.model.memory import Memory
from harness.model.vtd.faults import VtdFaultRecord

PAGE_TABLES = (EntryKind.TABLE, EntryKind.LEAF)
REQUESTER_FIELDS = ("source_id", "device_id", "stream_id")
Source = tuple[int, int | None]
Tags = tuple[int | None, int | None, int | None]
Values = tuple[tuple[tuple[int, int], bytes], ...]


class Cached(NamedTuple):
    """An entry in a cache.

    Attributes:
        kept_as: its tags first, then those of the entries whose drop takes it along.
        source: whose walk led to it.
        finder: who keeps it, where the requester matters to who finds it.
        registers: of that walk.
        values: what that walk read up to and with the entry.
    """

    kept_as: tuple[CachedEntry, ...]
    source: Source
    finder: Source
    registers: Any
    values: Values


@dataclass
class Overlay:
    """Present memory, but for some values."""

    memory: Memory
    values: dict[tuple[int, int], bytes] = field(default_factory=dict)
    reads: list[tuple[tuple[int, int], bytes]] = field(default_factory=list)

    def read(self, address: int, size: int) -> bytes:
        data = self.values.get((address, size))
        if data is None:
            data = self.memory.read(address, size)
        self.reads.append(((address, size), data))
        return data

    def read_u64(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")


class SimulatedCaches:
    """Caches of an IOMMU, full to the brim or at random.

    Args:
        engine_of: builds the engine.
        memory: as it is now, always.
        policy: what may be cached.
        chance: decides what the random kind does; None for the one that keeps everything.
    """

    def __init__(
        self,
        engine_of: Callable[[Any, Memory], Engine[Any, Any]],
        registers: Any,
        memory: Memory,
        policy: CachePolicy[Any],
        chance: random.Random | None = None,
    ) -> None:
        self.engine_of = engine_of
        self.registers = registers
        self.memory = memory
        self.policy = policy
        self.chance = chance
        self.entries: dict[Cached, None] = {}
        self.second: dict[tuple[int, int], tuple[bytes, CachedEntry]] = {}

    def invalidate(self, invalidations: Iterable[Invalidation]) -> None:
        invalidations = tuple(invalidations)
        self.entries = {
            entry: None
            for entry in self.entries
            if not any(each.drops(tags) for each in invalidations for tags in entry.kept_as)
        }
        self.second = {
            at: (data, tags)
            for at, (data, tags) in self.second.items()
            if not any(each.drops(tags) for each in invalidations)
        }

    def outcomes(self, access: Access) -> set[Outcome]:
        """What it gives: one outcome, or every one that it could."""
        return {found if isinstance(found, Bypassed) else _bare(found) for found in self._outcomes(access)}

    def _outcomes(self, access: Access) -> Iterator[Outcome]:
        source = access.requester, access.pasid
        outcome, steps = self._walk(access, source, None)
        if not steps:
            # The registers decide, and no cache is asked.
            yield outcome
            return
        mine = [e for e in self.entries if e.source == source and is_of_device(e.kept_as[0])]
        for device in self._some([None, *mine]):
            outcome, steps = self._walk(access, source, device)
            tags = _tags(steps)
            if self.policy.found_by_requester:
                hits = [entry for entry in self.entries if self._finds(entry, source, tags, access)]
            else:
                hits = [entry for entry in self.entries if _serves(entry, {tags} - {None}, access)]
            for hit in self._some([None, *hits]):
                if hit is None:
                    yield outcome
                    continue
                hit_outcome, _ = self._walk(access, hit.source, hit, source, tags)
                yield _named(hit_outcome, access)

    def _finds(self, entry: Cached, source: Source, tags: Tags | None, access: Access) -> bool:
        """VT-d table 17: a translation is found by who brought it in, a table by domain and, in stage 1, PASID."""
        if entry.kept_as[0].kind is EntryKind.LEAF:
            return entry.finder == source and _covers(entry.kept_as[0], access)
        if tags is None:
            return False
        _, domain, space = tags
        return _serves(entry, {(None, domain, space), (None, domain, None)}, access)

    def _below(self) -> dict[tuple[int, int], tuple[bytes, CachedEntry]]:
        """Some of the entries of a stage 2 under a stage 1, each by its own address."""
        if self.chance is None:
            return {}
        return {at: entry for at, entry in self.second.items() if self.chance.random() < 0.5}

    def _keep_below(self, step: Step, overlay: Overlay) -> None:
        if self.chance is not None and self.chance.random() < 0.5:
            at = step.address or 0, step.size
            data = next(data for address, data in overlay.reads if address == at)
            self.second[at] = data, step.cached or CachedEntry(kind=EntryKind.LEAF)

    def _some(self, choices: list[Any]) -> list[Any]:
        return choices if self.chance is None else [self.chance.choice(choices)]

    def _walk(
        self,
        access: Access,
        source: Source,
        cached: Cached | None,
        finder: Source | None = None,
        found_by: Tags | None = None,
    ) -> tuple[Outcome, Sequence[Step]]:
        """Walk on from what is cached, and keep of it what may be kept: in the name of the one who has found it."""
        registers = self.registers if cached is None else cached.registers
        requester, pasid = source
        request = replace(access, requester=requester, pasid=pasid)
        for second in (self._below(), {}):
            overlay = Overlay(self.memory, {at: data for at, (data, _) in second.items()})
            overlay.values.update(cached.values if cached else ())
            found = self.engine_of(registers, overlay).explain(request)
            steps = [step for step in found.steps if step.address is not None]
            used = [step for step in steps if (step.address, step.size) in second]
            if all(step.cached == second[step.address or 0, step.size][1] for step in used):
                break  # what was taken from below is what this walk looks for there
        kept = [step.cached is not None for step in steps]
        if kept and isinstance(found.outcome, Fault):
            kept[-1] = kept[-1] and self.policy.keeps(registers, found.outcome, steps[-1])
        for number, (step, after) in enumerate(pairwise(steps)):
            joined = step.cached is not None and step.cached.kind in self.policy.joined
            kept[number] = kept[number] and not (joined and after.cached == step.cached)
        under: tuple[CachedEntry, ...] = ()
        two_stages = any(step.cached is not None and step.cached.stage == 1 for step in steps)
        for step, keep in zip(steps, kept, strict=True):
            tags = step.cached
            if tags is not None and keep and two_stages and tags.stage == 2:
                if tags.kind is not EntryKind.LEAF or not self.policy.combined_only:
                    self._keep_below(step, overlay)
                under = (*under, tags) if tags.kind is EntryKind.LEAF else under
                continue
            if tags is None or not keep or (self.chance is not None and self.chance.random() < 0.5):
                continue
            also = under if tags.stage == 1 and self.policy.stage_2_drops_combined else ()
            last = step
            if self.policy.combined_only and two_stages and tags.stage == 1:
                last = _last_below(step, steps)
                if last is steps[-1] and isinstance(found.outcome, Fault):
                    continue  # nothing to combine it with
            values = _values_up_to(last, overlay.reads)
            if cached is not None and len(values) <= len(cached.values):
                continue  # it was passed over, not read
            if found_by is not None and tags.kind is EntryKind.LEAF and tags.space is not None:
                tags = replace(tags, space=found_by[2])
            self.entries[Cached((tags, *also), source, finder or source, registers, values)] = None
        passes = isinstance(found.outcome, Bypassed) and found.outcome.reason is BypassReason.PASS_THROUGH
        if self.policy.found_by_requester and passes and (self.chance is None or self.chance.random() < 0.5):
            device = steps[-1].cached
            assert device is not None
            page = access.iova & ~0xFFF
            tags = CachedEntry(
                kind=EntryKind.LEAF, domain=device.domain, space=device.space, stage=2, first=page, last=page | 0xFFF
            )
            values = _values_up_to(steps[-1], overlay.reads)
            if cached is None or cached.kept_as[0].kind is not EntryKind.LEAF:
                self.entries[Cached((tags,), source, finder or source, registers, values)] = None
        if self.chance is not None and len(self.entries) > 40:
            for entry in self.chance.sample(list(self.entries), 10):
                del self.entries[entry]
        return found.outcome, steps


def _bare(outcome: Translated | Fault) -> Outcome:
    return replace(outcome, writes=())


def _named(outcome: Outcome, access: Access) -> Outcome:
    """The outcome, with the name of the requester that hit what another one had brought in."""
    if not isinstance(outcome, Fault):
        return outcome
    record: Any = outcome.record
    name = next((each for each in REQUESTER_FIELDS if hasattr(record, each)), None)
    if name is not None:
        record = replace(record, **{name: access.requester})
    if isinstance(record, VtdFaultRecord) and record.pasid is not None:
        record = replace(record, pasid=access.pasid)
    return replace(outcome, requester=access.requester, record=record)


def _values_up_to(step: Step, reads: Sequence[tuple[tuple[int, int], bytes]]) -> Values:
    assert step.address is not None
    last = max(n for n, ((at, _), _) in enumerate(reads) if step.address <= at < step.address + step.size)
    return tuple(reads[: last + 1])


def _tags(steps: Sequence[Step]) -> Tags | None:
    named = [step.cached for step in steps if step.cached is not None]
    pages = [tags for tags in named if tags.kind in PAGE_TABLES]
    pages = [tags for tags in pages if tags.stage == 1] or pages
    if not pages:
        return None
    # A table of VT-d's second stage has no PASID, the translation below it has.
    processes = [tags.space for tags in named if tags.kind is EntryKind.PROCESS and tags.domain is not None]
    space = pages[-1].space if pages[-1].space is not None or not processes else processes[-1]
    return pages[-1].requester, pages[-1].domain, space


def _serves(entry: Cached, lookups: set[Any], access: Access) -> bool:
    tags = entry.kept_as[0]
    if tags.kind not in PAGE_TABLES or (tags.requester, tags.domain, tags.space) not in lookups:
        return False
    return _covers(tags, access)


def _last_below(step: Step, steps: Sequence[Step]) -> Step:
    """The last step of stage 2 that translates the output of a step of stage 1."""
    for after in steps[steps.index(step) + 1 :]:
        if after.cached is not None and after.cached.stage != 2:
            break
        step = after
    return step


def _covers(tags: CachedEntry, access: Access) -> bool:
    return (tags.first or 0) <= access.iova <= (tags.last if tags.last is not None else 1 << 64)


class Bench:
    """A model and an implementation that see the same, side by side.

    Args:
        model: what is tested.
        engine_of: as the model has it.
        policy: likewise.
        accesses: those that are made, and that the implementation prefetches for.
        chance: for a random implementation.
    """

    def __init__(
        self,
        model: CacheModel[Any],
        engine_of: Callable[[Any, Memory], Engine[Any, Any]],
        policy: CachePolicy[Any],
        accesses: Sequence[Access],
        chance: random.Random | None = None,
    ) -> None:
        self.model = model
        self.accesses = accesses
        self.chance = chance
        self.real = SimulatedCaches(engine_of, model.registers, model.memory.memory, policy, chance)
        self.prefetch()

    def prefetch(self) -> None:
        known = -1
        # What one brings in another may find: the one that keeps everything goes on until there is nothing new.
        while known != len(self.real.entries):
            known = len(self.real.entries)
            for access in self.accesses:
                if self.chance is None or self.chance.random() < 0.3:
                    self.real.outcomes(access)
            if self.chance is not None:
                return

    def write(self, address: int, value: int, size: int = 8) -> None:
        """Change an entry, in one piece."""
        self.model.memory.write(address, value.to_bytes(size, "little"))
        self.prefetch()

    def set_registers(self, registers: Any) -> None:
        self.model.set_registers(registers)
        self.real.registers = registers
        self.prefetch()

    def invalidate(self, invalidations: Iterable[Invalidation]) -> None:
        invalidations = tuple(invalidations)
        self.model.invalidate(invalidations)
        self.real.invalidate(invalidations)
        self.prefetch()

    def check(self) -> None:
        """What the implementation gives is allowed; if it keeps everything, nothing else is."""
        for access in self.accesses:
            given = self.real.outcomes(access)
            allowed = self.model.allowed(access)
            assert given <= allowed, self.model.judge(access, next(iter(given - allowed)))
            for outcome in given:
                assert self.model.judge(access, outcome)
            if self.chance is None:
                assert allowed == given, self.model.judge(access, next(iter(allowed - given)))
