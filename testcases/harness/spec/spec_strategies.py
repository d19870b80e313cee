"""Specs for Hypothesis: any machine that may be asked for."""

from __future__ import annotations

from hypothesis import strategies as st

from harness.spec import Device, DeviceKind, DmaMode, Iommu, IommuKind, Machine, Ports

IMPOSSIBLE = ((IommuKind.VIRTIO, DmaMode.OFF),)
_maybe = st.none() | st.booleans()
_names = st.from_regex(r"x[A-Za-z0-9_-]{0,10}", fullmatch=True)


@st.composite
def iommus(draw: st.DrawFn) -> Iommu:
    """An IOMMU of any kind, with any properties that it has."""
    kind: IommuKind = draw(st.sampled_from(IommuKind))
    match kind:
        case IommuKind.NONE:
            return Iommu(kind=IommuKind.NONE)
        case IommuKind.INTEL:
            return Iommu(
                kind=IommuKind.INTEL,
                interrupt_remapping=draw(_maybe),
                caching_mode=draw(_maybe),
                aw_bits=draw(st.sampled_from([None, 39, 48])),
            )
        case IommuKind.AMD:
            return Iommu(kind=IommuKind.AMD, interrupt_remapping=draw(_maybe))
        case IommuKind.VIRTIO:
            bits = draw(st.none() | st.integers(32, 64))
            return Iommu(kind=IommuKind.VIRTIO, boot_bypass=draw(_maybe), aw_bits=bits)


@st.composite
def devices(draw: st.DrawFn, iommu: bool = True) -> Device:
    """A device of any kind; behind an IOMMU only where there is one."""
    return Device(
        kind=draw(st.sampled_from(DeviceKind)),
        iommu=iommu and draw(st.booleans()),
        hotplug=draw(st.booleans()),
        id=draw(st.just("") | _names),
    )


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """A machine with up to 20 devices, which always have room, and up to 26 root ports."""
    iommu = draw(iommus())
    behind = iommu.kind is not IommuKind.NONE
    some = draw(st.lists(devices(iommu=behind), max_size=20, unique_by=lambda device: device.id or object()))
    return Machine(
        iommu=iommu,
        devices=tuple(some),
        dma_mode=draw(st.sampled_from([mode for mode in DmaMode if (iommu.kind, mode) not in IMPOSSIBLE])),
        memory_mib=draw(st.integers(128, 4096)),
        cpus=draw(st.integers(1, 8)),
        kernel_args=tuple(draw(st.lists(st.sampled_from(["quiet", "a=b", 'dyndbg="file x +p"', "é"]), max_size=3))),
        native_hotplug=draw(st.booleans()),
        ports=Ports(inside=draw(st.integers(0, 6)), outside=draw(st.integers(0, 6)) if behind else 0),
    )
