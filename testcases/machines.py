"""The machines of cases whose mark cannot say them."""

from __future__ import annotations

from harness.spec import Device, DmaMode, Iommu, IommuKind, Machine, Start

__all__ = ["spec"]


def spec(
    iommu: IommuKind,
    *devices: str,
    dma_mode: DmaMode = DmaMode.STRICT,
    native_hotplug: bool = False,
    interrupt_remapping: bool | None = None,
    kernel_args: tuple[str, ...] = (),
    boot_bypass: bool | None = None,
    start: Start | None = None,
) -> Machine:
    """A machine with that IOMMU, and devices as `viommu boot --device` takes them."""
    return Machine(
        iommu=Iommu(kind=iommu, interrupt_remapping=interrupt_remapping, boot_bypass=boot_bypass),
        devices=tuple(map(Device.parse, devices)),
        dma_mode=dma_mode,
        native_hotplug=native_hotplug,
        kernel_args=kernel_args,
        start=start,
    )
