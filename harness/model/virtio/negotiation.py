"""Device status and the feature bits that every type of device has (virtio 1.3, 2.1 and chapter 6)."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["DeviceStatus", "TransportFeatures"]


class DeviceStatus(IntFlag):
    """Bits of the device status field (2.1)."""

    ACKNOWLEDGE = 1 << 0
    DRIVER = 1 << 1
    DRIVER_OK = 1 << 2
    FEATURES_OK = 1 << 3
    DEVICE_NEEDS_RESET = 1 << 6
    FAILED = 1 << 7


class TransportFeatures(IntFlag):
    """VIRTIO_F_*, as bits of the 64-bit feature word (chapter 6)."""

    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35
    ORDER_PLATFORM = 1 << 36
    SR_IOV = 1 << 37
    NOTIFICATION_DATA = 1 << 38
    NOTIF_CONFIG_DATA = 1 << 39
    RING_RESET = 1 << 40
    ADMIN_VQ = 1 << 41
