"""A QEMU without a guest, in the harness's hands: its memory mapped, its devices placed, its processor halted.

Nobody waits for the 100 ms that an edu takes for a DMA: see `Clock`.
"""

from __future__ import annotations

import mmap
import os
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from harness.artifacts.qemu import QemuBuild
from harness.conform.command import RAM_BYTES, Clock, MachineWords, edu_words, machine_words
from harness.conform.edu import CLOCK_STEP
from harness.conform.layout import BRIDGES, DEVICES, Bridge, DmaDevice
from harness.conform.placing import configuration, place, place_device, registers_of
from harness.errors import HostError, Unsupported, VmmError
from harness.vmm.qemu.listener import Listener
from harness.vmm.qemu.process import QemuProcess
from harness.vmm.qemu.qmp import Qmp
from harness.vmm.qemu.qtest import Qtest, Width
from harness.vmm.qemu.trace import TraceReader, set_state
from harness.vmm.rundir import RunDirectory

__all__ = ["ConformMachine"]

_START_SECONDS = 30.0
_DMA_SECONDS = 10.0
_STILL_SECONDS = 2.0
_EDU_IDENTIFICATION, _EDU_COMMAND, _RUN = 0x00, 0x98, 1


class ConformMachine:
    """One machine; it ends with the context.

    Attributes:
        words: that it was started with.
        clock: what makes its time pass.
        board: that it stands on.
        process: the QEMU.
        qtest: the channel to it.
        qmp: the other channel.
        ram: its memory, writable, from the board's first address on.
        command: its whole command line.
        bars: physical address of each device's registers, by its id.
    """

    def __init__(self, build: QemuBuild, words: MachineWords, *, clock: Clock, trace: Sequence[str] = ()) -> None:
        """Describe it; entering the context starts it.

        Args:
            build: the QEMU.
            words: what stands on its command line beside the devices.
            clock: which accelerator.
            trace: patterns of the trace events that can be logged.
        """
        self.words = words
        self.clock = clock
        self.board = words.board
        self._build = build
        self._trace = tuple(trace)
        self._interrupts: list[str] = []  # that nobody has taken yet,
        self._traced: set[str] = set()  # and names of other events
        self._stack = ExitStack()
        self.bars = {entry.id: registers_of(self.board, entry) for entry in DEVICES}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def trace(self, *, enable: bool) -> None:
        """Log the trace events, or do not."""
        for pattern in self._trace:
            set_state(self.qmp, pattern, enable=enable)

    def take_trace_events(self) -> frozenset[str]:
        """Names of the events that were logged since the last time, beside those of interrupts."""
        self._read_trace()
        names, self._traced = frozenset(self._traced), set()
        return names

    def take_interrupts(self) -> list[str]:
        """What QEMU says of each message that has reached an interrupt controller since the last time, in their order.

        Always empty on a board of which no trace event tells that.
        """
        if not self.board.interrupts:
            return []
        self._read_trace()
        taken, self._interrupts = self._interrupts, []
        return taken

    def _read_trace(self) -> None:
        for event in self._trace_reader.new():
            if event.name == self.board.interrupts:
                self._interrupts.append(event.text)
            else:
                self._traced.add(event.name)

    @property
    def uses_clock_steps(self) -> bool:
        """Whether time passes only when `clock_step` says so."""
        return self.clock is Clock.QTEST

    def reset(self) -> None:
        """Reset the machine, and place PCI again. Memory stays as it is; interrupts that nobody took are forgotten."""
        overwritten = self.board.overwritten
        kept = self.ram[overwritten.start : overwritten.stop]
        if self.board.reset:
            # The machine is reset before QEMU looks for more commands: these come when the answers are there.
            self.qtest.batch(self.board.reset)
        else:
            mark = self.qmp.event_count
            self.qmp.execute("system_reset")
            self.qmp.wait_event("RESET", since=mark, deadline=_DMA_SECONDS)
        self.qtest.batch(place(self.board))
        self.ram[overwritten.start : overwritten.stop] = kept
        self._read_trace()
        self._interrupts.clear()
        if self._trace_log.exists():
            # QEMU goes on where it was: what was read becomes a hole in the file.
            os.truncate(self._trace_log, 0)

    def is_done(self, last: int) -> str:
        """The command that asks whether the device whose registers are at `last` has finished its DMA."""
        return f"readq {last + _EDU_COMMAND:#x}"

    def wait_until_done(self, last: int) -> None:
        """Wait until that device has finished.

        Where time passes only in steps, it does so here as long as it takes. Where QEMU has it pass, time can stand
        still: a timer that is set just as the processor goes idle does not wake it (seen about once in 300 starts of
        QEMU 10.0). Stopping the machine and letting it go on does.

        Raises:
            VmmTimeout: it has not after 10 s.
        """
        begin = time.monotonic()
        end, nudge = begin + _DMA_SECONDS, begin + _STILL_SECONDS
        look = [self.is_done(last)]
        step = [CLOCK_STEP] if self.uses_clock_steps else []
        while int(self.qtest.batch(look)[-1], 16) & _RUN:
            look = [*step, self.is_done(last)]
            if time.monotonic() > nudge and not self.uses_clock_steps:
                self.qmp.execute("stop")
                self.qmp.execute("cont")
                nudge = end
            if time.monotonic() > end:
                raise self.process.timeout(f"to finish the DMA of the edu at {last:#x}", _DMA_SECONDS)

    def read(self, address: int, size: int) -> int:
        """A device register or memory."""
        return self.qtest.read_value(address, Width(size))

    def write(self, address: int, value: int, size: int) -> None:
        """A device register or memory."""
        self.qtest.write_value(address, value, Width(size))

    def unplug(self, entry: DmaDevice) -> None:
        """Take a device away, as QEMU does when the slot's power goes off; no driver has to agree.

        Raises:
            VmmTimeout: it is still there.
        """
        mark = self.qmp.event_count
        port = next(bridge for bridge in BRIDGES if bridge.id == entry.bus)
        self._set_slot_power(port, on=False)
        self.qmp.wait_event("DEVICE_DELETED", since=mark, deadline=_DMA_SECONDS)

    def plug(self, entry: DmaDevice) -> None:
        """Put it back."""
        port = next(bridge for bridge in BRIDGES if bridge.id == entry.bus)
        driver, *values = edu_words(entry).split(",")
        arguments: dict[str, Any] = {"driver": driver, **dict(value.split("=", 1) for value in values)}
        arguments["multifunction"] = True
        arguments["dma_mask"] = (1 << 64) - 1
        self.qmp.execute("device_add", arguments)
        self._set_slot_power(port, on=True)
        self.qtest.batch(place_device(self.board, entry))

    def _start(self, stack: ExitStack) -> None:
        directory = stack.enter_context(RunDirectory.create())
        self._directory = directory.path
        firmware, ram = directory.path / "firmware.rom", directory.path / "ram"
        try:
            firmware.write_bytes(self.board.firmware)
            with ram.open("xb+") as file:
                file.truncate(RAM_BYTES)
                self.ram = stack.enter_context(mmap.mmap(file.fileno(), RAM_BYTES))
        except OSError as error:
            raise HostError(f"{ram} cannot be made: {error.strerror}", hint="free space there") from error
        listeners = {name: stack.enter_context(Listener(directory.path / f"{name}.sock")) for name in ("qtest", "qmp")}
        argv = [*self._build.argv_prefix, *machine_words(self.words, self.clock), "-bios", str(firmware)]
        argv += ["-object", f"memory-backend-file,id=ram,size={RAM_BYTES},mem-path={ram},share=on"]
        argv += ["-machine", "memory-backend=ram"]
        for name, listener in listeners.items():
            argv += ["-chardev", f"socket,id={name},path={listener.path}", f"-{name}", f"chardev:{name}"]
        argv += ["-qtest-log", "none"]
        self._trace_log = directory.path / "trace.log"
        self._trace_reader = TraceReader(self._trace_log)
        # All but interrupts are turned off until they are wanted; QEMU logs none that it was not started with.
        argv += ["-D", str(self._trace_log)]
        for pattern in filter(None, (self.board.interrupts, *self._trace)):
            argv += ["-trace", f"enable={pattern}"]
        self.command = shlex.join(argv)
        self.process = stack.enter_context(
            QemuProcess.start(argv, directory=directory, env=self._build.env, command=self.command)
        )
        qtest = listeners["qtest"].accept(self.process, _START_SECONDS)
        self.qtest = Qtest(qtest, self.process)
        stack.callback(self.qtest.close)
        self.qmp = Qmp(self.process)
        stack.callback(self.qmp.close)
        self.qmp.connect(listeners["qmp"].accept(self.process, _START_SECONDS), _START_SECONDS)
        self.qtest.batch(place(self.board))
        self._check_devices()
        if self._trace:
            self.trace(enable=False)
            self.take_trace_events()

    def _check_devices(self) -> None:
        """Every edu must answer where it was placed.

        Raises:
            VmmError: one does not: nothing could be said of any DMA.
        """
        answers = self.qtest.batch([f"readl {self.bars[entry.id] + _EDU_IDENTIFICATION:#x}" for entry in DEVICES])
        for entry, answer in zip(DEVICES, answers, strict=True):
            if int(answer, 16) & 0xFFFF != 0x00ED:
                raise VmmError(
                    f"{entry.id} at {entry.address} identifies itself as {answer}, not 0x...00ed",
                    hint="this QEMU has another board or another edu than is known here",
                    evidence=self.command,
                )

    def _set_slot_power(self, port: Bridge, *, on: bool) -> None:
        """PCI Express slot control register, power controller control (PCI Express Base 5.0, 7.5.3.10)."""
        at = configuration(self.board, port.address, self._express_capability(port) + 0x18)
        power_off, power_indicator_off = 1 << 10, 0b11 << 8
        control = self.read(at, 2) & ~(power_off | power_indicator_off)
        control |= 0b01 << 8 if on else power_off | power_indicator_off
        self.write(at, control, 2)

    def _express_capability(self, port: Bridge) -> int:
        at = self.read(configuration(self.board, port.address, 0x34), 1)
        while at:
            if self.read(configuration(self.board, port.address, at), 1) == 0x10:
                return at
            at = self.read(configuration(self.board, port.address, at + 1), 1)
        raise Unsupported(f"{port.id} has no PCI Express capability")
