"""What a QEMU binary can do, found by asking it, and the refusal of what it cannot before anything is started.

Nothing is concluded from a version. The binary is started twice on a machine that never runs, and asked over QMP;
whether virtio-iommu works on q35 no query tells (QEMU before 6.2 has the device, and refuses it: it had no ACPI table
to describe it by), so the second start has one and either comes up or says why not.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from harness.artifacts.qemu import QemuBuild
from harness.errors import HostError, Unsupported, VmmStartError
from harness.placement import Root, place
from harness.spec import DeviceKind, IommuKind, Machine
from harness.vmm.qemu import command
from harness.vmm.qemu.arguments import Arguments
from harness.vmm.qemu.devices import front_end
from harness.vmm.qemu.listener import Listener
from harness.vmm.qemu.process import QemuProcess
from harness.vmm.qemu.qmp import Qmp, QmpError
from harness.vmm.rundir import RunDirectory

__all__ = ["PC", "Capabilities", "ask", "cached", "require"]

PC = "q35"
"""The machine that guests run on."""
_DEADLINE = 30.0
_SCHEMA = 12  # of the cache entry
_TRIED = ("virtio-iommu-pci", "intel-iommu,intremap=on,eim=on")
"""Devices, with properties or without, that a build may have and refuse when the machine is started."""
# Types whose properties are recorded. Not those of all types: QEMU 7.2 ends when it is asked for the properties of one
# that it lists and whose module is not installed (virtio-gpu-gl-device).
_ASKED = (
    "AMDVI-PCI",
    "ICH9-LPC",
    "amd-iommu",
    "arm-smmuv3",
    "e1000e",
    "edu",
    "igb",
    "intel-iommu",
    "iommu-testdev",
    "pcie-pci-bridge",
    "pcie-root-port",
    "pxb-pcie",
    "riscv-iommu-pci",
    "scsi-hd",
    *(f"{kind}-pci" for kind in DeviceKind if kind.is_virtio),
    "virtio-iommu-pci",
    "virtserialport",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What one binary has.

    Attributes:
        version: as it reports it ("10.0.13"), for messages.
        package: the distribution's name for it, may be empty.
        commands: names of QMP commands.
        machines: names of machine types, with their versions ("pc-q35-7.2").
        accelerators: that were built in or can be loaded ("tcg", "kvm", "qtest"); whether one works is another matter.
        cpu_models: names of processor models.
        machine_properties: of the machine that it was asked about.
        devices: names of all device types.
        properties: of each device type that a spec can ask for, the names of its properties.
        has_sandbox: whether it can be kept from system calls that it has no use for (`-sandbox`, built with seccomp).
        refusals: for a device type, or one with properties ("intel-iommu,eim=on"), that is there and does not work on
            that machine under TCG, what QEMU said.
    """

    version: str
    package: str
    commands: frozenset[str]
    machines: frozenset[str]
    accelerators: frozenset[str]
    cpu_models: frozenset[str]
    machine_properties: frozenset[str]
    devices: frozenset[str]
    properties: dict[str, frozenset[str]]
    has_sandbox: bool
    refusals: dict[str, str]

    @property
    def names(self) -> dict[str, str]:
        """What it calls those properties of intel-iommu that have had several names, by the newest of these."""
        pairs = ((newest, name) for newest, *older in (command.SCALABLE_MODE, command.FIRST_STAGE) for name in older)
        return {newest: name for newest, name in pairs if self.has_property("intel-iommu", name)}

    def has_device(self, name: str) -> bool:
        """Whether it has the device type, and the machine takes it."""
        return name in self.devices and name not in self.refusals

    def has_property(self, device: str, name: str) -> bool:
        """Whether the device type, one of those that a spec can ask for, is there and has the property."""
        return name in self.properties.get(device, ())

    def has_command(self, name: str) -> bool:
        """Whether it has the QMP command."""
        return name in self.commands

    def machine_has_property(self, name: str) -> bool:
        """Whether the machine has the property."""
        return name in self.machine_properties


def require(machine: Machine, capabilities: Capabilities) -> None:
    """Refuse by name what this build cannot do.

    Raises:
        Unsupported: a device or property is missing, or known not to work.
        SpecError: the placement is impossible.
    """
    placement = place(machine)
    qemu = f"QEMU {capabilities.version}"
    if machine.native_hotplug and not capabilities.has_property(*command.ACPI_HOTPLUG):
        raise Unsupported(
            f"{qemu} has no {'.'.join(command.ACPI_HOTPLUG)}: it cannot be told to leave hot-plug to PCI Express",
            hint="use another QEMU; one before 6.1 does so without being told",
        )
    outside = [slot.device.id for slot in placement.slots if slot.root is Root.OUTSIDE]
    hotplugged = [part for slot in placement.slots if slot.device.hotplug for part in front_end(slot)]
    for front in (*command.front_ends(machine, placement), *hotplugged):
        for refused, said in capabilities.refusals.items():
            if set(refused.split(",")) <= set(front.text().split(",")):
                raise Unsupported(
                    f"{qemu} has {refused}, and its q35 machine refuses it",
                    hint="use a later QEMU, or another IOMMU",
                    evidence=said,
                )
        if front.driver not in capabilities.devices:
            raise Unsupported(
                f"{qemu} has no device {front.driver}, which {front.id} needs",
                hint="use another QEMU build: `viommu doctor` lists what each can do",
            )
        for name in front.values:
            if name == "bus" or capabilities.has_property(front.driver, capabilities.names.get(name, name)):
                continue  # `bus` is device_add's own argument, not a property
            if name == "bypass_iommu":
                raise Unsupported(
                    f"{qemu} has no {front.driver}.{name}: {', '.join(outside)} (iommu=off) cannot stand outside the "
                    f"{machine.iommu.kind} IOMMU",
                    hint="use a later QEMU, tag the device iommu=on, or leave it out",
                )
            raise Unsupported(
                f"{qemu} has no {front.driver}.{name}, which {front.id} needs",
                hint=_without(machine, name),
            )


def cached(build: QemuBuild, directory: Path, machine: str = PC) -> Capabilities:
    """Like `ask`, with the answer kept in a directory, under the identity of the binary and of how it is started.

    Raises:
        HostError: the directory cannot be written.
        VmmStartError: the binary does not start.
    """
    entry = directory / f"capabilities-{_identity(build, machine)}.json"
    try:
        return msgspec.json.decode(entry.read_bytes(), type=Capabilities)
    except (FileNotFoundError, msgspec.DecodeError):
        pass  # never asked, or the entry is damaged: ask, and write it anew
    answer = ask(build, machine)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        draft = entry.with_name(f"{entry.name}.{os.getpid()}")
        draft.write_bytes(msgspec.json.encode(answer))
        draft.replace(entry)
    except OSError as error:
        raise HostError(
            f"what {build.name} can do could not be kept in {directory}: {error.strerror}", hint="free space there"
        ) from error
    return answer


def ask(build: QemuBuild, machine: str = PC) -> Capabilities:
    """Start the binary and ask it; takes about a second.

    Args:
        build: the QEMU.
        machine: one that it has.

    Raises:
        HostError: it cannot be run here.
        VmmStartError: it does not start; its stderr is the evidence.
        VmmTimeout: it does not answer.
    """
    with ThreadPoolExecutor(1 + len(_TRIED)) as pool:
        answers = pool.submit(_interview, build, machine)
        said = list(pool.map(lambda device: refusal(build, device, machine=machine), _TRIED))
        found = answers.result()
    texts = dict(zip(_TRIED, said, strict=True))
    there = found.devices
    return replace(found, refusals={each: text for each, text in texts.items() if text and each.split(",")[0] in there})


def _interview(build: QemuBuild, machine: str) -> Capabilities:
    with ExitStack() as stack:
        qmp = _start(build, machine, stack)
        greeting = qmp.execute("query-version", deadline=_DEADLINE)
        version = greeting["qemu"]
        machines = qmp.execute("query-machines", deadline=_DEADLINE)
        name = next((m["name"] for m in machines if machine in (m["name"], m.get("alias"))), machine)
        devices = _types(qmp, "device")
        options = qmp.execute("query-command-line-options", deadline=_DEADLINE)
        return Capabilities(
            version=f"{version['major']}.{version['minor']}.{version['micro']}",
            package=greeting.get("package", ""),
            commands=_names(qmp.execute("query-commands", deadline=_DEADLINE)),
            machines=_names(machines),
            accelerators=frozenset(name.removesuffix("-accel") for name in _types(qmp, "accel")),
            cpu_models=_names(qmp.execute("query-cpu-definitions", deadline=_DEADLINE)),
            machine_properties=_properties(qmp, "qom-list-properties", f"{name}-machine"),
            devices=devices,
            properties={
                device: _properties(qmp, "device-list-properties", device) for device in _ASKED if device in devices
            },
            has_sandbox=any(each["option"] == "sandbox" for each in options),
            refusals={},
        )


def refusal(build: QemuBuild, *devices: str, machine: str = PC) -> str:
    """What QEMU says when the machine is started with the devices and does not come up; empty when it does.

    Args:
        build: the QEMU.
        devices: as `-device` takes them.
        machine: one that it has.

    Raises:
        HostError: it cannot be run here.
        VmmTimeout: it does not answer.
    """
    with ExitStack() as stack:
        try:
            _start(build, machine, stack, tuple(("-device", device) for device in devices))
        except VmmStartError as error:
            return error.evidence.strip()
    return ""


def _start(build: QemuBuild, machine: str, stack: ExitStack, devices: tuple[tuple[str, ...], ...] = ()) -> Qmp:
    """A machine that never runs, and its QMP."""
    directory = stack.enter_context(RunDirectory.create())
    listener = stack.enter_context(Listener(directory.path / "qmp.sock"))
    arguments = Arguments(
        (
            ("-nodefaults",),
            ("-no-user-config",),
            ("-display", "none"),
            ("-machine", machine),
            ("-accel", "tcg"),
            ("-S",),
            ("-chardev", f"socket,id=qmp,path={listener.path}"),
            ("-qmp", "chardev:qmp"),
            *devices,
        )
    )
    # Of a start that may fail, what QEMU says is the answer, and is kept: no socket of today belongs in it.
    text = "" if devices else arguments.shell(build.argv_prefix, build.env)
    process = QemuProcess.start([*build.argv_prefix, *arguments], directory=directory, env=build.env, command=text)
    stack.enter_context(process)
    qmp = Qmp(process)
    stack.callback(qmp.close)
    qmp.connect(listener.accept(process, _DEADLINE), _DEADLINE)
    return qmp


def _names(answer: list[dict[str, Any]]) -> frozenset[str]:
    return frozenset(entry["name"] for entry in answer)


def _types(qmp: Qmp, parent: str) -> frozenset[str]:
    return _names(qmp.execute("qom-list-types", {"implements": parent, "abstract": False}, deadline=_DEADLINE))


def _properties(qmp: Qmp, query: str, name: str) -> frozenset[str]:
    try:
        return _names(qmp.execute(query, {"typename": name}, deadline=_DEADLINE))
    except QmpError:
        return frozenset()  # an abstract type, or one whose module is not installed


def _identity(build: QemuBuild, machine: str) -> str:
    status = build.binary.stat()
    parts = [
        str(_SCHEMA),
        machine,
        *build.argv_prefix,
        *(f"{name}={value}" for name, value in sorted(build.env.items())),
        f"{build.binary} {status.st_size} {status.st_mtime_ns}",
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _without(machine: Machine, name: str) -> str:
    asked = {
        "aw-bits": "aw_bits",
        "boot-bypass": "boot_bypass",
        "caching-mode": "caching_mode",
        "eim": "extended_interrupts",
        "fsts": "scalable=first-stage",
        "scalable-mode": "scalable",
    }.get(name)
    if asked and machine.iommu.kind is not IommuKind.NONE:
        return f"leave the IOMMU's {asked} out, or use another QEMU build"
    return "use another QEMU build: `viommu doctor` lists what each can do"
