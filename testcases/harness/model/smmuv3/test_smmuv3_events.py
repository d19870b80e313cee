"""Event records of SMMUv3, byte by byte (IHI 0070, 7.3)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smmuv3_unit import NOWHERE, SID, Unit, record_of

from harness.errors import SpecError
from harness.model.smmuv3 import Smmuv3Event, Smmuv3EventClass, Smmuv3EventType
from harness.model.smmuv3.events import event_layout


def words(record: Smmuv3Event) -> list[int]:
    data = record.encode()
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, 32, 8)]


def test_stage_2_fault_has_its_fields_where_7_3_13_puts_them() -> None:
    record = Smmuv3Event(
        type=Smmuv3EventType.F_TRANSLATION,
        stream_id=0x12345678,
        substream_id=0xABCDE,
        input_address=0xFEDC_BA98_7654_3210,
        is_read=True,
        privileged=True,
        is_instruction=True,
        stage2=True,
        event_class=Smmuv3EventClass.IN,
        ipa=0x00AB_CDEF_1234_5000,
        stall=True,
        stag=0x4321,
    )
    assert words(record) == [
        0x12345678_ABCDE_810,
        # CLASS 41:40, S2 39, RnW 35, InD 34, PnU 33, Stall 31, STAG 15:0 of the second word.
        2 << 40 | 1 << 39 | 1 << 35 | 1 << 34 | 1 << 33 | 1 << 31 | 0x4321,
        0xFEDC_BA98_7654_3210,
        0x00AB_CDEF_1234_5000,
    ]


def test_permission_fault_of_a_table_walk_says_whether_it_read_7_3_16() -> None:
    record = Smmuv3Event(
        type=Smmuv3EventType.F_PERMISSION,
        stream_id=1,
        stage2=True,
        event_class=Smmuv3EventClass.TT,
        table_read=True,
    )
    assert words(record)[1] == 1 << 44 | 1 << 40 | 1 << 39


def test_fetch_faults_have_fetchaddr_in_the_last_word_7_3_4_7_3_10_7_3_12() -> None:
    for kind in (Smmuv3EventType.F_STE_FETCH, Smmuv3EventType.F_CD_FETCH, Smmuv3EventType.F_WALK_EABT):
        record = Smmuv3Event(type=kind, stream_id=2, fetch_address=0x00F0_1234_5678_9AB8)
        assert words(record) == [2 << 32 | kind, 0, 0, 0x00F0_1234_5678_9AB8]


def test_bad_translation_request_has_what_was_asked_for_7_3_6() -> None:
    record = Smmuv3Event(
        type=Smmuv3EventType.F_BAD_ATS_TREQ,
        stream_id=3,
        substream_id=1,
        input_address=0x1234_5678_9ABC_D000,
        privileged=True,
        requested=0b011,
        span=1,
    )
    assert words(record) == [3 << 32 | 1 << 12 | 1 << 11 | 5, 0b1101 << 28 | 1, 0x1234_5678_9ABC_D000, 0]


def test_bad_substream_has_no_ssv_7_3_9() -> None:
    record = Smmuv3Event(type=Smmuv3EventType.C_BAD_SUBSTREAMID, stream_id=4, substream_id=7)
    assert words(record)[0] == 4 << 32 | 7 << 12 | 8
    assert Smmuv3Event.decode(record.encode()).substream_id == 7


def test_stream_disabled_names_no_substream_7_3_7() -> None:
    record = Smmuv3Event(type=Smmuv3EventType.F_STREAM_DISABLED, stream_id=4)
    assert words(record) == [4 << 32 | 6, 0, 0, 0]
    # Bits 31:8 are RES0.
    assert Smmuv3Event.decode(b"\x06\xf8\xff\xff" + record.encode()[4:]) == record


def test_forbidden_transaction_has_its_direction_and_address_alone_7_3_8() -> None:
    record = Smmuv3Event(
        type=Smmuv3EventType.F_TRANSL_FORBIDDEN, stream_id=4, input_address=0x1234, is_read=True, privileged=True
    )
    assert words(record) == [4 << 32 | 7, 1 << 35, 0x1234, 0]


def test_unsupported_transaction_has_its_attributes_7_3_2() -> None:
    record = Smmuv3Event(type=Smmuv3EventType.F_UUT, stream_id=5, input_address=0x10, is_read=True, reason=0x99)
    assert words(record) == [5 << 32 | 1, 1 << 35 | 0x99, 0x10, 0]


@given(data=st.binary(min_size=32, max_size=32))
def test_any_bytes_are_a_record_and_keep_their_fields(data: bytes) -> None:
    record = Smmuv3Event.decode(data)
    again = record.encode()
    bits, kept = int.from_bytes(data, "little"), int.from_bytes(again, "little")
    assert Smmuv3Event.decode(again) == record
    for field in event_layout(data[0]).fields:
        name = field.name
        # A SubstreamID without SSV is UNKNOWN, and this model's SMMU is Non-secure.
        unknown = name == "SUBSTREAMID" and not bits >> 11 & 1
        if not name.startswith("RSVD") and name not in ("SSV", "NSIPA") and not unknown:
            assert field.get(kept) == field.get(bits), name
    assert str(record)


def test_unknown_event_keeps_its_number() -> None:
    record = Smmuv3Event.decode(b"\xe0" + bytes(31))
    assert record.type == 0xE0
    assert not isinstance(record.type, Smmuv3EventType)
    assert str(record).startswith("event 0xe0 of 00:00.0")


def test_record_of_another_size_is_refused() -> None:
    with pytest.raises(SpecError, match="32 bytes"):
        Smmuv3Event.decode(bytes(16))


def test_records_are_readable() -> None:
    unit = Unit("12")
    assert str(record_of(unit.access(iova=0x123))) == "F_TRANSLATION of 00:05.0 at 0x123, read, stage 1, class IN"
    unit.tree.set_fields(0x40_0000, 1, {"ADDR": 0x5000_0000})
    text = "F_TRANSLATION of 00:05.0 at 0x400000, read, stage 2, class IN, ipa 0x50000000"
    assert str(record_of(unit.access())) == text
    unit.registers = {"strtab_base": NOWHERE}
    assert str(record_of(unit.access())) == f"F_STE_FETCH of 00:05.0, fetched from {NOWHERE + SID * 64:#x}"


# Merging, 7.3.1.


def test_events_of_one_page_merge_where_mev_says_so_7_3_1() -> None:
    unit = Unit()
    first, second = (record_of(unit.access(iova=iova)) for iova in (0x1000, 0x1FF0))
    other = record_of(unit.access(iova=0x2000))
    assert not unit.engine().may_merge(first, second)
    unit.tables.set_fields(SID, {"MEV": 1})
    assert unit.engine().may_merge(first, second)
    assert not unit.engine().may_merge(first, other)


@pytest.mark.parametrize("kind", list(Smmuv3EventType))
def test_input_address_within_a_page_is_ignored_where_7_3_says_so(kind: Smmuv3EventType) -> None:
    first = Smmuv3Event(type=kind, stream_id=SID, input_address=0x1000)
    # 7.3.8 and 7.3.12 to 7.3.16 say so; only the record of 7.3.2 tells the two from each other.
    for offset in (0x001, 0x010, 0xFFF):
        second = replace(first, input_address=0x1000 + offset)
        assert first.is_like(second) is (kind is not Smmuv3EventType.F_UUT)


def test_neighbouring_pages_never_merge_7_3_1() -> None:
    first = Smmuv3Event(type=Smmuv3EventType.F_TRANSLATION, stream_id=SID, input_address=0x2000)
    assert not first.is_like(replace(first, input_address=0x3000))


def test_a_stall_does_not_merge_with_a_record_of_no_stall_7_3_1() -> None:
    first = Smmuv3Event(type=Smmuv3EventType.F_TRANSLATION, stream_id=SID, input_address=0x2000)
    stalled = replace(first, stall=True)
    assert not first.is_like(stalled)
    assert not stalled.is_like(first)


def test_stalls_never_merge_7_3_1() -> None:
    unit = Unit()
    unit.tables.set_fields(SID, {"MEV": 1})
    record = replace(record_of(unit.access(iova=0x1000)), stall=True)
    assert not unit.engine().may_merge(record, record)


def test_events_before_an_ste_merge_whatever_mev_says_7_3_1() -> None:
    unit = Unit()
    unit.tables.set_fields(SID, {"V": 0})
    record = record_of(unit.access())
    assert unit.engine().may_merge(record, record)
    assert not unit.engine().may_merge(record, replace(record, substream_id=1))
