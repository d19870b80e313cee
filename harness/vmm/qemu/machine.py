"""A machine that runs: process, QMP, qtest, console, cables and disks, started together and given back together."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from harness.artifacts.qemu import QemuBuild
from harness.errors import GuestError, HarnessError, SpecError, VmmError, VmmTimeout
from harness.placement import place
from harness.report.record import Evidence
from harness.spec import DeviceKind, Machine
from harness.vmm.protocol import Boot, LinuxBoot, MovedMachine, SavedMachine
from harness.vmm.qemu import migration
from harness.vmm.qemu.arguments import Properties
from harness.vmm.qemu.capabilities import Capabilities, require
from harness.vmm.qemu.command import Options, bridge_front, command_line
from harness.vmm.qemu.console import SerialConsole
from harness.vmm.qemu.devices import front_end
from harness.vmm.qemu.listener import Listener
from harness.vmm.qemu.network import NetworkCable
from harness.vmm.qemu.port import SerialPort
from harness.vmm.qemu.prepare import DISKS, devices_of, prepare
from harness.vmm.qemu.process import QemuProcess
from harness.vmm.qemu.qmp import Qmp
from harness.vmm.qemu.qtest import Qtest
from harness.vmm.qemu.trace import TraceGuard, TraceReader
from harness.vmm.qemu.wiring import AGENT_CHANNEL, CHANNELS, HandWiring, HarnessWiring, port_channel
from harness.vmm.rundir import RunDirectory

__all__ = ["QemuMachine", "command_by_hand"]

_T = TypeVar("_T")
_TRACE_TAIL_BYTES = 32 * 1024
# HMP `info usernet`: "TCP[HOST_FORWARD]  9   127.0.0.1 42967   10.0.2.15    22     0     0"
# HMP `info roms`: 'fw=genroms/pvh.bin size=0x000600 name="pvh.bin"'
_OPTION_ROM = re.compile(r"fw=genroms/(\S+)")
_BOOT_ROMS = frozenset(("linuxboot.bin", "linuxboot_dma.bin", "multiboot.bin", "multiboot_dma.bin", "pvh.bin"))
_FORWARD = re.compile(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\s")


class QemuMachine:
    """A running machine; leaving the `with` block, or `close()`, ends it.

    Attributes:
        spec: what it is.
        command: a command line that runs the same machine by hand, its console on the terminal.
        directory: its run directory, there until it is closed.
        process: the QEMU process.
        qmp: its QMP connection.
        qtest: its qtest channel.
        console: its serial console.
        agent_port: the port of the agent in its guest.
        trace: reader of its trace events.
        ssh_port: port on 127.0.0.1 that leads to port 22 of the guest.
        start_time: `time.monotonic()` just before the process was started.
    """

    def __init__(
        self,
        spec: Machine,
        command: str,
        process: QemuProcess,
        wiring: HarnessWiring,
        cables: dict[str, NetworkCable],
        ports: dict[str, SerialPort],
        qmp: Qmp,
        qtest: Qtest,
        console: SerialConsole,
        agent_port: SerialPort,
        trace: TraceReader,
        start_time: float,
        asked: Machine,
        earlier_trace: Path | None,
    ) -> None:
        """Put the parts together; use `start`."""
        self.spec = spec
        self.command = command
        self.directory = wiring.directory
        self.process = process
        self.qmp = qmp
        self.qtest = qtest
        self.console = console
        self.agent_port = agent_port
        self.trace = trace
        self.start_time = start_time
        self._asked = asked
        self._earlier_trace = earlier_trace
        self._stack = ExitStack()
        self._wiring = wiring
        self._cables = cables
        self._ports = ports
        self._placement = place(spec)
        self._evidence: Evidence | None = None
        self.ssh_port = self._forwarded_port()

    @classmethod
    def start(
        cls,
        spec: Machine,
        build: QemuBuild,
        capabilities: Capabilities,
        boot: Boot,
        options: Options | None = None,
        asked: Machine | None = None,
    ) -> Self:
        """Start a machine; it runs when this returns, unless it was asked to be paused.

        Args:
            spec: what it is to be.
            build: the QEMU to run it.
            capabilities: of that build.
            boot: what runs in it.
            options: how it is run.
            asked: what was asked for, where that is said in other words: shown in evidence.

        Raises:
            SpecError: the spec is impossible.
            Unsupported: this build cannot do it.
            HostError: no space, no permission, a path too long for a socket.
            VmmStartError: QEMU ended; its stderr and command line are the evidence.
            VmmTimeout: QEMU neither ended nor answered.
        """
        options = options or Options()
        require(spec, capabilities)
        with ExitStack() as stack:
            directory = stack.enter_context(RunDirectory.create(options.parent))
            cables = {d.id: stack.enter_context(NetworkCable(d.id)) for d in spec.devices if d.kind.is_nic}
            wiring = HarnessWiring(directory.path, {id: cable.guest_end for id, cable in cables.items()})
            boot_here = prepare(spec, boot, wiring)
            serials = [d.id for d in devices_of(spec, DeviceKind.VIRTIO_SERIAL)]
            channels = (*CHANNELS, *map(port_channel, serials))
            listeners = {channel: stack.enter_context(Listener(wiring.socket(channel))) for channel in channels}
            arguments = command_line(spec, boot_here, wiring, options, _trace_log(directory.path))
            by_hand = command_by_hand(asked or spec, build, boot, options)
            start_time = time.monotonic()
            process = stack.enter_context(
                QemuProcess.start(
                    [*build.argv_prefix, *arguments],
                    directory=directory,
                    env=build.env,
                    command=f"{arguments.shell(build.argv_prefix, build.env)}\n\nor, by hand:\n\n{by_hand}",
                    pass_fds=tuple(wiring.cables.values()),
                )
            )
            for cable in cables.values():
                cable.attach(process)
            qmp = Qmp(process, directory.path / "qmp.log")
            stack.callback(qmp.close)
            connections = {
                channel: stack.enter_context(listener.accept(process, options.start_deadline))
                for channel, listener in listeners.items()
            }
            qmp.connect(connections["qmp"], options.start_deadline)
            before = _go_on(boot, qmp, process, directory.path)
            console = SerialConsole(connections["console"], process, directory.path / "console.log", before.console)
            stack.callback(console.close)
            qtest = Qtest(connections["qtest"], process)
            stack.callback(qtest.close)
            ports = {id: SerialPort(connections[port_channel(id)], process) for id in serials}
            agent_port = SerialPort(connections[AGENT_CHANNEL], process)
            for port in (agent_port, *ports.values()):
                stack.callback(port.close)
            guard = TraceGuard(_trace_log(directory.path), qmp)
            stack.callback(guard.close)
            trace = TraceReader(_trace_log(directory.path), before.trace, guard)
            machine = cls(
                spec,
                by_hand,
                process,
                wiring,
                cables,
                ports,
                qmp,
                qtest,
                console,
                agent_port,
                trace,
                start_time,
                asked or spec,
                before.trace,
            )
            if isinstance(boot, SavedMachine) and not options.paused:
                machine.resume()
            machine._stack = stack.pop_all()
            return machine

    @property
    def memory(self) -> Qtest:
        """Guest physical memory, seen from the host."""
        return self.qtest

    @property
    def alive(self) -> bool:
        """Whether QEMU still runs."""
        return self.process.alive

    def death(self, asked: str) -> HarnessError:
        """The error of a QEMU that has ended, as `QemuProcess.died`, with the console's tail in its evidence."""
        error = self.process.died(asked)
        error.evidence = "\n".join(filter(None, (error.evidence.rstrip(), self.console.tail())))
        return error

    def blame(self, late: GuestError) -> HarnessError:
        """Whose doing it is that the guest is late, as `QemuProcess.blame`."""
        return self.process.blame(late)

    def plug(self, device_id: str, *, deadline: float = 10.0) -> None:
        """Plug a device of the spec that is tagged `hotplug`; the guest finds it a moment later.

        One that stands behind a bridge brings that with it. The guest is stopped meanwhile, so that it finds both at
        once: what comes into a conventional bridge later its guest has to be asked to power on.

        Raises:
            SpecError: there is no such device, or it was there at boot.
            QmpError: QEMU refuses it; it is plugged already, for one.
            VmmTimeout: no answer.
            VmmDied: QEMU has ended.
        """
        slot = self._placement.slot(device_id)
        if not slot.device.hotplug:
            raise SpecError(f"{device_id} is there from the start", hint=f"ask for {slot.device},hotplug=on")
        if slot.bridge is None:
            self._add(*front_end(slot), deadline=deadline)
            return
        self.qmp.execute("stop", deadline=deadline)
        try:
            self._add(bridge_front(slot.bridge), *front_end(slot), deadline=deadline)
        finally:
            self.qmp.execute("cont", deadline=deadline)

    def _add(self, *parts: Properties, deadline: float) -> None:
        for part in parts:
            self.qmp.execute("device_add", part.json(), deadline=deadline)

    def unplug(self, device_id: str, *, deadline: float = 10.0) -> None:
        """Have the guest let go of a device, and of the bridge that it has brought, and wait until it is gone.

        Raises:
            GuestError: the guest refused, or did not in time.
            QmpError: QEMU refuses: there is no such device, or it cannot be unplugged.
            VmmDied: QEMU has ended.
        """
        mark = self.qmp.event_count
        slot = next((slot for slot in self._placement.slots if slot.device.id == device_id), None)
        taken = slot.bridge.id if slot and slot.bridge and slot.bridge.port else device_id
        self.qmp.execute("device_del", {"id": taken}, deadline=deadline)
        try:
            event = self.qmp.wait_event(
                ("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR"),
                lambda event: event.data.get("device") == taken,
                deadline=deadline,
                since=mark,
            )
        except VmmTimeout:
            late = GuestError(
                f"the guest did not let go of {device_id} within {deadline:g} s", evidence=self.console.tail()
            )
            raise self.blame(late) from None
        if event.name != "DEVICE_DELETED":
            raise GuestError(f"the guest refused to let go of {device_id}", evidence=self.console.tail())

    def resume(self) -> None:
        """Let a guest go on that was started paused.

        Raises:
            VmmDied: QEMU has ended.
        """
        self.qmp.execute("cont")

    @property
    def option_roms(self) -> tuple[str, ...]:
        """Names of the option ROMs that its kernel was started by: a machine that goes on from it must have them."""
        roms = self.qmp.execute("human-monitor-command", {"command-line": "info roms"})
        return tuple(name for name in _OPTION_ROM.findall(roms) if name in _BOOT_ROMS)

    def trace_so_far(self) -> bytes:
        """All trace events, as their log has them, those of the machines that it goes on from first.

        Raises:
            VmmError: as `TraceReader.require_whole`.
        """
        self.trace.require_whole()
        logs = (self._earlier_trace, _trace_log(self.directory))
        return b"".join(log.read_bytes() for log in logs if log is not None and log.exists())

    def save(self, state: Path) -> None:
        """Stop the machine, whose RAM is a file, and write the state of its devices to another.

        Raises:
            NotSaved: it has a device that cannot be saved; the message is QEMU's.
            HostError: the file cannot be written.
        """
        migration.save(self.qmp, self.process, state)

    def network(self, device_id: str) -> NetworkCable:
        """The other end of the cable in a NIC of the spec.

        Raises:
            SpecError: there is no such NIC.
        """
        return _the("NIC", device_id, self._cables)

    def disk(self, device_id: str) -> Path:
        """The raw image behind a disk of the spec, all zeroes at first; QEMU and the host see each other's writes.

        Raises:
            SpecError: there is no such disk.
        """
        return _the("disk", device_id, {d.id: self._wiring.image(d.id) for d in devices_of(self.spec, *DISKS)})

    def port(self, device_id: str) -> SerialPort:
        """The other end of the port on a virtio-serial of the spec.

        Raises:
            SpecError: there is no such device.
        """
        return _the("virtio-serial", device_id, self._ports)

    def evidence(self) -> Evidence:
        """What there is to show of it; once it is closed, what there was at that moment."""
        return self._evidence or Evidence(
            spec=self._asked.to_json(),
            command=self.command,
            console=self.console.tail(),
            qmp_log=self.qmp.tail(),
            vmm_stderr=self.process.stderr,
            trace=_file_tail(_trace_log(self.directory)),
        )

    def close(self) -> None:
        """Kill QEMU and give everything back; a second call does nothing.

        Raises:
            VmmError: QEMU does not end.
        """
        if self._evidence is None:
            self.process.kill()
            self._evidence = self.evidence()
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forwarded_port(self) -> int:
        answer = self.qmp.execute("human-monitor-command", {"command-line": "info usernet"})
        found = _FORWARD.search(answer)
        if not found:
            raise VmmError("QEMU does not say which port leads to the guest's SSH", evidence=answer)
        return int(found[1])


def command_by_hand(spec: Machine, build: QemuBuild, boot: Boot, options: Options) -> str:
    """Shell command that boots the same machine from a terminal, without the overlay: the harness's keys are not shown.

    Raises:
        SpecError: the spec is impossible.
    """
    if isinstance(boot, SavedMachine | MovedMachine):
        boot = boot.booted
    if isinstance(boot, LinuxBoot):
        boot = replace(boot, disk=None)  # it is the run's own, with its keys: by hand, the same firmware is handed that
    return command_line(spec, boot, HandWiring(), options).shell(build.argv_prefix, build.env)


@dataclass(frozen=True, slots=True)
class _Before:
    """What a machine takes over from the one that it goes on from: what the console had said, and a log of traces."""

    console: bytes = b""
    trace: Path | None = None


def _go_on(boot: Boot, qmp: Qmp, process: QemuProcess, directory: Path) -> _Before:
    """Put a process that has just been started where another one was, if it is to be that."""
    match boot:
        case SavedMachine():
            migration.load(qmp, process, boot.state)
            return _Before(boot.console.read_bytes(), boot.trace)
        case MovedMachine(source=source):
            assert isinstance(source, QemuMachine)
            migration.move((source.qmp, source.process), (qmp, process))
            trace = directory / "earlier-trace.log"
            trace.write_bytes(source.trace_so_far())
            return _Before((source.directory / "console.log").read_bytes(), trace)
        case _:
            return _Before()


def _the(what: str, device_id: str, there: Mapping[str, _T]) -> _T:
    """What a device of the spec has on the harness's side."""
    if device_id not in there:
        raise SpecError(f"no {what} {device_id!r} in this machine", hint=f"it has: {', '.join(there) or 'none'}")
    return there[device_id]


def _trace_log(directory: Path) -> Path:
    return directory / "trace.log"


def _file_tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TRACE_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
