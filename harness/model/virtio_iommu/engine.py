"""What a virtio-iommu makes of requests and of accesses (virtio 1.3, 5.13.6).

Where the specification leaves the device a choice, this is the one taken:

- Several endpoints may share a domain. An endpoint whose reserved regions overlap a mapping of the domain is refused
  with UNSUPP, as one whose properties are not compatible (5.13.6.3.2).
- An ATTACH to a domain outside of `domain_range` gets RANGE; one that repeats an attachment changes nothing.
- A DETACH from a domain that does not exist or does not hold the endpoint gets INVAL (5.13.6.4.2 allows it).
- A MAP beyond `input_range` gets RANGE, one that overlaps a reserved region of an endpoint in the domain INVAL, one
  whose physical range runs over the end of the address space FAULT, an empty one (end before start) INVAL.
- An UNMAP whose reserved field is not zero gets INVAL and does nothing; so does an empty one.
- Where several of these apply, the order of the text of the section decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

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
from harness.model.virtio_iommu.config import Features, RegionKind, VirtioIommuConfig
from harness.model.virtio_iommu.faults import FaultFlags, FaultReason, VirtioIommuFaultRecord
from harness.model.virtio_iommu.ranges import MappedRange, RangeMap
from harness.model.virtio_iommu.requests import (
    Attach,
    AttachFlags,
    Detach,
    Map,
    MapFlags,
    Probe,
    Request,
    Status,
    Unmap,
)

__all__ = ["VirtioIommuEngine"]

_U64_MAX = (1 << 64) - 1
_READ = int(MapFlags.READ)
_WRITE = int(MapFlags.WRITE)
_MMIO = int(MapFlags.MMIO)


@dataclass(slots=True)
class _Domain:
    """A domain: whether it is a bypass domain, who is attached, what is mapped."""

    bypass: bool
    endpoints: set[int] = field(default_factory=set)
    ranges: RangeMap = field(default_factory=RangeMap)


class VirtioIommuEngine:
    """One device, fed with the requests of its driver.

    Args:
        config: what the device offers and what was negotiated.
    """

    def __init__(self, config: VirtioIommuConfig) -> None:
        self.config = config
        self._domains: dict[int, _Domain] = {}
        self._attached: dict[int, int] = {}
        self._bypass = config.bypass

    @property
    def granule(self) -> int:
        """See `Engine`: the lowest bit of page_size_mask."""
        return self.config.granule

    @property
    def bypass(self) -> bool:
        """The config field `bypass`."""
        return self._bypass

    def write_bypass(self, bypass: bool) -> None:
        """The driver writes the config field `bypass` (5.13.4.1).

        Without BYPASS_CONFIG negotiated it must not, and nothing changes.
        """
        if self.config.has(Features.BYPASS_CONFIG):
            self._bypass = bypass

    def reset(self, *, system: bool = False) -> None:
        """Reset the device: no endpoint is attached. Only a system reset restores `bypass` (5.13.4.2, 5.13.5)."""
        self._domains.clear()
        self._attached.clear()
        if system:
            self._bypass = self.config.bypass

    def domain_of(self, endpoint: int) -> int | None:
        """The domain that an endpoint is attached to."""
        return self._attached.get(endpoint)

    def properties(self, endpoint: int) -> bytes:
        """The RESV_MEM properties of an endpoint, as a PROBE that succeeds gives them, zeros after them (5.13.6.7.2).

        An endpoint that does not exist has none.
        """
        return self._properties(endpoint).ljust(self.config.probe_size, b"\0")

    def submit(self, command: Request) -> Status | None:
        """Take one request.

        Returns:
            The status that the device writes; None where it gives the buffer back unwritten, since it does not know the
            request (5.13.6.2), or PROBE is not offered (5.13.6.7.2).
        """
        match command:
            case Attach():
                return self._attach(command)
            case Detach():
                return self._detach(command)
            case Map():
                return self._map(command) if self.config.has(Features.MAP_UNMAP) else None
            case Unmap():
                return self._unmap(command) if self.config.has(Features.MAP_UNMAP) else None
            case Probe():
                return self._probe(command) if self.config.offered & Features.PROBE else None

    def translate(self, access: Access) -> Outcome:
        """See `Engine`. The endpoint id is the requester id: PCI segment 0."""
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
        number = self._attached.get(requester)
        if number is None:
            if requester in self.config.endpoints and self._unattached_bypass():
                yield _EVERYTHING
            return
        domain = self._domains[number]
        if domain.bypass:
            yield _EVERYTHING
            return
        for mapped in domain.ranges:
            size = mapped.virt_end - mapped.virt_start + 1
            yield Mapping(mapped.virt_start, mapped.phys_start, size, PERMISSIONS[mapped.flags & (_READ | _WRITE)])

    # 5.13.6.3.2, device requirements: ATTACH request.
    def _attach(self, request: Attach) -> Status:
        if request.reserved:
            return Status.INVAL
        known = int(AttachFlags.BYPASS if self.config.has(Features.BYPASS_CONFIG) else AttachFlags.NONE)
        if request.flags & ~known:
            return Status.INVAL
        regions = self.config.endpoints.get(request.endpoint)
        if regions is None:
            return Status.NOENT
        first, last = self.config.domain_range
        if not first <= request.domain <= last:
            return Status.RANGE
        bypass = bool(request.flags & AttachFlags.BYPASS)
        domain = self._domains.get(request.domain)
        if domain is not None:
            if domain.bypass is not bypass:
                return Status.INVAL
            if request.endpoint in domain.endpoints:
                return Status.OK
            if any(domain.ranges.overlapping(region.start, region.end) for region in regions):
                return Status.UNSUPP
        # An endpoint that is attached elsewhere is detached first.
        self._leave(request.endpoint)
        if domain is None:
            domain = self._domains[request.domain] = _Domain(bypass)
        domain.endpoints.add(request.endpoint)
        self._attached[request.endpoint] = request.domain
        return Status.OK

    # 5.13.6.4.2, device requirements: DETACH request. The reserved field is ignored.
    def _detach(self, request: Detach) -> Status:
        if request.endpoint not in self.config.endpoints:
            return Status.NOENT
        if self._attached.get(request.endpoint) != request.domain:
            return Status.INVAL
        self._leave(request.endpoint)
        return Status.OK

    def _leave(self, endpoint: int) -> None:
        number = self._attached.pop(endpoint, None)
        if number is None:
            return
        domain = self._domains[number]
        domain.endpoints.remove(endpoint)
        # 5.13.6.4: without endpoints a domain ceases to exist.
        if not domain.endpoints:
            del self._domains[number]

    # 5.13.6.5.2, device requirements: MAP request.
    def _map(self, request: Map) -> Status:
        granule = self.config.granule
        start, end = request.virt_start, request.virt_end
        if (start | request.phys_start | (end + 1)) % granule:
            return Status.RANGE
        domain = self._domains.get(request.domain)
        if end < start or (domain is not None and domain.ranges.overlapping(start, end)):
            return Status.INVAL
        known = _READ | _WRITE | (_MMIO if self.config.has(Features.MMIO) else 0)
        if request.flags & ~known:
            return Status.INVAL
        if domain is None:
            return Status.NOENT
        if domain.bypass:
            return Status.INVAL
        # 5.13.6: outside of the input range.
        first, last = self.config.input_range
        if start < first or end > last:
            return Status.RANGE
        # 5.13.6.8.1.2: over a reserved region.
        regions = (region for endpoint in domain.endpoints for region in self.config.endpoints[endpoint])
        if any(region.overlaps(start, end) for region in regions):
            return Status.INVAL
        # 5.13.6.5: the physical range must lie within the guest-physical address space.
        if request.phys_start + (end - start) > _U64_MAX:
            return Status.FAULT
        domain.ranges.insert(MappedRange(start, end, request.phys_start, int(request.flags)))
        return Status.OK

    # 5.13.6.6.2, device requirements: UNMAP request.
    def _unmap(self, request: Unmap) -> Status:
        if request.reserved:
            return Status.INVAL
        domain = self._domains.get(request.domain)
        if domain is None:
            return Status.NOENT
        if domain.bypass or request.virt_end < request.virt_start:
            return Status.INVAL
        affected = domain.ranges.overlapping(request.virt_start, request.virt_end)
        # Only the first and the last can reach beyond the range; then nothing at all is removed.
        if affected and (affected[0].virt_start < request.virt_start or affected[-1].virt_end > request.virt_end):
            return Status.RANGE
        for mapped in affected:
            domain.ranges.remove(mapped)
        return Status.OK

    # 5.13.6.7.2, device requirements: PROBE request.
    def _probe(self, request: Probe) -> Status:
        if request.endpoint not in self.config.endpoints:
            return Status.NOENT
        if len(self._properties(request.endpoint)) > self.config.probe_size:
            return Status.INVAL
        return Status.OK

    def _properties(self, endpoint: int) -> bytes:
        return b"".join(region.encode() for region in self.config.endpoints.get(endpoint, ()))

    def _unattached_bypass(self) -> bool:
        """Whether endpoints without a domain are in bypass mode (5.13.6).

        The config field counts once BYPASS_CONFIG is offered, accepted or not; F_BYPASS must be negotiated.
        """
        if self.config.offered & Features.BYPASS_CONFIG and self._bypass:
            return True
        return self.config.has(Features.BYPASS)

    def _translate(self, access: Access, trace: list[Step] | None) -> Outcome:
        check_within_page(access, self.config.granule)
        endpoint = access.requester
        iova = access.iova
        # 5.13 has neither PASIDs nor endpoints that it was not told of: an error that no other reason describes.
        if access.pasid is not None or endpoint not in self.config.endpoints:
            if trace is not None:
                trace.append(Step("endpoint", "virtio 5.13.6", note="unknown to the device, or a request with PASID"))
            return self._fault(access, FaultReason.UNKNOWN)

        number = self._attached.get(endpoint)
        if trace is not None:
            trace.append(self._endpoint_step(endpoint, number))
        # 5.13.6: bypass mode of an endpoint without a domain.
        if number is None:
            if self._unattached_bypass():
                return Bypassed(iova, BypassReason.UNATTACHED)
            return self._fault(access, FaultReason.DOMAIN)
        # 5.13.6: bypass mode of an endpoint in a bypass domain.
        domain = self._domains[number]
        if domain.bypass:
            return Bypassed(iova, BypassReason.BYPASS_DOMAIN)

        # 5.13.6.8.1: a write to an MSI region is an interrupt. Nothing can be mapped in any reserved region, so that
        # every other access to one is a MAPPING fault below.
        if access.kind is AccessKind.WRITE:
            for region in self.config.endpoints[endpoint]:
                if region.kind is RegionKind.MSI and region.start <= iova <= region.end:
                    if trace is not None:
                        trace.append(
                            Step("RESV_MEM, MSI", "virtio 5.13.6.8.1", fields=_bounds(region.start, region.end))
                        )
                    return Bypassed(iova, BypassReason.INTERRUPT_RANGE)

        # 5.13.6.5: PA = VA - virt_start + phys_start, if the flags allow the access.
        mapped = domain.ranges.find(iova)
        if trace is not None:
            trace.append(_mapping_step(mapped))
        needed = _WRITE if access.kind is AccessKind.WRITE else _READ
        if mapped is None or not mapped.flags & needed:
            return self._fault(access, FaultReason.MAPPING)
        return Translated(
            iova - mapped.virt_start + mapped.phys_start,
            mapped.virt_end - mapped.virt_start + 1,
            PERMISSIONS[mapped.flags & (_READ | _WRITE)],
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
        note = "bypass domain" if self._domains[number].bypass else ""
        return Step(name, "virtio 5.13.6.3", fields=(("domain", number),), note=note)


def _mapping_step(mapped: MappedRange | None) -> Step:
    if mapped is None:
        return Step("mapping", "virtio 5.13.6.5", note="none")
    fields = (*_bounds(mapped.virt_start, mapped.virt_end), ("phys_start", mapped.phys_start), ("flags", mapped.flags))
    return Step("mapping", "virtio 5.13.6.5", fields=fields)


def _bounds(start: int, end: int) -> tuple[tuple[str, int], ...]:
    return (("virt_start", start), ("virt_end", end))


_EVERYTHING = Mapping(0, 0, 1 << 64, Permissions.READ | Permissions.WRITE)
