"""The queues and interrupts of a RISC-V IOMMU over time (chapter 4, 6.15 to 6.18, 6.28, 6.29)."""

from __future__ import annotations

import pytest
from riscv_software import (
    BARE,
    CIP,
    COMMANDS,
    CQB,
    CQCSR,
    CQH,
    CQT,
    DDTP,
    ENABLE,
    FAULTS,
    FCTL,
    FENCE,
    FIP,
    FQB,
    FQCSR,
    FQH,
    FQT,
    ICVEC,
    ILLEGAL,
    INTERRUPT,
    IPSR,
    MEMORY_FAULT,
    MSI_CFG_TBL,
    ON,
    OVERFLOW,
    SIZE,
    STATUS,
    Software,
)
from riscv_unit import DEVICE, FILE, IOVA, MRIF, NOTICE, RAM, Unit, message_unit

from harness.model.access import AccessKind
from harness.model.engine import MsiWrite, NotModelled
from harness.model.riscv import RiscvIommuCause, RiscvIommuFaultRecord
from harness.model.riscv.commands import encode_command
from harness.model.riscv.faults import TransactionType
from harness.model.riscv.registers import InterruptGeneration
from harness.model.unit import AnyBytes

_CONTROLLER = 0x2800_0000
_UNMAPPED = IOVA + 0x10_0000


def _ready(*, interrupts: bool = False, vectors: int = 16, controllers: tuple[range, ...] | None = None) -> Software:
    """Software that has set up everything."""
    software = Software(vectors=vectors, controllers=controllers)
    software.write(ICVEC, 0x10, 8)
    software.message(0, _CONTROLLER, 0xC0)
    software.message(1, _CONTROLLER + 0x1000, 0xF1)
    software.set_up(interrupts=INTERRUPT if interrupts else 0)
    software.translate()
    return software


class TestCommands:
    """4.1, 6.15."""

    def test_they_are_carried_out_when_the_tail_is_written(self) -> None:
        software = _ready()
        software.command("IOFENCE.C", AV=1, ADDR=STATUS >> 2, DATA=0x1234_5678)
        assert software.unit.memory.read(STATUS, 4) == bytes.fromhex("78563412")
        assert software.read(CQH) == 1

    def test_they_are_carried_out_when_the_queue_is_turned_on(self) -> None:
        software = Software()
        software.write(FCTL, 0)
        software.write(CQB, COMMANDS >> 2 | 2, 8)
        software.unit.store(COMMANDS, encode_command("IOFENCE.C", AV=1, ADDR=STATUS >> 2, DATA=7))
        software.write(CQT, 1)
        assert software.unit.memory.read(STATUS, 4) == bytes(4)
        software.write(CQCSR, ENABLE)
        assert software.unit.memory.read(STATUS, 4) == b"\7\0\0\0"
        assert software.read(CQH) == 1

    def test_turning_the_queue_on_sets_the_head_to_zero(self) -> None:
        software = _ready()
        software.command("IOFENCE.C")
        software.write(CQCSR, 0)
        assert software.read(CQH) == 1
        software.write(CQT, 0)
        software.write(CQCSR, ENABLE)
        assert software.read(CQH) == 0

    def test_the_queue_wraps_around(self) -> None:
        software = _ready()
        for number in range(2 * SIZE + 3):
            software.command("IOFENCE.C", AV=1, ADDR=(STATUS >> 2) + number, DATA=number)
        assert software.read(CQH) == 3
        assert software.unit.memory.read(STATUS + 4 * (2 * SIZE + 2), 1) == bytes((2 * SIZE + 2,))

    def test_an_illegal_one_stops_the_queue_until_its_bit_is_cleared(self) -> None:
        software = _ready()
        software.raw_command(bytes(16))
        software.command("IOFENCE.C", AV=1, ADDR=STATUS >> 2, DATA=1)
        assert software.field(CQCSR, ILLEGAL | ON) == ILLEGAL | ON
        assert software.read(CQH) == 0
        software.unit.store(COMMANDS, encode_command("IOFENCE.C"))
        software.write(CQCSR, ILLEGAL | ENABLE)
        assert software.field(CQCSR, ILLEGAL) == 0
        assert software.read(CQH) == 2
        assert software.unit.memory.read(STATUS, 1) == b"\1"

    def test_one_that_cannot_be_fetched_stops_the_queue(self) -> None:
        software = Software()
        software.write(FCTL, 0)
        software.write(CQB, RAM >> 2 | 2, 8)
        software.write(CQT, 1)
        software.write(CQCSR, ENABLE)
        assert software.field(CQCSR, MEMORY_FAULT) == MEMORY_FAULT
        assert software.read(CQH) == 0

    def test_a_fence_that_cannot_store_stops_the_queue(self) -> None:
        software = _ready()
        software.command("IOFENCE.C", AV=1, ADDR=RAM >> 2, DATA=1)
        assert software.field(CQCSR, MEMORY_FAULT) == MEMORY_FAULT
        assert software.read(CQH) == 0

    def test_turning_the_queue_on_clears_its_errors(self) -> None:
        software = _ready()
        software.raw_command(bytes(16))
        software.write(CQCSR, 0)
        assert software.field(CQCSR, ILLEGAL) == ILLEGAL
        software.write(CQT, 0)
        software.write(CQCSR, ENABLE)
        assert software.field(CQCSR, ILLEGAL) == 0

    def test_nothing_is_carried_out_while_the_queue_is_off(self) -> None:
        software = _ready()
        software.write(CQCSR, 0)
        software.command("IOFENCE.C", AV=1, ADDR=STATUS >> 2, DATA=1)
        assert software.unit.memory.read(STATUS, 1) == b"\0"

    def test_a_fence_tells_by_wire_where_wires_are_used(self) -> None:
        software = Software(igs=InterruptGeneration.BOTH)
        software.set_up(features=2, interrupts=INTERRUPT)
        software.command("IOFENCE.C", WSI=1)
        assert software.field(CQCSR, FENCE) == FENCE
        assert software.field(IPSR, CIP) == CIP
        assert not software.unit.take_interrupts()

    def test_without_wires_such_a_fence_is_illegal_and_its_bit_reserved(self) -> None:
        software = Software(igs=InterruptGeneration.MSI)
        software.set_up()
        software.command("IOFENCE.C", WSI=1)
        assert software.field(CQCSR, ILLEGAL | FENCE) == ILLEGAL

    def test_big_endian_software_is_understood(self) -> None:
        software = Software(features=frozenset({"END"}))
        software.set_up(features=1)
        software.command("IOFENCE.C", big_endian=True, AV=1, ADDR=STATUS >> 2, DATA=0x1234_5678)
        assert software.unit.memory.read(STATUS, 4) == bytes.fromhex("12345678")
        software.request()
        record = software.record(0, big_endian=True)
        assert record.cause == RiscvIommuCause.ALL_INBOUND_TRANSACTIONS_DISALLOWED
        place = software.unit.structure_at(FAULTS)
        assert place is not None
        assert place.layout is None

    def test_each_is_noted_with_its_flags(self) -> None:
        software = _ready()
        software.command("IOTINVAL.VMA", GV=1, AV=1, PSCV=1)
        software.raw_command(bytes(16))
        names = {name for kind, name in software.coverage.counts if kind == "command"}
        assert names == {"IOTINVAL.VMA GV AV PSCV", "illegal"}


class TestFaults:
    """4.2, 6.16."""

    def test_a_fault_is_written_down(self) -> None:
        software = _ready()
        software.request(AccessKind.WRITE, _UNMAPPED + 8)
        assert software.read(FQT) == 1
        assert software.record(0) == RiscvIommuFaultRecord(
            cause=RiscvIommuCause.WRITE_PAGE_FAULT,
            transaction_type=TransactionType.UNTRANSLATED_WRITE,
            device_id=DEVICE,
            iotval=_UNMAPPED + 8,
        )

    def test_iotval2_of_a_fault_that_is_no_guest_page_fault_has_no_meaning(self) -> None:
        software = _ready()
        access = software.access(iova=_UNMAPPED)
        assert software.unit.settle(access, software.unit.outcomes(access)[0]) == (AnyBytes(FAULTS + 24, 8),)
        guest = Software(Unit(None, "Sv39x4"))
        guest.set_up()
        guest.translate()
        access = guest.access(iova=_UNMAPPED)
        assert guest.unit.settle(access, guest.unit.outcomes(access)[0]) == ()
        assert guest.record(0).iotval2 == _UNMAPPED

    def test_a_full_queue_overflows_and_takes_nothing_until_the_bit_is_cleared(self) -> None:
        software = _ready()
        for _ in range(SIZE + 1):
            software.request(iova=_UNMAPPED)
        assert software.read(FQT) == SIZE - 1
        assert software.field(FQCSR, OVERFLOW | ON) == OVERFLOW | ON
        software.write(FQH, 4)
        software.request(iova=_UNMAPPED)
        assert software.read(FQT) == SIZE - 1
        software.write(FQCSR, OVERFLOW | ENABLE)
        software.request(iova=_UNMAPPED)
        assert software.read(FQT) == 0
        assert software.field(FQCSR, OVERFLOW) == 0

    def test_memory_that_is_not_there_stops_the_queue(self) -> None:
        software = Software()
        software.write(FCTL, 0)
        software.write(FQB, RAM >> 2 | 2, 8)
        software.write(FQH, 0)
        software.write(FQCSR, ENABLE)
        software.request()
        assert software.field(FQCSR, MEMORY_FAULT) == MEMORY_FAULT
        assert software.read(FQT) == 0
        software.request()
        assert software.read(FQT) == 0

    def test_a_queue_that_is_off_takes_nothing(self) -> None:
        software = _ready()
        software.write(FQCSR, 0)
        software.request(iova=_UNMAPPED)
        assert software.read(FQT) == 0
        assert software.unit.memory.read(FAULTS, 32) == bytes(32)

    def test_turning_the_queue_on_sets_the_tail_to_zero_and_clears_its_errors(self) -> None:
        software = _ready()
        for _ in range(SIZE):
            software.request(iova=_UNMAPPED)
        software.write(FQCSR, 0)
        assert software.read(FQT) == SIZE - 1
        software.write(FQCSR, ENABLE)
        assert software.read(FQT) == 0
        assert software.field(FQCSR, OVERFLOW) == 0

    def test_a_record_is_a_place_in_memory(self) -> None:
        software = _ready()
        software.request(iova=_UNMAPPED)
        place = software.unit.structure_at(FAULTS + 40)
        assert place is not None
        assert (place.name, place.start, place.size) == ("fault record", FAULTS + 32, 32)
        assert place.layout is not None
        assert software.unit.structure_at(FAULTS + 32 * SIZE) is None

    def test_what_a_fence_stored_is_a_place_in_memory(self) -> None:
        software = _ready()
        assert software.unit.structure_at(STATUS) is None
        software.command("IOFENCE.C", AV=1, ADDR=STATUS >> 2, DATA=1)
        place = software.unit.structure_at(STATUS + 3)
        assert place is not None
        assert (place.name, place.start, place.size) == ("IOFENCE.C data", STATUS, 4)

    def test_faults_can_be_taken_back(self) -> None:
        software = _ready(interrupts=True)
        software.request(iova=_UNMAPPED)
        before = software.unit.memory.read(FAULTS, 64)
        state = software.unit.save()
        for _ in range(2):
            for _ in range(SIZE):
                software.request(iova=_UNMAPPED + 0x1000)
            assert software.field(FQCSR, OVERFLOW)
            software.unit.restore(state)
            assert software.read(FQT) == 1
            assert software.field(FQCSR, OVERFLOW) == 0
            assert software.unit.memory.read(FAULTS, 64) == before
        assert len(software.unit.take_interrupts()) == 1


class TestInterrupts:
    """6.18, 6.28, 6.29."""

    def test_a_record_sends_the_message_of_its_vector_once_until_software_clears_the_bit(self) -> None:
        software = _ready(interrupts=True)
        software.request(iova=_UNMAPPED)
        software.request(iova=_UNMAPPED)
        assert software.field(IPSR, 0xF) == FIP
        message = MsiWrite(requester=0, address=_CONTROLLER + 0x1000, data=0xF1)
        assert software.unit.take_interrupts() == (message,)
        assert software.unit.take_interrupts() == ()
        software.write(IPSR, FIP)
        assert software.field(IPSR, 0xF) == 0
        software.request(iova=_UNMAPPED)
        assert software.unit.take_interrupts() == (message,)

    def test_writing_zero_clears_nothing(self) -> None:
        software = _ready(interrupts=True)
        software.request(iova=_UNMAPPED)
        software.write(IPSR, CIP)
        assert software.field(IPSR, 0xF) == FIP

    def test_without_the_enable_nothing_is_pending(self) -> None:
        software = _ready()
        software.request(iova=_UNMAPPED)
        software.raw_command(bytes(16))
        assert software.field(IPSR, 0xF) == 0

    def test_a_command_error_is_pending_as_long_as_it_is_there(self) -> None:
        software = _ready(interrupts=True)
        software.raw_command(bytes(16))
        assert software.field(IPSR, 0xF) == CIP
        software.write(IPSR, CIP)
        assert software.field(IPSR, 0xF) == CIP
        message = MsiWrite(requester=0, address=_CONTROLLER, data=0xC0)
        assert software.unit.take_interrupts() == (message, message)
        software.unit.store(COMMANDS, encode_command("IOFENCE.C"))
        software.write(CQCSR, ILLEGAL | ENABLE | INTERRUPT)
        assert software.field(IPSR, 0xF) == CIP
        software.write(IPSR, CIP)
        assert software.field(IPSR, 0xF) == 0

    def test_enabling_tells_of_an_error_that_is_there(self) -> None:
        software = _ready()
        for _ in range(SIZE):
            software.request(iova=_UNMAPPED)
        assert software.field(IPSR, 0xF) == 0
        software.write(FQCSR, ENABLE | INTERRUPT)
        assert software.field(IPSR, 0xF) == FIP
        assert len(software.unit.take_interrupts()) == 1

    def test_a_masked_vector_sends_its_message_when_it_is_unmasked(self) -> None:
        software = _ready(interrupts=True)
        software.write(MSI_CFG_TBL + 28, 1)
        software.request(iova=_UNMAPPED)
        assert software.field(IPSR, 0xF) == FIP
        assert software.unit.take_interrupts() == ()
        software.write(MSI_CFG_TBL + 28, 0)
        assert len(software.unit.take_interrupts()) == 1
        software.write(MSI_CFG_TBL + 28, 0)
        assert software.unit.take_interrupts() == ()

    def test_a_message_to_memory_is_written_there(self) -> None:
        software = _ready(interrupts=True)
        software.message(1, STATUS, 0xABCD_EF01)
        software.request(iova=_UNMAPPED)
        assert software.unit.memory.read(STATUS, 4) == bytes.fromhex("01efcdab")
        assert software.unit.take_interrupts() == ()
        place = software.unit.structure_at(STATUS)
        assert place is not None
        assert place.name == "interrupt message"

    def test_a_message_to_nowhere_is_a_fault_of_its_own(self) -> None:
        software = _ready(interrupts=True, controllers=(range(_CONTROLLER, _CONTROLLER + 0x1000),))
        software.request(iova=_UNMAPPED)
        assert software.read(FQT) == 2
        assert software.record(1) == RiscvIommuFaultRecord(
            cause=RiscvIommuCause.IOMMU_MSI_WRITE_ACCESS_FAULT,
            transaction_type=TransactionType.NONE,
            device_id=0,
            iotval=_CONTROLLER + 0x1000,
        )
        software.raw_command(bytes(16))
        assert len(software.unit.take_interrupts()) == 1

    def test_of_a_vector_that_software_has_not_chosen_nothing_can_be_said(self) -> None:
        software = Software()
        software.set_up(interrupts=INTERRUPT)
        software.write(DDTP, BARE, 8)
        with pytest.raises(NotModelled, match="icvec"):
            software.raw_command(bytes(16))


class TestInterruptFiles:
    """A device's messages to an interrupt file in memory (3.3.3; AIA, MRIF mode)."""

    @pytest.fixture
    def software(self) -> Software:
        software = Software(message_unit())
        software.set_up()
        software.translate()
        return software

    def test_one_sets_a_bit_and_sends_a_notice(self, software: Software) -> None:
        file = FILE + 0x2000 * 4
        access = software.access(AccessKind.WRITE, file)
        outcomes = software.unit.outcomes(access)
        assert [outcome.reason.name for outcome in outcomes if hasattr(outcome, "reason")] == ["INTERRUPT_RANGE"]
        software.unit.settle(access, outcomes[0])
        write = MsiWrite(requester=DEVICE, address=file, data=70)
        (outcome,) = software.unit.interrupts(write)
        software.unit.settle_interrupt(write, outcome)
        assert software.unit.memory.read_u64(MRIF + 16) == 1 << 6
        assert software.unit.take_interrupts() == (MsiWrite(requester=0, address=NOTICE, data=0x5A5),)


def test_the_evidence_of_faults_is_tail_status_and_pending_bits() -> None:
    assert set(_ready().unit.evidence) == {(FQT, 4), (FQCSR, 4), (IPSR, 4)}


def test_units_over_tables_of_their_own_do_not_share_anything() -> None:
    one, other = _ready(), Software(Unit("Sv48"))
    one.request(iova=_UNMAPPED)
    assert other.unit.memory.read(FAULTS, 32) == bytes(32)
