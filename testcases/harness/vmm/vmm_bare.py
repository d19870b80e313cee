"""Machines that the library does not start: any board and any word on the command line, and no guest."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts.cache import Cache
from harness.artifacts.qemu import find_qemu
from harness.vmm.qemu.listener import Listener
from harness.vmm.qemu.process import QemuProcess
from harness.vmm.qemu.qtest import Qtest
from harness.vmm.rundir import RunDirectory

__all__ = ["ARM", "RISCV", "Virt", "bare_machine"]

_MEMORY_MIB = 128


@dataclass(frozen=True)
class Virt:
    """Where a `virt` machine has what is needed here (QEMU, hw/arm/virt.c and hw/riscv/virt.c)."""

    arch: str
    processor: str
    ram: int
    fw_cfg: int
    ecam: int


ARM = Virt("arm64", "cortex-a57", ram=0x4000_0000, fw_cfg=0x0902_0000, ecam=0x40_1000_0000)
RISCV = Virt("riscv64", "rv64", ram=0x8000_0000, fw_cfg=0x1010_0000, ecam=0x3000_0000)


@contextmanager
def bare_machine(parent: Path, suite: str, arch: str, firmware: bytes, *words: str) -> Iterator[Qtest]:
    """A machine that the host drives over qtest; it ends with the context.

    Args:
        parent: directory for its run directory and its firmware.
        suite: whose QEMU it is.
        arch: under Debian's name.
        firmware: what its processor runs.
        words: of the command line: machine, processor, devices.
    """
    build = find_qemu(suite, arch, Cache())
    with ExitStack() as stack:
        directory = stack.enter_context(RunDirectory.create(parent))
        image = directory.path / "firmware.rom"
        image.write_bytes(firmware)
        listener = stack.enter_context(Listener(directory.path / "qtest.sock"))
        argv = [*build.argv_prefix, *words, "-m", f"{_MEMORY_MIB}M", "-bios", str(image)]
        argv += ["-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-chardev", f"socket,id=qtest,path={listener.path}", "-qtest", "chardev:qtest", "-qtest-log", "none"]
        process = stack.enter_context(
            QemuProcess.start(argv, directory=directory, env=build.env, command=shlex.join(argv))
        )
        yield Qtest(stack.enter_context(listener.accept(process, 20.0)), process)
