"""What ATTACH, DETACH, MAP and UNMAP make of the domains of a virtio-iommu (virtio 1.3, 5.13.6.3 to 5.13.6.6).

Where the specification leaves the device a choice, this is the one taken:

- An endpoint whose reserved regions overlap a mapping of the domain is refused with UNSUPP, as one whose properties are
  not compatible (5.13.6.3.2). Whether endpoints share domains, and move between them, is the configuration's to say.
- An ATTACH to a domain outside of `domain_range` gets RANGE; one that repeats an attachment changes nothing. One that
  moves an endpoint is a DETACH and an ATTACH (5.13.6.3.2): where the new domain refuses the endpoint, it is left
  without one. Whatever else is wrong with the request leaves it where it was.
- A DETACH from a domain that does not exist or does not hold the endpoint gets INVAL (5.13.6.4.2 allows it).
- A MAP beyond `input_range` gets RANGE, one that overlaps a reserved region of an endpoint in the domain INVAL, one
  whose physical range runs over the end of the address space FAULT, an empty one (end before start) INVAL. One of a
  single byte is good where that is the granule, though 5.13.6.5.1 asks drivers for more and 5.13.6 calls it legal.
- An UNMAP whose reserved field is not zero gets INVAL and does nothing; so does an empty one.
- Where several of these apply, the order of the text of the section decides.

Nothing that 5.13 asks for leads to IOERR, DEVERR or NOMEM: the model never gives them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.model.virtio_iommu.config import Features, VirtioIommuConfig
from harness.model.virtio_iommu.ranges import MappedRange, RangeMap
from harness.model.virtio_iommu.requests import Attach, AttachFlags, Detach, Map, MapFlags, Status, Unmap

__all__ = ["Domain", "Domains"]

_U64_MAX = (1 << 64) - 1
_READ_WRITE = int(MapFlags.READ | MapFlags.WRITE)
_MMIO = int(MapFlags.MMIO)


@dataclass(slots=True)
class Domain:
    """A domain.

    Attributes:
        bypass: whether it is a bypass domain.
        endpoints: that are attached.
        ranges: that are mapped.
        kept: first addresses of mappings that an UNMAP has left there because it would have split another one.
        renewed: whether its only endpoint was attached to it again, or any with another BYPASS flag.
    """

    bypass: bool
    endpoints: set[int] = field(default_factory=set)
    ranges: RangeMap = field(default_factory=RangeMap)
    kept: set[int] = field(default_factory=set)
    renewed: bool = False


class Domains:
    """The domains of one device: none at first, since a reset leaves no endpoint attached (5.13.5).

    Attributes:
        negotiated: the features that the driver has accepted.
        by_number: those that there are.
        attached: number of the domain that an endpoint is attached to.
    """

    def __init__(self, config: VirtioIommuConfig, negotiated: Features) -> None:
        self.negotiated = negotiated
        self.by_number: dict[int, Domain] = {}
        self.attached: dict[int, int] = {}
        self._config = config

    # 5.13.6.3.2, device requirements: ATTACH request.
    def attach(self, request: Attach) -> Status:
        """Put an endpoint into a domain."""
        if request.reserved:
            return Status.INVAL
        known = int(AttachFlags.BYPASS if self.negotiated & Features.BYPASS_CONFIG else AttachFlags.NONE)
        if request.flags & ~known:
            return Status.INVAL
        regions = self._config.endpoints.get(request.endpoint)
        if regions is None:
            return Status.NOENT
        first, last = self._config.domain_range
        if not first <= request.domain <= last:
            return Status.RANGE
        bypass = bool(request.flags & AttachFlags.BYPASS)
        domain = self.by_number.get(request.domain)
        if domain is not None and request.endpoint in domain.endpoints:
            return self._attach_again(domain, bypass=bypass)
        if domain is not None and not self._config.shares_domains:
            return Status.UNSUPP
        if request.endpoint in self.attached and not self._config.moves_endpoints:
            return Status.UNSUPP
        self._leave(request.endpoint)
        if domain is None:
            domain = self.by_number[request.domain] = Domain(bypass)
        if domain.bypass is not bypass:
            return Status.INVAL
        if any(domain.ranges.overlapping(region.start, region.end) for region in regions):
            return Status.UNSUPP
        domain.endpoints.add(request.endpoint)
        self.attached[request.endpoint] = request.domain
        return Status.OK

    def is_alone(self, endpoint: int, number: int) -> bool:
        """Whether a domain has that endpoint and no other."""
        domain = self.by_number.get(number)
        return domain is not None and domain.endpoints == {endpoint}

    def is_kept(self, number: int, start: int, end: int) -> bool:
        """Whether a range overlaps a mapping in `Domain.kept`."""
        domain = self.by_number.get(number)
        return domain is not None and any(
            mapped.virt_start in domain.kept for mapped in domain.ranges.overlapping(start, end)
        )

    def _attach_again(self, domain: Domain, *, bypass: bool) -> Status:
        """Put an endpoint into the domain that it is in."""
        is_same = domain.bypass is bypass
        domain.renewed = domain.renewed or not is_same or len(domain.endpoints) == 1
        return Status.OK if is_same else Status.INVAL

    # 5.13.6.4.2, device requirements: DETACH request. The reserved field is ignored.
    def detach(self, request: Detach) -> Status:
        """Take an endpoint out of a domain."""
        if request.endpoint not in self._config.endpoints:
            return Status.NOENT
        if self.attached.get(request.endpoint) != request.domain:
            return Status.INVAL
        self._leave(request.endpoint)
        return Status.OK

    def _leave(self, endpoint: int) -> None:
        number = self.attached.pop(endpoint, None)
        if number is None:
            return
        domain = self.by_number[number]
        domain.endpoints.remove(endpoint)
        # 5.13.6.4: without endpoints a domain ceases to exist.
        if not domain.endpoints:
            del self.by_number[number]

    # 5.13.6.5.2, device requirements: MAP request.
    def map(self, request: Map) -> Status:
        """Add a mapping to a domain."""
        granule = self._config.granule
        start, end = request.virt_start, request.virt_end
        if (start | request.phys_start | (end + 1)) % granule:
            return Status.RANGE
        domain = self.by_number.get(request.domain)
        if end < start or (domain is not None and domain.ranges.overlapping(start, end)):
            return Status.INVAL
        known = _READ_WRITE | (_MMIO if self.negotiated & Features.MMIO else 0)
        if request.flags & ~known:
            return Status.INVAL
        if domain is None:
            return Status.NOENT
        if domain.bypass:
            return Status.INVAL
        # 5.13.6: outside of the input range.
        first, last = self._config.input_range
        if start < first or end > last:
            return Status.RANGE
        # 5.13.6.8.1.2: over a reserved region.
        regions = (region for endpoint in domain.endpoints for region in self._config.endpoints[endpoint])
        if any(region.overlaps(start, end) for region in regions):
            return Status.INVAL
        # 5.13.6.5: the physical range must lie within the guest-physical address space.
        if request.phys_start + (end - start) > _U64_MAX:
            return Status.FAULT
        domain.ranges.insert(MappedRange(start, end, request.phys_start, int(request.flags)))
        return Status.OK

    # 5.13.6.6.2, device requirements: UNMAP request.
    def unmap(self, request: Unmap) -> Status:
        """Remove the mappings of a range."""
        if request.reserved:
            return Status.INVAL
        domain = self.by_number.get(request.domain)
        if domain is None:
            return Status.NOENT
        if domain.bypass or request.virt_end < request.virt_start:
            return Status.INVAL
        affected = domain.ranges.overlapping(request.virt_start, request.virt_end)
        # Only the first and the last can reach beyond the range; then nothing at all is removed.
        if affected and (affected[0].virt_start < request.virt_start or affected[-1].virt_end > request.virt_end):
            domain.kept.update(mapped.virt_start for mapped in affected)
            return Status.RANGE
        for mapped in affected:
            domain.ranges.remove(mapped)
            domain.kept.discard(mapped.virt_start)
        return Status.OK
