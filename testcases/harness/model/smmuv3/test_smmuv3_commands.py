"""Commands: what they invalidate, and which are refused (IHI 0070, chapter 4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smmuv3_unit import ASID, ENABLED, IOVA, IPA, READ, SID, VMID, Unit

from harness.errors import SpecError
from harness.model.access import Access, MemoryWrite
from harness.model.engine import CommandResult
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind, Invalidation
from harness.model.smmuv3 import Smmuv3CommandError, Smmuv3Engine, Smmuv3Opcode, Smmuv3Registers
from harness.model.smmuv3.capabilities import capabilities
from harness.model.smmuv3.commands import COMMANDS, command_bits
from harness.model.smmuv3.registers import CR2

CMD = Smmuv3Opcode
EVERY = {"HYP": 1, "ATS": 1, "PRI": 1, "MSI": 1}
TOP = (1 << 64) - 1


def engine(registers: dict[str, int] | None = None, **caps: Any) -> Smmuv3Engine:
    unit = Unit("")
    values = {"cr0": ENABLED, **(registers or {})}
    return Smmuv3Engine(Smmuv3Registers(capabilities=capabilities(**{**EVERY, **caps}), **values), unit.memory)


def submit(opcode: Smmuv3Opcode, **fields: int) -> CommandResult:
    return engine().submit(command_bits(opcode, **fields))


def only(result: CommandResult) -> Invalidation:
    assert result.error is None
    (invalidation,) = result.invalidations
    return invalidation


# The layout of commands, by hand against chapter 4.

VECTORS = [
    (CMD.CMD_CFGI_STE, {"STREAMID": 0x12345678, "LEAF": 1}, 0x12345678_00000003, 1),
    (CMD.CMD_CFGI_STE_RANGE, {"STREAMID": 0x100, "RANGE": 7}, 0x100_00000004, 7),
    (CMD.CMD_CFGI_CD, {"STREAMID": 5, "SUBSTREAMID": 0xABCDE, "LEAF": 1}, 0x5_ABCDE005, 1),
    (CMD.CMD_TLBI_NH_ASID, {"VMID": 0x1234, "ASID": 0x5678}, 0x5678_1234_00000011, 0),
    (
        CMD.CMD_TLBI_NH_VA,
        {"VMID": 1, "ASID": 2, "NUM": 31, "SCALE": 0x3F, "LEAF": 1, "TTL": 3, "TG": 1, "ADDRESS": 0x123456789ABCD},
        2 << 48 | 1 << 32 | 0x3F << 20 | 31 << 12 | 0x12,
        0x123456789ABCD << 12 | 1 << 10 | 3 << 8 | 1,
    ),
    (CMD.CMD_ATC_INV, {"STREAMID": 6, "SSV": 1, "SUBSTREAMID": 7, "GLOBAL": 1, "SIZE": 52}, 0x6_00007A40, 52),
    (CMD.CMD_PRI_RESP, {"STREAMID": 6, "PRGINDEX": 0x1FF, "RESP": 2}, 0x6_00000041, 0x21FF),
    (CMD.CMD_RESUME, {"STREAMID": 9, "AC": 1, "STAG": 0xFFFF}, 0x9_00001044, 0xFFFF),
    (
        CMD.CMD_SYNC,
        {"CS": 1, "MSH": 3, "MSIATTR": 0xF, "MSIDATA": 0xCAFE, "MSIADDRESS": 0x1000 >> 2},
        0xCAFE << 32 | 0x0FC0_1046,
        0x1000,
    ),
]


@pytest.mark.parametrize(("opcode", "fields", "low", "high"), VECTORS)
def test_fields_of_a_command_are_where_chapter_4_puts_them(
    opcode: Smmuv3Opcode, fields: dict[str, int], low: int, high: int
) -> None:
    bits = command_bits(opcode, **fields)
    assert (bits & TOP, bits >> 64) == (low, high)
    assert dict(COMMANDS[opcode].decode(bits)).items() >= fields.items()


def test_unknown_field_of_a_command_is_refused() -> None:
    with pytest.raises(SpecError, match="VMID"):
        command_bits(CMD.CMD_SYNC, VMID=1)


# Configuration, 4.3.


def test_cfgi_ste_drops_the_ste_and_its_cds_4_3_1() -> None:
    kinds = frozenset({EntryKind.DEVICE, EntryKind.PROCESS})
    assert only(submit(CMD.CMD_CFGI_STE, STREAMID=SID)) == Invalidation(kinds=kinds, requester=SID)


@pytest.mark.parametrize(("stream", "bits", "dropped"), [(0x23, 0, {0x22, 0x23}), (0x27, 2, set(range(0x20, 0x28)))])
def test_cfgi_ste_range_drops_an_aligned_block_4_3_2(stream: int, bits: int, dropped: set[int]) -> None:
    invalidation = only(submit(CMD.CMD_CFGI_STE_RANGE, STREAMID=stream, RANGE=bits))
    entries = [CachedEntry(kind=EntryKind.DEVICE, requester=number) for number in range(0x100)]
    assert {entry.requester for entry in entries if invalidation.drops(entry)} == dropped


@pytest.mark.parametrize(("bits", "everything"), [(31, True), (15, True), (14, False)])
def test_a_range_of_all_streams_there_are_drops_every_one_4_3_6(bits: int, everything: bool) -> None:
    invalidation = only(engine(stream_id_bits=16).submit(command_bits(CMD.CMD_CFGI_STE_RANGE, STREAMID=5, RANGE=bits)))
    assert (invalidation.requester is None) == everything
    assert EntryKind.LEAF not in invalidation.kinds


def test_cfgi_cd_drops_one_cd_of_one_stream_4_3_3() -> None:
    result = submit(CMD.CMD_CFGI_CD, STREAMID=SID, SUBSTREAMID=3)
    cd = CachedEntry(kind=EntryKind.PROCESS, requester=SID, space=3)
    assert drops(result, cd)
    for other in (
        CachedEntry(kind=EntryKind.PROCESS, requester=SID, space=0),
        CachedEntry(kind=EntryKind.PROCESS, requester=SID + 1, space=3),
        CachedEntry(kind=EntryKind.DEVICE, requester=SID),
    ):
        assert not drops(result, other)
    every = submit(CMD.CMD_CFGI_CD_ALL, STREAMID=SID)
    assert drops(every, cd)
    assert not drops(every, CachedEntry(kind=EntryKind.DEVICE, requester=SID))
    assert not drops(every, CachedEntry(kind=EntryKind.PROCESS, requester=SID + 1, space=3))


def test_cfgi_cd_without_leaf_drops_the_l1cd_of_the_substream_4_3_3() -> None:
    unit = Unit(substream_bits=8, context_format=1)
    unit.cd.describe(65, unit.tree)
    access = Access(requester=SID, iova=IOVA, length=4, kind=READ, pasid=65)
    (l1cd,) = (step.cached for step in unit.engine().explain(access).steps if step.what == "L1CD [0x1]")
    assert l1cd is not None
    # Any of SubstreamIDs 64 to 127, which it serves, drops it.
    for substream, dropped in ((63, False), (64, True), (65, True), (127, True), (128, False)):
        for leaf in (0, 1):
            result = submit(CMD.CMD_CFGI_CD, STREAMID=SID, SUBSTREAMID=substream, LEAF=leaf)
            assert drops(result, l1cd) is (dropped and not leaf), (substream, leaf)
    assert not drops(submit(CMD.CMD_CFGI_CD, STREAMID=SID + 1, SUBSTREAMID=65), l1cd)
    assert drops(submit(CMD.CMD_CFGI_CD_ALL, STREAMID=SID), l1cd)
    assert drops(submit(CMD.CMD_CFGI_STE, STREAMID=SID), l1cd)


# TLB, 4.4.


def leaf(
    address: int = IOVA, *, space: int | None = ASID, stage: int = 1, is_global: bool = False, domain: int = VMID
) -> CachedEntry:
    return CachedEntry(
        kind=EntryKind.LEAF,
        domain=domain,
        space=None if is_global else space,
        stage=stage,
        first=address,
        last=address + 0xFFF,
        is_global=is_global,
    )


def drops(result: CommandResult, entry: CachedEntry) -> bool:
    assert result.error is None
    return any(invalidation.drops(entry) for invalidation in result.invalidations)


def test_tlbi_nh_all_drops_stage_1_of_a_vmid_4_4_2_1() -> None:
    result = submit(CMD.CMD_TLBI_NH_ALL, VMID=VMID)
    assert drops(result, leaf())
    assert drops(result, leaf(is_global=True))
    assert not drops(result, leaf(domain=VMID + 1))
    assert not drops(result, leaf(stage=2, space=None))


def test_tlbi_nh_asid_spares_global_entries_4_4_2_2() -> None:
    result = submit(CMD.CMD_TLBI_NH_ASID, VMID=VMID, ASID=ASID)
    assert drops(result, leaf())
    for other in (leaf(is_global=True), leaf(space=ASID + 1), leaf(domain=0), leaf(stage=2, space=None)):
        assert not drops(result, other)


def test_tlbi_nh_va_drops_global_entries_of_the_address_4_4_2_4() -> None:
    result = submit(CMD.CMD_TLBI_NH_VA, VMID=VMID, ASID=ASID, ADDRESS=IOVA >> 12)
    assert drops(result, leaf())
    assert drops(result, leaf(is_global=True))
    assert not drops(result, leaf(space=ASID + 1))
    assert not drops(result, leaf(IOVA + 0x1000))


def test_tlbi_nh_vaa_drops_every_asid_4_4_2_3() -> None:
    result = submit(CMD.CMD_TLBI_NH_VAA, VMID=VMID, ADDRESS=IOVA >> 12)
    assert drops(result, leaf(space=ASID + 1))
    assert not drops(result, leaf(domain=1))


def test_leaf_spares_table_entries_4_4_2_4() -> None:
    table = CachedEntry(kind=EntryKind.TABLE, domain=VMID, space=ASID, stage=1, first=0, last=TOP)
    for value in (0, 1):
        result = submit(CMD.CMD_TLBI_NH_VA, VMID=VMID, ASID=ASID, ADDRESS=IOVA >> 12, LEAF=value)
        assert drops(result, table) is (not value)
        assert drops(result, leaf())


def test_tlbi_s2_ipa_drops_stage_2_of_the_address_4_4_3_1() -> None:
    result = submit(CMD.CMD_TLBI_S2_IPA, VMID=VMID, ADDRESS=IPA >> 12)
    assert drops(result, leaf(IPA, stage=2, space=None))
    assert not drops(result, leaf(IPA))
    assert not drops(result, leaf(IPA + 0x1000, stage=2, space=None))


def test_tlbi_s12_vmall_drops_both_stages_of_a_vmid_4_4_3_2() -> None:
    result = submit(CMD.CMD_TLBI_S12_VMALL, VMID=VMID)
    assert drops(result, leaf())
    assert drops(result, leaf(stage=2, space=None))
    assert not drops(result, leaf(domain=1))


def test_tlbi_nsnh_all_drops_every_vmid_4_4_4_1() -> None:
    result = submit(CMD.CMD_TLBI_NSNH_ALL)
    assert drops(result, leaf(domain=7))
    assert drops(result, leaf(stage=2, space=None))
    assert not drops(result, CachedEntry(kind=EntryKind.DEVICE, requester=SID))


def test_vmid_is_not_compared_without_stage_2_4_4_2() -> None:
    smmu = engine(stages=frozenset({1}))
    result = smmu.submit(command_bits(CMD.CMD_TLBI_NH_ALL, VMID=VMID))
    assert drops(result, leaf(domain=0))


def test_vmid_wildcards_widen_an_invalidation_3_17_6() -> None:
    smmu = engine({"cr0": ENABLED | 2 << 6}, VMW=1)
    result = smmu.submit(command_bits(CMD.CMD_TLBI_NH_ASID, VMID=0x12, ASID=ASID))
    assert {domain for domain in range(0x20) if drops(result, leaf(domain=domain))} == {0x10, 0x11, 0x12, 0x13}


@pytest.mark.parametrize(
    ("fields", "first", "size"),
    [
        ({}, 0x1234_5000, 0x1000),
        ({"TG": 1, "TTL": 3}, 0x1234_5000, 0x1000),
        ({"TG": 1, "NUM": 3}, 0x1234_5000, 0x4000),
        ({"TG": 2, "NUM": 0, "SCALE": 1}, 0x1234_5000, 0x8000),
        ({"TG": 3, "NUM": 31, "SCALE": 5}, 0x1234_5000, 0x10000 << 10),
    ],
)
def test_range_is_num_plus_1_times_2_to_scale_granules_4_4_1_1(fields: dict[str, int], first: int, size: int) -> None:
    invalidation = only(submit(CMD.CMD_TLBI_NH_VA, ADDRESS=first >> 12, **fields))
    assert (invalidation.first, invalidation.last) == (first, first + size - 1)


def test_range_does_not_wrap_4_4_1_1() -> None:
    invalidation = only(submit(CMD.CMD_TLBI_NH_VA, ADDRESS=(1 << 52) - 1, TG=1, NUM=31, SCALE=39))
    assert invalidation.last == TOP


@pytest.mark.parametrize(("ds", "scale", "counts"), [(0, 0x21, 1), (1, 0x21, 0x21), (1, 40, 39), (1, 63, 39)])
def test_scale_has_5_bits_without_ds_and_is_39_at_most_4_4_1_1(ds: int, scale: int, counts: int) -> None:
    command = command_bits(CMD.CMD_TLBI_NH_VA, ADDRESS=0, TG=1, NUM=1, SCALE=scale)
    assert only(engine(DS=ds).submit(command)).last == (2 << counts + 12) - 1


def test_range_fields_are_reserved_without_ril_4_4_1_1() -> None:
    command = command_bits(CMD.CMD_TLBI_NH_VA, ADDRESS=1, TG=1, NUM=31)
    assert only(engine(RIL=0).submit(command)).last == 0x1FFF


@pytest.mark.parametrize(
    ("fields", "pages", "tables"),
    [
        ({}, {(12, 1), (12, 2), (14, 1)}, {(12, 2), (12, 3), (14, 2)}),
        ({"TG": 1, "NUM": 1}, {(12, 1), (12, 2)}, {(12, 2), (12, 3)}),
        ({"TG": 1, "TTL": 3}, {(12, 1)}, {(12, 2), (12, 3)}),
        ({"TG": 1, "TTL": 2}, {(12, 2)}, {(12, 3)}),
        ({"TG": 2, "TTL": 3}, {(14, 1)}, {(14, 2)}),
        # Without DS this level is none, and all are meant.
        ({"TG": 2, "TTL": 1, "NUM": 1}, {(14, 1)}, {(14, 2)}),
    ],
)
def test_entries_of_other_granules_and_levels_may_stay_4_4_1_1(
    fields: dict[str, int], pages: set[tuple[int, int]], tables: set[tuple[int, int]]
) -> None:
    result = submit(CMD.CMD_TLBI_NH_VA, VMID=VMID, ASID=ASID, ADDRESS=IOVA >> 12, **fields)

    def dropped(kind: EntryKind, *tags: tuple[int, int]) -> set[tuple[int, int]]:
        return {each for each in tags if drops(result, replace(leaf(), kind=kind, granule=each[0], level=each[1]))}

    assert dropped(EntryKind.LEAF, (12, 1), (12, 2), (14, 1)) == pages
    assert dropped(EntryKind.TABLE, (12, 2), (12, 3), (14, 2)) == tables


def test_without_ril_every_granule_goes_4_4_1_1() -> None:
    assert only(engine(RIL=0).submit(command_bits(CMD.CMD_TLBI_NH_VA, TG=1, TTL=3))).granule is None


# EL2, 4.4.2.7 to 4.4.2.10.


def trace(unit: Unit, kinds: set[EntryKind]) -> list[CachedEntry]:
    steps: tuple[Step, ...] = unit.engine().explain(Access(requester=SID, iova=IOVA, length=4, kind=READ)).steps
    return [step.cached for step in steps if step.cached is not None and step.cached.kind in kinds]


@pytest.mark.parametrize("e2h", [0, 1])
def test_el2_entries_are_dropped_by_el2_commands_alone(e2h: int) -> None:
    unit = Unit(caps={"HYP": 1}, registers={"cr2": e2h * CR2["E2H"].mask})
    unit.tables.set_fields(SID, {"STRW": 0b10})
    (entry,) = trace(unit, {EntryKind.LEAF})
    smmu = unit.engine()
    page = IOVA >> 12
    for opcode, fields, dropped in (
        (CMD.CMD_TLBI_EL2_ALL, {}, True),
        (CMD.CMD_TLBI_EL2_VAA, {"ADDRESS": page}, True),
        (CMD.CMD_TLBI_EL2_VA, {"ADDRESS": page, "ASID": ASID}, True),
        (CMD.CMD_TLBI_EL2_VA, {"ADDRESS": page, "ASID": 1}, not e2h),
        (CMD.CMD_TLBI_EL2_ASID, {"ASID": ASID}, bool(e2h)),
        (CMD.CMD_TLBI_NH_ALL, {"VMID": 0}, False),
        (CMD.CMD_TLBI_NH_VAA, {"VMID": VMID, "ADDRESS": page}, False),
    ):
        result = smmu.submit(command_bits(opcode, **fields))
        assert drops(result, entry) is dropped, opcode
        if dropped:
            # 4.4.2.7 to 4.4.2.10: nothing of EL1 goes with it.
            assert not drops(result, leaf()), opcode


# ATS, faults, prefetches.


def test_atc_inv_names_an_aligned_span_4_5_1() -> None:
    invalidation = only(submit(CMD.CMD_ATC_INV, STREAMID=SID, SSV=1, SUBSTREAMID=4, ADDRESS=0x12345, SIZE=4))
    assert invalidation.kinds == {EntryKind.DEVICE_TLB}
    assert (invalidation.requester, invalidation.space) == (SID, 4)
    assert (invalidation.first, invalidation.last) == (0x1234_0000, 0x1234_FFFF)
    assert not invalidation.globals_too
    assert only(submit(CMD.CMD_ATC_INV, STREAMID=SID, SSV=1, GLOBAL=1)).globals_too


def test_atc_inv_of_size_52_names_everything_4_5_1() -> None:
    invalidation = only(submit(CMD.CMD_ATC_INV, STREAMID=SID, SUBSTREAMID=4, SIZE=52))
    assert (invalidation.first, invalidation.last, invalidation.space) == (None, None, None)


def test_atc_inv_is_ignored_while_the_smmu_is_disabled_4_5_1() -> None:
    command = command_bits(CMD.CMD_ATC_INV, STREAMID=SID)
    assert engine({"cr0": 0}).submit(command) == CommandResult()


@pytest.mark.parametrize(
    "opcode",
    [CMD.CMD_PREFETCH_CONFIG, CMD.CMD_PREFETCH_ADDR, CMD.CMD_PRI_RESP, CMD.CMD_RESUME, CMD.CMD_STALL_TERM],
)
def test_command_without_a_visible_effect_is_taken(opcode: Smmuv3Opcode) -> None:
    assert submit(opcode, STREAMID=SID) == CommandResult()


# CMD_SYNC, 4.7.3.


@pytest.mark.parametrize("signal", [0b00, 0b10])
def test_sync_without_an_interrupt_writes_nothing_4_7_3(signal: int) -> None:
    assert submit(CMD.CMD_SYNC, CS=signal, MSIADDRESS=0x400, MSIDATA=1) == CommandResult()


def test_sync_writes_its_message_4_7_3() -> None:
    result = submit(CMD.CMD_SYNC, CS=0b01, MSIADDRESS=0x1234_5678 >> 2, MSIDATA=0xAABBCCDD)
    assert result.writes == (MemoryWrite(0x1234_5678, b"\xdd\xcc\xbb\xaa"),)
    assert submit(CMD.CMD_SYNC, CS=0b01, MSIDATA=1) == CommandResult()
    assert engine(MSI=0).submit(command_bits(CMD.CMD_SYNC, CS=1, MSIADDRESS=4)) == CommandResult()


def test_message_of_a_sync_is_truncated_to_the_oas_3_4_3() -> None:
    smmu = engine(address_bits=40)
    result = smmu.submit(command_bits(CMD.CMD_SYNC, CS=1, MSIADDRESS=(1 << 45 | 1 << 40 | 0x1000) >> 2))
    assert result.writes[0].address == 0x1000


# CERROR_ILL, 4.1.3.

ILLEGAL = [
    (CMD.CMD_PREFETCH_CONFIG, {"SSEC": 1}, {}),
    (CMD.CMD_CFGI_STE, {"SSEC": 1}, {}),
    (CMD.CMD_CFGI_STE_RANGE, {"SSEC": 1}, {}),
    (CMD.CMD_CFGI_CD, {"SSEC": 1}, {}),
    (CMD.CMD_CFGI_CD_ALL, {"SSEC": 1}, {}),
    (CMD.CMD_RESUME, {"SSEC": 1}, {}),
    (CMD.CMD_STALL_TERM, {"SSEC": 1}, {}),
    (CMD.CMD_CFGI_CD, {}, {"stages": frozenset({2})}),
    (CMD.CMD_CFGI_CD_ALL, {}, {"stages": frozenset({2})}),
    (CMD.CMD_TLBI_NH_ALL, {}, {"stages": frozenset({2})}),
    (CMD.CMD_TLBI_NH_ASID, {}, {"stages": frozenset({2})}),
    (CMD.CMD_TLBI_NH_VA, {}, {"stages": frozenset({2})}),
    (CMD.CMD_TLBI_NH_VAA, {}, {"stages": frozenset({2})}),
    (CMD.CMD_TLBI_EL2_ALL, {}, {"HYP": 0}),
    (CMD.CMD_TLBI_EL2_ASID, {}, {"HYP": 0}),
    (CMD.CMD_TLBI_EL2_VA, {}, {"HYP": 0}),
    (CMD.CMD_TLBI_EL2_VAA, {}, {"stages": frozenset({2})}),
    (CMD.CMD_TLBI_S2_IPA, {}, {"stages": frozenset({1})}),
    (CMD.CMD_TLBI_S12_VMALL, {}, {"stages": frozenset({1})}),
    (CMD.CMD_ATC_INV, {}, {"ATS": 0}),
    (CMD.CMD_PRI_RESP, {}, {"PRI": 0}),
    (CMD.CMD_PRI_RESP, {"RESP": 3}, {}),
    (CMD.CMD_RESUME, {}, {"STALL_MODEL": 1}),
    (CMD.CMD_STALL_TERM, {}, {"STALL_MODEL": 1}),
    (CMD.CMD_SYNC, {"CS": 3}, {}),
    (CMD.CMD_TLBI_NH_VA, {"TG": 1}, {}),
    (CMD.CMD_TLBI_NH_VAA, {"TG": 3}, {}),
    (CMD.CMD_TLBI_S2_IPA, {"TG": 2, "TTL": 1}, {}),
]


@pytest.mark.parametrize(("opcode", "fields", "caps"), ILLEGAL)
def test_command_that_is_not_allowed_is_refused_4_1_3(
    opcode: Smmuv3Opcode, fields: dict[str, int], caps: dict[str, Any]
) -> None:
    result = engine(**caps).submit(command_bits(opcode, **fields))
    assert result.error is Smmuv3CommandError.CERROR_ILL
    assert result.invalidations == ()
    assert result.writes == ()


def test_16_kb_range_with_level_1_is_legal_with_ds_4_4_1_1() -> None:
    result = engine(DS=1, VAX=1).submit(command_bits(CMD.CMD_TLBI_S2_IPA, TG=2, TTL=1))
    assert result.error is None


def test_unknown_and_secure_opcodes_are_refused_4_1_1() -> None:
    smmu = engine()
    taken = {number for number in range(256) if smmu.submit(number).error is None}
    assert taken == {int(opcode) for opcode in Smmuv3Opcode}


@given(command=st.integers(0, (1 << 128) - 1), known=st.sampled_from(list(Smmuv3Opcode)))
def test_any_128_bits_are_a_command(command: int, known: Smmuv3Opcode) -> None:
    smmu = engine()
    for bits in (command, command & ~0xFF | known):
        assert isinstance(smmu.submit(bits), CommandResult)
