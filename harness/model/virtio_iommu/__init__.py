"""virtio-iommu (Virtual I/O Device specification 1.3, section 5.13)."""

from harness.model.virtio_iommu.config import Features, RegionKind, ReservedRegion, VirtioIommuConfig
from harness.model.virtio_iommu.engine import VirtioIommuEngine
from harness.model.virtio_iommu.faults import FaultFlags, FaultReason, VirtioIommuFaultRecord
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
    "ReservedRegion",
    "Status",
    "Unmap",
    "VirtioIommuConfig",
    "VirtioIommuEngine",
    "VirtioIommuFaultRecord",
]
