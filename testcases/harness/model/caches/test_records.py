"""What a unit writes to memory: `harness.model.caches.records`."""

from __future__ import annotations

from cache_rigs import RIGS

from harness.model.access import Bypassed, BypassReason, MemoryWrite, without_writes
from harness.model.caches.records import Records

RIG = "amdvi-guest-pasid"  # whose walks set accessed flags


def test_a_write_to_where_no_memory_is_is_lost() -> None:
    records = Records(RIGS[RIG]().model)
    records.put(MemoryWrite(1 << 60, b"\1"))


def test_flags_of_a_walk_that_no_cache_can_spare_are_set_and_taken_back() -> None:
    rig = RIGS[RIG]()
    rig.table.set_fields(rig.access.iova, 1, {"A": 0})
    rig.model.reset()
    flagged: set[int] = set()
    records = Records(rig.model, flagged)
    present = rig.model.engine.translate(rig.access)
    assert not isinstance(present, Bypassed)
    (write, *_) = present.writes
    before = rig.memory.read(write.address, len(write.data))
    records.mark()
    assert records.set_flags(rig.access, without_writes(present)) == ()
    assert rig.memory.read(write.address, len(write.data)) == write.data
    assert flagged == {each.address for each in present.writes}
    records.rollback()
    assert rig.memory.read(write.address, len(write.data)) == before


def test_flags_are_offered_where_a_cache_may_have_spared_the_walk_and_left_alone_with_another_outcome() -> None:
    rig = RIGS[RIG]()
    rig.do(lambda: rig.table.set_fields(rig.access.iova, 1, {"A": 0}))
    records = Records(rig.model)
    present = rig.model.engine.translate(rig.access)
    assert not isinstance(present, Bypassed)
    before = rig.memory.read(present.writes[0].address, 8)
    assert records.set_flags(rig.access, without_writes(present)) == present.writes
    assert records.set_flags(rig.access, Bypassed(rig.access.iova, BypassReason.PASS_THROUGH)) == ()
    assert rig.memory.read(present.writes[0].address, 8) == before
