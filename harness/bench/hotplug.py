"""How long plugging and unplugging takes, and what is left of it after many rounds, in the guest and in QEMU."""

from __future__ import annotations

import statistics
from dataclasses import asdict

import msgspec

from harness.artifacts.progress import Progress, silent
from harness.errors import SpecError
from harness.live.plug_rounds import leftovers, plug_rounds
from harness.observations import Leftovers
from harness.spec import Device, Iommu, IommuKind, Machine
from harness.warm.lease import Leases

__all__ = ["HotplugFigures", "measure"]

_DEVICES = ("virtio-blk,iommu=on,hotplug=on", "virtio-net,iommu=on,hotplug=on", "edu,iommu=on,hotplug=on")
_STEP = 25
_WARM_UP = 5


class HotplugFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        rounds: how many there were; in each every device is plugged and unplugged.
        devices: how many, one of each kind.
        plug_milliseconds: median, from the QMP command until the guest has taken the device in.
        unplug_milliseconds: median, from the QMP command until the guest has let go of it.
        before: what there was after a few rounds that were not counted.
        growth: how much more of each there was after all.
        iommu: kind of the IOMMU.
        native: whether hot-plug was PCI Express's own.
    """

    rounds: int
    devices: int
    plug_milliseconds: float
    unplug_milliseconds: float
    before: Leftovers
    growth: dict[str, int]
    iommu: str
    native: bool


def measure(
    leases: Leases, *, kind: IommuKind, native: bool, rounds: int, progress: Progress = silent
) -> HotplugFigures:
    """Measure, on one machine.

    Args:
        leases: gives the machine.
        kind: of IOMMU.
        native: whether hot-plug is PCI Express's own and not ACPI's.
        rounds: at least one.
        progress: told of each 25 rounds.

    Raises:
        SpecError: no rounds, or no IOMMU.
        GuestError: the guest does not take a device in, or does not let go of it.
    """
    if rounds < 1 or kind is IommuKind.NONE:
        raise SpecError(f"{rounds} rounds with IOMMU {kind} measure nothing", hint="ask for one or more, with an IOMMU")
    devices = tuple(map(Device.parse, _DEVICES))
    machine = Machine(iommu=Iommu(kind=kind), devices=devices, native_hotplug=native)
    ids = [device.id for device in machine.devices]
    plugs: list[float] = []
    unplugs: list[float] = []
    with leases.start(machine) as live:
        plug_rounds(live, ids, _WARM_UP)
        before = leftovers(live)
        while (done := len(plugs) // len(ids)) < rounds:
            progress(f"round {done} of {rounds}", done, rounds)
            part = plug_rounds(live, ids, min(_STEP, rounds - done))
            plugs += part.plug
            unplugs += part.unplug
        after = leftovers(live)
    return HotplugFigures(
        rounds=rounds,
        devices=len(ids),
        plug_milliseconds=round(statistics.median(plugs) * 1e3, 1),
        unplug_milliseconds=round(statistics.median(unplugs) * 1e3, 1),
        before=before,
        growth={name: count - asdict(before)[name] for name, count in asdict(after).items()},
        iommu=kind.value,
        native=native,
    )
