"""Queue and caches of a living VT-d unit: descriptors, what they end, and what they write (VT-d 6.1, 6.2, 6.5)."""

from __future__ import annotations

import pytest
from vtd_alive import DOMAIN, IOVA, OUTPUT, QUEUE, RID, Alive, Offset

from harness.model.access import Fault, Translated
from harness.model.engine import MsiWrite
from harness.model.vtd.invalidation.descriptors import DescriptorType, Granularity

STATUS = 0x20_0000
IQE = 1 << 4


def with_queue() -> Alive:
    alive = Alive()
    alive.use_queue()
    return alive


def unmap(alive: Alive) -> None:
    """Software clears the PTE of IOVA."""
    entry = next(address for address in range(0x1000, 0x10000, 8) if alive.memory.read_u64(address) == OUTPUT | 3)
    alive.unit.store(entry, bytes(8))


def test_what_was_unmapped_may_still_be_reached_until_it_is_invalidated_6_1() -> None:
    alive = with_queue()
    assert alive.outcomes() == {"Translated"}
    unmap(alive)
    assert alive.outcomes() == {"Translated", "Fault"}
    alive.submit(DescriptorType.IOTLB, G=Granularity.DOMAIN, DID=DOMAIN + 1)
    assert alive.outcomes() == {"Translated", "Fault"}
    alive.submit(DescriptorType.IOTLB, G=Granularity.DOMAIN, DID=DOMAIN)
    assert alive.outcomes() == {"Fault"}


def test_the_outcome_that_needs_no_cache_is_the_first() -> None:
    alive = with_queue()
    unmap(alive)
    assert isinstance(alive.dma(), Fault)


def test_registers_invalidate_as_well_while_there_is_no_queue() -> None:
    alive = Alive()
    unmap(alive)
    alive.write(Offset.IVA, IOVA)
    alive.write(Offset.IOTLB, 1 << 63 | Granularity.SELECTIVE << 60 | DOMAIN << 32)
    assert alive.outcomes() == {"Fault"}
    # Hardware may have invalidated more, and say so; of a global request there is no more.
    assert (alive.read(Offset.IOTLB), alive.look(Offset.IOTLB).known) == (0, 1 << 63)
    alive.invalidate_all()
    assert alive.read(Offset.IOTLB) == Granularity.GLOBAL << 57


def test_invalidation_through_registers_ends_nothing_while_the_queue_is_enabled() -> None:
    alive = with_queue()
    unmap(alive)
    alive.invalidate_all()
    assert alive.outcomes() == {"Translated", "Fault"}


def test_head_follows_tail_and_wraps_with_it() -> None:
    alive = with_queue()
    for _ in range(255):
        alive.submit(DescriptorType.IOTLB, G=Granularity.GLOBAL)
    alive.unit.store(QUEUE + 255 * 16, alive.memory.read(QUEUE, 16))
    alive.write(Offset.IQT, 0)
    assert alive.read(Offset.IQH) == 0
    assert alive.coverage.counts["command", "IOTLB global"] == 256


def test_a_wait_descriptor_writes_its_status_and_tells_where_6_5_2_9() -> None:
    alive = with_queue()
    alive.submit(DescriptorType.WAIT, SW=1, DATA=0x1234_5678, ADDR=STATUS >> 2)
    assert alive.unit.memory.read(STATUS, 4) == bytes.fromhex("78563412")
    place = alive.unit.structure_at(STATUS + 3)
    assert place is not None
    assert (place.start, place.size) == (STATUS, 8)
    assert alive.unit.structure_at(STATUS + 8) is None
    assert alive.outcomes() == {"Translated"}


def test_a_wait_descriptor_with_if_sends_the_invalidation_event_6_5_2_10() -> None:
    alive = with_queue()
    alive.write(Offset.IECTL + 8, 0xFEE0_2000, 4)
    alive.write(Offset.IECTL + 4, 0x55, 4)
    alive.write(Offset.IECTL, 0, 4)
    alive.submit(DescriptorType.WAIT, IF=1)
    assert alive.unit.take_interrupts() == (MsiWrite(requester=0, address=0xFEE0_2000, data=0x55),)
    assert alive.read(Offset.ICS, 4) == 1
    alive.write(Offset.ICS, 1, 4)
    assert alive.read(Offset.ICS, 4) == 0


@pytest.mark.parametrize("kind", [DescriptorType.PASID_CACHE, DescriptorType.DEVICE_TLB])
def test_a_descriptor_that_the_mode_or_the_hardware_lacks_stops_the_queue_6_5_2_11(kind: DescriptorType) -> None:
    alive = with_queue()
    alive.submit(kind)
    alive.submit(DescriptorType.WAIT, SW=1, DATA=1, ADDR=STATUS >> 2)
    assert alive.read(Offset.FSTS, 4) == IQE
    assert alive.read(Offset.IQH) == 0
    assert alive.memory.read_u64(STATUS) == 0


@pytest.mark.parametrize(
    ("kind", "name"),
    [(DescriptorType.PASID_CACHE, "IQH_REG"), (DescriptorType.DEVICE_TLB, "IQH_REG (no device TLBs)")],
)
def test_a_queue_that_stands_at_a_descriptor_for_device_tlbs_is_named_so_6_5_2_5(
    kind: DescriptorType, name: str
) -> None:
    alive = with_queue()
    alive.submit(kind)
    place = alive.unit.register_at(Offset.IQH)
    assert place is not None
    assert place.name == name


def test_the_queue_goes_on_when_software_has_mended_it_and_cleared_iqe_6_5_2_11() -> None:
    alive = with_queue()
    alive.submit(DescriptorType.PASID_CACHE)
    alive.unit.store(QUEUE, bytes.fromhex("0500 0000 0000 0000 0000 0000 0000 0000"))
    alive.write(Offset.FSTS, IQE, 4)
    assert (alive.read(Offset.FSTS, 4), alive.read(Offset.IQH)) == (0, 16)


def test_a_queue_that_goes_on_and_stops_again_says_on_what_occasion_its_message_is_sent_7_3() -> None:
    alive = with_queue()
    alive.write(Offset.FECTL + 8, 0xFEE0_2000, 4)
    alive.write(Offset.FECTL, 0, 4)
    alive.submit(DescriptorType.PASID_CACHE)
    alive.write(Offset.FSTS, IQE, 4)
    assert alive.read(Offset.FSTS, 4) == IQE
    assert [each.occasion for each in alive.unit.take_interrupts()] == ["", "the queue goes on"]
    alive.submit(DescriptorType.DEVICE_TLB)
    alive.unit.store(QUEUE, bytes.fromhex("0500 0000 0000 0000 0000 0000 0000 0000"))
    alive.write(Offset.FSTS, IQE, 4)
    assert [each.occasion for each in alive.unit.take_interrupts()] == ["no device TLBs"]


def test_the_tail_is_no_reason_to_run_while_the_queue_is_disabled() -> None:
    alive = Alive()
    alive.write(Offset.IQA, QUEUE)
    alive.write(Offset.IQT, 32)
    assert alive.read(Offset.IQH) == 0


def test_commands_are_counted_by_what_they_ask_for() -> None:
    alive = with_queue()
    alive.submit(DescriptorType.CONTEXT_CACHE, G=Granularity.DOMAIN, DID=DOMAIN)
    alive.submit(DescriptorType.WAIT, SW=1, FN=1, ADDR=STATUS >> 2)
    alive.submit(DescriptorType.PASID_CACHE)
    counted = {name for kind, name in alive.coverage.counts if kind == "command"}
    assert counted >= {
        *("CONTEXT_CACHE domain", "WAIT SW FN", "PASID_CACHE domain refused: INVALID_TYPE"),
        *("CCMD_REG global", "IOTLB_REG global"),
    }


def test_records_of_hardware_are_no_past_that_caches_could_know() -> None:
    alive = with_queue()
    alive.submit(DescriptorType.WAIT, SW=1, DATA=1, ADDR=STATUS >> 2)
    alive.invalidate_all()
    alive.submit(DescriptorType.CONTEXT_CACHE, G=Granularity.GLOBAL)
    alive.submit(DescriptorType.IOTLB, G=Granularity.GLOBAL)
    unmap(alive)
    alive.submit(DescriptorType.WAIT, SW=1, DATA=2, ADDR=STATUS >> 2)
    alive.submit(DescriptorType.CONTEXT_CACHE, G=Granularity.GLOBAL)
    alive.submit(DescriptorType.IOTLB, G=Granularity.GLOBAL)
    assert alive.outcomes() == {"Fault"}
    assert isinstance(alive.dma(requester=RID), Fault)


def test_a_page_that_is_invalidated_before_it_is_unmapped_may_be_cached_again() -> None:
    alive = with_queue()
    alive.submit(DescriptorType.IOTLB, G=Granularity.GLOBAL)
    unmap(alive)
    assert isinstance(alive.dma(), Fault)
    assert alive.outcomes() == {"Translated", "Fault"}
    assert Translated.__name__ in alive.outcomes(IOVA + 0xFF0)
