"""Substreams and the CD (IHI 0070 3.3.2, 5.3, 5.4)."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from smmuv3_unit import IOVA, NOWHERE, OUTPUT, SID, Unit, record_of

from harness.model.access import Bypassed, BypassReason, Permissions, Translated
from harness.model.engine import NotModelled
from harness.model.radix import RadixTable
from harness.model.smmuv3 import Smmuv3EventType, Stage1Format

# Substreams.


@pytest.mark.parametrize(
    ("bits", "context_format", "substream"),
    [(1, 0, 1), (6, 0, 63), (5, 1, 31), (6, 1, 63), (9, 1, 0x155), (8, 2, 200), (11, 2, 0x4FF), (11, 3, 0x4FF)],
)
def test_cd_is_found_in_every_kind_of_table_5_2(bits: int, context_format: int, substream: int) -> None:
    unit = Unit(substream_bits=bits, context_format=context_format % 3)
    unit.tables.set_fields(SID, {"S1FMT": context_format})
    other = RadixTable(unit.pages, Stage1Format(), 4)
    other.map(IOVA, OUTPUT + 0x5000, 0x1000)
    unit.cd.describe(substream, other)
    assert unit.access(pasid=substream) == Translated(OUTPUT + 0x5000, 0x1000, Permissions.READ | Permissions.WRITE)
    assert isinstance(unit.access(), Translated)


@pytest.mark.parametrize(
    ("stages", "fields", "caps"),
    [
        ("", {}, {}),
        ("2", {}, {}),
        ("1", {}, {}),
        ("1", {"S1CDMAX": 6}, {"substream_id_bits": 0}),
        ("1", {"S1CDMAX": 1}, {}),
    ],
)
def test_substream_where_there_is_none_is_bad_7_3_9(
    stages: str, fields: dict[str, int], caps: dict[str, object]
) -> None:
    unit = Unit(stages, caps=caps)
    unit.tables.set_fields(SID, fields)
    assert_fault(unit.access(pasid=2), Smmuv3EventType.C_BAD_SUBSTREAMID)
    assert record_of(unit.access(pasid=2)).substream_id == 2


@pytest.mark.parametrize("default", [0b00, 0b11])
def test_s1dss_00_terminates_what_has_no_substream_5_2(default: int) -> None:
    unit = Unit(substream_bits=2)
    unit.tables.set_fields(SID, {"S1DSS": default})
    assert_fault(unit.access(), Smmuv3EventType.F_STREAM_DISABLED)
    assert record_of(unit.access()).substream_id is None
    assert isinstance(unit.access(pasid=0), Translated)


def test_s1dss_01_bypasses_stage_1_for_what_has_no_substream_5_2() -> None:
    unit = Unit(substream_bits=2)
    unit.tables.set_fields(SID, {"S1DSS": 0b01})
    assert unit.access() == Bypassed(IOVA, BypassReason.PASS_THROUGH)
    assert isinstance(unit.access(pasid=0), Translated)


def test_s1dss_01_leaves_stage_2_to_translate_5_2() -> None:
    unit = Unit("12", substream_bits=2)
    unit.tables.set_fields(SID, {"S1DSS": 0b01})
    unit.outer.map(IOVA, OUTPUT + 0x9000, 0x1000)
    outcome = unit.access()
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT + 0x9000


def test_s1dss_10_gives_cd_0_to_what_has_no_substream_alone_5_2() -> None:
    unit = Unit(substream_bits=2)
    assert isinstance(unit.access(), Translated)
    assert_fault(unit.access(pasid=0), Smmuv3EventType.F_STREAM_DISABLED)
    # 7.3.7: the record does not name SubstreamID 0.
    assert record_of(unit.access(pasid=0)).encode()[:8] == b"\x06\0\0\0\x28\0\0\0"


def test_bad_substream_comes_before_stream_disabled_7_3_22() -> None:
    unit = Unit(substream_bits=2)
    unit.tables.set_fields(SID, {"S1DSS": 0b00})
    assert_fault(unit.access(pasid=4), Smmuv3EventType.C_BAD_SUBSTREAMID)


def test_l1cd_that_is_not_valid_is_a_bad_substream_7_3_9() -> None:
    unit = Unit(substream_bits=8, context_format=1)
    assert_fault(unit.access(pasid=65), Smmuv3EventType.C_BAD_SUBSTREAMID)
    unit.cd.set_level1_fields(0, {"V": 0})
    # The record has the index that was wanted, where the transaction has none.
    assert record_of(unit.access()).substream_id == 0


def test_l1cd_with_a_pointer_beyond_the_oas_is_a_bad_substream_7_3_9() -> None:
    unit = Unit(substream_bits=8, context_format=1, caps={"address_bits": 40})
    unit.cd.set_level1_fields(0, {"L2PTR": 1 << 40})
    assert_fault(unit.access(pasid=3), Smmuv3EventType.C_BAD_SUBSTREAMID)


def test_linear_table_of_cds_is_aligned_to_its_size_5_2() -> None:
    unit = Unit(substream_bits=2)
    unit.tables.set_fields(SID, {"S1CONTEXTPTR": unit.cd.root | 0x40})
    assert isinstance(unit.access(), Translated)


def test_table_of_l1cds_is_aligned_to_its_size_5_2() -> None:
    # 2^(10 - 6) entries of 8 bytes: 128 bytes.
    unit = Unit(substream_bits=10, context_format=1)
    unit.tables.set_fields(SID, {"S1CONTEXTPTR": unit.cd.root | 0x40})
    assert isinstance(unit.access(), Translated)


@pytest.mark.parametrize("bits", [6, 8, 9])
def test_table_of_l1cds_of_64_bytes_or_less_is_aligned_to_64_bytes_5_2(bits: int) -> None:
    unit = Unit(substream_bits=bits, context_format=1)
    unit.memory.write_u64(unit.cd.root + 0x40, unit.memory.read_u64(unit.cd.root))
    unit.memory.write_u64(unit.cd.root, 0)
    unit.tables.set_fields(SID, {"S1CONTEXTPTR": unit.cd.root | 0x40})
    assert isinstance(unit.access(), Translated)


def test_level_2_table_of_64_kb_is_aligned_5_2() -> None:
    unit = Unit(substream_bits=11, context_format=2)
    pointer = unit.memory.read_u64(unit.cd.root) & ~0xFFF
    unit.cd.set_level1_fields(0, {"L2PTR": pointer | 0x3000})
    assert isinstance(unit.access(), Translated)


def test_unreadable_cd_is_a_cd_fetch_fault_7_3_10() -> None:
    unit = Unit(substream_bits=2)
    unit.tables.set_fields(SID, {"S1CONTEXTPTR": NOWHERE})
    assert_fault(unit.access(pasid=3), Smmuv3EventType.F_CD_FETCH)
    record = record_of(unit.access(pasid=3))
    assert (record.fetch_address, record.substream_id) == (NOWHERE + 3 * 64, 3)


def test_unreadable_l1cd_is_a_cd_fetch_fault_7_3_10() -> None:
    unit = Unit(substream_bits=8, context_format=1)
    unit.tables.set_fields(SID, {"S1CONTEXTPTR": NOWHERE})
    assert record_of(unit.access(pasid=64)).fetch_address == NOWHERE + 8


# The CD: what makes it ILLEGAL, 5.4.2.

BAD = [
    ({"V": 0}, {}, {}),
    ({"S": 1}, {"S1STALLD": 1}, {}),
    ({"S": 1}, {}, {"STALL_MODEL": 0b01}),
    ({"S": 0}, {}, {"STALL_MODEL": 0b10}),
    ({"A": 0}, {}, {"TERM_MODEL": 1}),
    ({"ENDI": 1}, {}, {}),
    ({"ENDI": 0}, {}, {"TTENDIAN": 0b11}),
    ({"AA64": 0}, {}, {}),
    ({}, {}, {"TTF": 0b01}),
    ({"HA": 1}, {}, {"HTTU": 0}),
    ({"HD": 1}, {}, {"HTTU": 0}),
    ({"HD": 1}, {}, {"HTTU": 1}),
    ({"ASID": 0x100}, {}, {"ASID16": 0}),
    ({"TG0": 0b11}, {}, {}),
    ({}, {}, {"granules": frozenset({14, 16})}),
    ({"T0SZ": 15}, {}, {}),
    ({"T0SZ": 15}, {}, {"VAX": 1}),
    ({"T0SZ": 40}, {}, {}),
    ({"T0SZ": 49}, {}, {"STT": 1}),
    ({"TG0": 0b01, "T0SZ": 11}, {}, {"VAX": 1}),
    ({"TG0": 0b01, "T0SZ": 15}, {}, {}),
    ({"TG0": 0b01, "T0SZ": 48}, {}, {"STT": 1}),
    ({"TTB0": (1 << 40) >> 4, "IPS": 0b010}, {}, {}),
    ({"TTB0": (1 << 44) >> 4}, {}, {"address_bits": 44}),
    ({"TTB0": (1 << 48) >> 4, "IPS": 0b110}, {}, {"address_bits": 52}),
    ({"EPD1": 0, "T1SZ": 16, "TG1": 0b00}, {}, {}),
    ({"EPD1": 0, "T1SZ": 0, "TG1": 0b10}, {}, {}),
    ({"EPD1": 0, "T1SZ": 16, "TG1": 0b10, "TTB1": (1 << 48) >> 4}, {}, {}),
]


@pytest.mark.parametrize(("fields", "ste", "caps"), BAD)
def test_illegal_cd_is_bad_5_4_2(fields: dict[str, int], ste: dict[str, int], caps: dict[str, object]) -> None:
    unit = Unit(caps=caps)
    unit.tables.set_fields(SID, ste)
    unit.cd.set_fields(0, fields)
    assert_fault(unit.access(), Smmuv3EventType.C_BAD_CD)
    assert record_of(unit.access()).substream_id is None


GOOD = [
    ({"S": 1, "R": 0}, {}, {}),
    ({"S": 1}, {}, {"STALL_MODEL": 0b10}),
    ({"A": 0}, {}, {}),
    ({"T1SZ": 0, "TG1": 0, "TTB1": (1 << 50) >> 4}, {}, {}),
    ({"ASID": 0xFF}, {}, {"ASID16": 0}),
    ({"HA": 1}, {}, {"HTTU": 1}),
    ({"HA": 1, "HD": 1}, {}, {"HTTU": 2}),
    ({"IPS": 0b111}, {}, {}),
    ({"UWXN": 1, "ASET": 1, "MAIR": 1 << 63}, {}, {}),
    ({"EPD1": 0, "T1SZ": 1, "TG1": 0, "TTB1": 1 << 50, "ASID": 0xFFFF}, {"STRW": 0b10}, {"HYP": 1, "ASID16": 0}),
]


@pytest.mark.parametrize(("fields", "ste", "caps"), GOOD)
def test_cd_with_fields_that_are_ignored_is_good_5_4_2(
    fields: dict[str, int], ste: dict[str, int], caps: dict[str, object]
) -> None:
    unit = Unit(caps=caps)
    unit.tables.set_fields(SID, ste)
    unit.cd.set_fields(0, fields)
    assert isinstance(unit.access(), Translated)


def test_cd_without_any_table_ignores_endi_5_4() -> None:
    unit = Unit()
    unit.cd.set_fields(0, {"EPD0": 1, "ENDI": 1})
    assert_fault(unit.access(), Smmuv3EventType.F_TRANSLATION, stage=1)


def test_el2_regime_has_no_epd0_5_4() -> None:
    unit = Unit(caps={"HYP": 1})
    unit.tables.set_fields(SID, {"STRW": 0b10})
    unit.cd.set_fields(0, {"EPD0": 1})
    assert isinstance(unit.access(), Translated)


def test_el2_host_regime_has_two_tables_5_2() -> None:
    unit = Unit(caps={"HYP": 1}, registers={"cr2": 1})
    unit.tables.set_fields(SID, {"STRW": 0b10})
    unit.cd.set_fields(0, {"EPD0": 1})
    assert_fault(unit.access(), Smmuv3EventType.F_TRANSLATION)


def test_vmsav8_32_tables_are_not_modelled_where_the_smmu_has_them_5_4() -> None:
    unit = Unit(caps={"TTF": 0b11})
    unit.cd.set_fields(0, {"AA64": 0})
    with pytest.raises(NotModelled, match="CD selects VMSAv8-32"):
        unit.access()
