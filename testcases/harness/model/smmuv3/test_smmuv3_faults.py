"""Fault configuration, and that every code is reached (IHI 0070 5.5, 7.3)."""

from __future__ import annotations

from pathlib import Path

import pytest
from reasons import assert_every_code_is_reached, assert_fault
from smmuv3_unit import EXECUTE, IOVA, READ, SID, WRITE, Unit, record_of

from harness.errors import SpecError
from harness.model.access import Access, AccessKind, Bypassed, BypassReason, Translated
from harness.model.engine import AccessCrossesPage, translate_range
from harness.model.smmuv3 import Smmuv3CommandError, Smmuv3EventType, Smmuv3Terminated


def note(unit: Unit) -> str:
    """How the transaction ends for the device."""
    access = Access(requester=SID, iova=IOVA, length=4, kind=WRITE)
    return unit.engine().explain(access).steps[-1].note


FOUR = [
    (Smmuv3EventType.F_TRANSLATION, {"VALID": 0}),
    (Smmuv3EventType.F_ADDR_SIZE, {"ADDR": 1 << 46}),
    (Smmuv3EventType.F_ACCESS, {"AF": 0}),
    (Smmuv3EventType.F_PERMISSION, {"AP": 0b11}),
]


@pytest.mark.parametrize(("event", "fields"), FOUR)
@pytest.mark.parametrize(
    ("a", "r", "s", "recorded", "stalled", "how"),
    [
        (0, 0, 0, False, False, "reads zero, ignores writes"),
        (0, 1, 0, True, False, "reads zero, ignores writes"),
        (1, 0, 0, False, False, "aborts"),
        (1, 1, 0, True, False, "aborts"),
        (0, 0, 1, True, True, "stalls"),
        (1, 1, 1, True, True, "stalls"),
    ],
)
def test_a_r_and_s_of_the_cd_configure_stage_1_faults_5_5(
    event: Smmuv3EventType,
    fields: dict[str, int],
    a: int,
    r: int,
    s: int,
    recorded: bool,
    stalled: bool,
    how: str,
) -> None:
    unit = Unit(caps={"address_bits": 44})
    unit.tree.set_fields(IOVA, 1, fields)
    unit.cd.set_fields(0, {"A": a, "R": r, "S": s})
    fault = assert_fault(unit.access(WRITE), event, stage=1)
    assert (fault.record is not None) is recorded
    if recorded:
        assert record_of(fault).stall is stalled
    assert note(unit) == how


@pytest.mark.parametrize(("s2r", "s2s", "recorded"), [(0, 0, False), (1, 0, True), (0, 1, True), (1, 1, True)])
def test_s2r_and_s2s_configure_stage_2_faults_also_of_a_cd_fetch_5_5(s2r: int, s2s: int, recorded: bool) -> None:
    unit = Unit("12")
    unit.cd.set_fields(0, {"R": 1 - s2r, "S": 1 - s2s})
    unit.tables.set_fields(SID, {"S2R": s2r, "S2S": s2s})
    unit.outer.unmap(0x4000_0000, 0x1000)
    for _ in ("the page", "the CD"):
        fault = assert_fault(unit.access(), Smmuv3EventType.F_TRANSLATION, stage=2)
        assert (fault.record is not None) is recorded
        if recorded:
            assert record_of(fault).stall is bool(s2s)
        assert note(unit) == ("stalls" if s2s else "aborts")
        unit.tables.set_fields(SID, {"S1CONTEXTPTR": 0x7000_0000})


def test_walk_abort_is_recorded_and_never_stalls_whatever_r_and_s_say_5_5() -> None:
    unit = Unit()
    unit.cd.set_fields(0, {"R": 0, "S": 1})
    unit.tree.set_fields(IOVA, 2, {"ADDR": 0x2_0000_0000})
    fault = assert_fault(unit.access(), Smmuv3EventType.F_WALK_EABT)
    assert record_of(fault).stall is False


@pytest.mark.parametrize(("kind", "rnw", "ind"), [(READ, True, False), (WRITE, False, False), (EXECUTE, True, True)])
def test_record_says_what_the_access_was_7_3(kind: AccessKind, rnw: bool, ind: bool) -> None:
    unit = Unit(substream_bits=4)
    unit.cd.describe(3, unit.tree)
    record = record_of(unit.access(kind, iova=0x7123, pasid=3, privileged=True))
    assert (record.is_read, record.is_instruction, record.privileged) == (rnw, ind, True)
    assert (record.stream_id, record.substream_id, record.input_address) == (SID, 3, 0x7123)


def test_access_across_a_granule_is_refused() -> None:
    with pytest.raises(AccessCrossesPage):
        Unit().access(iova=IOVA + 0xFFE)


def test_granule_is_the_smallest_that_the_smmu_has() -> None:
    assert Unit().engine().granule == 0x1000
    assert Unit(granule=16, caps={"granules": frozenset({14, 16})}).engine().granule == 0x4000
    assert Unit("", caps={"granules": frozenset()}).engine().granule == 0x1000


def test_longer_access_is_cut_at_the_granule_and_joined() -> None:
    unit = Unit("")
    access = Access(requester=SID, iova=0xFF0, length=0x20, kind=READ)
    (piece,) = translate_range(unit.engine(), access)
    assert piece.outcome == Bypassed(0xFF0, BypassReason.PASS_THROUGH)
    assert piece.access.length == 0x20


def test_zero_length_read_is_a_read() -> None:
    unit = Unit("2")
    assert isinstance(unit.access(length=0), Translated)
    unit.tree.set_fields(IOVA, 1, {"S2AP": 0b10})
    assert_fault(unit.access(length=0), Smmuv3EventType.F_PERMISSION)


def test_explanation_is_readable() -> None:
    text = str(Unit("12").engine().explain(Access(requester=SID, iova=IOVA, length=4, kind=READ)))
    for part in ("SMMU_CR0", "STE [0x28]", "CD [0x0]", "stage 1 level 3 descriptor", "stage 2 level 3 descriptor"):
        assert part in text
    assert text.endswith("=> translated to 0x80000000 (rw, 4 KiB mapping)")


def test_wrong_command_size_is_refused() -> None:
    with pytest.raises(SpecError, match="128 bits"):
        Unit().engine().submit(1 << 128)


@pytest.mark.parametrize("codes", [Smmuv3EventType, Smmuv3Terminated, Smmuv3CommandError])
def test_every_code_is_reached(
    codes: type[Smmuv3EventType] | type[Smmuv3Terminated] | type[Smmuv3CommandError],
) -> None:
    assert_every_code_is_reached(codes, Path(__file__).parent.glob("test_*.py"))
