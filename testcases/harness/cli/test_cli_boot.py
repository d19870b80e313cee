"""`viommu boot`: what it refuses, and the machine that its options make."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import SpecError
from harness.lab import Lab
from harness.spec import Device, DmaMode, Firmware, Iommu, IommuKind, Machine, Start

_MACHINE = Machine(iommu=Iommu(kind=IommuKind.VIRTIO), devices=(Device.parse("edu,iommu=on"),), kernel_args=("quiet",))


class _Reached(Exception):
    """The machine would have been started."""


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    """Machines that would have been started; nothing is looked for or fetched."""
    machines: list[Machine] = []

    class NoLab:
        def boot(self, machine: Machine, listen: object) -> None:
            machines.append(machine)
            raise _Reached

    monkeypatch.setattr(Lab, "open", lambda **_: NoLab())
    return machines


def boot(*words: str) -> BaseException | None:
    return CliRunner().invoke(app, ["boot", *words]).exception


def spec_file(directory: Path, text: str | bytes) -> str:
    path = directory / "machine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_options_make_the_machine(booted: list[Machine]) -> None:
    words = (
        "--iommu",
        "virtio",
        "--device",
        "edu,iommu=on",
        "--dma-mode",
        "lazy",
        "--memory",
        "256",
        "--image",
        "dpdk",
        "--append",
        "a b",
    )
    assert isinstance(boot(*words), _Reached)
    assert booted == [
        Machine(
            iommu=Iommu(kind=IommuKind.VIRTIO),
            devices=(Device.parse("edu,iommu=on"),),
            dma_mode=DmaMode.LAZY,
            memory_mib=256,
            image="dpdk",
            kernel_args=("a", "b"),
        )
    ]


def test_firmware_and_disk_make_a_start(booted: list[Machine]) -> None:
    boot("--device", "virtio-blk,iommu=on", "--firmware", "ovmf", "--boot-disk", "virtio-blk0")
    assert [machine.start for machine in booted] == [Start(firmware=Firmware.OVMF, disk="virtio-blk0")]


def test_without_options_it_is_an_intel_machine(booted: list[Machine]) -> None:
    boot()
    assert booted == [Machine(iommu=Iommu(kind=IommuKind.INTEL))]


@pytest.mark.parametrize("text", [_MACHINE.to_toml(), _MACHINE.to_json()], ids=["toml", "json"])
def test_a_spec_is_the_machine(booted: list[Machine], tmp_path: Path, text: str) -> None:
    boot("--spec", spec_file(tmp_path, text))
    assert booted == [_MACHINE]


def test_append_adds_to_the_words_of_a_spec(booted: list[Machine], tmp_path: Path) -> None:
    boot("--spec", spec_file(tmp_path, _MACHINE.to_toml()), "--append", "nosmp debug")
    assert [machine.kernel_args for machine in booted] == [("quiet", "nosmp", "debug")]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--iommu", "intel"),
        ("--device", "edu,iommu=on"),
        ("--dma-mode", "strict"),
        ("--memory", "512"),
        ("--firmware", "ovmf"),
        ("--boot-disk", "virtio-blk0"),
        ("--image", "base"),
    ],
)
def test_an_option_that_a_spec_decides_is_refused_by_name(
    booted: list[Machine], tmp_path: Path, option: str, value: str
) -> None:
    error = boot("--spec", spec_file(tmp_path, _MACHINE.to_toml()), option, value)
    assert isinstance(error, SpecError)
    assert option in error.message
    assert booted == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("iommu = ", "not a machine spec"),
        ("{", "not a machine spec"),
        ('memory = 4\n[iommu]\nkind = "intel"\n', "memory"),
        ('[iommu]\nkind = "smmu"\n', "smmu"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_a_bad_spec_is_refused(booted: list[Machine], tmp_path: Path, text: str | bytes, said: str) -> None:
    error = boot("--spec", spec_file(tmp_path, text))
    assert isinstance(error, SpecError)
    assert said in error.message
    assert booted == []


def test_a_spec_that_is_not_there_is_refused_by_name(booted: list[Machine]) -> None:
    error = boot("--spec", "/nowhere/machine.toml")
    assert isinstance(error, SpecError)
    assert "/nowhere/machine.toml: No such file" in error.message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "e1000"), "e1000"),
        (("--device", "edu,iommu=maybe"), "maybe"),
        (("--device", "edu,colour=red"), "colour"),
        (("--iommu", "none", "--device", "edu,iommu=on"), "edu0"),
        (("--iommu", "smmu"), "smmu"),
        (("--memory", "0"), "memory_mib=0"),
        (("--firmware", "ovmf"), "--firmware was given without --boot-disk"),
        (("--device", "virtio-blk", "--boot-disk", "virtio-blk0"), "--boot-disk was given without --firmware"),
        (("--firmware", "ovmf", "--boot-disk", "virtio-blk0"), "the machine has no device 'virtio-blk0'"),
        (("--device", "edu", "--firmware", "seabios", "--boot-disk", "edu0"), "edu is no disk"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(booted: list[Machine], words: tuple[str, ...], said: str) -> None:
    error = boot(*words)
    assert isinstance(error, SpecError)
    assert said in error.message
    assert booted == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--save-state", "{full}"), "is there already"),
        (("--save-state", "{full}/file"), "is there already"),
        (("--save-state", "{full}/nowhere/state"), "is no directory"),
        (("--save-state", "{full}/state", "--iommu", "none"), "no IOMMU"),
    ],
)
def test_a_state_that_cannot_be_saved_is_refused_before_anything_starts(
    booted: list[Machine], tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "file").touch()
    error = boot(*(word.format(full=tmp_path) for word in words))
    assert isinstance(error, SpecError)
    assert said in error.message
    assert booted == []


def test_a_state_may_be_saved_in_an_empty_directory(booted: list[Machine], tmp_path: Path) -> None:
    assert isinstance(boot("--save-state", str(tmp_path)), _Reached)
    assert isinstance(boot("--save-state", str(tmp_path / "new")), _Reached)


def test_warm_machine_is_started_from_a_template_and_runs_the_command() -> None:
    words = ["boot", "--warm", "--iommu", "virtio", "--device", "edu,iommu=on", "--exec", "uptime; exit 3"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 3
    assert "load average" in result.output


def test_an_image_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    error = boot("--image", "dbdk")
    assert isinstance(error, SpecError)
    assert (error.message, error.hint) == ("guest image 'dbdk' is not known", "choose one of: base, dpdk")
