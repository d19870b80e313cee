"""virtio-iommu: requests and their statuses, section by section (virtio 1.3, 5.13.6)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reasons import assert_every_code_is_reached

from harness.model.access import Mapping, Permissions
from harness.model.virtio_iommu import (
    Attach,
    AttachFlags,
    Detach,
    Features,
    Map,
    MapFlags,
    Probe,
    RegionKind,
    Request,
    ReservedRegion,
    Status,
    Unmap,
    VirtioIommuConfig,
    VirtioIommuEngine,
)

EP, OTHER = 0x08, 0x10
RW = int(MapFlags.READ | MapFlags.WRITE)
ALL = (
    Features.INPUT_RANGE
    | Features.DOMAIN_RANGE
    | Features.MAP_UNMAP
    | Features.PROBE
    | Features.MMIO
    | Features.BYPASS_CONFIG
)
MSI = ReservedRegion(0xFEE0_0000, 0xFEEF_FFFF, RegionKind.MSI)


def device(
    *,
    granule: int = 1,
    offered: Features = ALL,
    negotiated: Features | None = None,
    input_range: tuple[int, int] = (0, (1 << 64) - 1),
    domain_range: tuple[int, int] = (0, (1 << 32) - 1),
    probe_size: int = 512,
    regions: tuple[ReservedRegion, ...] = (),
    shares_domains: bool = True,
    moves_endpoints: bool = True,
) -> VirtioIommuEngine:
    config = VirtioIommuConfig(
        endpoints={EP: regions, OTHER: ()},
        page_size_mask=granule,
        offered=offered,
        negotiated=negotiated,
        input_range=input_range,
        domain_range=domain_range,
        probe_size=probe_size,
        shares_domains=shares_domains,
        moves_endpoints=moves_endpoints,
    )
    return VirtioIommuEngine(config)


def attached(engine: VirtioIommuEngine) -> VirtioIommuEngine:
    assert engine.submit(Attach(domain=1, endpoint=EP)) is Status.OK
    return engine


def map_(engine: VirtioIommuEngine, start: int, end: int, phys: int = 0, flags: int = RW, domain: int = 1) -> object:
    return engine.submit(Map(domain=domain, virt_start=start, virt_end=end, phys_start=phys, flags=flags))


def unmap(engine: VirtioIommuEngine, start: int, end: int) -> object:
    return engine.submit(Unmap(domain=1, virt_start=start, virt_end=end))


def mapped(engine: VirtioIommuEngine) -> list[tuple[int, int]]:
    return [(entry.iova, entry.iova + entry.size - 1) for entry in engine.iter_mappings(EP)]


# The examples of 5.13.6.6: what is mapped, what is unmapped, the status, and what is left.


@pytest.mark.parametrize(
    ("maps", "range_", "status", "left"),
    [
        pytest.param([], (0, 4), Status.OK, [], id="5.13.6.6 (1) nothing is there"),
        pytest.param([(0, 9)], (0, 9), Status.OK, [], id="5.13.6.6 (2) unmaps a"),
        pytest.param([(0, 4), (5, 9)], (0, 9), Status.OK, [], id="5.13.6.6 (3) unmaps a and b"),
        pytest.param([(0, 9)], (0, 4), Status.RANGE, [(0, 9)], id="5.13.6.6 (4) would split a"),
        pytest.param([(0, 4), (5, 9)], (0, 4), Status.OK, [(5, 9)], id="5.13.6.6 (5) unmaps a"),
        pytest.param([(0, 4)], (0, 9), Status.OK, [], id="5.13.6.6 (6) spills over what is not mapped"),
        pytest.param([(0, 4), (10, 14)], (0, 14), Status.OK, [], id="5.13.6.6 (7) goes over a gap"),
    ],
)
def test_unmap_does_as_the_example_says(
    maps: list[tuple[int, int]], range_: tuple[int, int], status: Status, left: list[tuple[int, int]]
) -> None:
    engine = attached(device())
    for start, end in maps:
        assert map_(engine, start, end) is Status.OK
    assert (unmap(engine, *range_), mapped(engine)) == (status, left)


# UNMAP, 5.13.6.6.2.


def test_unmap_that_would_split_the_last_mapping_removes_none() -> None:
    engine = attached(device())
    map_(engine, 0, 4)
    map_(engine, 5, 9)
    assert (unmap(engine, 0, 7), mapped(engine)) == (Status.RANGE, [(0, 4), (5, 9)])


def test_unmap_that_would_split_the_first_mapping_removes_none() -> None:
    engine = attached(device())
    map_(engine, 0, 4)
    map_(engine, 5, 9)
    assert (unmap(engine, 2, 9), mapped(engine)) == (Status.RANGE, [(0, 4), (5, 9)])


def test_unmap_in_a_domain_that_does_not_exist_is_noent() -> None:
    assert unmap(device(), 0, 4) is Status.NOENT


def test_unmap_in_a_bypass_domain_is_inval() -> None:
    engine = device()
    engine.submit(Attach(domain=1, endpoint=EP, flags=AttachFlags.BYPASS))
    assert unmap(engine, 0, 4) is Status.INVAL


def test_unmap_with_a_reserved_field_is_inval_and_removes_nothing() -> None:
    engine = attached(device())
    map_(engine, 0, 9)
    assert engine.submit(Unmap(domain=1, virt_start=0, virt_end=9, reserved=1)) is Status.INVAL
    assert mapped(engine) == [(0, 9)]


def test_unmap_of_an_empty_range_is_inval() -> None:
    assert unmap(attached(device()), 5, 4) is Status.INVAL


def test_unmap_of_the_whole_address_space_removes_everything() -> None:
    engine = attached(device())
    map_(engine, 0, 0)
    map_(engine, (1 << 64) - 1, (1 << 64) - 1)
    assert (unmap(engine, 0, (1 << 64) - 1), mapped(engine)) == (Status.OK, [])


# MAP, 5.13.6.5.2.


@pytest.mark.parametrize(("start", "end", "phys"), [(1, 0xFFF, 0), (0, 0xFFE, 0), (0, 0xFFF, 0x10)])
def test_map_that_is_not_aligned_on_the_granule_is_range(start: int, end: int, phys: int) -> None:
    assert map_(attached(device(granule=0x1000)), start, end, phys) is Status.RANGE


@pytest.mark.parametrize(("start", "end"), [(0, 5), (5, 6), (9, 20), (0, 20)])
def test_map_over_a_mapping_is_inval(start: int, end: int) -> None:
    engine = attached(device())
    map_(engine, 5, 9)
    assert (map_(engine, start, end), mapped(engine)) == (Status.INVAL, [(5, 9)])


def test_map_beside_mappings_succeeds() -> None:
    engine = attached(device())
    map_(engine, 0, 4)
    map_(engine, 10, 14)
    assert (map_(engine, 5, 9), mapped(engine)) == (Status.OK, [(0, 4), (5, 9), (10, 14)])


def test_map_with_an_unknown_flag_is_inval() -> None:
    assert map_(attached(device()), 0, 4, flags=RW | 8) is Status.INVAL


def test_map_with_mmio_is_inval_only_without_the_feature() -> None:
    flags = RW | MapFlags.MMIO
    assert map_(attached(device()), 0, 4, flags=flags) is Status.OK
    assert map_(attached(device(negotiated=ALL & ~Features.MMIO)), 0, 4, flags=flags) is Status.INVAL


def test_map_in_a_domain_that_does_not_exist_is_noent() -> None:
    assert map_(attached(device()), 0, 4, domain=2) is Status.NOENT


def test_map_in_a_bypass_domain_is_inval() -> None:
    engine = device()
    engine.submit(Attach(domain=1, endpoint=EP, flags=AttachFlags.BYPASS))
    assert map_(engine, 0, 4) is Status.INVAL


@pytest.mark.parametrize(("start", "end"), [(0xFFF, 0x2000), (0x2000, 0x3000)])
def test_map_beyond_the_input_range_is_range_5_13_6(start: int, end: int) -> None:
    assert map_(attached(device(input_range=(0x1000, 0x2FFF))), start, end) is Status.RANGE


def test_map_of_the_whole_input_range_succeeds_5_13_6() -> None:
    engine = attached(device(input_range=(0x1000, 0x2FFF)))
    assert (map_(engine, 0x1000, 0x2FFF), mapped(engine)) == (Status.OK, [(0x1000, 0x2FFF)])


def test_a_single_byte_is_mapped_and_unmapped_where_that_is_the_granule_5_13_6() -> None:
    engine = attached(device())
    assert (map_(engine, 7, 7), mapped(engine)) == (Status.OK, [(7, 7)])
    assert (unmap(engine, 7, 7), mapped(engine)) == (Status.OK, [])


def test_input_range_counts_only_when_it_is_offered_5_13_6() -> None:
    engine = attached(device(input_range=(0x1000, 0x2FFF), offered=ALL & ~Features.INPUT_RANGE))
    assert map_(engine, 0, 4) is Status.OK


@pytest.mark.parametrize(("start", "end"), [(0xFEDF_F000, 0xFEE0_0000), (0xFEEF_FFFF, 0xFEF0_0000), (0, 1 << 40)])
def test_map_over_a_reserved_region_is_inval_5_13_6_8_1_2(start: int, end: int) -> None:
    assert map_(attached(device(regions=(MSI,))), start, end) is Status.INVAL


def test_reserved_region_of_an_endpoint_elsewhere_does_not_count() -> None:
    engine = device(regions=(MSI,))
    engine.submit(Attach(domain=1, endpoint=OTHER))
    assert map_(engine, 0xFEE0_0000, 0xFEE0_0FFF) is Status.OK


def test_map_to_addresses_past_the_last_is_fault() -> None:
    assert map_(attached(device()), 0, 9, phys=(1 << 64) - 9) is Status.FAULT
    assert map_(attached(device()), 0, 9, phys=(1 << 64) - 10) is Status.OK
    assert map_(attached(device()), 5, 14, phys=(1 << 64) - 10) is Status.OK


def test_map_that_ends_before_it_starts_is_inval() -> None:
    assert map_(attached(device()), 9, 5) is Status.INVAL


def test_listed_mappings_have_address_size_and_permissions() -> None:
    engine = attached(device(granule=0x1000))
    map_(engine, 0x1000, 0x2FFF, 0x9000, int(MapFlags.READ))
    assert list(engine.iter_mappings(EP)) == [Mapping(0x1000, 0x9000, 0x2000, Permissions.READ)]


# ATTACH, 5.13.6.3.2.


def test_attach_with_a_reserved_field_is_inval() -> None:
    assert device().submit(Attach(domain=1, endpoint=EP, reserved=1)) is Status.INVAL


def test_attach_with_an_unknown_flag_is_inval() -> None:
    assert device().submit(Attach(domain=1, endpoint=EP, flags=2)) is Status.INVAL


def test_attach_with_bypass_is_inval_without_the_feature() -> None:
    engine = device(negotiated=ALL & ~Features.BYPASS_CONFIG)
    assert engine.submit(Attach(domain=1, endpoint=EP, flags=AttachFlags.BYPASS)) is Status.INVAL


def test_attach_of_an_endpoint_that_does_not_exist_is_noent() -> None:
    assert device().submit(Attach(domain=1, endpoint=0x99)) is Status.NOENT


@pytest.mark.parametrize("domain", [0, 11])
def test_attach_outside_of_the_domain_range_is_range(domain: int) -> None:
    assert device(domain_range=(1, 10)).submit(Attach(domain=domain, endpoint=EP)) is Status.RANGE


@pytest.mark.parametrize("domain", [1, 10])
def test_attach_at_the_ends_of_the_domain_range_succeeds(domain: int) -> None:
    assert device(domain_range=(1, 10)).submit(Attach(domain=domain, endpoint=EP)) is Status.OK


@pytest.mark.parametrize("first", [AttachFlags.NONE, AttachFlags.BYPASS])
def test_attach_whose_bypass_flag_differs_from_the_domain_is_inval(first: AttachFlags) -> None:
    engine = device()
    engine.submit(Attach(domain=1, endpoint=EP, flags=first))
    assert engine.submit(Attach(domain=1, endpoint=OTHER, flags=first ^ AttachFlags.BYPASS)) is Status.INVAL
    assert engine.domain_of(OTHER) is None


@pytest.mark.parametrize(
    ("request_", "home"),
    [
        (Attach(domain=2, endpoint=EP, flags=AttachFlags.BYPASS), None),  # as a DETACH and a refused ATTACH
        (Attach(domain=2, endpoint=EP, reserved=1), 1),
        (Attach(domain=1, endpoint=EP, flags=AttachFlags.BYPASS), 1),
    ],
)
def test_a_refused_attach_detaches_only_where_it_is_a_move_that_the_new_domain_refuses(
    request_: Attach, home: int | None
) -> None:
    engine = attached(device())
    engine.submit(Attach(domain=2, endpoint=OTHER))
    assert engine.submit(request_) is Status.INVAL
    assert engine.domain_of(EP) == home


def test_attach_elsewhere_detaches_first_and_ends_an_empty_domain() -> None:
    engine = attached(device())
    map_(engine, 0, 9)
    assert engine.submit(Attach(domain=2, endpoint=EP)) is Status.OK
    assert (engine.domain_of(EP), mapped(engine)) == (2, [])
    assert unmap(engine, 0, 9) is Status.NOENT


def test_attach_again_to_the_same_domain_keeps_its_mappings() -> None:
    engine = attached(device())
    map_(engine, 0, 9)
    assert engine.submit(Attach(domain=1, endpoint=EP)) is Status.OK
    assert mapped(engine) == [(0, 9)]


def test_endpoints_of_a_domain_share_its_mappings() -> None:
    engine = attached(device())
    engine.submit(Attach(domain=1, endpoint=OTHER))
    map_(engine, 0, 9)
    assert list(engine.iter_mappings(OTHER)) == list(engine.iter_mappings(EP)) != []


def test_attach_to_a_domain_that_maps_over_a_reserved_region_is_unsupp() -> None:
    engine = device(regions=(MSI,))
    engine.submit(Attach(domain=1, endpoint=OTHER))
    map_(engine, 0xFEE0_0000, 0xFEE0_0FFF)
    assert engine.submit(Attach(domain=1, endpoint=EP)) is Status.UNSUPP
    assert engine.domain_of(EP) is None


def test_attach_of_a_second_endpoint_is_unsupp_where_domains_are_not_shared() -> None:
    engine = attached(device(shares_domains=False))
    assert engine.submit(Attach(domain=1, endpoint=OTHER)) is Status.UNSUPP
    assert engine.submit(Attach(domain=1, endpoint=EP)) is Status.OK
    assert engine.submit(Attach(domain=2, endpoint=OTHER)) is Status.OK


def test_attach_elsewhere_is_unsupp_where_endpoints_do_not_move_and_keeps_the_domain() -> None:
    engine = attached(device(moves_endpoints=False))
    assert engine.submit(Attach(domain=2, endpoint=EP)) is Status.UNSUPP
    assert engine.submit(Attach(domain=1, endpoint=EP)) is Status.OK
    assert engine.domain_of(EP) == 1


# DETACH, 5.13.6.4.2.


def test_detach_of_an_endpoint_that_does_not_exist_is_noent() -> None:
    assert device().submit(Detach(domain=1, endpoint=0x99)) is Status.NOENT


@pytest.mark.parametrize(("domain", "endpoint"), [(2, EP), (1, OTHER)])
def test_detach_from_a_domain_that_it_is_not_in_is_inval(domain: int, endpoint: int) -> None:
    engine = attached(device())
    assert engine.submit(Detach(domain=domain, endpoint=endpoint)) is Status.INVAL
    assert engine.domain_of(EP) == 1


def test_detach_ignores_its_reserved_field() -> None:
    assert attached(device()).submit(Detach(domain=1, endpoint=EP, reserved=7)) is Status.OK


def test_detach_of_the_last_endpoint_ends_the_domain() -> None:
    engine = attached(device())
    map_(engine, 0, 9)
    assert engine.submit(Detach(domain=1, endpoint=EP)) is Status.OK
    assert map_(engine, 0, 9) is Status.NOENT
    assert mapped(attached(engine)) == []


def test_detach_of_one_of_two_endpoints_keeps_the_domain() -> None:
    engine = attached(device())
    engine.submit(Attach(domain=1, endpoint=OTHER))
    map_(engine, 0, 9)
    engine.submit(Detach(domain=1, endpoint=OTHER))
    assert mapped(engine) == [(0, 9)]


# PROBE, 5.13.6.7.2, and what is not offered.


def test_probe_gives_the_reserved_regions_and_zeros_after_them() -> None:
    engine = device(regions=(MSI,), probe_size=40)
    assert engine.submit(Probe(endpoint=EP)) is Status.OK
    expected = "01001400010000000000e0fe00000000ffffeffe00000000"
    assert engine.properties(EP) == bytes.fromhex(expected) + bytes(16)


def test_an_endpoint_that_does_not_exist_has_no_properties() -> None:
    assert device(probe_size=40).properties(0x99) == bytes(40)


def test_probe_of_an_endpoint_that_does_not_exist_is_noent() -> None:
    assert device().submit(Probe(endpoint=0x99)) is Status.NOENT


def test_probe_without_room_for_the_properties_is_inval() -> None:
    assert device(regions=(MSI,), probe_size=23).submit(Probe(endpoint=EP)) is Status.INVAL
    assert device(regions=(MSI,), probe_size=24).submit(Probe(endpoint=EP)) is Status.OK


def test_probe_that_is_not_offered_comes_back_unwritten() -> None:
    assert device(offered=ALL & ~Features.PROBE).submit(Probe(endpoint=EP)) is None


def test_map_and_unmap_that_were_not_negotiated_come_back_unwritten() -> None:
    engine = attached(device(negotiated=ALL & ~Features.MAP_UNMAP))
    assert (map_(engine, 0, 9), unmap(engine, 0, 9)) == (None, None)


# Whatever a driver sends, 5.13.6.

_SMALL = st.integers(0, 40)
_REQUESTS = st.one_of(
    st.builds(Attach, domain=st.integers(0, 2), endpoint=st.sampled_from((EP, OTHER, 3)), flags=st.integers(0, 2)),
    st.builds(Detach, domain=st.integers(0, 2), endpoint=st.sampled_from((EP, OTHER, 3))),
    st.builds(
        Map,
        domain=st.integers(0, 2),
        virt_start=_SMALL,
        virt_end=_SMALL,
        phys_start=_SMALL | st.just((1 << 64) - 1),
        flags=st.integers(0, 8),
    ),
    st.builds(Unmap, domain=st.integers(0, 2), virt_start=_SMALL, virt_end=_SMALL, reserved=st.integers(0, 1)),
    st.builds(Probe, endpoint=st.sampled_from((EP, 3))),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_REQUESTS, max_size=30))
def test_no_request_is_answered_with_a_status_that_5_13_6_does_not_ask_for(requests: list[Request]) -> None:
    engine = device(regions=(ReservedRegion(20, 22),), input_range=(0, 30), domain_range=(0, 1))
    for request in requests:
        assert engine.submit(request) not in (None, Status.IOERR, Status.DEVERR, Status.NOMEM)


def test_every_status_is_reached_or_said_never_to_be_given() -> None:
    assert_every_code_is_reached(Status, [Path(__file__)])
