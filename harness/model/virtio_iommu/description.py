"""What a request is called where it is counted, or its answer is wrong: its type, and what is special about it."""

from __future__ import annotations

from collections.abc import Iterator

from harness.model.virtio_iommu.config import VirtioIommuConfig
from harness.model.virtio_iommu.engine import VirtioIommuEngine
from harness.model.virtio_iommu.requests import Attach, AttachFlags, Detach, Map, MapFlags, Probe, Request, Unmap
from harness.model.virtio_iommu.wire import HEAD_SIZE, TYPES, decode_request, request_type

__all__ = ["describe"]

_U64_MAX = (1 << 64) - 1
_REQUESTER = 0xFFFF  # of a PCI endpoint's id; above it is the segment
_KNOWN_MAP_FLAGS = sum(MapFlags)


def describe(readable: bytes, engine: VirtioIommuEngine) -> str:
    """The name of a request that stands in device-readable bytes.

    Args:
        readable: those bytes.
        engine: of the device, as it is before the request is taken.

    Returns:
        Such as "MAP read write", "ATTACH, reserved" or "request of no type": the same for all of a kind.
    """
    request = decode_request(readable)
    if request is not None:
        flags, special = _flags(request), tuple(_special(request, engine))
        return ", ".join((" ".join((TYPES[request.__class__].name, *flags)), *special))
    if len(readable) < HEAD_SIZE:
        return "request without a head"
    type = request_type(readable)
    return "request of no type" if type is None else f"{type.name} cut off"


def _flags(request: Request) -> Iterator[str]:
    """Of the flags of a request those that the specification knows."""
    flags: AttachFlags | MapFlags
    match request:
        case Attach(flags=bits):
            flags = AttachFlags(bits & AttachFlags.BYPASS)
        case Map(flags=bits):
            flags = MapFlags(bits & _KNOWN_MAP_FLAGS)
        case _:
            return
    for flag in flags:
        yield str(flag.name).lower()


def _special(request: Request, engine: VirtioIommuEngine) -> Iterator[str]:
    """What a driver does not do, or seldom does."""
    config = engine.config
    match request:
        case Attach(domain=domain, endpoint=endpoint, flags=flags, reserved=reserved):
            yield from _endpoint(endpoint, config)
            if engine.is_alone(endpoint, domain):
                yield "again the only endpoint"
            if flags & ~int(AttachFlags.BYPASS):
                yield "unknown flags"
            if reserved:
                yield "reserved"
        case Detach(endpoint=endpoint, reserved=reserved):
            yield from _endpoint(endpoint, config)
            if reserved:
                yield "reserved"
        case Map(domain=domain, virt_start=start, virt_end=end, phys_start=phys, flags=flags):
            if engine.is_kept(domain, start, end):
                yield "over what an UNMAP kept"
            if flags & ~_KNOWN_MAP_FLAGS:
                yield "unknown flags"
            if (start | phys | (end + 1)) % config.granule:
                yield "not aligned"
            if start < config.input_range[0] or end > config.input_range[1]:
                yield "beyond input_range"
            if any(region.overlaps(start, end) for regions in config.endpoints.values() for region in regions):
                yield "over RESV_MEM"
            if phys + end - start > _U64_MAX:
                yield "beyond physical addresses"
        case Unmap(domain=domain, virt_start=start, virt_end=end, reserved=reserved):
            if engine.is_kept(domain, start, end):
                yield "over what an UNMAP kept"
            if reserved:
                yield "reserved"
        case Probe(endpoint=endpoint):
            yield from _endpoint(endpoint, config)


def _endpoint(endpoint: int, config: VirtioIommuConfig) -> Iterator[str]:
    if endpoint not in config.endpoints:
        is_alias = endpoint & _REQUESTER in config.endpoints
        yield "endpoint of another segment" if is_alias else "no such endpoint"
