"""Invalidation through CCMD_REG and IOTLB_REG (VT-d 6.5.1, 11.4.6, revision 5.10)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reasons import assert_every_code_is_reached

from harness.model.engine import CommandResult
from harness.model.invalidation import CachedEntry, EntryKind, Invalidation
from harness.model.vtd.invalidation.by_register import (
    CCMD_REG,
    IOTLB_REG,
    IVA_REG,
    RegisterInvalidation,
    VtdWrongRequest,
    write_ccmd,
    write_iotlb,
)
from harness.model.vtd.invalidation.descriptors import Granularity
from harness.model.vtd.register_layouts import CAP_REG
from harness.model.vtd.registers import VtdRegisters

SID, DID = 0x0128, 0x77
QIES = 1 << 26
GLOBAL, DOMAIN, SELECTIVE = Granularity.GLOBAL, Granularity.DOMAIN, Granularity.SELECTIVE
CONTEXT = CachedEntry(kind=EntryKind.DEVICE, requester=SID, domain=DID)
REGISTERS = VtdRegisters(
    rtaddr=0,
    cap=CAP_REG.encode({"ND": 6, "PSI": 1, "MAMV": 18, "MGAW": 47, "SAGAW": 0b100}),
    ecap=0,
    gsts=0,
    ver=0x50,
)


def ccmd(granularity: int, **values: int) -> int:
    return CCMD_REG.encode({"ICC": 1, "CIRG": granularity, **values})


def iotlb(granularity: int, domain: int = DID) -> int:
    return IOTLB_REG.encode({"IVT": 1, "IIRG": granularity, "DID": domain})


def with_address(address: int, *, mask: int = 0, hint: int = 0, registers: VtdRegisters = REGISTERS) -> VtdRegisters:
    return replace(registers, iva=IVA_REG.encode({"ADDR": address, "AM": mask, "IH": hint}))


def dropped(done: RegisterInvalidation, entry: CachedEntry) -> bool:
    assert done.result.error is None
    return any(invalidation.drops(entry) for invalidation in done.result.invalidations)


def page(first: int, *, kind: EntryKind = EntryKind.LEAF, domain: int = DID) -> CachedEntry:
    return CachedEntry(kind=kind, stage=2, domain=domain, first=first, last=first + 0xFFF)


def assert_refused(done: RegisterInvalidation, error: VtdWrongRequest) -> None:
    """Nothing is dropped, the command bit is clear, and the granularity says error."""
    assert done.result == CommandResult(error=error)
    for register, value, command, actual in (
        (CCMD_REG, done.registers.ccmd, "ICC", "CAIG"),
        (IOTLB_REG, done.registers.iotlb, "IVT", "IAIG"),
    ):
        assert register[command].get(value) == register[actual].get(value) == 0


# CCMD_REG.


@pytest.mark.parametrize("granularity", [GLOBAL, DOMAIN, SELECTIVE])
def test_context_cache_invalidation_reports_its_granularity_and_clears_icc_11_4_6_1(granularity: Granularity) -> None:
    value = ccmd(granularity, DID=DID, SID=SID, FM=1)
    done = write_ccmd(REGISTERS, value)
    assert done.registers.ccmd == value & ~(1 << 63) | granularity << 59
    assert dropped(done, CONTEXT)
    assert not dropped(done, page(0))


def test_context_cache_granularities_spare_what_they_should() -> None:
    other_domain = replace(CONTEXT, domain=DID + 1)
    other_device = replace(CONTEXT, requester=SID + 1)
    spared = {GLOBAL: [], DOMAIN: [other_domain], SELECTIVE: [other_domain, other_device]}
    for granularity, expected in spared.items():
        done = write_ccmd(REGISTERS, ccmd(granularity, DID=DID, SID=SID))
        assert [entry for entry in (CONTEXT, other_domain, other_device) if not dropped(done, entry)] == expected


def test_hardware_may_perform_a_coarser_invalidation_and_says_so() -> None:
    done = write_ccmd(REGISTERS, ccmd(SELECTIVE, DID=DID, SID=SID), finest=DOMAIN)
    assert CCMD_REG["CAIG"].get(done.registers.ccmd) == DOMAIN
    assert dropped(done, replace(CONTEXT, requester=SID + 1))
    finer = write_ccmd(REGISTERS, ccmd(GLOBAL), finest=DOMAIN)
    assert CCMD_REG["CAIG"].get(finer.registers.ccmd) == GLOBAL


def test_writing_without_icc_or_ivt_invalidates_nothing_and_keeps_the_last_report() -> None:
    before = write_ccmd(REGISTERS, ccmd(GLOBAL)).registers
    done = write_ccmd(before, CCMD_REG.encode({"CIRG": DOMAIN, "DID": DID, "CAIG": 3}))
    assert done.result == CommandResult()
    assert done.registers.ccmd == CCMD_REG.encode({"CIRG": DOMAIN, "DID": DID, "CAIG": GLOBAL})
    before = write_iotlb(REGISTERS, iotlb(GLOBAL)).registers
    done = write_iotlb(before, IOTLB_REG.encode({"IIRG": DOMAIN, "IAIG": 3}))
    assert done.result == CommandResult()
    assert IOTLB_REG["IAIG"].get(done.registers.iotlb) == GLOBAL


# IOTLB_REG and IVA_REG.


@pytest.mark.parametrize("granularity", [GLOBAL, DOMAIN, SELECTIVE])
def test_iotlb_invalidation_reports_its_granularity_and_clears_ivt_11_4_6_3(granularity: Granularity) -> None:
    done = write_iotlb(with_address(0x5000), iotlb(granularity))
    assert done.registers.iotlb == iotlb(granularity) & ~(1 << 63) | granularity << 57
    assert dropped(done, page(0x5000))
    assert dropped(done, page(0x5000, kind=EntryKind.TABLE))
    assert not dropped(done, CONTEXT)


def test_iotlb_granularities_spare_what_they_should() -> None:
    same, other_page, other_domain = page(0x5000), page(0x9000), page(0x5000, domain=DID + 1)
    spared = {GLOBAL: [], DOMAIN: [other_domain], SELECTIVE: [other_page, other_domain]}
    for granularity, expected in spared.items():
        done = write_iotlb(with_address(0x5000, mask=1), iotlb(granularity))
        assert [entry for entry in (same, other_page, other_domain) if not dropped(done, entry)] == expected


def test_invalidation_hint_keeps_second_stage_tables_6_5_1_2() -> None:
    done = write_iotlb(with_address(0x5000, hint=1), iotlb(SELECTIVE))
    assert dropped(done, page(0x5000))
    assert not dropped(done, page(0x5000, kind=EntryKind.TABLE))


def test_address_bits_above_mgaw_are_ignored_11_4_6_4() -> None:
    assert dropped(write_iotlb(with_address(1 << 60 | 0x5000), iotlb(SELECTIVE)), page(0x5000))


def test_domain_id_bits_above_nd_are_ignored() -> None:
    narrow = replace(REGISTERS, cap=CAP_REG.encode({"ND": 2}))
    assert dropped(write_iotlb(narrow, iotlb(DOMAIN, 0xFF00 | DID)), page(0))
    assert dropped(write_ccmd(narrow, ccmd(DOMAIN, DID=0xFF00 | DID)), CONTEXT)


def test_page_selective_request_without_psi_is_done_for_the_whole_domain() -> None:
    without = replace(REGISTERS, cap=CAP_REG.encode({"ND": 6, "MGAW": 47}))
    done = write_iotlb(with_address(0x5000, mask=63, registers=without), iotlb(SELECTIVE))
    assert IOTLB_REG["IAIG"].get(done.registers.iotlb) == DOMAIN
    assert dropped(done, page(0x9000))


# Wrong requests.


def test_address_mask_above_mamv_is_a_wrong_request_11_4_6_3() -> None:
    assert write_iotlb(with_address(0, mask=18), iotlb(SELECTIVE)).result.error is None
    assert_refused(write_iotlb(with_address(0, mask=19), iotlb(SELECTIVE)), VtdWrongRequest.ADDRESS_MASK)
    assert write_iotlb(with_address(0, mask=19), iotlb(DOMAIN)).result.error is None


def test_reserved_granularity_is_a_wrong_request() -> None:
    assert_refused(write_ccmd(REGISTERS, ccmd(0)), VtdWrongRequest.RESERVED_GRANULARITY)
    assert_refused(write_iotlb(REGISTERS, iotlb(0)), VtdWrongRequest.RESERVED_GRANULARITY)


@pytest.mark.parametrize("mode", [1, 2, 3])
def test_modes_other_than_legacy_have_no_register_invalidation_6_5_1(mode: int) -> None:
    registers = replace(REGISTERS, rtaddr=mode << 10)
    assert_refused(write_ccmd(registers, ccmd(GLOBAL)), VtdWrongRequest.NOT_LEGACY_MODE)
    assert_refused(write_iotlb(registers, iotlb(GLOBAL)), VtdWrongRequest.NOT_LEGACY_MODE)


def test_register_invalidation_is_refused_while_the_queue_is_enabled_6_5_1() -> None:
    registers = replace(REGISTERS, gsts=QIES)
    assert_refused(write_ccmd(registers, ccmd(GLOBAL)), VtdWrongRequest.QUEUE_ENABLED)
    assert_refused(write_iotlb(registers, iotlb(GLOBAL)), VtdWrongRequest.QUEUE_ENABLED)


def test_hardware_of_major_version_6_has_no_register_invalidation_6_5() -> None:
    registers = replace(REGISTERS, ver=0x60)
    assert_refused(write_ccmd(registers, ccmd(GLOBAL)), VtdWrongRequest.VERSION)
    assert_refused(write_iotlb(registers, iotlb(GLOBAL)), VtdWrongRequest.VERSION)


def test_every_wrong_request_is_reached() -> None:
    assert_every_code_is_reached(VtdWrongRequest, [Path(__file__)])


@settings(deadline=None, max_examples=200)
@given(value=st.integers(0, (1 << 64) - 1), iva=st.integers(0, (1 << 64) - 1), cap=st.integers(0, (1 << 64) - 1))
def test_no_value_whatever_leads_to_anything_but_a_result(value: int, iva: int, cap: int) -> None:
    registers = replace(REGISTERS, iva=iva, cap=cap)
    for done in (write_ccmd(registers, value), write_iotlb(registers, value)):
        assert all(isinstance(invalidation, Invalidation) for invalidation in done.result.invalidations)
        assert done.result.error is None or not done.result.invalidations
        assert not (done.registers.ccmd | done.registers.iotlb) >> 63
