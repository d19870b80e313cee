"""Interrupt remapping in both formats (AMD-Vi 2.2.5)."""

from __future__ import annotations

import pytest
from amdvi_unit import DOMAIN, MSI, RID, Unit, record_of
from hypothesis import given, settings
from hypothesis import strategies as st
from reasons import assert_fault

from harness.model.access import Fault, MemoryWrite
from harness.model.amdvi import AmdviFaultReason
from harness.model.amdvi.device_table import DTE
from harness.model.amdvi.registers import extended_features
from harness.model.amdvi.tables import InterruptTable
from harness.model.engine import Interrupt, MsiWrite, PostedInterrupt
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.x86_message import DeliveryMode, X86Message

INDEX = 5


def narrow_unit(**overrides: int) -> tuple[Unit, InterruptTable]:
    unit = Unit()
    return unit, unit.tables.attach_interrupts(RID, overrides=overrides)


def wide_unit(**control: int) -> tuple[Unit, InterruptTable]:
    unit = Unit(control={"IommuEn": 1, "GAEn": 1, **control})
    return unit, unit.tables.attach_interrupts(RID, wide=True)


def message(destination: int, vector: int, **fields: bool) -> Interrupt:
    return Interrupt(*X86Message(destination=destination, vector=vector, **fields).encode(), remapped=True)  # type: ignore[arg-type]


def as_it_is(data: int, address: int = MSI) -> Interrupt:
    return Interrupt(address, data, remapped=False)


# What is not remapped


def test_nothing_is_remapped_before_iommuen() -> None:
    unit, _ = narrow_unit()
    unit.control = {}
    assert unit.msi(0x41) == as_it_is(0x41)


def test_iv_0_forwards_every_interrupt_2_2_2_2() -> None:
    unit, _ = narrow_unit(IV=0, IntCtl=0, RSVD_180=1)
    for mode in DeliveryMode:
        assert unit.msi(mode << 8) == as_it_is(mode << 8)


def test_interrupts_are_remapped_whatever_v_is() -> None:
    unit, table = narrow_unit(V=0)
    table.set(INDEX, {"Vector": 0x41, "Destination": 3})
    assert unit.msi(INDEX) == message(3, 0x41)


def test_a_write_elsewhere_is_no_interrupt() -> None:
    unit, _ = narrow_unit()
    assert unit.msi(INDEX, address=0xFED0_0000) == as_it_is(INDEX, 0xFED0_0000)


def test_intctl_01b_forwards_fixed_and_arbitrated_interrupts() -> None:
    unit, _ = narrow_unit(IntCtl=0b01)
    for mode in (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY):
        assert unit.msi(mode << 8 | 0x41) == as_it_is(mode << 8 | 0x41)


def test_intctl_00b_aborts_fixed_and_arbitrated_interrupts_with_type_101b() -> None:
    unit, _ = narrow_unit(IntCtl=0b00)
    outcome = unit.msi(0x41)
    assert_fault(outcome, AmdviFaultReason.INTERRUPT_CONTROL)
    assert record_of(outcome) == {"DeviceID": RID, "Type": 0b101, "Address": MSI}


@pytest.mark.parametrize(
    ("mode", "name"),
    [(DeliveryMode.NMI, "NMIPass"), (DeliveryMode.INIT, "InitPass"), (DeliveryMode.EXT_INT, "EIntPass")],
)
@pytest.mark.parametrize("control", [0b00, 0b10])
def test_pass_bits_decide_on_the_other_modes(mode: DeliveryMode, name: str, control: int) -> None:
    unit, _ = narrow_unit(IntCtl=control)
    outcome = unit.msi(mode << 8)
    assert_fault(outcome, AmdviFaultReason.INTERRUPT_ABORTED)
    assert record_of(outcome) == {"DeviceID": RID, "I": 1, "Address": MSI}
    unit.set(**{name: 1})
    assert unit.msi(mode << 8) == as_it_is(mode << 8)


@pytest.mark.parametrize("mode", [3, 6])
def test_reserved_delivery_modes_are_aborted(mode: int) -> None:
    unit, _ = narrow_unit(NMIPass=1, InitPass=1, EIntPass=1)
    assert_fault(unit.msi(mode << 8), AmdviFaultReason.INTERRUPT_ABORTED)


def test_smi_is_forwarded() -> None:
    unit, _ = narrow_unit(IntCtl=0b00)
    assert unit.msi(DeliveryMode.SMI << 8) == as_it_is(DeliveryMode.SMI << 8)


# 32-bit entries (2.2.5.1)


def test_a_32_bit_entry_by_hand() -> None:
    unit, table = narrow_unit()
    # Vector 0x41, destination 0x23, DM, RqEoi, arbitrated, RemapEn.
    unit.memory.write(table.root + 4 * INDEX, (0x0041_2365).to_bytes(4, "little"))
    # The message: destination in bits 19:12 and DM in bit 2 of the address; level, asserted and arbitrated in the data.
    assert unit.msi(INDEX) == Interrupt(0xFEE2_3004, 0xC141, remapped=True)


def long_unit() -> tuple[Unit, InterruptTable]:
    unit = Unit(control={"IommuEn": 1, "NumIntRemapMode": 1}, registers={"extended_feature_2": 1 << 8})
    return unit, unit.tables.attach_interrupts(RID, 11)


def test_the_index_is_bits_10_to_0_of_the_data_and_10_to_8_the_delivery_mode() -> None:
    unit = Unit()
    table = unit.tables.attach_interrupts(RID, 11)
    for index in (0, 1, 0xFF, 0x100, 0x1FF):
        table.set(index, {"Vector": index & 0xFF})
        assert unit.msi(index | 0xFFFF_F800) == message(0, index & 0xFF)
    table.set(0x400, {"Vector": 0x41})
    assert_fault(unit.msi(0x400), AmdviFaultReason.INTERRUPT_ABORTED)


@pytest.mark.parametrize("index", [0, 0x200, 0x400, 0x7FF])
def test_with_long_tables_dm_says_that_the_data_is_an_index(index: int) -> None:
    unit, table = long_unit()
    table.set(index, {"Vector": 0x41})
    assert unit.msi(index, address=MSI | 4) == message(0, 0x41)
    assert_fault(unit.msi(index ^ 1, address=MSI | 4), AmdviFaultReason.INTERRUPT_NOT_ENABLED)


def test_a_message_without_dm_has_its_delivery_mode_also_with_long_tables() -> None:
    unit, _ = long_unit()
    unit.set(NMIPass=1)
    nmi = DeliveryMode.NMI << 8
    assert unit.msi(nmi) == as_it_is(nmi)


@pytest.mark.parametrize("mode", [DeliveryMode.SMI, DeliveryMode.NMI, DeliveryMode.INIT, DeliveryMode.EXT_INT])
def test_dm_is_for_fixed_and_arbitrated_interrupts(mode: DeliveryMode) -> None:
    unit, table = narrow_unit(NMIPass=1, InitPass=1, EIntPass=1)
    assert_fault(unit.msi(mode << 8, address=MSI | 4), AmdviFaultReason.INTERRUPT_ABORTED)
    table.set(INDEX, {"Vector": 0x41})
    assert unit.msi(INDEX, address=MSI | 4) == message(0, 0x41)


def test_what_stands_behind_the_table_is_shown_where_an_index_is_beyond_it() -> None:
    unit, table = narrow_unit()
    unit.memory.write(table.root + 4 * 32, (0x0041_2301).to_bytes(4, "little"))
    steps, _ = unit.engine().explain_msi(MsiWrite(requester=RID, address=MSI, data=32))
    assert (steps[-1].value, steps[-1].note) == (0x0041_2301, "beyond the end of the table")


def test_an_index_beyond_the_table_faults_and_ig_keeps_it_quiet() -> None:
    unit, _ = narrow_unit()
    outcome = unit.msi(32)
    assert_fault(outcome, AmdviFaultReason.INTERRUPT_BEYOND_TABLE)
    assert record_of(outcome) == {"DeviceID": RID, "I": 1, "Address": MSI}
    unit.set(IG=1)
    outcome = unit.msi(32)
    assert isinstance(outcome, Fault)
    assert outcome.record is None


@pytest.mark.parametrize(("ig", "suppress", "logged"), [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_remapen_0_faults_without_pr(ig: int, suppress: int, logged: bool) -> None:
    unit, table = narrow_unit(IG=ig, DomainID=DOMAIN)
    table.set(INDEX, {"RemapEn": 0, "SupIOPF": suppress, "RSVD_24": 1})
    outcome = unit.msi(INDEX)
    assert_fault(outcome, AmdviFaultReason.INTERRUPT_NOT_ENABLED)
    if logged:
        assert record_of(outcome) == {"DeviceID": RID, "DomainID_PASID_15_0": DOMAIN, "I": 1, "Address": MSI}
    else:
        assert isinstance(outcome, Fault)
        assert outcome.record is None


@pytest.mark.parametrize("name", ["RSVD_7", "RSVD_24"])
def test_a_reserved_bit_of_an_entry_faults_with_rz(name: str) -> None:
    unit, table = narrow_unit(IG=1)
    table.set(INDEX, {name: 1})
    outcome = unit.msi(INDEX)
    assert_fault(outcome, AmdviFaultReason.INTERRUPT_ENTRY_RESERVED)
    assert record_of(outcome) == {"DeviceID": RID, "I": 1, "PR": 1, "RZ": 1, "Address": MSI}
    table.set(INDEX, {name: 1, "SupIOPF": 1})
    outcome = unit.msi(INDEX)
    assert isinstance(outcome, Fault)
    assert outcome.record is None


@pytest.mark.parametrize("kind", range(2, 8))
@pytest.mark.parametrize("wide", [False, True])
def test_only_fixed_and_arbitrated_types_are_remapped_to(kind: int, wide: bool) -> None:
    unit, table = wide_unit() if wide else narrow_unit()
    table.set(INDEX, {"IntType": kind})
    outcome = unit.msi(INDEX)
    assert_fault(outcome, AmdviFaultReason.INTERRUPT_TYPE)
    assert record_of(outcome)["RZ"] == 1


def test_bit_6_of_the_table_pointer_is_ignored_tables_have_128_bytes() -> None:
    unit, table = narrow_unit()
    table.set(INDEX, {"Vector": 0x41})
    unit.set(IntTableRoot_51_6=table.root >> 6 | 1)
    assert unit.msi(INDEX) == message(0, 0x41)


# 128-bit entries (2.2.5.2)


def test_a_128_bit_entry_by_hand() -> None:
    unit, table = wide_unit(XTEn=1)
    unit.memory.write_u64(table.root + 16 * INDEX, 0x2345_6701)
    unit.memory.write_u64(table.root + 16 * INDEX + 8, 0x8900_0000_0000_0041)
    assert unit.msi(INDEX) == Interrupt(0x8923_4500_FEE6_7000, 0x4041, remapped=True)


@pytest.mark.parametrize("fields", [{"Destination": 0x100}, {"DestinationHi": 1}])
def test_wide_destinations_are_reserved_without_xten(fields: dict[str, int]) -> None:
    unit, table = wide_unit()
    table.set(INDEX, {"Vector": 0x41, **fields})
    assert_fault(unit.msi(INDEX), AmdviFaultReason.INTERRUPT_ENTRY_RESERVED)
    unit.control["XTEn"] = 1
    assert isinstance(unit.msi(INDEX), Interrupt)


def test_xten_and_gaen_take_their_features() -> None:
    unit, table = wide_unit(XTEn=1)
    table.set(INDEX, {"Vector": 0x41, "Destination": 0x100})
    unit.extended_feature = extended_features(features={"GASup": 1})
    assert_fault(unit.msi(INDEX), AmdviFaultReason.INTERRUPT_ENTRY_RESERVED)
    unit.extended_feature = extended_features(features={"XTSup": 1})
    # Entries of 4 bytes now: number 20 is what was the start of number 5.
    assert unit.msi(4 * INDEX) == message(0, 1)


@pytest.mark.parametrize("name", ["RSVD_32", "RSVD_72"])
def test_a_reserved_bit_of_a_wide_entry_faults(name: str) -> None:
    unit, table = wide_unit()
    table.set(INDEX, {name: 1})
    assert_fault(unit.msi(INDEX), AmdviFaultReason.INTERRUPT_ENTRY_RESERVED)


GUEST = {"GuestMode": 1, "Vector": 0x7A, "GuestVirtualAPICTableRoot": 0x9_0000 >> 12}


def test_guest_mode_posts_into_irr_of_the_backing_page() -> None:
    unit, table = wide_unit(GAMEn=1)
    table.set(INDEX, GUEST)
    unit.memory.write(0x9_0230, b"\x01\x00\x00\x80")
    # Vector 0x7A: the fourth register of IRR, bit 26.
    written = MemoryWrite(0x9_0230, b"\x01\x00\x00\x84")
    assert unit.msi(INDEX) == PostedInterrupt(0x9_0000, 0x7A, None, (written,))


def test_a_running_guest_gets_a_doorbell() -> None:
    unit, table = wide_unit(GAMEn=1, XTEn=1)
    table.set(INDEX, {**GUEST, "IsRun": 1, "Destination": 0x12, "DestinationHi": 1})
    outcome = unit.msi(INDEX)
    assert isinstance(outcome, PostedInterrupt)
    assert outcome.notify == message(0x0100_0012, 0)


def test_a_backing_page_outside_of_memory_takes_no_write() -> None:
    unit, table = wide_unit(GAMEn=1)
    table.set(INDEX, {**GUEST, "GuestVirtualAPICTableRoot": 0x7000_0000 >> 12})
    outcome = unit.msi(INDEX)
    assert isinstance(outcome, PostedInterrupt)
    assert outcome.writes == ()


def test_guest_mode_is_reserved_without_the_virtual_apic() -> None:
    unit, table = wide_unit()
    table.set(INDEX, GUEST)
    assert_fault(unit.msi(INDEX), AmdviFaultReason.INTERRUPT_ENTRY_RESERVED)


@pytest.mark.parametrize("name", ["RSVD_3", "RSVD_72", "RSVD_116"])
def test_a_reserved_bit_of_a_guest_entry_faults(name: str) -> None:
    unit, table = wide_unit(GAMEn=1)
    table.set(INDEX, {**GUEST, name: 1})
    assert_fault(unit.msi(INDEX), AmdviFaultReason.INTERRUPT_ENTRY_RESERVED)


# Steps, and random entries


@pytest.mark.parametrize("wide", [False, True])
def test_the_entry_is_a_step_with_its_tags(wide: bool) -> None:
    unit, table = wide_unit() if wide else narrow_unit()
    table.set(INDEX, {"Vector": 0x41})
    steps, _ = unit.engine().explain_msi(MsiWrite(requester=RID, address=MSI, data=INDEX))
    device, entry = steps
    assert (device.size, entry.size) == (32, 16 if wide else 4)
    assert entry.address == table.entry_address(INDEX)
    assert entry.value == int.from_bytes(unit.memory.read(table.entry_address(INDEX), entry.size), "little")
    assert entry.cached == CachedEntry(kind=EntryKind.INTERRUPT, requester=RID, index=INDEX)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, (1 << 256) - 1),
    st.binary(min_size=16, max_size=16),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 32) - 1),
)
def test_random_entries_give_an_outcome(dte: int, entry: bytes, control: int, feature: int, data: int) -> None:
    unit = Unit()
    unit.extended_feature = feature
    unit.memory.write(unit.tables.entry_address(RID), (dte | DTE["IV"].mask).to_bytes(32, "little"))
    unit.set(RSVD_180=0, RSVD_192=0, RSVD_240=0, IntTableRoot_51_6=0x9_0000 >> 6)
    for size in (4, 16):
        unit.memory.write(0x9_0000 + (data & 0x7FF) * size, entry)
    unit.control = {"IommuEn": 1, "GAEn": control & 1, "XTEn": control >> 1 & 1, "GAMEn": control >> 2 & 7}
    assert isinstance(unit.msi(data), Interrupt | PostedInterrupt | Fault)
