"""How long a machine takes until its first SSH command is answered, beside a bare boot of the same kernel.

All in one run and in turn (bare, cold, bare unpacked, from a template, and again), so that a host that gets slower or
faster meanwhile does so for each of them: of such a host only the ratios mean something.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts.packages import Tree
from harness.artifacts.progress import Progress, silent
from harness.bench.leases import leases_a_minute
from harness.bench.warm import Warm, measure_warm
from harness.errors import ArtifactError, GuestUnreachable, SpecError
from harness.guest.guest import READY
from harness.images.cpio import Archive
from harness.lab import BOOT_SECONDS, Lab
from harness.report.record import Artifact
from harness.spec import Device, DeviceKind, Iommu, IommuKind, Machine
from harness.vmm.qemu.arguments import Arguments
from harness.vmm.qemu.command import machine_arguments
from harness.vmm.qemu.console import SerialConsole
from harness.vmm.qemu.listener import Listener
from harness.vmm.qemu.machine import QemuMachine
from harness.vmm.qemu.process import QemuProcess
from harness.vmm.rundir import RunDirectory
from harness.warm.lease import Leases

__all__ = ["BootFigures", "measure", "stamps"]

_MARKER = "viommu-floor: init"
_KERNEL = "Linux version "  # Linux, init/main.c, start_kernel; on the serial line as soon as that has a driver
_INIT = "Run /init as init process"  # Linux, init/main.c, run_init_process
_PINGS = 200
_LEASES_SECONDS = 15.0
_MEMORY_MIB = 512
_INIT_SCRIPT = f"""#!/bin/busybox sh
echo {_MARKER}
while :; do /bin/busybox sleep 1000; done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFigures:
    """The medians of all rounds.

    Attributes:
        cold_ratio: of `cold_seconds` to `floor_seconds`, the median of the ratios of each round.
        cold_unpacked_ratio: the same to `floor_unpacked_seconds`.
        floor_seconds: bare boot of the kernel image as it is distributed, from starting the process until a busybox
            init has written a line: no IOMMU, no devices.
        floor_unpacked_seconds: the same with the file that the harness boots, unpacked where QEMU can start that.
        cold_seconds: from starting the process to the answer to the first SSH command, with the IOMMU and one
            virtio-blk behind it.
        launch_seconds: what the harness does before it starts the process: keys, overlay, run directory.
        firmware_seconds: part of `cold_seconds`: until the kernel's first line is on the console. The kernel's own
            first steps are in it, since it cannot speak before it has found the serial line.
        kernel_seconds: part of it: from there until the kernel runs /init.
        init_seconds: the sum of those two.
        userland_seconds: part of it: from there until init says that it is ready.
        ssh_seconds: part of it: handshake, login and the first command.
        agent_seconds: starting the agent, after that.
        agent_roundtrip_milliseconds: one request to the agent, the median of 200 in each round.
        warm_ratio: of `warm_seconds` to `floor_seconds`, the median of the ratios of each round.
        warm_grouped_ratio: the same of `warm_grouped_seconds`.
        warm_seconds: from asking for a machine that is started from a template to the answer to the first SSH command.
        warm_grouped_seconds: the same with one virtio-blk plugged, and seen in its IOMMU group over SSH.
        warm_private_mib: memory that such a machine has to itself after its first SSH command, MiB.
        warm_a_minute: such machines that were started, asked and ended in a minute, as many at a time as there are
            processors.
        rounds: how many there were.
        iommu: kind of the IOMMU.
        qemu: name, version and package version.
        kernel: name, release and package version.
        host: as results records have it.
    """

    cold_ratio: float
    cold_unpacked_ratio: float
    floor_seconds: float
    floor_unpacked_seconds: float
    cold_seconds: float
    launch_seconds: float
    firmware_seconds: float
    kernel_seconds: float
    init_seconds: float
    userland_seconds: float
    ssh_seconds: float
    agent_seconds: float
    agent_roundtrip_milliseconds: float
    warm_ratio: float
    warm_grouped_ratio: float
    warm_seconds: float
    warm_grouped_seconds: float
    warm_private_mib: float
    warm_a_minute: float
    rounds: int
    iommu: str
    qemu: dict[str, str]
    kernel: dict[str, str]
    host: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Cold:
    """Moments of one cold machine, in seconds; those after `launch` count from the start of the process."""

    launch: float
    kernel: float
    init: float
    ready: float
    answered: float
    agent: float
    roundtrip: float


@dataclass(frozen=True, slots=True)
class _Round:
    floor: float
    cold: _Cold
    unpacked: float
    warm: Warm


def measure(
    lab: Lab,
    leases: Leases,
    userland: Tree,
    *,
    kind: IommuKind = IommuKind.INTEL,
    rounds: int = 3,
    progress: Progress = silent,
) -> BootFigures:
    """Measure.

    Args:
        lab: what is measured.
        leases: machines of that lab; the template is made before anything is measured.
        userland: the guest's packages; busybox is taken from them.
        kind: of IOMMU.
        rounds: of each kind of boot, at least one.
        progress: told of each round.

    Raises:
        SpecError: no rounds, or the combination cannot be had.
        VmmError, GuestError: a machine did not come up.
    """
    if rounds < 1:
        raise SpecError(f"{rounds} rounds measure nothing", hint="ask for one or more")
    disk = Device(kind=DeviceKind.VIRTIO_BLK, iommu=kind is not IommuKind.NONE)
    machine = Machine(iommu=Iommu(kind=kind), devices=(disk,), memory_mib=_MEMORY_MIB)
    lab.require(machine)
    with ExitStack() as stack:
        directory = stack.enter_context(RunDirectory.create())
        initrd = directory.path / "floor.cpio"
        initrd.write_bytes(_floor_archive(userland))
        for file in (lab.kernel.image, lab.kernel_file, lab.images.named(machine.image).archive):
            file.read_bytes()  # so that the first round does not pay for the disk
        with leases.start(machine):
            pass  # nor for the template
        done = []
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}", number, rounds)
            done.append(
                _Round(
                    floor=_floor(lab, lab.kernel.image, initrd),
                    cold=_cold(lab, machine),
                    unpacked=_floor(lab, lab.kernel_file, initrd),
                    warm=measure_warm(leases, machine),
                )
            )
        progress("starting and ending machines", rounds, rounds)
        a_minute = leases_a_minute(leases, machine, len(os.sched_getaffinity(0)), _LEASES_SECONDS)
    return _figures(lab, kind, done, a_minute)


def _figures(lab: Lab, kind: IommuKind, rounds: list[_Round], a_minute: float) -> BootFigures:
    def median(value: Callable[[_Round], float]) -> float:
        return round(statistics.median(map(value, rounds)), 3)

    return BootFigures(
        cold_ratio=median(lambda r: r.cold.answered / r.floor),
        cold_unpacked_ratio=median(lambda r: r.cold.answered / r.unpacked),
        floor_seconds=median(lambda r: r.floor),
        floor_unpacked_seconds=median(lambda r: r.unpacked),
        cold_seconds=median(lambda r: r.cold.answered),
        launch_seconds=median(lambda r: r.cold.launch),
        firmware_seconds=median(lambda r: r.cold.kernel),
        kernel_seconds=median(lambda r: r.cold.init - r.cold.kernel),
        init_seconds=median(lambda r: r.cold.init),
        userland_seconds=median(lambda r: r.cold.ready - r.cold.init),
        ssh_seconds=median(lambda r: r.cold.answered - r.cold.ready),
        agent_seconds=median(lambda r: r.cold.agent - r.cold.answered),
        agent_roundtrip_milliseconds=median(lambda r: r.cold.roundtrip * 1e3),
        warm_ratio=median(lambda r: r.warm.answered / r.floor),
        warm_grouped_ratio=median(lambda r: r.warm.grouped / r.floor),
        warm_seconds=median(lambda r: r.warm.answered),
        warm_grouped_seconds=median(lambda r: r.warm.grouped),
        warm_private_mib=median(lambda r: r.warm.private_mib),
        warm_a_minute=round(a_minute, 1),
        rounds=len(rounds),
        iommu=kind.value,
        qemu=_named(lab.qemu.name, "version", lab.qemu.version, lab.qemu.artifacts, "qemu-system-"),
        kernel=_named(lab.kernel.name, "release", lab.kernel.release, lab.kernel.artifacts, "linux-image-"),
        host=lab.host,
    )


def _named(name: str, what: str, value: str, artifacts: tuple[Artifact, ...], prefix: str) -> dict[str, str]:
    package = next((artifact.version for artifact in artifacts if artifact.name.startswith(prefix)), "")
    return {"name": name, what: value, "package": package}


def _floor_archive(userland: Tree) -> bytes:
    busybox = userland.path("/bin/busybox")
    if busybox is None:
        raise ArtifactError("the guest's packages have no /bin/busybox")
    archive = Archive()
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    archive.file("init", _INIT_SCRIPT.encode(), 0o755)
    return archive.pack()


def _floor(lab: Lab, kernel: Path, initrd: Path) -> float:
    """Seconds from starting QEMU until init's line is on the console."""
    with ExitStack() as stack:
        directory = stack.enter_context(RunDirectory.create())
        listener = stack.enter_context(Listener(directory.path / "console.sock"))
        arguments = Arguments(
            (
                ("-nodefaults",),
                ("-no-user-config",),
                ("-display", "none"),
                ("-no-reboot",),
                *machine_arguments(lab.accelerator.accelerator),
                ("-m", f"{_MEMORY_MIB}M"),
                ("-kernel", str(kernel)),
                ("-initrd", str(initrd)),
                ("-append", "console=ttyS0"),
                ("-chardev", f"socket,id=console,path={listener.path}"),
                ("-serial", "chardev:console"),
            )
        )
        command = arguments.shell(lab.qemu.argv_prefix, lab.qemu.env)
        start = time.monotonic()
        process = stack.enter_context(
            QemuProcess.start(
                [*lab.qemu.argv_prefix, *arguments], directory=directory, env=lab.qemu.env, command=command
            )
        )
        connection = listener.accept(process, BOOT_SECONDS)
        console = SerialConsole(connection, process, directory.path / "console.log")
        stack.callback(console.close)
        console.wait_for(_MARKER, deadline=BOOT_SECONDS)
        return time.monotonic() - start


def _cold(lab: Lab, machine: Machine) -> _Cold:
    before = time.monotonic()
    with lab.start(machine) as live:
        start = live.vmm.start_time
        with stamps(live.vmm, (_KERNEL, _INIT, READY)) as seen:
            live.guest.wait_ready(BOOT_SECONDS)
            live.guest.run("true")
            answered = time.monotonic()
        agent = live.agent
        agent.ping()
        started = time.monotonic()
        trips = []
        for _ in range(_PINGS):
            sent = time.monotonic()
            agent.ping()
            trips.append(time.monotonic() - sent)
        return _Cold(
            launch=start - before,
            kernel=seen[_KERNEL] - start,
            init=seen[_INIT] - start,
            ready=seen[READY] - start,
            answered=answered - start,
            agent=started - start,
            roundtrip=statistics.median(trips),
        )


@contextmanager
def stamps(machine: QemuMachine, marks: tuple[str, ...]) -> Iterator[dict[str, float]]:
    """When each text was first on the console, by `time.monotonic()`; complete when the block is left.

    Raises:
        GuestUnreachable: one never was.
    """
    found: dict[str, float] = {}

    def hear(line: str) -> None:
        now = time.monotonic()
        for mark in marks:
            if mark in line:
                found.setdefault(mark, now)

    machine.console.listen(hear)
    yield found
    for mark in marks:
        if mark not in found:
            raise GuestUnreachable(f"the guest's console never said {mark!r}", evidence=machine.console.tail())
