"""Machines with an edu device behind an IOMMU, with nothing in them that runs, driven from the host.

The processor halts at once, and with `-icount sleep=off` the machine's clock then jumps to whatever comes next: nobody
waits for an edu's 100 ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from vmm_bare import ARM, MEMORY_MIB, RISCV, bare_machine
from vmm_rig import HALT_ROM, function

from harness.model.memory import CallableMemory, Region
from harness.pci import Address
from harness.vmm.qemu.edu import Edu
from harness.vmm.qemu.pci import COMMAND_BUS_MASTER, COMMAND_MEMORY, PciFunction
from harness.vmm.qemu.qtest import Qtest, Width

__all__ = ["MEMORY_BYTES", "REQUESTER", "Bench", "GuestMemory", "StartBench", "arm_bench", "pc_bench", "riscv_bench"]

MEMORY_BYTES = MEMORY_MIB << 20
_EDU = Address(0, 5)
REQUESTER = _EDU.requester
"""Requester id of the edu device."""
_WORDS = ("-accel", "tcg", "-icount", "shift=0,sleep=off")
_EDU_WORDS = ("-device", f"edu,addr={_EDU.device:x},dma_mask=0xffffffffffffffff")


class GuestMemory(CallableMemory):
    """The memory of a machine, over qtest.

    Attributes:
        start: physical address of its first byte.
    """

    def __init__(self, qtest: Qtest, start: int) -> None:
        super().__init__(qtest.read, [Region(start, MEMORY_BYTES)])
        self._qtest = qtest
        self.start = start

    def write(self, address: int, data: bytes) -> None:
        """See `WritableMemory`."""
        self._regions.find(address, len(data))
        self._qtest.write(address, data)

    def write_u64(self, address: int, value: int) -> None:
        """See `WritableMemory`."""
        self.write(address, value.to_bytes(8, "little"))


@dataclass(frozen=True)
class Bench:
    """A machine with an edu device behind an IOMMU.

    Attributes:
        qtest: the channel to it.
        memory: its memory.
        edu: its device.
        registers: address of the IOMMU's registers.
    """

    qtest: Qtest
    memory: GuestMemory
    edu: Edu
    registers: int

    def read(self, offset: int, size: int) -> int:
        """Read a register of the IOMMU."""
        return self.qtest.read_value(self.registers + offset, Width(size))

    def write(self, offset: int, value: int, size: int) -> None:
        """Write a register of the IOMMU."""
        self.qtest.write_value(self.registers + offset, value, Width(size))

    def place(self, offset: int) -> int:
        """Address of what lies that far into memory."""
        return self.memory.start + offset

    def wait(self, what: str, done: Callable[[], bool]) -> None:
        """Wait until the IOMMU has done something."""
        end = time.monotonic() + 5
        while not done():
            assert time.monotonic() < end, f"the IOMMU does not finish: {what}"
            time.sleep(0.002)


StartBench: TypeAlias = Callable[..., AbstractContextManager[Bench]]


@contextmanager
def pc_bench(parent: Path, suite: str, *words: str) -> Iterator[Bench]:
    """A q35 with a VT-d or AMD-Vi unit: QEMU, hw/i386/intel_iommu_internal.h and hw/i386/amd_iommu.h."""
    registers = 0xFED8_0000 if any("amd-iommu" in word for word in words) else 0xFED9_0000
    words = ("-machine", "q35", *_WORDS, *words, *_EDU_WORDS)
    with bare_machine(parent, suite, "amd64", HALT_ROM, *words) as qtest:
        edu = Edu(function(qtest, _EDU.device))
        edu.enable()
        yield Bench(qtest, GuestMemory(qtest, 0), edu, registers)


@contextmanager
def arm_bench(parent: Path, suite: str, *words: str) -> Iterator[Bench]:
    """An Arm `virt` with an SMMU: QEMU, hw/arm/virt.c."""
    wait = bytes.fromhex("7f2003d5 ffffff17")  # wfi; b to the wfi
    words = ("-machine", "virt,iommu=smmuv3,gic-version=3", "-cpu", ARM.processor, *_WORDS, *words, *_EDU_WORDS)
    with bare_machine(parent, suite, ARM.arch, wait, *words) as qtest:
        edu = _edu(qtest, ARM.ecam, 0x1000_0000)
        yield Bench(qtest, GuestMemory(qtest, ARM.ram), edu, 0x0905_0000)


@contextmanager
def riscv_bench(parent: Path, suite: str, *words: str) -> Iterator[Bench]:
    """A RISC-V `virt` with an IOMMU that is a PCI function, at 00:01.0: QEMU, hw/riscv/virt.c."""
    wait = bytes.fromhex("73005010 6ff0dfff")  # wfi; j to the wfi
    words = ("-machine", "virt,aia=aplic-imsic", "-cpu", RISCV.processor, *_WORDS, *words, *_EDU_WORDS)
    with bare_machine(parent, suite, RISCV.arch, wait, *words) as qtest:
        edu = _edu(qtest, RISCV.ecam, 0x4000_0000)
        unit = PciFunction(qtest, RISCV.ecam, Address(0, 1))
        unit.write(0x10, 0x4010_0000, Width.LONG)
        unit.write(0x14, 0, Width.LONG)
        unit.enable(COMMAND_MEMORY | COMMAND_BUS_MASTER)
        yield Bench(qtest, GuestMemory(qtest, RISCV.ram), edu, unit.bar(0))


def _edu(qtest: Qtest, ecam: int, bar: int) -> Edu:
    """The device, with its BAR placed as firmware would have done."""
    found = PciFunction(qtest, ecam, _EDU)
    found.write(0x10, bar, Width.LONG)
    edu = Edu(found)
    edu.enable()
    return edu
