"""Which page faults are written down: SA and SE of the device's own entry (AMD-Vi 2.2.2.1)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from harness.model.access import Fault, Outcome
from harness.model.amdvi.device_table import DTE, DTE_SIZE, DeviceTable
from harness.model.amdvi.events import AmdviEventCode
from harness.model.amdvi.faults import AmdviFaultReason, Blocked
from harness.model.caches.history import HistoryMemory
from harness.model.explanation import Step

__all__ = ["DeviceBits", "with_one_fault", "with_reports"]


@dataclass(frozen=True, slots=True)
class DeviceBits:
    """Bits 127:64 of device table entries, as they are and as caches may have them.

    Attributes:
        table: where entries are.
        history: of memory.
    """

    table: DeviceTable
    history: HistoryMemory

    def had(self, requester: int, name: str) -> bool:
        """Whether a bit of a device's entry is set, or has been set so late that caches may have it."""
        mask = DTE[name].mask >> 64
        memory = self.history.memory
        entry = self.table.find(memory, requester, None)
        if isinstance(entry, Blocked):
            return False
        if entry.word1 & mask or self.history.is_empty:
            return bool(entry.word1 & mask)
        steps: list[Step] = []
        self.table.find(memory, requester, steps)
        address = steps[-1].address
        return address is not None and any(
            DTE[name].get(version.value) for version in self.history.versions(address, DTE_SIZE)
        )


def with_reports(outcomes: Sequence[Outcome], bits: DeviceBits, reported: Container[int]) -> Sequence[Outcome]:
    """Outcomes as the device's own entry has them written down.

    A page fault that another device has brought into a cache is not suppressed by the SA of that device. With SE a
    device's page faults after the first need not be written down: both are given.

    Args:
        outcomes: of one request.
        bits: of devices.
        reported: DeviceIDs that have had a page fault.
    """
    found: list[Outcome] = []
    suppressed: list[Outcome] = []
    for outcome in outcomes:
        if not isinstance(outcome, Fault) or not _is_page_fault(outcome):
            found.append(outcome)
        elif outcome.record is None:
            if bits.had(outcome.requester, "SA"):
                found.append(outcome)
        else:
            found.append(outcome)
            if outcome.requester & 0xFFFF in reported and bits.had(outcome.requester, "SE"):
                suppressed.append(replace(outcome, record=None))
    return (*found, *suppressed)


def with_one_fault(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Where nothing is written down: the first fault stands for all of them."""
    first = next(outcome for outcome in outcomes if isinstance(outcome, Fault))
    return tuple(outcome for outcome in outcomes if outcome is first or not isinstance(outcome, Fault))


def _is_page_fault(fault: Fault) -> bool:
    return isinstance(fault.code, AmdviFaultReason) and fault.code.event_code is AmdviEventCode.IO_PAGE_FAULT
