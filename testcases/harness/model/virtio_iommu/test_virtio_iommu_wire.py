"""virtio-iommu: the bytes in its queues and its configuration space (virtio 1.3, 5.13.4, 5.13.6, 5.13.6.9)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.access import Access, AccessKind
from harness.model.virtio_iommu import (
    Attach,
    Detach,
    FaultFlags,
    FaultReason,
    Features,
    Map,
    Probe,
    RegionKind,
    Request,
    ReservedRegion,
    Status,
    Unmap,
    VirtioIommuConfig,
    VirtioIommuEngine,
    VirtioIommuFaultRecord,
    decode_properties,
    decode_request,
    encode_properties,
    encode_request,
)

EP, OTHER = 0x08, 0x10
MSI = ReservedRegion(0xFEE0_0000, 0xFEEF_FFFF, RegionKind.MSI)
HOLE = ReservedRegion(0xD000_0000, 0xD000_0FFF)
MSI_PROPERTY = bytes.fromhex("01001400 01000000 0000e0fe00000000 ffffeffe00000000")
OFFERED = (
    Features.INPUT_RANGE
    | Features.DOMAIN_RANGE
    | Features.MAP_UNMAP
    | Features.PROBE
    | Features.MMIO
    | Features.BYPASS_CONFIG
)

# Each request as its structure in 5.13.6.3 to 5.13.6.7 has it, field by field.
ATTACH = bytes.fromhex("01000000 01000000 08000000 00000000 00000000")
DETACH = bytes.fromhex("02000000 01000000 08000000 0000000000000000")
MAP = bytes.fromhex("03000000 01000000 0010000000000000 ff1f000000000000 00a0000000000000 03000000")
UNMAP = bytes.fromhex("04000000 01000000 0010000000000000 ff1f000000000000 00000000")
PROBE = bytes.fromhex("05000000 08000000") + bytes(64)
WIRE: dict[bytes, Request] = {
    ATTACH: Attach(domain=1, endpoint=EP),
    DETACH: Detach(domain=1, endpoint=EP),
    MAP: Map(domain=1, virt_start=0x1000, virt_end=0x1FFF, phys_start=0xA000, flags=3),
    UNMAP: Unmap(domain=1, virt_start=0x1000, virt_end=0x1FFF),
    PROBE: Probe(endpoint=EP),
}


def device(
    *,
    offered: Features = OFFERED,
    negotiated: Features | None = None,
    regions: tuple[ReservedRegion, ...] = (),
    probe_size: int = 48,
    bypass: bool = False,
) -> VirtioIommuEngine:
    config = VirtioIommuConfig(
        endpoints={EP: regions, OTHER: ()},
        offered=offered,
        negotiated=negotiated,
        page_size_mask=0xFFFF_F000,
        input_range=(0x1000, 0xFF_FFFF_FFFF),
        domain_range=(1, 7),
        probe_size=probe_size,
        bypass=bypass,
    )
    return VirtioIommuEngine(config)


def tail(status: Status) -> bytes:
    return bytes([status, 0, 0, 0])


def put(*requests: bytes) -> VirtioIommuEngine:
    engine = device()
    for request in requests:
        assert engine.submit_bytes(request, 4) == tail(Status.OK)
    return engine


def mapped(engine: VirtioIommuEngine) -> Iterable[object]:
    return list(engine.iter_mappings(EP))


# Requests, 5.13.6.


@pytest.mark.parametrize("wire", WIRE, ids=lambda wire: type(WIRE[wire]).__name__)
def test_a_request_is_what_its_structure_says_5_13_6(wire: bytes) -> None:
    assert decode_request(wire) == WIRE[wire]
    assert encode_request(WIRE[wire]) == wire


_U32 = st.integers(0, (1 << 32) - 1)
_U64 = st.integers(0, (1 << 64) - 1)


@given(
    st.one_of(
        st.builds(Attach, domain=_U32, endpoint=_U32, flags=_U32, reserved=_U32),
        st.builds(Detach, domain=_U32, endpoint=_U32, reserved=_U64),
        st.builds(Map, domain=_U32, virt_start=_U64, virt_end=_U64, phys_start=_U64, flags=_U32),
        st.builds(Unmap, domain=_U32, virt_start=_U64, virt_end=_U64, reserved=_U32),
        st.builds(Probe, endpoint=_U32),
    )
)
def test_decoding_is_the_inverse_of_encoding(request: Request) -> None:
    assert decode_request(encode_request(request)) == request


def test_a_value_that_is_too_wide_for_its_field_is_refused() -> None:
    with pytest.raises(SpecError, match="virtio_iommu_req_detach"):
        encode_request(Detach(domain=1 << 32, endpoint=EP))


def test_requests_take_effect_and_are_answered_with_a_tail_whose_reserved_field_is_zero_5_13_6_2() -> None:
    engine = put(ATTACH, MAP)
    assert len(list(mapped(engine))) == 1
    assert engine.submit_bytes(UNMAP, 4) == bytes(4)
    assert mapped(engine) == []
    assert engine.submit_bytes(DETACH, 4) == bytes(4)
    assert engine.submit_bytes(DETACH, 4) == bytes([4, 0, 0, 0])


def test_the_reserved_field_of_the_head_is_ignored_5_13_6_2() -> None:
    assert device().submit_bytes(b"\1\xff\xff\xff" + ATTACH[4:], 4) == tail(Status.OK)


def test_a_reserved_field_behind_the_head_counts_as_its_request_says_5_13_6_3_2_5_13_6_4_2_5_13_6_6_2() -> None:
    assert device().submit_bytes(ATTACH[:-1] + b"\x80", 4) == tail(Status.INVAL)
    assert put(ATTACH).submit_bytes(UNMAP[:-1] + b"\x80", 4) == tail(Status.INVAL)
    assert put(ATTACH).submit_bytes(DETACH[:-1] + b"\x80", 4) == tail(Status.OK)
    assert device().submit_bytes(PROBE[:-1] + b"\x80", 52)[-4:] == tail(Status.OK)


@pytest.mark.parametrize("kind", [0, 6, 0x80, 0xFF])
def test_a_type_that_is_not_recognised_comes_back_unwritten_5_13_6_2(kind: int) -> None:
    assert device().submit_bytes(bytes([kind]) + ATTACH[1:], 4) == b""


@pytest.mark.parametrize("size", range(4))
def test_a_request_without_a_whole_head_comes_back_unwritten_5_13_6(size: int) -> None:
    assert device().submit_bytes(ATTACH[:size], 4) == b""


@pytest.mark.parametrize("wire", WIRE, ids=lambda wire: type(WIRE[wire]).__name__)
@pytest.mark.parametrize("size", range(4))
def test_a_request_without_room_for_its_tail_comes_back_unwritten_and_does_nothing_5_13_6(
    wire: bytes, size: int
) -> None:
    engine = put(ATTACH)
    assert engine.submit_bytes(wire, size) == b""
    assert (engine.domain_of(EP), mapped(engine)) == (1, [])


@pytest.mark.parametrize("wire", WIRE, ids=lambda wire: type(WIRE[wire]).__name__)
def test_a_request_whose_fields_are_cut_off_is_inval_and_does_nothing(wire: bytes) -> None:
    engine = put(ATTACH)
    for size in range(4, len(wire)):
        assert engine.submit_bytes(wire[:size], 64)[-4:] == tail(Status.INVAL)
    assert (engine.domain_of(EP), mapped(engine)) == (1, [])


def test_what_is_behind_a_structure_is_ignored_in_either_part() -> None:
    engine = device()
    assert engine.submit_bytes(ATTACH + b"\xff" * 9, 100) == tail(Status.OK)
    assert engine.submit_bytes(PROBE + b"\xff" * 9, 100) == bytes(48) + tail(Status.OK)


@pytest.mark.parametrize("wire", [MAP, UNMAP])
def test_map_and_unmap_that_were_not_negotiated_come_back_unwritten_5_13_6_5(wire: bytes) -> None:
    engine = device(negotiated=OFFERED & ~Features.MAP_UNMAP)
    engine.submit_bytes(ATTACH, 4)
    assert engine.submit_bytes(wire, 4) == b""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=80), st.integers(0, 60), st.integers(0, 255)), max_size=12))
def test_any_bytes_are_answered_with_a_tail_or_not_at_all(requests: list[tuple[bytes, int, int]]) -> None:
    engine = put(ATTACH, MAP)
    for readable, writable_size, kind in requests:
        written = engine.submit_bytes(bytes([kind % 7]) + readable, writable_size)
        assert len(written) <= writable_size
        assert written == b"" or (written[-3:] == bytes(3) and written[-4] in Status.__members__.values())
    for iova in (0, 0x1000, 0x1FFC, (1 << 64) - 4):
        for endpoint in (EP, OTHER, 0x99):
            access = Access(requester=endpoint, iova=iova, length=4, kind=AccessKind.READ)
            assert engine.translate(access) == engine.explain(access).outcome
    assert all(mapping.size for mapping in engine.iter_mappings(EP))


# PROBE, 5.13.6.7 and 5.13.6.8.


def test_probe_is_answered_with_properties_zeros_and_the_tail_behind_probe_size_5_13_6_7_2() -> None:
    written = device(regions=(MSI,)).submit_bytes(PROBE, 52)
    assert written == MSI_PROPERTY + bytes(24) + tail(Status.OK)


def test_properties_follow_each_other_by_their_length_5_13_6_7_2() -> None:
    written = device(regions=(MSI, HOLE)).submit_bytes(PROBE, 52)
    hole = bytes.fromhex("01001400 00000000 000000d000000000 ff0f00d000000000")
    assert written == MSI_PROPERTY + hole + tail(Status.OK)


@pytest.mark.parametrize("writable_size", [4, 28, 51])
def test_a_list_smaller_than_probe_size_gets_no_property_and_inval_5_13_6_7_2(writable_size: int) -> None:
    written = device(regions=(MSI,)).submit_bytes(PROBE, writable_size)
    assert written == bytes(writable_size - 4) + tail(Status.INVAL)


def test_a_probe_size_that_the_properties_do_not_fit_in_gets_none_and_inval() -> None:
    written = device(regions=(MSI, HOLE), probe_size=47).submit_bytes(PROBE, 51)
    assert written == bytes(47) + tail(Status.INVAL)


def test_probe_of_an_endpoint_that_does_not_exist_is_noent_without_properties_5_13_6_7_2() -> None:
    written = device(regions=(MSI,)).submit_bytes(encode_request(Probe(endpoint=0x99)), 52)
    assert written == bytes(48) + tail(Status.NOENT)


def test_probe_that_is_offered_and_not_negotiated_is_answered_and_one_not_offered_is_not_5_13_6_7_2() -> None:
    without = OFFERED & ~Features.PROBE
    assert device(negotiated=without).submit_bytes(PROBE, 52) == bytes(48) + tail(Status.OK)
    assert device(offered=without).submit_bytes(PROBE, 52) == b""


_REGIONS = st.builds(
    lambda start, size, kind: ReservedRegion(start, start + size, kind),
    st.integers(0, 1 << 63),
    st.integers(0, 1 << 62),
    st.sampled_from(RegionKind),
)


@given(st.lists(_REGIONS, max_size=5), st.integers(0, 30))
def test_a_driver_reads_the_properties_that_the_device_wrote_5_13_6_7_1(
    regions: list[ReservedRegion], zeros: int
) -> None:
    assert decode_properties(encode_properties(regions) + bytes(zeros)) == tuple(regions)


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        pytest.param(bytes(4) + MSI_PROPERTY, (), id="5.13.6.7 the list ends with type 0"),
        pytest.param(b"\2\0\3\0abc" + MSI_PROPERTY, (MSI,), id="5.13.6.7.1 an unknown type is passed over"),
        pytest.param(b"\1\x10\x14\0" + MSI_PROPERTY[4:] + MSI_PROPERTY, (MSI,), id="5.13.6.7.1 reserved bit"),
        pytest.param(
            MSI_PROPERTY[:4] + b"\2\xff\xff\xff" + MSI_PROPERTY[8:],
            (ReservedRegion(MSI.start, MSI.end),),
            id="5.13.6.8.1.1 an unknown subtype is RESERVED, and reserved is ignored",
        ),
        pytest.param(MSI_PROPERTY + MSI_PROPERTY[:20], (MSI,), id="one that is cut off is none"),
        pytest.param(b"\1\0\2\0ab" + MSI_PROPERTY, (MSI,), id="a RESV_MEM that is too short says nothing"),
    ],
)
def test_a_driver_parses_properties(properties: bytes, expected: tuple[ReservedRegion, ...]) -> None:
    assert decode_properties(properties) == expected


@given(st.binary(max_size=100))
def test_any_properties_are_parsed_to_their_end(properties: bytes) -> None:
    assert len(decode_properties(properties)) <= len(properties) // 24


# Configuration space, 5.13.4.

SPACE = bytes.fromhex("00f0ffff00000000 0010000000000000 ffffffffff000000 01000000 07000000 30000000 00000000")


def test_configuration_space_is_what_5_13_4_says() -> None:
    assert device().read_config() == SPACE
    assert VirtioIommuConfig.decode(SPACE, {EP: (), OTHER: ()}, OFFERED, OFFERED) == device().config


def test_what_was_negotiated_and_the_bypass_field_are_read_too() -> None:
    space = SPACE[:36] + b"\1\0\0\0"
    config = VirtioIommuConfig.decode(space, {EP: ()}, OFFERED, Features.MAP_UNMAP)
    assert (config.negotiated, config.bypass) == (Features.MAP_UNMAP, True)
    assert config.encode(bypass=True) == space


def test_a_device_may_offer_every_page_size_and_no_room_for_properties() -> None:
    config = VirtioIommuConfig(endpoints={}, page_size_mask=(1 << 64) - 1, probe_size=0)
    assert (config.granule, config.probe_size) == (1, 0)


def test_fields_of_features_that_are_not_offered_say_nothing_5_13_4() -> None:
    engine = device(offered=Features.MAP_UNMAP, bypass=True)
    assert engine.read_config() == SPACE[:8] + bytes(32)
    config = VirtioIommuConfig.decode(SPACE[:8] + b"\xff" * 32, {EP: ()}, Features.MAP_UNMAP, Features.MAP_UNMAP)
    assert (config.input_range, config.domain_range) == ((0, (1 << 64) - 1), (0, (1 << 32) - 1))


@pytest.mark.parametrize(
    ("offset", "data", "bypass"),
    [
        (36, b"\1", True),
        (32, b"\0\0\0\0\1\0", True),
        (36, b"\0", False),
        (36, b"\2", False),
        (36, b"\xff", False),
        (37, b"\1", False),
        (0, b"\1" * 36, False),
    ],
)
def test_only_bypass_is_written_and_only_0_or_1_5_13_4_1(offset: int, data: bytes, bypass: bool) -> None:
    engine = device()
    engine.write_config(offset, data)
    assert engine.read_config() == SPACE[:36] + bytes([bypass, 0, 0, 0])


def test_bypass_is_written_only_with_the_feature_negotiated_5_13_4_1() -> None:
    engine = device(negotiated=OFFERED & ~Features.BYPASS_CONFIG)
    engine.write_config(36, b"\1")
    assert engine.bypass is False


@pytest.mark.parametrize(
    ("at", "byte", "said"),
    [(36, 2, "bypass=0x2"), (15, 1, "input_range"), (28, 0, "domain_range")],
)
def test_a_configuration_that_a_device_must_not_present_is_refused(at: int, byte: int, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        VirtioIommuConfig.decode(SPACE[:at] + bytes([byte]) + SPACE[at + 1 :], {EP: ()}, OFFERED, OFFERED)


def test_no_page_size_at_all_is_refused_5_13_4_2() -> None:
    with pytest.raises(SpecError, match="page_size_mask"):
        VirtioIommuConfig.decode(bytes(8) + SPACE[8:], {}, OFFERED, OFFERED)


def test_a_configuration_space_that_is_cut_off_is_refused() -> None:
    with pytest.raises(SpecError, match="39 bytes"):
        VirtioIommuConfig.decode(SPACE[:39], {}, OFFERED, OFFERED)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"probe_size": 1 << 32}, "probe_size=0x100000000 does not fit"),
        (
            {"endpoints": {EP: (ReservedRegion(5, 4),)}},
            "reserved region 0x5..0x4 is no range within 0..0xffffffffffffffff",
        ),
        ({"domain_range": (0, 1 << 32)}, "domain_range 0x0..0x100000000 is no range within 0..0xffffffff"),
    ],
)
def test_values_that_do_not_fit_are_refused(config: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        VirtioIommuConfig(**{"endpoints": {}, **config})  # type: ignore[arg-type]


def test_a_feature_that_is_not_offered_cannot_be_negotiated_2_2() -> None:
    with pytest.raises(SpecError, match="features 0x20 were negotiated but not offered"):
        device(offered=Features.MAP_UNMAP, negotiated=Features.MAP_UNMAP | Features.MMIO)
    with pytest.raises(SpecError, match="not offered"):
        device(offered=Features.MAP_UNMAP).negotiate(Features.MMIO)


def test_the_lowest_page_size_is_the_granule_5_13_6() -> None:
    assert VirtioIommuConfig(endpoints={}, page_size_mask=0x4020_1000).granule == 0x1000


@pytest.mark.parametrize(
    ("offered", "regions", "probe_size", "said"),
    [
        (OFFERED, (MSI, HOLE), 48, ()),
        (Features.BYPASS_CONFIG, (), 0, ("MAP_UNMAP is not offered (5.13.3.2)",)),
        (OFFERED | Features.BYPASS, (), 0, ("both BYPASS and BYPASS_CONFIG are offered (5.13.3.2)",)),
        (
            Features.MAP_UNMAP | Features.BYPASS,
            (),
            0,
            ("BYPASS is offered, which BYPASS_CONFIG supersedes (5.13.3.2)",),
        ),
        (
            OFFERED,
            (HOLE, MSI, ReservedRegion(0, 0xFFF, RegionKind.MSI)),
            72,
            ("endpoint 00:01.0 has more than one MSI property (5.13.6.8.1.2)",),
        ),
        (
            OFFERED,
            (MSI, HOLE, ReservedRegion(0xD000_0FFF, 0xD000_1FFF)),
            72,
            ("endpoint 00:01.0 has RESV_MEM properties that overlap (5.13.6.8.1.2)",),
        ),
        (OFFERED, (HOLE, ReservedRegion(0xD000_1000, 0xD000_1FFF)), 48, ()),
        (OFFERED, (MSI,), 23, ("endpoint 00:01.0 has more properties than probe_size has room for (5.13.6.7)",)),
        (OFFERED & ~Features.PROBE, (MSI,), 23, ()),
    ],
)
def test_what_a_device_should_not_present_is_named_with_its_section(
    offered: Features, regions: tuple[ReservedRegion, ...], probe_size: int, said: tuple[str, ...]
) -> None:
    assert device(offered=offered, regions=regions, probe_size=probe_size).config.departures == said


# Fault reports, 5.13.6.9.

RECORD = VirtioIommuFaultRecord(
    reason=FaultReason.MAPPING, flags=FaultFlags.WRITE | FaultFlags.ADDRESS, endpoint=EP, address=0x1234
)
REPORT = bytes.fromhex("02000000 02010000 08000000 00000000 3412000000000000")


def test_a_fault_report_is_what_5_13_6_9_says() -> None:
    assert RECORD.encode() == REPORT
    assert VirtioIommuFaultRecord.decode(REPORT) == RECORD


@pytest.mark.parametrize(("size", "written"), [(0, b""), (23, b""), (24, REPORT), (100, REPORT)])
def test_a_report_is_dropped_where_the_buffer_is_too_small_5_13_6_9_2(size: int, written: bytes) -> None:
    assert RECORD.report(size) == written


def test_a_driver_ignores_a_report_with_a_reserved_field_5_13_6_9_1() -> None:
    assert VirtioIommuFaultRecord.decode(REPORT[:3] + b"\1" + REPORT[4:]) is None


def test_a_driver_ignores_reserved1_and_undefined_flags_and_takes_an_unknown_reason_for_unknown_5_13_6_9_1() -> None:
    report = bytes.fromhex("77000000 fdfeffff 08000000 ffffffff 3412000000000000")
    record = VirtioIommuFaultRecord.decode(report)
    assert record == VirtioIommuFaultRecord(reason=FaultReason.UNKNOWN, flags=FaultFlags.READ, endpoint=EP, address=0)


def test_a_report_of_an_odd_size_is_refused() -> None:
    with pytest.raises(SpecError, match="23 bytes"):
        VirtioIommuFaultRecord.decode(REPORT[:23])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (FaultFlags.READ | FaultFlags.ADDRESS, "read by endpoint 00:01.0 at 0x1234"),
        (FaultFlags.WRITE, "write by endpoint 00:01.0, reason"),
        (FaultFlags.ADDRESS, "access by endpoint 00:01.0 at 0x1234"),
    ],
)
def test_a_record_says_what_its_flags_say(flags: FaultFlags, said: str) -> None:
    record = VirtioIommuFaultRecord(reason=FaultReason.MAPPING, flags=flags, endpoint=EP, address=0x1234)
    assert said in str(record)
