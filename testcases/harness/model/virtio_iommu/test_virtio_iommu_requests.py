"""virtio-iommu: requests and their statuses, section by section (virtio 1.3, 5.13.6)."""

from __future__ import annotations

import pytest

from harness.errors import SpecError
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
) -> VirtioIommuEngine:
    config = VirtioIommuConfig(
        endpoints={EP: regions, OTHER: ()},
        page_size_mask=granule,
        offered=offered,
        negotiated=negotiated,
        input_range=input_range,
        domain_range=domain_range,
        probe_size=probe_size,
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


# The examples of 5.13.6.6, by their numbers.


def test_unmap_example_1_of_5_13_6_6_of_nothing_succeeds() -> None:
    assert unmap(attached(device()), 0, 4) is Status.OK


def test_unmap_example_2_of_5_13_6_6_removes_the_mapping() -> None:
    engine = attached(device())
    map_(engine, 0, 9)
    assert (unmap(engine, 0, 9), mapped(engine)) == (Status.OK, [])


def test_unmap_example_3_of_5_13_6_6_removes_both_mappings() -> None:
    engine = attached(device())
    map_(engine, 0, 4)
    map_(engine, 5, 9)
    assert (unmap(engine, 0, 9), mapped(engine)) == (Status.OK, [])


def test_unmap_example_4_of_5_13_6_6_does_not_split_a_mapping() -> None:
    engine = attached(device())
    map_(engine, 0, 9)
    assert (unmap(engine, 0, 4), mapped(engine)) == (Status.RANGE, [(0, 9)])


def test_unmap_example_5_of_5_13_6_6_removes_the_first_mapping_only() -> None:
    engine = attached(device())
    map_(engine, 0, 4)
    map_(engine, 5, 9)
    assert (unmap(engine, 0, 4), mapped(engine)) == (Status.OK, [(5, 9)])


def test_unmap_example_6_of_5_13_6_6_spills_over_what_is_not_mapped() -> None:
    engine = attached(device())
    map_(engine, 0, 4)
    assert (unmap(engine, 0, 9), mapped(engine)) == (Status.OK, [])


def test_unmap_example_7_of_5_13_6_6_goes_over_a_gap() -> None:
    engine = attached(device())
    map_(engine, 0, 4)
    map_(engine, 10, 14)
    assert (unmap(engine, 0, 14), mapped(engine)) == (Status.OK, [])


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


@pytest.mark.parametrize("first", [AttachFlags.NONE, AttachFlags.BYPASS])
def test_attach_whose_bypass_flag_differs_from_the_domain_is_inval(first: AttachFlags) -> None:
    engine = device()
    engine.submit(Attach(domain=1, endpoint=EP, flags=first))
    assert engine.submit(Attach(domain=1, endpoint=OTHER, flags=first ^ AttachFlags.BYPASS)) is Status.INVAL
    assert engine.domain_of(OTHER) is None


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


# Configuration and reset.


def test_a_device_without_a_page_size_is_refused_5_13_4_2() -> None:
    with pytest.raises(SpecError, match="page_size_mask"):
        device(granule=0)


def test_a_feature_that_was_not_offered_cannot_be_negotiated() -> None:
    with pytest.raises(SpecError, match="not offered"):
        device(offered=Features.MAP_UNMAP, negotiated=Features.MAP_UNMAP | Features.MMIO)


def test_the_lowest_page_size_is_the_granule_5_13_6() -> None:
    assert device(granule=0x4020_1000).granule == 0x1000


def test_device_reset_detaches_but_keeps_the_bypass_field_5_13_4_2() -> None:
    engine = attached(device())
    engine.write_bypass(True)
    engine.reset()
    assert (engine.domain_of(EP), engine.bypass) == (None, True)
    engine.reset(system=True)
    assert engine.bypass is False


def test_the_bypass_field_is_written_only_when_negotiated_5_13_4_1() -> None:
    engine = device(negotiated=ALL & ~Features.BYPASS_CONFIG)
    engine.write_bypass(True)
    assert engine.bypass is False
