"""The machines of cases whose mark cannot say them."""

from __future__ import annotations

from harness.spec import Device, DmaMode, Iommu, IommuKind, Machine, Start

__all__ = ["spec"]


def spec(
    iommu: IommuKind | Iommu,
    *devices: str,
    dma_mode: DmaMode = DmaMode.STRICT,
    native_hotplug: bool = False,
    kernel_args: tuple[str, ...] = (),
    start: Start | None = None,
) -> Machine:
    """A machine with that IOMMU, and devices as `viommu boot --device` takes them."""
    return Machine(
        iommu=iommu if isinstance(iommu, Iommu) else Iommu(kind=iommu),
        devices=tuple(map(Device.parse, devices)),
        dma_mode=dma_mode,
        native_hotplug=native_hotplug,
        kernel_args=kernel_args,
        start=start,
    )
