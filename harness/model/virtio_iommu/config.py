"""What a virtio-iommu offers: feature bits, configuration space, endpoints (virtio 1.3, 5.13.3, 5.13.4)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from itertools import pairwise
from typing import Self

from harness.errors import SpecError
from harness.model.access import format_requester
from harness.model.virtio_iommu.probe import RegionKind, ReservedRegion, encode_properties

__all__ = ["BYPASS_OFFSET", "Features", "VirtioIommuConfig"]

# struct virtio_iommu_config (5.13.4): page_size_mask, input_range, domain_range, probe_size, bypass, reserved[3].
_CONFIG = struct.Struct("<QQQIIIB3x")
BYPASS_OFFSET = 36
"""Where `bypass` stands in the configuration space."""

_U32_MAX = (1 << 32) - 1
_U64_MAX = (1 << 64) - 1


class Features(IntFlag):
    """VIRTIO_IOMMU_F_*, as bits of the feature word (5.13.3)."""

    INPUT_RANGE = 1 << 0
    DOMAIN_RANGE = 1 << 1
    MAP_UNMAP = 1 << 2
    BYPASS = 1 << 3
    PROBE = 1 << 4
    MMIO = 1 << 5
    BYPASS_CONFIG = 1 << 6


_DEFAULT_FEATURES = (
    Features.INPUT_RANGE
    | Features.DOMAIN_RANGE
    | Features.MAP_UNMAP
    | Features.PROBE
    | Features.MMIO
    | Features.BYPASS_CONFIG
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioIommuConfig:
    """One virtio-iommu device.

    Attributes:
        endpoints: endpoint id (for PCI: segment << 16 | requester id) to its reserved regions; those that are not
            here do not exist for the device.
        offered: feature bits that the device offers.
        negotiated: those of them that the driver accepted; all of them when left out.
        page_size_mask: the lowest bit is the granule (5.13.6).
        input_range: first and last virtual address; all of them count unless INPUT_RANGE is offered.
        domain_range: first and last domain id; all of them count unless DOMAIN_RANGE is offered.
        probe_size: bytes of properties that a PROBE request has room for.
        bypass: initial value of the config field; counts when BYPASS_CONFIG is offered.
        shares_domains: several endpoints can be in a domain; else all but one get UNSUPP (5.13.6.3.2).
        moves_endpoints: an endpoint can be attached elsewhere without being detached first; else UNSUPP (5.13.6.3.2).
        write_implies_read: what is mapped with WRITE only can be read, as the architecture below has it (5.13.6.5.2).

    Raises:
        SpecError: a configuration that a device must not present.
    """

    endpoints: Mapping[int, tuple[ReservedRegion, ...]]
    offered: Features = _DEFAULT_FEATURES
    negotiated: Features | None = None
    page_size_mask: int = _U64_MAX & ~0xFFF
    input_range: tuple[int, int] = (0, _U64_MAX)
    domain_range: tuple[int, int] = (0, _U32_MAX)
    probe_size: int = 512
    bypass: bool = False
    shares_domains: bool = True
    moves_endpoints: bool = True
    write_implies_read: bool = False
    granule: int = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.page_size_mask <= _U64_MAX:
            raise SpecError(f"page_size_mask={self.page_size_mask:#x}: at least one bit must be set (5.13.4.2)")
        for name, (first, last), limit in (
            ("input_range", self.input_range, _U64_MAX),
            ("domain_range", self.domain_range, _U32_MAX),
            *(("reserved region", (r.start, r.end), _U64_MAX) for regions in self.endpoints.values() for r in regions),
        ):
            if not 0 <= first <= last <= limit:
                raise SpecError(f"{name} {first:#x}..{last:#x} is no range within 0..{limit:#x}")
        if not 0 <= self.probe_size <= _U32_MAX:
            raise SpecError(f"probe_size={self.probe_size:#x} does not fit its 32 bits")
        object.__setattr__(self, "granule", self.page_size_mask & -self.page_size_mask)
        object.__setattr__(self, "negotiated", self.accepted(self.negotiated))
        if not self.offered & Features.INPUT_RANGE:
            object.__setattr__(self, "input_range", (0, _U64_MAX))
        if not self.offered & Features.DOMAIN_RANGE:
            object.__setattr__(self, "domain_range", (0, _U32_MAX))

    def accepted(self, features: Features | None) -> Features:
        """The features that a driver accepts, all of them for None.

        Raises:
            SpecError: some of them are not offered.
        """
        if features is None:
            return self.offered
        if features & ~int(self.offered):
            raise SpecError(f"features {features & ~int(self.offered):#x} were negotiated but not offered")
        return features

    @property
    def departures(self) -> tuple[str, ...]:
        """What of this the specification says that a device should not present, a sentence each, with its section."""
        found = [sentence for wrong, sentence in self._feature_rules() if wrong]
        for endpoint, regions in self.endpoints.items():
            name = f"endpoint {format_requester(endpoint)}"
            if sum(region.kind is RegionKind.MSI for region in regions) > 1:
                found.append(f"{name} has more than one MSI property (5.13.6.8.1.2)")
            ordered = sorted(regions, key=lambda region: region.start)
            if any(before.overlaps(after.start, after.end) for before, after in pairwise(ordered)):
                found.append(f"{name} has RESV_MEM properties that overlap (5.13.6.8.1.2)")
            if self.offered & Features.PROBE and len(encode_properties(regions)) > self.probe_size:
                found.append(f"{name} has more properties than probe_size has room for (5.13.6.7)")
        return tuple(found)

    def _feature_rules(self) -> tuple[tuple[bool, str], ...]:
        bypass, bypass_config = (bool(self.offered & name) for name in (Features.BYPASS, Features.BYPASS_CONFIG))
        return (
            (not self.offered & Features.MAP_UNMAP, "MAP_UNMAP is not offered (5.13.3.2)"),
            (bypass and not bypass_config, "BYPASS is offered, which BYPASS_CONFIG supersedes (5.13.3.2)"),
            (bypass and bypass_config, "both BYPASS and BYPASS_CONFIG are offered (5.13.3.2)"),
        )

    def encode(self, *, bypass: bool) -> bytes:
        """Configuration space, the field `bypass` as it is now; fields of features that are not offered are zero."""

        def offered(feature: Features, *values: int) -> tuple[int, ...]:
            return values if self.offered & feature else (0,) * len(values)

        return _CONFIG.pack(
            self.page_size_mask,
            *offered(Features.INPUT_RANGE, *self.input_range),
            *offered(Features.DOMAIN_RANGE, *self.domain_range),
            *offered(Features.PROBE, self.probe_size),
            *offered(Features.BYPASS_CONFIG, bypass),
        )

    @classmethod
    def decode(
        cls, space: bytes, endpoints: Mapping[int, tuple[ReservedRegion, ...]], offered: Features, negotiated: Features
    ) -> Self:
        """The configuration of a device whose configuration space and feature bits have been read.

        Raises:
            SpecError: a configuration that a device must not present.
        """
        if len(space) < _CONFIG.size:
            raise SpecError(f"{len(space)} bytes of configuration space, struct virtio_iommu_config has {_CONFIG.size}")
        page_size_mask, first, last, first_domain, last_domain, probe_size, bypass = _CONFIG.unpack_from(space)
        if bypass > 1 and offered & Features.BYPASS_CONFIG:
            raise SpecError(f"bypass={bypass:#x}: a device must not present anything but 0 or 1 (5.13.4.2)")
        return cls(
            endpoints=endpoints,
            offered=offered,
            negotiated=negotiated,
            page_size_mask=page_size_mask,
            input_range=(first, last),
            domain_range=(first_domain, last_domain),
            probe_size=probe_size,
            bypass=bool(bypass),
        )
