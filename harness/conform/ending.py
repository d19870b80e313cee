"""What is said of a QEMU that has ended, or that does not answer any more."""

from __future__ import annotations

from harness.conform.divergence import Divergence, Kind
from harness.conform.machine import ConformMachine
from harness.errors import VmmError
from harness.model.unit import Unit
from harness.vmm.qemu.stacks import stacks

__all__ = ["ending"]

_LAST_WORDS = 200  # characters of QEMU's last message that a signature has


def ending(
    target: str, kind: Kind, error: VmmError, step: int, machine: ConformMachine, unit: Unit, registers: int
) -> Divergence:
    """The divergence that it is.

    Args:
        target: name of it, for the signature.
        kind: CRASH or HANG.
        error: what was raised.
        step: number of the program's last step that was done.
        machine: whose QEMU it is; it still has its directory.
        unit: knows the names of registers,
        registers: and this is the physical address of offset 0 of them.
    """
    process = machine.process
    asked = _asked(machine.qtest.unanswered, unit, registers)
    detail = [str(error)]
    if kind is Kind.HANG:
        what = asked or process.status
        detail.append(stacks(process.pid))
    elif words := process.stderr.strip().splitlines():
        what = words[-1]
    else:
        what = f"{process.status} at {asked}" if asked else process.status
    return Divergence(
        kind=kind, signature=f"{target}: {kind}: {what[:_LAST_WORDS]}", step=step, detail="\n".join(detail)
    )


def _asked(command: str, unit: Unit, registers: int) -> str:
    """What a qtest command asks, without addresses and values but for the name of a register."""
    name, *arguments = command.split()[:2] or [""]
    place = unit.register_at(int(arguments[0], 16) - registers) if name.startswith(("read", "write")) else None
    return f"{name} of {place.name}" if place is not None else name
