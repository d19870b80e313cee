"""What a spec means to the guest kernel's command line."""

from __future__ import annotations

import pytest

from harness.guest.boot_args import kernel_arguments
from harness.spec import DmaMode, Iommu, IommuKind, Machine


def words(kind: IommuKind, mode: DmaMode, *args: str) -> tuple[str, ...]:
    return kernel_arguments(Machine(iommu=Iommu(kind=kind), dma_mode=mode, kernel_args=args))


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        (DmaMode.STRICT, {"iommu.passthrough=0", "iommu.strict=1"}),
        (DmaMode.LAZY, {"iommu.passthrough=0", "iommu.strict=0"}),
        (DmaMode.PASSTHROUGH, {"iommu=pt"}),
        (DmaMode.OFF, set()),
    ],
)
def test_dma_mode_decides_how_the_kernel_uses_its_iommu(mode: DmaMode, wanted: set[str]) -> None:
    found = {word for word in words(IommuKind.INTEL, mode) if "iommu" in word}
    assert {word for word in found if not word.startswith("intel_iommu=")} == wanted


@pytest.mark.parametrize("mode", DmaMode)
def test_intel_iommu_is_on_unless_it_is_not_used(mode: DmaMode) -> None:
    wanted = "intel_iommu=off" if mode is DmaMode.OFF else "intel_iommu=on"
    assert [word for word in words(IommuKind.INTEL, mode) if word.startswith("intel_iommu=")] == [wanted]


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        (DmaMode.STRICT, ["amd_iommu=fullflush"]),
        (DmaMode.LAZY, []),
        (DmaMode.PASSTHROUGH, []),
        (DmaMode.OFF, ["amd_iommu=off"]),
    ],
)
def test_amd_iommu_is_told_what_differs_from_its_default(mode: DmaMode, wanted: list[str]) -> None:
    assert [word for word in words(IommuKind.AMD, mode) if word.startswith(("amd_iommu", "intel_iommu"))] == wanted


def test_console_is_serial_and_a_panic_ends_the_machine() -> None:
    assert {"console=ttyS0", "panic=-1"} <= set(words(IommuKind.NONE, DmaMode.STRICT))


def test_words_of_the_spec_come_last() -> None:
    assert words(IommuKind.INTEL, DmaMode.STRICT, "iommu.strict=0", "x=y")[-2:] == ("iommu.strict=0", "x=y")


def test_a_guest_waits_for_the_driver_of_a_virtio_iommu() -> None:
    waits = [word for word in words(IommuKind.VIRTIO, DmaMode.STRICT) if word.startswith("deferred_probe_timeout=")]
    assert waits == ["deferred_probe_timeout=60"]
