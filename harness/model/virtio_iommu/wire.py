"""Requests as the bytes that stand in the request queue (virtio 1.3, 5.13.6), little-endian.

A request is two runs of bytes: what the device reads (head and fields) and what it writes (for PROBE the properties,
then the tail). How many buffers each is cut into says nothing (2.7.4).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from harness.errors import SpecError
from harness.model.virtio_iommu.requests import Attach, Detach, Map, Probe, Request, Status, Unmap

__all__ = [
    "HEAD_SIZE",
    "LONGEST_REQUEST",
    "TAIL_SIZE",
    "TYPES",
    "RequestType",
    "decode_request",
    "encode_request",
    "encode_tail",
    "request_type",
]

HEAD_SIZE = 4
"""struct virtio_iommu_req_head: the type, and three reserved bytes that the device ignores."""
TAIL_SIZE = 4
"""struct virtio_iommu_req_tail: the status, and three reserved bytes that the device clears."""


class RequestType(IntEnum):
    """VIRTIO_IOMMU_T_*."""

    ATTACH = 1
    DETACH = 2
    MAP = 3
    UNMAP = 4
    PROBE = 5


_BY_NUMBER = {int(type): type for type in RequestType}


@dataclass(frozen=True, slots=True)
class _Format:
    """What follows the head of one type of request."""

    make: type[Request]
    layout: struct.Struct
    fields: tuple[str, ...]


_FORMATS: Mapping[RequestType, _Format] = {
    RequestType.ATTACH: _Format(Attach, struct.Struct("<4xIIII"), ("domain", "endpoint", "flags", "reserved")),
    RequestType.DETACH: _Format(Detach, struct.Struct("<4xIIQ"), ("domain", "endpoint", "reserved")),
    RequestType.MAP: _Format(
        Map, struct.Struct("<4xIQQQI"), ("domain", "virt_start", "virt_end", "phys_start", "flags")
    ),
    RequestType.UNMAP: _Format(Unmap, struct.Struct("<4xIQQI"), ("domain", "virt_start", "virt_end", "reserved")),
    RequestType.PROBE: _Format(Probe, struct.Struct("<4xI64x"), ("endpoint",)),
}
LONGEST_REQUEST = max(format.layout.size for format in _FORMATS.values())
"""Device-readable bytes that a request has at most; those behind them say nothing."""
TYPES: Mapping[type[Request], RequestType] = {format.make: type for type, format in _FORMATS.items()}
"""The type of each request."""


def request_type(readable: bytes) -> RequestType | None:
    """The type in the head; None for one that is not recognised, or where there is no whole head."""
    return _BY_NUMBER.get(readable[0]) if len(readable) >= HEAD_SIZE else None


def decode_request(readable: bytes) -> Request | None:
    """The request in the device-readable bytes; None for an unknown type, and where they are too few for theirs.

    Bytes behind the structure are ignored, as are the reserved ones of the head and of PROBE.
    """
    type = request_type(readable)
    if type is None:
        return None
    format = _FORMATS[type]
    if len(readable) < format.layout.size:
        return None
    return format.make(**dict(zip(format.fields, format.layout.unpack_from(readable), strict=True)))


def encode_request(request: Request) -> bytes:
    """The device-readable bytes of a request: the mirror image of `decode_request`.

    Raises:
        SpecError: a value does not fit its field.
    """
    type = TYPES[request.__class__]
    format = _FORMATS[type]
    try:
        body = format.layout.pack(*(getattr(request, name) for name in format.fields))
    except struct.error as error:
        raise SpecError(f"{request} does not fit struct virtio_iommu_req_{type.name.lower()}: {error}") from None
    return bytes([type]) + body[1:]


def encode_tail(status: Status) -> bytes:
    """The tail with that status."""
    return bytes([status]).ljust(TAIL_SIZE, b"\0")
