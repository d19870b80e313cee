"""What of a walk through page tables tells its outcome from others of its kind."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from harness.model.amdvi.device_table import DTE, DTE_SIZE
from harness.model.amdvi.host_tables import PTE, host_level_shift, page_shift
from harness.model.caches.history import HistoryMemory
from harness.model.explanation import Explanation, Step
from harness.model.invalidation import EntryKind
from harness.model.memory import Memory, OutsideMemory

__all__ = ["with_reasons"]

_PAGES = (EntryKind.TABLE, EntryKind.LEAF)
_ENTRY_SIZE = 8
_TABLE_SIZE = 4096
_SIZE_ENCODED = 7
_HOST_LEVEL = "host level "


def with_reasons(explanation: Explanation, history: HistoryMemory) -> Explanation:
    """A walk that says so where its device has had another DomainID since all was invalidated, or its page differs.

    What is cached under the DomainID before is not the device's any more (AMD-Vi 2.2.2.1). A page of an encoded size
    has several entries, which are to be the same (2.2.3): what comes of it where they are not is not said.

    Args:
        explanation: the walk.
        history: of memory.
    """
    steps = list(explanation.steps)
    kinds = [None if step.cached is None else step.cached.kind for step in steps]
    if EntryKind.DEVICE not in kinds or not any(kind in _PAGES for kind in kinds):
        return explanation
    device = kinds.index(EntryKind.DEVICE)
    if _had_another_domain(steps[device], history):
        steps[device] = replace(steps[device], reason="DomainID was another")
    if _differs_from_the_one_before(steps, history.memory):
        steps[-1] = replace(steps[-1], reason="entries of its page differ")
    return replace(explanation, steps=tuple(steps))


def _had_another_domain(step: Step, history: HistoryMemory) -> bool:
    if step.address is None or not history.changed(step.address, DTE_SIZE):
        return False
    entries = [version.value for version in history.versions(step.address, DTE_SIZE)]
    domains = {DTE["DomainID"].get(entry) for entry in entries if DTE["V"].get(entry) and DTE["TV"].get(entry)}
    return len(domains) > 1


def _differs_from_the_one_before(steps: Sequence[Step], memory: Memory) -> bool:
    """Whether the entry before the last one that was read is one of a page that takes both, and another."""
    last = steps[-1]
    if not last.what.startswith(_HOST_LEVEL) or last.address is None or not last.address % _TABLE_SIZE:
        return False
    level = int(last.what.removeprefix(_HOST_LEVEL))
    with suppress(OutsideMemory):
        before = memory.read_u64(last.address - _ENTRY_SIZE)
        if PTE["PR"].get(before) and PTE["NextLevel"].get(before) == _SIZE_ENCODED and before != last.value:
            parts = 1 << page_shift(before, level) >> host_level_shift(level)
            return parts > 1 and last.address // _ENTRY_SIZE % parts > 0
    return False
