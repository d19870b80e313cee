"""Machines for the tests of `vmm`: no guest, a processor that halts at once, devices driven by the host."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.pci import Address
from harness.spec import Device, Iommu, IommuKind, Machine
from harness.vmm.protocol import FirmwareBoot
from harness.vmm.qemu.machine import QemuMachine
from harness.vmm.qemu.pci import PciFunction
from harness.vmm.qemu.process import QemuProcess
from harness.vmm.qemu.qtest import Qtest, Width
from harness.vmm.rundir import RunDirectory

Start = Callable[..., QemuMachine]
"""What the fixture `start` gives: it takes a spec and options, and the machine ends with the test."""

ECAM = 0xB000_0000
_BAR = 0xE000_0000
# 64 KiB of firmware whose reset vector, 16 bytes before its end, is `cli; hlt; jmp` back to the hlt.
_HALT_ROM = bytes.fromhex("fa f4 eb fd").rjust(0xFFF4, b"\0").ljust(0x1_0000, b"\0")


def halt_rom(path: Path) -> FirmwareBoot:
    """Firmware that halts at once, as a file."""
    path.write_bytes(_HALT_ROM)
    return FirmwareBoot(firmware=path)


def spec(*devices: str, iommu: IommuKind = IommuKind.NONE) -> Machine:
    return Machine(iommu=Iommu(kind=iommu), devices=tuple(Device.parse(text) for text in devices), memory_mib=128)


def function(qtest: Qtest, device: int) -> PciFunction:
    """The function on bus 0, with ECAM enabled and its BAR 0 placed, as firmware would have done."""
    # PCIEXBAR: Intel 3 Series (P35) datasheet, 5.1.17; QEMU, hw/pci-host/q35.c
    qtest.write_port(0xCF8, 0x8000_0060, Width.LONG)
    qtest.write_port(0xCFC, ECAM | 1, Width.LONG)
    found = PciFunction(qtest, ECAM, Address(0, device))
    found.write(0x10, _BAR + (device << 20), Width.LONG)
    return found


@contextmanager
def stand_in(directory: RunDirectory, *argv: str) -> Iterator[QemuProcess]:
    """Any program in the place of QEMU."""
    with QemuProcess.start(argv, directory=directory, env={}, command=" ".join(argv)) as process:
        yield process


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does not run in this block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        while not is_stopped(pid):
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
