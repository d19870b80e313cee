"""The registers of a RISC-V IOMMU over time: what they read as, and what writing them does (chapter 6)."""

from __future__ import annotations

import pytest
from riscv_software import (
    BARE,
    COMMANDS,
    CQB,
    CQCSR,
    CQH,
    CQT,
    DDTP,
    ENABLE,
    FAULTS,
    FCTL,
    FQB,
    FQCSR,
    FQH,
    FQT,
    ICVEC,
    IPSR,
    MSI_CFG_TBL,
    OFF,
    ON,
    PQB,
    PQCSR,
    TR_REQ_CTL,
    TR_REQ_IOVA,
    TR_RESPONSE,
    Software,
)
from riscv_unit import DEVICE, IOVA, OUTPUT, RAM, Unit

from harness.model.access import AccessKind, Bypassed, Fault, Translated
from harness.model.engine import NotModelled
from harness.model.riscv import RiscvIommuCause
from harness.model.riscv.register_fields import CAPABILITIES
from harness.model.riscv.register_fields import CQCSR as CQCSR_LAYOUT
from harness.model.riscv.register_fields import FCTL as FCTL_LAYOUT
from harness.model.riscv.registers import InterruptGeneration
from harness.model.unit import Readout

_ALL_OF_32, _ALL_OF_64 = (1 << 32) - 1, (1 << 64) - 1
_ANSWER = (1 << 60) - 1  # of tr_response, but for custom bits
_NOTHING = Readout(0, 0)
_BUSY = 1 << 17


class TestAccesses:
    """Chapter 6, before 6.1."""

    @pytest.mark.parametrize(("offset", "size"), [(0, 1), (8, 2), (20, 8), (32, 8), (72, 8), (84, 8), (2, 4), (776, 8)])
    def test_an_access_that_is_not_specified_reads_as_anything(self, offset: int, size: int) -> None:
        assert Software().unit.read(offset, size) == _NOTHING

    def test_a_register_of_8_bytes_is_read_in_halves_too(self) -> None:
        software = Software()
        whole = software.read(0, 8)
        assert (software.read(4) << 32 | software.read(0)) == whole

    def test_a_register_of_8_bytes_is_written_in_halves_too(self) -> None:
        software = Software()
        software.write(FCTL, 0)
        ddtp = software.tables.tables.ddtp
        software.write(DDTP + 4, ddtp >> 32)
        software.write(DDTP, ddtp & _ALL_OF_32)
        assert software.read(DDTP, 8) == ddtp

    @pytest.mark.parametrize(("offset", "size"), [(FQH, 2), (CQT, 1), (CQH, 8), (IPSR, 1), (18, 4)])
    def test_nothing_can_be_said_after_a_write_that_is_not_specified(self, offset: int, size: int) -> None:
        software = Software()
        software.set_up()
        with pytest.raises(NotModelled):
            software.write(offset, 0, size)
        with pytest.raises(NotModelled):
            software.unit.outcomes(software.access())
        assert software.unit.read(FQCSR, 4) == _NOTHING
        software.unit.reset()
        software.set_up()
        assert software.field(FQCSR, ON)

    @pytest.mark.parametrize("offset", [628, 684, 1024, 4092])
    def test_reserved_space_is_zero_and_stays_so(self, offset: int) -> None:
        software = Software()
        software.write(offset, _ALL_OF_32)
        assert software.read(offset) == 0

    @pytest.mark.parametrize("offset", [12, 688, 752])
    def test_of_custom_space_nothing_is_known(self, offset: int) -> None:
        assert Software().unit.read(offset, 4) == _NOTHING

    @pytest.mark.parametrize(
        ("feature", "offsets"),
        [("ATS", (PQB, PQCSR, 64, 68)), ("HPM", (88, 92, 96, 104, 352)), ("DBG", (600, 608, 616)), ("QOSID", (624,))],
    )
    def test_an_optional_register_that_is_not_there_is_zero(self, feature: str, offsets: tuple[int, ...]) -> None:
        software = Software(without=frozenset({feature}))
        for offset in offsets:
            software.write(offset, _ALL_OF_32)
            assert software.read(offset) == 0

    def test_reserved_bits_are_zero_whatever_is_written(self) -> None:
        software = Software()
        software.write(FCTL, 0xFFF8)
        assert software.field(FCTL, 0xFFF8) == 0
        software.write(CQB, 0x3E0 | 0x3FF << 54, 8)
        assert software.field(CQB, 0x3E0 | 0x3FF << 54, 8) == 0
        assert software.field(CQCSR, CQCSR_LAYOUT.reserved) == 0

    def test_capabilities_are_read_only(self) -> None:
        software = Software()
        before = software.read(0, 8)
        software.write(0, 0, 8)
        assert software.read(0, 8) == before


class TestReset:
    """6.2."""

    def test_enables_and_pending_bits_are_zero(self) -> None:
        software = Software()
        software.set_up()
        software.unit.reset()
        for csr in (CQCSR, FQCSR, PQCSR):
            assert software.field(csr, 3 | ON | _BUSY) == 0
        assert software.field(IPSR, 0xF) == 0

    @pytest.mark.parametrize(("offset", "bits"), [(CQB, 0x1F), (FQH, 1), (CQT, 1), (ICVEC, 0xF), (CQCSR, 1 << 8)])
    def test_the_rest_is_not_specified(self, offset: int, bits: int) -> None:
        software = Software()
        software.set_up()
        software.unit.reset()
        assert software.unit.read(offset, 4).known & bits == 0

    def test_memory_stays(self) -> None:
        software = Software()
        software.unit.store(0x1F_0000, b"kept")
        software.unit.reset()
        assert software.unit.memory.read(0x1F_0000, 4) == b"kept"

    def test_translation_is_off_again(self) -> None:
        software = Software()
        software.set_up()
        software.translate()
        software.unit.reset()
        outcome = software.request()
        assert isinstance(outcome, Fault)
        assert outcome.code is RiscvIommuCause.ALL_INBOUND_TRANSACTIONS_DISALLOWED

    def test_a_queue_that_was_not_set_up_since_cannot_be_used(self) -> None:
        software = Software()
        software.set_up()
        software.unit.reset()
        software.write(FCTL, 0)
        with pytest.raises(NotModelled, match="cqb"):
            software.write(CQCSR, ENABLE)


class TestFeatures:
    """6.4."""

    @pytest.mark.parametrize(
        ("igs", "writable"),
        [(InterruptGeneration.MSI, 0), (InterruptGeneration.WSI, 0), (InterruptGeneration.BOTH, 2)],
    )
    def test_wsi_is_writable_where_both_kinds_of_interrupt_are_there(
        self, igs: InterruptGeneration, writable: int
    ) -> None:
        software = Software(igs=igs)
        software.write(FCTL, 2)
        assert software.field(FCTL, 2) == writable

    @pytest.mark.parametrize("both", [False, True])
    def test_be_is_writable_where_both_byte_orders_are_there(self, both: bool) -> None:
        software = Software(features=frozenset({"END"} if both else ()))
        software.write(FCTL, 1)
        assert software.field(FCTL, FCTL_LAYOUT["BE"].mask) == both

    def test_a_change_while_translation_is_on_is_not_specified(self) -> None:
        software = Software()
        software.write(FCTL, 0)
        software.write(DDTP, BARE, 8)
        software.write(FCTL, 0)
        with pytest.raises(NotModelled, match="fctl"):
            software.write(FCTL, 2)

    def test_a_change_while_a_queue_is_on_is_not_specified(self) -> None:
        software = Software()
        software.set_up()
        with pytest.raises(NotModelled, match="fctl"):
            software.write(FCTL, 2)


class TestMode:
    """6.5."""

    def test_off_blocks_bare_passes_and_a_table_translates(self) -> None:
        software = Software()
        software.set_up()
        assert isinstance(software.request(), Fault)
        software.write(DDTP, BARE, 8)
        assert isinstance(software.request(), Bypassed)
        software.translate()
        assert software.request() == Translated(OUTPUT, 4096, software.request().permissions)  # type: ignore[union-attr]

    def test_busy_is_zero_when_a_write_is_done(self) -> None:
        software = Software()
        software.set_up()
        software.translate()
        assert software.read(DDTP, 8) == software.tables.tables.ddtp

    @pytest.mark.parametrize("mode", [BARE, 3, 4])
    def test_from_a_table_the_way_leads_over_off(self, mode: int) -> None:
        software = Software()
        software.set_up()
        software.translate()
        software.write(DDTP, OFF, 8)
        software.write(DDTP, software.tables.tables.ddtp & ~0xF | mode, 8)
        software.write(DDTP, OFF, 8)
        software.translate()
        with pytest.raises(NotModelled, match="without having been Off"):
            software.write(DDTP, software.tables.tables.ddtp & ~0xF | mode, 8)

    @pytest.mark.parametrize("mode", [5, 13, 14])
    def test_of_a_mode_that_is_not_legal_another_comes_of_which_nothing_is_known(self, mode: int) -> None:
        software = Software()
        software.set_up()
        software.write(DDTP, mode, 8)
        assert software.unit.read(DDTP, 8).known & 0xF == 0
        with pytest.raises(NotModelled, match="iommu_mode"):
            software.unit.outcomes(software.access())
        software.write(DDTP, OFF, 8)
        assert isinstance(software.request(), Fault)

    def test_the_page_number_has_as_many_bits_as_a_physical_address(self) -> None:
        software = Software()
        software.write(DDTP, _ALL_OF_64 & ~0xF, 8)
        assert software.field(DDTP, _ALL_OF_64, 8) == (1 << 54) - (1 << 10)
        assert CAPABILITIES["PAS"].get(software.read(0, 8)) == 56


class TestQueueRegisters:
    """6.6 to 6.17."""

    def test_only_so_many_bits_of_an_index_as_the_queue_needs_are_writable(self) -> None:
        software = Software()
        for base, index in ((CQB, CQT), (FQB, FQH), (PQB, 64)):
            software.write(base, COMMANDS >> 2 | 2, 8)
            software.write(index, _ALL_OF_32)
            assert software.read(index) == 7

    def test_writing_a_base_leaves_the_index_anywhere_in_the_queue(self) -> None:
        software = Software()
        software.write(CQB, COMMANDS >> 2 | 2, 8)
        software.write(CQT, 5)
        software.write(CQB, COMMANDS >> 2 | 1, 8)
        assert software.unit.read(CQT, 4) == Readout(0, _ALL_OF_32 & ~3)

    @pytest.mark.parametrize("offset", [CQH, FQT, 68])
    def test_the_iommus_own_index_is_read_only(self, offset: int) -> None:
        software = Software()
        software.set_up()
        software.write(PQB, COMMANDS >> 2 | 2, 8)
        software.write(64, 0)
        software.write(PQCSR, ENABLE)
        software.write(offset, 3)
        assert software.read(offset) == 0

    @pytest.mark.parametrize(("base", "csr"), [(CQB, CQCSR), (FQB, FQCSR)])
    def test_a_base_is_not_to_be_written_while_the_queue_is_on(self, base: int, csr: int) -> None:
        software = Software()
        software.set_up()
        software.write(csr, 0)
        software.write(base, FAULTS >> 2 | 2, 8)
        software.unit.reset()
        software.set_up()
        with pytest.raises(NotModelled, match="while its queue is on"):
            software.write(base, FAULTS >> 2 | 2, 8)

    def test_on_follows_enable(self) -> None:
        software = Software()
        software.set_up()
        for csr in (CQCSR, FQCSR):
            assert software.field(csr, ON | ENABLE | _BUSY) == ON | ENABLE
            software.write(csr, 0)
            assert software.field(csr, ON | ENABLE | _BUSY) == 0

    def test_a_queue_of_several_pages_is_aligned_to_its_size(self) -> None:
        software = Software()
        software.write(FCTL, 0)
        software.write(FQB, (FAULTS + 0x1000) >> 2 | 7, 8)
        software.write(FQH, 0)
        with pytest.raises(NotModelled, match="aligned"):
            software.write(FQCSR, ENABLE)


class TestVectors:
    """6.28, 6.29."""

    def test_a_vector_that_is_not_there_becomes_another(self) -> None:
        software = Software(vectors=4)
        software.write(ICVEC, 0x3213, 8)
        assert software.field(ICVEC, 0xFFFF, 8) == 0x3213
        software.write(ICVEC, 0x3243, 8)
        assert software.unit.read(ICVEC, 8).known & 0xFFFF == 0xFF0F

    def test_an_entry_reads_as_it_was_written_but_for_its_fixed_bits(self) -> None:
        software = Software()
        software.message(2, _ALL_OF_64, 0x1234_5678, _ALL_OF_32)
        at = MSI_CFG_TBL + 32
        assert software.read(at, 8) == (1 << 56) - 4
        assert software.read(at + 8) == 0x1234_5678
        assert software.read(at + 12) == 1

    def test_without_messages_the_table_is_zero(self) -> None:
        software = Software(igs=InterruptGeneration.WSI)
        software.write(MSI_CFG_TBL, _ALL_OF_64, 8)
        assert software.read(MSI_CFG_TBL, 8) == 0


class TestTranslationRequests:
    """6.24 to 6.26, chapter 7."""

    def _ask(self, software: Software, control: int, iova: int = IOVA) -> Readout:
        software.write(TR_REQ_IOVA, iova, 8)
        software.write(TR_REQ_CTL, control | DEVICE << 40 | 1, 8)
        assert software.field(TR_REQ_CTL, 1, 8) == 0
        return software.unit.read(TR_RESPONSE, 8)

    def _software(self, tables: Unit | None = None) -> Software:
        software = Software(tables, features=frozenset({"DBG"}), without=frozenset({"AMO_HWAD", "Svpbmt"}))
        software.set_up()
        software.translate()
        return software

    def test_the_page_that_it_goes_to_is_answered(self) -> None:
        answer = self._ask(self._software(), 8)
        assert answer.value == OUTPUT >> 2
        assert answer.known == _ANSWER

    def test_a_fault_is_answered_and_reported(self) -> None:
        software = self._software()
        answer = self._ask(software, 0, IOVA + 0x1000)
        assert answer.value & answer.known & 1
        assert not answer.known & 0x3FF << 10
        record = software.record(0)
        assert (record.cause, record.iotval) == (RiscvIommuCause.WRITE_PAGE_FAULT, IOVA + 0x1000)
        assert software.read(FQT) == 1

    def test_of_a_large_page_any_part_may_be_answered(self) -> None:
        tables = Unit("Sv39")
        assert tables.first is not None
        tables.first.map(0x20_0000 + IOVA, 0xC000_0000, 0x20_0000)
        answer = self._ask(self._software(tables), 8, IOVA + 0x20_3000)
        assert answer.known == _ANSWER & ~(1 << 9 | 0x1FF << 10)
        assert answer.value == 0xC000_0000 >> 2

    def test_with_memory_types_the_type_is_not_told(self) -> None:
        software = Software(features=frozenset({"DBG"}))
        software.set_up()
        software.translate()
        assert self._ask(software, 8).known == _ANSWER & ~(3 << 7)

    def test_execution_without_nw_is_not_specified(self) -> None:
        with pytest.raises(NotModelled, match="execution"):
            self._ask(self._software(), 4)

    def test_what_is_stale_may_be_answered_too(self) -> None:
        software = self._software()
        software.request()
        software.change_leaf(1 << 10)
        answer = self._ask(software, 8)
        assert answer.known == _ANSWER & ~(1 << 10)
        assert answer.agrees(OUTPUT >> 2)
        assert answer.agrees(OUTPUT + 0x1000 >> 2)


class TestCounters:
    """6.19 to 6.23."""

    def test_what_counts_reads_as_anything(self) -> None:
        software = Software(features=frozenset({"HPM"}))
        for offset in (88, 96, 104):
            assert software.unit.read(offset, 4) == _NOTHING
        assert not software.unit.read(IPSR, 4).known & 4

    def test_a_filter_reads_as_it_was_written(self) -> None:
        software = Software(features=frozenset({"HPM"}))
        software.write(352, 0x2ABC_DEF1_2345 << 16 & ~(1 << 63), 8)
        assert software.field(352, (1 << 63) - (1 << 15), 8) == 0x2ABC_DEF1_2345 << 16 & (1 << 63) - (1 << 15)


def test_every_field_that_software_sets_is_noted() -> None:
    software = Software()
    software.set_up()
    software.translate()
    names = {name for kind, name in software.coverage.counts if kind == "register"}
    assert {"ddtp.iommu_mode", "ddtp.PPN", "cqb.PPN", "cqb.LOG2SZ-1", "cqcsr.cqen", "fqcsr.fqen"} <= names
    assert "cqcsr.cie" not in names


def test_a_place_has_the_name_and_the_layout_of_its_register() -> None:
    software = Software()
    place = software.unit.register_at(DDTP + 5)
    assert place is not None
    assert (place.name, place.start, place.size) == ("ddtp", DDTP, 8)
    assert place.layout is not None
    entry = software.unit.register_at(MSI_CFG_TBL + 16 * 3 + 9)
    assert entry is not None
    assert (entry.name, entry.start) == ("msi_data", MSI_CFG_TBL + 16 * 3 + 8)
    assert software.unit.register_at(2048) is None


def test_writes_of_a_device_reach_memory_that_is_there() -> None:
    software = Software()
    software.set_up()
    software.write(DDTP, BARE, 8)
    outcome = software.request(AccessKind.WRITE, RAM - 4)
    assert isinstance(outcome, Bypassed)
