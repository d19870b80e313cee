"""virtio-iommu: what becomes of an access (virtio 1.3, 5.13.6 and 5.13.6.9), also against a dict of pages."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from harness.model.access import (
    Access,
    AccessKind,
    Attributes,
    Bypassed,
    BypassReason,
    Fault,
    Permissions,
    Translated,
)
from harness.model.engine import AccessCrossesPage, translate_range
from harness.model.virtio_iommu import (
    Attach,
    AttachFlags,
    Detach,
    FaultFlags,
    FaultReason,
    Features,
    Map,
    MapFlags,
    RegionKind,
    ReservedRegion,
    Status,
    Unmap,
    VirtioIommuConfig,
    VirtioIommuEngine,
    VirtioIommuFaultRecord,
)
from harness.model.virtio_iommu.ranges import MappedRange, RangeMap

EP = 0x08
PAGE = 0x1000
MSI = ReservedRegion(0xFEE0_0000, 0xFEEF_FFFF, RegionKind.MSI)
HOLE = ReservedRegion(0xD000_0000, 0xD000_0FFF)
RW = MapFlags.READ | MapFlags.WRITE
BASE = Features.MAP_UNMAP


def device(
    offered: Features = BASE | Features.MMIO | Features.BYPASS_CONFIG,
    negotiated: Features | None = None,
    *,
    bypass: bool = False,
    page_size_mask: int = PAGE,
) -> VirtioIommuEngine:
    config = VirtioIommuConfig(
        endpoints={EP: (MSI, HOLE)},
        offered=offered,
        negotiated=negotiated,
        bypass=bypass,
        page_size_mask=page_size_mask,
    )
    return VirtioIommuEngine(config)


def with_page(flags: int = RW) -> VirtioIommuEngine:
    engine = device()
    engine.submit(Attach(domain=1, endpoint=EP))
    engine.submit(Map(domain=1, virt_start=0x4000, virt_end=0x5FFF, phys_start=0x9000, flags=flags))
    return engine


def access(iova: int = 0x4000, kind: AccessKind = AccessKind.READ, length: int = 4, requester: int = EP) -> Access:
    return Access(requester=requester, iova=iova, length=length, kind=kind)


def assert_fault(outcome: object, reason: FaultReason) -> Fault:
    assert isinstance(outcome, Fault), outcome
    assert outcome.code is reason
    return outcome


def test_a_mapped_access_is_translated_5_13_6_5() -> None:
    outcome = with_page().translate(access(0x5008))
    assert outcome == Translated(0xA008, 0x2000, Permissions.READ | Permissions.WRITE)


def test_a_mapping_with_mmio_says_so_5_13_6_5() -> None:
    outcome = with_page(RW | MapFlags.MMIO).translate(access())
    assert isinstance(outcome, Translated)
    assert outcome.attributes is Attributes.MMIO


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (MapFlags.READ, AccessKind.WRITE),
        (MapFlags.WRITE, AccessKind.READ),
        (MapFlags.WRITE, AccessKind.EXECUTE),
        (MapFlags.NONE, AccessKind.READ),
    ],
)
def test_an_access_without_its_flag_faults_with_mapping_5_13_6_5_2(flags: MapFlags, kind: AccessKind) -> None:
    assert_fault(with_page(flags).translate(access(kind=kind)), FaultReason.MAPPING)


@pytest.mark.parametrize("iova", [0x3FFC, 0x6000])
def test_an_access_beside_the_mapping_faults_with_mapping(iova: int) -> None:
    assert_fault(with_page().translate(access(iova)), FaultReason.MAPPING)


def test_an_unattached_endpoint_faults_with_domain_5_13_6_2() -> None:
    assert_fault(device().translate(access()), FaultReason.DOMAIN)


def test_a_detached_endpoint_faults_with_domain_5_13_6_4_2() -> None:
    engine = with_page()
    engine.submit(Detach(domain=1, endpoint=EP))
    assert_fault(engine.translate(access()), FaultReason.DOMAIN)


def test_an_endpoint_that_does_not_exist_faults_with_unknown() -> None:
    assert_fault(device(bypass=True).translate(access(requester=0x99)), FaultReason.UNKNOWN)


def test_a_request_with_pasid_faults_with_unknown() -> None:
    request = Access(requester=EP, iova=0x4000, length=4, kind=AccessKind.READ, pasid=1)
    assert_fault(with_page().translate(request), FaultReason.UNKNOWN)


@pytest.mark.parametrize(("kind", "flag"), [(AccessKind.READ, FaultFlags.READ), (AccessKind.WRITE, FaultFlags.WRITE)])
def test_a_fault_record_has_kind_and_address_5_13_6_9(kind: AccessKind, flag: FaultFlags) -> None:
    outcome = assert_fault(device().translate(access(0x1234, kind)), FaultReason.DOMAIN)
    record = outcome.record
    assert isinstance(record, VirtioIommuFaultRecord)
    assert struct.unpack("<B3xIIIQ", record.encode()) == (1, flag | FaultFlags.ADDRESS, EP, 0, 0x1234)


# Bypass mode, 5.13.6.


@pytest.mark.parametrize(
    ("offered", "negotiated", "field", "expected"),
    [
        (BASE | Features.BYPASS_CONFIG, None, True, True),
        (BASE | Features.BYPASS_CONFIG, BASE, True, True),
        (BASE | Features.BYPASS_CONFIG, None, False, False),
        (BASE, None, True, False),
        (BASE | Features.BYPASS, None, False, True),
        (BASE | Features.BYPASS, BASE, False, False),
    ],
)
def test_an_unattached_endpoint_is_in_bypass_mode_as_5_13_6_says(
    offered: Features, negotiated: Features | None, field: bool, expected: bool
) -> None:
    outcome = device(offered, negotiated, bypass=field).translate(access())
    if expected:
        assert outcome == Bypassed(0x4000, BypassReason.UNATTACHED)
    else:
        assert_fault(outcome, FaultReason.DOMAIN)


def test_writing_the_bypass_field_ends_bypass_mode_5_13_4_1() -> None:
    engine = device(bypass=True)
    engine.write_bypass(False)
    assert_fault(engine.translate(access()), FaultReason.DOMAIN)


def test_an_endpoint_in_a_bypass_domain_is_in_bypass_mode_5_13_6() -> None:
    engine = device()
    engine.submit(Attach(domain=1, endpoint=EP, flags=AttachFlags.BYPASS))
    assert engine.translate(access()) == Bypassed(0x4000, BypassReason.BYPASS_DOMAIN)


def test_an_attached_endpoint_does_not_bypass_by_the_config_field_5_13_6() -> None:
    engine = device(bypass=True)
    engine.submit(Attach(domain=1, endpoint=EP))
    assert_fault(engine.translate(access()), FaultReason.MAPPING)


# Reserved regions, 5.13.6.8.1.


def test_a_write_to_an_msi_region_is_an_interrupt_5_13_6_8_1() -> None:
    outcome = with_page().translate(access(0xFEE0_0010, AccessKind.WRITE))
    assert outcome == Bypassed(0xFEE0_0010, BypassReason.INTERRUPT_RANGE)


def test_a_read_of_an_msi_region_faults_with_mapping() -> None:
    assert_fault(with_page().translate(access(0xFEE0_0010)), FaultReason.MAPPING)


def test_a_write_to_a_reserved_region_faults_with_mapping_5_13_6_8_1_2() -> None:
    assert_fault(with_page().translate(access(0xD000_0000, AccessKind.WRITE)), FaultReason.MAPPING)


# Accesses of any length.


def test_an_access_that_crosses_the_granule_is_refused() -> None:
    with pytest.raises(AccessCrossesPage):
        with_page().translate(access(0x4FFE))


def test_an_access_over_two_byte_mappings_is_split_and_joined() -> None:
    engine = device(page_size_mask=1)
    engine.submit(Attach(domain=1, endpoint=EP))
    for start in (0, 5):
        engine.submit(Map(domain=1, virt_start=start, virt_end=start + 4, phys_start=100 + start, flags=RW))
    pieces = translate_range(engine, access(3, length=4))
    assert [(piece.access.iova, piece.access.length) for piece in pieces] == [(3, 4)]


def test_the_explanation_shows_domain_and_mapping() -> None:
    text = str(with_page().explain(access(0x4008)))
    assert "domain=0x1" in text
    assert "virt_start=0x4000 virt_end=0x5fff phys_start=0x9000" in text
    assert "translated to 0x9008" in text


def test_every_fault_reason_has_a_test() -> None:
    reached = {
        device().translate(access()),
        with_page().translate(access(0)),
        device().translate(access(requester=0x99)),
    }
    assert {outcome.code for outcome in reached if isinstance(outcome, Fault)} == set(FaultReason)


@settings(max_examples=20)
@given(st.integers(0, 1 << 32), st.integers(0, 1600))
def test_mappings_are_found_after_any_order_of_insertions_and_removals(seed: int, removed: int) -> None:
    order = list(range(1600))
    Random(seed).shuffle(order)
    ranges = RangeMap()
    entries = [MappedRange(number * 10, number * 10 + 4, number, 1) for number in range(1600)]
    for number in order:
        ranges.insert(entries[number])
    for number in order[:removed]:
        ranges.remove(entries[number])
    left = set(order[removed:])
    assert [entry.phys_start for entry in ranges] == sorted(left)
    assert len(ranges) == len(left)
    for number in order:
        expected = entries[number] if number in left else None
        assert ranges.find(number * 10) == ranges.find(number * 10 + 4) == expected
        assert ranges.find(number * 10 + 5) is None
        assert ranges.overlapping(number * 10 + 4, number * 10 + 9) == ([expected] if expected else [])


def test_every_mapping_is_found_right_after_a_bucket_splits() -> None:
    ranges = RangeMap()
    for number in range(513):
        ranges.insert(MappedRange(number, number, number, 1))
    assert [entry and entry.phys_start for entry in map(ranges.find, range(513))] == list(range(513))


class AgainstPages(RuleBasedStateMachine):
    """The engine beside the simplest thing that could be right: a dict of pages for each domain."""

    ENDPOINTS = (0x08, 0x10, 0x18)

    def __init__(self) -> None:
        super().__init__()
        self.engine = VirtioIommuEngine(
            VirtioIommuConfig(endpoints=dict.fromkeys(self.ENDPOINTS, ()), page_size_mask=PAGE)
        )
        # Domain to page to (output page, flags, number of the MAP that made it).
        self.domains: dict[int, dict[int, tuple[int, int, int]]] = {}
        self.homes: dict[int, int] = {}
        self.serial = 0

    def leave(self, endpoint: int) -> None:
        home = self.homes.pop(endpoint, None)
        if home is not None and home not in self.homes.values():
            del self.domains[home]

    @rule(domain=st.integers(0, 1), endpoint=st.sampled_from(ENDPOINTS))
    def attach(self, domain: int, endpoint: int) -> None:
        if self.homes.get(endpoint) != domain:
            self.leave(endpoint)
            self.homes[endpoint] = domain
            self.domains.setdefault(domain, {})
        assert self.engine.submit(Attach(domain=domain, endpoint=endpoint)) is Status.OK

    @rule(domain=st.integers(0, 1), endpoint=st.sampled_from(ENDPOINTS))
    def detach(self, domain: int, endpoint: int) -> None:
        expected = Status.OK if self.homes.get(endpoint) == domain else Status.INVAL
        if expected is Status.OK:
            self.leave(endpoint)
        assert self.engine.submit(Detach(domain=domain, endpoint=endpoint)) is expected

    @rule(
        domain=st.integers(0, 1),
        page=st.integers(0, 7),
        count=st.integers(1, 5),
        to=st.integers(0, 50),
        flags=st.integers(0, 3),
    )
    def map(self, domain: int, page: int, count: int, to: int, flags: int) -> None:
        pages = self.domains.get(domain)
        if pages is None:
            expected = Status.NOENT
        elif any(page + index in pages for index in range(count)):
            expected = Status.INVAL
        else:
            expected = Status.OK
            self.serial += 1
            pages.update({page + index: (to + index, flags, self.serial) for index in range(count)})
        request = Map(
            domain=domain,
            virt_start=page * PAGE,
            virt_end=(page + count) * PAGE - 1,
            phys_start=to * PAGE,
            flags=flags,
        )
        assert self.engine.submit(request) is expected

    @rule(domain=st.integers(0, 1), page=st.integers(0, 7), count=st.integers(1, 8))
    def unmap(self, domain: int, page: int, count: int) -> None:
        pages = self.domains.get(domain)
        if pages is None:
            expected = Status.NOENT
        else:
            inside = {entry[2] for at, entry in pages.items() if page <= at < page + count}
            outside = {entry[2] for at, entry in pages.items() if not page <= at < page + count}
            expected = Status.RANGE if inside & outside else Status.OK
            if expected is Status.OK:
                self.domains[domain] = {at: entry for at, entry in pages.items() if entry[2] in outside}
        request = Unmap(domain=domain, virt_start=page * PAGE, virt_end=(page + count) * PAGE - 1)
        assert self.engine.submit(request) is expected

    @invariant()
    def every_access_goes_where_the_pages_say(self) -> None:
        for endpoint in self.ENDPOINTS:
            home = self.homes.get(endpoint)
            for page in range(13):
                entry = None if home is None else self.domains[home].get(page)
                for kind, flag in ((AccessKind.READ, 1), (AccessKind.WRITE, 2)):
                    outcome = self.engine.translate(access(page * PAGE + 8, kind, requester=endpoint))
                    if home is None:
                        assert_fault(outcome, FaultReason.DOMAIN)
                    elif entry is None or not entry[1] & flag:
                        assert_fault(outcome, FaultReason.MAPPING)
                    else:
                        assert isinstance(outcome, Translated)
                        assert outcome.address == entry[0] * PAGE + 8


TestAgainstPages = AgainstPages.TestCase
TestAgainstPages.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
