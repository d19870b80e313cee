"""Commands that an SMMU over time takes, and the events and errors that it records (IHI 0070 3.5, 4, 7)."""

from __future__ import annotations

import pytest
from smmuv3_driver import CFGI_ALL, CMDQEN, COMMANDS, EVENTQEN, EVENTS, ON, SMMUEN, SYNC, TLBI_ALL, Driver
from smmuv3_unit import IOVA, NOWHERE, SID, Unit

from harness.model.access import Fault
from harness.model.engine import MsiWrite, NotModelled
from harness.model.smmuv3 import Smmuv3Event, Smmuv3EventType, Smmuv3Opcode
from harness.model.smmuv3.commands import command_bits
from harness.model.smmuv3.events import event_layout
from harness.model.smmuv3.register_map import REGISTERS
from harness.model.smmuv3.registers import GERROR

OVERFLOW = 1 << 31
CMDQ_ERR, EVENTQ_ABT_ERR = GERROR["CMDQ_ERR"].mask, GERROR["EVENTQ_ABT_ERR"].mask


def sync(**fields: int) -> int:
    return command_bits(Smmuv3Opcode.CMD_SYNC, **fields)


# Commands.


def test_write_of_cmdq_prod_has_commands_taken_4_1_2() -> None:
    driver = Driver()
    driver.queue(CFGI_ALL, SYNC)
    assert driver.cons() == 0
    driver.write("CMDQ_PROD", 2)
    assert driver.cons() == 2


def test_what_software_writes_to_err_is_unknown_6_3_28() -> None:
    driver = Driver()
    driver.write("CR0", 0)
    driver.write("CMDQ_CONS", 3 << 24)
    assert driver.known("CMDQ_CONS") == ~(0x7F << 24) & (1 << 32) - 1


def test_queue_wraps_3_5_1() -> None:
    driver = Driver()
    for _ in range(5):
        driver.submit(SYNC, SYNC, SYNC)
    assert driver.cons() == 15
    driver.submit(SYNC)
    assert driver.cons() == 0


def test_commands_wait_for_cmdqen_6_3_9_3() -> None:
    driver = Driver(enables=SMMUEN)
    driver.submit(SYNC)
    assert driver.cons() == 0
    driver.write("CR0", ON)
    assert driver.cons() == 1


def test_illegal_command_stops_the_queue_until_it_is_acknowledged_7_1() -> None:
    driver = Driver()
    driver.submit(SYNC, 0xFF, SYNC)
    assert driver.cons() == 1
    assert driver.read("CMDQ_CONS") >> 24 == 1
    assert driver.read("GERROR") == CMDQ_ERR
    driver.submit(SYNC)
    assert driver.cons() == 1
    # The erroneous command is replaced; no write of PROD is needed.
    driver.unit.store(COMMANDS + 16, SYNC.to_bytes(16, "little"))
    driver.write("GERRORN", CMDQ_ERR)
    assert driver.cons() == 4
    # 6.3.28: ERR is UNKNOWN again.
    assert driver.known("CMDQ_CONS") == ~(0x7F << 24) & (1 << 32) - 1


def test_error_is_active_where_gerror_and_gerrorn_differ_7_5() -> None:
    driver = Driver()
    driver.submit(0xFF)
    driver.unit.store(COMMANDS, SYNC.to_bytes(16, "little"))
    driver.write("GERRORN", CMDQ_ERR)
    driver.submit(0xFF)
    assert (driver.read("GERROR"), driver.read("GERRORN")) == (0, CMDQ_ERR)
    assert driver.cons() == 1


def test_command_that_cannot_be_read_is_an_abort_7_1() -> None:
    driver = Driver(enables=SMMUEN)
    driver.write("CMDQ_BASE", NOWHERE | 3)
    driver.write("CR0", ON)
    driver.write("CMDQ_PROD", 1)
    assert driver.read("CMDQ_CONS") == 2 << 24
    assert driver.read("GERROR") == CMDQ_ERR


def test_inconsistent_command_indexes_leave_nothing_known_3_5_1() -> None:
    driver = Driver()
    driver.write("CMDQ_PROD", 9)
    assert driver.known("CMDQ_CONS") == 0
    with pytest.raises(NotModelled, match="inconsistent"):
        driver.outcomes()


def test_inconsistent_indexes_do_not_matter_while_the_queue_is_off_3_5_1() -> None:
    driver = Driver(enables=0)
    driver.write("CMDQ_PROD", 9)
    driver.write("CMDQ_PROD", 0)
    driver.write("CR0", ON)
    assert driver.cons() == 0


def test_unknown_command_queue_leaves_nothing_known() -> None:
    driver = Driver(enables=None)
    driver.write("CR0", CMDQEN)
    assert driver.known("GERROR") == 0


def test_sync_writes_its_message_to_memory_4_7_3() -> None:
    driver = Driver(Unit(caps={"MSI": 1}))
    driver.submit(sync(CS=1, MSIADDRESS=0xA_0000 >> 2, MSIDATA=0x1234_5678))
    assert driver.unit.memory.read(0xA_0000, 4) == bytes.fromhex("78563412")
    assert driver.unit.take_interrupts() == ()


def test_message_to_where_there_is_no_memory_is_an_interrupt_3_18() -> None:
    driver = Driver(Unit(caps={"MSI": 1}))
    driver.submit(sync(CS=1, MSIADDRESS=NOWHERE >> 2, MSIDATA=5))
    assert driver.unit.take_interrupts() == (MsiWrite(requester=0, address=NOWHERE, data=5),)
    assert driver.unit.take_interrupts() == ()


def test_commands_are_counted_with_their_forms() -> None:
    driver = Driver()
    va = command_bits(Smmuv3Opcode.CMD_TLBI_NH_VA, LEAF=1, TG=1, NUM=3, TTL=3)
    driver.submit(CFGI_ALL, va, SYNC, 0xFF)
    counts = driver.coverage.counts
    assert counts["command", "CMD_CFGI_STE_RANGE all"] == 1
    assert counts["command", "CMD_TLBI_NH_VA leaf range"] == 1
    assert counts["command", "CMD_SYNC"] == 1
    assert counts["command", "reserved opcode"] == 1


# Events.


def test_event_of_a_fault_is_written_to_the_queue_7_2() -> None:
    driver = Driver()
    record = driver.fault()
    assert driver.event(0) == record.encode()
    assert Smmuv3Event.decode(driver.event(0)).type == Smmuv3EventType.F_TRANSLATION
    assert driver.read("EVENTQ_PROD") == 1


def test_outcomes_alone_change_nothing() -> None:
    driver = Driver()
    assert isinstance(driver.outcomes(iova=0x1000)[0], Fault)
    assert driver.read("EVENTQ_PROD") == 0
    assert driver.event(0) == bytes(32)


def test_event_queue_wraps_and_overflows_until_it_is_acknowledged_7_4() -> None:
    driver = Driver()
    for _ in range(8):
        driver.fault()
    assert driver.read("EVENTQ_PROD") == 8
    last = driver.event(7)
    driver.fault(0x2000)
    assert driver.read("EVENTQ_PROD") == OVERFLOW | 8
    assert driver.event(7) == last
    driver.fault()
    assert driver.read("EVENTQ_PROD") == OVERFLOW | 8
    # Room, unacknowledged: recorded all the same.
    driver.write("EVENTQ_CONS", 1)
    record = driver.fault(0x3000)
    assert driver.event(0) == record.encode()
    assert driver.read("EVENTQ_PROD") == OVERFLOW | 9
    driver.write("EVENTQ_CONS", OVERFLOW | 1)
    driver.fault()
    assert driver.read("EVENTQ_PROD") == 9
    assert driver.read("GERROR") == 0


def test_disabled_event_queue_takes_nothing_and_does_not_overflow_7_2_1() -> None:
    driver = Driver(enables=SMMUEN)
    driver.fault()
    assert driver.event(0) == bytes(32)
    assert driver.read("EVENTQ_PROD") == 0


def test_event_that_cannot_be_written_is_a_global_error_7_2_2() -> None:
    driver = Driver(enables=0)
    driver.write("EVENTQ_BASE", NOWHERE | 3)
    driver.write("CR0", ON)
    driver.fault()
    assert (driver.read("EVENTQ_PROD"), driver.read("GERROR")) == (0, EVENTQ_ABT_ERR)
    # Not writable until it is acknowledged, and the error is not toggled again.
    driver.fault()
    assert driver.read("GERROR") == EVENTQ_ABT_ERR
    driver.write("GERRORN", EVENTQ_ABT_ERR)
    driver.fault()
    assert driver.read("GERROR") == 0


def test_inconsistent_event_indexes_leave_open_where_an_event_goes_3_5_1() -> None:
    driver = Driver()
    driver.write("EVENTQ_CONS", 1)
    assert len(driver.outcomes()) == 1
    with pytest.raises(NotModelled, match="recorded"):
        driver.outcomes(iova=0x1000)


@pytest.mark.parametrize(("cr2", "count"), [(0, 1), (2, 2)])
def test_bad_stream_id_is_recorded_or_not_where_that_is_permitted_6_3_12(cr2: int, count: int) -> None:
    driver = Driver(enables=0)
    driver.write("CR2", cr2)
    driver.write("CR0", ON)
    outcomes = driver.outcomes(requester=0x1_0000)
    records = [outcome.record for outcome in outcomes if isinstance(outcome, Fault)]
    assert len(records) == count
    assert records[-1] is None
    assert (records[0] is not None) == (count == 2)


@pytest.mark.parametrize("merges", [False, True])
def test_like_events_may_share_a_record_where_the_smmu_merges_7_3_1(merges: bool) -> None:
    driver = Driver(options={"merges_events": merges})
    driver.tables.tables.set_fields(SID, {"MEV": 1})
    driver.fault()
    assert len(driver.outcomes(iova=0x1000)) == 1 + merges
    assert len(driver.outcomes(iova=0x8000)) == 1


def test_stalled_transaction_has_no_outcome_3_12_2() -> None:
    driver = Driver()
    driver.tables.cd.set_fields(0, {"S": 1})
    with pytest.raises(NotModelled, match="stalled"):
        driver.outcomes(iova=0x1000)


def test_interrupts_of_the_event_queue_and_of_errors_3_18_2_7_5_1() -> None:
    driver = Driver(Unit(caps={"MSI": 1}), enables=0)
    for source, data in (("EVENTQ", 7), ("GERROR", 9)):
        driver.write(f"{source}_IRQ_CFG0", 0xA_0000 + data * 8)
        driver.write(f"{source}_IRQ_CFG1", data)
    driver.write("IRQ_CTRL", 0b101)
    driver.write("CR0", ON)
    driver.fault()
    assert driver.unit.memory.read(0xA_0038, 4) == bytes([7, 0, 0, 0])
    driver.unit.store(0xA_0038, bytes(4))
    # The queue is not empty any more: no second interrupt.
    driver.fault()
    assert driver.unit.memory.read(0xA_0038, 4) == bytes(4)
    driver.submit(0xFF)
    assert driver.unit.memory.read(0xA_0048, 4) == bytes([9, 0, 0, 0])


def test_what_settle_did_can_be_taken_back_again_and_again() -> None:
    driver = Driver()
    driver.fault()
    state = driver.unit.save()
    for iova in (0x2000, 0x3000):
        record = driver.fault(iova)
        assert driver.event(1) == record.encode()
        assert driver.read("EVENTQ_PROD") == 2
        driver.unit.restore(state)
        assert driver.read("EVENTQ_PROD") == 1
        assert driver.event(1) == bytes(32)
    assert driver.event(0) != bytes(32)


def test_evidence_is_what_faults_change() -> None:
    driver = Driver()
    before = [driver.unit.read(*where) for where in driver.unit.evidence]
    driver.fault()
    assert [driver.unit.read(*where) for where in driver.unit.evidence] != before
    assert driver.unit.evidence == ((0x100A8, 4), (0x60, 4))


def test_record_in_memory_has_the_fields_of_its_type_7_3() -> None:
    driver = Driver()
    driver.fault()
    place = driver.unit.structure_at(EVENTS + 20)
    assert place is not None
    assert place.layout is not None
    assert (place.name, place.start, place.size) == ("F_TRANSLATION", EVENTS, 32)
    assert place.layout.section == "IHI 0070 7.3.13"
    assert driver.unit.structure_at(EVENTS + 8 * 32) is None
    assert driver.unit.structure_at(EVENTS - 1) is None


@pytest.mark.parametrize(
    ("event_class", "name"), [(0, " of stage 2 for a CD"), (1, " of stage 2 for a table"), (2, " of stage 2")]
)
def test_record_of_stage_2_is_named_after_what_was_translated(event_class: int, name: str) -> None:
    driver = Driver()
    record = event_layout(Smmuv3EventType.F_ACCESS).encode(
        {"TYPE": Smmuv3EventType.F_ACCESS, "S2": 1, "CLASS": event_class}
    )
    driver.unit.memory.write(EVENTS, record.to_bytes(32, "little"))
    place = driver.unit.structure_at(EVENTS)
    assert place is not None
    assert (place.name, place.source) == (f"F_ACCESS{name}", "STREAMID")


def test_reset_empties_the_caches_and_leaves_memory() -> None:
    driver = Driver()
    driver.fault()
    event = driver.event(0)
    driver.unit.store(driver.tables.tree.entry_address(IOVA, 1), bytes(8))
    assert len(driver.outcomes()) == 2
    driver.unit.reset()
    assert driver.event(0) == event
    driver.set_up(SMMUEN | EVENTQEN)
    assert len(driver.outcomes()) == 1
    assert TLBI_ALL


def test_cmdq_cons_is_named_after_the_command_that_was_refused_until_that_is_acknowledged() -> None:
    driver = Driver()

    def name() -> str | None:
        place = driver.unit.register_at(REGISTERS["SMMU_CMDQ_CONS"].start)
        return None if place is None else place.name

    assert name() == "SMMU_CMDQ_CONS"
    driver.submit(command_bits(Smmuv3Opcode.CMD_SYNC, CS=0b11))
    assert name() == "SMMU_CMDQ_CONS (CMD_SYNC refused)"
    driver.unit.store(COMMANDS, SYNC.to_bytes(16, "little"))
    driver.write("GERRORN", CMDQ_ERR)
    assert name() == "SMMU_CMDQ_CONS"
