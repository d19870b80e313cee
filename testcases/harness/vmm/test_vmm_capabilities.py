from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from vmm_rig import Start, spec

from harness.artifacts.qemu import QemuBuild
from harness.errors import Unsupported, VmmStartError
from harness.spec import DeviceKind, Iommu, IommuKind, Machine
from harness.vmm.qemu import capabilities as module
from harness.vmm.qemu.capabilities import Capabilities, ask, cached, require


def _without(capabilities: Capabilities, device: str, name: str) -> Capabilities:
    return replace(
        capabilities,
        properties={**capabilities.properties, device: capabilities.properties[device] - {name}},
    )


def test_a_build_says_what_it_has(capabilities: Capabilities) -> None:
    assert capabilities.has_device("edu")
    assert not capabilities.has_device("nosuch")
    assert capabilities.has_property("intel-iommu", "aw-bits")
    assert not capabilities.has_property("intel-iommu", "nosuch")
    assert not capabilities.has_property("nosuch", "aw-bits")
    assert capabilities.has_command("device_add")
    assert "tcg" in capabilities.accelerators
    assert capabilities.machine_has_property("smm")
    assert not capabilities.machine_has_property("nosuch")


@pytest.mark.parametrize("kind", [IommuKind.INTEL, IommuKind.VIRTIO, IommuKind.AMD])
def test_everything_that_a_build_has_is_accepted_by_it(
    start: Start, capabilities: Capabilities, kind: IommuKind
) -> None:
    devices = [f"{each},iommu=on" for each in DeviceKind] + [
        f"{each},iommu=off" for each in ("edu", "virtio-blk", "virtio-net")
    ]
    legacy = [
        f"{each},virtio=legacy" for each in DeviceKind if each.has_legacy and each is not DeviceKind.VIRTIO_BALLOON
    ]
    machine = spec(*legacy[:4], *devices, iommu=kind)
    try:
        require(machine, capabilities)
    except Unsupported as error:
        pytest.skip(error.message)
    assert start(machine).alive


def test_a_missing_device_is_refused_by_name_before_anything_starts(
    build: QemuBuild, capabilities: Capabilities, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = replace(capabilities, devices=capabilities.devices - {"edu"})
    with pytest.raises(Unsupported, match=r"QEMU \S+ has no device edu, which edu0 needs"):
        require(spec("edu"), lacking)


def test_a_missing_device_of_a_hotplug_is_refused_as_well(capabilities: Capabilities) -> None:
    lacking = replace(capabilities, devices=capabilities.devices - {"edu"})
    with pytest.raises(Unsupported, match="has no device edu"):
        require(spec("edu,hotplug=on"), lacking)


def test_a_build_that_cannot_bypass_the_iommu_names_the_devices_that_would(capabilities: Capabilities) -> None:
    lacking = _without(capabilities, "pxb-pcie", "bypass_iommu")
    with pytest.raises(
        Unsupported, match=r"no pxb-pcie\.bypass_iommu: edu1 \(iommu=off\) cannot stand outside the intel"
    ):
        require(spec("edu,iommu=on", "edu,iommu=off", iommu=IommuKind.INTEL), lacking)


def test_a_missing_property_is_refused_only_where_it_is_asked_for(capabilities: Capabilities) -> None:
    lacking = _without(replace(capabilities, refusals={}), "virtio-iommu-pci", "aw-bits")
    require(Machine(iommu=Iommu(kind=IommuKind.VIRTIO)), lacking)
    with pytest.raises(Unsupported, match=r"no virtio-iommu-pci\.aw-bits") as caught:
        require(Machine(iommu=Iommu(kind=IommuKind.VIRTIO, aw_bits=48)), lacking)
    assert "leave the IOMMU's aw_bits out" in caught.value.hint


def test_an_amd_iommu_that_does_not_translate_is_refused(capabilities: Capabilities) -> None:
    devices = capabilities.devices | {"AMDVI-PCI", "amd-iommu"}
    properties = {"AMDVI-PCI": frozenset({"addr"}), "amd-iommu": frozenset({"intremap"})}  # as in QEMU 10.0
    lacking = replace(capabilities, devices=devices, properties=capabilities.properties | properties)
    with pytest.raises(Unsupported, match=r"no amd-iommu\.dma-remap"):
        require(spec(iommu=IommuKind.AMD), lacking)


def test_a_device_that_the_machine_refuses_is_refused_with_what_qemu_said(capabilities: Capabilities) -> None:
    refusing = replace(capabilities, refusals={"virtio-iommu-pci": "Check your machine implements a hotplug handler"})
    with pytest.raises(Unsupported, match="its q35 machine refuses it") as caught:
        require(spec(iommu=IommuKind.VIRTIO), refusing)
    assert "hotplug handler" in caught.value.evidence
    assert not refusing.has_device("virtio-iommu-pci")


def test_a_property_that_the_machine_refuses_is_refused_where_it_is_asked_for(capabilities: Capabilities) -> None:
    refusing = replace(capabilities, refusals={"intel-iommu,eim=on": "eim=on requires accel=kvm"})
    for extended in (None, False):
        require(Machine(iommu=Iommu(kind=IommuKind.INTEL, extended_interrupts=extended)), refusing)
    with pytest.raises(Unsupported, match=r"has intel-iommu,eim=on, and its q35 machine refuses it") as caught:
        require(Machine(iommu=Iommu(kind=IommuKind.INTEL, extended_interrupts=True)), refusing)
    assert "requires accel=kvm" in caught.value.evidence
    assert refusing.has_device("intel-iommu")


def test_the_answer_is_asked_for_once(build: QemuBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cached(build, tmp_path)
    monkeypatch.setattr(module, "ask", None)
    assert cached(build, tmp_path) == first


def test_a_damaged_cache_entry_is_asked_for_again(build: QemuBuild, tmp_path: Path) -> None:
    first = cached(build, tmp_path)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(entry.read_bytes()[:100])
    assert cached(build, tmp_path) == first


def test_another_binary_under_the_same_path_is_asked_again(
    build: QemuBuild, capabilities: Capabilities, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "qemu"
    binary.write_text("one")
    mine = replace(build, binary=binary)
    monkeypatch.setattr(module, "ask", lambda *_: capabilities)
    cached(mine, tmp_path / "cache")
    binary.write_text("another")
    cached(mine, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_program_that_is_no_qemu_is_a_start_error_with_its_words(build: QemuBuild) -> None:
    script = "import sys; sys.exit('I am no QEMU')"
    with pytest.raises(VmmStartError, match="I am no QEMU"):
        ask(replace(build, argv_prefix=(sys.executable, "-c", script)))
