"""Protected memory regions (VT-d 11.4.8)."""

from __future__ import annotations

from typing import Any

import pytest
from reasons import assert_fault
from vtd_units import TES

from harness.errors import SpecError
from harness.model.access import (
    Access,
    AccessKind,
    AddressType,
    Bypassed,
    BypassReason,
    Outcome,
    Permissions,
    Translated,
)
from harness.model.memory import Region, SparseMemory
from harness.model.vtd import VtdEngine, VtdRegisters, VtdTables
from harness.model.vtd.context import TranslationType
from harness.model.vtd.faults import VtdBlocked
from harness.model.vtd.register_layouts import ECAP_REG
from harness.model.vtd.registers import capabilities

RID = 0x0028
MIB2 = 1 << 21
LOW, HIGH = 0x4000_0000, 0x2_0000_0000
EPM = 1 << 31
VERSION_1, VERSION_2 = 0x10, 0x20


class Protected:
    """A unit that protects 2 MiB at LOW and 4 MiB at HIGH; its requester has both mapped."""

    def __init__(self) -> None:
        self.memory = SparseMemory((Region(0, 1 << 24),))
        self.tables = VtdTables(self.memory, 0x1000)
        self.table = self.tables.attach(RID, 1, 4, translation_type=TranslationType.SECOND_STAGE_DEVICE_TLB)
        self.table.map(0, LOW, MIB2)
        self.table.map(MIB2, HIGH + MIB2, MIB2)
        self.table.map(2 * MIB2, LOW - MIB2, MIB2)
        self.registers: dict[str, Any] = {
            "rtaddr": self.tables.root,
            "cap": capabilities(protected_memory=True),
            "ecap": ECAP_REG.encode({"DT": 1, "PT": 1}),
            "gsts": TES,
            "ver": VERSION_2,
            "pmen": EPM,
            "plmbase": LOW,
            "plmlimit": LOW,
            "phmbase": HIGH,
            "phmlimit": HIGH + MIB2,
        }

    def access(
        self, iova: int, length: int = 4, address_type: AddressType = AddressType.UNTRANSLATED, **registers: int
    ) -> Outcome:
        engine = VtdEngine(VtdRegisters(**{**self.registers, **registers}), self.memory)
        access = Access(requester=RID, iova=iova, length=length, kind=AccessKind.WRITE, address_type=address_type)
        outcome = engine.translate(access)
        assert engine.explain(access).outcome == outcome
        return outcome


@pytest.fixture
def unit() -> Protected:
    return Protected()


def assert_blocked(outcome: Outcome) -> None:
    """Blocked, and not reported."""
    assert assert_fault(outcome, VtdBlocked.PROTECTED_MEMORY).record is None


@pytest.mark.parametrize("address", [LOW, LOW + MIB2 - 4, HIGH, HIGH + 2 * MIB2 - 4])
def test_dma_to_a_region_is_blocked_while_translation_is_off(unit: Protected, address: int) -> None:
    assert_fault(unit.access(address, gsts=0), VtdBlocked.PROTECTED_MEMORY)
    assert_blocked(unit.access(address, gsts=0, ver=VERSION_1))
    assert unit.access(address, gsts=0, pmen=0) == Bypassed(address, BypassReason.TRANSLATION_OFF)


@pytest.mark.parametrize("address", [LOW - 4, LOW + MIB2, HIGH - 4, HIGH + 2 * MIB2])
def test_dma_beside_a_region_goes_through(unit: Protected, address: int) -> None:
    assert isinstance(unit.access(address, gsts=0), Bypassed)


def test_low_bits_of_a_limit_are_decoded_as_ones_11_4_8_3(unit: Protected) -> None:
    small: dict[str, Any] = {"gsts": 0, "protected_memory_alignment": 0x1000}
    assert_blocked(unit.access(LOW + 0xFFC, **small))
    assert isinstance(unit.access(LOW + 0x1000, **small), Bypassed)


def test_access_that_touches_a_region_at_its_end_is_blocked(unit: Protected) -> None:
    small: dict[str, Any] = {"gsts": 0, "protected_memory_alignment": 4, "plmbase": LOW + 4, "plmlimit": LOW + 4}
    assert isinstance(unit.access(LOW, 4, **small), Bypassed)
    assert_blocked(unit.access(LOW, 8, **small))
    assert_blocked(unit.access(LOW + 7, 1, **small))
    assert isinstance(unit.access(LOW + 8, 4, **small), Bypassed)


def test_access_that_touches_a_region_at_its_beginning_is_blocked_11_4_8(unit: Protected) -> None:
    small: dict[str, Any] = {"gsts": 0, "protected_memory_alignment": 4, "plmbase": LOW + 4, "plmlimit": LOW + 4}
    assert_blocked(unit.access(LOW + 4, 1, **small))
    assert_blocked(unit.access(LOW + 1, 4, **small))
    assert isinstance(unit.access(LOW + 3, 1, **small), Bypassed)


def test_zero_length_access_touches_its_address_alone_11_4_8(unit: Protected) -> None:
    assert_blocked(unit.access(LOW, 0, gsts=0))
    assert isinstance(unit.access(LOW - 1, 0, gsts=0), Bypassed)


def test_limit_below_the_base_disables_the_region_11_4_8_3(unit: Protected) -> None:
    assert isinstance(unit.access(LOW, gsts=0, plmlimit=LOW - MIB2), Bypassed)
    assert_blocked(unit.access(HIGH, gsts=0, plmlimit=LOW - MIB2))


@pytest.mark.parametrize(("bit", "address"), [(5, LOW), (6, HIGH)])
def test_region_that_the_capabilities_lack_is_none_11_4_2(unit: Protected, bit: int, address: int) -> None:
    cap = unit.registers["cap"] & ~(1 << bit)
    assert isinstance(unit.access(address, gsts=0, cap=cap), Bypassed)
    assert_blocked(unit.access(LOW + HIGH - address, gsts=0, cap=cap))


@pytest.mark.parametrize("iova", [0, MIB2])
def test_translated_dma_to_a_region_is_blocked_from_version_2_on_11_4_8_1(unit: Protected, iova: int) -> None:
    assert_blocked(unit.access(iova))
    assert isinstance(unit.access(iova, ver=VERSION_1), Translated)


def test_translated_dma_beside_the_regions_goes_through(unit: Protected) -> None:
    expected = Translated(LOW - MIB2, MIB2, Permissions.READ | Permissions.WRITE)
    assert unit.access(2 * MIB2) == expected


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_translated_requests_and_pass_through_are_blocked_by_every_version_11_4_8_1(
    unit: Protected, version: int
) -> None:
    assert_blocked(unit.access(LOW, address_type=AddressType.TRANSLATED, ver=version))
    unit.tables.set_context_fields(RID, {"TT": TranslationType.PASS_THROUGH})
    assert_blocked(unit.access(LOW, ver=version))


def test_translation_request_reaches_no_memory(unit: Protected) -> None:
    assert isinstance(unit.access(0, address_type=AddressType.TRANSLATION_REQUEST), Translated)


def test_interrupt_request_goes_through_a_region_of_everything(unit: Protected) -> None:
    everything: dict[str, Any] = {"plmbase": 0, "plmlimit": (1 << 32) - MIB2}
    outcome = unit.access(0xFEE0_0000, **everything)
    assert outcome == Bypassed(0xFEE0_0000, BypassReason.INTERRUPT_RANGE)


def test_fault_of_translation_comes_before_protected_memory(unit: Protected) -> None:
    outcome = unit.access(1 << 40)
    assert not isinstance(outcome, Translated | Bypassed)
    assert outcome.record is not None


@pytest.mark.parametrize("alignment", [0, 3, -4096])
def test_alignment_that_is_no_power_of_two_is_refused(alignment: int) -> None:
    with pytest.raises(SpecError, match="power of two"):
        VtdRegisters(rtaddr=0, cap=0, ecap=0, gsts=0, protected_memory_alignment=alignment)
