"""What software configures of a RISC-V IOMMU beside its queues: features, the mode, vectors (6.4, 6.5, 6.28)."""

from __future__ import annotations

from dataclasses import replace

from harness.model.engine import NotModelled
from harness.model.riscv.queue_control import QueueControl
from harness.model.riscv.register_fields import DDTP, ICVEC
from harness.model.riscv.register_file import RegisterFile
from harness.model.riscv.registers import IommuMode, RiscvIommuRegisters

__all__ = ["Configuration"]

_MODE = DDTP["iommu_mode"]
_OF_QUEUES = ("cqb", "cqh", "cqt", "cqcsr", "fqb", "fqh", "fqt", "fqcsr", "pqb", "pqh", "pqt", "pqcsr", "ipsr", "icvec")


class Configuration:
    """The registers that say how requests are translated, and where interrupts go.

    Args:
        registers: as read right after a reset.
        file: the registers as they are.
        vectors: how many interrupt vectors there are.

    Attributes:
        mode_is_unknown: a mode that is not legal was written, and so ddtp has one, of which nothing is known.
    """

    def __init__(self, registers: RiscvIommuRegisters, file: RegisterFile, vectors: int) -> None:
        self._at_reset = replace(registers, **dict.fromkeys(_OF_QUEUES, 0), msi_cfg_tbl=())  # type: ignore[arg-type]
        self._file = file
        self._vectors = vectors
        self.mode_is_unknown = False

    def reset(self) -> None:
        """As at first."""
        self.mode_is_unknown = False

    def registers(self) -> RiscvIommuRegisters:
        """Those that translation depends on, as they are; the others are zero."""
        values = self._file.values
        mode = _MODE.get(values["ddtp"])
        ddtp = values["ddtp"] if IommuMode.BARE < mode <= IommuMode.THREE_LEVEL else mode
        return replace(self._at_reset, fctl=values["fctl"], ddtp=ddtp)

    def write_features(self, writable: int, bits: int, queues: tuple[QueueControl, ...]) -> None:
        """A write of these bits of fctl.

        Raises:
            NotModelled: it changes a feature while the IOMMU, or a queue, is on: not specified (6.4).
        """
        file = self._file
        values = file.values
        changed = (values["fctl"] ^ bits | file.unknown("fctl")) & writable
        is_off = not self.mode_is_unknown and _MODE.get(values["ddtp"]) == IommuMode.OFF
        if changed and not (is_off and not any(values[queue.csr] & queue.on for queue in queues)):
            raise NotModelled("fctl is changed while the IOMMU or one of its queues is on: that is not specified")
        file.store("fctl", writable, bits)

    def write_directory(self, writable: int, bits: int) -> None:
        """A write of these bits of ddtp.

        Raises:
            NotModelled: a change of mode that is not allowed (6.5), or to one that needs what is not known.
        """
        file = self._file
        if writable & _MODE.mask:
            after = _MODE.get(bits)
            if after > IommuMode.THREE_LEVEL:
                file.store("ddtp", writable, bits)
                file.forget("ddtp", _MODE.mask)
                self.mode_is_unknown = True
                return
            translates = self.mode_is_unknown or _MODE.get(file.values["ddtp"]) > IommuMode.BARE
            if translates and after != IommuMode.OFF:
                raise NotModelled(f"ddtp.iommu_mode is set to {after} without having been Off before: not specified")
            self.mode_is_unknown = False
        file.store("ddtp", writable, bits)
        if not self.mode_is_unknown and _MODE.get(file.values["ddtp"]) > IommuMode.BARE:
            unknown = next((key for key in ("fctl", "ddtp") if file.unknown(key)), None)
            if unknown is not None:
                raise NotModelled(f"translation is turned on, and not all of {unknown} is known")

    def write_vectors(self, writable: int, bits: int) -> None:
        """A write of these bits of icvec: instead of a vector that is not there the field has another one (6.28)."""
        self._file.store("icvec", writable, bits)
        for field in ICVEC.fields:
            if field.mask & writable and field.get(bits) >= self._vectors:
                self._file.forget("icvec", field.mask)
