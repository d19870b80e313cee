"""Global bypass, the stream table and the STE (IHI 0070 3.3.1, 3.4, 5.1, 5.2, 13.2)."""

from __future__ import annotations

import pytest
from reasons import assert_fault
from smmuv3_unit import IOVA, NOWHERE, OUTPUT, READ, SID, WRITE, Unit, record_of

from harness.model.access import Access, Bypassed, BypassReason, Permissions, Translated
from harness.model.engine import NotModelled
from harness.model.smmuv3 import Smmuv3Engine, Smmuv3EventClass, Smmuv3EventType, Smmuv3Terminated
from harness.model.smmuv3.registers import CR2, GBPA

RECINVSID = CR2["RECINVSID"].mask
ABORT = GBPA["ABORT"].mask
RW = Permissions.READ | Permissions.WRITE


# SMMUEN 0.


def test_disabled_smmu_bypasses_13_2() -> None:
    unit = Unit(registers={"cr0": 0})
    assert unit.access(iova=0x123) == Bypassed(0x123, BypassReason.TRANSLATION_OFF)


def test_disabled_smmu_with_gbpa_abort_terminates_silently_6_3_14() -> None:
    fault = assert_fault(Unit(registers={"cr0": 0, "gbpa": ABORT}).access(), Smmuv3Terminated.GLOBAL_ABORT)
    assert (fault.record, fault.completion) == (None, None)


def test_disabled_smmu_terminates_addresses_beyond_the_oas_silently_3_4() -> None:
    unit = Unit(caps={"address_bits": 40}, registers={"cr0": 0})
    assert unit.access(iova=(1 << 40) - 4) == Bypassed((1 << 40) - 4, BypassReason.TRANSLATION_OFF)
    assert assert_fault(unit.access(iova=1 << 40), Smmuv3Terminated.ADDRESS_SIZE).record is None


# The stream table.


@pytest.mark.parametrize("split", [None, 6, 8, 10])
def test_ste_is_found_in_every_kind_of_stream_table_3_3_1(split: int | None) -> None:
    assert Unit(split=split).access() == Translated(OUTPUT, 0x1000, RW)


def test_stream_id_beyond_log2size_is_recorded_where_recinvsid_says_7_3_3() -> None:
    unit = Unit()
    assert assert_fault(unit.access(requester=0x100), Smmuv3EventType.C_BAD_STREAMID).record is None
    unit.registers = {"cr2": RECINVSID}
    record = record_of(unit.access(requester=0x100, pasid=3))
    assert (record.stream_id, record.substream_id) == (0x100, 3)


def test_stream_id_beyond_sidsize_is_bad_6_3_25() -> None:
    unit = Unit(caps={"stream_id_bits": 5})
    assert_fault(unit.access(), Smmuv3EventType.C_BAD_STREAMID)


@pytest.mark.parametrize(
    ("stream", "span", "good"),
    [
        *((SID, 0, False), (SID, 1, False), (SID, 6, False), (SID, 7, True), (SID, 8, False), (SID, 31, False)),
        *((0x1F, 5, False), (0x1F, 6, True), (0x20, 6, False), (0, 0, False), (0, 1, True), (1, 1, False)),
    ],
)
def test_span_of_an_l1std_covers_2_to_the_span_less_1_streams_7_3_3(stream: int, span: int, good: bool) -> None:
    # With SPLIT 6 a level 2 array has 64 STEs at most, for which Span is 7.
    unit = Unit(split=6, registers={"cr2": RECINVSID})
    unit.tables.attach(stream, unit.cd)
    unit.tables.set_level1_fields(stream, {"SPAN": span})
    if good:
        assert isinstance(unit.access(requester=stream), Translated)
    else:
        assert record_of(unit.access(requester=stream)).type == Smmuv3EventType.C_BAD_STREAMID


def test_level_2_array_is_aligned_to_its_span_5_1() -> None:
    unit = Unit(split=6)
    unit.tables.set_level1_fields(SID, {"L2PTR": unit.memory.read_u64(unit.tables.root) & ~0x1F | 0x40})
    assert isinstance(unit.access(), Translated)


def test_unreadable_stream_table_is_an_ste_fetch_fault_7_3_4() -> None:
    unit = Unit(registers={"strtab_base": NOWHERE})
    assert record_of(unit.access(pasid=1)).fetch_address == NOWHERE + SID * 64
    assert record_of(unit.access(pasid=1)).substream_id == 1
    assert_fault(unit.access(), Smmuv3EventType.F_STE_FETCH)


def test_unreadable_level_2_array_is_an_ste_fetch_fault_7_3_4() -> None:
    unit = Unit(split=6)
    unit.tables.set_level1_fields(SID, {"L2PTR": NOWHERE})
    assert record_of(unit.access()).fetch_address == NOWHERE + SID * 64
    unit.registers = {"strtab_base": NOWHERE}
    assert record_of(unit.access()).fetch_address == NOWHERE


@pytest.mark.parametrize("what", ["STE", "L1STD", "STE behind an L1STD"])
def test_ste_or_l1std_beyond_the_oas_is_an_ste_fetch_fault_whatever_is_there_3_4_3(what: str) -> None:
    unit = Unit(split=None if what == "STE" else 6, caps={"address_bits": 32})
    beyond = 1 << 33
    if what == "STE behind an L1STD":
        unit.tables.set_level1_fields(SID, {"L2PTR": unit.memory.read_u64(unit.tables.root) & ~0x1F | beyond})
    else:
        unit.registers = {"strtab_base": unit.tables.root | beyond}

    class Folded:
        """Memory that looks only at the address bits that the SMMU has."""

        def read(self, address: int, size: int) -> bytes:
            return unit.memory.read(address % (1 << 32), size)

        def read_u64(self, address: int) -> int:
            return unit.memory.read_u64(address % (1 << 32))

    engine = Smmuv3Engine(unit.all_registers(), Folded())
    record = record_of(engine.translate(Access(requester=SID, iova=IOVA, length=4, kind=READ)))
    assert record.type == Smmuv3EventType.F_STE_FETCH
    assert record.fetch_address & beyond


# The STE: what it configures.


@pytest.mark.parametrize("config", [0, 1, 2, 3])
def test_ste_that_aborts_does_so_silently_5_2(config: int) -> None:
    unit = Unit()
    unit.tables.set_fields(SID, {"CONFIG": config, "STRW": 3, "S1CDMAX": 31})
    assert assert_fault(unit.access(pasid=1), Smmuv3Terminated.STREAM_ABORT).record is None


def test_ste_that_bypasses_ignores_the_fields_of_both_stages_5_2_1() -> None:
    unit = Unit("")
    unit.tables.set_fields(SID, {"S1CONTEXTPTR": NOWHERE, "S1CDMAX": 31, "S2T0SZ": 63, "S2VMID": 0xFFFF})
    assert unit.access() == Bypassed(IOVA, BypassReason.PASS_THROUGH)


def test_bypassed_address_beyond_the_oas_is_a_stage_1_address_size_fault_3_4() -> None:
    unit = Unit("", caps={"address_bits": 40})
    record = record_of(unit.access(WRITE, iova=1 << 40))
    assert_fault(unit.access(iova=1 << 40), Smmuv3EventType.F_ADDR_SIZE, stage=1)
    assert (record.stage2, record.event_class, record.is_read) == (False, Smmuv3EventClass.IN, False)


def test_stage_2_input_beyond_the_ias_is_a_stage_1_address_size_fault_3_4() -> None:
    unit = Unit("2", caps={"address_bits": 44})
    # 2^40 to 2^44 is beyond S2T0SZ, and a Translation fault of stage 2 instead.
    assert_fault(unit.access(iova=1 << 43), Smmuv3EventType.F_TRANSLATION, stage=2)
    assert_fault(unit.access(iova=1 << 44), Smmuv3EventType.F_ADDR_SIZE, stage=1)
    unit.tables.set_fields(SID, {"S2R": 0})
    assert record_of(unit.access(iova=1 << 44)).stage2 is False


# The STE: what makes it ILLEGAL, 5.2.2.

BAD = [
    ("1", {"V": 0}, {}),
    ("1", {}, {"stages": frozenset({2})}),
    ("2", {}, {"stages": frozenset({1})}),
    ("1", {"STRW": 0b01}, {"HYP": 1}),
    ("1", {"STRW": 0b11}, {"HYP": 1}),
    ("1", {"S1STALLD": 1}, {"STALL_MODEL": 0b01}),
    ("1", {"S1STALLD": 1}, {"STALL_MODEL": 0b10}),
    ("1", {"S1CDMAX": 6}, {"substream_id_bits": 5}),
    ("1", {"S1CDMAX": 1, "S1FMT": 0b01}, {"CD2L": 0}),
    ("1", {"S1CDMAX": 1, "S1FMT": 0b10}, {"CD2L": 0}),
    ("1", {"S1CONTEXTPTR": 1 << 40}, {"address_bits": 40}),
    ("12", {"S1CONTEXTPTR": 1 << 44}, {"address_bits": 44}),
    ("1", {"S2VMID": 0x100}, {"VMID16": 0}),
    ("2", {"S2VMID": 0x100}, {"VMID16": 0}),
    ("2", {"S2S": 1}, {"STALL_MODEL": 0b01}),
    ("2", {"S2S": 0}, {"STALL_MODEL": 0b10}),
    ("2", {"S2AA64": 0}, {}),
    ("2", {}, {"TTF": 0b01}),
    ("2", {"S2HA": 1}, {"HTTU": 0}),
    ("2", {"S2HD": 1}, {"HTTU": 0}),
    ("2", {"S2HD": 1}, {"HTTU": 1}),
    ("2", {"S2ENDI": 1}, {}),
    ("2", {"S2ENDI": 0}, {"TTENDIAN": 0b11}),
    ("2", {"S2TG": 0b11}, {}),
    ("2", {}, {"granules": frozenset({14, 16})}),
    ("2", {"S2TTB": (1 << 40) >> 4, "S2PS": 0b010}, {}),
    ("2", {"S2TTB": (1 << 44) >> 4}, {"address_bits": 44}),
    ("2", {"S2T0SZ": 15}, {}),
    ("2", {"S2T0SZ": 19}, {"address_bits": 44}),
    ("2", {"S2T0SZ": 40, "S2SL0": 0}, {}),
    ("2", {"S2SL0": 0b11}, {}),
    # DDI 0487 D8: with 4 KB and 3 levels, 31 to 43 bits; with 4 levels 40 and more, and a PA of 44 bits.
    ("2", {"S2T0SZ": 64 - 30}, {}),
    ("2", {"S2T0SZ": 64 - 44}, {}),
    ("2", {"S2SL0": 0b10, "S2T0SZ": 64 - 39}, {}),
    ("2", {"S2SL0": 0b10, "S2T0SZ": 64 - 42}, {"address_bits": 42}),
    # With 16 KB, 3 levels need a PA of 42 bits.
    ("2", {"S2TG": 0b10, "S2SL0": 0b10, "S2T0SZ": 64 - 40}, {"address_bits": 40}),
    # Without S2DS and with less than 64 KB, S2TTB has 48 bits.
    ("2", {"S2TTB": (1 << 48) >> 4, "S2PS": 0b110}, {"address_bits": 52}),
    ("1", {"EATS": 0b10}, {"ATS": 1}),
    ("12", {"EATS": 0b10, "S2S": 1}, {"ATS": 1}),
    ("12", {"EATS": 0b10}, {"ATS": 1, "NS1ATS": 1}),
    ("12", {"EATS": 0b01, "S2S": 1}, {"ATS": 1}),
]


@pytest.mark.parametrize(("stages", "fields", "caps"), BAD)
def test_illegal_ste_is_bad_5_2_2(stages: str, fields: dict[str, int], caps: dict[str, object]) -> None:
    unit = Unit(stages, caps=caps)
    unit.tables.set_fields(SID, fields)
    record = record_of(unit.access(pasid=2))
    assert_fault(unit.access(pasid=2), Smmuv3EventType.C_BAD_STE)
    assert (record.type, record.stream_id, record.substream_id) == (Smmuv3EventType.C_BAD_STE, SID, 2)


GOOD = [
    ("1", {"STRW": 0b11}, {}),
    ("12", {"STRW": 0b01}, {"HYP": 1}),
    ("1", {"S1STALLD": 1}, {}),
    ("1", {"S1CDMAX": 31, "S1FMT": 0b01}, {"substream_id_bits": 0}),
    ("1", {"S1FMT": 0b01}, {"CD2L": 0}),
    ("1", {"S2VMID": 0x100}, {"VMID16": 0, "stages": frozenset({1})}),
    ("1", {"S2T0SZ": 63, "S2TG": 3, "S2S": 1, "S2ENDI": 1}, {"STALL_MODEL": 0b01}),
    ("2", {"S2S": 1}, {"STALL_MODEL": 0b10}),
    ("2", {"S2HA": 1}, {"HTTU": 1}),
    ("2", {"S2PS": 0b111}, {}),
    ("2", {"S1STALLD": 1, "S1CDMAX": 31, "S1FMT": 1}, {"STALL_MODEL": 0b01, "CD2L": 0}),
    ("1", {"EATS": 0b10}, {}),
    ("1", {"EATS": 0b01, "S2S": 1}, {"ATS": 1}),
    ("1", {"EATS": 0b11}, {"ATS": 1}),
]


@pytest.mark.parametrize(("stages", "fields", "caps"), GOOD)
def test_ste_with_fields_that_are_ignored_is_good_5_2_2(
    stages: str, fields: dict[str, int], caps: dict[str, object]
) -> None:
    unit = Unit(stages, caps=caps)
    unit.tables.set_fields(SID, fields)
    assert isinstance(unit.access(), Translated)


def test_hand_written_ste_and_cd_translate() -> None:
    """Bytes against the figures of 5.2 and 5.4, and a table of one level of 64 KB pages against DDI 0487 D8."""
    unit = Unit()
    ste, cd, table = 0x20_0000, 0x20_0400, 0x21_0000
    # V, Config 0b101, S1ContextPtr; SHCFG.
    unit.memory.write(ste + SID * 64, (0x1 | 0b101 << 1 | cd).to_bytes(8, "little") + (1 << 44).to_bytes(8, "little"))
    # T0SZ 39, TG0 0b01, EPD1, V, IPS 0b101, AA64, R, A, ASID 7; TTB0.
    unit.memory.write_u64(cd, 39 | 1 << 6 | 1 << 30 | 1 << 31 | 5 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 7 << 48)
    unit.memory.write_u64(cd + 8, table)
    # A page of 64 KB: valid, AP[1], AF, nG, UXN, PXN; index 3.
    unit.memory.write_u64(table + 3 * 8, 0x0060_0000_9ABC_0C43)
    unit.registers = {"strtab_base": ste, "strtab_base_cfg": 8}
    expected = Translated(0x9ABC_1230, 0x1_0000, RW)
    assert unit.access(iova=0x3_1230) == expected


def test_hand_written_stage_2_behind_two_levels_of_streams_translates() -> None:
    """Bytes against the figures of 5.1 and 5.2, and DDI 0487 D8 for a stage 2 of 39 bits that starts at level 1."""
    unit = Unit()
    level1, level2, table, next_table = 0x20_0000, 0x20_1000, 0x21_0000, 0x21_1000
    # L1STD: Span 7, L2Ptr. LOG2SIZE 8, SPLIT 6, FMT 0b01.
    unit.memory.write_u64(level1, level2 | 7)
    unit.registers = {"strtab_base": 1 << 62 | level1, "strtab_base_cfg": 1 << 16 | 6 << 6 | 8}
    # V and Config 0b110; S2VMID, S2T0SZ 25, S2SL0 1, S2PS 5, S2AA64, S2R; S2TTB.
    unit.memory.write_u64(level2 + SID * 64, 1 | 0b110 << 1)
    unit.memory.write_u64(level2 + SID * 64 + 16, 0x61 | 25 << 32 | 1 << 38 | 5 << 48 | 1 << 51 | 1 << 58)
    unit.memory.write_u64(level2 + SID * 64 + 24, table)
    # A Table descriptor, and a Block of 2 MB: MemAttr 0b1111, S2AP 0b11, AF, XN[1].
    unit.memory.write_u64(table + 5 * 8, next_table | 0b11)
    unit.memory.write_u64(next_table + 9 * 8, 0x0040_0000_4560_04FD)
    assert unit.access(iova=5 << 30 | 9 << 21 | 0x1_2344) == Translated(0x4561_2344, 1 << 21, RW)


def test_hand_written_two_levels_of_cds_translate() -> None:
    """Bytes against the figures of 5.2 to 5.4: level 2 tables of 4 KB, TTB1 with 16 KB pages and 25 bits."""
    unit = Unit()
    ste, level1, level2, table = 0x20_0000, 0x20_4000, 0x20_5000, 0x20_8000
    # V, Config 0b101, S1Fmt 0b01, S1ContextPtr, S1CDMax 8.
    unit.memory.write_u64(ste + SID * 64, 1 | 0b101 << 1 | 0b01 << 4 | level1 | 8 << 59)
    unit.memory.write_u64(level1 + 2 * 8, level2 | 1)
    # EPD0, T1SZ 39, TG1 0b01, V, IPS 0b010, AA64, HA, R, A; TTB1.
    cd = level2 + 7 * 64
    unit.memory.write_u64(cd, 1 << 14 | 39 << 16 | 1 << 22 | 1 << 31 | 2 << 32 | 1 << 41 | 1 << 43 | 1 << 45 | 1 << 46)
    unit.memory.write_u64(cd + 16, table)
    # A page of 16 KB, without AF: AP 0b01, nG, UXN, PXN; index 3.
    unit.memory.write_u64(table + 3 * 8, 0x0060_0000_4567_8843)
    unit.registers = {"strtab_base": ste, "strtab_base_cfg": 8}
    outcome = unit.access(iova=(1 << 64) - (1 << 25) + 3 * 0x4000 + 0x10, pasid=2 * 64 + 7)
    assert isinstance(outcome, Translated)
    assert (outcome.address, outcome.size) == (0x4567_8010, 0x4000)
    assert [(write.address, write.data.hex()) for write in outcome.writes] == [(table + 24, "438c674500006000")]


def test_vmsav8_32_tables_are_not_modelled_where_the_smmu_has_them_5_2() -> None:
    unit = Unit("2", caps={"TTF": 0b11})
    unit.tables.set_fields(SID, {"S2AA64": 0})
    with pytest.raises(NotModelled, match="STE selects VMSAv8-32"):
        unit.access()
