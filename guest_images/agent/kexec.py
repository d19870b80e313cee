"""Starting another kernel from this one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

_KEXEC_FILE_LOAD = 320  # Linux, arch/x86/entry/syscalls/syscall_64.tbl
_ON_CRASH = 2  # Linux, include/uapi/linux/kexec.h
_REBOOT_KEXEC = 0x45584543  # Linux, include/uapi/linux/reboot.h
_BLOCK = 1 << 20


def kexec_load(device: str, kernel: tuple[int, int], initrd: tuple[int, int], arguments: str, crash: bool) -> None:
    """Load a bzImage and its initrd from a disk, each given as offset and bytes: kexec_file_load(2).

    With `crash` they are for a crash of this kernel, else for `kexec_start`.
    """
    import ctypes  # here, and not above: few agents need it, and each would take longer to start

    libc = ctypes.CDLL(None, use_errno=True)
    line = arguments.encode()
    files = [_copied(device, *where) for where in (kernel, initrd)]
    before = [ctypes.c_long(word) for word in (_KEXEC_FILE_LOAD, *files, len(line) + 1)]
    failed = libc.syscall(*before, line, ctypes.c_long(_ON_CRASH if crash else 0))
    error = ctypes.get_errno()
    for file in files:
        os.close(file)
    if failed:
        raise OSError(error, os.strerror(error))


def kexec_start(seconds: float) -> None:
    """Start what was loaded, after that time; the drivers shut their devices down first."""
    import ctypes

    if os.fork() == 0:
        try:
            time.sleep(seconds)
            ctypes.CDLL(None).reboot(_REBOOT_KEXEC)
        finally:
            os._exit(1)  # nothing was loaded: there must not be two agents at one port


def _copied(device: str, offset: int, size: int) -> int:
    """A file that nobody may write to any more, with what stands on a disk; its descriptor."""
    with open(device, "rb") as disk, open(os.memfd_create("kexec"), "wb") as file:
        disk.seek(offset)
        while size > 0:
            data = disk.read(min(size, _BLOCK))
            if not data:
                raise EOFError(f"{device} ends {size} bytes too soon")
            size -= file.write(data)
        file.flush()
        return os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)


OPERATIONS: dict[str, Callable[..., object]] = {f.__name__: f for f in (kexec_load, kexec_start)}
