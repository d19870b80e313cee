"""Every fault reason of the AMD-Vi model, reached by a test that names it, with the event it leaves (AMD-Vi 2.5)."""

from __future__ import annotations

from pathlib import Path

import pytest
from amdvi_unit import DOMAIN, GUEST_BASE, IOVA, MSI, NOWHERE, OUTPUT, RID, Unit, guest_unit, nested_unit, record_of
from reasons import assert_every_code_is_reached, assert_fault

from harness.model.access import AccessKind, AddressType, Bypassed, BypassReason, Completion, Fault, Translated
from harness.model.amdvi import AmdviEventCode, AmdviFaultReason
from harness.model.amdvi.events import HardwareErrorType
from harness.model.amdvi.registers import extended_features

WRITE = AccessKind.WRITE
PASID = 5


@pytest.fixture
def unit() -> Unit:
    unit = Unit()
    unit.map()
    return unit


def assert_page_fault(outcome: object, reason: AmdviFaultReason, level: int | None = None, **fields: int) -> None:
    """An IO_PAGE_FAULT of a read without PASID, at IOVA, of the host tables, with these flags besides."""
    assert_fault(outcome, reason, level=level)
    assert isinstance(outcome, Fault)
    assert outcome.stage == (None if reason is AmdviFaultReason.TRANSLATION_NOT_VALID else 2)
    assert reason.event_code is AmdviEventCode.IO_PAGE_FAULT
    assert record_of(outcome) == {"DeviceID": RID, "DomainID_PASID_15_0": DOMAIN, "Address": IOVA, **fields}


# ILLEGAL_DEV_TABLE_ENTRY (2.5.2)


@pytest.mark.parametrize("bit", [2, 6, 63])
def test_reserved_bit_of_a_valid_entry_is_illegal_with_rz(unit: Unit, bit: int) -> None:
    address = unit.tables.entry_address(RID)
    unit.memory.write_u64(address, unit.memory.read_u64(address) | 1 << bit)
    outcome = unit.access(WRITE)
    assert_fault(outcome, AmdviFaultReason.DTE_RESERVED)
    assert record_of(outcome) == {"DeviceID": RID, "RW": 1, "RZ": 1, "Address": IOVA & ~3}


@pytest.mark.parametrize(
    ("feature", "fields"),
    [
        ("HASup", {"HAD": 1}),
        ("PPRSup", {"PPR": 1}),
        ("GIoSup", {"GIoV": 1}),
        ("GTSup", {"GV": 1}),
        ("GTSup", {"GLX": 1}),
        ("SNPSup", {"SATS": 1}),
    ],
)
def test_a_field_is_reserved_without_its_feature_2_2_2_1(unit: Unit, feature: str, fields: dict[str, int]) -> None:
    unit.set(**fields)
    unit.extended_feature = extended_features(features={})
    assert_fault(unit.access(), AmdviFaultReason.DTE_RESERVED)
    unit.extended_feature = extended_features(features={feature: 1, "GTSup": 1})
    assert isinstance(unit.access(), Translated)


def test_had_10b_and_had_11b_without_hdsup_are_reserved(unit: Unit) -> None:
    unit.set(HAD=0b10)
    assert_fault(unit.access(), AmdviFaultReason.DTE_RESERVED)
    unit.set(HAD=0b11)
    unit.extended_feature = extended_features(features={"HASup": 1})
    assert_fault(unit.access(), AmdviFaultReason.DTE_RESERVED)


@pytest.mark.parametrize(("mode", "host_levels"), [(7, 6), (5, 4), (6, 5), (1, 0)])
def test_mode_that_hats_lacks_is_an_illegal_level_without_rz(unit: Unit, mode: int, host_levels: int) -> None:
    unit.extended_feature = extended_features(host_levels=host_levels)
    unit.set(Mode=mode)
    outcome = unit.access()
    assert_fault(outcome, AmdviFaultReason.DTE_INVALID_LEVEL)
    assert "RZ" not in record_of(outcome)


def test_a_root_pointer_is_illegal_without_host_translation(unit: Unit) -> None:
    unit.extended_feature = extended_features(host_levels=0)
    unit.set(Mode=0)
    assert_fault(unit.access(), AmdviFaultReason.DTE_INVALID_LEVEL)
    unit.set(HostPageTableRoot=0)
    assert unit.access() == Bypassed(IOVA, BypassReason.PASS_THROUGH)


@pytest.mark.parametrize("fields", [{"GLX": 3}, {"GLX": 2}, {"GuestPagingMode": 1}, {"GuestPagingMode": 2}])
def test_guest_levels_beyond_the_features_are_illegal(fields: dict[str, int]) -> None:
    unit, _ = guest_unit()
    unit.extended_feature = extended_features(guest_levels=4, guest_cr3_levels=2)
    assert isinstance(unit.access(pasid=PASID), Translated)
    unit.set(**fields)
    assert_fault(unit.access(pasid=PASID), AmdviFaultReason.DTE_INVALID_LEVEL)


def test_iocontrol_11b_is_illegal_where_it_is_used(unit: Unit) -> None:
    unit.set(IoCtl=0b11)
    assert isinstance(unit.access(), Translated)
    assert_fault(unit.access(iova=0xFD_FC00_0000), AmdviFaultReason.DTE_IO_CONTROL)


def test_interrupt_control_11b_is_illegal(unit: Unit) -> None:
    unit.tables.attach_interrupts(RID, overrides={"IntCtl": 0b11})
    outcome = unit.msi()
    assert_fault(outcome, AmdviFaultReason.DTE_INTERRUPT_CONTROL)
    assert record_of(outcome) == {"DeviceID": RID, "I": 1, "RZ": 1, "Address": 0xFEE0_0000}


def test_interrupt_table_length_above_1011b_is_illegal(unit: Unit) -> None:
    unit.tables.attach_interrupts(RID, overrides={"IntTabLen": 0b1100})
    assert_fault(unit.msi(), AmdviFaultReason.DTE_INTERRUPT_TABLE_LENGTH)


@pytest.mark.parametrize("name", ["RSVD_180", "RSVD_192", "RSVD_240"])
def test_reserved_bits_of_the_upper_half_concern_interrupts_alone(unit: Unit, name: str) -> None:
    unit.tables.attach_interrupts(RID, overrides={name: 1})
    assert isinstance(unit.access(), Translated)
    assert_fault(unit.msi(), AmdviFaultReason.DTE_RESERVED)


def test_reserved_bits_of_the_lower_half_do_not_concern_interrupts(unit: Unit) -> None:
    unit.tables.attach_interrupts(RID).set(5, {"Vector": 0x41})
    unit.set(RSVD_2=1)
    assert not isinstance(unit.msi(), Fault)


# IO_PAGE_FAULT of memory requests (2.5.3)


def test_device_beyond_the_table_faults() -> None:
    outcome = Unit().access(requester=4 * 128)
    assert_fault(outcome, AmdviFaultReason.DEVICE_BEYOND_TABLE)
    assert record_of(outcome) == {"DeviceID": 512, "Address": IOVA}
    assert isinstance(Unit().access(requester=4 * 128 - 1), Bypassed)


def test_tv_0_ends_the_walk(unit: Unit) -> None:
    unit.set(TV=0)
    assert_page_fault(unit.access(), AmdviFaultReason.TRANSLATION_NOT_VALID)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
def test_address_above_the_topmost_table_faults(levels: int) -> None:
    unit = Unit()
    table = unit.map(levels)
    assert isinstance(unit.access(iova=IOVA & (1 << table.width) - 1), Translated)
    outcome = unit.access(iova=1 << table.width)
    assert_fault(outcome, AmdviFaultReason.ADDRESS_BEYOND_TABLE, level=levels, stage=2)


def test_skipped_address_bits_must_be_zero_2_2_3(unit: Unit) -> None:
    table = unit.map()
    table.set_fields(IOVA, 4, {"NextLevel": 2, "Address": table.entry_address(IOVA, 2) & ~0xFFF})
    assert_page_fault(unit.access(), AmdviFaultReason.SKIPPED_BITS, 4)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_an_entry_that_is_not_present_faults_without_pr(unit: Unit, level: int) -> None:
    unit.map().set_fields(IOVA, level, {"PR": 0, "RSVD_52": 1})
    assert_page_fault(unit.access(), AmdviFaultReason.NOT_PRESENT, level)


def test_a_write_sets_rw(unit: Unit) -> None:
    unit.map().set_fields(IOVA, 1, {"PR": 0})
    assert_page_fault(unit.access(WRITE), AmdviFaultReason.NOT_PRESENT, 1, RW=1)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_reserved_bit_of_an_entry_faults_with_rz(unit: Unit, level: int) -> None:
    unit.map().set_fields(IOVA, level, {"RSVD_52": 1})
    assert_page_fault(unit.access(), AmdviFaultReason.ENTRY_RESERVED, level, PR=1, RZ=1)


@pytest.mark.parametrize(("level", "following"), [(1, 1), (1, 6), (2, 2), (3, 5), (4, 4)])
def test_a_next_level_that_is_not_below_faults_without_rz(unit: Unit, level: int, following: int) -> None:
    unit.map().set_fields(IOVA, level, {"NextLevel": following})
    assert_page_fault(unit.access(), AmdviFaultReason.INVALID_LEVEL, level, PR=1)


@pytest.mark.parametrize("following", [0, 7])
def test_level_6_holds_no_pages(following: int) -> None:
    unit = Unit()
    unit.map(6).set_fields(IOVA, 6, {"NextLevel": following})
    assert_page_fault(unit.access(), AmdviFaultReason.INVALID_LEVEL, 6, PR=1)


@pytest.mark.parametrize(("level", "ones"), [(1, 8), (2, 7), (2, 8), (2, 17), (3, 8)])
def test_an_encoded_size_outside_of_its_level_faults(unit: Unit, level: int, ones: int) -> None:
    unit.map().set_fields(IOVA, level, {"NextLevel": 7, "Address": ((1 << ones) - 1) << 12})
    assert_page_fault(unit.access(), AmdviFaultReason.INVALID_PAGE_SIZE, level, PR=1)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize(("name", "kind"), [("IR", AccessKind.READ), ("IW", WRITE)])
def test_a_permission_that_a_level_lacks_faults_with_pe(unit: Unit, level: int, name: str, kind: AccessKind) -> None:
    unit.map().set_fields(IOVA, level, {name: 0})
    flags = {"PR": 1, "PE": 1, "RW": 1} if kind is WRITE else {"PR": 1, "PE": 1}
    if level == 1:
        assert_page_fault(unit.access(kind), AmdviFaultReason.NO_PERMISSION, level, **flags)
    else:
        assert_page_fault(unit.access(kind), AmdviFaultReason.NO_PERMISSION_OF_TABLE, level, **flags)
    other = AccessKind.READ if kind is WRITE else WRITE
    assert isinstance(unit.access(other), Translated)


def test_executing_without_pasid_is_reading(unit: Unit) -> None:
    unit.map().set_fields(IOVA, 1, {"IR": 0})
    assert_fault(unit.access(AccessKind.EXECUTE), AmdviFaultReason.NO_PERMISSION, level=1)


@pytest.mark.parametrize("mode", [0, 4])
def test_the_device_table_entry_takes_permissions_from_every_page_2_2_2_1(unit: Unit, mode: int) -> None:
    unit.set(Mode=mode, IW=0)
    assert_page_fault(unit.access(WRITE), AmdviFaultReason.NO_PERMISSION_OF_DEVICE, PR=1, PE=1, RW=1)
    assert not isinstance(unit.access(), Fault)


@pytest.mark.parametrize(("levels", "bit"), [(4, 47), (4, 48), (4, 63), (5, 56), (5, 57)])
def test_a_guest_address_that_is_not_canonical_faults(levels: int, bit: int) -> None:
    unit, _ = guest_unit(levels=levels)
    outcome = unit.access(iova=1 << bit, pasid=PASID)
    assert_fault(outcome, AmdviFaultReason.NOT_CANONICAL, stage=1)
    fields = {"DeviceID": RID, "DomainID_PASID_15_0": PASID, "GN": 1, "US": 1, "Address": 1 << bit}
    assert record_of(outcome) == fields


def test_a_supervisor_page_refuses_user_requests_with_us() -> None:
    unit, guest = guest_unit()
    guest.set_fields(IOVA, 1, {"US": 0})
    outcome = unit.access(pasid=PASID)
    assert_fault(outcome, AmdviFaultReason.SUPERVISOR_PAGE, stage=1, level=1)
    assert {"PR", "PE", "US", "GN"} <= record_of(outcome).keys()
    assert isinstance(unit.access(pasid=PASID, privileged=True), Translated)


def test_a_privileged_fault_has_us_0() -> None:
    unit, guest = guest_unit()
    guest.set_fields(IOVA, 1, {"P": 0})
    assert "US" not in record_of(unit.access(pasid=PASID, privileged=True))


def test_executing_a_no_execute_page_faults_with_nx() -> None:
    unit, _ = guest_unit()
    outcome = unit.access(AccessKind.EXECUTE, pasid=PASID)
    assert_fault(outcome, AmdviFaultReason.NO_PERMISSION, stage=1, level=1)
    assert record_of(outcome)["NX"] == 1


@pytest.mark.parametrize("gten", [0, 1])
def test_a_pasid_needs_gv_and_gten(unit: Unit, gten: int) -> None:
    if not gten:
        unit, _ = guest_unit()
    unit.control["GTEn"] = gten
    assert_fault(unit.access(pasid=PASID), AmdviFaultReason.PASID_NOT_ENABLED)


@pytest.mark.parametrize(("glx", "pasid"), [(0, 1 << 9), (1, 1 << 18)])
def test_a_pasid_beyond_the_gcr3_table_faults_with_its_upper_bits(glx: int, pasid: int) -> None:
    unit, _ = guest_unit(glx=glx)
    outcome = unit.access(pasid=pasid)
    assert_fault(outcome, AmdviFaultReason.PASID_BEYOND_TABLE)
    fields = record_of(outcome)
    assert fields.get("PASID_19_16", 0) << 16 | fields.get("DomainID_PASID_15_0", 0) == pasid


def test_a_pasid_beyond_pasmax_faults() -> None:
    unit, _ = guest_unit()
    unit.extended_feature = extended_features(pasid_bits=2)
    assert_fault(unit.access(pasid=PASID), AmdviFaultReason.PASID_BEYOND_TABLE)


@pytest.mark.parametrize("glx", [0, 1, 2])
def test_a_pasid_without_gcr3_entry_faults(glx: int) -> None:
    unit, _ = guest_unit(glx=glx)
    assert_fault(unit.access(pasid=PASID + 1), AmdviFaultReason.GCR3_NOT_PRESENT, stage=1)
    if glx:
        assert_fault(unit.access(pasid=PASID + 512), AmdviFaultReason.GCR3_NOT_PRESENT, stage=1)


@pytest.mark.parametrize("bit", [1, 11, 52, 63])
def test_a_reserved_bit_of_a_gcr3_entry_faults_with_rz(bit: int) -> None:
    unit, _ = guest_unit()
    unit.memory.write_u64(unit.gcr3_entry, unit.memory.read_u64(unit.gcr3_entry) | 1 << bit)
    outcome = unit.access(pasid=PASID)
    assert_fault(outcome, AmdviFaultReason.GCR3_RESERVED, stage=1)
    assert {"PR", "RZ"} <= record_of(outcome).keys()


def test_sa_suppresses_page_faults_and_nothing_else_2_2_2_1(unit: Unit) -> None:
    unit.set(SA=1)
    outcome = unit.access(iova=IOVA + 0x1000)
    assert isinstance(outcome, Fault)
    assert outcome.record is None
    unit.set(Mode=7)
    outcome = unit.access()
    assert isinstance(outcome, Fault)
    assert outcome.record is not None


# Hardware errors (2.5.4, 2.5.5)


def test_a_device_table_outside_of_memory_is_a_hardware_error() -> None:
    unit = Unit(registers={"device_table_base": NOWHERE | 3})
    for outcome, i in ((unit.access(), 0), (unit.msi(), 1)):
        assert_fault(outcome, AmdviFaultReason.DEVICE_TABLE_ACCESS)
        fields = dict(record_of(outcome))
        assert fields.pop("I", 0) == i
        expected = {"DeviceID": RID, "Type": HardwareErrorType.MASTER_ABORT, "Address": NOWHERE + 32 * RID}
        assert fields == expected


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_page_table_outside_of_memory_is_a_hardware_error(unit: Unit, level: int) -> None:
    unit.map().set_fields(IOVA, level + 1, {"Address": NOWHERE})
    outcome = unit.access()
    assert_fault(outcome, AmdviFaultReason.PAGE_TABLE_ACCESS, stage=2, level=level)
    entry = NOWHERE + (IOVA >> 3 + 9 * level & 0x1FF) * 8
    expected = {"DeviceID": RID, "DomainID_PASID_15_0": DOMAIN, "Type": HardwareErrorType.MASTER_ABORT}
    assert record_of(outcome) == {**expected, "Address": entry}


def test_a_root_pointer_outside_of_memory_is_a_hardware_error(unit: Unit) -> None:
    unit.set(HostPageTableRoot=NOWHERE)
    assert_fault(unit.access(), AmdviFaultReason.PAGE_TABLE_ACCESS, level=4)


def test_a_guest_table_outside_of_memory_is_a_hardware_error() -> None:
    unit, guest = guest_unit()
    guest.set_fields(IOVA, 3, {"Address": NOWHERE})
    outcome = unit.access(pasid=PASID)
    assert_fault(outcome, AmdviFaultReason.PAGE_TABLE_ACCESS, stage=1, level=2)
    assert record_of(outcome)["DomainID_PASID_15_0"] == PASID
    unit, _ = guest_unit()
    unit.set(GCR3_14_12=0, GCR3_30_15=NOWHERE >> 15, GCR3_51_31=0)
    assert_fault(unit.access(pasid=PASID), AmdviFaultReason.PAGE_TABLE_ACCESS, stage=1)


def test_an_interrupt_table_outside_of_memory_is_a_hardware_error(unit: Unit) -> None:
    unit.tables.attach_interrupts(RID, overrides={"IntTableRoot_51_6": NOWHERE >> 6})
    outcome = unit.msi(4)
    assert_fault(outcome, AmdviFaultReason.INTERRUPT_TABLE_ACCESS)
    assert record_of(outcome)["I"] == 1
    assert record_of(outcome)["Address"] == NOWHERE + 16


# Nesting (2.2.6)


def test_a_host_page_that_is_missing_under_a_guest_table_faults_in_stage_2() -> None:
    unit, guest, host = nested_unit()
    table = guest.entry_address(IOVA, 1) & ~0xFFF
    host.set_fields(table, 1, {"PR": 0})
    outcome = unit.access(pasid=PASID)
    assert_fault(outcome, AmdviFaultReason.NOT_PRESENT, stage=2, level=1)
    assert isinstance(outcome, Fault)
    assert outcome.iova == IOVA & ~0xFFF


def test_a_host_page_that_is_missing_under_the_guest_page_faults_in_stage_2() -> None:
    unit, _, host = nested_unit()
    host.set_fields(OUTPUT, 1, {"IR": 0})
    assert_fault(unit.access(pasid=PASID), AmdviFaultReason.NO_PERMISSION, stage=2, level=1)
    outcome = unit.access(WRITE, pasid=PASID)
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT + GUEST_BASE


# Translation requests of an IOTLB (2.1.3.2, 2.5.9)


def test_a_page_fault_of_a_translation_request_is_answered_and_not_logged(unit: Unit) -> None:
    unit.set(I=1)
    outcome = unit.ats(iova=IOVA + 0x1000)
    assert_fault(outcome, AmdviFaultReason.NOT_PRESENT)
    assert isinstance(outcome, Fault)
    assert (outcome.record, outcome.completion) == (None, Completion.NO_PERMISSION)
    assert isinstance(unit.ats(), Translated)


def test_an_illegal_entry_aborts_a_translation_request_and_is_logged_with_tr(unit: Unit) -> None:
    unit.set(I=1, Mode=7)
    outcome = unit.ats()
    assert_fault(outcome, AmdviFaultReason.DTE_INVALID_LEVEL)
    assert isinstance(outcome, Fault)
    assert outcome.completion is Completion.COMPLETER_ABORT
    assert record_of(outcome)["TR"] == 1


@pytest.mark.parametrize("fields", [{"V": 0}, {"I": 0}, {"TV": 0}])
def test_a_translation_request_takes_i_v_and_tv(unit: Unit, fields: dict[str, int]) -> None:
    unit.set(**{"I": 1, **fields})
    outcome = unit.ats()
    assert_fault(outcome, AmdviFaultReason.TRANSLATION_REQUEST)
    assert isinstance(outcome, Fault)
    assert outcome.completion is Completion.UNSUPPORTED_REQUEST
    assert record_of(outcome) == {"DeviceID": RID, "TR": 1, "Address": IOVA}


@pytest.mark.parametrize("iova", [0xFEE0_0000, 0xFD_0000_0000, 0xFD_F910_0000, 0xFD_FC00_0000])
def test_a_translation_request_for_no_memory_is_invalid(unit: Unit, iova: int) -> None:
    unit.set(I=1)
    outcome = unit.ats(iova=iova)
    assert_fault(outcome, AmdviFaultReason.TRANSLATION_REQUEST_ADDRESS)
    assert record_of(outcome) == {"DeviceID": RID, "TR": 1, "Type": 1, "Address": iova}


def test_a_translation_request_of_a_device_beyond_the_table_is_invalid() -> None:
    outcome = Unit().ats(requester=512)
    assert_fault(outcome, AmdviFaultReason.TRANSLATION_REQUEST_DEVICE)
    assert record_of(outcome)["Type"] == 2


@pytest.mark.parametrize("fields", [{"V": 0}, {"I": 0}])
def test_a_translated_request_takes_i_and_v(unit: Unit, fields: dict[str, int]) -> None:
    unit.set(**{"I": 1, **fields})
    outcome = unit.access(address_type=AddressType.TRANSLATED)
    assert_fault(outcome, AmdviFaultReason.TRANSLATED_REQUEST)
    assert record_of(outcome) == {"DeviceID": RID, "Type": 1, "Address": IOVA}
    unit.set(V=1, I=1)
    assert unit.access(address_type=AddressType.TRANSLATED) == Bypassed(IOVA, BypassReason.TRANSLATED_REQUEST)


def test_an_event_names_the_device_without_its_segment_2_5(unit: Unit) -> None:
    requester = 7 << 16 | RID
    outcome = unit.access(requester=requester, iova=0)
    assert_fault(outcome, AmdviFaultReason.NOT_PRESENT)
    assert record_of(outcome)["DeviceID"] == RID
    unit.set(IV=1, IntCtl=0b00)
    interrupt = unit.msi(address=MSI | 0x1004, requester=requester)
    fault = assert_fault(interrupt, AmdviFaultReason.INTERRUPT_CONTROL)
    assert record_of(interrupt)["DeviceID"] == RID
    assert (fault.requester, fault.iova) == (requester, MSI | 0x1000)


def test_every_fault_reason_is_reached() -> None:
    assert_every_code_is_reached(AmdviFaultReason, Path(__file__).parent.glob("test_amdvi_*.py"))
