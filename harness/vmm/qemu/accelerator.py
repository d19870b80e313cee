"""Which accelerator to use, found by running guest instructions on it.

`/dev/kvm` can be there, open, and answer KVM_CREATE_VM, and still never run a guest, or run the first instructions of
one. So a firmware image of a dozen instructions is run that ends QEMU with a status of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts.cache import Cache
from harness.artifacts.qemu import QemuBuild
from harness.errors import HostError, VmmTimeout
from harness.vmm.qemu.arguments import Arguments
from harness.vmm.qemu.command import Accelerator, machine_arguments
from harness.vmm.qemu.process import QemuProcess
from harness.vmm.rundir import RunDirectory

__all__ = ["Choice", "cached", "choose"]

_KVM_SECONDS = 2.0
_TCG_SECONDS = 20.0
_VALUE = 0x2A
_STATUS = _VALUE << 1 | 1  # QEMU, hw/misc/debugexit.c
_ROM_BYTES = 64 * 1024

# Where the processor starts, at 4 GiB - 16 in 16-bit mode, it may still be run by an emulator in the host's kernel that
# knows few instructions: so the program goes on to 32-bit mode and uses the x87 and MMX units, as a kernel would.
_RESET = (0xFFF0, "e9 0d 00")  # jmp 0
_CODE16 = (
    0x0000,
    "fa"  # cli
    "2e 66 0f 01 16 40 00"  # lgdtl %cs:0x40
    "0f 20 c0 0c 01 0f 22 c0"  # CR0.PE = 1
    "66 ea 20 00 ff ff 08 00",  # ljmpl $8, $0xffff0020
)
_CODE32 = (
    0x0020,
    "d9 e8"  # fld1
    "0f ef c0"  # pxor %mm0, %mm0
    f"b0 {_VALUE:02x} e6 f4"  # outb $_VALUE, $0xf4
    "f4",  # hlt
)
_GDTR = (0x0040, "0f 00 48 00 ff ff")  # 16 bytes at 0xffff0048
_GDT = (0x0048, "00 00 00 00 00 00 00 00 ff ff 00 00 00 9a cf 00")  # none; 32-bit code, all 4 GiB


@dataclass(frozen=True, slots=True)
class Choice:
    """The accelerator to use.

    Attributes:
        accelerator: which.
        rejected: why KVM, which is faster, is not used; empty when it is.
    """

    accelerator: Accelerator
    rejected: str = ""


def cached(build: QemuBuild, cache: Cache) -> Choice:
    """Like `choose`, tried once for each build in each life of the host: what it finds can change with a reboot."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    key = hashlib.sha256(f"{boot_id} {build.argv_prefix}".encode()).hexdigest()[:32]
    return cache.remember(key, "accelerator", Choice, lambda: choose(build))


def choose(build: QemuBuild) -> Choice:
    """Try KVM, then TCG; at most 2 s for KVM.

    Raises:
        HostError: neither runs a guest: this QEMU does not work here.
    """
    rejected = _trial(build, Accelerator.KVM, _KVM_SECONDS)
    if not rejected:
        return Choice(Accelerator.KVM)
    failure = _trial(build, Accelerator.TCG, _TCG_SECONDS)
    if failure:
        raise HostError(
            f"{build.name} runs no guest on this host, neither with KVM nor with TCG",
            hint="use another QEMU build",
            evidence=f"kvm: {rejected}\ntcg: {failure}",
        )
    return Choice(Accelerator.TCG, rejected)


def _trial(build: QemuBuild, accelerator: Accelerator, deadline: float) -> str:
    """Why no guest instruction was seen to run; empty when they were."""
    with RunDirectory.create() as directory:
        image = directory.path / "exit.rom"
        image.write_bytes(_rom())
        arguments = Arguments(
            (
                ("-nodefaults",),
                ("-no-user-config",),
                ("-display", "none"),
                ("-no-reboot",),
                *machine_arguments(accelerator),
                ("-m", "16M"),
                ("-bios", str(image)),
                ("-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"),
            )
        )
        command = arguments.shell(build.argv_prefix, build.env)
        argv = [*build.argv_prefix, *arguments]
        with QemuProcess.start(argv, directory=directory, env=build.env, command=command) as process:
            try:
                status = process.wait(deadline)
            except VmmTimeout:
                return f"a guest did not run a dozen instructions in {deadline:g} s: QEMU {_first_line(process)}"
            if status == _STATUS:
                return ""
            return f"QEMU {process.status}: {_first_line(process)}"


def _rom() -> bytes:
    rom = bytearray(_ROM_BYTES)
    for offset, text in (_RESET, _CODE16, _CODE32, _GDTR, _GDT):
        part = bytes.fromhex(text)
        rom[offset : offset + len(part)] = part
    return bytes(rom)


def _first_line(process: QemuProcess) -> str:
    """What it complained of first: what follows is registers."""
    lines = process.stderr.strip().splitlines()
    return lines[0] if lines else "said nothing"
