"""What a virtio-iommu makes of requests and of accesses (virtio 1.3, 5.13.6).

Where the specification leaves the device a choice, this is the one taken (for domains: `domains.py`):

- In bypass mode reserved regions are not looked at: every access is allowed (5.13.6).
- A request without a whole head, or without room for its tail, cannot be parsed: its buffers come back unwritten. Where
  the tail is found, and only the fields are cut off, the status is INVAL.
- A PROBE whose writable part is smaller than `probe_size` and the tail has the tail at its end, with INVAL in it and
  no property before it; what is behind the tail of other requests is not written.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.model.access import (
    PERMISSIONS,
    Access,
    AccessKind,
    Attributes,
    Bypassed,
    BypassReason,
    Fault,
    Mapping,
    Outcome,
    Permissions,
    Translated,
    format_requester,
)
from harness.model.engine import check_within_page
from harness.model.explanation import Explanation, Step
from harness.model.virtio_iommu.config import BYPASS_OFFSET, Features, VirtioIommuConfig
from harness.model.virtio_iommu.domains import Domain, Domains
from harness.model.virtio_iommu.faults import FaultFlags, FaultReason, VirtioIommuFaultRecord
from harness.model.virtio_iommu.probe import RegionKind, encode_properties
from harness.model.virtio_iommu.ranges import MappedRange, RangeMap
from harness.model.virtio_iommu.requests import (
    Attach,
    Detach,
    Map,
    MapFlags,
    Probe,
    Request,
    Status,
    Unmap,
)
from harness.model.virtio_iommu.wire import TAIL_SIZE, TYPES, RequestType, decode_request, encode_tail, request_type

__all__ = ["VirtioIommuEngine"]

_READ = int(MapFlags.READ)
_WRITE = int(MapFlags.WRITE)
_READ_WRITE = _READ | _WRITE
_MMIO = int(MapFlags.MMIO)


class VirtioIommuEngine:
    """One device, fed with the requests of its driver.

    Args:
        config: what the device offers and what was negotiated.
    """

    def __init__(self, config: VirtioIommuConfig) -> None:
        self.config = config
        self._domains = Domains(config, config.accepted(config.negotiated))
        self._attached_before: frozenset[int] = frozenset()  # the last reset of the device alone
        self._bypass = config.bypass
        self._granule = config.granule
        # By the READ and WRITE flags of a mapping: what it allows (5.13.6.5.2).
        self._rights = (0, _READ, _READ_WRITE if config.write_implies_read else _WRITE, _READ_WRITE)

    @property
    def granule(self) -> int:
        """See `Engine`: the lowest bit of page_size_mask."""
        return self.config.granule

    @property
    def bypass(self) -> bool:
        """The config field `bypass`."""
        return self._bypass

    def read_config(self) -> bytes:
        """Configuration space as the driver reads it (5.13.4)."""
        return self.config.encode(bypass=self._bypass)

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes `data` at `offset` of configuration space (5.13.4.1).

        Only the byte `bypass` can be written, with BYPASS_CONFIG negotiated, and holds 0 or 1 and nothing else
        (5.13.4.2): whatever the driver must not write changes nothing.
        """
        at = BYPASS_OFFSET - offset
        if 0 <= at < len(data) and data[at] in (0, 1):
            self.write_bypass(bool(data[at]))

    def write_bypass(self, bypass: bool) -> None:
        """The driver writes the config field `bypass` (5.13.4.1).

        Without BYPASS_CONFIG negotiated it must not, and nothing changes.
        """
        if self._has(Features.BYPASS_CONFIG):
            self._bypass = bypass

    def negotiate(self, features: Features) -> None:
        """The driver accepts features (2.2, 3.1.1).

        Raises:
            SpecError: some of them are not offered.
        """
        self._domains.negotiated = self.config.accepted(features)

    def reset(self, *, system: bool = False) -> None:
        """Reset the device: no endpoint is attached, and no feature negotiated until the driver does so again.

        Only a system reset restores `bypass` (5.13.4.2, 5.13.5; for the features 2.4 and 3.1.1).
        """
        self._attached_before = frozenset() if system else self._attached_before.union(self._domains.attached)
        self._domains = Domains(self.config, Features(0))
        if system:
            self._bypass = self.config.bypass

    def domain_of(self, endpoint: int) -> int | None:
        """The domain that an endpoint is attached to."""
        return self._domains.attached.get(endpoint)

    def is_alone(self, endpoint: int, domain: int) -> bool:
        """Whether a domain has that endpoint and no other."""
        return self._domains.is_alone(endpoint, domain)

    def is_kept(self, domain: int, start: int, end: int) -> bool:
        """Whether a range overlaps a mapping that an UNMAP has left in a domain because it would have split another."""
        return self._domains.is_kept(domain, start, end)

    def properties(self, endpoint: int) -> bytes:
        """The RESV_MEM properties of an endpoint, as a PROBE that succeeds gives them, zeros after them (5.13.6.7.2).

        An endpoint that does not exist has none.
        """
        return encode_properties(self.config.endpoints.get(endpoint, ())).ljust(self.config.probe_size, b"\0")

    def submit(self, command: Request) -> Status | None:
        """Take one request.

        Returns:
            The status that the device writes; None where it gives the buffer back unwritten, since it does not know the
            request (5.13.6.2), or PROBE is not offered (5.13.6.7.2).
        """
        if not self._knows(TYPES[command.__class__]):
            return None
        match command:
            case Attach():
                return self._domains.attach(command)
            case Detach():
                return self._domains.detach(command)
            case Map():
                return self._domains.map(command)
            case Unmap():
                return self._domains.unmap(command)
            case Probe():
                return self._probe(command)

    def submit_bytes(self, readable: bytes, writable_size: int) -> bytes:
        """Take one request as it stands in the request queue.

        Args:
            readable: the device-readable bytes.
            writable_size: how many device-writable ones there are.

        Returns:
            What the device writes into those, from the first on; its length is the used length. Nothing where it gives
            the buffers back unwritten: it cannot parse the request, or does not know it (5.13.6, 5.13.6.2).
        """
        type = request_type(readable)
        if type is None or not self._knows(type) or writable_size < TAIL_SIZE:
            return b""
        probe_size = self.config.probe_size if type is RequestType.PROBE else 0
        properties = bytes(min(writable_size - TAIL_SIZE, probe_size))
        request = decode_request(readable)
        # 5.13.6.7.2: a list of properties that is smaller than probe_size.
        if request is None or len(properties) < probe_size:
            return properties + encode_tail(Status.INVAL)
        status = self.submit(request)
        assert status is not None
        if isinstance(request, Probe) and status is Status.OK:
            properties = self.properties(request.endpoint)
        return properties + encode_tail(status)

    def translate(self, access: Access) -> Outcome:
        """See `Engine`. The endpoint id is what `Access.requester` is: segment and requester id."""
        return self._translate(access, None)

    def explain(self, access: Access) -> Explanation:
        """See `Engine`."""
        steps: list[Step] = []
        outcome = self._translate(access, steps)
        return Explanation(access, tuple(steps), outcome)

    def iter_mappings(self, requester: int, pasid: int | None = None) -> Iterator[Mapping]:
        """Every mapping of the endpoint's domain, in ascending order; in bypass mode, everything to itself.

        With a PASID, which virtio-iommu does not have, none.
        """
        if pasid is not None:
            return
        ranges = self._ranges(requester)
        if ranges is None:
            yield _EVERYTHING
            return
        for mapped in ranges:
            size = mapped.virt_end - mapped.virt_start + 1
            rights = PERMISSIONS[self._rights[mapped.flags & _READ_WRITE]]
            yield Mapping(mapped.virt_start, mapped.phys_start, size, rights)

    def extents(self, requester: int) -> list[tuple[int, int]]:
        """First address and size of each of `iter_mappings`, for those who ask often."""
        ranges = self._ranges(requester)
        return [(_EVERYTHING.iova, _EVERYTHING.size)] if ranges is None else ranges.extents()

    def _ranges(self, requester: int) -> RangeMap | None:
        """The mappings of an endpoint's domain, or none; None in bypass mode."""
        number = self._domains.attached.get(requester)
        if number is not None:
            domain = self._domains.by_number[number]
            return None if domain.bypass else domain.ranges
        return None if requester in self.config.endpoints and self._unattached_bypass() else RangeMap()

    # 5.13.6.7.2, device requirements: PROBE request.
    def _probe(self, request: Probe) -> Status:
        if request.endpoint not in self.config.endpoints:
            return Status.NOENT
        # A device says a probe_size that its properties fit in; what does not fit is not written.
        if len(self.properties(request.endpoint)) > self.config.probe_size:
            return Status.INVAL
        return Status.OK

    def _knows(self, type: RequestType) -> bool:
        """Whether there is such a request: MAP and UNMAP when negotiated, PROBE when offered (5.13.6.5 to 5.13.6.7)."""
        match type:
            case RequestType.MAP | RequestType.UNMAP:
                return self._has(Features.MAP_UNMAP)
            case RequestType.PROBE:
                return bool(self.config.offered & Features.PROBE)
            case _:
                return True

    def _has(self, feature: Features) -> bool:
        return bool(self._domains.negotiated & feature)

    def _unattached_bypass(self) -> bool:
        """Whether endpoints without a domain are in bypass mode (5.13.6).

        The config field counts once BYPASS_CONFIG is offered, accepted or not; F_BYPASS must be negotiated.
        """
        if self.config.offered & Features.BYPASS_CONFIG and self._bypass:
            return True
        return self._has(Features.BYPASS)

    def _translate(self, access: Access, trace: list[Step] | None) -> Outcome:
        iova = access.iova
        if iova % self._granule + access.length > self._granule:
            check_within_page(access, self._granule)
        endpoint = access.requester
        # 5.13 has neither PASIDs nor endpoints that it was not told of: an error that no other reason describes.
        if access.pasid is not None or endpoint not in self.config.endpoints:
            if trace is not None:
                trace.append(Step("endpoint", "virtio 5.13.6", note="unknown to the device, or a request with PASID"))
            return self._fault(access, FaultReason.UNKNOWN)

        number = self._domains.attached.get(endpoint)
        if trace is not None:
            trace.append(self._endpoint_step(endpoint, number))
            if number is None and endpoint in self._attached_before:
                trace.append(Step("reset", "virtio 5.13.5", reason="attached until the device was reset"))
        # 5.13.6: bypass mode of an endpoint without a domain.
        if number is None:
            if self._unattached_bypass():
                return Bypassed(iova, BypassReason.UNATTACHED)
            return self._fault(access, FaultReason.DOMAIN)
        # 5.13.6: bypass mode of an endpoint in a bypass domain.
        domain = self._domains.by_number[number]
        if domain.bypass:
            return Bypassed(iova, BypassReason.BYPASS_DOMAIN)

        # 5.13.6.8.1: a write to an MSI region is an interrupt. Nothing can be mapped in any reserved region, so that
        # every other access to one is a MAPPING fault below.
        if access.kind is AccessKind.WRITE:
            for region in self.config.endpoints[endpoint]:
                if region.kind is RegionKind.MSI and region.start <= iova <= region.end:
                    if trace is not None:
                        bounds = (("start", region.start), ("end", region.end))
                        trace.append(Step("RESV_MEM, MSI", "virtio 5.13.6.8.1", fields=bounds))
                    return Bypassed(iova, BypassReason.INTERRUPT_RANGE)

        # 5.13.6.5: PA = VA - virt_start + phys_start, if the flags allow the access.
        mapped = domain.ranges.find(iova)
        if trace is not None:
            trace.append(_mapping_step(mapped, domain, iova))
        if mapped is None:
            return self._fault(access, FaultReason.MAPPING)
        rights = self._rights[mapped.flags & _READ_WRITE]
        if not rights & (_WRITE if access.kind is AccessKind.WRITE else _READ):
            return self._fault(access, FaultReason.MAPPING)
        return Translated(
            iova - mapped.virt_start + mapped.phys_start,
            mapped.virt_end - mapped.virt_start + 1,
            PERMISSIONS[rights],
            Attributes.MMIO if mapped.flags & _MMIO else Attributes.NONE,
        )

    def _fault(self, access: Access, reason: FaultReason) -> Fault:
        is_write = access.kind is AccessKind.WRITE
        record = VirtioIommuFaultRecord(
            reason=reason,
            flags=(FaultFlags.WRITE if is_write else FaultFlags.READ) | FaultFlags.ADDRESS,
            endpoint=access.requester,
            address=access.iova,
        )
        return Fault(reason, access.requester, access.iova & ~0xFFF, is_write, record=record)

    def _endpoint_step(self, endpoint: int, number: int | None) -> Step:
        name = f"endpoint {format_requester(endpoint)}"
        if number is None:
            note = "not attached, in bypass mode" if self._unattached_bypass() else "not attached"
            return Step(name, "virtio 5.13.6", fields=(("bypass", int(self._bypass)),), note=note)
        domain = self._domains.by_number[number]
        note = "bypass domain" if domain.bypass else ""
        reason = "an endpoint of the domain was attached again" if domain.renewed else ""
        return Step(name, "virtio 5.13.6.3", fields=(("domain", number),), note=note, reason=reason)


def _mapping_step(mapped: MappedRange | None, domain: Domain, iova: int) -> Step:
    """The mapping of an address; whether it was kept, or another one begins with the next byte."""
    reason = ""
    if domain.ranges.find(iova + 1) not in (None, mapped):
        reason = "just before a mapping"
    elif mapped is not None and mapped.virt_start in domain.kept:
        reason = "kept by an UNMAP that was refused"
    if mapped is None:
        return Step("mapping", "virtio 5.13.6.5", note="none", reason=reason)
    return Step("mapping", "virtio 5.13.6.5", fields=tuple(mapped._asdict().items()), reason=reason)


_EVERYTHING = Mapping(0, 0, 1 << 64, Permissions.READ | Permissions.WRITE)
