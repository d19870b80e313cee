"""`viommu doctor` on hosts that lack this and that."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from harness.artifacts.cache import Cache
from harness.artifacts.kernel import find_kernel
from harness.artifacts.qemu import find_qemu, host_arch
from harness.cli.main import app
from harness.defaults import defaults
from harness.doctor.examine import examine

MIRROR = "mirror.example"
KEYS = {
    "ready",
    "accelerators",
    "qemu",
    "kernels",
    "image_packages",
    "cache",
    "shared_memory",
    "temporary",
    "apt",
    "programs",
    "python",
    "missing",
}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only directory on PATH of a Debian host with an empty cache, no apt and no QEMU."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("setpriv", "sh", "tar"):
        (programs / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("VIOMMU_CACHE", str(tmp_path / "cache"))
    for what in ("QEMU", "KERNEL", "SUITE"):
        monkeypatch.delenv(f"VIOMMU_{what}", raising=False)
    release = {"ID": "debian", "VERSION_CODENAME": "trixie"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    host_arch.cache_clear()
    yield programs
    host_arch.cache_clear()


def program(host: Path, name: str, text: str) -> None:
    path = host / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def give_apt(host: Path) -> None:
    program(host, "apt-get", f"echo 'Packages|trixie|http://{MIRROR}/debian|main|/none:1'")
    program(host, "apt-cache", "exit 1")
    program(host, "dpkg", "echo amd64")
    program(host, "dpkg-deb", "exit 1")


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def diagnosis() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(doctor("--json").stdout)
    return found


def test_the_keys_of_the_json_are_these(host: Path) -> None:
    assert set(diagnosis()) == KEYS


def test_an_empty_cache_without_apt_is_not_ready(host: Path) -> None:
    result = doctor("--json")
    blocking = [entry["what"] for entry in json.loads(result.stdout)["missing"] if entry["blocking"]]
    assert result.exit_code == 2
    assert blocking == [
        "not in the cache, and cannot be fetched here: QEMU trixie, kernel sid, guest packages of trixie"
    ]


def test_a_missing_program_comes_with_the_command_that_installs_it(host: Path) -> None:
    give_apt(host)
    (host / "setpriv").unlink()
    (missing,) = (entry for entry in diagnosis()["missing"] if entry["what"].startswith("setpriv"))
    assert missing["mend"] == "sudo apt-get install util-linux"


def test_an_empty_cache_with_apt_is_ready_and_the_command_that_fills_it_is_named(host: Path) -> None:
    give_apt(host)
    result = doctor("--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["ready"]) == (0, True)
    assert [entry["mend"] for entry in found["missing"]] == ["viommu boot --exec true"]


def test_nothing_is_fetched(host: Path, tmp_path: Path) -> None:
    give_apt(host)
    doctor()
    assert not (tmp_path / "cache").exists()


def test_sources_are_counted_and_their_suites_named(host: Path) -> None:
    give_apt(host)
    assert diagnosis()["apt"] == {"vendor": "debian", "sources": 1, "suites": ["trixie"], "error": ""}


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_the_host_of_a_mirror_is_not_told(host: Path, arguments: tuple[str, ...]) -> None:
    give_apt(host)
    assert MIRROR not in doctor(*arguments).output


def test_a_program_on_path_that_is_no_qemu_is_shown_with_what_it_said(host: Path) -> None:
    give_apt(host)
    program(host, "qemu-system-x86_64", "echo Segmentation fault >&2; exit 3")
    found = diagnosis()
    (qemu,) = found["qemu"]
    assert (qemu["name"], qemu["version"], qemu["can"]) == ("host", "", {})
    assert "status 3 and said 'Segmentation fault'" in qemu["error"]
    assert found["ready"]


def test_a_qemu_that_answers_nothing_but_its_version_is_shown_as_broken(host: Path) -> None:
    give_apt(host)
    program(host, "qemu-system-x86_64", '[ "$1" = --version ] && echo "QEMU emulator version 9.9.9"; exit 1')
    (qemu,) = diagnosis()["qemu"]
    assert (qemu["version"], qemu["can"]) == ("9.9.9", {})
    assert "exited with status 1" in qemu["error"]


def test_a_broken_qemu_that_was_made_the_default_is_not_ready(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_apt(host)
    program(host, "qemu-system-x86_64", "exit 3")
    monkeypatch.setenv("VIOMMU_QEMU", "host")
    result = doctor("--json")
    blocking = [entry["mend"] for entry in json.loads(result.stdout)["missing"] if entry["blocking"]]
    assert (result.exit_code, blocking) == (2, ["unset VIOMMU_QEMU"])


def test_a_file_in_boot_that_is_no_kernel_is_shown_as_such(host: Path, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz-1").write_bytes(b"not a kernel" * 1000)
    (kernel,) = examine(Cache(), boot=tmp_path).kernels
    assert kernel.name == str(tmp_path / "vmlinuz-1")
    assert "kernel" in kernel.error


def test_every_line_fits_into_80_columns(host: Path) -> None:
    give_apt(host)
    program(host, "qemu-system-x86_64", "exit 3")
    lines = [line for line in doctor().stdout.splitlines() if not line.lstrip().startswith("$")]
    assert len(lines) > 10
    assert max(map(len, lines)) <= 80


def test_what_the_cache_has_is_found_without_the_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    names = defaults()
    cache = Cache()
    qemu = find_qemu(names.qemu, "amd64", cache)
    kernel = find_kernel(names.kernel, "amd64", cache)
    found = examine(Cache())
    (default_qemu,) = (report for report in found.qemu if report.default)
    (default_kernel,) = (report for report in found.kernels if report.default)
    assert (default_qemu.version, default_qemu.can["intel_iommu"]) == (qemu.version, True)
    assert (default_kernel.release, default_kernel.drivers["intel"]) == (kernel.release, "y")
    assert any(accelerator.works for accelerator in found.accelerators)
