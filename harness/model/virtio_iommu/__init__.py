"""virtio-iommu (Virtual I/O Device specification 1.3, section 5.13)."""

from harness.model.virtio_iommu.config import Features, VirtioIommuConfig
from harness.model.virtio_iommu.engine import VirtioIommuEngine
from harness.model.virtio_iommu.faults import FaultFlags, FaultReason, VirtioIommuFaultRecord
from harness.model.virtio_iommu.probe import RegionKind, ReservedRegion, decode_properties, encode_properties
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
from harness.model.virtio_iommu.wire import RequestType, decode_request, encode_request

__all__ = [
    "Attach",
    "AttachFlags",
    "Detach",
    "FaultFlags",
    "FaultReason",
    "Features",
    "Map",
    "MapFlags",
    "Probe",
    "RegionKind",
    "Request",
    "RequestType",
    "ReservedRegion",
    "Status",
    "Unmap",
    "VirtioIommuConfig",
    "VirtioIommuEngine",
    "VirtioIommuFaultRecord",
    "decode_properties",
    "decode_request",
    "encode_properties",
    "encode_request",
]
