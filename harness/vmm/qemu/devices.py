"""The devices of a spec as QEMU has them: front end, what sits on it, and back end.

`front_end` makes what `-device` and `device_add` take alike, so that a device that is plugged cannot differ from one
that was there at boot. All back ends are made at the start, also for what is plugged later.
"""

from __future__ import annotations

from harness.placement import Slot
from harness.spec import Device, DeviceKind, Interface
from harness.vmm.qemu.arguments import Properties, Value
from harness.vmm.qemu.wiring import Wiring, disk_node, netdev_name, port_channel

__all__ = ["PORT_NAME", "back_end", "front_end", "virtio_interface"]

PORT_NAME = "viommu.port"
"""Name of the port on a virtio-serial of a spec."""


def front_end(slot: Slot) -> tuple[Properties, ...]:
    """A device of the spec, and behind it what sits on a bus of its own."""
    id = slot.device.id
    where: dict[str, Value] = {"bus": slot.bus, "addr": hex(slot.number)}
    if slot.device.slot:
        where |= {"addr": f"{slot.number:#x}.{slot.function}", "multifunction": True}
    match slot.device.kind:
        case DeviceKind.VIRTIO_BLK:
            return (_virtio(slot.device, where | {"drive": disk_node(id)}),)
        case DeviceKind.VIRTIO_NET:
            # No option ROM: nothing boots from it, and firmware would spend time on running it.
            return (_virtio(slot.device, where | {"netdev": netdev_name(id), "romfile": ""}),)
        case DeviceKind.E1000E | DeviceKind.IGB:
            return (Properties(slot.device.kind.value, id, where | {"netdev": netdev_name(id), "romfile": ""}),)
        case DeviceKind.VIRTIO_SCSI:
            disk = Properties("scsi-hd", f"{id}.disk", {"bus": f"{id}.0", "drive": disk_node(id)})
            return _virtio(slot.device, where), disk
        case DeviceKind.VIRTIO_SERIAL:
            port: dict[str, Value] = {"bus": f"{id}.0", "nr": 1, "chardev": port_channel(id), "name": PORT_NAME}
            # Port 0 is for a console.
            return _virtio(slot.device, where | {"max_ports": 2}), Properties("virtserialport", f"{id}.port", port)
        case DeviceKind.VIRTIO_RNG:
            return (_virtio(slot.device, where | {"rng": _object(id)}),)
        case DeviceKind.VIRTIO_CRYPTO:
            return (_virtio(slot.device, where | {"cryptodev": _object(id)}),)
        case DeviceKind.VIRTIO_BALLOON | DeviceKind.VIRTIO_GPU | DeviceKind.VIRTIO_KEYBOARD:
            return (_virtio(slot.device, where),)
        case DeviceKind.EDU:
            # Its default mask of 28 bits would turn an address that it was never given into another one.
            return (Properties("edu", id, where | {"dma_mask": (1 << slot.device.dma_bits) - 1}),)


def back_end(device: Device, wiring: Wiring) -> list[tuple[str, ...]]:
    """Options that make what the front end refers to."""
    match device.kind:
        case DeviceKind.VIRTIO_BLK | DeviceKind.VIRTIO_SCSI:
            return wiring.disk(device.id)
        case DeviceKind.VIRTIO_NET | DeviceKind.E1000E | DeviceKind.IGB:
            return wiring.cable(device.id)
        case DeviceKind.VIRTIO_SERIAL:
            return wiring.port(device.id)
        case DeviceKind.VIRTIO_RNG:
            return [("-object", f"rng-builtin,id={_object(device.id)}")]
        case DeviceKind.VIRTIO_CRYPTO:
            return [("-object", f"cryptodev-backend-builtin,id={_object(device.id)}")]
        case DeviceKind.VIRTIO_BALLOON | DeviceKind.VIRTIO_GPU | DeviceKind.VIRTIO_KEYBOARD | DeviceKind.EDU:
            return []


def virtio_interface(interface: Interface, *, platform: bool) -> dict[str, Value]:
    """Properties of a virtio device that say which registers it has, and whether VIRTIO_F_ACCESS_PLATFORM is offered.

    That bit is `iommu_platform` (virtio 1.3, chapter 6); without it a virtio device avoids any IOMMU.
    """
    values: dict[str, Value] = {"iommu_platform": platform}
    match interface:
        case Interface.MODERN:
            return values | {"disable-legacy": "on"}
        case Interface.TRANSITIONAL:
            return values | {"disable-legacy": "off"}
        case Interface.LEGACY:
            return values | {"disable-legacy": "off", "disable-modern": True}


def _virtio(device: Device, values: dict[str, Value]) -> Properties:
    shown = virtio_interface(device.interface, platform=device.access_platform)
    return Properties(f"{device.kind}-pci", device.id, values | shown)


def _object(device_id: str) -> str:
    """Name of the object behind a device that does its work in QEMU itself."""
    return f"{device_id}-backend"
