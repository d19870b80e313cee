"""What programs for a virtio-iommu can cover: faults, requests and their status, features that a build offers."""

from __future__ import annotations

from harness.model.access import BypassReason
from harness.model.virtio.negotiation import DeviceStatus, TransportFeatures
from harness.model.virtio.pci_registers import PciIdentity
from harness.model.virtio_iommu.config import Features
from harness.model.virtio_iommu.faults import FaultReason

__all__ = ["UNREACHABLE", "universe"]

UNREACHABLE = {
    ("fault", FaultReason.UNKNOWN.name): "every device here is an endpoint of the IOMMU, and none has a PASID",
}
"""What no program reaches, with the reason."""

_NEGOTIATED = (
    TransportFeatures.INDIRECT_DESC
    | TransportFeatures.EVENT_IDX
    | TransportFeatures.VERSION_1
    | TransportFeatures.ACCESS_PLATFORM
    | TransportFeatures.ORDER_PLATFORM
    | TransportFeatures.RING_RESET
)
_STATUSES = {
    "ATTACH": ("OK", "INVAL", "NOENT"),
    "DETACH": ("OK", "INVAL", "NOENT"),
    "MAP": ("OK", "INVAL", "NOENT", "RANGE", "FAULT"),
    "UNMAP": ("OK", "INVAL", "NOENT", "RANGE"),
    "PROBE": ("OK", "INVAL", "NOENT"),
}
_WRITTEN = ("device_feature_select", "driver_feature_select", "driver_feature", "queue_select", "queue_size")
_RINGS = ("queue_desc", "queue_driver", "queue_device", "queue_enable")


def universe(identity: PciIdentity) -> frozenset[tuple[str, str]]:
    """Kinds and names, as a `Coverage` has them."""
    found = {("fault", reason.name) for reason in FaultReason}
    found |= {("bypass", why.name) for why in (BypassReason.UNATTACHED, BypassReason.BYPASS_DOMAIN)}
    found.add(("interrupt", "as it is"))
    found |= {("command", f"{type} status {status}") for type, all in _STATUSES.items() for status in all}
    found |= {("command", f"{type} cut off") for type in _STATUSES}
    found |= {("command", name) for name in ("ATTACH bypass", "MAP read", "MAP write", "MAP read write")}
    found |= {("command", name) for name in ("request of no type", "request without a head")}
    found |= {("register", name) for name in (*_WRITTEN, *_RINGS, "device_status.reset")}
    found |= {("register", f"device_status.{bit.name}") for bit in _DRIVER_BITS}
    found |= {("register", f"Queue Notify {number}") for number in range(len(identity.queues))}
    offered = identity.features
    found |= {("register", f"driver_feature.{bit.name}") for bit in TransportFeatures(offered & int(_NEGOTIATED))}
    found |= {("register", f"driver_feature.{bit.name}") for bit in Features if bit & offered}
    if offered & TransportFeatures.RING_RESET:
        found.add(("register", "queue_reset"))
    if offered & Features.BYPASS_CONFIG:
        found |= {("register", f"bypass {value}") for value in (0, 1)}
    found |= {("format", name) for name in ("several readable elements", "several writable elements")}
    if offered & TransportFeatures.INDIRECT_DESC:
        found.add(("format", "indirect table"))
    found.add(("format", "malformed chain"))
    return frozenset(found)


_DRIVER_BITS = (DeviceStatus.ACKNOWLEDGE, DeviceStatus.DRIVER, DeviceStatus.FEATURES_OK, DeviceStatus.DRIVER_OK)
