"""Addresses that are no memory: interrupts, HyperTransport ranges, exclusion range (AMD-Vi 2.1.2, table 3)."""

from __future__ import annotations

import pytest
from amdvi_unit import DOMAIN, IOVA, RID, Unit, guest_unit, record_of
from reasons import assert_fault

from harness.model.access import AccessKind, AddressType, Bypassed, BypassReason, Fault, Outcome, Translated
from harness.model.amdvi import AmdviFaultReason
from harness.model.amdvi.register_fields import EXCLUSION_BASE

WRITE = AccessKind.WRITE
MESSAGE = 0xFEE0_1004
RESERVED = 0xFD_0000_0000
INTERRUPT = 0xFD_F800_0000
MANAGEMENT = 0xFD_F910_0000
PORT_IO = 0xFD_FC00_0000


@pytest.fixture
def unit() -> Unit:
    unit = Unit()
    table = unit.tables.attach(RID, DOMAIN, 4)
    table.map(IOVA, 0x1000, 0x1000)
    for page in (MANAGEMENT, PORT_IO, 0xFD_F900_0000, 0xFD_FE00_0000, 0xFE_0000_0000, 0xFF_FFFF_F000):
        table.map(page, 0x5000, 0x1000)
    return unit


def is_translated(outcome: Outcome) -> bool:
    return isinstance(outcome, Translated) and outcome.address & ~0xFFF == 0x5000


def type_of(outcome: Outcome) -> int:
    return record_of(outcome).get("Type", 0)


def test_a_doubleword_write_to_0xfee_is_an_interrupt(unit: Unit) -> None:
    assert unit.access(WRITE, iova=MESSAGE) == Bypassed(MESSAGE, BypassReason.INTERRUPT_RANGE)


def test_a_translated_write_there_is_an_interrupt_all_the_same(unit: Unit) -> None:
    unit.set(I=1)
    outcome = unit.access(WRITE, iova=MESSAGE, address_type=AddressType.TRANSLATED)
    assert outcome == Bypassed(MESSAGE, BypassReason.INTERRUPT_RANGE)


@pytest.mark.parametrize(
    ("kind", "iova", "length"),
    [(AccessKind.READ, MESSAGE, 4), (AccessKind.EXECUTE, MESSAGE, 4), (WRITE, MESSAGE, 8), (WRITE, MESSAGE + 2, 4)],
)
def test_anything_else_at_0xfee_is_an_invalid_request_of_type_0(
    unit: Unit, kind: AccessKind, iova: int, length: int
) -> None:
    outcome = unit.access(kind, iova=iova, length=length)
    assert_fault(outcome, AmdviFaultReason.INTERRUPT_RANGE_READ)
    assert record_of(outcome) == {"DeviceID": RID, "Address": iova}


def test_a_request_with_pasid_at_0xfee_is_a_page_fault_with_i() -> None:
    unit, _ = guest_unit()
    outcome = unit.access(WRITE, iova=MESSAGE, pasid=5)
    assert_fault(outcome, AmdviFaultReason.INTERRUPT_WITH_PASID)
    assert record_of(outcome)["I"] == 1


def test_nothing_is_special_before_iommuen_3_4() -> None:
    unit = Unit(control={})
    for iova in (MESSAGE, RESERVED, IOVA):
        assert unit.access(iova=iova) == Bypassed(iova, BypassReason.TRANSLATION_OFF)


def test_an_entry_that_is_not_valid_lets_everything_through_2_2_2_2() -> None:
    unit = Unit()
    unit.set(RSVD_2=1, TV=1, Mode=7, IoCtl=3)
    for iova in (IOVA, RESERVED, MANAGEMENT, PORT_IO):
        assert unit.access(iova=iova) == Bypassed(iova, BypassReason.ENTRY_NOT_VALID)


def test_the_reserved_interrupt_range_takes_nothing(unit: Unit) -> None:
    outcome = unit.access(WRITE, iova=RESERVED)
    assert_fault(outcome, AmdviFaultReason.RESERVED_INTERRUPT_RANGE)
    assert type_of(outcome) == 0b110
    assert_fault(unit.access(iova=INTERRUPT - 4), AmdviFaultReason.INTERRUPT_RANGE_READ)


def test_the_hypertransport_interrupt_range_is_controlled_by_intctl(unit: Unit) -> None:
    assert unit.access(WRITE, iova=INTERRUPT) == Bypassed(INTERRUPT, BypassReason.INTERRUPT_RANGE)
    unit.set(IV=1, IntCtl=0b00)
    outcome = unit.access(WRITE, iova=INTERRUPT)
    assert_fault(outcome, AmdviFaultReason.INTERRUPT_CONTROL)
    # What Linux shows of it on many machines: flags=0x0a00, bits 59:48.
    assert isinstance(outcome, Fault)
    assert outcome.record is not None
    assert int.from_bytes(outcome.record.encode(), "little") >> 48 & 0xFFF == 0xA00  # type: ignore[attr-defined]
    assert_fault(unit.access(iova=INTERRUPT), AmdviFaultReason.INTERRUPT_RANGE_READ)


@pytest.mark.parametrize(("sysmgt", "forwarded"), [(0b00, False), (0b01, True), (0b10, False)])
def test_system_management_writes_go_as_sysmgt_says(unit: Unit, sysmgt: int, forwarded: bool) -> None:
    unit.set(SysMgt=sysmgt)
    outcome = unit.access(WRITE, iova=MANAGEMENT)
    if forwarded:
        assert outcome == Bypassed(MANAGEMENT, BypassReason.PASS_THROUGH)
    else:
        assert_fault(outcome, AmdviFaultReason.SYSTEM_MANAGEMENT_WRITE)
        assert type_of(outcome) == 0b011
    outcome = unit.access(iova=MANAGEMENT)
    assert_fault(outcome, AmdviFaultReason.SYSTEM_MANAGEMENT_READ)
    assert type_of(outcome) == 0b100


def test_sysmgt_11b_translates(unit: Unit) -> None:
    unit.set(SysMgt=0b11)
    assert is_translated(unit.access(iova=MANAGEMENT))
    unit.set(TV=0)
    outcome = unit.access(iova=MANAGEMENT)
    assert_fault(outcome, AmdviFaultReason.SYSTEM_MANAGEMENT_UNTRANSLATED)
    assert type_of(outcome) == 0b111


def test_port_io_goes_as_ioctl_says(unit: Unit) -> None:
    outcome = unit.access(WRITE, iova=PORT_IO)
    assert_fault(outcome, AmdviFaultReason.PORT_IO)
    assert type_of(outcome) == 0b010
    unit.set(IoCtl=0b01)
    assert unit.access(iova=PORT_IO) == Bypassed(PORT_IO, BypassReason.PASS_THROUGH)
    unit.set(IoCtl=0b10)
    assert is_translated(unit.access(iova=PORT_IO))


@pytest.mark.parametrize("iova", [0xFD_F900_0000, 0xFD_FE00_0000, 0xFE_0000_0000, 0xFF_FFFF_F000])
def test_ranges_without_a_control_are_translated(unit: Unit, iova: int) -> None:
    assert is_translated(unit.access(iova=iova))


@pytest.mark.parametrize(
    ("first", "last", "reason"),
    [
        (0xFD_0000_0000, 0xFD_F7FF_FFFC, AmdviFaultReason.RESERVED_INTERRUPT_RANGE),
        (0xFD_F800_0000, 0xFD_F8FF_FFFC, AmdviFaultReason.INTERRUPT_CONTROL),
        (0xFD_F910_0000, 0xFD_F91F_FFFC, AmdviFaultReason.SYSTEM_MANAGEMENT_WRITE),
        (0xFD_FC00_0000, 0xFD_FDFF_FFFC, AmdviFaultReason.PORT_IO),
        # What lies between them is memory, and not mapped here.
        (0xFD_F900_1000, 0xFD_F90F_FFFC, AmdviFaultReason.NOT_PRESENT),
        (0xFD_F920_0000, 0xFD_FBFF_FFFC, AmdviFaultReason.NOT_PRESENT),
        (0xFD_FE00_1000, 0xFD_FFFF_FFFC, AmdviFaultReason.NOT_PRESENT),
    ],
)
def test_each_hypertransport_range_goes_from_its_first_to_its_last_doubleword_table_3(
    unit: Unit, first: int, last: int, reason: AmdviFaultReason
) -> None:
    unit.set(IV=1, IntCtl=0b00)
    for iova in (first, last):
        assert_fault(unit.access(WRITE, iova=iova), reason)


@pytest.mark.parametrize("iova", [0xFD_F7FF_F000, 0xFD_F8FF_F000, 0xFD_F91F_F000, 0xFD_FDFF_F000])
def test_translation_request_for_a_hypertransport_range_is_invalid_to_its_last_page_2_1_2(
    unit: Unit, iova: int
) -> None:
    unit.set(I=1)
    assert_fault(unit.ats(iova=iova), AmdviFaultReason.TRANSLATION_REQUEST_ADDRESS)


def test_reserved_bits_of_the_exclusion_limit_do_not_count_3_4(unit: Unit) -> None:
    exclude(unit, 0x9000, 1 << 52 | 0xA000, Allow=1)
    assert isinstance(unit.access(iova=0xA000), Bypassed)
    assert_fault(unit.access(iova=0xB000), AmdviFaultReason.NOT_PRESENT)


def test_addresses_beside_the_hypertransport_ranges_are_memory(unit: Unit) -> None:
    for iova in (RESERVED - 0x1000, 0x100_0000_0000):
        assert_fault(unit.access(iova=iova), AmdviFaultReason.NOT_PRESENT)


def test_htrangeignore_makes_them_memory(unit: Unit) -> None:
    unit.registers["extended_feature_2"] = 1 << 11
    assert is_translated(unit.access(iova=PORT_IO))
    assert_fault(unit.access(WRITE, iova=RESERVED), AmdviFaultReason.NOT_PRESENT)


def test_they_are_memory_with_a_pasid() -> None:
    unit, guest = guest_unit()
    guest.map(PORT_IO, 0x5000, 0x1000)
    assert is_translated(unit.access(iova=PORT_IO, pasid=5))


# Exclusion range


def exclude(unit: Unit, first: int, last: int, **fields: int) -> None:
    unit.registers["exclusion_base"] = EXCLUSION_BASE.encode({"ExEn": 1, "Base": first, **fields})
    unit.registers["exclusion_limit"] = last


def test_the_exclusion_range_is_for_devices_with_ex(unit: Unit) -> None:
    exclude(unit, 0x9000, 0xA000)
    assert_fault(unit.access(iova=0x9000), AmdviFaultReason.NOT_PRESENT)
    unit.set(EX=1)
    assert unit.access(WRITE, iova=0x9000) == Bypassed(0x9000, BypassReason.EXCLUSION_RANGE)


def test_allow_excludes_every_device_and_the_limit_counts_whole_pages(unit: Unit) -> None:
    exclude(unit, 0x9000, 0xA000, Allow=1)
    for iova, excluded in ((0x8FFC, False), (0x9000, True), (0xAFFC, True), (0xB000, False)):
        assert isinstance(unit.access(iova=iova), Bypassed) is excluded


def test_an_exclusion_range_that_is_off_excludes_nothing(unit: Unit) -> None:
    exclude(unit, 0x9000, 0xA000, Allow=1, ExEn=0)
    assert isinstance(unit.access(iova=0x9000), Fault)


def test_exclusion_goes_before_the_permissions_of_the_entry_and_tv(unit: Unit) -> None:
    exclude(unit, IOVA & ~0xFFF, IOVA, Allow=1)
    unit.set(TV=0, IR=0, IW=0)
    assert isinstance(unit.access(WRITE), Bypassed)


def test_exclusion_does_not_forgive_an_illegal_entry_or_a_translated_request(unit: Unit) -> None:
    exclude(unit, IOVA & ~0xFFF, IOVA, Allow=1)
    assert_fault(unit.access(address_type=AddressType.TRANSLATED), AmdviFaultReason.TRANSLATED_REQUEST)
    unit.set(RSVD_2=1)
    assert_fault(unit.access(), AmdviFaultReason.DTE_RESERVED)


def test_requests_with_pasid_are_not_excluded() -> None:
    unit, _ = guest_unit()
    exclude(unit, IOVA & ~0xFFF, IOVA, Allow=1)
    assert isinstance(unit.access(pasid=5), Translated)
    assert isinstance(unit.access(), Bypassed)
