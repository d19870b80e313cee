"""Primary fault recording: registers, overflow, compression, and the fault event (VT-d 7.2.1, 7.3, 11.4.7)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.engine import MsiWrite
from harness.model.vtd.faults import VtdFaultReason, VtdFaultRecord
from harness.model.vtd.register_layouts import CAP_REG
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.reporting.fault_log import FaultLog, Recorded

PFO, PPF, IQE = 1 << 0, 1 << 1, 1 << 4
IP, IM = 1 << 30, 1 << 31
F = 1 << 127
TES, IRES = 1 << 31, 1 << 25
EVENT = MsiWrite(requester=0, address=0x1_FEE0_3000, data=0x42)


def log(registers: int = 4, *, compresses: bool = False, fsts: int = 0, fectl: int = 0) -> FaultLog:
    return FaultLog.of(
        VtdRegisters(
            rtaddr=0,
            cap=CAP_REG.encode({"NFR": registers - 1}),
            ecap=0,
            gsts=TES,
            fsts=fsts,
            fectl=fectl,
            fedata=0xABCD_0042,
            feaddr=0xFEE0_3003,
            feuaddr=1,
        ),
        compresses=compresses,
    )


def fault(source_id: int = 0x28, address: int = 0x1000) -> VtdFaultRecord:
    return VtdFaultRecord(address=address, source_id=source_id, reason=VtdFaultReason.READ_NOT_PERMITTED, is_read=True)


def filled(before: FaultLog, *faults: VtdFaultRecord) -> FaultLog:
    for each in faults:
        before = before.record(each).log
    return before


def test_first_fault_sets_f_ppf_and_fri_and_sends_the_event() -> None:
    recorded = log().record(fault())
    assert recorded.index == 0
    assert recorded.log.records == (1 << 127 | 1 << 126 | 6 << 96 | 0x28 << 64 | 0x1000, 0, 0, 0)
    assert recorded.log.fsts == PPF
    assert recorded.interrupt == EVENT
    assert recorded.log.fectl == 0


def test_message_takes_16_bits_of_data_and_a_doubleword_address_11_4_7_3() -> None:
    assert log().record(fault()).interrupt == MsiWrite(requester=0, address=0x1_FEE0_3000, data=0x42)


def test_following_faults_take_the_next_registers_and_send_nothing() -> None:
    first = log().record(fault())
    second = first.log.record(fault(address=0x2000))
    assert (second.index, second.interrupt) == (1, None)
    assert second.log.records[1] == fault(address=0x2000).encode()
    assert second.log.fsts == PPF


def test_fri_is_the_register_of_the_first_pending_fault_7_2_1() -> None:
    one = filled(log(), fault()).write_record(0, F)
    assert one.fsts == 0
    again = filled(one, fault(), fault())
    assert again.fsts == PPF | 1 << 8


def test_index_wraps_at_the_number_of_registers() -> None:
    after = filled(log(2), fault(), fault())
    after = after.write_record(0, F).write_record(1, F)
    third = after.record(fault(address=0x3000))
    assert third.index == 0
    assert third.log.fsts == PPF


def test_recording_and_clearing_leave_the_other_registers_as_they_are() -> None:
    three = filled(log(3), fault(address=0x1000), fault(address=0x2000), fault(address=0x3000))
    again = three.write_record(0, F).record(fault(address=0x4000)).log
    assert again.records == tuple(fault(address=address).encode() for address in (0x4000, 0x2000, 0x3000))


def test_fault_that_meets_a_pending_register_overflows_and_is_lost() -> None:
    full = filled(log(2), fault(), fault())
    third = full.record(fault(address=0x3000))
    assert (third.index, third.interrupt) == (None, None)
    assert third.log.fsts == PFO | PPF
    assert third.log.records == full.records


def test_nothing_is_recorded_after_an_overflow_until_pfo_is_cleared() -> None:
    over = filled(log(1), fault(), fault()).write_record(0, F)
    assert over.fsts == PFO
    assert over.record(fault()).index is None
    cleared = over.write_fsts(PFO)
    assert cleared.record(fault()).index == 0


def test_recording_goes_on_at_the_internal_index_after_an_overflow_7_2_1() -> None:
    over = filled(log(3), fault(), fault(), fault(), fault()).write_record(0, F).write_record(1, F).write_record(2, F)
    cleared = over.write_fsts(PFO)
    assert cleared.record(fault()).index == 0
    middle = filled(cleared, fault()).write_record(0, F)
    assert middle.record(fault()).index == 1


def test_hardware_that_compresses_records_one_fault_for_each_source_id() -> None:
    first = log(compresses=True).record(fault(0x28))
    assert first.log.record(fault(0x28, 0x5000)) == Recorded(first.log, None)
    assert first.log.record(fault(0x30)).index == 1
    assert first.log.write_record(0, F).record(fault(0x28)).index == 1


def test_hardware_that_does_not_compress_records_each_fault() -> None:
    assert filled(log(), fault(), fault()).next_index == 2


def test_clearing_one_of_two_records_leaves_ppf_set() -> None:
    both = filled(log(), fault(), fault())
    assert both.write_record(0, F).fsts == PPF
    assert both.write_record(0, F).write_record(1, F).fsts == 0


def test_cleared_record_keeps_its_other_fields() -> None:
    cleared = filled(log(), fault()).write_record(0, F)
    assert cleared.records[0] == fault().encode() & ~F


def test_writing_a_zero_to_f_clears_nothing_and_other_bits_are_read_only() -> None:
    before = filled(log(), fault())
    assert before.write_record(0, ~F & (1 << 128) - 1) == before


def test_software_cannot_clear_ppf_in_the_status_register_11_4_7_1() -> None:
    before = filled(log(), fault())
    assert before.write_fsts(0xFFFF_FFFF) == before


def test_no_event_while_a_queue_error_is_pending_7_3() -> None:
    recorded = log(fsts=IQE).record(fault())
    assert recorded.interrupt is None
    assert recorded.log.fsts == IQE | PPF


def test_masked_event_is_pending_until_the_mask_or_the_records_are_cleared_7_3() -> None:
    recorded = log(fectl=IM).record(fault())
    assert recorded.interrupt is None
    assert recorded.log.fectl == IM | IP
    assert recorded.log.write_fectl(0)[1] == EVENT
    assert recorded.log.write_record(0, F).fectl == IM


def test_index_starts_anew_when_nothing_is_remapped_7_2_1() -> None:
    one = filled(log(), fault())
    for gsts, index in ((TES, 1), (IRES, 1), (TES | IRES, 1), (0, 0)):
        assert one.with_gsts(gsts).next_index == index


def test_interrupt_fault_holds_its_index_in_the_upper_bits_of_fi_11_4_7_6() -> None:
    record = VtdFaultRecord(
        address=0,
        source_id=0xF0F8,
        reason=VtdFaultReason.INTERRUPT_ENTRY_NOT_PRESENT,
        is_read=False,
        interrupt_index=0xBEEF,
    )
    assert record.encode() == 1 << 127 | 0x22 << 96 | 0xF0F8 << 64 | 0xBEEF << 48
    assert VtdFaultRecord.decode(record.encode()) == record
    assert str(record) == "interrupt 0xbeef by f0:1f.0, reason 0x22"
    assert log().record(record).log.records[0] == record.encode()


def test_interrupt_fault_without_an_index_reads_back_without_one() -> None:
    for reason in (0x20, 0x25, 0x2A, 0x2B):
        record = VtdFaultRecord(address=0, source_id=1, reason=VtdFaultReason(reason), is_read=False)
        assert VtdFaultRecord.decode(record.encode()) == record


def test_more_records_than_registers_are_refused() -> None:
    with pytest.raises(SpecError, match="NFR"):
        VtdRegisters(rtaddr=0, cap=CAP_REG.encode({"NFR": 1}), ecap=0, gsts=0, frcd=(0, 0, 0))


@settings(deadline=None, max_examples=100)
@given(
    count=st.integers(1, 5),
    compresses=st.booleans(),
    steps=st.lists(st.one_of(st.integers(0, 3), st.just("clear"), st.just("pfo")), max_size=30),
)
def test_status_always_agrees_with_the_records(count: int, compresses: bool, steps: list[int | str]) -> None:
    now = log(count, compresses=compresses)
    for step in steps:
        if step == "clear":
            now = now.write_record(now.next_index, F)
        elif step == "pfo":
            now = now.write_fsts(PFO)
        else:
            assert isinstance(step, int)
            lost_before = now.fsts & PFO
            recorded = now.record(fault(step))
            assert recorded.index is None or not lost_before
            now = recorded.log
        assert bool(now.fsts & PPF) == any(record & F for record in now.records)
        assert 0 <= now.next_index < count
