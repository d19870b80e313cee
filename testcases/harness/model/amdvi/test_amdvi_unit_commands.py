"""The command buffer of a living unit: when it runs, what it drops, and where it stops (AMD-Vi 2.4)."""

from __future__ import annotations

import pytest
from amdvi_alive import COMMANDS, EVENTS, RING, RUNNING, Alive, Offset, read_of
from amdvi_unit import DOMAIN, IOVA, NOWHERE, OUTPUT, RID

from harness.model.access import Fault, Translated
from harness.model.amdvi import AmdviEventCode, AmdviOpcode, make_command
from harness.model.amdvi.commands import command_name
from harness.model.amdvi.register_fields import CONTROL, STATUS, XT_INTERRUPT
from harness.model.amdvi.registers import extended_features
from harness.model.caches.staleness import TooManyWalks
from harness.model.engine import MsiWrite, NotModelled, Sending

SEMAPHORE = 0x4_0000
ALL = make_command(AmdviOpcode.INVALIDATE_IOMMU_ALL)
PAGES = make_command(
    AmdviOpcode.INVALIDATE_IOMMU_PAGES, {"DomainID": DOMAIN, "S": 1, "PDE": 1, "Address": 0x7FFF_FFFF_FFFF_F000}
)
ILLEGAL = 0xF << 60


def wait(value: int, address: int = SEMAPHORE, **flags: int) -> int:
    fields = {"s": 1, "StoreAddress": address, "StoreData": value, **flags}
    return make_command(AmdviOpcode.COMPLETION_WAIT, fields)


def stored(alive: Alive) -> int:
    return alive.unit.memory.read_u64(SEMAPHORE)


def addresses(alive: Alive) -> set[int | None]:
    """Where a read of the mapped page may go; None for a fault."""
    found: set[int | None] = set()
    for outcome in alive.unit.outcomes(read_of()):
        assert isinstance(outcome, Translated | Fault)
        found.add(outcome.address if isinstance(outcome, Translated) else None)
    return found


def test_commands_run_when_the_tail_is_written() -> None:
    alive = Alive()
    alive.unit.store(COMMANDS, wait(7).to_bytes(16, "little"))
    assert (stored(alive), alive.read(Offset.COMMAND_HEAD)) == (0, 0)
    alive.write(Offset.COMMAND_TAIL, 0x10)
    assert (stored(alive), alive.read(Offset.COMMAND_HEAD)) == (7, 0x10)


def test_commands_run_when_the_buffer_is_enabled() -> None:
    alive = Alive(control={"IommuEn": 1})
    alive.command(wait(7))
    assert stored(alive) == 0
    alive.write(Offset.CONTROL, CONTROL.encode(RUNNING))
    assert (stored(alive), alive.read(Offset.COMMAND_HEAD)) == (7, 0x10)


def test_a_tail_written_byte_by_byte_runs_what_it_then_names() -> None:
    alive = Alive()
    for number in range(0x11):
        alive.unit.store(COMMANDS + 16 * number, wait(number + 1).to_bytes(16, "little"))
    alive.write(Offset.COMMAND_TAIL + 1, 0x01, 1)
    assert (stored(alive), alive.read(Offset.COMMAND_HEAD)) == (0x10, 0x100)
    alive.write(Offset.COMMAND_TAIL, 0x10, 1)
    assert (stored(alive), alive.read(Offset.COMMAND_HEAD)) == (0x11, 0x110)


def test_the_head_goes_round() -> None:
    alive = Alive(control={"IommuEn": 1})
    alive.write(Offset.COMMAND_HEAD, RING - 16)
    alive.write(Offset.COMMAND_TAIL, RING - 16)
    alive.command(wait(1), wait(2))
    alive.write(Offset.CONTROL, CONTROL.encode(RUNNING))
    assert (stored(alive), alive.read(Offset.COMMAND_HEAD)) == (2, 0x10)


def test_a_stale_translation_is_allowed_until_its_page_is_invalidated() -> None:
    alive = Alive()
    alive.table.unmap(IOVA, 0x1000)
    assert addresses(alive) == {None, OUTPUT}
    assert isinstance(alive.unit.outcomes(read_of())[0], Fault)
    other = make_command(AmdviOpcode.INVALIDATE_IOMMU_PAGES, {"DomainID": DOMAIN, "Address": IOVA + 0x1000})
    alive.command(other)
    assert addresses(alive) == {None, OUTPUT}
    alive.command(make_command(AmdviOpcode.INVALIDATE_IOMMU_PAGES, {"DomainID": DOMAIN, "Address": IOVA}))
    assert addresses(alive) == {None}


def test_a_stale_device_entry_is_allowed_until_it_is_invalidated() -> None:
    alive = Alive()
    alive.tables.set_fields(RID, {"IR": 0})
    assert addresses(alive) == {None, OUTPUT}
    alive.command(make_command(AmdviOpcode.INVALIDATE_DEVTAB_ENTRY, {"DeviceID": RID}), PAGES)
    assert addresses(alive) == {None}


def rewrite(alive: Alive) -> None:
    """Give device and page so many other entries that nobody can try every combination."""
    pte = alive.table.entry_address(IOVA, 1)
    first = alive.unit.memory.read_u64(pte)
    for number in range(1, 70):
        alive.unit.store(pte, (first + (number << 12)).to_bytes(8, "little"))
        alive.tables.set_fields(RID, {"DomainID": DOMAIN + number})


def test_invalidating_everything_forgets_what_memory_held() -> None:
    alive = Alive()
    rewrite(alive)
    with pytest.raises(TooManyWalks):
        alive.unit.outcomes(read_of())
    alive.command(ALL)
    assert addresses(alive) == {OUTPUT + (69 << 12)}


def test_a_reset_forgets_what_memory_held() -> None:
    alive = Alive()
    rewrite(alive)
    alive.unit.reset()
    alive.turn_on()
    assert addresses(alive) == {OUTPUT + (69 << 12)}


def test_what_the_unit_stores_by_itself_is_no_history() -> None:
    alive = Alive()
    alive.command(ALL)
    pte = alive.table.entry_address(IOVA, 1)
    alive.command(wait(alive.unit.memory.read_u64(pte) + 0x5000, pte))
    assert addresses(alive) == {OUTPUT + 0x5000}


def test_a_store_over_a_word_that_software_has_changed_is_the_present() -> None:
    alive = Alive()
    pte = alive.table.entry_address(IOVA, 1)
    first = alive.unit.memory.read_u64(pte)
    alive.unit.store(pte, (first + 0x3000).to_bytes(8, "little"))
    alive.command(wait(first + 0x5000, pte))
    assert addresses(alive) == {OUTPUT, OUTPUT + 0x3000, OUTPUT + 0x5000}
    (present, *_) = alive.unit.outcomes(read_of())
    assert isinstance(present, Translated)
    assert present.address == OUTPUT + 0x5000
    alive.command(make_command(AmdviOpcode.INVALIDATE_IOMMU_PAGES, {"DomainID": DOMAIN, "Address": IOVA}))
    assert addresses(alive) == {OUTPUT + 0x5000}


@pytest.mark.parametrize("command", [ILLEGAL, ALL | 1, make_command(AmdviOpcode.COMPLETE_PPR_REQUEST)])
def test_an_illegal_command_stops_the_buffer_and_is_logged_2_5_6(command: int) -> None:
    alive = Alive()
    alive.command(wait(1), command, wait(2))
    assert stored(alive) == 1
    assert alive.status() == {"EventLogRun", "EventLogInt"}
    event = alive.event()
    assert (event.code, event.address) == (AmdviEventCode.ILLEGAL_COMMAND_ERROR, COMMANDS + 16)
    assert alive.read(Offset.EVENT_TAIL) == 16


def test_after_an_illegal_command_the_head_may_be_on_it_or_behind() -> None:
    alive = Alive()
    alive.command(ILLEGAL)
    assert alive.known(Offset.COMMAND_HEAD) == 0


def test_a_stopped_buffer_takes_nothing_until_it_is_enabled_again() -> None:
    alive = Alive()
    alive.command(ILLEGAL, wait(2))
    alive.write(Offset.COMMAND_TAIL, 0x20)
    assert stored(alive) == 0
    alive.write(Offset.CONTROL, CONTROL.encode({**RUNNING, "CmdBufEn": 0}))
    alive.write(Offset.COMMAND_HEAD, 0x10)
    assert alive.known(Offset.COMMAND_HEAD) == 0x7FFF0
    alive.write(Offset.CONTROL, CONTROL.encode(RUNNING))
    assert stored(alive) == 2
    assert "CmdBufRun" in alive.status()


def test_writing_cmdbufen_over_itself_starts_a_stopped_buffer_again() -> None:
    alive = Alive()
    alive.command(ILLEGAL, wait(2))
    alive.write(Offset.COMMAND_HEAD, 0x10)
    alive.write(Offset.CONTROL, CONTROL.encode(RUNNING))
    assert stored(alive) == 2


def test_where_a_buffer_goes_on_after_an_illegal_command_is_not_said() -> None:
    alive = Alive()
    alive.command(ILLEGAL, wait(2))
    with pytest.raises(NotModelled):
        alive.write(Offset.CONTROL, CONTROL.encode(RUNNING))


def test_a_store_that_nothing_answers_stops_the_buffer_2_5_7() -> None:
    alive = Alive()
    alive.command(wait(1, NOWHERE))
    assert alive.event().code == AmdviEventCode.COMMAND_HARDWARE_ERROR
    assert "CmdBufRun" not in alive.status()


def test_a_wait_with_i_sets_comwaitint_and_sends_the_message_where_that_is_enabled() -> None:
    message = {"msi_header": 1 << 16, "msi_address_low": 0xFEE0_1000, "msi_data": 0x41, "device_id": 2}
    for enabled, sending in ((0, Sending.DISABLED), (1, Sending.SENT)):
        alive = Alive(registers=message, control={**RUNNING, "ComWaitIntEn": enabled})
        alive.command(wait(1, i=1))
        assert "ComWaitInt" in alive.status()
        sent = (MsiWrite(requester=2, address=0xFEE0_1000, data=0x41, sending=sending),)
        assert alive.unit.take_interrupts() == sent
        assert alive.unit.take_interrupts() == ()
        alive.write(Offset.STATUS, STATUS.encode({"ComWaitInt": 1}))
        assert "ComWaitInt" not in alive.status()


def test_a_wait_may_send_a_message_again_until_comwaitint_is_cleared() -> None:
    message = {"msi_header": 1 << 16, "msi_address_low": 0xFEE0_1000, "msi_data": 0x41, "device_id": 2}
    alive = Alive(registers=message, control={**RUNNING, "ComWaitIntEn": 1})
    alive.command(wait(1, i=1))
    alive.command(wait(1, i=1))
    assert [each.sending for each in alive.unit.take_interrupts()] == [Sending.SENT, Sending.OPTIONAL]
    alive.write(Offset.STATUS, STATUS.encode({"ComWaitInt": 1}))
    alive.command(wait(1, i=1))
    assert [each.sending for each in alive.unit.take_interrupts()] == [Sending.SENT]


def test_the_message_follows_the_xt_register() -> None:
    features = extended_features(features={"IASup": 1, "XTSup": 1})
    alive = Alive(features=features, control={**RUNNING, "ComWaitIntEn": 1, "IntCapXTEn": 1})
    alive.write(0x0170, XT_INTERRUPT.encode({"Vector": 0x42, "Destination": 3}))
    alive.command(wait(1, i=1))
    (message,) = alive.unit.take_interrupts()
    assert message.data & 0xFF == 0x42


def test_where_a_wait_has_stored_is_known_by_name() -> None:
    alive = Alive()
    assert alive.unit.structure_at(SEMAPHORE) is None
    alive.command(wait(1))
    place = alive.unit.structure_at(SEMAPHORE + 3)
    assert place is not None
    assert (place.name, place.start, place.size) == ("completion store", SEMAPHORE, 8)


def test_where_a_command_behind_an_illegal_one_would_store_is_known_by_name() -> None:
    alive = Alive()
    alive.command(ILLEGAL, wait(1))
    place = alive.unit.structure_at(SEMAPHORE)
    assert place is not None
    assert (place.name, place.start) == ("completion store of a command that is not carried out", SEMAPHORE)


def test_commands_are_counted_by_name() -> None:
    alive = Alive()
    alive.coverage.counts.clear()
    pages = {"DomainID": DOMAIN, "S": 1, "PDE": 1, "Address": IOVA & -0x20_0000 | 0xF_F000}
    alive.command(wait(1, f=1), make_command(AmdviOpcode.INVALIDATE_IOMMU_PAGES, pages), PAGES, ILLEGAL)
    names = {name for kind, name in alive.coverage.counts if kind == "command"}
    assert names == {
        "COMPLETION_WAIT s f",
        "INVALIDATE_IOMMU_PAGES PDE size 2 MiB",
        "INVALIDATE_IOMMU_PAGES PDE every page",
        "opcode 0xf",
    }


def test_a_command_without_a_range_has_no_size_in_its_name() -> None:
    assert command_name(ALL) == "INVALIDATE_IOMMU_ALL"
    one = make_command(AmdviOpcode.INVALIDATE_IOTLB_PAGES, {"DeviceID": 1})
    assert command_name(one) == "INVALIDATE_IOTLB_PAGES size 4 KiB"


def test_an_event_of_a_command_goes_to_the_log_with_the_others() -> None:
    alive = Alive()
    alive.fault()
    alive.command(ILLEGAL)
    alive.fault()
    codes = [alive.event(number).code for number in range(3)]
    assert codes == [
        AmdviEventCode.IO_PAGE_FAULT,
        AmdviEventCode.ILLEGAL_COMMAND_ERROR,
        AmdviEventCode.IO_PAGE_FAULT,
    ]
    assert alive.read(Offset.EVENT_TAIL) == 0x30
    assert alive.unit.memory.read(EVENTS + 0x30, 16) == bytes(16)
