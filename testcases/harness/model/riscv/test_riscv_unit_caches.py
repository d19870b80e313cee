"""What a RISC-V IOMMU may still know, and when it may not any more (3.8, 4.1)."""

from __future__ import annotations

import time

import pytest
from riscv_software import DDTP, FQT, OFF, Software
from riscv_unit import GSCID, GUEST, IOVA, OUTPUT, PSCID, Unit

from harness.model.access import AccessKind, Fault, Translated
from harness.model.riscv.commands import encode_command

_V = 1
_RESET_SECONDS = 300e-6


def _ready(tables: Unit | None = None, *, sets_flags: bool = False) -> Software:
    software = Software(tables, without=frozenset() if sets_flags else frozenset({"AMO_HWAD"}))
    software.set_up()
    software.translate()
    return software


def _both(software: Software) -> None:
    """The old translation may be had, and the fault."""
    outcomes = software.unit.outcomes(software.access())
    assert {type(outcome) for outcome in outcomes} == {Translated, Fault}
    assert isinstance(outcomes[0], Fault)


def _only_fault(software: Software) -> None:
    assert isinstance(software.request(), Fault)


def _invalidate_everything(software: Software) -> None:
    software.raw_command(*map(encode_command, ("IODIR.INVAL_DDT", "IOTINVAL.GVMA", "IOTINVAL.VMA")))


def test_a_page_that_is_not_invalidated_may_still_be_had() -> None:
    software = _ready()
    software.request()
    software.change_leaf(_V)
    _both(software)
    software.command("IOTINVAL.VMA", PSCV=1, PSCID=PSCID, AV=1, ADDR=IOVA >> 12)
    _only_fault(software)


@pytest.mark.parametrize(
    "fields",
    [
        {"PSCV": 1, "PSCID": PSCID ^ 1},
        {"AV": 1, "ADDR": (IOVA >> 12) + 1},
        {"GV": 1, "GSCID": GSCID},
    ],
)
def test_an_invalidation_of_something_else_drops_nothing(fields: dict[str, int]) -> None:
    software = _ready()
    software.request()
    software.change_leaf(_V)
    software.raw_command(encode_command("IOTINVAL.VMA", big_endian=False, **fields))
    _both(software)


def test_a_stopped_queue_drops_nothing() -> None:
    software = _ready()
    software.request()
    software.change_leaf(_V)
    software.raw_command(bytes(16))
    software.command("IOTINVAL.VMA")
    _both(software)


def test_the_second_stage_goes_with_its_own_command() -> None:
    software = _ready(Unit(None, "Sv39x4"))
    software.request()
    software.change_leaf(_V)
    software.command("IOTINVAL.VMA")
    _both(software)
    software.command("IOTINVAL.GVMA", GV=1, GSCID=GSCID)
    _only_fault(software)


def test_turning_translation_off_and_on_drops_nothing() -> None:
    software = _ready()
    software.request()
    software.change_leaf(_V)
    software.write(DDTP, OFF, 8)
    software.translate()
    _both(software)


def test_a_reset_drops_everything() -> None:
    software = _ready()
    software.request()
    software.change_leaf(_V)
    software.unit.reset()
    software.set_up()
    software.translate()
    _only_fault(software)


def test_after_an_invalidation_of_everything_no_history_is_left() -> None:
    software = _ready()
    for _ in range(100):
        software.change_leaf(_V)
        software.unit.outcomes(software.access())
        _invalidate_everything(software)
    history = software.unit._caches.memory
    assert history.is_empty
    assert history.size == 0


def test_a_record_leaves_no_history() -> None:
    software = _ready()
    _invalidate_everything(software)
    software.request(iova=IOVA + 0x10_0000)
    assert software.read(FQT) == 1
    assert software.unit._caches.memory.is_empty


def test_flags_are_set_where_hardware_sets_them() -> None:
    tables = Unit("Sv39", context={"tc.SADE": 1})
    software = _ready(tables, sets_flags=True)
    software.change_leaf(0xC0)
    _invalidate_everything(software)
    address = software.unit.explain(software.access()).steps[-1].address
    assert address is not None
    assert software.unit.memory.read_u64(address) & 0xC0 == 0
    software.request(AccessKind.READ)
    assert software.unit.memory.read_u64(address) & 0xC0 == 0x40
    software.request(AccessKind.WRITE)
    assert software.unit.memory.read_u64(address) & 0xC0 == 0xC0


def test_flags_that_caches_may_spare_are_told_and_not_set() -> None:
    tables = Unit("Sv39", context={"tc.SADE": 1})
    software = _ready(tables, sets_flags=True)
    software.change_leaf(0xC0)
    address = software.unit.explain(software.access()).steps[-1].address
    assert address is not None
    access = software.access()
    outcome = software.unit.outcomes(access)[0]
    (write,) = software.unit.settle(access, outcome)
    assert write.address == address
    assert software.unit.memory.read_u64(address) & 0xC0 == 0


def test_a_translation_goes_where_the_tables_say() -> None:
    outcome = _ready().request(AccessKind.WRITE)
    assert isinstance(outcome, Translated)
    assert outcome.address == OUTPUT


def test_a_reset_is_cheap() -> None:
    software = _ready()
    best = 1.0
    for _ in range(50):
        start = time.perf_counter()
        software.unit.reset()
        best = min(best, time.perf_counter() - start)
    assert best < _RESET_SECONDS


def _reason_after(tables: Unit, command: bytes) -> str:
    """Why a page is not translated that was used and unmapped, after a command."""
    software = _ready(tables)
    software.request()
    software.change_leaf(_V)
    software.raw_command(command)
    return software.unit.explain(software.access()).steps[-1].reason


def test_the_walk_tells_of_a_translation_that_an_invalidation_by_another_address_dropped() -> None:
    reason = _reason_after(
        Unit("Sv39", "Sv39x4"), encode_command("IOTINVAL.GVMA", GV=1, GSCID=GSCID, AV=1, ADDR=GUEST >> 12)
    )
    assert reason == "V is 0, invalidated by another address"


def test_the_walk_does_not_tell_of_an_invalidation_by_the_same_address_or_without_one() -> None:
    assert _reason_after(Unit(), encode_command("IOTINVAL.VMA", AV=1, ADDR=IOVA >> 12)) == "V is 0"
    assert _reason_after(Unit("Sv39", "Sv39x4"), encode_command("IOTINVAL.GVMA", GV=1, GSCID=GSCID)) == "V is 0"
    assert _reason_after(Unit(), encode_command("IOTINVAL.VMA", AV=1, ADDR=(IOVA >> 12) + 1)) == "V is 0"
