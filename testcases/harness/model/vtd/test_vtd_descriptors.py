"""Invalidation descriptors: their bits, which are refused, and what they drop (VT-d 6.5.2, revision 5.10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.access import MemoryWrite
from harness.model.engine import CommandResult, MsiWrite
from harness.model.invalidation import CachedEntry, EntryKind, Invalidation
from harness.model.memory import SparseMemory
from harness.model.vtd import VtdEngine
from harness.model.vtd.invalidation.commands import IQA_REG, VtdQueueError, execute
from harness.model.vtd.invalidation.descriptors import (
    DESCRIPTORS,
    DescriptorType,
    Granularity,
    PasidCacheGranularity,
    PasidIotlbGranularity,
    ResponseCode,
    build_descriptor,
    descriptor_type,
)
from harness.model.vtd.invalidation.scopes import device_tlb_pages, masked_pages
from harness.model.vtd.register_layouts import CAP_REG, ECAP_REG, RTADDR_REG, TranslationTableMode
from harness.model.vtd.registers import VtdRegisters

LEGACY, SCALABLE, ABORT = TranslationTableMode.LEGACY, TranslationTableMode.SCALABLE, TranslationTableMode.ABORT_DMA
ALL = {"QI": 1, "DT": 1, "IR": 1, "MHMV": 15, "PRS": 1, "DIT": 1, "PDS": 1, "SMTS": 1, "ADMS": 1, "HPTS": 1}
NARROW = [kind for kind in DescriptorType if kind <= DescriptorType.WAIT]
WIDE = [kind for kind in DescriptorType if kind > DescriptorType.WAIT]
SID, DID, PASID = 0x0128, 0x77, 0x12345
# A value of each type that is carried out where every feature is there.
GOOD: Mapping[DescriptorType, Mapping[str, int]] = {
    DescriptorType.CONTEXT_CACHE: {"G": Granularity.GLOBAL},
    DescriptorType.IOTLB: {"G": Granularity.GLOBAL},
    DescriptorType.DEVICE_TLB: {"SID": SID},
    DescriptorType.INTERRUPT_ENTRY_CACHE: {},
    DescriptorType.WAIT: {"FN": 1},
    DescriptorType.PASID_IOTLB: {"G": PasidIotlbGranularity.PASID},
    DescriptorType.PASID_CACHE: {"G": PasidCacheGranularity.GLOBAL},
    DescriptorType.PASID_DEVICE_TLB: {"SID": SID},
    DescriptorType.PAGE_GROUP_RESPONSE: {"RC": ResponseCode.SUCCESS},
    DescriptorType.HPT_CACHE: {"G": Granularity.GLOBAL},
}


GOOD_IOTLB = build_descriptor(DescriptorType.IOTLB, GOOD[DescriptorType.IOTLB])


def unit(
    mode: TranslationTableMode = SCALABLE,
    *,
    wide: bool = True,
    ecap: dict[str, int] | None = None,
    cap: dict[str, int] | None = None,
) -> VtdRegisters:
    caps = {"ND": 6, "PSI": 1, "MAMV": 18, "MGAW": 47, "SAGAW": 0b100, **(cap or {})}
    return VtdRegisters(
        rtaddr=RTADDR_REG.encode({"TTM": mode}),
        cap=CAP_REG.encode(caps),
        ecap=ECAP_REG.encode({**ALL, **(ecap or {})}),
        gsts=0,
        iqa=IQA_REG.encode({"DW": int(wide)}),
        host_address_width=46,
    )


def run(kind: DescriptorType, values: Mapping[str, int], registers: VtdRegisters | None = None) -> CommandResult:
    return execute(registers or unit(), build_descriptor(kind, values)).result


def dropped(result: CommandResult, entry: CachedEntry) -> bool:
    assert result.error is None
    return any(invalidation.drops(entry) for invalidation in result.invalidations)


def page(first: int, *, stage: int = 2, domain: int = DID, space: int | None = None) -> CachedEntry:
    kind = EntryKind.LEAF
    return CachedEntry(kind=kind, stage=stage, domain=domain, space=space, first=first, last=first + 0xFFF)


def table(first: int, *, stage: int = 2, domain: int = DID, space: int | None = None) -> CachedEntry:
    kind = EntryKind.TABLE
    return CachedEntry(kind=kind, stage=stage, domain=domain, space=space, first=first, last=first + 0x1F_FFFF)


# The bits, written down by hand from the figures of 6.5.2 and 7.6.1.


@pytest.mark.parametrize(
    ("kind", "values", "bits"),
    [
        (
            DescriptorType.CONTEXT_CACHE,
            {"G": 3, "DID": 0xD1D0, "SID": 0x5A5B, "FM": 2},
            0x0002_5A5B_D1D0_0031,
        ),
        (
            DescriptorType.IOTLB,
            {"G": 3, "DW": 1, "DR": 1, "DID": 0xD1D0, "AM": 9, "IH": 1, "ADDR": 0x123_4567_8000},
            0x0012_3456_7800_0049 << 64 | 0xD1D0_00F2,
        ),
        (
            DescriptorType.DEVICE_TLB,
            {"PFSID_LOW": 0xB, "PFSID_HIGH": 0x5A5, "MIP": 0x1F, "SID": 0xABCD, "S": 1, "ADDR": 0x1F},
            0x1_F001 << 64 | 0x5A50_ABCD_001F_B003,
        ),
        (DescriptorType.INTERRUPT_ENTRY_CACHE, {"G": 1, "IM": 5, "IIDX": 0xBEEF}, 0xBEEF_2800_0014),
        (
            DescriptorType.WAIT,
            {"IF": 1, "SW": 1, "FN": 1, "PD": 1, "DATA": 0xCAFE_F00D, "ADDR": 0x1234_5678 >> 2},
            0x1234_5678 << 64 | 0xCAFE_F00D_0000_00F5,
        ),
        (
            DescriptorType.PASID_IOTLB,
            {"G": 3, "DID": 0xD1D0, "PASID": 0xABCDE, "AM": 63, "IH": 1, "ADDR": 1},
            0x107F << 64 | 0x000A_BCDE_D1D0_0036,
        ),
        (DescriptorType.PASID_CACHE, {"G": 1, "DID": 0xD1D0, "PASID": 0xABCDE}, 0x000A_BCDE_D1D0_0017),
        (
            DescriptorType.PASID_DEVICE_TLB,
            {"MIP": 1, "PFSID_LOW": 8, "PFSID_HIGH": 1, "SID": 0x5A5B, "PASID": 0xABCDE, "GI": 1, "S": 1, "ADDR": 2},
            0x2801 << 64 | 0x001A_BCDE_5A5B_8018,
        ),
        (
            DescriptorType.PAGE_GROUP_RESPONSE,
            {"PP": 1, "RC": 0xF, "RID": 0x5A5B, "PASID": 0xABCDE, "PRGI": 0x1FF},
            0xFF8 << 64 | 0x000A_BCDE_5A5B_F019,
        ),
        (
            DescriptorType.HPT_CACHE,
            {"G": 3, "HPTDID": 0xD1D0, "AM": 1, "IH": 3, "ADDR": 1},
            0x10C1 << 64 | 0xD1D0_003A,
        ),
    ],
)
def test_descriptor_has_its_fields_where_the_figures_have_them(
    kind: DescriptorType, values: dict[str, int], bits: int
) -> None:
    assert build_descriptor(kind, values) == bits
    assert descriptor_type(bits) is kind


@pytest.mark.parametrize("kind", DescriptorType)
def test_descriptor_names_each_of_its_256_bits_once(kind: DescriptorType) -> None:
    masks = [entry.mask for entry in DESCRIPTORS[kind].fields]
    assert sum(masks) == (1 << 256) - 1
    assert sum(mask.bit_count() for mask in masks) == 256


def test_type_is_bits_11_9_and_3_0_together_6_5_2() -> None:
    assert descriptor_type(0b001 << 9 | 0x2) is None
    assert descriptor_type(0b111 << 9 | 0xF) is None
    assert descriptor_type(0) is None


# Table 26 of 6.5.2.11: which types there are in each mode and width.


@pytest.mark.parametrize("kind", DescriptorType)
def test_scalable_mode_has_all_types_in_256_bits(kind: DescriptorType) -> None:
    assert run(kind, GOOD[kind]).error is None


@pytest.mark.parametrize("kind", DescriptorType)
def test_abort_dma_mode_has_all_types_in_256_bits(kind: DescriptorType) -> None:
    assert run(kind, GOOD[kind], unit(ABORT)).error is None


@pytest.mark.parametrize("mode", [SCALABLE, ABORT])
@pytest.mark.parametrize("kind", NARROW)
def test_128_bit_descriptors_outside_of_legacy_mode_are_of_invalid_width(
    kind: DescriptorType, mode: TranslationTableMode
) -> None:
    assert run(kind, GOOD[kind], unit(mode, wide=False)).error is VtdQueueError.INVALID_WIDTH


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("kind", NARROW)
def test_legacy_mode_has_types_1_to_5_in_both_widths(kind: DescriptorType, wide: bool) -> None:
    assert run(kind, GOOD[kind], unit(LEGACY, wide=wide)).error is None


@pytest.mark.parametrize("kind", WIDE)
def test_legacy_mode_has_no_types_above_5(kind: DescriptorType) -> None:
    assert run(kind, GOOD[kind], unit(LEGACY)).error is VtdQueueError.INVALID_TYPE


def test_256_bit_descriptors_without_scalable_or_abort_mode_are_of_invalid_width_11_4_9_9() -> None:
    without = {"SMTS": 0, "ADMS": 0}
    result = run(DescriptorType.IOTLB, {"G": Granularity.GLOBAL}, unit(LEGACY, ecap=without))
    assert result.error is VtdQueueError.INVALID_WIDTH
    for there in ("SMTS", "ADMS"):
        registers = unit(LEGACY, ecap={**without, there: 1})
        assert run(DescriptorType.IOTLB, {"G": Granularity.GLOBAL}, registers).error is None


@pytest.mark.parametrize(
    ("mode", "ecap"),
    [(TranslationTableMode.RESERVED, {}), (SCALABLE, {"SMTS": 0}), (ABORT, {"ADMS": 0})],
)
def test_mode_that_is_not_there_refuses_every_descriptor_11_4_9_9(
    mode: TranslationTableMode, ecap: dict[str, int]
) -> None:
    for kind in DescriptorType:
        assert run(kind, GOOD[kind], unit(mode, ecap=ecap)).error is VtdQueueError.INVALID_MODE


@pytest.mark.parametrize("bits", [0x0, 0xB, 0xF, 0x202, 0xE05])
def test_unknown_type_is_invalid(bits: int) -> None:
    assert execute(unit(), bits).result.error is VtdQueueError.INVALID_TYPE


@pytest.mark.parametrize(
    ("kind", "capability"),
    [
        (DescriptorType.DEVICE_TLB, "DT"),
        (DescriptorType.PASID_DEVICE_TLB, "DT"),
        (DescriptorType.PAGE_GROUP_RESPONSE, "PRS"),
        (DescriptorType.HPT_CACHE, "HPTS"),
    ],
)
def test_type_of_a_feature_that_is_not_there_is_invalid(kind: DescriptorType, capability: str) -> None:
    assert run(kind, GOOD[kind], unit(ecap={capability: 0})).error is VtdQueueError.INVALID_TYPE


# Reserved fields.


@pytest.mark.parametrize("kind", DescriptorType)
def test_each_reserved_bit_of_each_type_is_refused(kind: DescriptorType) -> None:
    good = build_descriptor(kind, GOOD[kind])
    for bit in range(256):
        if DESCRIPTORS[kind].reserved >> bit & 1:
            assert execute(unit(), good | 1 << bit).result.error is VtdQueueError.RESERVED_FIELD, bit


@pytest.mark.parametrize("kind", DescriptorType)
def test_no_other_bit_but_the_type_makes_a_reserved_field_error_without_need(kind: DescriptorType) -> None:
    free = [entry for entry in DESCRIPTORS[kind].fields if not entry.name.startswith(("RSVD", "TYPE", "G", "IM", "AM"))]
    values = {entry.name: (1 << entry.width) - 1 for entry in free}
    assert run(kind, {**GOOD[kind], **values}).error is None


@pytest.mark.parametrize(
    ("kind", "field", "capability"),
    [
        (DescriptorType.WAIT, "PD", "PDS"),
        (DescriptorType.DEVICE_TLB, "PFSID_LOW", "DIT"),
        (DescriptorType.DEVICE_TLB, "PFSID_HIGH", "DIT"),
        (DescriptorType.PASID_DEVICE_TLB, "PFSID_LOW", "DIT"),
        (DescriptorType.PASID_DEVICE_TLB, "PFSID_HIGH", "DIT"),
    ],
)
def test_field_of_a_feature_that_is_not_there_is_reserved(kind: DescriptorType, field: str, capability: str) -> None:
    values = {**GOOD[kind], field: 1}
    assert run(kind, values).error is None
    assert run(kind, values, unit(ecap={capability: 0})).error is VtdQueueError.RESERVED_FIELD


@pytest.mark.parametrize(
    ("kind", "granularity"),
    [
        (DescriptorType.CONTEXT_CACHE, Granularity.RESERVED),
        (DescriptorType.IOTLB, Granularity.RESERVED),
        (DescriptorType.HPT_CACHE, Granularity.RESERVED),
        (DescriptorType.PASID_CACHE, PasidCacheGranularity.RESERVED),
        (DescriptorType.PASID_IOTLB, PasidIotlbGranularity.RESERVED_0),
        (DescriptorType.PASID_IOTLB, PasidIotlbGranularity.RESERVED_1),
    ],
)
def test_reserved_granularity_is_refused(kind: DescriptorType, granularity: int) -> None:
    assert run(kind, {**GOOD[kind], "G": granularity}).error is VtdQueueError.RESERVED_FIELD


def test_page_selective_iotlb_invalidation_needs_psi_6_5_2_3() -> None:
    values = {"G": Granularity.SELECTIVE}
    assert run(DescriptorType.IOTLB, values).error is None
    assert run(DescriptorType.IOTLB, values, unit(cap={"PSI": 0})).error is VtdQueueError.RESERVED_FIELD


def test_address_mask_goes_up_to_mamv_and_only_where_it_matters() -> None:
    def mask(address_mask: int, granularity: Granularity) -> object:
        return run(DescriptorType.IOTLB, {"G": granularity, "AM": address_mask}, unit(cap={"MAMV": 9})).error

    assert mask(9, Granularity.SELECTIVE) is None
    assert mask(10, Granularity.SELECTIVE) is VtdQueueError.RESERVED_FIELD
    assert mask(10, Granularity.DOMAIN) is None


def test_pasid_based_invalidation_takes_any_mask_whatever_mamv_and_psi_say_11_4_2() -> None:
    values = {"G": PasidIotlbGranularity.PAGE, "AM": 63}
    assert run(DescriptorType.PASID_IOTLB, values, unit(cap={"MAMV": 0, "PSI": 0})).error is None


def test_index_mask_goes_up_to_mhmv() -> None:
    def mask(index_mask: int) -> object:
        return run(DescriptorType.INTERRUPT_ENTRY_CACHE, {"G": 1, "IM": index_mask}, unit(ecap={"MHMV": 4})).error

    assert mask(4) is None
    assert mask(5) is VtdQueueError.RESERVED_FIELD


@pytest.mark.parametrize("wide", [False, True])
def test_engine_takes_a_descriptor_as_bits_or_as_the_bytes_in_the_queue(wide: bool) -> None:
    engine = VtdEngine(unit(LEGACY, wide=wide), SparseMemory())
    bits = build_descriptor(DescriptorType.IOTLB, {"G": Granularity.DOMAIN, "DID": DID})
    result = engine.submit(bits)
    assert dropped(result, page(0))
    assert engine.submit(bits.to_bytes(32 if wide else 16, "little")) == result


@pytest.mark.parametrize(("wide", "size"), [(False, 32), (False, 15), (True, 16), (True, 0)])
def test_bytes_of_another_width_are_no_descriptor(wide: bool, size: int) -> None:
    with pytest.raises(SpecError, match="no command of"):
        execute(unit(LEGACY, wide=wide), bytes(size))


@pytest.mark.parametrize("bits", [-1, 1 << 128])
def test_more_bits_than_the_queue_is_wide_are_no_descriptor(bits: int) -> None:
    with pytest.raises(SpecError, match="128 bits"):
        execute(unit(LEGACY, wide=False), bits)


# What they drop: context-cache (6.5.2.1).

CONTEXT = CachedEntry(kind=EntryKind.DEVICE, requester=SID, domain=DID)


def test_global_context_cache_invalidation_drops_every_context() -> None:
    result = run(DescriptorType.CONTEXT_CACHE, {"G": Granularity.GLOBAL, "DID": 1, "SID": 1}, unit(LEGACY))
    assert dropped(result, CONTEXT)
    assert not dropped(result, page(0))


def test_domain_selective_context_cache_invalidation_spares_other_domains_in_legacy_mode_only() -> None:
    values = {"G": Granularity.DOMAIN, "DID": DID}
    other = CachedEntry(kind=EntryKind.DEVICE, requester=SID, domain=DID + 1)
    assert dropped(run(DescriptorType.CONTEXT_CACHE, values, unit(LEGACY)), CONTEXT)
    assert not dropped(run(DescriptorType.CONTEXT_CACHE, values, unit(LEGACY)), other)
    assert dropped(run(DescriptorType.CONTEXT_CACHE, values, unit(SCALABLE)), other)


@pytest.mark.parametrize(("mask", "ids"), [(0, {0x128}), (1, {0x128, 0x12C}), (2, {0x128, 0x12A, 0x12C, 0x12E})])
def test_function_mask_covers_phantom_functions_table_21(mask: int, ids: set[int]) -> None:
    values = {"G": Granularity.SELECTIVE, "DID": DID, "SID": SID, "FM": mask}
    result = run(DescriptorType.CONTEXT_CACHE, values, unit(LEGACY))
    entries = {rid: CachedEntry(kind=EntryKind.DEVICE, requester=rid, domain=DID) for rid in range(0x100, 0x180)}
    assert {rid for rid, entry in entries.items() if dropped(result, entry)} == ids


def test_function_mask_3_covers_all_eight_functions() -> None:
    values = {"G": Granularity.SELECTIVE, "DID": DID, "SID": SID, "FM": 3}
    result = run(DescriptorType.CONTEXT_CACHE, values, unit(LEGACY))
    entries = {rid: CachedEntry(kind=EntryKind.DEVICE, requester=rid, domain=DID) for rid in range(0x100, 0x180)}
    assert {rid for rid, entry in entries.items() if dropped(result, entry)} == set(range(0x128, 0x130))


def test_device_selective_context_cache_invalidation_needs_the_right_domain_in_legacy_mode_only() -> None:
    values = {"G": Granularity.SELECTIVE, "DID": DID + 1, "SID": SID}
    assert not dropped(run(DescriptorType.CONTEXT_CACHE, values, unit(LEGACY)), CONTEXT)
    assert dropped(run(DescriptorType.CONTEXT_CACHE, values, unit(SCALABLE)), CONTEXT)


def test_source_id_matches_in_any_segment() -> None:
    values = {"G": Granularity.SELECTIVE, "DID": DID, "SID": SID}
    entry = CachedEntry(kind=EntryKind.DEVICE, requester=0x2_0000 | SID, domain=DID)
    assert dropped(run(DescriptorType.CONTEXT_CACHE, values, unit(LEGACY)), entry)


def test_domain_id_bits_above_nd_are_ignored() -> None:
    values = {"G": Granularity.DOMAIN, "DID": 0xFF00 | DID}
    assert dropped(run(DescriptorType.IOTLB, values, unit(cap={"ND": 2})), page(0))
    assert not dropped(run(DescriptorType.IOTLB, values), page(0))


# PASID-cache (6.5.2.2).


def test_pasid_cache_granularities() -> None:
    same = CachedEntry(kind=EntryKind.PROCESS, requester=SID, domain=DID, space=PASID)
    other_pasid = CachedEntry(kind=EntryKind.PROCESS, requester=SID, domain=DID, space=PASID + 1)
    other_domain = CachedEntry(kind=EntryKind.PROCESS, requester=SID, domain=DID + 1, space=PASID)
    spared = {
        PasidCacheGranularity.GLOBAL: set(),
        PasidCacheGranularity.DOMAIN: {other_domain},
        PasidCacheGranularity.PASID: {other_pasid, other_domain},
    }
    for granularity, expected in spared.items():
        result = run(DescriptorType.PASID_CACHE, {"G": granularity, "DID": DID, "PASID": PASID})
        assert {entry for entry in (same, other_pasid, other_domain) if not dropped(result, entry)} == expected
        assert not dropped(result, CONTEXT)


# IOTLB (6.5.2.3, table 23).


def test_global_iotlb_invalidation_drops_all_translations_and_nothing_else() -> None:
    result = run(DescriptorType.IOTLB, {"G": Granularity.GLOBAL, "DID": 1})
    for entry in (page(0), table(0), page(0, stage=1, space=PASID), table(0, stage=1, space=PASID)):
        assert dropped(result, entry)
    assert not dropped(result, CONTEXT)
    assert not dropped(result, CachedEntry(kind=EntryKind.DEVICE_TLB, requester=SID, first=0, last=0xFFF))


def test_domain_selective_iotlb_invalidation_drops_all_stages_of_its_domain() -> None:
    result = run(DescriptorType.IOTLB, {"G": Granularity.DOMAIN, "DID": DID})
    for entry in (page, table):
        for stage in (1, 2):
            assert dropped(result, entry(0, stage=stage, space=PASID))
            assert not dropped(result, entry(0, stage=stage, space=PASID, domain=DID + 1))


@pytest.mark.parametrize("mode", [LEGACY, SCALABLE])
def test_page_selective_iotlb_invalidation_spares_second_stage_pages_outside_of_its_range(
    mode: TranslationTableMode,
) -> None:
    values = {"G": Granularity.SELECTIVE, "DID": DID, "AM": 1, "ADDR": 0x1235}
    result = run(DescriptorType.IOTLB, values, unit(mode))
    assert [dropped(result, page(first << 12)) for first in range(0x1233, 0x1237)] == [False, True, True, False]
    assert not dropped(result, page(0x123_4000, domain=DID + 1))


def test_page_selective_iotlb_invalidation_drops_the_whole_first_stage_of_its_domain_table_23() -> None:
    result = run(DescriptorType.IOTLB, {"G": Granularity.SELECTIVE, "DID": DID, "ADDR": 1, "IH": 1})
    assert dropped(result, page(0x7000_0000, stage=1, space=PASID))
    assert dropped(result, table(0x7000_0000, stage=1, space=PASID))
    assert not dropped(result, page(0x7000_0000, stage=1, space=PASID, domain=DID + 1))


@pytest.mark.parametrize("hint", [0, 1])
def test_invalidation_hint_keeps_second_stage_tables_table_23(hint: int) -> None:
    result = run(DescriptorType.IOTLB, {"G": Granularity.SELECTIVE, "DID": DID, "ADDR": 1, "IH": hint})
    assert dropped(result, table(0)) is not bool(hint)
    assert dropped(result, page(0x1000))


def test_invalidation_hint_means_nothing_without_a_page_6_5_2_3() -> None:
    assert dropped(run(DescriptorType.IOTLB, {"G": Granularity.DOMAIN, "DID": DID, "IH": 1}), table(0))


def test_address_bits_above_mgaw_are_ignored_6_5_2_3() -> None:
    # MGAW is 48 bits here.
    for bit in (48, 52):
        values = {"G": Granularity.SELECTIVE, "DID": DID, "ADDR": 1 << bit - 12 | 5}
        assert dropped(run(DescriptorType.IOTLB, values), page(5 << 12))


# PASID-based IOTLB (6.5.2.4, table 24).


def test_pasid_selective_invalidation_drops_translations_of_its_pasid_in_both_stages() -> None:
    result = run(DescriptorType.PASID_IOTLB, {"G": PasidIotlbGranularity.PASID, "DID": DID, "PASID": PASID})
    assert dropped(result, page(0, stage=1, space=PASID))
    assert dropped(result, page(0, stage=2, space=PASID))
    assert dropped(result, table(0, stage=1, space=PASID))
    assert not dropped(result, page(0, stage=1, space=PASID + 1))
    assert not dropped(result, page(0, stage=1, space=PASID, domain=DID + 1))


def test_pasid_based_invalidation_leaves_second_stage_tables_alone() -> None:
    for granularity in (PasidIotlbGranularity.PASID, PasidIotlbGranularity.PAGE):
        result = run(DescriptorType.PASID_IOTLB, {"G": granularity, "DID": DID, "PASID": PASID, "AM": 63})
        assert not dropped(result, table(0, stage=2, space=PASID))


@pytest.mark.parametrize("hint", [0, 1])
def test_page_selective_within_pasid_invalidation_is_of_the_first_stage(hint: int) -> None:
    values = {"G": PasidIotlbGranularity.PAGE, "DID": DID, "PASID": PASID, "ADDR": 4, "AM": 2, "IH": hint}
    result = run(DescriptorType.PASID_IOTLB, values)
    firsts = [dropped(result, page(first << 12, stage=1, space=PASID)) for first in (3, 4, 7, 8)]
    assert firsts == [False, True, True, False]
    assert not dropped(result, page(4 << 12, stage=2, space=PASID))
    assert dropped(result, table(0, stage=1, space=PASID)) is not bool(hint)


# Device TLBs (6.5.2.5, 6.5.2.6).


def cached(first: int, *, requester: int = SID, space: int | None = None) -> CachedEntry:
    return CachedEntry(kind=EntryKind.DEVICE_TLB, requester=requester, space=space, first=first, last=first + 0xFFF)


def test_device_tlb_invalidation_is_for_requests_without_pasid_of_one_device() -> None:
    result = run(DescriptorType.DEVICE_TLB, {"SID": SID, "ADDR": 5})
    assert dropped(result, cached(0x5000))
    assert not dropped(result, cached(0x5000, requester=SID + 1))
    assert not dropped(result, cached(0x5000, space=PASID))
    assert not dropped(result, cached(0x6000))
    assert not dropped(result, page(0x5000))
    # A source id has no segment: a unit has one only.
    assert dropped(result, cached(0x5000, requester=1 << 16 | SID))


def test_pasid_based_device_tlb_invalidation_is_for_its_pasid_or_with_gi_for_each() -> None:
    one = run(DescriptorType.PASID_DEVICE_TLB, {"SID": SID, "PASID": PASID, "ADDR": 5})
    every = run(DescriptorType.PASID_DEVICE_TLB, {"SID": SID, "PASID": PASID, "ADDR": 5, "GI": 1})
    assert dropped(one, cached(0x5000, space=PASID))
    assert not dropped(one, cached(0x5000, space=PASID + 1))
    assert dropped(every, cached(0x5000, space=PASID + 1))
    for result in (one, every):
        assert not dropped(result, cached(0x5000))
        assert not dropped(result, cached(0x5000, space=PASID, requester=SID + 1))


@pytest.mark.parametrize(
    ("field", "size", "pages"),
    [
        (0b101_0100, 0, (0x5_4000, 0x5_4FFF)),
        (0b101_0100, 1, (0x5_4000, 0x5_5FFF)),
        (0b101_0101, 1, (0x5_4000, 0x5_7FFF)),
        (0b101_0111, 1, (0x5_0000, 0x5_FFFF)),
        ((1 << 51) - 1, 1, (0, (1 << 64) - 1)),
        ((1 << 52) - 1, 1, (0, (1 << 64) - 1)),
    ],
)
def test_lowest_zero_bit_tells_the_size_of_a_device_tlb_invalidation(
    field: int, size: int, pages: tuple[int, int]
) -> None:
    assert device_tlb_pages(field << 12, larger=bool(size)) == pages
    (invalidation,) = run(DescriptorType.DEVICE_TLB, {"SID": SID, "ADDR": field, "S": size}).invalidations
    assert (invalidation.first, invalidation.last) == pages
    (invalidation,) = run(DescriptorType.PASID_DEVICE_TLB, {"SID": SID, "ADDR": field, "S": size}).invalidations
    assert (invalidation.first, invalidation.last) == pages


def test_the_widest_mask_covers_the_address_space() -> None:
    assert masked_pages(0x1234_5000, 63) == (0, (1 << 64) - 1)


# Interrupt entries (6.5.2.8).


def test_interrupt_entry_cache_invalidation_is_global_or_of_aligned_indexes_table_25() -> None:
    def indexes(values: dict[str, int]) -> list[int]:
        result = run(DescriptorType.INTERRUPT_ENTRY_CACHE, values)
        assert not dropped(result, page(0))
        return [i for i in range(0x40) if dropped(result, CachedEntry(kind=EntryKind.INTERRUPT, index=i))]

    assert indexes({"G": 0, "IIDX": 5}) == list(range(0x40))
    assert indexes({"G": 1, "IIDX": 5}) == [5]
    assert indexes({"G": 1, "IIDX": 0x15, "IM": 2}) == [0x14, 0x15, 0x16, 0x17]


# Wait, page group response, HPT (6.5.2.9, 7.6.1, 6.5.2.7).


def test_wait_descriptor_writes_its_status_word_little_endian() -> None:
    result = run(DescriptorType.WAIT, {"SW": 1, "DATA": 0x1122_3344, "ADDR": 0x8000_0010 >> 2})
    assert result == CommandResult(writes=(MemoryWrite(0x8000_0010, b"\x44\x33\x22\x11"),))


def test_status_address_bits_above_the_host_address_width_are_ignored() -> None:
    for bit in (46, 60):
        (write,) = run(DescriptorType.WAIT, {"SW": 1, "ADDR": (1 << bit | 0x1000) >> 2}).writes
        assert write.address == 0x1000


def test_status_address_and_data_are_ignored_without_sw() -> None:
    assert run(DescriptorType.WAIT, {"DATA": 5, "ADDR": 0x1000}) == CommandResult()


def test_wait_descriptor_with_if_sends_the_invalidation_event_once_6_5_2_10() -> None:
    bits = build_descriptor(DescriptorType.WAIT, {"IF": 1})
    registers = replace(unit(), iedata=0x41, ieaddr=0xFEE0_1003, ieuaddr=0x100)
    first = execute(registers, bits)
    assert first.result.interrupt == MsiWrite(requester=0, address=0x100_FEE0_1000, data=0x41)
    assert (first.registers.ics, first.registers.iectl) == (1, 0)
    second = execute(first.registers, bits)
    assert second.result == CommandResult()
    assert second.registers == first.registers


def test_wait_descriptor_with_if_and_sw_does_both_6_5_2_9() -> None:
    result = run(DescriptorType.WAIT, {"IF": 1, "SW": 1, "DATA": 5, "ADDR": 0x1000 >> 2})
    assert result.writes == (MemoryWrite(0x1000, b"\x05\0\0\0"),)
    assert result.interrupt is not None


@pytest.mark.parametrize(
    "bits", [0xF, GOOD_IOTLB | 1 << 8, build_descriptor(DescriptorType.IOTLB, {"G": Granularity.RESERVED})]
)
def test_descriptor_that_is_refused_changes_no_register(bits: int) -> None:
    registers = unit()
    assert execute(registers, bits).registers == registers


def test_page_group_response_and_hpt_invalidation_drop_nothing_that_is_modelled() -> None:
    for kind in (DescriptorType.PAGE_GROUP_RESPONSE, DescriptorType.HPT_CACHE):
        assert run(kind, GOOD[kind]) == CommandResult()


def test_page_group_response_ignores_the_bit_that_was_lpig_7_6_1() -> None:
    assert run(DescriptorType.PAGE_GROUP_RESPONSE, {"IGN": 1}).error is None


# A finer granularity never drops more than a coarser one.

ENTRIES = st.builds(
    CachedEntry,
    kind=st.sampled_from(EntryKind),
    requester=st.sampled_from([SID, SID + 1, SID ^ 4]),
    domain=st.sampled_from([DID, DID + 1]),
    space=st.sampled_from([None, PASID, PASID + 1]),
    stage=st.sampled_from([1, 2]),
    first=st.sampled_from([0, 0x4000, 0x20_0000]),
    last=st.sampled_from([0x20_0FFF, 0x3F_FFFF]),
    index=st.integers(0, 8),
)


@given(
    entry=ENTRIES,
    mode=st.sampled_from([LEGACY, SCALABLE]),
    mask=st.integers(0, 3),
    number=st.integers(0, 0x210),
    hint=st.integers(0, 1),
)
def test_what_a_finer_invalidation_drops_a_coarser_one_drops_too(
    entry: CachedEntry, mode: TranslationTableMode, mask: int, number: int, hint: int
) -> None:
    registers = unit(mode)
    page_selective = {"DID": DID, "ADDR": number, "AM": mask, "IH": hint}
    in_pasid = {**page_selective, "PASID": PASID}
    chains: list[list[tuple[DescriptorType, dict[str, int]]]] = [
        [
            (DescriptorType.CONTEXT_CACHE, {"DID": DID, "SID": SID, "FM": 0, "G": Granularity.SELECTIVE}),
            (DescriptorType.CONTEXT_CACHE, {"DID": DID, "SID": SID, "FM": mask, "G": Granularity.SELECTIVE}),
            (DescriptorType.CONTEXT_CACHE, {"DID": DID, "G": Granularity.DOMAIN}),
            (DescriptorType.CONTEXT_CACHE, {"G": Granularity.GLOBAL}),
        ],
        [
            (DescriptorType.IOTLB, {**page_selective, "G": Granularity.SELECTIVE}),
            (DescriptorType.IOTLB, {**page_selective, "G": Granularity.SELECTIVE, "AM": mask + 1, "IH": 0}),
            (DescriptorType.IOTLB, {"DID": DID, "G": Granularity.DOMAIN}),
            (DescriptorType.IOTLB, {"G": Granularity.GLOBAL}),
        ],
        [
            (DescriptorType.INTERRUPT_ENTRY_CACHE, {"G": 1, "IIDX": number & 7}),
            (DescriptorType.INTERRUPT_ENTRY_CACHE, {"G": 1, "IIDX": number & 7, "IM": mask}),
            (DescriptorType.INTERRUPT_ENTRY_CACHE, {}),
        ],
    ]
    if mode is SCALABLE:
        chains += [
            [
                (DescriptorType.PASID_IOTLB, {**in_pasid, "G": PasidIotlbGranularity.PAGE}),
                (DescriptorType.PASID_IOTLB, {**in_pasid, "G": PasidIotlbGranularity.PASID}),
                (DescriptorType.IOTLB, {"DID": DID, "G": Granularity.DOMAIN}),
            ],
            [
                (DescriptorType.PASID_CACHE, {"G": PasidCacheGranularity.PASID, "DID": DID, "PASID": PASID}),
                (DescriptorType.PASID_CACHE, {"G": PasidCacheGranularity.DOMAIN, "DID": DID}),
                (DescriptorType.PASID_CACHE, {"G": PasidCacheGranularity.GLOBAL}),
            ],
            [
                (DescriptorType.PASID_DEVICE_TLB, {"SID": SID, "PASID": PASID, "ADDR": number}),
                (DescriptorType.PASID_DEVICE_TLB, {"SID": SID, "PASID": PASID, "ADDR": number, "S": 1}),
                (DescriptorType.PASID_DEVICE_TLB, {"SID": SID, "ADDR": number, "S": 1, "GI": 1}),
            ],
        ]
    for chain in chains:
        drops = [dropped(run(kind, values, registers), entry) for kind, values in chain]
        assert drops == sorted(drops), chain


# Whatever the bits.


@settings(deadline=None, max_examples=300)
@given(
    bits=st.integers(0, (1 << 256) - 1),
    kind=st.sampled_from(DescriptorType),
    keep=st.sampled_from([0, (1 << 128) - 1, (1 << 256) - 1]),
    mode=st.sampled_from(TranslationTableMode),
    ecap=st.integers(0, (1 << 64) - 1),
    cap=st.integers(0, (1 << 64) - 1),
)
def test_no_bits_whatever_lead_to_anything_but_a_result(
    bits: int, kind: DescriptorType, keep: int, mode: TranslationTableMode, ecap: int, cap: int
) -> None:
    registers = VtdRegisters(rtaddr=mode << 10, cap=cap, ecap=ecap, gsts=0, iqa=1 << 11)
    typed = bits & keep & ~DESCRIPTORS[kind].reserved & ~0xE0F | kind
    for descriptor in (bits, typed):
        result = execute(registers, descriptor).result
        assert isinstance(result, CommandResult)
        assert result.error is None or isinstance(result.error, VtdQueueError)
        assert result.error is None or result == CommandResult(error=result.error)
        for invalidation in result.invalidations:
            assert isinstance(invalidation, Invalidation)
