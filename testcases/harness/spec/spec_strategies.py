"""Specs for Hypothesis: any machine that may be asked for."""

from __future__ import annotations

from hypothesis import strategies as st

from harness.spec import (
    Device,
    DeviceKind,
    DmaMode,
    Firmware,
    Interface,
    Iommu,
    IommuKind,
    Machine,
    Ports,
    Room,
    Scalable,
    Start,
)

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
                extended_interrupts=draw(_maybe),
                scalable=draw(st.none() | st.sampled_from(Scalable)),
            )
        case IommuKind.AMD:
            return Iommu(kind=IommuKind.AMD, interrupt_remapping=draw(_maybe))
        case IommuKind.VIRTIO:
            bits = draw(st.none() | st.integers(32, 64))
            return Iommu(kind=IommuKind.VIRTIO, boot_bypass=draw(_maybe), aw_bits=bits)


@st.composite
def devices(draw: st.DrawFn, iommu: bool = True, pluggable: bool = False) -> Device:
    """A device of any kind and place, or any that a template has a port for; behind an IOMMU only if there is one."""
    kinds = [kind for kind in DeviceKind if kind.can_be_plugged or not pluggable]
    kind: DeviceKind = draw(st.sampled_from(kinds))
    interface = draw(st.sampled_from(Interface)) if kind.has_legacy else Interface.MODERN
    behind = iommu and draw(st.booleans())
    if interface is not Interface.MODERN:
        platform = False if behind else draw(st.sampled_from([None, False]))
    else:
        platform = draw(_maybe) if kind.is_virtio else None
    return Device(
        kind=kind,
        iommu=behind,
        hotplug=kind.can_be_plugged and draw(st.booleans()),
        interface=interface,
        platform=platform,
        expander=behind and not pluggable and draw(st.booleans()),
        id=draw(st.just("") | _names),
    )


def _one_balloon(device: Device) -> object:
    """Equal for two balloons, and for no other devices."""
    return DeviceKind.VIRTIO_BALLOON if device.kind is DeviceKind.VIRTIO_BALLOON else object()


@st.composite
def machines(draw: st.DrawFn, pluggable: bool = False) -> Machine:
    """A machine with up to 20 devices, which always have room, and up to 26 root ports.

    Args:
        draw: Hypothesis's.
        pluggable: whether all of its devices can be plugged.
    """
    iommu = draw(iommus())
    behind = iommu.kind is not IommuKind.NONE
    some = draw(
        st.lists(
            devices(iommu=behind, pluggable=pluggable),
            max_size=20,
            unique_by=(lambda device: device.id or object(), _one_balloon),
        )
    )
    legacy = [device for device in some if device.interface is Interface.LEGACY]
    some = legacy[:4] + [device for device in some if device not in legacy]  # outside, more find no I/O ports
    disks = [device.id for device in some if device.id and device.kind.is_disk and not device.hotplug]
    starts = st.builds(Start, firmware=st.sampled_from(Firmware), disk=st.sampled_from([None, *disks]))
    return Machine(
        iommu=iommu,
        devices=tuple(some),
        dma_mode=draw(st.sampled_from([mode for mode in DmaMode if (iommu.kind, mode) not in IMPOSSIBLE])),
        memory_mib=draw(st.integers(128, 4096)),
        cpus=draw(st.integers(1, 8)),
        kernel_args=tuple(draw(st.lists(st.sampled_from(["quiet", "a=b", 'dyndbg="file x +p"', "é"]), max_size=3))),
        native_hotplug=draw(st.booleans()),
        image=draw(st.sampled_from(["base", "dpdk"])),
        ports=Ports(inside=draw(st.integers(0, 6)), outside=draw(st.integers(0, 6)) if behind else 0),
        room=Room(cpus=draw(st.integers(0, 3)), memory_mib=128 * draw(st.integers(0, 8))),
        start=None if pluggable else draw(st.none() | starts),
    )
