"""Which of two things that are wrong on the way to a page decides (VT-d 3.6.1, 3.7.1, SSS.2)."""

from __future__ import annotations

from typing import Any

import pytest
from reasons import assert_fault
from vtd_units import IOVA, NOWHERE, RID, TES, Unit

from harness.model.access import Access, AccessKind, Outcome
from harness.model.memory import Region, SparseMemory
from harness.model.vtd import VtdEngine, VtdFaultReason, VtdRegisters, VtdTables
from harness.model.vtd.registers import capabilities

READ, WRITE = AccessKind.READ, AccessKind.WRITE


def legacy(upper: dict[str, int], lower: dict[str, int], kind: AccessKind) -> Outcome:
    """What becomes of an access in legacy mode, with fields changed in levels 3 and 1."""
    memory = SparseMemory((Region(0, 1 << 24),))
    tables = VtdTables(memory, 0x1000)
    table = tables.attach(RID, 1, 4)
    table.map(IOVA, 0x8000_0000, 0x1000)
    table.set_fields(IOVA, 3, upper)
    table.set_fields(IOVA, 1, lower)
    engine = VtdEngine(VtdRegisters(rtaddr=tables.root, cap=capabilities(), ecap=0, gsts=TES), memory)
    return engine.translate(Access(requester=RID, iova=IOVA, length=4, kind=kind))


def scalable(stages: str, upper: dict[str, int], lower: dict[str, int], kind: AccessKind) -> Outcome:
    """The same in scalable mode."""
    unit = Unit(stages)
    table = unit.first if stages == "first" else unit.second
    table.set_fields(IOVA, 3, upper)
    table.set_fields(IOVA, 1, lower)
    return unit.access(kind)


@pytest.mark.parametrize("lower", [{"IW": 1}, {"SNP": 1}])
def test_reserved_field_below_an_entry_without_w_decides_in_legacy_mode_3_7_1(lower: dict[str, int]) -> None:
    assert_fault(legacy({"W": 0}, lower, WRITE), VtdFaultReason.PAGING_ENTRY_RESERVED, stage=2, level=1)


def test_missing_right_is_reported_at_the_entry_that_lacks_it_first_3_7_1() -> None:
    assert_fault(legacy({"W": 0}, {"W": 0}, WRITE), VtdFaultReason.WRITE_NOT_PERMITTED, stage=2, level=3)
    assert_fault(legacy({"R": 0}, {}, READ), VtdFaultReason.READ_NOT_PERMITTED, stage=2, level=3)
    # Without R and W the entry itself is not present: the walk ends there.
    assert_fault(legacy({"W": 0}, {"R": 0, "W": 0}, WRITE), VtdFaultReason.WRITE_NOT_PERMITTED, stage=2, level=1)


@pytest.mark.parametrize(
    ("lower", "reason"),
    [
        ({"R": 0, "W": 0}, VtdFaultReason.SECOND_STAGE_NOT_PRESENT),
        ({"IW": 1}, VtdFaultReason.SECOND_STAGE_RESERVED),
        ({}, VtdFaultReason.SCALABLE_WRITE_NOT_PERMITTED),
        # SSS.2: no right that all levels share.
        ({"R": 0}, VtdFaultReason.SECOND_STAGE_NOT_PRESENT),
    ],
)
def test_rights_of_the_second_stage_are_those_of_the_whole_walk_sss_2(
    lower: dict[str, int], reason: VtdFaultReason
) -> None:
    assert_fault(scalable("second", {"W": 0}, lower, WRITE), reason, stage=2)


@pytest.mark.parametrize("upper", [{"US": 0}, {"RW": 0}])
@pytest.mark.parametrize(
    ("lower", "reason"),
    [({"P": 0}, VtdFaultReason.FIRST_STAGE_NOT_PRESENT), ({"ADDR": 1 << 50}, VtdFaultReason.FIRST_STAGE_RESERVED)],
)
def test_entry_below_one_without_a_right_decides_in_the_first_stage_3_6_1(
    upper: dict[str, int], lower: dict[str, int], reason: VtdFaultReason
) -> None:
    assert_fault(scalable("first", upper, lower, WRITE), reason, stage=1, level=1)


def test_u_s_comes_before_r_w_whichever_level_lacks_them() -> None:
    for upper, lower in (({"RW": 0}, {"US": 0}), ({"US": 0}, {"RW": 0})):
        assert_fault(scalable("first", upper, lower, WRITE), VtdFaultReason.USER_NOT_PERMITTED, stage=1, level=3)


def test_table_below_an_entry_without_a_right_is_looked_for_3_7_1() -> None:
    unit = Unit("second")
    unit.second.set_fields(IOVA, 3, {"W": 0})
    unit.second.set_fields(IOVA, 2, {"ADDR": NOWHERE})
    assert_fault(unit.access(WRITE), VtdFaultReason.SECOND_STAGE_ACCESS, stage=2, level=1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"P": 0, "US": 0, "ADDR": 1 << 50}, VtdFaultReason.FIRST_STAGE_NOT_PRESENT),
        ({"US": 0, "RW": 0, "ADDR": 1 << 50}, VtdFaultReason.FIRST_STAGE_RESERVED),
        ({"US": 0, "RW": 0}, VtdFaultReason.USER_NOT_PERMITTED),
    ],
)
def test_in_one_first_stage_entry_present_comes_first_then_reserved_fields_then_rights(
    fields: dict[str, Any], reason: VtdFaultReason
) -> None:
    unit = Unit("first")
    unit.first.set_fields(IOVA, 1, fields)
    assert_fault(unit.access(WRITE), reason, stage=1, level=1)
