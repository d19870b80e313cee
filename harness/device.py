"""One device as it is asked for: what it is, where it stands and, of a virtio device, what it shows of itself.

>>> device = Device.parse("virtio-blk,iommu=on")
>>> device.access_platform, device.interface
(True, <Interface.MODERN: 'modern'>)

What becomes of a virtio device's DMA is `harness.model.virtio.dma_path`'s to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from harness.errors import SpecError, Unsupported

__all__ = ["Device", "DeviceKind", "Interface"]


class DeviceKind(StrEnum):
    """The devices that the harness can attach, by QEMU's name without `-pci`."""

    VIRTIO_BLK = "virtio-blk"
    VIRTIO_NET = "virtio-net"
    VIRTIO_SCSI = "virtio-scsi"
    """A SCSI host with one disk on it."""
    VIRTIO_RNG = "virtio-rng"
    VIRTIO_SERIAL = "virtio-serial"
    """A console device with one generic port, which leads to the harness."""
    VIRTIO_BALLOON = "virtio-balloon"
    VIRTIO_GPU = "virtio-gpu"
    VIRTIO_KEYBOARD = "virtio-keyboard"
    VIRTIO_CRYPTO = "virtio-crypto"
    E1000E = "e1000e"
    """Intel 82574L."""
    IGB = "igb"
    """Intel 82576."""
    EDU = "edu"

    @property
    def is_virtio(self) -> bool:
        """Whether VIRTIO_F_ACCESS_PLATFORM decides if its DMA goes through the platform's IOMMU."""
        return self not in (DeviceKind.E1000E, DeviceKind.IGB, DeviceKind.EDU)

    @property
    def is_nic(self) -> bool:
        """Whether it has a cable, whose other end is the harness's."""
        return self in (DeviceKind.VIRTIO_NET, DeviceKind.E1000E, DeviceKind.IGB)

    @property
    def needs_port(self) -> bool:
        """Whether it has a bus to itself: its virtual functions take 16 devices further on (QEMU, hw/net/igb.c)."""
        return self is DeviceKind.IGB

    @property
    def has_legacy(self) -> bool:
        """Whether it was there before virtio 1.0: whether it has a transitional PCI id (virtio 1.3, 4.1.2.1)."""
        return self in (
            DeviceKind.VIRTIO_BLK,
            DeviceKind.VIRTIO_NET,
            DeviceKind.VIRTIO_SCSI,
            DeviceKind.VIRTIO_RNG,
            DeviceKind.VIRTIO_SERIAL,
            DeviceKind.VIRTIO_BALLOON,
        )

    @property
    def is_disk(self) -> bool:
        """Whether there is a disk behind it."""
        return self in (DeviceKind.VIRTIO_BLK, DeviceKind.VIRTIO_SCSI)

    @property
    def can_be_plugged(self) -> bool:
        """Whether a machine that runs takes it (QEMU, hw/display/virtio-gpu-pci.c: `hotpluggable`)."""
        return self is not DeviceKind.VIRTIO_GPU


class Interface(StrEnum):
    """Which of its two register layouts a virtio device on PCI has (virtio 1.3, 4.1)."""

    MODERN = "modern"
    """That of virtio 1.0 alone."""
    TRANSITIONAL = "transitional"
    """Both, under the PCI id of a legacy device."""
    LEGACY = "legacy"
    """That from before virtio 1.0 alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of a machine.

    Attributes:
        kind: what it is.
        iommu: whether it stands behind the virtual IOMMU.
        hotplug: absent at boot, plugged by QMP into the running guest.
        interface: of a virtio device.
        platform: whether a virtio device offers VIRTIO_F_ACCESS_PLATFORM; where it stands decides when None.
        bridge: name of the conventional bridge that it stands behind, with all that name the same; none when empty.
            Where it is hot-plugged it brings the bridge with it, and nobody else can stand there.
        expander: whether it stands behind a second root complex, behind the IOMMU as the first one is.
        dma_bits: width of the addresses that an edu puts on the bus.
        slot: name of the slot that it is one function of, with all that name the same; one of its own when empty.
        id: its name in QMP and in reports; when empty, the machine gives it one (`edu0`, `virtio-blk1`...).
    """

    kind: DeviceKind
    iommu: bool = False
    hotplug: bool = False
    interface: Interface = Interface.MODERN
    platform: bool | None = None
    bridge: str = ""
    slot: str = ""
    expander: bool = False
    dma_bits: int = 64
    id: str = ""

    def __post_init__(self) -> None:
        name = self.id or self.kind
        if not self.kind.is_virtio and (self.interface is not Interface.MODERN or self.platform is not None):
            raise SpecError(f"{name}: {self.kind} is no virtio device", hint="leave virtio= and platform= out")
        if self.interface is not Interface.MODERN and not self.kind.has_legacy:
            raise SpecError(
                f"{name}: virtio={self.interface} was asked for, and {self.kind} came with virtio 1.0: it has no "
                "legacy interface (virtio 1.3, section 4.1.2.1)",
                hint="use virtio=modern",
            )
        if self.interface is not Interface.MODERN and self.access_platform:
            asked = "iommu=on" if self.platform is None else "platform=on"
            raise SpecError(
                f"{name}: {asked} was asked for with virtio={self.interface}: QEMU refuses VIRTIO_F_ACCESS_PLATFORM of "
                "a device with a legacy interface, whose drivers know of no such bit",
                hint="use virtio=modern; or platform=off, for a device behind the IOMMU that goes around it",
            )
        if self.bridge or self.slot:
            self._check_shared(name)
        if self.expander and (not self.iommu or self.bridge or self.slot):
            raise SpecError(
                f"{name}: expander=on is for a device behind the IOMMU with a port of its own",
                hint="use iommu=on, and leave bridge= and slot= out; a device with iommu=off has a root complex anyhow",
            )
        if self.kind.needs_port and (self.bridge or self.slot):
            raise SpecError(f"{name}: {self.kind} has a bus to itself", hint="leave bridge= and slot= out")
        if self.dma_bits not in range(20, 65) or (self.dma_bits != 64 and self.kind is not DeviceKind.EDU):
            raise SpecError(
                f"{name}: dma-bits={self.dma_bits}",
                hint="an edu has addresses of 20 to 64 bits; leave it out of others",
            )
        if self.hotplug and not self.kind.can_be_plugged:
            raise SpecError(f"{name}: QEMU does not plug a {self.kind} into a running machine", hint="use hotplug=off")

    def _check_shared(self, name: str) -> None:
        if not self.iommu or (self.hotplug and self.slot) or (self.bridge and self.slot):
            raise SpecError(
                f"{name}: a bridge is for devices behind the IOMMU, and a slot for such that are there from the start",
                hint="use iommu=on with either bridge= or slot=, and hotplug=off with slot=",
            )
        if not _SHARED.fullmatch(self.bridge or self.slot):
            raise SpecError(f"{name}: {self.bridge or self.slot!r} is no name", hint="use up to 32 letters and digits")

    @property
    def access_platform(self) -> bool:
        """Whether it offers VIRTIO_F_ACCESS_PLATFORM."""
        return self.kind.is_virtio and (self.iommu if self.platform is None else self.platform)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `KIND[,KEY=VALUE]...`; keys are the other fields, with `virtio` for the interface.

        Raises:
            SpecError: an unknown kind, key or value; the message lists those that there are.
            Unsupported: a kind that the harness cannot attach; the message says what it would take.
        """
        name, *options = text.split(",")
        if name in _VSOCK:
            raise Unsupported(
                f"device {name!r}: QEMU has a vsock only with its queues in the host's kernel (/dev/vhost-vsock) or in "
                "another process, and the harness drives neither",
                hint="leave it out",
            )
        try:
            kind = DeviceKind(name)
        except ValueError:
            known = ", ".join(DeviceKind)
            raise SpecError(f"device {name!r} is not known", hint=f"choose one of: {known}") from None
        iommu, hotplug, expander, interface, platform = False, False, False, Interface.MODERN, None
        names, dma_bits = {"bridge": "", "slot": "", "id": ""}, 64
        for option in options:
            key, _, value = option.partition("=")
            match key:
                case "iommu":
                    iommu = _on_off(text, key, value)
                case "hotplug":
                    hotplug = _on_off(text, key, value)
                case "expander":
                    expander = _on_off(text, key, value)
                case "virtio":
                    interface = _interface(text, value)
                case "platform":
                    platform = _on_off(text, key, value)
                case "bridge" | "slot" | "id" if value:
                    names[key] = value
                case "dma-bits" if value.isdecimal():
                    dma_bits = int(value)
                case _:
                    raise SpecError(
                        f"device {text!r}: option {option!r} is not known",
                        hint="write iommu=on|off, hotplug=on|off, platform=on|off, bridge=NAME, slot=NAME, "
                        "expander=on|off, dma-bits=NUMBER, id=NAME, or virtio=modern|transitional|legacy",
                    )
        return cls(
            kind=kind,
            iommu=iommu,
            hotplug=hotplug,
            interface=interface,
            platform=platform,
            expander=expander,
            dma_bits=dma_bits,
            **names,
        )

    def __str__(self) -> str:
        words = [self.kind.value, f"iommu={_word(self.iommu)}"]
        if self.hotplug:
            words.append("hotplug=on")
        if self.interface is not Interface.MODERN:
            words.append(f"virtio={self.interface}")
        if self.platform is not None:
            words.append(f"platform={_word(self.platform)}")
        if self.expander:
            words.append("expander=on")
        if self.dma_bits != 64:
            words.append(f"dma-bits={self.dma_bits}")
        names = {"bridge": self.bridge, "slot": self.slot, "id": self.id}
        words += [f"{key}={name}" for key, name in names.items() if name]
        return ",".join(words)


_SHARED = re.compile(r"[A-Za-z0-9]{1,32}")
_VSOCK = ("virtio-vsock", "vhost-vsock")


def _word(value: bool) -> str:
    return "on" if value else "off"


def _on_off(text: str, key: str, value: str) -> bool:
    if value not in ("on", "off"):
        raise SpecError(f"device {text!r}: {key}={value!r}", hint=f"write {key}=on or {key}=off")
    return value == "on"


def _interface(text: str, value: str) -> Interface:
    try:
        return Interface(value)
    except ValueError:
        known = ", ".join(Interface)
        raise SpecError(f"device {text!r}: virtio={value!r}", hint=f"choose one of: {known}") from None
