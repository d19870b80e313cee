"""`viommu doctor`: what is here, what is missing, and the one command that mends it."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.artifacts.cache import Cache
from harness.doctor.examine import examine
from harness.doctor.report import Diagnosis, PlaceReport

__all__ = ["doctor"]

_NOT_READY = 2
_ABILITIES = {
    "intel_iommu": "intel",
    "virtio_iommu": "virtio",
    "amd_iommu": "amd",
    "amd_dma_remap": "remap",
    "bypass_iommu": "bypass",
    "edu": "edu",
    "iommu_testdev": "testdev",
    "qtest_accelerator": "qtest",
}


def doctor(json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False) -> None:
    """Say what is here, what is missing, and the one command that mends it. Nothing is fetched.

    Exit code 0: the main job can run here; 2: it cannot.
    """
    diagnosis = examine(Cache())
    if json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(diagnosis)).decode() + "\n")
    else:
        _show(diagnosis, Console(highlight=False))
    if not diagnosis.ready:
        raise typer.Exit(_NOT_READY)


def _show(found: Diagnosis, console: Console) -> None:
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    if not found.accelerators:
        facts.add_row("accelerator", "not known: there is no QEMU to try it with")
    for number, accelerator in enumerate(found.accelerators):
        said = "runs guests" if accelerator.works else f"is not used: {accelerator.reason}"
        facts.add_row("" if number else "accelerator", Text(f"{accelerator.name} {said}"))
    facts.add_row("cache", _place(found.cache))
    facts.add_row("temporary", _place(found.temporary))
    facts.add_row("memory", _place(found.shared_memory))
    sources = f"{found.apt.vendor}, sources: {found.apt.sources} ({', '.join(found.apt.suites)})"
    facts.add_row("apt", Text(found.apt.error or sources))
    facts.add_row("programs", _programs(found))
    facts.add_row("python", Text(", ".join(f"{name} {version or 'absent'}" for name, version in found.python.items())))
    console.print(facts)
    console.print()
    _show_qemu(found, console)
    _show_kernels(found, console)
    if any(qemu.default for qemu in found.qemu) or any(kernel.default for kernel in found.kernels):
        console.print("* is used when none is named", style="dim")
        console.print("remap: amd-iommu with dma-remap; bypass: pxb-pcie with bypass_iommu;", style="dim")
        console.print("testdev: iommu-testdev; qtest: the accelerator of that name", style="dim")
    for missing in found.missing:
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(style="bold")
        row.add_column(overflow="fold")
        row.add_row("missing" if missing.blocking else "note", Text(missing.what))
        console.print(row)
        if missing.mend:
            # On one line however long it is, so that it can be copied.
            console.print(Text(f"  $ {missing.mend}", style="cyan"), soft_wrap=True)
    console.print("The main job can run here." if found.ready else "The main job cannot run here.", style="bold")


def _show_qemu(found: Diagnosis, console: Console) -> None:
    table = _table("QEMU", "version", *_ABILITIES.values())
    for qemu in found.qemu:
        name = _name(qemu.name, default=qemu.default)
        if qemu.error:
            table.add_row(name, "broken")
        else:
            table.add_row(name, qemu.version, *("yes" if qemu.can[ability] else "-" for ability in _ABILITIES))
    if found.qemu:
        console.print(table)
        console.print()


def _show_kernels(found: Diagnosis, console: Console) -> None:
    drivers = next((kernel.drivers for kernel in found.kernels if not kernel.error), {})
    table = _table("kernel", "release", *drivers)
    for kernel in found.kernels:
        name = _name(kernel.name, default=kernel.default)
        table.add_row(name, *([kernel.release, *kernel.drivers.values()] if not kernel.error else [Text(kernel.error)]))
    if found.kernels:
        console.print(table)
        console.print()


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number > 1, header_style="bold")
    return table


def _name(name: str, *, default: bool) -> Text:
    return Text(f"{name} *" if default else name)


def _programs(found: Diagnosis) -> Text:
    return Text(", ".join(entry.name if entry.path else f"{entry.name} (absent)" for entry in found.programs))


def _place(place: PlaceReport) -> Text:
    used = "" if place.used_bytes is None else f", {place.used_bytes / 1e9:.1f} GB used"
    state = "" if place.writable else ", cannot be written"
    room = f"{place.free_bytes / 1e9:.1f} of {place.total_bytes / 1e9:.1f} GB free"
    return Text(f"{place.path}: {room}{used}{state}")
