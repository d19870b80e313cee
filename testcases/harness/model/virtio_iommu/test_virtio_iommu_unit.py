"""A living virtio-iommu: negotiation, requests in its queue, faults, resets (virtio 1.3, 2, 4.1, 5.13)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from virtio_alive import EP, EVENTS, LAYOUT, OFFERED, READY, Alive

from harness.model.access import Access, AccessKind, Bypassed, BypassReason, Fault, Translated
from harness.model.engine import NotModelled
from harness.model.unit import AnyBytes
from harness.model.virtio.negotiation import DeviceStatus, TransportFeatures
from harness.model.virtio.virtqueue import DescriptorFlags
from harness.model.virtio_iommu import (
    Attach,
    FaultFlags,
    FaultReason,
    Features,
    Map,
    Probe,
    Request,
    Status,
    Unmap,
    VirtioIommuFaultRecord,
    encode_request,
)
from harness.model.virtio_iommu.device import EVENT_QUEUE, REQUEST_QUEUE

ATTACH = Attach(domain=1, endpoint=EP)
MAP = Map(domain=1, virt_start=0x1000, virt_end=0x1FFF, phys_start=0xA000, flags=3)
UNMAP = Unmap(domain=1, virt_start=0x1000, virt_end=0x1FFF)
OK = bytes([Status.OK, 0, 0, 0])
NEEDS_RESET = int(DeviceStatus.DEVICE_NEEDS_RESET)


def mapped() -> Alive:
    alive = Alive()
    assert alive.send(ATTACH) == alive.send(MAP) == OK
    return alive


# Requests


def test_a_mapping_counts_once_it_is_answered() -> None:
    alive = Alive()
    assert alive.send(ATTACH) == OK
    assert isinstance(alive.access(0x1004), Fault)
    assert alive.send(MAP) == OK
    outcome = alive.access(0x1004)
    assert isinstance(outcome, Translated)
    assert outcome.address == 0xA004
    assert alive.send(UNMAP) == OK
    assert isinstance(alive.access(0x1004), Fault)


def test_requests_that_wait_are_carried_out_in_their_order() -> None:
    alive = mapped()
    before = alive.used(REQUEST_QUEUE).index
    alive.unit.store(0x5_0000, bytes.fromhex("04000000 01000000 0010000000000000 ff1f000000000000 00000000"))
    alive.chain(REQUEST_QUEUE, (0x5_0000, 28, 0), (0x5_1000, 4, DescriptorFlags.WRITE))
    alive.chain(REQUEST_QUEUE, (0x5_0000, 28, 0), (0x5_1010, 4, DescriptorFlags.WRITE))
    assert isinstance(alive.access(0x1000), Translated)
    alive.notify(REQUEST_QUEUE)
    assert alive.used(REQUEST_QUEUE).index == before + 2
    assert isinstance(alive.access(0x1000), Fault)


def test_probe_gives_the_properties_and_the_tail_behind_them() -> None:
    answer = Alive().send(Probe(endpoint=EP), 68)
    assert answer[:24] == bytes.fromhex("01001400 01000000 0000e0fe00000000 ffffeffe00000000")
    assert answer[24:] == bytes(44)


def test_a_request_of_no_type_is_given_back_unwritten() -> None:
    alive = Alive()
    assert alive.send(b"\x99" + bytes(19)) == b""
    assert alive.used(REQUEST_QUEUE).index == 1


def test_a_malformed_chain_makes_the_device_need_a_reset() -> None:
    alive = mapped()
    alive.chain(REQUEST_QUEUE, (0x5_0000, 4, DescriptorFlags.WRITE), (0x5_1000, 4, 0))
    alive.notify(REQUEST_QUEUE)
    assert alive.status().value == READY | NEEDS_RESET
    before = alive.used(REQUEST_QUEUE)
    alive.send(UNMAP)
    assert alive.used(REQUEST_QUEUE) == before
    assert isinstance(alive.access(0x1000), Translated)


# Faults


def test_a_fault_is_reported_in_the_next_buffer() -> None:
    alive = mapped()
    alive.offer_event_buffer()
    assert isinstance(alive.access(0x5008, AccessKind.WRITE), Fault)
    assert (alive.used(EVENT_QUEUE).index, alive.used(EVENT_QUEUE).length) == (1, 24)
    record = VirtioIommuFaultRecord.decode(alive.memory.read(EVENTS, 24))
    assert record == VirtioIommuFaultRecord(
        reason=FaultReason.MAPPING, flags=FaultFlags.ADDRESS | FaultFlags.WRITE, endpoint=EP, address=0x5008
    )


def test_whether_a_report_tells_the_kind_of_access_is_left_open() -> None:
    alive = mapped()
    alive.offer_event_buffer()
    access = Access(requester=EP, iova=0x5000, length=4, kind=AccessKind.WRITE)
    (outcome,) = alive.unit.outcomes(access)
    assert alive.unit.settle(access, outcome) == [AnyBytes(EVENTS + 4, 1)]
    assert alive.unit.settle(access, outcome) == []  # there was no buffer


@pytest.mark.parametrize("length", [None, 23])
def test_a_report_without_room_is_dropped(length: int | None) -> None:
    alive = mapped()
    if length is not None:
        alive.offer_event_buffer(length)
    assert isinstance(alive.access(0x5000), Fault)
    assert alive.used(EVENT_QUEUE).length == 0
    assert alive.memory.read(EVENTS, 24) == bytes(24)


def test_what_a_request_did_can_be_undone() -> None:
    alive = mapped()
    alive.offer_event_buffer()
    state = alive.unit.save()
    alive.access(0x5000)
    assert alive.used(EVENT_QUEUE).index == 1
    alive.unit.restore(state)
    assert (alive.used(EVENT_QUEUE).index, alive.memory.read(EVENTS, 24)) == (0, bytes(24))
    alive.access(0x5000)
    assert alive.used(EVENT_QUEUE).index == 1


def test_a_used_buffer_shows_in_isr_status_which_reading_clears() -> None:
    alive = Alive()
    alive.send(ATTACH)
    assert (alive.isr(), alive.isr()) == (1, 0)


# Bypass and resets


def test_without_a_domain_bypass_decides() -> None:
    alive = Alive()
    fault = alive.access(0x1000)
    assert isinstance(fault, Fault)
    assert fault.code is FaultReason.DOMAIN
    alive.unit.write(LAYOUT.device.offset + 36, 1, 1)
    assert alive.access(0x1000) == Bypassed(0x1000, BypassReason.UNATTACHED)


def test_a_reset_of_the_device_keeps_bypass_and_one_of_the_system_restores_it() -> None:
    alive = mapped()
    alive.write("device_status", 0, 1)
    outcome = alive.access(0x1000)
    assert isinstance(outcome, Fault)
    assert outcome.code is FaultReason.DOMAIN
    alive.unit.reset()
    assert alive.access(0x1000) == Bypassed(0x1000, BypassReason.UNATTACHED)


def test_bypass_cannot_be_written_without_its_feature() -> None:
    alive = Alive(started=False)
    alive.start(OFFERED & ~int(Features.BYPASS_CONFIG), bypass=None)
    with pytest.raises(NotModelled):
        alive.unit.write(LAYOUT.device.offset + 36, 1, 0)


# Status and features


def test_a_device_that_is_not_driven_takes_nothing() -> None:
    alive = Alive(started=False)
    alive.accept(OFFERED)
    alive.write("device_status", READY & ~int(DeviceStatus.DRIVER_OK), 1)
    alive.enable(REQUEST_QUEUE)
    alive.send(ATTACH)
    assert alive.used(REQUEST_QUEUE).index == 0


def test_features_are_offered_and_accepted_in_windows() -> None:
    alive = Alive()
    seen = []
    for window in range(3):
        alive.write("device_feature_select", window)
        alive.write("driver_feature_select", window)
        seen.append((alive.read("device_feature"), alive.read("driver_feature")))
    low, high = OFFERED & 0xFFFF_FFFF, OFFERED >> 32
    assert seen == [(low, low), (high, high), (0, None)]


@pytest.mark.parametrize(
    "features",
    [
        pytest.param(OFFERED | int(TransportFeatures.RING_PACKED), id="one that is not offered"),
        pytest.param(OFFERED & ~int(TransportFeatures.VERSION_1), id="not that of the version"),
    ],
)
def test_whether_features_are_refused_is_left_open_where_a_device_may(features: int) -> None:
    alive = Alive(started=False)
    alive.accept(features)
    alive.write("device_status", READY & ~int(DeviceStatus.DRIVER_OK), 1)
    assert not alive.status().known & int(DeviceStatus.FEATURES_OK)
    with pytest.raises(NotModelled):
        alive.write("device_status", READY, 1)


def test_a_driver_must_not_clear_status_bits_or_go_on_without_features() -> None:
    with pytest.raises(NotModelled):
        Alive().write("device_status", 1, 1)
    with pytest.raises(NotModelled):
        Alive(started=False).write("device_status", int(DeviceStatus.DRIVER_OK), 1)


# Queues


def test_the_fields_of_queues_are_those_of_the_selected_one() -> None:
    alive = Alive()
    seen = {}
    for number in (0, 1, 2):
        alive.write("queue_select", number, 2)
        seen[number] = [alive.read(name, 2) for name in ("queue_size", "queue_enable", "queue_notify_off")]
    assert seen == {0: [16, 1, 0], 1: [16, 1, 1], 2: [0, None, None]}


def test_a_queue_that_is_reset_begins_anew() -> None:
    alive = mapped()
    alive.write("queue_select", EVENT_QUEUE, 2)
    alive.write("queue_reset", 1, 2)
    assert (alive.read("queue_reset", 2), alive.read("queue_enable", 2)) == (0, 0)
    alive.offer_event_buffer()
    alive.access(0x5000)
    assert alive.used(EVENT_QUEUE).index == 0
    alive.enable(EVENT_QUEUE)
    alive.offer_event_buffer()
    alive.access(0x5000)
    assert alive.used(EVENT_QUEUE).index == 1


@pytest.mark.parametrize(("name", "value"), [("queue_size", 3), ("queue_size", 32), ("queue_enable", 0)])
def test_what_a_driver_must_not_write_to_a_queue_is_not_modelled(name: str, value: int) -> None:
    alive = Alive(started=False)
    alive.write("queue_select", 0, 2)
    with pytest.raises(NotModelled):
        alive.write(name, value, 2)


def test_a_queue_cannot_be_enabled_before_it_has_a_place() -> None:
    alive = Alive(started=False)
    alive.write("queue_select", 0, 2)
    with pytest.raises(NotModelled):
        alive.write("queue_enable", 1, 2)


# Names


def test_what_the_device_writes_is_named_after_the_request() -> None:
    alive = Alive()
    alive.send(replace(ATTACH, endpoint=EP | 1 << 16))
    ring = alive.used_ring(REQUEST_QUEUE)
    names = [place.name for at in (ring, ring + 4, 0x3_1000) if (place := alive.unit.structure_at(at))]
    request = "ATTACH, endpoint of another segment"
    assert names == ["virtq_used of requestq", f"virtq_used_elem of {request}", f"tail of {request}"]
    assert alive.unit.structure_at(0x3_0000) is None
    assert alive.coverage.counts["command", request] == 1


@pytest.mark.parametrize(
    ("requests", "name"),
    [
        ((ATTACH, b"\x01\0"), "request without a head"),
        ((ATTACH, b"\x09" * 20), "request of no type"),
        ((ATTACH, ATTACH), "ATTACH, again the only endpoint"),
        ((ATTACH, replace(MAP, flags=7, phys_start=1 << 12)), "MAP read write mmio"),
        ((ATTACH, replace(MAP, virt_end=0x17FF)), "MAP read write, not aligned"),
        (
            (ATTACH, MAP, replace(MAP, virt_start=0x2000, virt_end=0x3FFF), replace(UNMAP, virt_end=0x2FFF), MAP),
            "MAP read write, over what an UNMAP kept",
        ),
        (
            (ATTACH, MAP, replace(MAP, virt_start=0x2000, virt_end=0x3FFF), replace(UNMAP, virt_end=0x2FFF), UNMAP),
            "UNMAP, over what an UNMAP kept",
        ),
    ],
)
def test_a_request_is_named_after_what_is_special_about_it(requests: tuple[Request | bytes, ...], name: str) -> None:
    alive = Alive()
    for request in requests:
        alive.send(request)
    assert alive.coverage.counts["command", name] == 1
    head = alive.used_ring(REQUEST_QUEUE) + 4 + 8 * (len(requests) - 1)
    place = alive.unit.structure_at(head)
    assert place is not None
    assert place.name == f"virtq_used_elem of {name}"


def test_a_used_index_is_told_that_counts_a_request_without_an_answer() -> None:
    alive = Alive()
    index = alive.used_ring(REQUEST_QUEUE) + 2
    for request, name in ((ATTACH, "requestq"), (b"\x01", "requestq after a request without an answer")):
        alive.send(request)
        place = alive.unit.structure_at(index)
        assert place is not None
        assert place.name == f"virtq_used of {name}"


@pytest.mark.parametrize(("length", "room"), [(3, 4), (20, 3)])
def test_an_answer_is_told_that_is_behind_what_is_no_request(length: int, room: int) -> None:
    alive = Alive()
    alive.unit.store(0x5_0000, encode_request(ATTACH))
    alive.chain(REQUEST_QUEUE, (0x5_0000, length, 0), (0x5_1000, room, DescriptorFlags.WRITE))
    alive.chain(REQUEST_QUEUE, (0x5_0000, 20, 0), (0x5_1010, 4, DescriptorFlags.WRITE))
    alive.notify(REQUEST_QUEUE)
    place = alive.unit.structure_at(0x5_1010)
    assert place is not None
    assert place.name == "tail of ATTACH behind what is no request"


@pytest.mark.parametrize(("room", "name"), [(68, "properties"), (20, "properties, without room for all")])
def test_properties_are_told_that_have_too_little_room(room: int, name: str) -> None:
    alive = Alive()
    alive.send(Probe(endpoint=EP), room)
    place = alive.unit.structure_at(0x3_1000)
    assert place is not None
    assert (place.name, place.size) == (name, min(room, 64))


def test_a_report_is_named_after_its_endpoint() -> None:
    alive = mapped()
    alive.offer_event_buffer()
    alive.access(0x5000)
    place = alive.unit.structure_at(EVENTS + 16)
    assert place is not None
    assert place.layout is not None
    assert place.layout[place.source].get(int.from_bytes(alive.memory.read(EVENTS, 24), "little")) == EP
