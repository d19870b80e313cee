"""Code in a guest's kernel that runs into a fault: real faults, with all that the kernel says and does of them.

Debian's kernels cannot be asked for one. They have neither `lkdtm` nor `test_lockup`: CONFIG_LKDTM and
CONFIG_TEST_LOCKUP are not set in the configurations of 6.1, 6.12 and 7.2, and `find` shows no such module in their
packages. So the host writes the code, over a system call that nobody else makes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from harness.live.machine import LiveMachine

# Intel SDM, volume 2: opcodes of a jump and a call by 32 bits from the next instruction on.
_RELATIVE = {"jmp": b"\xe9", "call": b"\xe8"}


@dataclass(frozen=True, slots=True)
class KernelFault:
    """One way for a kernel to go wrong.

    Attributes:
        code: what leads there: bytes in hexadecimal, and jumps and calls.
        says: what the kernel says of it.
        prepare: shell command that has it seen soon.
    """

    code: tuple[str, ...]
    says: str
    prepare: str = "true"


KERNEL_FAULTS = {
    "oops": KernelFault(
        code=("31 c0", "8b 00"),  # xor eax, eax; mov eax, [rax]
        says="BUG: kernel NULL pointer dereference, address: 0000000000000000",
    ),
    # mm/usercopy.c: BUG() is all that this function is for.
    "BUG": KernelFault(code=("31 ff", "31 f6", "jmp usercopy_abort"), says="kernel BUG at mm/usercopy.c:"),
    # push 0; mov rdi, rsp; and again: a lock on the stack, taken twice.
    "lockup": KernelFault(
        code=("6a 00", "48 89 e7", "call _raw_spin_lock", "48 89 e7", "call _raw_spin_lock"),
        says="BUG: soft lockup - CPU#0 stuck for",
        prepare="echo 1 > /proc/sys/kernel/watchdog_thresh",
    ),
    "hung task": KernelFault(
        code=("bf ff ff ff 7f", "jmp msleep"),  # mov edi, 2147483647
        says="INFO: task hostname:",
        prepare="cd /proc/sys/kernel; echo 1 > hung_task_check_interval_secs; echo 1 > hung_task_timeout_secs",
    ),
}
"""By the kind of problem that the harness must see in each."""

_SYSTEM_CALL = "__x64_sys_sethostname"
_SILENT_HANG = ("tick_handle_periodic", "hrtimer_interrupt", "__schedule")
_START = "_text"


@dataclass(frozen=True, slots=True)
class KernelCode:
    """The code of one kernel as it lies in memory: the same in all machines that are started from one template.

    Attributes:
        addresses: virtual, of functions by their names.
        physical: guest physical address where the code begins.
    """

    addresses: Mapping[str, int]
    physical: int

    @classmethod
    def of(cls, live: LiveMachine) -> KernelCode:
        """Ask a guest."""
        called = {line.split()[1] for fault in KERNEL_FAULTS.values() for line in fault.code if _is_relative(line)}
        names = "|".join((_START, _SYSTEM_CALL, *_SILENT_HANG, *sorted(called)))
        lines = live.guest.run(f"grep -E ' ({names})$' /proc/kallsyms", deadline_seconds=60).stdout.splitlines()
        iomem = live.agent.read_file("/proc/iomem")
        found = re.search(r"([0-9a-f]+)-[0-9a-f]+ : Kernel code", iomem)
        assert found is not None, iomem
        addresses = {name: int(address, 16) for address, _, name in map(str.split, lines)}
        return cls(addresses, int(found[1], 16))

    def provoke(self, live: LiveMachine, fault: KernelFault) -> str:
        """Put a fault into a guest; the shell command that runs into it."""
        self._write(live, _SYSTEM_CALL, fault.code)
        return f"({fault.prepare}); hostname x"

    def hang_in_silence(self, live: LiveMachine) -> None:
        """Have a guest halt its processor for good where its next timer interrupt comes, or its next task's turn."""
        for symbol in _SILENT_HANG:
            self._write(live, symbol, ("fa f4 eb fd",))  # cli; hlt; jmp back to the hlt

    def _write(self, live: LiveMachine, symbol: str, lines: tuple[str, ...]) -> None:
        at = self.addresses[symbol]
        code = b""
        for line in lines:
            if _is_relative(line):
                word, target = line.split()
                code += _RELATIVE[word] + struct.pack("<i", self.addresses[target] - (at + len(code) + 5))
            else:
                code += bytes.fromhex(line)
        live.vmm.memory.write(at - self.addresses[_START] + self.physical, code)


def _is_relative(line: str) -> bool:
    return line.split()[0] in _RELATIVE
