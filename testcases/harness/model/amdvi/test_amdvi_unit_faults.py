"""What a living unit makes of requests: outcomes, the event log, flags, interrupts (AMD-Vi 2.1, 2.2, 2.5)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amdvi_alive import COMMANDS, EVENTS, RUNNING, Alive, Offset, read_of
from amdvi_unit import DOMAIN, IOVA, MSI, NOWHERE, OUTPUT, RID

from harness.model.access import AccessKind, Bypassed, BypassReason, Fault, Translated
from harness.model.amdvi import AmdviEvent, AmdviEventCode, AmdviFaultReason, AmdviOpcode, make_command
from harness.model.amdvi.events import EVENTS as LAYOUTS
from harness.model.amdvi.formats import HostFormat
from harness.model.amdvi.register_fields import CAPABILITY_HEADER, CONTROL, STATUS
from harness.model.amdvi.registers import extended_features
from harness.model.engine import Interrupt, MsiWrite, Sending

ALL = make_command(AmdviOpcode.INVALIDATE_IOMMU_ALL)
MESSAGE = {"msi_header": 1 << 16, "msi_address_low": 0xFEE0_1000, "msi_data": 0x41, "device_id": 2}
SENT = MsiWrite(requester=2, address=0xFEE0_1000, data=0x41)
MAY_BE_SENT = replace(SENT, sending=Sending.OPTIONAL)


def flat(alive: Alive) -> Alive:
    """With everything invalidated."""
    alive.command(ALL)
    return alive


# Outcomes


def test_before_it_is_enabled_everything_passes() -> None:
    alive = Alive()
    alive.unit.reset()
    assert alive.access() == Bypassed(IOVA, BypassReason.TRANSLATION_OFF)


def test_a_mapped_page_is_translated_and_nothing_is_written_down() -> None:
    alive = Alive()
    before = alive.unit.memory.read(EVENTS, 16)
    outcome = alive.access()
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT
    assert alive.unit.memory.read(EVENTS, 16) == before
    assert alive.status() == {"EventLogRun", "CmdBufRun"}


def test_the_present_outcome_comes_first() -> None:
    alive = Alive()
    alive.table.unmap(IOVA, 0x1000)
    first, second = alive.unit.outcomes(read_of())
    assert (isinstance(first, Fault), isinstance(second, Translated)) == (True, True)
    assert alive.unit.explain(read_of()).outcome == first


def test_the_exclusion_range_is_where_the_registers_say() -> None:
    alive = flat(Alive())
    alive.write(Offset.EXCLUSION_LIMIT, IOVA + 0x1000)
    alive.write(Offset.EXCLUSION_BASE, IOVA + 0x1000 | 0b11)
    assert alive.access(read_of(IOVA + 0x1FFC)) == Bypassed(IOVA + 0x1FFC, BypassReason.EXCLUSION_RANGE)
    assert isinstance(alive.access(), Translated)
    alive.write(Offset.EXCLUSION_BASE, 0, 1)
    alive.fault(IOVA + 0x1FFC)


def test_another_device_table_is_used_when_its_register_is_written() -> None:
    alive = flat(Alive())
    alive.write(Offset.DEVICE_TABLE, 0x8_0003)
    outcomes = alive.unit.outcomes(read_of())
    assert outcomes[0] == Bypassed(IOVA, BypassReason.ENTRY_NOT_VALID)
    assert any(isinstance(outcome, Translated) for outcome in outcomes)
    alive.command(ALL)
    assert alive.unit.outcomes(read_of()) == (outcomes[0],)


# The event log


def test_a_fault_is_written_to_the_log() -> None:
    alive = Alive()
    fault = alive.fault()
    assert alive.event() == fault.record
    event = alive.event()
    assert (event.code, event["DeviceID"], event.address) == (AmdviEventCode.IO_PAGE_FAULT, RID, IOVA + 0x1000)
    assert alive.read(Offset.EVENT_TAIL) == 0x10
    assert alive.status() == {"EventLogRun", "CmdBufRun", "EventLogInt"}


@pytest.mark.parametrize("off", ["EventLogEn", "IommuEn"])
def test_a_log_that_is_off_takes_nothing(off: str) -> None:
    alive = Alive(control={**RUNNING, off: 0})
    alive.access(read_of(IOVA + 0x1000))
    assert alive.read(Offset.EVENT_TAIL) == 0
    assert alive.unit.memory.read(EVENTS, 16) == bytes(16)


def test_a_fault_that_is_not_reported_leaves_no_event() -> None:
    alive = Alive()
    alive.tables.set_fields(RID, {"SA": 1})
    flat(alive).fault()
    assert alive.read(Offset.EVENT_TAIL) == 0


def overflow(alive: Alive, length: int = 8) -> None:
    """Fill the log, and one event more."""
    for _ in range(1 << length):
        alive.fault()


def test_a_full_log_overflows_stops_and_loses_what_comes() -> None:
    alive = Alive(registers=MESSAGE, control={**RUNNING, "EventIntEn": 1})
    overflow(alive)
    assert alive.status() == {"CmdBufRun", "EventLogInt", "EventOverflow"}
    assert alive.read(Offset.EVENT_TAIL) == 255 * 16
    assert alive.unit.memory.read(EVENTS + 255 * 16, 16) == bytes(16)
    # For the first event, and for the overflow; those between may have one too.
    messages = alive.unit.take_interrupts()
    assert [number for number, each in enumerate(messages) if each == SENT] == [0, 255]
    assert set(messages) == {SENT, MAY_BE_SENT}
    alive.fault()
    assert alive.read(Offset.EVENT_TAIL) == 255 * 16
    assert alive.unit.take_interrupts() == ()


def test_a_log_starts_again_when_overflow_is_cleared_and_it_is_enabled() -> None:
    alive = Alive()
    overflow(alive)
    alive.write(Offset.CONTROL, CONTROL.encode({**RUNNING, "EventLogEn": 0}))
    alive.write(Offset.STATUS, STATUS.encode({"EventOverflow": 1}))
    alive.fault()
    assert alive.read(Offset.EVENT_TAIL) == 255 * 16
    alive.write(Offset.EVENT_HEAD, 0x10)
    alive.write(Offset.CONTROL, CONTROL.encode(RUNNING))
    alive.fault()
    assert alive.read(Offset.EVENT_TAIL) == 0
    assert alive.status() == {"EventLogRun", "CmdBufRun", "EventLogInt"}


def test_no_event_is_written_while_overflow_is_set() -> None:
    alive = Alive()
    overflow(alive)
    alive.write(Offset.EVENT_HEAD, 0x40)
    alive.write(Offset.CONTROL, CONTROL.encode(RUNNING))
    alive.fault()
    assert alive.read(Offset.EVENT_TAIL) == 255 * 16


def test_a_log_takes_as_many_events_as_its_base_says() -> None:
    alive = Alive(event_length=9)
    overflow(alive)
    assert alive.read(Offset.EVENT_TAIL) == 256 * 16


def test_a_message_must_tell_of_an_event_once_until_the_bit_is_cleared() -> None:
    alive = Alive(registers=MESSAGE, control={**RUNNING, "EventIntEn": 1})
    alive.fault()
    alive.fault()
    assert alive.unit.take_interrupts() == (SENT, MAY_BE_SENT)
    alive.write(Offset.STATUS, STATUS.encode({"EventLogInt": 1}))
    alive.fault()
    assert alive.unit.take_interrupts() == (SENT,)


def test_no_message_tells_of_an_event_while_that_is_disabled_and_one_may_once_it_is_enabled() -> None:
    alive = Alive(registers=MESSAGE)
    alive.fault()
    assert alive.unit.take_interrupts() == (replace(SENT, sending=Sending.DISABLED),)
    alive.write(Offset.CONTROL, CONTROL.encode({**RUNNING, "EventIntEn": 1, "ComWaitIntEn": 1}))
    assert alive.unit.take_interrupts() == (MAY_BE_SENT,)


def test_a_log_that_no_memory_answers_for_goes_on() -> None:
    alive = Alive(control={"IommuEn": 1})
    alive.write(Offset.EVENT_BASE, NOWHERE | 8 << 56)
    alive.write(Offset.CONTROL, CONTROL.encode(RUNNING))
    alive.fault()
    assert alive.read(Offset.EVENT_TAIL) == 0x10
    assert alive.unit.structure_at(NOWHERE) is None


def test_the_entry_of_the_log_has_the_cause_and_the_fields_of_its_event() -> None:
    alive = Alive()
    alive.fault()
    alive.command(0xF << 60)
    for number, (name, code) in enumerate(
        (
            ("event log entry of NOT_PRESENT", AmdviEventCode.IO_PAGE_FAULT),
            ("event log entry", AmdviEventCode.ILLEGAL_COMMAND_ERROR),
        )
    ):
        place = alive.unit.structure_at(EVENTS + 16 * number + 5)
        assert place is not None
        assert (place.name, place.start, place.size) == (name, EVENTS + 16 * number, 16)
        assert place.layout == LAYOUTS[code]
    assert alive.unit.structure_at(EVENTS - 1) is None
    assert alive.unit.structure_at(COMMANDS) is None


@pytest.mark.parametrize(
    ("fields", "free"),
    [
        ({}, {"RW", "PE", "RZ"}),
        ({"PR": 1, "PE": 1}, {"RZ"}),
        ({"PR": 1, "RZ": 1}, set()),
        ({"PR": 1, "I": 1}, {"RW"}),
        ({"PR": 1, "TR": 1}, {"RW"}),
    ],
)
def test_the_bits_of_a_page_fault_that_say_nothing_2_5_3(fields: dict[str, int], free: set[str]) -> None:
    layout = LAYOUTS[AmdviEventCode.IO_PAGE_FAULT]
    event = AmdviEvent.make(AmdviEventCode.IO_PAGE_FAULT, fields)
    assert event.meaningless == sum(layout[name].mask for name in free)


def test_no_other_event_has_such_bits() -> None:
    others = [code for code in AmdviEventCode if code is not AmdviEventCode.IO_PAGE_FAULT]
    assert not any(AmdviEvent.make(code, {}).meaningless for code in others)


def test_an_event_may_be_written_with_its_meaningless_bits_either_way() -> None:
    alive = Alive()
    access = read_of(IOVA + 0x1000, kind=AccessKind.WRITE)
    (outcome,) = alive.unit.outcomes(access)
    seen = set()
    for write in alive.unit.settle(access, outcome):
        state = bytearray(alive.unit.memory.read(EVENTS, 16))
        state[write.address - EVENTS] = write.data[0]
        seen.add(AmdviEvent.decode(bytes(state)))
    assert isinstance(outcome, Fault)
    assert isinstance(outcome.record, AmdviEvent)
    assert len(seen) == 7
    assert outcome.record not in seen
    assert {event.bits & ~outcome.record.meaningless for event in seen} == {
        outcome.record.bits & ~outcome.record.meaningless
    }


# SE, which keeps a device's page faults after the first out of the log


def test_with_se_the_first_page_fault_is_written_down_and_the_next_may_be() -> None:
    alive = Alive()
    alive.tables.set_fields(RID, {"SE": 1})
    flat(alive)
    assert len(alive.unit.outcomes(read_of(IOVA + 0x1000))) == 1
    fault = alive.fault()
    assert alive.unit.outcomes(read_of(IOVA + 0x1000)) == (fault, replace(fault, record=None))
    alive.access(read_of(IOVA + 0x1000), choice=1)
    assert alive.read(Offset.EVENT_TAIL) == 0x10


def test_after_a_reset_the_next_page_fault_is_the_first() -> None:
    alive = Alive()
    alive.tables.set_fields(RID, {"SE": 1})
    alive.fault()
    alive.unit.reset()
    alive.turn_on()
    assert len(alive.unit.outcomes(read_of(IOVA + 0x1000))) == 1


def test_an_se_that_is_stale_counts_until_the_entry_is_invalidated() -> None:
    alive = Alive()
    alive.tables.set_fields(RID, {"SE": 1})
    flat(alive).fault()
    alive.tables.set_fields(RID, {"SE": 0})
    assert any(
        isinstance(outcome, Fault) and outcome.record is None for outcome in alive.unit.outcomes(read_of(IOVA + 0x1000))
    )
    flat(alive)
    assert len(alive.unit.outcomes(read_of(IOVA + 0x1000))) == 1


def test_without_se_every_page_fault_is_written_down() -> None:
    alive = flat(Alive())
    alive.fault()
    assert len(alive.unit.outcomes(read_of(IOVA + 0x1000))) == 1


# Accessed and dirty flags


def dirty(alive: Alive) -> int:
    return alive.unit.memory.read_u64(alive.table.entry_address(IOVA, 1)) >> 5 & 3


def flagged() -> Alive:
    """A unit whose device has HAD=11b."""
    alive = Alive(features=extended_features())
    alive.tables.set_fields(RID, {"HAD": 0b11})
    return flat(alive)


def test_a_walk_sets_accessed_and_dirty_flags_2_2_3() -> None:
    alive = flagged()
    assert dirty(alive) == 0
    assert alive.access(read_of(kind=AccessKind.WRITE)) == alive.unit.outcomes(read_of(kind=AccessKind.WRITE))[0]
    assert dirty(alive) == 0b11


def test_a_flag_that_caches_may_have_spared_is_returned_and_not_set() -> None:
    alive = flagged()
    alive.unit.store(0x5_0000, b"x")
    access = read_of()
    writes = alive.unit.settle(access, alive.unit.outcomes(access)[0])
    assert dirty(alive) == 0
    for write in writes:
        alive.unit.store(write.address, write.data)
    assert dirty(alive) == 0b01


def test_no_flag_is_set_without_the_feature() -> None:
    alive = flat(Alive())
    alive.access()
    assert dirty(alive) == 0


# Interrupts


@pytest.mark.parametrize(("asks", "modes"), [(0, [0]), (1, [0, 1])])
def test_with_rqeoi_either_trigger_mode_is_allowed(asks: int, modes: list[int]) -> None:
    alive = Alive()
    alive.tables.attach_interrupts(RID).set(3, {"Vector": 0x41, "RqEoi": asks})
    flat(alive)
    outcomes = alive.unit.interrupts(MsiWrite(requester=RID, address=MSI, data=3))
    assert [each.data for each in outcomes if isinstance(each, Interrupt)] == [0x4041 | mode << 15 for mode in modes]


def test_an_interrupt_is_remapped_by_its_entry() -> None:
    alive = Alive()
    table = alive.tables.attach_interrupts(RID)
    table.set(5, {"Vector": 0x33, "Destination": 2})
    write = MsiWrite(requester=RID, address=MSI, data=5)
    flat(alive)
    (outcome,) = alive.unit.interrupts(write)
    assert isinstance(outcome, Interrupt)
    assert (outcome.remapped, outcome.data & 0xFF) == (True, 0x33)
    table.set(5, {"Vector": 0x44})
    both = alive.unit.interrupts(write)
    assert [entry.data & 0xFF for entry in both if isinstance(entry, Interrupt)] == [0x44, 0x33]
    alive.command(make_command(AmdviOpcode.INVALIDATE_INTERRUPT_TABLE, {"DeviceID": RID}))
    assert alive.unit.interrupts(write) == both[:1]


def test_an_interrupt_that_is_blocked_is_written_down() -> None:
    alive = Alive()
    alive.tables.attach_interrupts(RID)
    flat(alive)
    write = MsiWrite(requester=RID, address=MSI, data=5)
    (outcome,) = alive.unit.interrupts(write)
    alive.unit.settle_interrupt(write, outcome)
    assert isinstance(outcome, Fault)
    assert outcome.code is AmdviFaultReason.INTERRUPT_NOT_ENABLED
    assert alive.event() == outcome.record
    assert alive.event()["I"] == 1


def test_a_posted_interrupt_sets_its_bit() -> None:
    control = {**RUNNING, "GAEn": 1, "GAMEn": 1}
    alive = Alive(features=extended_features(), control=control)
    table = alive.tables.attach_interrupts(RID, wide=True)
    table.set(5, {"GuestMode": 1, "Vector": 0x21, "GuestVirtualAPICTableRoot": 0x50})
    flat(alive)
    write = MsiWrite(requester=RID, address=MSI, data=5)
    (outcome,) = alive.unit.interrupts(write)
    alive.unit.settle_interrupt(write, outcome)
    assert alive.unit.memory.read_u64(0x5_0210) == 1 << 1


# A point to come back to


def test_restore_takes_back_what_settling_did_and_may_be_done_again() -> None:
    alive = Alive(registers=MESSAGE, control={**RUNNING, "EventIntEn": 1})
    alive.tables.set_fields(RID, {"SE": 1})
    flat(alive)
    state = alive.unit.save()
    fresh = alive.unit.outcomes(read_of(IOVA + 0x1000))
    for _ in range(2):
        alive.fault()
        assert alive.read(Offset.EVENT_TAIL) == 0x10
        alive.fault()
        alive.unit.restore(state)
        assert alive.unit.memory.read(EVENTS, 32) == bytes(32)
        assert alive.read(Offset.EVENT_TAIL) == 0
        assert alive.status() == {"EventLogRun", "CmdBufRun"}
        assert alive.unit.outcomes(read_of(IOVA + 0x1000)) == fresh
    assert alive.unit.take_interrupts() == ()


def test_what_was_settled_stays_without_restore() -> None:
    alive = Alive()
    alive.unit.save()
    alive.fault()
    alive.unit.store(0x5_0000, b"x")
    state = alive.unit.save()
    alive.unit.restore(state)
    assert alive.event().code == AmdviEventCode.IO_PAGE_FAULT
    assert alive.read(Offset.EVENT_TAIL) == 0x10


def test_messages_from_before_are_there_after_restore() -> None:
    alive = Alive(registers=MESSAGE, control={**RUNNING, "EventIntEn": 1})
    alive.fault()
    state = alive.unit.save()
    alive.unit.restore(state)
    assert alive.unit.take_interrupts() == (SENT,)


def test_a_device_whose_tables_are_nowhere_finds_what_others_of_its_domain_have_cached_and_gives_nothing() -> None:
    alive = Alive()
    alive.tables.attach(0x30, DOMAIN, table=alive.table, overrides={"HostPageTableRoot": NOWHERE})
    flat(alive)
    for domain, kinds in ((DOMAIN, [Fault, Translated]), (DOMAIN + 1, [Fault])):
        alive.tables.set_fields(0x30, {"DomainID": domain})
        flat(alive)
        assert isinstance(alive.access(), Translated)
        assert [type(each) for each in alive.unit.outcomes(read_of(requester=0x30))] == kinds
        assert [type(each) for each in alive.unit.outcomes(read_of())] == [Translated]


def test_a_requester_of_another_domain_does_not_share_what_is_stale() -> None:
    alive = Alive()
    other = alive.tables.attach(0x30, DOMAIN + 1)
    other.map(IOVA, OUTPUT + 0x10_0000, 0x1000)
    flat(alive)
    alive.table.unmap(IOVA, 0x1000)
    (outcome,) = alive.unit.outcomes(read_of(requester=0x30))
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT + 0x10_0000


def test_a_walk_tells_of_another_domainid_until_all_is_invalidated() -> None:
    alive = Alive()

    def reasons(iova: int = IOVA) -> list[str]:
        return [step.reason for step in alive.unit.explain(read_of(iova)).steps if step.reason]

    alive.tables.set_fields(RID, {"IR": 0})
    assert reasons() == []
    alive.tables.set_fields(RID, {"IR": 1, "DomainID": DOMAIN + 1})
    assert reasons() == reasons(IOVA + 0x1000) == ["DomainID was another"]
    flat(alive)
    assert reasons() == []


@pytest.mark.parametrize(("size", "at", "differs"), [(0x4000, 1, True), (0x4000, 3, False), (0x1000, 1, False)])
def test_a_walk_tells_of_an_entry_that_is_not_like_the_one_before_it_in_its_page(
    size: int, at: int, differs: bool
) -> None:
    alive = Alive()
    table = alive.tables.attach(RID, DOMAIN, host_format=HostFormat(every_size=True))
    for page in range(0x10_0000, 0x10_4000, size):
        table.map(page, OUTPUT + page, size, largest_page=size)
    for page in range(0x10_1000, 0x10_4000, 0x1000):
        table.set_fields(page, 1, {"IW": 0})
    steps = alive.unit.explain(read_of(0x10_0000 + 0x1000 * at)).steps
    assert steps[-1].reason == ("entries of its page differ" if differs else "")


def test_an_event_as_it_came_to_look_is_taken_back_with_the_others() -> None:
    alive = Alive()
    access = read_of(IOVA + 0x1000)
    state = alive.unit.save()
    (outcome,) = alive.unit.outcomes(access)
    (other, *_) = alive.unit.settle(access, outcome)
    alive.unit.store(other.address, other.data)
    assert alive.unit.memory.read(other.address, 1) == other.data
    alive.unit.restore(state)
    assert alive.unit.memory.read(EVENTS, 16) == bytes(16)


def test_while_nothing_is_written_down_one_fault_stands_for_all() -> None:
    faults = {}
    for log in (0, 1):
        alive = flat(Alive(control={**RUNNING, "EventLogEn": log}))
        alive.tables.set_fields(RID, {"Mode": 7})
        pte = alive.table.entry_address(IOVA, 1)
        alive.unit.store(pte, (alive.unit.memory.read_u64(pte) & ~(1 << 61)).to_bytes(8, "little"))
        outcomes = alive.unit.outcomes(read_of())
        faults[log] = [outcome for outcome in outcomes if isinstance(outcome, Fault)]
        assert sum(isinstance(outcome, Translated) for outcome in outcomes) == 1
    assert (len(faults[0]), len(faults[1])) == (1, 2)
    assert faults[0][0].code is AmdviFaultReason.DTE_INVALID_LEVEL


def test_sa_of_another_device_does_not_suppress_what_it_brought_into_a_cache() -> None:
    alive = Alive(registers={"capability_header": CAPABILITY_HEADER.encode({"CapId": 0xF, "CapType": 3, "NpCache": 1})})
    alive.tables.attach(0x30, DOMAIN, table=alive.table, overrides={"SA": 1})
    flat(alive)
    assert alive.fault(requester=0x30).record is None
    (outcome,) = alive.unit.outcomes(read_of(IOVA + 0x1000))
    assert isinstance(outcome, Fault)
    assert outcome.record is not None
