"""Fills the buffers of a machine's devices, while its IOMMU does nothing yet."""

from __future__ import annotations

from harness.conform.edu import BUFFER_BYTES, CLOCK_STEP, first_buffer, order
from harness.conform.layout import DEVICES
from harness.conform.machine import ConformMachine
from harness.conform.memory import DATA
from harness.errors import VmmError
from harness.model.access import AccessKind

__all__ = ["check_buffers", "fill_buffers"]

_PAGE = 4096
_PLACES = {entry.id: DATA.start + number * _PAGE for number, entry in enumerate(DEVICES)}
_FIRST = {entry.id: first_buffer(number) for number, entry in enumerate(DEVICES)}


def fill_buffers(machine: ConformMachine) -> None:
    """Have each device read what is in its buffer at first; memory has it afterwards too."""
    for id, at in _PLACES.items():
        machine.ram[at : at + BUFFER_BYTES] = _FIRST[id]
    _move_all(machine, AccessKind.READ)


def check_buffers(machine: ConformMachine) -> None:
    """Have each device write its buffer, and see that it is as at first.

    Raises:
        VmmError: it is not: no DMA of that device means anything.
    """
    ram = machine.ram
    for at in _PLACES.values():
        ram[at : at + BUFFER_BYTES] = bytes(BUFFER_BYTES)
    _move_all(machine, AccessKind.WRITE)
    for entry in DEVICES:
        at = _PLACES[entry.id]
        if ram[at : at + BUFFER_BYTES] != _FIRST[entry.id]:
            raise VmmError(
                f"{entry.id} at {entry.address} does not give back what it was made to read",
                hint="either this edu does no DMA, or the IOMMU stands in its way before anything set it up",
                evidence=machine.command,
            )


def _move_all(machine: ConformMachine, kind: AccessKind) -> None:
    """The whole buffer of each device, to or from its place in memory."""
    lines: list[str] = []
    for id, at in _PLACES.items():
        lines += order(machine.bars[id], kind, machine.board.ram + at, BUFFER_BYTES, 0)
    if machine.uses_clock_steps:
        lines.append(CLOCK_STEP)
    machine.qtest.batch(lines)
    machine.wait_until_done(machine.bars[DEVICES[-1].id])
