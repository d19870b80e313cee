"""What becomes of a virtio device's DMA: the truth table of interface, VIRTIO_F_ACCESS_PLATFORM, place, and guest.

VIRTIO_F_ACCESS_PLATFORM (bit 33; virtio 1.3, 6.1) says that the device's accesses are translated and limited as the
platform has it. A device that does not offer it accesses memory by guest physical addresses, whatever stands before
it; a driver that accepts it gives the device addresses that the guest's DMA API has made.

>>> dma_path(VirtioOffer(interface=Interface.MODERN, access_platform=True, behind=True), VirtioGuest())
<DmaPath.TRANSLATED: 'translated'>
>>> dma_path(VirtioOffer(interface=Interface.LEGACY, access_platform=False, behind=True), VirtioGuest())
<DmaPath.BYPASSES: 'bypasses'>
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from harness.spec import DmaMode, Interface

__all__ = ["DmaPath", "VirtioGuest", "VirtioOffer", "dma_path"]


class DmaPath(StrEnum):
    """What becomes of the DMA of a virtio device."""

    TRANSLATED = "translated"
    """The IOMMU translates it, by what the driver has mapped."""
    BYPASSES = "bypasses"
    """It goes around the IOMMU, or there is none: nobody limits it, and the guest has no say."""
    IDENTITY = "identity"
    """It goes through the IOMMU, which the guest has told to let it pass."""
    REFUSED_BY_VMM = "refused-by-vmm"
    """There is no such device."""
    REFUSED_BY_DEVICE = "refused-by-device"
    """The driver declines the bit, and the device its features: it is not used."""
    REFUSED_BY_DRIVER = "refused-by-driver"
    """The guest declines a device that would reach memory on its own."""

    @property
    def works(self) -> bool:
        """Whether the guest has the use of the device."""
        return self in (DmaPath.TRANSLATED, DmaPath.BYPASSES, DmaPath.IDENTITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioOffer:
    """A virtio device as it is put before the guest.

    Attributes:
        interface: its register layouts.
        access_platform: whether it is to offer VIRTIO_F_ACCESS_PLATFORM.
        behind: whether an IOMMU stands between it and memory.
    """

    interface: Interface
    access_platform: bool
    behind: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioGuest:
    """What of a Linux guest has a part in it.

    Attributes:
        dma_mode: how it uses its IOMMU.
        accepts: whether the device's driver accepts VIRTIO_F_ACCESS_PLATFORM. All do but the balloon's, whose pages are
            guest physical ones by their meaning (drivers/virtio/virtio_balloon.c, virtballoon_validate).
        restricted: whether it keeps its memory from the host, as a confidential guest does: it then insists on the bit,
            and on VIRTIO_F_VERSION_1 (drivers/virtio/virtio.c, virtio_features_ok). No machine of the
            harness has such a guest: that entry is for whoever asks the model alone.
    """

    dma_mode: DmaMode = DmaMode.STRICT
    accepts: bool = True
    restricted: bool = False


def dma_path(offer: VirtioOffer, guest: VirtioGuest) -> DmaPath:
    """The entry of the truth table.

    Args:
        offer: the device.
        guest: who is to use it.
    """
    if offer.access_platform and offer.interface is not Interface.MODERN:
        # A legacy driver sees bits 0 to 31 alone (virtio 1.3, 2.2.3), and would use the device as if it bypassed. QEMU:
        # hw/virtio/virtio-pci.c, virtio_pci_device_plugged.
        return DmaPath.REFUSED_BY_VMM
    if guest.restricted and not (offer.access_platform and guest.accepts):
        return DmaPath.REFUSED_BY_DRIVER
    if offer.access_platform and not guest.accepts:
        # 6.2: a device may refuse a driver that does not accept it. QEMU: hw/virtio/virtio.c, virtio_validate_features.
        return DmaPath.REFUSED_BY_DEVICE
    if not offer.access_platform or not offer.behind:
        # drivers/virtio/virtio_ring.c, vring_use_dma_api: without the bit the driver gives guest physical addresses.
        return DmaPath.BYPASSES
    match guest.dma_mode:
        case DmaMode.STRICT | DmaMode.LAZY:
            return DmaPath.TRANSLATED
        case DmaMode.PASSTHROUGH:
            return DmaPath.IDENTITY
        case DmaMode.OFF:
            return DmaPath.BYPASSES
