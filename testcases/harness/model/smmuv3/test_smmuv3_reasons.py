"""Walks that end with one type of event for several reasons say which it is, and of which stage."""

from __future__ import annotations

import pytest
from smmuv3_unit import IOVA, IPA, SID, TABLES_IPA, TABLES_SIZE, WRITE, Unit

from harness.model.access import Access, AccessKind


def reason(unit: Unit, kind: AccessKind = WRITE, iova: int = IOVA) -> str:
    steps = unit.engine().explain(Access(requester=SID, iova=iova, length=4, kind=kind)).steps
    return "; ".join(step.reason for step in steps if step.reason)


def test_a_walk_that_ends_with_a_page_says_nothing() -> None:
    assert reason(Unit("12")) == ""


@pytest.mark.parametrize(
    ("level", "fields", "expected"),
    [
        (1, {"VALID": 0}, "not valid"),
        (1, {"PAGE": 0}, "not valid"),
        (4, {"TABLE": 0}, "a Block descriptor at such a level"),
        (1, {"AF": 0}, "AF"),
        (1, {"AP": 0b00}, "AP"),
        (1, {"AP": 0b11}, "AP"),
        (2, {"APTABLE": 0b10}, "APTable"),
        (1, {"ADDR": 1 << 47}, "of a page"),
        (2, {"ADDR": 1 << 47}, "of a table"),
    ],
)
def test_a_stage_1_descriptor_that_stops_a_write_says_what_of_it_does(
    level: int, fields: dict[str, int], expected: str
) -> None:
    unit = Unit("1", caps={"address_bits": 44})
    unit.tree.set_fields(IOVA, level, fields)
    assert reason(unit) == expected


@pytest.mark.parametrize(
    ("address", "fields", "expected"),
    [
        (IPA, {"VALID": 0}, "not valid, stage 2"),
        (IPA, {"S2AP": 0b01}, "S2AP, stage 2"),
        (IPA, {"AF": 0}, "AF, stage 2"),
    ],
)
def test_a_stage_2_descriptor_says_that_it_is_one(address: int, fields: dict[str, int], expected: str) -> None:
    unit = Unit("12")
    unit.outer.set_fields(address, 1, fields)
    assert reason(unit) == expected


def test_what_stage_2_does_not_map_of_a_cd_is_told_from_what_it_does_not_map_of_memory() -> None:
    unit = Unit("12")
    unit.outer.unmap(TABLES_IPA, TABLES_SIZE)
    assert reason(unit) == "not valid, stage 2 of a CD"


def test_a_stage_1_table_out_of_reach_of_stage_2_is_told_from_a_page() -> None:
    unit = Unit("12")
    unit.tree.set_fields(IOVA, 2, {"ADDR": 1 << 43})
    assert reason(unit) == "out of range, stage 2 of a descriptor"


def test_an_address_between_ttb0_and_ttb1_has_no_table() -> None:
    assert reason(Unit("1"), iova=1 << 60) == "no table"


@pytest.mark.parametrize(
    ("stages", "field", "value"), [("1", "S1CONTEXTPTR", 1 << 45), ("2", "S2HA", 1), ("2", "V", 0)]
)
def test_an_illegal_ste_names_the_field(stages: str, field: str, value: int) -> None:
    unit = Unit(stages, caps={"address_bits": 44, "HTTU": 0})
    unit.tables.set_fields(SID, {field: value})
    assert reason(unit) == field
