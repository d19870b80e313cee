"""The truth table of a virtio device's DMA."""

from __future__ import annotations

from itertools import product

import pytest

from harness.model.virtio.dma_path import DmaPath, VirtioGuest, VirtioOffer, dma_path
from harness.spec import DmaMode, Interface


def _offer(interface: Interface = Interface.MODERN, *, platform: bool = True, behind: bool = True) -> VirtioOffer:
    return VirtioOffer(interface=interface, access_platform=platform, behind=behind)


_EVERY = tuple(
    (
        _offer(interface, platform=platform, behind=behind),
        VirtioGuest(dma_mode=mode, accepts=accepts, restricted=restricted),
    )
    for interface, platform, behind, mode, accepts, restricted in product(
        Interface, (False, True), (False, True), DmaMode, (False, True), (False, True)
    )
)


@pytest.mark.parametrize(
    ("mode", "path"),
    [
        (DmaMode.STRICT, DmaPath.TRANSLATED),
        (DmaMode.LAZY, DmaPath.TRANSLATED),
        (DmaMode.PASSTHROUGH, DmaPath.IDENTITY),
        (DmaMode.OFF, DmaPath.BYPASSES),
    ],
)
def test_behind_the_iommu_with_the_bit_the_guest_decides(mode: DmaMode, path: DmaPath) -> None:
    assert dma_path(_offer(), VirtioGuest(dma_mode=mode)) is path


@pytest.mark.parametrize("mode", DmaMode)
@pytest.mark.parametrize(("platform", "behind"), [(False, True), (False, False), (True, False)])
def test_without_the_bit_or_without_an_iommu_it_bypasses_whatever_the_guest_does(
    mode: DmaMode, platform: bool, behind: bool
) -> None:
    assert dma_path(_offer(platform=platform, behind=behind), VirtioGuest(dma_mode=mode)) is DmaPath.BYPASSES


@pytest.mark.parametrize("interface", [Interface.TRANSITIONAL, Interface.LEGACY])
def test_a_legacy_interface_bypasses_and_is_never_made_with_the_bit(interface: Interface) -> None:
    assert dma_path(_offer(interface, platform=False), VirtioGuest()) is DmaPath.BYPASSES
    assert dma_path(_offer(interface, platform=True), VirtioGuest()) is DmaPath.REFUSED_BY_VMM


def test_a_driver_that_declines_the_bit_is_declined_by_the_device() -> None:
    assert dma_path(_offer(), VirtioGuest(accepts=False)) is DmaPath.REFUSED_BY_DEVICE
    assert dma_path(_offer(platform=False), VirtioGuest(accepts=False)) is DmaPath.BYPASSES


def test_a_guest_that_keeps_its_memory_from_the_host_takes_no_device_that_would_bypass() -> None:
    restricted = VirtioGuest(restricted=True)
    assert dma_path(_offer(platform=False), restricted) is DmaPath.REFUSED_BY_DRIVER
    assert dma_path(_offer(Interface.LEGACY, platform=False), restricted) is DmaPath.REFUSED_BY_DRIVER
    assert dma_path(_offer(), restricted) is DmaPath.TRANSLATED


@pytest.mark.parametrize(("offer", "guest"), _EVERY, ids=str)
def test_nothing_is_translated_that_has_not_offered_the_bit_behind_an_iommu(
    offer: VirtioOffer, guest: VirtioGuest
) -> None:
    path = dma_path(offer, guest)
    if path in (DmaPath.TRANSLATED, DmaPath.IDENTITY):
        assert offer.access_platform
        assert offer.behind
        assert offer.interface is Interface.MODERN
    assert path.works == (path not in (DmaPath.REFUSED_BY_VMM, DmaPath.REFUSED_BY_DEVICE, DmaPath.REFUSED_BY_DRIVER))
