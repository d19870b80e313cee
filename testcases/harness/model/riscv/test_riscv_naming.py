"""What a RISC-V IOMMU's registers, records and walks are called, so that one difference there is told from another."""

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
    FIP,
    FQCSR,
    FQH,
    ICVEC,
    ILLEGAL,
    INTERRUPT,
    IPSR,
    OFF,
    OVERFLOW,
    STATUS,
    Software,
)
from riscv_unit import DEVICE, IOVA, Unit

from harness.model.access import AccessKind
from harness.model.riscv.commands import encode_command

_FENCE = encode_command("IOFENCE.C", AV=1, ADDR=STATUS >> 2, DATA=7)
_UNMAPPED = IOVA + 0x10_0000


def _name(software: Software, offset: int) -> str:
    place = software.unit.register_at(offset)
    assert place is not None
    return place.name


def _stored(software: Software, address: int) -> str:
    place = software.unit.structure_at(address)
    assert place is not None
    return place.name


def _reasons(software: Software, device: int = DEVICE) -> list[str]:
    explanation = software.unit.explain(software.access(device=device))
    return [step.reason for step in explanation.steps if step.reason]


class TestCommandQueue:
    """4.1, 6.15."""

    @pytest.mark.parametrize(
        ("command", "complaint"),
        [
            (bytes(16), "opcode"),
            ((1 | 2 << 7).to_bytes(16, "little"), "func3"),
            (encode_command("IOTINVAL.VMA", RSVD_11=1), "RSVD_11"),
            (encode_command("IOTINVAL.VMA", NL=1, AV=1), "NL"),
            (encode_command("IOTINVAL.VMA", S=1, AV=1), "S"),
            (encode_command("IOTINVAL.GVMA", PSCV=1), "PSCV"),
            (encode_command("IOFENCE.C", WSI=1), "WSI"),
            (encode_command("IODIR.INVAL_DDT", DV=1, DID=1 << 23), "DID"),
            (encode_command("IODIR.INVAL_DDT", PID=1), "PID"),
            (encode_command("IODIR.INVAL_PDT", DV=1, PID=1 << 19), "PID"),
            (encode_command("IODIR.INVAL_PDT"), "DV"),
            (encode_command("ATS.INVAL"), "no ATS"),
        ],
    )
    def test_it_is_named_after_what_is_illegal(self, command: bytes, complaint: str) -> None:
        software = Software(without=frozenset({"NL", "S", "ATS", "PD20", "AMO_HWAD"}))
        software.set_up()
        software.translate()
        assert _name(software, CQCSR) == "cqcsr"
        software.raw_command(command)
        assert _name(software, CQCSR) == f"cqcsr (illegal by {complaint})"
        assert _name(software, CQH) == f"cqh (illegal by {complaint})"

    def test_what_comes_behind_an_error_that_was_cleared_says_so(self) -> None:
        software = Software()
        software.set_up()
        software.raw_command(bytes(16), _FENCE)
        software.unit.store(COMMANDS, encode_command("IOFENCE.C"))
        software.write(CQCSR, ILLEGAL | ENABLE)
        assert _name(software, CQH) == "cqh (behind an error that was cleared)"
        assert _stored(software, STATUS) == "IOFENCE.C data (behind an error that was cleared)"
        software.raw_command(_FENCE)
        assert _name(software, CQH) == "cqh"
        assert _stored(software, STATUS) == "IOFENCE.C data"

    def test_what_a_fence_behind_an_illegal_command_would_store_says_so(self) -> None:
        software = Software()
        software.set_up()
        software.raw_command(encode_command("IODIR.INVAL_DDT", RSVD_64=1), _FENCE)
        assert _stored(software, STATUS) == "IOFENCE.C data (illegal by RSVD_64)"
        assert software.unit.structure_at(STATUS + 4) is None

    def test_a_queue_that_is_turned_on_is_behind_no_error(self) -> None:
        software = Software()
        software.write(FCTL, 0)
        software.write(CQB, COMMANDS >> 2 | 2, 8)
        software.unit.store(COMMANDS, _FENCE)
        software.write(CQT, 1)
        software.write(CQCSR, ENABLE)
        assert _name(software, CQH) == "cqh"
        assert _stored(software, STATUS) == "IOFENCE.C data"


class TestPendingBits:
    """6.18."""

    def _with_both(self) -> Software:
        """A command is illegal, and the fault queue has overflowed."""
        software = Software()
        for vector in range(2):
            software.message(vector, 0x2800_0000, vector)
        software.write(ICVEC, 0x10, 8)
        software.set_up(interrupts=INTERRUPT)
        software.translate()
        software.raw_command(bytes(16))
        software.write(FQH, 1)
        software.request(AccessKind.READ, _UNMAPPED)
        assert software.field(IPSR, CIP | FIP) == CIP | FIP
        assert _name(software, IPSR) == "ipsr"
        return software

    def test_a_bit_that_is_not_written_stays(self) -> None:
        software = self._with_both()
        software.write(CQCSR, ILLEGAL | ENABLE | INTERRUPT)
        software.write(FQCSR, OVERFLOW | ENABLE | INTERRUPT)
        software.write(IPSR, 0)
        assert _name(software, IPSR) == "ipsr (cip was not written, fip was not written)"

    def test_a_bit_whose_cause_persists_is_set_again(self) -> None:
        software = self._with_both()
        software.write(IPSR, CIP)
        assert _name(software, IPSR) == "ipsr (cip still has a cause, fip was not written)"

    def test_a_bit_that_goes_needs_no_words(self) -> None:
        software = self._with_both()
        software.write(FQCSR, OVERFLOW | ENABLE | INTERRUPT)
        software.write(IPSR, FIP)
        assert _name(software, IPSR) == "ipsr (cip was not written)"
        software.unit.reset()
        assert _name(software, IPSR) == "ipsr"


class TestBareMode:
    """3.8, 6.5: nothing is cached of a directory that nobody has read."""

    def _from_bare(self) -> Software:
        software = Software(Unit("Sv39", levels=2))
        software.set_up()
        software.write(DDTP, BARE, 8)
        return software

    def test_it_is_told_where_nothing_was_invalidated_since(self) -> None:
        software = self._from_bare()
        assert _reasons(software) == []
        software.translate()
        assert _reasons(software) == ["no IODIR.INVAL_DDT since Bare"]
        software.write(DDTP, OFF, 8)
        assert _reasons(software) == []

    def test_a_command_for_one_device_is_for_that_alone(self) -> None:
        software = self._from_bare()
        software.command("IODIR.INVAL_DDT", DV=1, DID=DEVICE)
        software.translate()
        assert _reasons(software) == []
        assert _reasons(software, DEVICE + 1) == ["no IODIR.INVAL_DDT since Bare"]

    def test_a_command_for_all_is_for_all(self) -> None:
        software = self._from_bare()
        software.command("IODIR.INVAL_DDT")
        # The upper half of a register alone leaves the mode as it was.
        software.write(DDTP + 4, 0)
        software.translate()
        assert _reasons(software, DEVICE + 1) == []

    def test_bare_mode_has_to_be_told_of_again_each_time(self) -> None:
        software = self._from_bare()
        software.command("IODIR.INVAL_DDT")
        software.translate()
        software.write(DDTP, OFF, 8)
        software.write(DDTP, BARE, 8)
        software.translate()
        assert _reasons(software) == ["no IODIR.INVAL_DDT since Bare"]


def test_a_fault_record_is_one_of_its_device_4_2() -> None:
    software = Software()
    software.set_up()
    software.translate()
    software.request(AccessKind.READ, _UNMAPPED)
    place = software.unit.structure_at(FAULTS)
    assert place is not None
    assert place.layout is not None
    assert place.layout[place.source].get(int.from_bytes(software.unit.memory.read(FAULTS, 32), "little")) == DEVICE


@pytest.mark.parametrize(
    ("unit", "iova", "reason"),
    [
        (Unit("Sv39"), 1 << 40, "beyond the first stage"),
        (Unit(None, "Sv39x4"), 1 << 41, "beyond the second stage"),
        (Unit("Sv39", context={"RSVD_tc_12": 1}), IOVA, "RSVD_tc_12"),
        (Unit("Sv39", context={"ta.RCID": 1}), IOVA, "ta.RCID"),
        (Unit("Sv39", context={"tc.GADE": 1}, without=frozenset({"AMO_HWAD"})), IOVA, "tc.GADE"),
        (Unit("Sv39", pdt_mode=1, context={"tc.DPE": 1}), IOVA, "a process directory"),
    ],
)
def test_a_walk_says_why_it_ends(unit: Unit, iova: int, reason: str) -> None:
    assert [step.reason for step in unit.explain(iova=iova).steps if step.reason] == [reason]


@pytest.mark.parametrize(
    ("level", "fields", "reason"),
    [
        (1, {"RSVD_54": 1}, "RSVD_54"),
        (1, {"RSW_59": 1}, "RSW_59"),
        (1, {"PBMT": 1}, "PBMT"),
        (2, {"U": 1}, "a pointer with U"),
        (2, {"A": 1, "D": 1}, "a pointer with A, D"),
        (2, {"RSVD_54": 1}, "a pointer with RSVD_54"),
    ],
)
def test_an_entry_is_named_after_the_fields_that_are_wrong(level: int, fields: dict[str, int], reason: str) -> None:
    unit = Unit("Sv39", without=frozenset({"Svpbmt", "Svrsw60t59b"}))
    assert unit.first is not None
    unit.first.set_fields(IOVA, level, fields)
    assert unit.explain().steps[-1].reason == reason
