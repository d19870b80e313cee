"""What is asked for: a machine, its IOMMU, and its devices, each with `iommu=on|off`.

A spec is data: frozen, checked when it is made, and the same after a trip through JSON or TOML.

>>> machine = Machine(iommu=Iommu(kind=IommuKind.INTEL), devices=(Device.parse("virtio-blk,iommu=on"),))
>>> machine.devices[0].id
'virtio-blk0'
>>> Machine.from_json(machine.to_json()) == machine
True

`iommu=on|off` has the sense that cloud-hypervisor gives it (docs/iommu.md there): *on* puts the device behind
the virtual IOMMU, *off*, the default, does not. What else there is to a device is in `harness.device`. Which bus it
then stands on is `harness.placement`'s to say, and which QEMU arguments make it so is `harness.vmm.qemu.devices`'s.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

import msgspec
import tomli_w

from harness import strict
from harness.device import Device, DeviceKind, Interface
from harness.errors import SpecError, Unsupported

__all__ = [
    "BASE_IMAGE",
    "Arch",
    "Device",
    "DeviceKind",
    "DmaMode",
    "Firmware",
    "Interface",
    "Iommu",
    "IommuKind",
    "Machine",
    "Ports",
    "Room",
    "Scalable",
    "Start",
]


BASE_IMAGE = "base"
"""Name of the guest image that a machine has where its spec names none."""


class Arch(StrEnum):
    """Guest architecture, under Debian's name for it."""

    AMD64 = "amd64"


class IommuKind(StrEnum):
    """The virtual IOMMUs that the harness knows."""

    NONE = "none"
    INTEL = "intel"
    AMD = "amd"
    VIRTIO = "virtio"


class DmaMode(StrEnum):
    """How the guest kernel is told to use its IOMMU for its own drivers.

    Source: Linux, Documentation/admin-guide/kernel-parameters.txt, `iommu=`, `iommu.strict=`, `intel_iommu=`,
    `amd_iommu=`.
    """

    STRICT = "strict"
    """Translated; an unmap is invalidated before it returns. Group type `DMA`."""
    LAZY = "lazy"
    """Translated; invalidations are batched in a flush queue. Group type `DMA-FQ` where the driver can."""
    PASSTHROUGH = "passthrough"
    """`iommu=pt`: devices of the kernel's own drivers are not translated. Group type `identity`."""
    OFF = "off"
    """The guest does not use its IOMMU at all: `intel_iommu=off`, `amd_iommu=off`; not with a virtio-iommu."""


class Scalable(StrEnum):
    """What a VT-d unit in scalable mode translates with (VT-d 3.4.3), and the guest kernel so too: it has one alone."""

    FIRST_STAGE = "first-stage"
    SECOND_STAGE = "second-stage"


class Firmware(StrEnum):
    """What runs first in a machine."""

    SEABIOS = "seabios"
    """The BIOS that QEMU brings along."""
    OVMF = "ovmf"
    """UEFI, of EDK II."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Iommu:
    """The virtual IOMMU of a machine.

    `None` in a field leaves the choice to the VMM build, or to `harness.placement` where that says so.

    Attributes:
        interrupt_remapping: `intremap` of VT-d and of AMD-Vi.
        caching_mode: VT-d CAP_REG.CM: not-present entries may be cached, so the guest must invalidate after a map.
        aw_bits: address width in bits: VT-d 39 or 48, virtio-iommu 32 to 64 (QEMU, hw/i386/intel_iommu.c and
            hw/virtio/virtio-iommu.c).
        extended_interrupts: `eim` of VT-d: destinations of 32 bits, with which a guest uses x2APIC (VT-d 5.1.4).
        scalable: VT-d in scalable mode, with that stage; in legacy mode when None.
        boot_bypass: virtio-iommu `boot-bypass`: whether unattached endpoints bypass it before the driver decides.
    """

    kind: IommuKind
    interrupt_remapping: bool | None = None
    caching_mode: bool | None = None
    aw_bits: int | None = None
    boot_bypass: bool | None = None
    extended_interrupts: bool | None = None
    scalable: Scalable | None = None

    def __post_init__(self) -> None:
        foreign = {
            IommuKind.NONE: tuple(field.name for field in fields(self) if field.name != "kind"),
            IommuKind.INTEL: ("boot_bypass",),
            IommuKind.AMD: ("caching_mode", "aw_bits", "boot_bypass", "extended_interrupts", "scalable"),
            IommuKind.VIRTIO: ("interrupt_remapping", "caching_mode", "extended_interrupts", "scalable"),
        }[self.kind]
        for name in foreign:
            if getattr(self, name) is not None:
                raise SpecError(
                    f"iommu {self.kind} was asked for with {name}={getattr(self, name)!r}, which it does not have",
                    hint=f"leave {name} out, or choose an IOMMU that has it",
                )
        widths = (39, 48) if self.kind is IommuKind.INTEL else range(32, 65)
        if self.aw_bits is not None and self.aw_bits not in widths:
            raise SpecError(
                f"iommu {self.kind} was asked for with aw_bits={self.aw_bits}",
                hint="choose 39 or 48" if self.kind is IommuKind.INTEL else "choose 32 to 64",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """How many PCIe root ports there are at least, whether a device is for them or not.

    Attributes:
        inside: on the root complex behind the IOMMU.
        outside: on the one that bypasses it.
    """

    inside: int = 0
    outside: int = 0

    def __post_init__(self) -> None:
        if self.inside < 0 or self.outside < 0:
            raise SpecError(f"ports: {self.inside} inside and {self.outside} outside", hint="ask for 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What can be plugged into a machine while it runs, beside devices.

    Attributes:
        cpus: processors.
        memory_mib: RAM in one module, MiB: a multiple of 128, of which Linux takes in memory (arch/x86/mm/init_64.c,
            `memory_block_size_bytes`).
    """

    cpus: int = 0
    memory_mib: int = 0

    def __post_init__(self) -> None:
        if self.cpus < 0 or self.memory_mib < 0 or self.memory_mib % 128:
            raise SpecError(
                f"room: {self.cpus} cpus and {self.memory_mib} MiB", hint="ask for 0 or more cpus, and whole 128 MiB"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A start by firmware alone: QEMU is given no kernel.

    Attributes:
        firmware: what runs first.
        disk: id of the disk that the kernel is on, with a boot loader, and that the firmware reads it from; None where
            it is to find nothing, and to stay what runs.
    """

    firmware: Firmware
    disk: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A whole virtual machine as it is asked for.

    Attributes:
        iommu: its virtual IOMMU.
        devices: what is attached, in order; the harness's own management NIC is not among them.
        dma_mode: how the guest kernel is told to use the IOMMU.
        arch: guest architecture.
        memory_mib: guest RAM, MiB.
        cpus: virtual processors.
        kernel_args: further words for the guest kernel's command line.
        ports: root ports for hot-plug beyond those of the devices.
        room: processors and memory that can be plugged.
        native_hotplug: whether hot-plug is PCI Express's own everywhere, and not ACPI's where QEMU has that.
        image: name of the guest image, one of the recipes in `guest_images/`.
        start: how it comes to its kernel; where nothing is said, SeaBIOS runs and QEMU hands it one (`-kernel`).
    """

    iommu: Iommu
    devices: tuple[Device, ...] = ()
    dma_mode: DmaMode = DmaMode.STRICT
    arch: Arch = Arch.AMD64
    memory_mib: int = 512
    cpus: int = 1
    kernel_args: tuple[str, ...] = field(default=())
    ports: Ports = Ports()
    room: Room = Room()
    native_hotplug: bool = False
    image: str = BASE_IMAGE
    start: Start | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", _named(self.devices))
        if self.start is not None and self.start.disk is not None:
            _check_boots(self.device(self.start.disk))
        for word in self.kernel_args:
            if not word or not word.isprintable():
                raise SpecError(f"kernel argument {word!r}", hint="leave out empty words and control characters")
        if self.memory_mib < 128:
            raise SpecError(f"memory_mib={self.memory_mib}: a guest needs 128 MiB or more")
        if self.cpus < 1:
            raise SpecError(f"cpus={self.cpus}: a guest needs one or more")
        if self.iommu.kind is IommuKind.VIRTIO and self.dma_mode is DmaMode.OFF:
            raise Unsupported(
                "dma_mode=off was asked for with a virtio-iommu: Linux has no option that leaves one unused",
                hint="use dma_mode=passthrough, or a machine without an IOMMU",
            )
        balloons = [device.id for device in self.devices if device.kind is DeviceKind.VIRTIO_BALLOON]
        if len(balloons) > 1:
            raise SpecError(f"{', '.join(balloons)}: QEMU takes one balloon a machine", hint="leave the others out")
        if self.iommu.kind is IommuKind.NONE:
            tagged = [device.id for device in self.devices if device.iommu]
            if tagged:
                raise SpecError(
                    f"{', '.join(tagged)}: iommu=on was asked for on a machine without an IOMMU",
                    hint="choose an IOMMU with --iommu, or tag the device iommu=off",
                )
            if self.ports.outside:
                raise SpecError("root ports outside the IOMMU were asked for on a machine without one")

    def device(self, id: str) -> Device:
        """The device of that id.

        Raises:
            SpecError: there is none; the message lists the ids.
        """
        for device in self.devices:
            if device.id == id:
                return device
        raise SpecError(f"the machine has no device {id!r}", hint=f"it has: {', '.join(d.id for d in self.devices)}")

    def to_json(self) -> str:
        """The spec as JSON, keys in the order of the fields."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote.

        Raises:
            SpecError: not JSON, or not a machine; the message names the field.
        """
        try:
            return strict.convert(msgspec.json.decode(text), cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SpecError(f"this is not a machine spec: {error}") from error

    def to_toml(self) -> str:
        """The spec as TOML, fields left to the VMM build omitted."""
        return tomli_w.dumps(_without_none(msgspec.to_builtins(self)))

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read what `to_toml` wrote.

        Raises:
            SpecError: not TOML, or not a machine; the message names the field.
        """
        try:
            return strict.convert(tomllib.loads(text), cls)
        except (msgspec.ValidationError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise SpecError(f"this is not a machine spec: {error}") from error


def _check_boots(disk: Device) -> None:
    """Refuse what no firmware finds a kernel on.

    Raises:
        SpecError: it is no disk, or not there when the firmware looks.
    """
    if not disk.kind.is_disk:
        kinds = ", ".join(kind for kind in DeviceKind if kind.is_disk)
        raise SpecError(f"{disk.id} cannot be started from: {disk.kind} is no disk", hint=f"name one of: {kinds}")
    if disk.hotplug:
        raise SpecError(f"{disk.id} cannot be started from: it is plugged later", hint="leave hotplug=on out")


_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")  # QEMU, util/id.c, allows '.' too, and any length
_TAKEN = (
    "virtio-iommu",
    "amd-iommu",
    "SMBus",
)  # functions of every machine, harness.model.topology; the VMM's own ids have a '.'


def _named(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """The devices, each with an id of its own."""
    numbers: Counter[DeviceKind] = Counter()
    named = []
    for device in devices:
        if not device.id:
            device = replace(device, id=f"{device.kind}{numbers[device.kind]}")
        elif not _ID.fullmatch(device.id):
            raise SpecError(
                f"device id {device.id!r}", hint="use up to 64 letters, digits, '-' and '_', a letter first"
            )
        elif device.id in _TAKEN:
            raise SpecError(f"device id {device.id!r} is that of a part of every machine", hint="choose another id")
        numbers[device.kind] += 1
        named.append(device)
    twice = [id for id, n in Counter(device.id for device in named).items() if n > 1]
    if twice:
        raise SpecError(f"device ids are used twice: {', '.join(twice)}", hint="give each device an id of its own")
    return tuple(named)


def _without_none(value: Any) -> Any:
    match value:
        case dict():
            return {k: _without_none(v) for k, v in value.items() if v is not None}
        case list() | tuple():
            return [_without_none(v) for v in value]
        case _:
            return value
