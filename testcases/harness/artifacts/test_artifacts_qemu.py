"""QEMU builds are found at paths, on PATH and in packages, and told from other programs."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from artifacts_archive import SUITE, Archive, serving

from harness.artifacts.cache import Cache
from harness.artifacts.qemu import find_qemu
from harness.errors import ArtifactError, HostError, SpecError

BINARY = "usr/bin/qemu-system-x86_64"
NEEDS_LIBRARIES = Path(shutil.which("ls") or "/bin/ls")
"""A dynamically linked program that every host has, to stand for QEMU's binary in a package."""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(tmp_path / "archive") as archive:
        yield archive


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


def libraries(program: Path) -> dict[str, Path]:
    """What the host's loader says that a program uses, by the path that the program names it by."""
    text = subprocess.run(["ldd", program], capture_output=True, text=True, check=True, timeout=30).stdout
    named = {name: Path(path) for name, path in re.findall(r"(\S+) => (/\S+)", text)}
    return named | {path: Path(path) for path in re.findall(r"^\s(/\S+)", text, re.MULTILINE)}


def test_a_binary_at_a_path_is_asked_for_its_version(cache: Cache, tmp_path: Path) -> None:
    path = script(tmp_path / "qemu", 'echo "QEMU emulator version 9.9.9 (v9)"')
    build = find_qemu(str(path), "amd64", cache)
    assert (build.version, build.argv_prefix, dict(build.env), build.binary) == ("9.9.9", (str(path),), {}, path)
    (artifact,) = build.artifacts
    assert (artifact.role, artifact.version, artifact.source) == ("qemu", "9.9.9", str(path))
    assert artifact.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_path_that_does_not_exist_is_refused(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"there is no QEMU at {tmp_path}/qemu"):
        find_qemu(str(tmp_path / "qemu"), "amd64", cache)


def test_a_file_that_is_not_executable_is_refused(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be run: it is not an executable file"):
        find_qemu(str(script(tmp_path / "qemu", "", 0o644)), "amd64", cache)


def test_another_program_is_refused_with_what_it_said(cache: Cache, tmp_path: Path) -> None:
    path = script(tmp_path / "qemu", "echo sorry; exit 3")
    with pytest.raises(
        SpecError, match="is not a QEMU system emulator: --version ended with status 3 and said 'sorry'"
    ):
        find_qemu(str(path), "amd64", cache)


def test_a_file_that_the_host_cannot_execute_is_refused(cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "qemu"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    with pytest.raises(SpecError, match="cannot be run: Exec format error"):
        find_qemu(str(path), "amd64", cache)


def test_host_means_the_one_on_path(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = script(tmp_path / "qemu-system-x86_64", 'echo "QEMU emulator version 9.9.9"')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    build = find_qemu("host", "amd64", cache)
    assert (build.name, build.binary) == ("host", path)


def test_a_host_without_qemu_is_told_what_to_do(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="qemu-system-x86_64 is not on PATH") as caught:
        find_qemu("host", "amd64", cache)
    assert "install qemu-system-x86" in caught.value.hint


def test_an_architecture_without_a_known_qemu_is_refused(cache: Cache) -> None:
    with pytest.raises(SpecError, match="no QEMU is known for guests of vax") as caught:
        find_qemu(SUITE, "vax", cache)
    assert "amd64" in caught.value.hint


def packaged(archive: Archive, spoil: str = "") -> None:
    """Put the stand-in and its libraries into packages, as merged-/usr packages have them; `spoil` breaks one."""
    files = {}
    for name, path in libraries(NEEDS_LIBRARIES).items():
        data = bytearray(path.read_bytes())
        if name == spoil:
            data[20] = 2  # e_version, which the loader checks once it has chosen a file
        # A directory that the loader would find through a RUNPATH at best.
        inside = f"usr{name}" if name.startswith("/") else f"usr/lib/private/{name}"
        files[inside] = bytes(data)
    archive.add("qemu-system-x86", {BINARY: NEEDS_LIBRARIES.read_bytes()}, Depends="libraries")
    archive.add("libraries", files)


def test_a_packaged_binary_is_started_by_its_own_loader(cache: Cache, archive: Archive) -> None:
    packaged(archive)
    # The stand-in runs, and says in its own words that it is no QEMU.
    with pytest.raises(SpecError, match=r"root/usr/bin/qemu-system-x86_64 is not a QEMU .* status 0 and said 'ls \("):
        find_qemu(SUITE, "amd64", cache, sources=archive.sources)


def test_a_packaged_binary_uses_its_own_libraries_and_not_the_hosts(cache: Cache, archive: Archive) -> None:
    packaged(archive, spoil="libc.so.6")
    with pytest.raises(SpecError) as caught:
        find_qemu(SUITE, "amd64", cache, sources=archive.sources)
    assert "/root/usr/lib/private/libc.so.6: ELF file version" in caught.value.evidence


def test_a_package_without_a_library_that_the_binary_needs_is_refused_by_name(cache: Cache, archive: Archive) -> None:
    files = {f"usr{name}": path.read_bytes() for name, path in libraries(NEEDS_LIBRARIES).items() if name[0] == "/"}
    archive.add("qemu-system-x86", {BINARY: NEEDS_LIBRARIES.read_bytes(), **files})
    with pytest.raises(ArtifactError, match=f"{BINARY} needs lib.*, which no package of it has"):
        find_qemu(SUITE, "amd64", cache, sources=archive.sources)


def test_a_package_without_the_binary_is_refused(cache: Cache, archive: Archive) -> None:
    archive.add("qemu-system-x86", {"usr/share/doc/readme": b""})
    with pytest.raises(ArtifactError, match="the packages of stable1 have no /usr/bin/qemu-system-x86_64"):
        find_qemu(SUITE, "amd64", cache, sources=archive.sources)
