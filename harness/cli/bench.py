"""`viommu bench`: what the harness costs, as figures."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from harness.artifacts.cache import Cache
from harness.artifacts.progress import Progress
from harness.bench.boot import BootFigures, measure
from harness.bench.conform import ConformFigure
from harness.bench.conform import measure as measure_conform
from harness.bench.firmware import FirmwareFigures
from harness.bench.firmware import measure as measure_firmware
from harness.bench.hotplug import HotplugFigures
from harness.bench.hotplug import measure as measure_hotplug
from harness.bench.leases import LeaseFigures
from harness.bench.leases import measure as measure_leases
from harness.bench.model import Figure, ModelFigures
from harness.bench.model import measure as measure_model
from harness.cli.options import KernelOption, QemuOption, iommu_kind, shown_progress
from harness.conform.targets.registry import select
from harness.conform.triage import KnownDivergences
from harness.defaults import defaults
from harness.images.build import fetch_userland
from harness.images.recipe import Recipe
from harness.lab import Lab
from harness.resources import KNOWN_ISSUES
from harness.spec import Arch
from harness.warm.lease import Leases
from harness.warm.store import Store

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure what the harness costs on this host."""


@app.command()
def boot(
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Boots of each kind; medians are shown.")] = 3,
    iommu: Annotated[str, typer.Option(help="intel, virtio or none.")] = "intel",
    qemu: QemuOption = None,
    kernel: KernelOption = None,
) -> None:
    """Time from starting a machine to its first SSH command, beside a bare boot of the same kernel."""
    kind = iommu_kind(iommu)
    cache = Cache()
    with shown_progress() as progress:
        lab = Lab.open(qemu=qemu, kernel=kernel, cache=cache, progress=progress)
        userland = fetch_userland(Recipe.load(), cache, defaults().suite, Arch.AMD64, progress)
        figures = measure(
            lab, Leases(lab, Store(cache), progress), userland, kind=kind, rounds=rounds, progress=progress
        )
    if json:
        _print_json(figures)
    else:
        _show(figures)


@app.command()
def hotplug(
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="In each, three devices are plugged and unplugged.")] = 100,
    iommu: Annotated[str, typer.Option(help="intel, virtio or amd.")] = "intel",
    native: Annotated[bool, typer.Option("--native", help="PCI Express's own hot-plug, and not ACPI's.")] = False,
    qemu: QemuOption = None,
    kernel: KernelOption = None,
) -> None:
    """Time of plugging and unplugging, and what is left of it in the guest and in QEMU after many rounds."""
    kind = iommu_kind(iommu)
    with _templates(qemu, kernel) as (given, progress):
        figures = measure_hotplug(given, kind=kind, native=native, rounds=rounds, progress=progress)
    if json:
        _print_json(figures)
    else:
        _show_hotplug(figures)


@app.command()
def leases(
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    count: Annotated[int, typer.Option("--count", min=10, help="How many machines, one after the other.")] = 100,
    at_a_time: Annotated[int, typer.Option("-n", min=1, help="So many at a time.")] = 1,
    iommu: Annotated[str, typer.Option(help="intel, virtio, amd or none.")] = "intel",
    qemu: QemuOption = None,
    kernel: KernelOption = None,
) -> None:
    """What machines from a template cost, tenth by tenth of many, and what is left of them."""
    kind = iommu_kind(iommu)
    with _templates(qemu, kernel) as (given, progress):
        figures = measure_leases(given, kind=kind, count=count, at_a_time=at_a_time, progress=progress)
    if json:
        _print_json(figures)
    else:
        _show_leases(figures)


@app.command()
def firmware(
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Starts of each kind; medians are shown.")] = 3,
    iommu: Annotated[str, typer.Option(help="intel, virtio, amd or none.")] = "intel",
    qemu: QemuOption = None,
    kernel: KernelOption = None,
) -> None:
    """Time of a start by firmware from a disk behind the IOMMU, beside one where QEMU hands over the kernel."""
    kind = iommu_kind(iommu)
    with shown_progress() as progress:
        lab = Lab.open(qemu=qemu, kernel=kernel, progress=progress)
        figures = measure_firmware(lab, kind=kind, rounds=rounds, progress=progress)
    if json:
        _print_json(figures)
    else:
        _show_firmware(figures)


@app.command()
def model(
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    seconds: Annotated[float, typer.Option(help="Processor time for each figure, all five rounds together.")] = 1.0,
    largest: Annotated[
        int, typer.Option(min=1_000, help="Pages and mappings up to which growth is measured; 10 million take 80 MB.")
    ] = 10_000_000,
) -> None:
    """Walks, interrupts and mappings a second of the reference model, and what becomes of that as tables grow."""
    with shown_progress() as progress:
        figures = measure_model(seconds=seconds, largest=largest, progress=progress)
    if json:
        _print_json(figures.flat())
    else:
        _show_model(figures)


@app.command()
def conform(
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    target: Annotated[list[str] | None, typer.Option(help="Only this one; * stands for anything.")] = None,
    qemu: Annotated[list[str] | None, typer.Option(help="A suite, 'host' or a path. May be repeated.")] = None,
    seconds: Annotated[float, typer.Option(help="For each target and QEMU.")] = 10.0,
) -> None:
    """DMAs a second that are checked against the model, beside the bare commands sent to the same QEMU."""
    known = KnownDivergences.load(KNOWN_ISSUES)
    with shown_progress() as progress:
        figures = list(
            measure_conform(
                select(target or ["*"]), qemu or [defaults().qemu], known, seconds=seconds, progress=progress
            )
        )
    if json:
        _print_json([{**msgspec.to_builtins(figure), "ratio": figure.ratio} for figure in figures])
    else:
        _show_conform(figures)


@contextmanager
def _templates(qemu: str | None, kernel: str | None) -> Iterator[tuple[Leases, Progress]]:
    """Machines from templates of that QEMU and kernel, and what is told how far one is."""
    cache = Cache()
    with shown_progress() as progress:
        lab = Lab.open(qemu=qemu, kernel=kernel, cache=cache, progress=progress)
        yield Leases(lab, Store(cache), progress), progress


def _show_hotplug(figures: HotplugFigures) -> None:
    console = Console(highlight=False)
    way = "PCI Express's own" if figures.native else "ACPI's where QEMU has that"
    console.print(f"{figures.rounds} rounds with {figures.devices} devices, {figures.iommu}, hot-plug {way}")
    console.print(f"plug {figures.plug_milliseconds:.0f} ms, unplug {figures.unplug_milliseconds:.0f} ms, medians")
    table = Table("", "before", "more after", box=None, pad_edge=False)
    for name, growth in figures.growth.items():
        table.add_row(name.replace("_", " "), f"{getattr(figures.before, name):,}", f"{growth:+,}")
    console.print(table)


def _show_leases(figures: LeaseFigures) -> None:
    console = Console(highlight=False)
    console.print(
        f"{figures.leases} leases, {figures.iommu}, {figures.at_a_time} at a time: {figures.a_minute:.0f} a minute"
    )
    table = Table("tenth", box=None, pad_edge=False)
    for column in ("SSH answers, ms", "QEMU's processor time, ms", "the harness's, ms", "its memory, KiB"):
        table.add_column(column, justify="right")
    for number, part in enumerate(figures.parts, 1):
        times = (part.answered_milliseconds, part.vmm_milliseconds, part.harness_milliseconds)
        table.add_row(str(number), *(f"{each:.0f}" for each in times), f"{part.harness_kib:,}")
    console.print(table)
    console.print("left behind: " + ("; ".join(figures.left) or "nothing"))


def _show_firmware(figures: FirmwareFigures) -> None:
    table = Table(f"{figures.iommu}, {figures.rounds} rounds", box=None, pad_edge=False)
    for column in ("kernel speaks, s", "init is ready, s", "ratio"):
        table.add_column(column, justify="right")
    for name, start in figures.starts.items():
        table.add_row(name, f"{start.kernel_seconds:.2f}", f"{start.ready_seconds:.2f}", f"{start.ratio:.2f}")
    Console().print(table)


def _show_conform(figures: Sequence[ConformFigure]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("target", "QEMU"):
        table.add_column(column)
    for column in ("DMAs/s", "bare DMAs/s", "ratio"):
        table.add_column(column, justify="right")
    for figure in figures:
        speeds = (figure.dmas_per_second, figure.bare_dmas_per_second)
        table.add_row(figure.target, figure.version, *(f"{each:,.0f}" for each in speeds), f"{figure.ratio:.2f}")
    Console().print(table)


def _print_json(figures: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(figures)).decode() + "\n")


def _show_model(figures: ModelFigures) -> None:
    console = Console()
    console.print(f"{figures.python}, {figures.host['machine']}, medians of {figures.rounds}", highlight=False)
    for title, part in (
        ("uncached walks a second", figures.walks),
        ("interrupts remapped a second", figures.interrupts),
        ("outcomes judged against caches", figures.judged),
        ("VT-d, four levels, more and more pages", figures.pages),
        ("virtio-iommu, more and more mappings", figures.mappings),
    ):
        table = Table(title, "", box=None, pad_edge=False, header_style="bold")
        table.columns[1].justify = "right"
        for figure in part:
            table.add_row(_label(figure), _readable(figure))
        console.print(table)


def _label(figure: Figure) -> str:
    """The name in words; what its table is all of is said above it."""
    name = figure.name.removesuffix("_walks_per_second").removesuffix("_interrupts_per_second")
    return "  " + name.replace("_", " ")


def _readable(figure: Figure) -> str:
    return f"{figure.value:,.0f}" if figure.value >= 100 else f"{figure.value:,.3g}"


def _show(figures: BootFigures) -> None:
    console = Console()
    console.print(
        f"QEMU {figures.qemu['version']} ({figures.host['accelerator'].partition(' ')[0]}), "
        f"Linux {figures.kernel['release']}, IOMMU {figures.iommu}, medians of {figures.rounds}",
        highlight=False,
    )
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for label, value, unit in (
        ("bare boot to init (the floor)", figures.floor_seconds, "s"),
        ("  the same, kernel unpacked", figures.floor_unpacked_seconds, "s"),
        ("cold machine to its first SSH command", figures.cold_seconds, "s"),
        ("  firmware, until the kernel speaks", figures.firmware_seconds, "s"),
        ("  kernel, until it runs init", figures.kernel_seconds, "s"),
        ("  init, until it is ready", figures.userland_seconds, "s"),
        ("  SSH", figures.ssh_seconds, "s"),
        ("before the process starts", figures.launch_seconds, "s"),
        ("starting the agent", figures.agent_seconds, "s"),
        ("one request to the agent", figures.agent_roundtrip_milliseconds, "ms"),
        ("cold machine, ratio to the floor", figures.cold_ratio, ""),
        ("  to the floor, kernel unpacked", figures.cold_unpacked_ratio, ""),
        ("machine from a template to its first SSH command", figures.warm_seconds, "s"),
        ("  with a device plugged and in its group", figures.warm_grouped_seconds, "s"),
        ("  memory it has to itself", figures.warm_private_mib, "MiB"),
        ("  started and ended in a minute", figures.warm_a_minute, ""),
        ("machine from a template, ratio to the floor", figures.warm_ratio, ""),
        ("  with a device plugged and in its group", figures.warm_grouped_ratio, ""),
    ):
        table.add_row(label, f"{value:.2f}", unit)
    console.print(table)
