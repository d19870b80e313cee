"""`viommu templates`: the machines that were booted once, to start others from."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from harness.artifacts.cache import Cache, megabytes
from harness.spec import IommuKind, Machine
from harness.warm.store import Entry, Store

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def templates() -> None:
    """Show and remove the machines that were booted once, to start others from."""


@app.command("list")
def list_(json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False) -> None:
    """Show all templates, the one that was used last first."""
    entries = Store(Cache()).entries()
    if json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode([_Row.of(entry) for entry in entries])) + b"\n")
        return
    table = Table(box=None)
    for name in ("template", "machine", "QEMU", "kernel", "last used", "on disk"):
        table.add_column(name, justify="right" if name == "on disk" else "left")
    for row in map(_Row.of, entries):
        table.add_row(row.key[:12], row.machine, row.qemu, row.kernel, row.used, megabytes(row.disk_bytes))
    console = Console()
    console.print(table)
    total = sum(entry.disk_bytes for entry in entries)
    console.print(f"{len(entries)} templates, {megabytes(total)} on disk", highlight=False)


@app.command()
def clean(
    keep: Annotated[int, typer.Option(metavar="MIB", help="Leave those used last, up to so many MiB.")] = 0,
) -> None:
    """Remove templates; those that a machine is being started from stay."""
    store = Store(Cache())
    gone = store.trim(keep << 20)
    freed = megabytes(sum(entry.disk_bytes for entry in gone))
    left = store.entries()
    Console().print(f"removed {len(gone)} templates, {freed}; {len(left)} are left", highlight=False)


@dataclass(frozen=True, slots=True)
class _Row:
    """A template as it is shown; `used` is in UTC, to the second."""

    key: str
    machine: str
    qemu: str
    kernel: str
    used: str
    disk_bytes: int
    directory: str

    @classmethod
    def of(cls, entry: Entry) -> _Row:
        manifest = entry.manifest
        used = datetime.fromtimestamp(entry.used, UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
        machine = _machine(Machine.from_json(manifest.spec))
        return cls(manifest.key, machine, manifest.qemu, manifest.kernel, used, entry.disk_bytes, str(entry.directory))


def _machine(spec: Machine) -> str:
    """A template's spec in a few words."""
    has_iommu = spec.iommu.kind is not IommuKind.NONE
    words = [f"{spec.iommu.kind} {spec.dma_mode}" if has_iommu else "no IOMMU", f"{spec.memory_mib} MiB"]
    if spec.cpus > 1:
        words.append(f"{spec.cpus} processors")
    ports = f"{spec.ports.inside} ports"
    words.append(f"{ports}, {spec.ports.outside} outside" if spec.ports.outside else ports)
    words += spec.kernel_args
    return ", ".join(words)
