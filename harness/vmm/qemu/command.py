"""From a spec to a QEMU command line: the one place that knows which QEMU arguments make a device stand where it must.

What one device of the spec is made of is in `harness.vmm.qemu.devices`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from harness.placement import AGENT_NUMBER, EXPANDER_BUS, OUTSIDE_BUS, Bridge, Placement, Port, Root, place
from harness.spec import Interface, Iommu, IommuKind, Machine, Scalable
from harness.vmm.protocol import Boot, FirmwareBoot, Flash, LinuxBoot, MovedMachine, SavedMachine
from harness.vmm.qemu.arguments import Arguments, Properties, Value
from harness.vmm.qemu.devices import back_end, front_end, virtio_interface
from harness.vmm.qemu.migration import INCOMING
from harness.vmm.qemu.wiring import AGENT_CHANNEL, Wiring, netdev_name

__all__ = [
    "ACPI_HOTPLUG",
    "AGENT_PORT",
    "FIRST_STAGE",
    "IOMMU",
    "IOMMU_FUNCTION",
    "MANAGEMENT",
    "SCALABLE_MODE",
    "Accelerator",
    "Options",
    "bridge_front",
    "command_line",
    "front_ends",
    "machine_arguments",
]

MANAGEMENT = "management.0"
"""Id of the harness's own NIC, the one that SSH goes through."""

IOMMU = "iommu.0"
"""Id of the IOMMU."""

IOMMU_FUNCTION = "iommu-function.0"
"""Id of an amd-iommu's PCI function, which is a device of its own."""

AGENT_PORT = "viommu.agent"
"""Name by which the guest's init finds the port of the agent."""

SCALABLE_MODE, FIRST_STAGE = ("scalable-mode", "x-scalable-mode"), ("fsts", "x-flts")
"""Properties of intel-iommu by every name that they have had, the newest first."""

ACPI_HOTPLUG = ("ICH9-LPC", "acpi-pci-hotplug-with-bridge-support")
"""The device of q35, and its property, that give the guest ACPI's hot-plug below root ports."""

# QEMU, docs/system/security.rst; `qemu-system-x86_64 -help`, -sandbox
_SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")

# Without graphics SeaBIOS and what it starts write to the serial port too (QEMU, hw/nvram/fw_cfg.c: etc/sercon-port),
# as OVMF always does.
_FIRMWARE_ON_CONSOLE = ("-machine", "graphics=off")

_AGENT = "agent.0"
_PORT_IO_BYTES = 4096  # the least that a bridge forwards


class Accelerator(StrEnum):
    """What executes the guest's instructions."""

    TCG = "tcg"
    KVM = "kvm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a machine is run, beyond what it is.

    Attributes:
        accelerator: as `harness.vmm.qemu.accelerator` found it.
        sandbox: keep QEMU from system calls that it has no use for: to start programs, to get more rights.
        machine: machine type, with its version where that must not be the build's own ("pc-q35-7.2").
        trace: patterns of QEMU trace events that are on from the start (`vtd_*`).
        paused: do not run the guest before QMP `cont`.
        reboots: whether a guest that resets the machine boots again; else QEMU ends then, and the guest counts as
            crashed.
        parent: where the run directory is made; the temporary directory when None.
        start_deadline: seconds from starting the process to an answer on QMP.
        extra: further arguments, each option with its value, at the end of the command line.
        names: what this build calls properties that others call otherwise: `Capabilities.names`.
        alter: changes each device of the command line, or leaves it out (None): for machines that are broken on
            purpose. What is plugged later is left alone.
    """

    accelerator: Accelerator = Accelerator.TCG
    sandbox: bool = False
    machine: str = "q35"
    trace: tuple[str, ...] = ()
    paused: bool = False
    reboots: bool = False
    parent: Path | None = None
    start_deadline: float = 20.0
    extra: tuple[tuple[str, ...], ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    alter: Callable[[Properties], Properties | None] = lambda front: front


def command_line(
    machine: Machine, boot: Boot, wiring: Wiring, options: Options, trace_log: Path | None = None
) -> Arguments:
    """The whole command line, without the program.

    Args:
        machine: what is asked for.
        boot: what runs in it; an overlay has been joined to its initrd already.
        wiring: what its back ends are.
        options: how it is run.
        trace_log: where trace events and messages about the guest's errors go; to stderr when None.

    Raises:
        SpecError: the placement is impossible.
    """
    placement = place(machine)
    pairs: list[tuple[str, ...]] = [
        ("-nodefaults",),
        ("-no-user-config",),
        ("-display", "none"),
        *machine_arguments(options.accelerator, options.machine),
        ("-smp", _processors(machine)),
        ("-m", _memory(machine)),
    ]
    if not options.reboots:
        pairs.append(("-no-reboot",))
    if machine.native_hotplug:
        driver, name = ACPI_HOTPLUG
        pairs.append(("-global", f"{driver}.{name}=off"))
    pairs += _boot(boot, machine.memory_mib)
    if isinstance(boot, LinuxBoot | FirmwareBoot) and isinstance(boot.firmware, Flash):
        pairs += wiring.flash(boot.firmware)
    if machine.start is not None:
        pairs.append(_FIRMWARE_ON_CONSOLE)
    pairs += wiring.channels()
    pairs += wiring.management(netdev_name(MANAGEMENT))
    for slot in placement.slots:
        pairs += back_end(slot.device, wiring)
    plugged = boot.plugged if isinstance(boot, MovedMachine) else ()
    fronts = (front.renamed(options.names) for front in front_ends(machine, placement, plugged))
    altered = map(options.alter, fronts)
    pairs += [("-device", front.text()) for front in altered if front is not None]
    if options.sandbox:
        pairs.append(_SANDBOX)
    if options.paused:
        pairs.append(("-S",))
    # Timestamps are what makes the lines of a log comparable with the harness's own.
    pairs.append(("-msg", "timestamp=on"))
    if trace_log is not None:
        pairs.append(("-D", str(trace_log)))
    pairs += [("-trace", f"enable={pattern}") for pattern in options.trace]
    pairs += options.extra
    return Arguments(tuple(pairs))


def machine_arguments(accelerator: Accelerator, machine: str = "q35") -> tuple[tuple[str, ...], ...]:
    """Machine type, accelerator and processor."""
    match accelerator:
        case Accelerator.KVM:
            # Interrupt remapping needs the I/O APIC in userspace, where KVM's is in the kernel if it is not asked.
            return ("-machine", f"{machine},kernel-irqchip=split"), ("-accel", "kvm"), ("-cpu", "host")
        case Accelerator.TCG:
            # QEMU 5.2's TCG tells guests that it has BMI2 and raises #UD on SHLX, with which Linux 6.12 unpacks itself.
            return ("-machine", machine), ("-accel", "tcg"), ("-cpu", "max,bmi2=off")


def _processors(machine: Machine) -> str:
    if not machine.room.cpus:
        return str(machine.cpus)
    # Each in a socket of its own: Linux that knows of no hypervisor, and TCG's it does not, takes no processor into a
    # package that is there at boot (arch/x86/kernel/cpu/topology.c).
    total = machine.cpus + machine.room.cpus
    return f"{machine.cpus},maxcpus={total},sockets={total},cores=1,threads=1"


def _memory(machine: Machine) -> str:
    room = machine.room.memory_mib
    return f"{machine.memory_mib}M" + (f",slots=1,maxmem={machine.memory_mib + room}M" if room else "")


def front_ends(machine: Machine, placement: Placement, plugged: Collection[str] = ()) -> tuple[Properties, ...]:
    """All devices of the command line, in its order: the IOMMU first, so that those after it are put behind it.

    Args:
        machine: the spec.
        placement: of its devices.
        plugged: ids of devices to be hot-plugged that are there from the start all the same.
    """
    fronts = _iommu(machine.iommu, placement)
    if placement.outside_number is not None:
        outside: dict[str, Value] = {"bus_nr": OUTSIDE_BUS, "bypass_iommu": True}
        fronts.append(_root_complex(Root.OUTSIDE, placement.outside_number, outside))
    if placement.expander_number is not None:
        fronts.append(_root_complex(Root.EXPANDER, placement.expander_number, {"bus_nr": EXPANDER_BUS}))
    fronts += [_port(port) for port in placement.ports]
    for bridge in placement.bridges:
        brought = {slot.device.id for slot in placement.slots if slot.bridge == bridge}
        if bridge.port is None or brought.intersection(plugged):
            fronts.append(bridge_front(bridge))
    fronts += [_management(placement.management_number), *_agent()]
    for slot in placement.slots:
        if not slot.device.hotplug or slot.device.id in plugged:
            parts = front_end(slot)
            fronts += map(_first_in_line, parts) if machine.start and slot.device.id == machine.start.disk else parts
    return tuple(fronts)


def bridge_front(bridge: Bridge) -> Properties:
    """A conventional bridge, as `-device` and `device_add` take it."""
    at: dict[str, Value] = {"bus": bridge.port.id} if bridge.port else _on_root_bus(bridge.number)
    return Properties("pcie-pci-bridge", bridge.id, at)


def _first_in_line(part: Properties) -> Properties:
    """The part of a disk that has the medium, as what firmware starts from; OVMF then looks at nothing else."""
    return replace(part, values={**part.values, "bootindex": 0}) if "drive" in part.values else part


def _iommu(iommu: Iommu, placement: Placement) -> list[Properties]:
    values: dict[str, Value] = {}
    match iommu.kind:
        case IommuKind.NONE:
            return []
        case IommuKind.INTEL:
            values["intremap"] = "on" if placement.interrupt_remapping else "off"
            if iommu.caching_mode is not None:
                values["caching-mode"] = iommu.caching_mode
            if iommu.aw_bits is not None:
                values["aw-bits"] = iommu.aw_bits
            if iommu.extended_interrupts is not None:
                values["eim"] = "on" if iommu.extended_interrupts else "off"
            match iommu.scalable:
                case Scalable.SECOND_STAGE:
                    values[SCALABLE_MODE[0]] = True
                case Scalable.FIRST_STAGE:
                    values |= {SCALABLE_MODE[0]: True, FIRST_STAGE[0]: True}
            return [Properties("intel-iommu", IOMMU, values)]
        case IommuKind.AMD:
            # Without dma-remap it lets the DMA of every device of QEMU's own pass; without pci-id it makes its function
            # itself, and cannot be saved (QEMU, hw/i386/amd_iommu.c).
            values |= {"dma-remap": True, "intremap": "on" if placement.interrupt_remapping else "off"}
            return [
                Properties("AMDVI-PCI", IOMMU_FUNCTION, _on_root_bus(placement.iommu_number)),
                Properties("amd-iommu", IOMMU, values | {"pci-id": IOMMU_FUNCTION}),
            ]
        case IommuKind.VIRTIO:
            values |= _on_root_bus(placement.iommu_number)
            if iommu.aw_bits is not None:
                values["aw-bits"] = iommu.aw_bits
            if iommu.boot_bypass is not None:
                values["boot-bypass"] = iommu.boot_bypass
            return [Properties("virtio-iommu-pci", IOMMU, values)]


def _on_root_bus(number: int | None) -> dict[str, Value]:
    """Where something on the main root bus stands."""
    assert number is not None
    return {"bus": Root.MAIN.value, "addr": hex(number)}


def _root_complex(root: Root, number: int, values: dict[str, Value]) -> Properties:
    return Properties("pxb-pcie", root.value, _on_root_bus(number) | values)


def _port(port: Port) -> Properties:
    values: dict[str, Value] = {"bus": port.root.value, "addr": hex(port.number)}
    if port.has_io:
        values["io-reserve"] = _PORT_IO_BYTES
    if port.takes_bridge:
        values["bus-reserve"] = 1
    return Properties("pcie-root-port", port.id, values | {"chassis": port.index, "slot": port.index})


def _management(number: int) -> Properties:
    at: dict[str, Value] = {"bus": Root.MAIN.value, "addr": hex(number), "netdev": netdev_name(MANAGEMENT)}
    # A guest that goes on elsewhere would tell its neighbours, of which it has none here.
    values: dict[str, Value] = {"romfile": "", "guest_announce": False}
    return Properties("virtio-net-pci", MANAGEMENT, at | values | virtio_interface(Interface.MODERN, platform=False))


def _agent() -> tuple[Properties, ...]:
    """The port of the in-guest agent, and the controller that it is on."""
    at: dict[str, Value] = {"bus": Root.MAIN.value, "addr": hex(AGENT_NUMBER), "max_ports": 2}  # 0 is for a console
    port: dict[str, Value] = {"bus": f"{_AGENT}.0", "nr": 1, "chardev": AGENT_CHANNEL, "name": AGENT_PORT}
    return (
        Properties("virtio-serial-pci", _AGENT, at | virtio_interface(Interface.MODERN, platform=False)),
        Properties("virtserialport", f"{_AGENT}.port", port),
    )


def _boot(boot: Boot, memory_mib: int) -> list[tuple[str, ...]]:
    match boot:
        case FirmwareBoot(firmware=image):
            return [("-bios", str(image))] if isinstance(image, Path) else []
        case LinuxBoot(ram=ram, disk=disk) if disk is not None:
            return [*_ram(memory_mib, ram, shared=True)]
        case LinuxBoot(kernel=kernel, initrd=initrd, args=args, ram=ram):
            pairs: list[tuple[str, ...]] = [("-kernel", str(kernel))]
            if initrd is not None:
                pairs.append(("-initrd", str(initrd)))
            pairs.append(("-append", " ".join(args)))
            return [*pairs, *_ram(memory_mib, ram, shared=True)]
        case SavedMachine(ram=ram, option_roms=roms):
            # The ROMs are part of the state, kernel and initrd are not: they need not be read again.
            loaded = [("-option-rom", rom) for rom in roms]
            return [*loaded, *_ram(memory_mib, ram, shared=False), INCOMING]
        case MovedMachine(source=source):
            return [*(("-option-rom", rom) for rom in source.option_roms), *_ram(memory_mib), INCOMING]


def _ram(memory_mib: int, file: Path | None = None, *, shared: bool = False) -> tuple[tuple[str, ...], ...]:
    """Guest RAM, under one name whatever it is: a machine goes on only from one that calls it the same.

    Args:
        memory_mib: its size.
        file: that it is to be; anonymous memory when None.
        shared: whether what the guest writes goes into the file.
    """
    if file is None:
        backend = f"memory-backend-ram,id=ram.0,size={memory_mib}M"
    else:
        name, share = str(file).replace(",", ",,"), "on" if shared else "off"
        backend = f"memory-backend-file,id=ram.0,size={memory_mib}M,mem-path={name},share={share}"
    return ("-object", backend), ("-machine", "memory-backend=ram.0")
