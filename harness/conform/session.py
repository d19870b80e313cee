"""A machine that runs programs of a target, and another one in its place when it breaks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from types import TracebackType
from typing import Self

from harness.artifacts.qemu import QemuBuild
from harness.conform.command import Clock, MachineWords, with_native_hotplug
from harness.conform.divergence import Divergence
from harness.conform.export import QtestScript, qtest_script
from harness.conform.machine import ConformMachine
from harness.conform.program import Program
from harness.conform.run import Result, Runner
from harness.conform.target import Target
from harness.conform.triage import Known
from harness.errors import SpecError
from harness.model.unit import Coverage
from harness.vmm.qemu.capabilities import Capabilities

__all__ = ["Session", "clock_of"]

_SIGNATURES = 4096  # that are remembered


def clock_of(capabilities: Capabilities) -> Clock:
    """The qtest accelerator where the build has it."""
    return Clock.QTEST if "qtest" in capabilities.accelerators else Clock.TCG


class Session:
    """A machine that runs programs of a target, and another one in its place when it breaks.

    Args:
        target: of all programs.
        build: the QEMU,
        capabilities: and what it can do.
        known: divergences that are expected.
        coverage: where it is noted.

    Attributes:
        coverage: the same.
        words: of the machine's command line.
        clock: of the build.

    Raises:
        Unsupported: this build has no such target.
    """

    def __init__(
        self,
        target: Target,
        build: QemuBuild,
        capabilities: Capabilities,
        known: tuple[Known, ...],
        coverage: Coverage,
    ) -> None:
        self.words: MachineWords = with_native_hotplug(target.words(capabilities), capabilities)
        self.clock = clock_of(capabilities)
        self._target = target
        self._build = build
        self._carries_on = lru_cache(maxsize=_SIGNATURES)(partial(_carries_on, known))
        self.coverage = coverage
        self._machine: ConformMachine | None = None
        self._runner: Runner | None = None

    @property
    def runner(self) -> Runner:
        """Of the machine that runs now; one is started where none does."""
        if self._runner is None:
            trace = self._target.trace_events
            self._machine = ConformMachine(self._build, self.words, clock=self.clock, trace=trace)
            self._machine.__enter__()
            try:
                self._runner = Runner(self._machine, self._target, self.coverage, self._carries_on)
            except BaseException:
                self._end()
                raise
        return self._runner

    def run(self, program: Program, *, thorough: bool = False, apart: bool = False, traced: bool = False) -> Result:
        """Run a program; the machine is given up if it breaks, or cannot be reset.

        Args:
            program: of the target.
            thorough, apart: as for `Runner.run`.
            traced: have the names of QEMU's trace events count as coverage.
        """
        machine = self.runner.machine
        if traced:
            machine.trace(enable=True)
        result = self.runner.run(program, thorough=thorough, apart=apart)
        if traced and not result.broken:
            machine.trace(enable=False)
            for name in machine.take_trace_events():
                self.coverage.note("trace", name)
        if result.broken or not self.runner.bound.is_reset:
            self._end()
        return result

    def script(self, program: Program, divergence: Divergence | None) -> str:
        """The program as a qtest script that ends with what shows a divergence; empty where it cannot be said so."""
        shown = [] if divergence is None else [divergence.signature, *divergence.detail.splitlines()]
        try:
            script = self.qtest_script(program, divergence)
        except SpecError:
            return ""
        return script.text([f"QEMU {self._build.version}, {program.target}", *shown])

    def qtest_script(self, program: Program, divergence: Divergence | None) -> QtestScript:
        """The same with its parts.

        Raises:
            SpecError: as `export.qtest_script` does.
        """
        probe = None if divergence is None else divergence.probe
        return qtest_script(
            program,
            self.words,
            self.runner.bound.registers,
            self.clock,
            [probe] if probe else [],
            binary=self._build.binary.name,
            prepare=self._target.prepare,
            looks=self.runner.evidence.lines,
            told=None if divergence is None else divergence.told,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._machine is not None:
            self._machine.__exit__(None, None, None)
        self._runner = self._machine = None


def _carries_on(known: Sequence[Known], signature: str) -> bool:
    """Whether a program goes on after a divergence with that signature."""
    return any(entry.carries_on and entry.describes(signature) for entry in known)
