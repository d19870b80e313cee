"""A running machine that is still in its firmware, gets a processor or memory, or sleeps and wakes."""

from __future__ import annotations

import re
import time
from contextlib import suppress

from harness.errors import GuestError, GuestUnreachable, Unsupported, VmmTimeout
from harness.live.machine import LiveMachine
from harness.vmm.qemu import growth

__all__ = ["plug_memory", "plug_processor", "suspend", "wait_for_firmware", "wait_for_kernel", "wake"]

_CPUS = "/sys/devices/system/cpu"
_MEMORY = "/sys/devices/system/memory"
_PLUG_SECONDS = 30.0
_FIRMWARE_SECONDS = 60.0
_SLEEP_KIND = "/sys/power/mem_sleep"
_SLEEP_SECONDS = 10.0
_PCIEXBAR = 0x60  # register of the host bridge: its bit 0 switches the ECAM on (QEMU, include/hw/pci-host/q35.h)
_IN_RAM = re.compile(r'mem=ram name="([^"]*)"')  # HMP `info roms`: 'addr=0... size=0x... mem=ram name="/boot/vmlinux"'


def wait_for_firmware(live: LiveMachine) -> None:
    """Wait until the firmware of a machine with a `start` has set up buses and BARs.

    It has by its first words on the console: SeaBIOS, src/post.c, maininit; EDK II, OvmfPkg,
    Library/PlatformBootManagerLib/BdsPlatform.c.

    Raises:
        GuestUnreachable: it says nothing.
        VmmError: QEMU has ended, or does not answer.
    """
    end = time.monotonic() + _FIRMWARE_SECONDS
    while not live.vmm.console.text:
        if time.monotonic() > end:
            raise live.vmm.blame(GuestUnreachable(f"firmware said nothing within {_FIRMWARE_SECONDS:g} s"))
        live.guest.check()
        time.sleep(0.02)


def wait_for_kernel(live: LiveMachine, deadline_seconds: float) -> None:
    """Wait until the kernel that firmware starts answers; the model then begins with what that has set up.

    Raises:
        GuestError: it does not come up.
    """
    live.guest.wait_ready(deadline_seconds)
    live.begin_anew()


def plug_processor(live: LiveMachine) -> None:
    """Plug a processor by QMP and wait until the guest uses it.

    Raises:
        Unsupported: its kernel has made no room for one.
        GuestError: it does not find it in time, or says of its processors what makes no sense.
    """
    # Where Linux knows of no hypervisor, and TCG's it does not, newer kernels leave out what the MADT does not call
    # enabled: arch/x86/kernel/acpi/boot.c, acpi_is_processor_usable.
    present, possible = (live.agent.read_file(f"{_CPUS}/{name}").strip() for name in ("present", "possible"))
    if present == possible:
        raise Unsupported(
            f"the guest's kernel has no room for another processor: {_CPUS}/possible is {possible}",
            hint="run it under KVM, or with an older kernel",
        )
    last = _number(f"{_CPUS}/present", present.rpartition("-")[2], 10, 0)
    path = f"{_CPUS}/cpu{last + 1}/online"
    growth.plug_processor(live.vmm.qmp)
    live.agent.wait_path(path, _PLUG_SECONDS)
    live.agent.write_file(path, "1")


def plug_memory(live: LiveMachine, mib: int) -> range:
    """Plug a memory module by QMP and wait until the guest uses all of it, also for what is never moved.

    Returns:
        Its guest physical addresses.

    Raises:
        GuestError: it does not find it in time, or says of its memory what makes no sense.
    """
    live.agent.write_file(f"{_MEMORY}/auto_online_blocks", "online_kernel")
    size = f"{_MEMORY}/block_size_bytes"
    block = _number(size, live.agent.read_file(size).strip(), 16, 1)
    module = growth.plug_memory(live.vmm.qmp, mib)
    last = f"{_MEMORY}/memory{(module.base + module.size) // block - 1}/state"
    live.agent.wait_path(last, _PLUG_SECONDS)
    end = time.monotonic() + _PLUG_SECONDS
    while (seen := live.agent.read_file(last).strip()) != "online":
        if time.monotonic() > end:
            raise GuestError(f"the guest's {last} says {seen!r}, and not that it uses memory that was plugged")
        time.sleep(0.02)
    return range(module.base, module.base + module.size)


def _number(path: str, text: str, base: int, least: int) -> int:
    """A number that a file of the guest's holds.

    Raises:
        GuestError: it holds none, or a smaller one.
    """
    with suppress(ValueError):
        if (number := int(text, base)) >= least:
            return number
    raise GuestError(f"the guest's {path} holds {text[:80]!r}, not a number from {least} on")


def suspend(live: LiveMachine) -> None:
    """Have the guest suspend to RAM (ACPI S3) and wait until it has.

    Raises:
        Unsupported: its kernel cannot, on this machine.
        GuestUnreachable: it does not in time.
    """
    roms = live.vmm.qmp.execute("human-monitor-command", {"command-line": "info roms"})
    if loaded := _IN_RAM.findall(roms):
        raise Unsupported(
            f"QEMU loads {loaded[0]} into memory again when the guest wakes, over its kernel: HMP info roms",
            hint="start the machine from a template: there QEMU has loaded no kernel",
        )
    kinds = live.agent.read_file(_SLEEP_KIND)
    if "deep" not in kinds:
        raise Unsupported(f"the guest cannot suspend to RAM: {_SLEEP_KIND} is {kinds.strip()!r}")
    live.agent.write_file(_SLEEP_KIND, "deep")
    mark = live.vmm.qmp.event_count
    live.guest.run("(sleep 0.1; echo mem >/sys/power/state) >/dev/null 2>&1 &")
    try:
        live.vmm.qmp.wait_event(("SUSPEND",), deadline=_SLEEP_SECONDS, since=mark)
    except VmmTimeout:
        late = GuestUnreachable(
            f"the guest did not suspend within {_SLEEP_SECONDS:g} s", evidence=live.vmm.console.tail()
        )
        raise live.vmm.blame(late) from None


def wake(live: LiveMachine) -> None:
    """Wake a guest that is suspended, and wait until its agent answers.

    Raises:
        GuestUnreachable: it does not.
    """
    live.vmm.qmp.execute("system_wakeup")
    live.agent.ping(_SLEEP_SECONDS)
    # SeaBIOS leaves the ECAM off that it set up at boot (docs/findings.md, F-21), and the host has no other way.
    live.guest.run(f"setpci -s 0:0.0 {_PCIEXBAR:x}.l={live.ecam | 1:x}")
