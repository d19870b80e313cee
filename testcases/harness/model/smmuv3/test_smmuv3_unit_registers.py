"""What the registers of an SMMU over time read as, and which writes are taken (IHI 0070 6.2, 6.3)."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smmuv3_driver import CMDQEN, EVENTQEN, ON, SMMUEN, Driver
from smmuv3_unit import SID, Unit

from harness.model.access import Bypassed, Fault
from harness.model.engine import NotModelled
from harness.model.smmuv3 import Smmuv3Terminated
from harness.model.smmuv3.register_map import PAGE_1, REGISTERS
from harness.model.smmuv3.registers import CR0, GBPA
from harness.model.unit import Readout

ALL = (1 << 32) - 1
ABORT, UPDATE = GBPA["ABORT"].mask, GBPA["UPDATE"].mask


def off(**caps: Any) -> Driver:
    """After a reset, and nothing else."""
    return Driver(Unit(caps=caps), enables=None)


def test_id_registers_read_as_they_were_given_and_are_read_only_6_3_1() -> None:
    driver = off()
    before = driver.read("IDR0")
    assert before == driver.tables.capabilities().idr0
    driver.write("IDR0", ~before & ALL)
    assert driver.read("IDR0") == before
    # 6.3.5, 6.3.7: for the implementation to define.
    assert (driver.known("IDR4"), driver.known("IIDR")) == (0, 0)


@pytest.mark.parametrize("name", ["CR0", "CR0ACK", "IRQ_CTRL", "IRQ_CTRLACK", "GERROR", "GERRORN"])
def test_reset_clears_what_it_must_6_3(name: str) -> None:
    driver = off()
    assert driver.read(name) == 0


@pytest.mark.parametrize("name", ["STRTAB_BASE", "CMDQ_PROD", "EVENTQ_CONS", "CR2"])
def test_reset_leaves_other_fields_unknown_6_3(name: str) -> None:
    driver = Driver()
    layout = REGISTERS[f"SMMU_{name}"].layout
    assert layout is not None
    driver.unit.reset()
    assert driver.known(name) & ~layout.reserved != ~layout.reserved & ALL


@pytest.mark.parametrize(
    ("caps", "bits"),
    [({}, 0b1101), ({"ATS": 1}, 0b1_1101), ({"PRI": 1}, 0b1111), ({"VMW": 1}, 0b1_1100_1101)],
)
def test_cr0ack_shows_the_fields_that_there_are_6_3_10(caps: dict[str, int], bits: int) -> None:
    driver = off(**caps)
    # Nothing is processed: the queues are empty.
    driver.set_up(0)
    driver.write("CR0", ALL)
    assert driver.read("CR0ACK") == bits
    # 6.2: RES0 bits read as zero, unless software wrote to them.
    assert driver.unit.read(REGISTERS["SMMU_CR0"].start, 4) == Readout(bits, bits)
    driver.write("CR0", 0)
    assert driver.read("CR0") == driver.read("CR0ACK") == 0


def test_irq_ctrlack_follows_irq_ctrl_6_3_18() -> None:
    driver = off()
    driver.write("IRQ_CTRL", 0b101)
    assert (driver.read("IRQ_CTRL"), driver.read("IRQ_CTRLACK")) == (0b101, 0b101)
    driver.write("IRQ_CTRL", 0b111)
    # PRIQ_IRQEN is Reserved without IDR0.PRI.
    assert driver.read("IRQ_CTRLACK") == 0b101


def test_halves_of_a_register_of_64_bits_are_written_and_read_apart_6_2() -> None:
    driver = off()
    at = REGISTERS["SMMU_STRTAB_BASE"].start
    driver.unit.write(at + 4, 4, 0x12)
    driver.unit.write(at, 4, 0x3456_7FC0)
    assert driver.read("STRTAB_BASE") == 0x12_3456_7FC0
    assert driver.unit.read(at + 4, 4) == Readout(0x12, ALL)
    driver.unit.write(at, 8, 0x40)
    assert driver.read("STRTAB_BASE") == 0x40


def test_address_bits_above_the_oas_need_not_be_stored_6_3_24() -> None:
    driver = off(address_bits=40)
    driver.write("STRTAB_BASE", 1 << 45 | 0x1000)
    readout = driver.unit.read(REGISTERS["SMMU_STRTAB_BASE"].start, 8)
    assert not readout.known >> 45 & 1
    assert readout.agrees(0x1000)
    assert readout.agrees(1 << 45 | 0x1000)
    assert not readout.agrees(0x2000)


def test_register_of_a_feature_that_is_not_there_is_res0_6_2() -> None:
    driver = off(MSI=0)
    assert driver.read("GERROR_IRQ_CFG0") == 0
    driver.write("GERROR_IRQ_CFG0", 0x1000)
    assert driver.known("GERROR_IRQ_CFG0") == ~0x1000 & (1 << 64) - 1


@pytest.mark.parametrize("offset", [0x38, 0x8C, 0x300, 0x8000, 0x8020, 0xC000])
def test_undefined_and_secure_locations_read_as_zero_6_2(offset: int) -> None:
    assert off().unit.read(offset, 4) == Readout(0, ALL)


@pytest.mark.parametrize("offset", [0xE00, 0xFE0, 0x1000, 0x9000, 0x2_0000])
def test_nothing_is_known_of_what_the_implementation_defines_6_2_1(offset: int) -> None:
    assert off().unit.read(offset, 4).known == 0


@pytest.mark.parametrize(("feature", "offset"), [("ATOS", 0x100), ("ECMDQ", 0x4000), ("MPAM", 0x130)])
def test_nothing_is_known_of_features_that_are_not_modelled(feature: str, offset: int) -> None:
    assert off(**{feature: 1}).unit.read(offset, 4).known == 0
    assert off().unit.read(offset, 4) == Readout(0, ALL)


@pytest.mark.parametrize(("offset", "size"), [(0x20, 1), (0x21, 2), (0x22, 4), (0x84, 8), (0x1_FFFC, 8)])
def test_illegal_reads_give_anything_6_2(offset: int, size: int) -> None:
    assert off().unit.read(offset, size).known == 0


def test_64_bit_access_to_two_registers_reaches_both_one_or_none_6_2() -> None:
    driver = off()
    at = REGISTERS["SMMU_EVENTQ_IRQ_CFG1"].start
    driver = off(MSI=1)
    driver.unit.write(at, 4, 5)
    driver.unit.write(at + 4, 4, 0x3F)
    assert driver.unit.read(at, 8).known == 0
    driver.unit.write(at, 8, 0x3F << 32 | 4)
    assert driver.known("EVENTQ_IRQ_CFG1") == ALL & ~1
    assert driver.read("EVENTQ_IRQ_CFG2") == 0x3F


def test_nothing_is_known_after_an_illegal_write_of_cr0_6_2() -> None:
    driver = Driver()
    driver.unit.write(0x20, 2, ON)
    assert driver.known("CR0") == 0
    with pytest.raises(NotModelled, match="illegal access"):
        driver.outcomes()
    driver.unit.reset()
    driver.set_up(ON)
    assert len(driver.outcomes()) == 1


def test_illegal_write_of_another_register_spoils_that_one_6_2() -> None:
    driver = Driver(enables=0)
    driver.unit.write(REGISTERS["SMMU_CR1"].start, 1, 0)
    assert driver.known("CR1") == 0xFFFF_F000
    assert driver.read("CR2") == 0


# Page 1.


def test_reserved_locations_of_page_1_are_zero_or_those_of_page_0_6_2() -> None:
    driver = Driver(enables=SMMUEN)
    alias = driver.unit.read(PAGE_1 + REGISTERS["SMMU_CR0"].start, 4)
    assert alias.agrees(0)
    assert alias.agrees(SMMUEN)
    assert not alias.agrees(CMDQEN)


def test_indexes_of_the_event_queue_may_be_seen_in_page_0_6_2_1() -> None:
    driver = Driver(enables=0)
    driver.write("EVENTQ_CONS", 5)
    seen = driver.unit.read(0xAC, 4)
    assert seen.agrees(0)
    assert seen.agrees(5)
    assert not seen.agrees(8)


def test_write_through_a_possible_alias_may_be_taken_or_not_6_2_1() -> None:
    driver = Driver(enables=0)
    driver.unit.write(0xAC, 4, 4)
    assert driver.known("EVENTQ_CONS") == ALL & ~4
    # With the value that is there already nothing is open.
    driver.write("EVENTQ_CONS", 0)
    driver.unit.write(0xAC, 4, 0)
    assert driver.read("EVENTQ_CONS") == 0
    driver.unit.write(PAGE_1 + REGISTERS["SMMU_CR0"].start, 4, 1)
    assert driver.known("CR0") == 0


# GBPA.


def test_gbpa_takes_a_write_with_update_and_shows_it_as_done_6_3_14() -> None:
    driver = Driver(enables=0, reset={"gbpa": 0x1000})
    assert isinstance(driver.outcomes()[0], Bypassed)
    driver.write("GBPA", UPDATE | ABORT)
    assert driver.known("GBPA") & (UPDATE | ABORT) == UPDATE | ABORT
    assert driver.unit.read(0x44, 4).value == ABORT
    (outcome,) = driver.outcomes()
    assert isinstance(outcome, Fault)
    assert outcome.code is Smmuv3Terminated.GLOBAL_ABORT


def test_gbpa_written_without_update_may_have_any_effect_6_3_14_1() -> None:
    driver = Driver(enables=0)
    driver.write("GBPA", ABORT)
    assert not driver.known("GBPA") & ABORT
    kinds = {type(outcome) for outcome in driver.outcomes()}
    assert kinds == {Bypassed, Fault}
    driver.write("GBPA", UPDATE)
    assert {type(outcome) for outcome in driver.outcomes()} == {Bypassed}


def test_gbpa_resets_to_what_the_implementation_has_6_3_14() -> None:
    driver = Driver(Unit(caps={"ATTR_TYPES_OVR": 1}), enables=None, reset={"gbpa": 0x1000 | ABORT})
    assert driver.read("GBPA") == 0x1000 | ABORT
    driver.write("GBPA", UPDATE)
    driver.unit.reset()
    assert driver.read("GBPA") == 0x1000 | ABORT
    # 6.3.14: attributes that are not used read as zero or as they were written.
    driver.write("GBPA", UPDATE | 0x2000)
    assert driver.known("GBPA") == ALL & ~0x2000


# Guards.


def test_cr2_is_read_only_while_smmuen_6_3_12() -> None:
    driver = Driver(enables=SMMUEN)
    driver.write("CR2", 2)
    assert driver.read("CR2") == 0
    driver.write("CR0", 0)
    driver.write("CR2", 2)
    assert driver.read("CR2") == 2


@pytest.mark.parametrize("name", ["STRTAB_BASE", "STRTAB_BASE_CFG", "CMDQ_BASE", "CMDQ_CONS"])
def test_moving_what_is_in_use_leaves_nothing_known_6_3_24(name: str) -> None:
    driver = Driver()
    driver.write(name, 0)
    assert driver.known("CR0") == 0
    with pytest.raises(NotModelled, match=name):
        driver.outcomes()


@pytest.mark.parametrize("name", ["EVENTQ_BASE", "EVENTQ_PROD"])
def test_moving_the_event_queue_in_use_leaves_it_unknown_6_3_29(name: str) -> None:
    driver = Driver()
    driver.write(name, 0)
    assert not driver.known(name) & 0xF
    assert len(driver.outcomes()) == 1
    with pytest.raises(NotModelled, match="recorded"):
        driver.outcomes(iova=0x1000)


def test_attributes_in_use_may_or_may_not_change_6_3_11() -> None:
    driver = Driver(enables=SMMUEN)
    driver.write("CR1", 0b10_11_10_10_11_10)
    assert driver.known("CR1") == ALL & ~0b10_11_10_00_00_00
    assert driver.unit.read(0x28, 4).value == 0b10_11_10


def test_message_registers_are_unknown_once_written_while_enabled_6_3_21() -> None:
    driver = off(MSI=1)
    driver.write("GERROR_IRQ_CFG1", 7)
    driver.write("IRQ_CTRL", 1)
    assert driver.read("GERROR_IRQ_CFG1") == 7
    driver.write("GERROR_IRQ_CFG1", 7)
    assert driver.known("GERROR_IRQ_CFG1") == 0


@pytest.mark.parametrize(
    ("flag", "name", "field"), [("TABLES_PRESET", "STRTAB_BASE_CFG", 8), ("QUEUES_PRESET", "CMDQ_BASE", 0x5003)]
)
def test_preset_registers_are_read_only_6_3_24(flag: str, name: str, field: int) -> None:
    driver = Driver(Unit(caps={flag: 1}), enables=None, reset={name.lower(): field})
    driver.write(name, 0)
    assert driver.read(name) == field


def test_unknown_stream_table_leaves_nothing_to_say_6_3_24() -> None:
    driver = off()
    driver.write("CR0", SMMUEN)
    with pytest.raises(NotModelled, match="STRTAB_BASE is UNKNOWN"):
        driver.outcomes()
    driver.write("CR0", 0)
    assert isinstance(driver.outcomes()[0], Bypassed)


# Queue indexes.


def test_index_bits_above_the_wrap_flag_6_3_27_6_3_28() -> None:
    driver = Driver(Unit(caps={"CMDQS": 6}), enables=0)
    driver.write("CMDQ_PROD", 0x35)
    driver.write("CMDQ_CONS", 0x35)
    # PROD may keep what was written, and is UNKNOWN above the largest wrap flag; CONS reads as zero there.
    prod = driver.unit.read(0x98, 4)
    assert prod.value == 5
    assert prod.known == ALL & ~0x30 & ~0xF_FF80
    assert driver.cons() == 5


def test_index_bits_are_unknown_after_the_queue_grows_6_3_27() -> None:
    driver = Driver(enables=0)
    driver.write("EVENTQ_CONS", 7)
    driver.write("EVENTQ_BASE", 5)
    assert driver.known("EVENTQ_CONS") & 0x3F == 0xF
    driver.write("EVENTQ_BASE", 1)
    assert driver.known("EVENTQ_CONS") & 3 == 3
    assert driver.unit.read(REGISTERS["SMMU_EVENTQ_CONS"].start, 4).value == 3


def test_toggling_an_inactive_error_leaves_it_open_whether_it_is_active_6_3_20() -> None:
    driver = Driver(enables=CMDQEN)
    driver.write("GERRORN", 1)
    assert (driver.read("GERRORN"), driver.read("GERROR")) == (1, 0)
    driver.submit(0xFF)
    assert driver.known("CR0") == 0


def test_toggling_it_back_makes_it_inactive_6_3_20() -> None:
    driver = Driver(enables=CMDQEN)
    driver.write("GERRORN", 1)
    driver.write("GERRORN", 0)
    driver.submit(0xFF)
    assert driver.read("GERROR") == 1


def test_fields_that_software_sets_are_counted() -> None:
    driver = Driver()
    counts = driver.coverage.counts
    assert counts["register", "CR0.SMMUEN"] == 1
    assert counts["register", "STRTAB_BASE.ADDR"] == 1
    assert ("register", "CR0.ATSCHK") not in counts


def test_places_name_registers_and_their_fields() -> None:
    place = Driver().unit.register_at(0x94)
    assert place is not None
    assert (place.name, place.start, place.size) == ("SMMU_CMDQ_BASE", 0x90, 8)
    assert Driver().unit.register_at(0x300) is None


@given(
    writes=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 0x2_0010), st.sampled_from([place.start for place in REGISTERS.values()])),
            st.sampled_from([1, 2, 4, 8]),
            st.integers(0, (1 << 64) - 1),
        ),
        max_size=12,
    )
)
def test_any_writes_leave_registers_that_can_be_read_and_accesses_that_are_answered(
    writes: list[tuple[int, int, int]],
) -> None:
    driver = Driver()
    for offset, size, value in writes:
        driver.unit.write(offset, size, value & (1 << 8 * size) - 1)
        for place in REGISTERS.values():
            readout = driver.unit.read(place.start, place.size)
            assert not readout.value >> 8 * place.size
            assert readout.agrees(readout.value)
    for requester in (SID, 0):
        with contextlib.suppress(NotModelled):
            assert driver.outcomes(requester=requester)


def test_enables_are_those_of_the_architecture() -> None:
    assert (SMMUEN, EVENTQEN, CMDQEN) == (1, 4, 8)
    assert CR0["PRIQEN"].mask == 2
