"""virtio-iommu: what becomes of an access (virtio 1.3, 5.13.6 and 5.13.6.9), also against a dict of pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from reasons import assert_every_code_is_reached, assert_fault

from harness.model.access import (
    Access,
    AccessKind,
    Attributes,
    Bypassed,
    BypassReason,
    Mapping,
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
    Request,
    ReservedRegion,
    Status,
    Unmap,
    VirtioIommuConfig,
    VirtioIommuEngine,
    VirtioIommuFaultRecord,
    encode_request,
)

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


def test_write_implies_read_where_the_device_says_so_5_13_6_5_2() -> None:
    engine = VirtioIommuEngine(VirtioIommuConfig(endpoints={EP: ()}, write_implies_read=True))
    engine.submit(Attach(domain=1, endpoint=EP))
    for page, flags in enumerate((MapFlags.NONE, MapFlags.READ, MapFlags.WRITE)):
        start = page * PAGE
        engine.submit(Map(domain=1, virt_start=start, virt_end=start + PAGE - 1, phys_start=start, flags=flags))
    rw = Permissions.READ | Permissions.WRITE
    assert engine.translate(access(2 * PAGE)) == Translated(2 * PAGE, PAGE, rw)
    assert [mapping.permissions for mapping in engine.iter_mappings(EP)] == [Permissions.NONE, Permissions.READ, rw]
    assert_fault(engine.translate(access(0)), FaultReason.MAPPING)
    assert_fault(engine.translate(access(PAGE, AccessKind.WRITE)), FaultReason.MAPPING)


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
def test_a_fault_has_a_record_with_kind_and_address_5_13_6_9(kind: AccessKind, flag: FaultFlags) -> None:
    outcome = assert_fault(device().translate(access(0x1234, kind)), FaultReason.DOMAIN)
    assert (outcome.requester, outcome.iova, outcome.is_write) == (EP, 0x1000, kind is AccessKind.WRITE)
    assert outcome.record == VirtioIommuFaultRecord(
        reason=FaultReason.DOMAIN, flags=flag | FaultFlags.ADDRESS, endpoint=EP, address=0x1234
    )


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


def test_with_both_bypass_features_either_makes_bypass_mode_5_13_6() -> None:
    both = BASE | Features.BYPASS | Features.BYPASS_CONFIG
    assert device(both).translate(access()) == Bypassed(0x4000, BypassReason.UNATTACHED)
    assert_fault(device(both, BASE | Features.BYPASS_CONFIG).translate(access()), FaultReason.DOMAIN)


def test_listed_for_an_endpoint_in_bypass_mode_is_everything_to_itself() -> None:
    everything = [Mapping(0, 0, 1 << 64, Permissions.READ | Permissions.WRITE)]
    assert list(device(bypass=True).iter_mappings(EP)) == everything
    engine = device()
    engine.submit(Attach(domain=1, endpoint=EP, flags=AttachFlags.BYPASS))
    assert list(engine.iter_mappings(EP)) == everything


def test_nothing_is_listed_where_there_is_no_domain_no_endpoint_or_a_pasid() -> None:
    assert list(device().iter_mappings(EP)) == list(device(bypass=True).iter_mappings(0x99)) == []
    assert list(with_page().iter_mappings(EP, 1)) == []


def test_extents_are_where_what_is_listed_lies_and_how_long_it_is() -> None:
    scattered = with_page()
    for start, pages in ((0x40_0000, 3), (0x1_0000_0000, 1), (0x100_0000, 0x200)):
        end = start + pages * PAGE - 1
        scattered.submit(Map(domain=1, virt_start=start, virt_end=end, phys_start=start, flags=MapFlags.READ))
    for engine, count in ((scattered, 4), (device(), 0), (device(bypass=True), 1)):
        listed = [(mapping.iova, mapping.size) for mapping in engine.iter_mappings(EP)]
        assert len(listed) == count
        assert engine.extents(EP) == listed
        assert engine.extents(0x99) == []


# Reset, 5.13.4.2 and 5.13.5.


def test_device_reset_leaves_no_endpoint_attached_and_keeps_the_bypass_field() -> None:
    engine = with_page()
    engine.write_bypass(True)
    engine.reset()
    assert (engine.domain_of(EP), engine.bypass) == (None, True)
    assert engine.translate(access()) == Bypassed(0x4000, BypassReason.UNATTACHED)


@pytest.mark.parametrize("initial", [False, True])
def test_system_reset_restores_the_bypass_field(initial: bool) -> None:
    engine = device(bypass=initial)
    engine.write_bypass(not initial)
    engine.reset()
    assert engine.bypass is not initial
    engine.reset(system=True)
    assert engine.bypass is initial


def test_after_a_reset_no_feature_is_negotiated_until_the_driver_does_so_again() -> None:
    engine = device(BASE | Features.BYPASS)
    engine.reset()
    assert_fault(engine.translate(access()), FaultReason.DOMAIN)
    engine.write_config(36, b"\1")
    assert engine.bypass is False
    assert engine.submit(Map(domain=1, virt_start=0, virt_end=0xFFF, phys_start=0, flags=RW)) is None
    engine.negotiate(BASE | Features.BYPASS)
    assert engine.translate(access()) == Bypassed(0x4000, BypassReason.UNATTACHED)


# Reserved regions, 5.13.6.8.1.


@pytest.mark.parametrize("region", [MSI, HOLE])
def test_in_bypass_mode_every_access_is_allowed_5_13_6(region: ReservedRegion) -> None:
    engine = device()
    engine.submit(Attach(domain=1, endpoint=EP, flags=AttachFlags.BYPASS))
    for kind in AccessKind:
        assert engine.translate(access(region.start, kind)) == Bypassed(region.start, BypassReason.BYPASS_DOMAIN)


def test_an_unattached_endpoint_reaches_no_msi_region_5_13_6_2() -> None:
    assert_fault(device().translate(access(0xFEE0_0010, AccessKind.WRITE)), FaultReason.DOMAIN)


@pytest.mark.parametrize("iova", [MSI.start, MSI.start + 0x10, MSI.end])
def test_a_write_to_an_msi_region_is_an_interrupt_5_13_6_8_1(iova: int) -> None:
    outcome = with_page().translate(access(iova, AccessKind.WRITE, length=1))
    assert outcome == Bypassed(iova, BypassReason.INTERRUPT_RANGE)


@pytest.mark.parametrize("iova", [MSI.start - 1, MSI.end + 1])
def test_a_write_beside_an_msi_region_is_none(iova: int) -> None:
    assert_fault(with_page().translate(access(iova, AccessKind.WRITE, length=1)), FaultReason.MAPPING)


def test_a_read_of_an_msi_region_faults_with_mapping() -> None:
    assert_fault(with_page().translate(access(0xFEE0_0010)), FaultReason.MAPPING)


def test_a_write_to_a_reserved_region_faults_with_mapping_5_13_6_8_1_2() -> None:
    assert_fault(with_page().translate(access(0xD000_0000, AccessKind.WRITE)), FaultReason.MAPPING)


# Accesses of any length.


def test_an_access_of_the_whole_granule_is_one_and_an_empty_one_too() -> None:
    assert with_page().translate(access(length=PAGE)) == with_page().translate(access(length=0))


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


def bypass_domain() -> VirtioIommuEngine:
    engine = device()
    engine.submit(Attach(domain=1, endpoint=EP, flags=AttachFlags.BYPASS))
    return engine


@pytest.mark.parametrize(
    ("engine", "request_", "steps"),
    [
        (
            device(),
            access(requester=0x99),
            ["endpoint unknown to the device, or a request with PASID [virtio 5.13.6]"],
        ),
        (device(), access(), ["endpoint 00:01.0 bypass=0x0 not attached [virtio 5.13.6]"]),
        (device(bypass=True), access(), ["endpoint 00:01.0 bypass=0x1 not attached, in bypass mode [virtio 5.13.6]"]),
        (bypass_domain(), access(), ["endpoint 00:01.0 domain=0x1 bypass domain [virtio 5.13.6.3]"]),
        (
            with_page(),
            access(0xFEE0_0010, AccessKind.WRITE),
            [
                "endpoint 00:01.0 domain=0x1 [virtio 5.13.6.3]",
                "RESV_MEM, MSI start=0xfee00000 end=0xfeefffff [virtio 5.13.6.8.1]",
            ],
        ),
        (
            with_page(),
            access(0),
            ["endpoint 00:01.0 domain=0x1 [virtio 5.13.6.3]", "mapping none [virtio 5.13.6.5]"],
        ),
        (
            with_page(MapFlags.READ | MapFlags.MMIO),
            access(0x4008),
            [
                "endpoint 00:01.0 domain=0x1 [virtio 5.13.6.3]",
                "mapping virt_start=0x4000 virt_end=0x5fff phys_start=0x9000 flags=0x5 [virtio 5.13.6.5]",
            ],
        ),
    ],
)
def test_an_explanation_shows_what_was_looked_at(engine: VirtioIommuEngine, request_: Access, steps: list[str]) -> None:
    explanation = engine.explain(request_)
    first, *lines, last = (" ".join(line.split()) for line in str(explanation).splitlines())
    assert (first, lines, last) == (str(request_), steps, f"=> {engine.translate(request_)}")


def reasons(engine: VirtioIommuEngine, iova: int) -> list[str]:
    request = Access(requester=EP, iova=iova, length=1, kind=AccessKind.READ)
    return [step.reason for step in engine.explain(request).steps if step.reason]


def test_an_endpoint_is_told_that_was_attached_until_the_device_was_reset() -> None:
    engine = with_page()
    assert reasons(engine, 0x4000) == []
    engine.reset()
    assert reasons(engine, 0x4000) == ["attached until the device was reset"]
    engine.reset()
    assert reasons(engine, 0x4000) == ["attached until the device was reset"]
    engine.reset(system=True)
    assert reasons(engine, 0x4000) == []


@pytest.mark.parametrize(("flags", "told"), [(AttachFlags.NONE, False), (AttachFlags.BYPASS, True)])
def test_one_of_several_endpoints_is_told_only_where_it_was_attached_again_with_another_flag(
    flags: AttachFlags, told: bool
) -> None:
    engine = VirtioIommuEngine(VirtioIommuConfig(endpoints={EP: (), EP + 1: ()}))
    for endpoint in (EP, EP + 1):
        engine.submit(Attach(domain=1, endpoint=endpoint))
    engine.submit(Attach(domain=1, endpoint=EP, flags=flags))
    assert bool(reasons(engine, 0x4000)) is told


def test_an_endpoint_is_told_that_was_attached_again_as_the_only_one_of_its_domain() -> None:
    engine = with_page()
    assert engine.is_alone(EP, 1)
    assert reasons(engine, 0x4000) == []
    engine.submit(Attach(domain=1, endpoint=EP))
    assert reasons(engine, 0x4000) == ["an endpoint of the domain was attached again"]
    engine.submit(Detach(domain=1, endpoint=EP))
    assert not engine.is_alone(EP, 1)
    engine.submit(Attach(domain=1, endpoint=EP))
    assert reasons(engine, 0x4000) == []


@pytest.mark.parametrize("iova", [0x3FFF, 0x5FFF])
def test_the_byte_before_a_mapping_is_told_whether_it_is_mapped_itself_or_not(iova: int) -> None:
    engine = with_page()
    engine.submit(Map(domain=1, virt_start=0x6000, virt_end=0x6FFF, phys_start=0, flags=RW))
    assert reasons(engine, iova) == ["just before a mapping"]
    assert reasons(engine, iova + 1) == reasons(engine, iova - 1) == []


def test_a_mapping_is_told_that_an_unmap_has_left_because_it_would_have_split_another() -> None:
    engine = with_page()
    engine.submit(Map(domain=1, virt_start=0x8000, virt_end=0x8FFF, phys_start=0, flags=RW))
    assert engine.submit(Unmap(domain=1, virt_start=0x5000, virt_end=0x8FFF)) is Status.RANGE
    assert reasons(engine, 0x8000) == ["kept by an UNMAP that was refused"]
    assert engine.is_kept(1, 0x8F00, 0x9FFF)
    assert not engine.is_kept(1, 0x9000, 0x9FFF)
    engine.submit(Unmap(domain=1, virt_start=0x8000, virt_end=0x8FFF))
    engine.submit(Map(domain=1, virt_start=0x8000, virt_end=0x8FFF, phys_start=0, flags=RW))
    assert reasons(engine, 0x8000) == []


def test_translate_and_explain_agree() -> None:
    for engine in (device(), with_page(), with_page(MapFlags.WRITE)):
        for iova in (0, 0x4000, 0xFEE0_0000, 0xD000_0000):
            for kind in AccessKind:
                assert engine.translate(access(iova, kind)) == engine.explain(access(iova, kind)).outcome


def test_every_fault_reason_has_a_test() -> None:
    assert_every_code_is_reached(FaultReason, [Path(__file__)])


class AgainstPages(RuleBasedStateMachine):
    """The engine, fed with bytes, beside the simplest thing that could be right: a dict of pages for each domain."""

    ENDPOINTS = (0x08, 0x10, 0x18)

    def __init__(self) -> None:
        super().__init__()
        self.engine = VirtioIommuEngine(
            VirtioIommuConfig(endpoints=dict.fromkeys(self.ENDPOINTS, ()), page_size_mask=PAGE)
        )
        # Domain to page to (output page, flags, number of the MAP that made it); None for a bypass domain.
        self.domains: dict[int, dict[int, tuple[int, int, int]] | None] = {}
        self.homes: dict[int, int] = {}
        self.bypass = False
        self.serial = 0

    def submit(self, request: Request, expected: Status) -> None:
        assert self.engine.submit_bytes(encode_request(request), 4) == bytes([expected, 0, 0, 0])

    def leave(self, endpoint: int) -> None:
        home = self.homes.pop(endpoint, None)
        if home is not None and home not in self.homes.values():
            del self.domains[home]

    @rule(domain=st.integers(0, 1), endpoint=st.sampled_from(ENDPOINTS), bypass=st.booleans())
    def attach(self, domain: int, endpoint: int, bypass: bool) -> None:
        flags = AttachFlags.BYPASS if bypass else AttachFlags.NONE
        expected = Status.OK
        if self.homes.get(endpoint) != domain:
            self.leave(endpoint)
        if domain in self.domains and (self.domains[domain] is None) is not bypass:
            expected = Status.INVAL
        elif self.homes.get(endpoint) != domain:
            self.homes[endpoint] = domain
            self.domains.setdefault(domain, None if bypass else {})
        self.submit(Attach(domain=domain, endpoint=endpoint, flags=flags), expected)

    @rule(domain=st.integers(0, 1), endpoint=st.sampled_from(ENDPOINTS))
    def detach(self, domain: int, endpoint: int) -> None:
        expected = Status.OK if self.homes.get(endpoint) == domain else Status.INVAL
        if expected is Status.OK:
            self.leave(endpoint)
        self.submit(Detach(domain=domain, endpoint=endpoint), expected)

    @rule(bypass=st.booleans())
    def write_bypass(self, bypass: bool) -> None:
        self.bypass = bypass
        self.engine.write_config(36, bytes([bypass]))

    @rule(system=st.booleans())
    def reset(self, system: bool) -> None:
        self.domains.clear()
        self.homes.clear()
        self.bypass = self.bypass and not system
        self.engine.reset(system=system)
        self.engine.negotiate(self.engine.config.offered)

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
            expected = Status.INVAL if domain in self.domains else Status.NOENT
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
        self.submit(request, expected)

    @rule(domain=st.integers(0, 1), page=st.integers(0, 7), count=st.integers(1, 8))
    def unmap(self, domain: int, page: int, count: int) -> None:
        pages = self.domains.get(domain)
        if pages is None:
            expected = Status.INVAL if domain in self.domains else Status.NOENT
        else:
            inside = {entry[2] for at, entry in pages.items() if page <= at < page + count}
            outside = {entry[2] for at, entry in pages.items() if not page <= at < page + count}
            expected = Status.RANGE if inside & outside else Status.OK
            if expected is Status.OK:
                self.domains[domain] = {at: entry for at, entry in pages.items() if entry[2] in outside}
        request = Unmap(domain=domain, virt_start=page * PAGE, virt_end=(page + count) * PAGE - 1)
        self.submit(request, expected)

    @invariant()
    def every_access_goes_where_the_pages_say(self) -> None:
        for endpoint in self.ENDPOINTS:
            home = self.homes.get(endpoint)
            pages = None if home is None else self.domains[home]
            for page in range(13):
                iova = page * PAGE + 8
                for kind, flag in ((AccessKind.READ, 1), (AccessKind.WRITE, 2)):
                    outcome = self.engine.translate(access(iova, kind, requester=endpoint))
                    entry = (pages or {}).get(page)
                    if home is None and not self.bypass:
                        assert_fault(outcome, FaultReason.DOMAIN)
                    elif pages is None:
                        assert isinstance(outcome, Bypassed)
                        assert outcome.address == iova
                    elif entry is None or not entry[1] & flag:
                        assert_fault(outcome, FaultReason.MAPPING)
                    else:
                        assert isinstance(outcome, Translated)
                        assert outcome.address == entry[0] * PAGE + 8


TestAgainstPages = AgainstPages.TestCase
TestAgainstPages.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
