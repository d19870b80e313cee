"""A lab whose machines are not what they are said to be: they are started as a sabotage has it, and told to no case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

from harness.guest.guest import Guest
from harness.images.keys import Keys
from harness.lab import Lab
from harness.live.machine import LiveMachine
from harness.model.access import Access, AccessKind, Mapping, Outcome
from harness.model.engine import MsiOutcome, MsiWrite
from harness.sabotage.catalogue import Sabotage
from harness.sabotage.tamper import RogueWrite
from harness.spec import Machine
from harness.vmm.protocol import LinuxBoot
from harness.vmm.qemu.command import Options
from harness.vmm.qemu.edu import Edu
from harness.vmm.qemu.machine import QemuMachine

__all__ = ["SabotagedLab"]


@dataclass(frozen=True, slots=True)
class SabotagedLab(Lab):
    """A lab, and what is wrong with its machines.

    Attributes:
        sabotage: what is.
    """

    sabotage: Sabotage

    @classmethod
    def of(cls, lab: Lab, sabotage: Sabotage) -> Self:
        """The same artifacts, put to another use."""
        return cls(**{field.name: getattr(lab, field.name) for field in fields(lab)}, sabotage=sabotage)

    def linux(self, spec: Machine, keys: Keys) -> LinuxBoot:
        """See `Lab.linux`; with the sabotage's words at the end of the command line, so that they win."""
        boot = Lab.linux(self, spec, keys)
        return replace(boot, args=(*boot.args, *self.sabotage.kernel_args))

    def options(self, spec: Machine, machine: str = "q35") -> Options:
        """See `Lab.options`; with the sabotage's devices and arguments."""
        options = Lab.options(self, spec, machine)
        return replace(options, alter=self.sabotage.alter, extra=self.sabotage.arguments)

    def live(self, vmm: QemuMachine, guest: Guest) -> LiveMachine:
        """See `Lab.live`."""
        return _Tampered(vmm, guest, self)


class _Tampered(LiveMachine):
    """A machine at which the sabotage is at work each time that somebody is about to look."""

    def __init__(self, vmm: QemuMachine, guest: Guest, lab: SabotagedLab) -> None:
        super().__init__(vmm, guest, lab.require_modules)
        self._sabotage = lab.sabotage

    def expect(self, id: str, iova: int, kind: AccessKind, length: int) -> tuple[Access, Outcome, str]:
        self._sabotage.before_dma(self, id, iova)
        return self._sabotage.outcome(self, super().expect(id, iova, kind, length))

    def mappings(self, id: str) -> tuple[Mapping, ...]:
        self._sabotage.before_mappings(self, id)
        return super().mappings(id)

    def expect_interrupt(self, id: str, address: int, data: int) -> tuple[MsiWrite, MsiOutcome, str]:
        self._sabotage.before_interrupt(self)
        return super().expect_interrupt(id, address, data)

    def rogue(self, id: str) -> Edu:
        function = super().rogue(id).function
        return _TamperedEdu(function, lambda write: self._sabotage.write(self, write), id)

    def unplug(self, id: str) -> None:
        address = self.address(id)
        super().unplug(id)
        self._sabotage.after_unplug(self, id, address)

    def go_on_from(self, before: LiveMachine) -> None:
        super().go_on_from(before)
        self._sabotage.after_move(self)


@dataclass(frozen=True, slots=True)
class _TamperedEdu(Edu):
    """A rogue device, something else in the place of whose writes is done."""

    write: Callable[[RogueWrite], None]
    id: str

    def dma_from_device(self, offset: int, iova: int, count: int, *, deadline: float = 5.0) -> None:
        def do(iova: int) -> None:
            Edu.dma_from_device(self, offset, iova, count, deadline=deadline)

        self.write(RogueWrite(do, self.id, iova, count))
