"""Writes programs: what builders of tables store becomes steps."""

from __future__ import annotations

import mmap

from harness.conform.command import RAM_BYTES
from harness.conform.program import Dma, Plug, Program, Read, Reset, Step, Store, Unplug, Write
from harness.model.access import AccessKind
from harness.model.memory import MappedMemory, Region

__all__ = ["ProgramWriter"]


class ProgramWriter:
    """A program in the making.

    Args:
        target: name of what it is for.
        seed: that it comes from.
        ram: physical address where memory begins.

    Attributes:
        ram: the same.
        memory: a store to it becomes a step, unless it changes nothing; reads give what was stored before.
    """

    def __init__(self, target: str, seed: int, ram: int) -> None:
        self._target = target
        self._seed = seed
        self.ram = ram
        self._steps: list[Step] = []
        self.memory = _Recorder(self._steps, ram)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write `size` bytes of the registers."""
        self._steps.append(Write(offset, size, value))

    def read(self, offset: int, size: int) -> None:
        """Read `size` bytes of the registers."""
        self._steps.append(Read(offset, size))

    def dma(self, device: str, kind: AccessKind, iova: int, length: int, offset: int) -> None:
        """See `Dma`."""
        self._steps.append(Dma(device, kind, iova, length, offset))

    def reset(self) -> None:
        """Reset the machine."""
        self._steps.append(Reset())

    def unplug(self, device: str) -> None:
        """Take a device away."""
        self._steps.append(Unplug(device))

    def plug(self, device: str) -> None:
        """Put it back."""
        self._steps.append(Plug(device))

    def program(self) -> Program:
        """All steps so far."""
        return Program(self._target, self._seed, tuple(self._steps))


class _Recorder:
    """Memory that is zero at first, and whose changes are steps; stores that follow each other become one."""

    def __init__(self, steps: list[Step], ram: int) -> None:
        self._steps = steps
        self._image = MappedMemory(mmap.mmap(-1, RAM_BYTES), [Region(ram, RAM_BYTES)])
        self.read = self._image.read
        self.read_u64 = self._image.read_u64

    def write(self, address: int, data: bytes) -> None:
        """See `WritableMemory`."""
        if self.read(address, len(data)) == data:
            return
        self._image.write(address, data)
        steps = self._steps
        last = steps[-1] if steps else None
        if isinstance(last, Store) and last.address + len(last.data) == address:
            steps[-1] = Store(last.address, last.data + data)
        else:
            steps.append(Store(address, data))

    def write_u64(self, address: int, value: int) -> None:
        """See `WritableMemory`."""
        self.write(address, value.to_bytes(8, "little"))
