"""Devices whose DomainID has changed: what is cached under the one before is not theirs any more (AMD-Vi 2.2.2.1)."""

from __future__ import annotations

from dataclasses import replace

from harness.model.amdvi.device_table import DTE, DTE_SIZE
from harness.model.caches.history import HistoryMemory
from harness.model.explanation import Explanation
from harness.model.invalidation import EntryKind

__all__ = ["with_past_domain"]

_PAGES = (EntryKind.TABLE, EntryKind.LEAF)


def with_past_domain(explanation: Explanation, history: HistoryMemory) -> Explanation:
    """A walk through page tables that says so where its device has had another DomainID since all was invalidated.

    Args:
        explanation: the walk.
        history: of memory.
    """
    kinds = [None if step.cached is None else step.cached.kind for step in explanation.steps]
    if EntryKind.DEVICE not in kinds or not any(kind in _PAGES for kind in kinds):
        return explanation
    number = kinds.index(EntryKind.DEVICE)
    step = explanation.steps[number]
    if step.address is None or not history.changed(step.address, DTE_SIZE):
        return explanation
    domains = {
        DTE["DomainID"].get(version.value)
        for version in history.versions(step.address, DTE_SIZE)
        if DTE["V"].get(version.value) and DTE["TV"].get(version.value)
    }
    if len(domains) < 2:
        return explanation
    steps = list(explanation.steps)
    steps[number] = replace(step, reason="DomainID was another")
    return replace(explanation, steps=tuple(steps))
