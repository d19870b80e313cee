"""Moves a running machine into another QEMU process: of the same build, or of another that knows its machine type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from harness.errors import Unsupported
from harness.images.keys import Keys
from harness.lab import Lab
from harness.live.machine import LiveMachine
from harness.spec import DeviceKind
from harness.vmm.protocol import MovedMachine
from harness.vmm.qemu.command import Options
from harness.vmm.qemu.machine import QemuMachine
from harness.vmm.qemu.qtest import Width

__all__ = ["move"]

_BAR0 = 0x10


@contextmanager
def move(machine: LiveMachine, lab: Lab, options: Options | None = None) -> Iterator[LiveMachine]:
    """Move a machine while its guest goes on; the one that is given has stopped then, and the new one is it.

    An edu has no migration state in QEMU: the new machine has a new one in its place, whose registers are put where
    those of the old one were.

    Args:
        machine: to be moved. Its disks are the new one's as well.
        lab: of the QEMU to move it to, with the same kernel.
        options: how the new one is run.

    Raises:
        Unsupported: firmware has started it.
        NotSaved: it has a device that cannot be moved.
        VmmError: the other QEMU does not take it.
    """
    spec = machine.spec
    if spec.start is not None:
        raise Unsupported(
            f"{spec.start.firmware} started this machine: it is not moved, its flash chips would stay behind"
        )
    boot = MovedMachine(
        source=machine.vmm,
        plugged=machine.plugged,
        booted=replace(lab.linux(spec, Keys.generate()), overlay=b""),
    )
    registers = {id: machine.config_space(machine.function(id).address).bar(0) for id in _edus(machine)}
    with (
        QemuMachine.start(spec, lab.qemu, lab.capabilities, boot, options or lab.options(spec)) as vmm,
        lab.enter(vmm, machine.guest.login) as moved,
    ):
        moved.origin = f"moved into another QEMU, {lab.qemu.version}; before that {machine.origin}"
        moved.go_on_from(machine)
        for id, base in registers.items():
            moved.config_space(moved.function(id).address).write(_BAR0, base, Width.LONG)
        yield moved


def _edus(machine: LiveMachine) -> tuple[str, ...]:
    there = (device for device in machine.spec.devices if not device.hotplug or device.id in machine.plugged)
    return tuple(device.id for device in there if device.kind is DeviceKind.EDU)
