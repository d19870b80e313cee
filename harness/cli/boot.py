"""`viommu boot`: one machine, and a shell in it over SSH."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import paramiko
import typer
from rich.console import Console

from harness.artifacts.cache import Cache
from harness.cli.options import KernelOption, QemuOption, iommu_kind, shown_progress
from harness.errors import SpecError
from harness.images.recipe import recipe_names
from harness.lab import Lab
from harness.live.machine import LiveMachine
from harness.spec import BASE_IMAGE, Device, DeviceKind, DmaMode, Firmware, Iommu, IommuKind, Machine, Start
from harness.state.save import check_target
from harness.state.save import save_state as write_state
from harness.warm.lease import Leases
from harness.warm.store import Store

__all__ = ["boot"]

_EXEC_SECONDS = 3600.0
_IOMMU = IommuKind.INTEL.value
_MEMORY_MIB = 512


def boot(
    iommu: Annotated[str | None, typer.Option(help="intel, virtio, amd or none.", show_default=_IOMMU)] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="KIND, with any of: ,iommu=on|off ,hotplug=on ,virtio=modern|transitional|legacy ,platform=on|off "
            f",bridge=NAME ,slot=NAME ,expander=on ,dma-bits=NUMBER ,id=NAME; KIND: {', '.join(DeviceKind)}."
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(help="A whole machine as TOML or JSON, as reports show it; of the rest only --append adds to it."),
    ] = None,
    dma_mode: Annotated[
        DmaMode | None,
        typer.Option(help="How the guest kernel is told to use the IOMMU.", show_default=DmaMode.STRICT.value),
    ] = None,
    firmware: Annotated[
        Firmware | None, typer.Option(help="What runs first, and starts the guest from the disk --boot-disk.")
    ] = None,
    boot_disk: Annotated[
        str | None, typer.Option(help="Id of a --device that is a disk: kernel and initrd are put there.")
    ] = None,
    append: Annotated[str, typer.Option(help="Further words for the guest kernel's command line.")] = "",
    memory: Annotated[int | None, typer.Option(help="Guest RAM, MiB.", show_default=str(_MEMORY_MIB))] = None,
    image: Annotated[
        str | None, typer.Option(help=f"Guest image: {', '.join(recipe_names())}.", show_default=BASE_IMAGE)
    ] = None,
    qemu: QemuOption = None,
    kernel: KernelOption = None,
    exec: Annotated[
        str | None, typer.Option("--exec", help="Run this in the guest, and end with its exit status.")
    ] = None,
    save_state: Annotated[
        Path | None,
        typer.Option(help="A directory to save the IOMMU's state in when that, or the shell, has ended."),
    ] = None,
    console: Annotated[bool, typer.Option("--console", help="Show the guest's console while it boots.")] = False,
    warm: Annotated[bool, typer.Option("--warm", help="Start it from a template, in a fraction of the time.")] = False,
) -> None:
    """Boot one machine and open a shell in it. Devices tagged hotplug=on are plugged once it is up."""
    if spec is not None:
        options = {
            "--iommu": iommu,
            "--device": device or None,
            "--dma-mode": dma_mode,
            "--memory": memory,
            "--image": image,
            "--firmware": firmware,
            "--boot-disk": boot_disk,
        }
        if given := [name for name, value in options.items() if value is not None]:
            raise SpecError(
                f"--spec {spec} was given together with {', '.join(given)}: the spec says that already",
                hint=f"change it in {spec}, or leave --spec out",
            )
        machine = _read(spec)
    else:
        machine = Machine(
            iommu=Iommu(kind=iommu_kind(iommu or _IOMMU)),
            devices=tuple(map(Device.parse, device or ())),
            dma_mode=dma_mode or DmaMode.STRICT,
            memory_mib=_MEMORY_MIB if memory is None else memory,
            image=image or BASE_IMAGE,
            start=_start(firmware, boot_disk),
        )
    machine = replace(machine, kernel_args=(*machine.kernel_args, *append.split()))
    if save_state is not None:
        check_target(save_state, machine)
    err = Console(stderr=True)
    with ExitStack() as stack:
        with shown_progress() as progress:
            lab = Lab.open(qemu=qemu, kernel=kernel, progress=progress)
            if warm:
                live = stack.enter_context(Leases(lab, Store(Cache()), progress).start(machine))
        if warm:
            if console:
                live.vmm.console.listen(_show)
        else:
            live = stack.enter_context(lab.boot(machine, listen=_show if console else None))
        for plugged in (d for d in machine.devices if d.hotplug):
            live.plug(plugged.id)
        if exec is not None:
            status = _execute(live, exec)
        else:
            _introduce(lab, live, err)
            status = _shell(live)
        if save_state is not None:
            about = f"viommu boot: QEMU {lab.qemu.version}, Linux {lab.kernel.release}, IOMMU {machine.iommu.kind}"
            err.print(f"state saved: {write_state(live, save_state, about)}", markup=False, highlight=False)
        raise typer.Exit(status)


def _start(firmware: Firmware | None, disk: str | None) -> Start | None:
    """The start by firmware that two options describe, which go together."""
    if firmware is None and disk is None:
        return None
    if firmware is None or disk is None:
        missing, given = ("--firmware", "--boot-disk") if firmware is None else ("--boot-disk", "--firmware")
        raise SpecError(f"{given} was given without {missing}", hint=f"add {missing}: firmware starts from a disk")
    return Start(firmware=firmware, disk=disk)


def _introduce(lab: Lab, live: LiveMachine, err: Console) -> None:
    """Say what the shell is in."""
    machine = live.spec
    err.print(f"{lab.qemu.name} (QEMU {lab.qemu.version}), Linux {lab.kernel.release}, IOMMU {machine.iommu.kind}")
    for d in machine.devices:
        err.print(f"  {live.address(d.id)}  {d}", highlight=False)
    err.print(
        f"  QMP log, console and traces: {live.vmm.directory}. Exit the shell to end the machine.", highlight=False
    )


def _read(path: Path) -> Machine:
    hint = "docs/reference/formats.md shows one"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"machine spec {path}: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise SpecError(f"machine spec {path} is not a text file: {error}", hint=hint) from error
    return Machine.from_json(text) if text.lstrip().startswith("{") else Machine.from_toml(text)


def _show(line: str) -> None:
    sys.stderr.write(line.encode("ascii", "backslashreplace").decode() + "\n")


def _execute(live: LiveMachine, command: str) -> int:
    done = live.guest.run(command, deadline_seconds=_EXEC_SECONDS)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.status


def _shell(live: LiveMachine) -> int:
    """Connect the terminal to a login shell in the guest; without a terminal, standard input is the script.

    Returns:
        The shell's exit status.
    """
    interactive = sys.stdin.isatty()
    channel = live.guest.ssh.open("exec sh -l", terminal=interactive)
    stdin = sys.stdin.fileno()
    with _raw(stdin, channel) if interactive else contextlib.nullcontext():
        sources = [stdin, channel]
        while True:
            ready, _, _ = select.select(sources, [], [], 0.2)
            if channel in ready:
                data = channel.recv(65536)
                if not data:
                    return channel.recv_exit_status()
                os.write(sys.stdout.fileno(), data)
            while channel.recv_stderr_ready():
                os.write(sys.stderr.fileno(), channel.recv_stderr(65536))
            if stdin in ready:
                typed = os.read(stdin, 65536)
                if typed:
                    channel.sendall(typed)
                else:
                    channel.shutdown_write()
                    sources.remove(stdin)
            if not ready:
                live.guest.check()


@contextlib.contextmanager
def _raw(stdin: int, channel: paramiko.Channel) -> Iterator[None]:
    """Hand every key to the guest, and tell it the size of the window."""

    def resize(*_: object) -> None:
        size = shutil.get_terminal_size()
        channel.resize_pty(size.columns, size.lines)

    before = termios.tcgetattr(stdin)
    previous = signal.signal(signal.SIGWINCH, resize)
    try:
        resize()
        tty.setraw(stdin)
        yield
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, previous)
