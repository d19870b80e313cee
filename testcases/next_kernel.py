"""Another kernel in the place of the one that runs, started by that one: no firmware runs, and no reset is made."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.errors import GuestError
from harness.images.keys import Keys
from harness.lab import Lab
from harness.live.machine import LiveMachine
from harness.vmm.qemu.wiring import disk_node

__all__ = ["load_same_kernel"]

_ALIGNMENT = 1 << 20
_SECTOR = 512
_RESIZE_SECONDS = 10.0
_DELAY_SECONDS = 0.2  # so that the agent can answer


def load_same_kernel(lab: Lab, live: LiveMachine, disk: str, *, crash: bool = False) -> Callable[[], None]:
    """Have the guest load its own kernel and a fresh initrd through a disk; what starts them.

    Args:
        lab: what the machine was made of.
        live: the machine; its login is that of the initrd once that is started.
        disk: id of a virtio-blk, which grows; what stands on it is lost.
        crash: whether they are to be started by a panic.

    Raises:
        Unsupported: the kernel has no kexec_file_load(2), or none for a crash.
    """
    lab.require_option("CONFIG_KEXEC_FILE", "kexec_file_load(2)")
    if crash:
        lab.require_option("CONFIG_CRASH_DUMP", "kernel for a crash")
    keys = Keys.generate()
    boot = lab.linux(live.spec, keys)
    kernel, initrd = lab.kernel.image.read_bytes(), lab.images.named(live.spec.image).archive.read_bytes()
    initrd += bytes(-len(initrd) % 4) + boot.overlay
    behind = len(kernel) + -len(kernel) % _ALIGNMENT
    size = behind + len(initrd) + -len(initrd) % _ALIGNMENT
    live.vmm.qmp.execute("block_resize", {"node-name": disk_node(disk), "size": size})
    with live.vmm.disk(disk).open("r+b") as file:
        file.write(kernel)
        file.seek(behind)
        file.write(initrd)
    node = live.agent.block_device(live.address(disk))
    _wait_for_size(live, node, size)
    arguments = " ".join(boot.args)
    live.agent.kexec_load(node, (0, len(kernel)), (behind, len(initrd)), arguments, crash)

    def start() -> None:
        if crash:
            live.guest.run(f"(sleep {_DELAY_SECONDS}; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")
        else:
            live.agent.kexec_start(_DELAY_SECONDS)
        live.guest.login = keys.login

    return start


def _wait_for_size(live: LiveMachine, node: str, size: int) -> None:
    path, end = f"/sys/block/{node.removeprefix('/dev/')}/size", time.monotonic() + _RESIZE_SECONDS
    while int(seen := live.agent.read_file(path)) * _SECTOR != size:
        if time.monotonic() > end:
            raise GuestError(f"the guest has {seen.strip()} sectors in {path}, and the disk {size // _SECTOR}")
        time.sleep(0.02)
