"""Registers that tell of faults: what counts as what they must say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from harness.conform.evidence import Evidence
from harness.model.unit import Readout


@dataclass
class _Unit:
    """All that evidence asks of one."""

    evidence: tuple[tuple[int, int], ...] = ((0x34, 4), (0x220, 8))

    def read(self, offset: int, size: int) -> Readout:
        return Readout(offset, 0xFFF)


@pytest.mark.parametrize("is_known", [False, True])
def test_a_known_difference_counts_as_none(is_known: bool) -> None:
    unit: Any = _Unit()
    evidence = Evidence(unit, 0, lambda offset, size, wanted, seen: is_known)
    assert evidence.agrees([0x34, 0x220 | 1 << 12])
    assert evidence.agrees([0x35, 0x220]) == is_known
