"""Kernels are found at paths and in packages, and told from other files."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from artifacts_archive import SUITE, Archive, serving
from artifacts_kernel_files import bzimage, flat_image

from harness.artifacts.cache import Cache
from harness.artifacts.kernel import Kernel, find_kernel, require_option
from harness.errors import ArtifactError, SpecError, Unsupported

RELEASE = "6.9.0-test"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(tmp_path / "archive") as archive:
        yield archive


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def find(path: Path, arch: str = "amd64", modules: Path | None = None) -> Kernel:
    return find_kernel(str(path), arch, Cache(path.parent / "cache"), modules=modules)


def test_the_release_of_a_bzimage_is_read_from_its_header(tmp_path: Path) -> None:
    kernel = find(put(tmp_path / "kernel", bzimage()))
    assert (kernel.release, kernel.arch, kernel.modules_dir, dict(kernel.config)) == (RELEASE, "amd64", None, {})


def test_a_kernel_at_a_path_is_recorded_with_its_hash(tmp_path: Path) -> None:
    path = put(tmp_path / "kernel", bzimage())
    (artifact,) = find(path).artifacts
    assert (artifact.role, artifact.version, artifact.source) == ("kernel", RELEASE, str(path))
    assert artifact.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("arch", "magic"), [("arm64", b"ARM\x64"), ("riscv64", b"RSC\x05")])
def test_the_architecture_of_a_flat_image_is_told_by_its_magic(tmp_path: Path, arch: str, magic: bytes) -> None:
    kernel = find(put(tmp_path / "Image", flat_image(magic)), arch)
    assert (kernel.arch, kernel.release) == (arch, RELEASE)


def test_a_gzip_compressed_image_is_read(tmp_path: Path) -> None:
    assert find(put(tmp_path / "Image.gz", gzip.compress(flat_image(b"ARM\x64"))), "arm64").release == RELEASE


def test_an_efi_zboot_image_is_read(tmp_path: Path) -> None:
    payload = lzma.compress(flat_image(b"ARM\x64"))
    data = b"MZ\0\0zimg" + struct.pack("<II", 64, len(payload)) + bytes(48) + payload
    assert find(put(tmp_path / "vmlinuz.efi", data), "arm64").release == RELEASE


def test_a_kernel_for_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=rf"is a kernel for arm64 \(Linux {RELEASE}\), the machine is amd64"):
        find(put(tmp_path / "Image", flat_image(b"ARM\x64")))


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"there is no kernel at {tmp_path}/bzImage"):
        find(tmp_path / "bzImage")


def test_a_name_that_is_no_suite_is_refused_with_how_to_write_a_path(cache: Cache) -> None:
    with pytest.raises(SpecError, match="'bzImage' cannot be the name of a suite") as caught:
        find_kernel("bzImage", "amd64", cache)
    assert "needs a '/' in it" in caught.value.hint


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is a directory, not a kernel image"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "an empty file"),
        (b"\x7fELF\x02\x01\x01", "an ELF file"),
        (b"#!/bin/sh\n", "a script"),
        (b"notes\n", "a text file"),
        (b"070701", "a cpio archive"),
        (gzip.compress(b"something else", mtime=0), "gzip-compressed data"),
        (bytes(0x1FE) + b"\x55\xaa", "a disk image or boot sector"),
        (bzimage()[:0x300], "a bzImage without a kernel_version"),
        (bzimage()[:0x203], "a disk image or boot sector"),
        (b"\x00\x01\x02\x03", "data of an unknown kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_what_is_not_a_kernel_is_named_with_its_first_bytes(tmp_path: Path, data: bytes, kind: str) -> None:
    with pytest.raises(SpecError, match=rf"it is {kind}.*first bytes are {data[:16].hex(' ')}"):
        find(put(tmp_path / "file", data))


def test_an_installed_kernel_has_its_config_and_modules_beside_it(tmp_path: Path) -> None:
    image = put(tmp_path / f"boot/vmlinuz-{RELEASE}", bzimage())
    put(tmp_path / f"boot/config-{RELEASE}", b'# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D="d"\n')
    put(tmp_path / f"lib/modules/{RELEASE}/modules.builtin", b"")
    kernel = find(image)
    assert kernel.config == {"CONFIG_B": "y", "CONFIG_C": "m", "CONFIG_D": '"d"'}
    assert kernel.modules_dir == tmp_path / f"lib/modules/{RELEASE}"


def test_modules_of_another_release_are_not_taken(tmp_path: Path) -> None:
    image = put(tmp_path / f"boot/vmlinuz-{RELEASE}", bzimage())
    put(tmp_path / "lib/modules/6.8.0/modules.builtin", b"")
    assert find(image).modules_dir is None


def test_modules_beside_an_image_are_not_taken_when_nothing_names_their_release(tmp_path: Path) -> None:
    image = put(tmp_path / "kernel", bzimage())
    put(tmp_path / "modules.builtin", b"")
    assert find(image).modules_dir is None


def test_a_kernel_in_its_modules_directory_is_found_with_them(tmp_path: Path) -> None:
    image = put(tmp_path / f"usr/lib/modules/{RELEASE}/vmlinuz", bzimage())
    put(image.parent / "config", b"CONFIG_B=y\n")
    put(image.parent / "modules.builtin", b"")
    kernel = find(image)
    assert (kernel.modules_dir, kernel.config) == (image.parent, {"CONFIG_B": "y"})


def test_a_build_tree_gives_config_and_modules(tmp_path: Path) -> None:
    image = put(tmp_path / "arch/x86/boot/bzImage", bzimage())
    put(tmp_path / ".config", b"CONFIG_B=y\n")
    put(tmp_path / "modules.order", b"")
    kernel = find(image)
    assert (kernel.modules_dir, kernel.config) == (tmp_path, {"CONFIG_B": "y"})


def test_modules_can_be_named(tmp_path: Path) -> None:
    image = put(tmp_path / "kernel", bzimage())
    directory = put(tmp_path / f"elsewhere/lib/modules/{RELEASE}/modules.builtin", b"").parent
    assert find(image, modules=tmp_path / "elsewhere").modules_dir == directory
    assert find(image, modules=directory).modules_dir == directory


def test_named_modules_of_another_release_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere/lib/modules/6.8.0/modules.builtin", b"")
    with pytest.raises(SpecError, match=f"there are no modules of kernel {RELEASE} in"):
        find(put(tmp_path / "kernel", bzimage()), modules=tmp_path / "elsewhere")


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_an_embedded_configuration_is_read(tmp_path: Path, compress: object) -> None:
    assert callable(compress)
    inside = b"code" + b"IKCFG_ST" + gzip.compress(b"CONFIG_B=y\n") + b"IKCFG_ED" + b"code"
    assert find(put(tmp_path / "kernel", bzimage(payload=compress(inside)))).config == {"CONFIG_B": "y"}


def test_a_suite_gives_the_kernel_that_its_metapackage_depends_on(cache: Cache, archive: Archive) -> None:
    inside = f"usr/lib/modules/{RELEASE}"
    archive.add("linux-image-amd64", {}, Depends="linux-image-6.9")
    archive.add("linux-image-6.9", {}, Depends="linux-binary-6.9, linux-modules-6.9, initramfs-tools | other")
    archive.add("linux-binary-6.9", {f"{inside}/vmlinuz": bzimage(), f"{inside}/config": b"CONFIG_B=y\n"})
    archive.add("linux-modules-6.9", {f"{inside}/modules.builtin": b""})
    kernel = find_kernel(SUITE, "amd64", cache, sources=archive.sources)
    assert (kernel.name, kernel.release, kernel.config) == (SUITE, RELEASE, {"CONFIG_B": "y"})
    assert kernel.modules_dir == kernel.image.parent
    assert [artifact.name for artifact in kernel.artifacts] == [
        "linux-binary-6.9",
        "linux-image-6.9",
        "linux-image-amd64",
        "linux-modules-6.9",
    ]


def test_a_variant_names_its_own_metapackage(cache: Cache, archive: Archive) -> None:
    archive.add("linux-image-cloud-amd64", {f"boot/vmlinuz-{RELEASE}": bzimage()})
    assert find_kernel(f"{SUITE}:cloud", "amd64", cache, sources=archive.sources).release == RELEASE


def test_an_unknown_variant_is_refused_with_those_that_there_are(cache: Cache, archive: Archive) -> None:
    archive.add("linux-image-cloud-amd64", {f"boot/vmlinuz-{RELEASE}": bzimage()})
    with pytest.raises(SpecError, match="has no package linux-image-clod-amd64") as caught:
        find_kernel(f"{SUITE}:clod", "amd64", cache, sources=archive.sources)
    assert "linux-image-cloud-amd64" in caught.value.hint


def test_a_package_without_an_image_is_refused(cache: Cache, archive: Archive) -> None:
    archive.add("linux-image-amd64", {"usr/share/doc/readme": b""})
    with pytest.raises(
        ArtifactError, match="one kernel image is expected in linux-image-amd64 of stable1, found: none"
    ):
        find_kernel(SUITE, "amd64", cache, sources=archive.sources)


@pytest.mark.parametrize("config", [b"CONFIG_B=y\n", b"CONFIG_A=m\n", b"# CONFIG_A is not set\nCONFIG_B=y\n"])
def test_what_a_kernel_is_built_without_is_refused_by_its_option(tmp_path: Path, config: bytes) -> None:
    put(tmp_path / ".config", config)
    kernel = find(put(tmp_path / "arch/x86/boot/bzImage", bzimage()))
    with pytest.raises(Unsupported, match=f"{RELEASE} has no such mode: CONFIG_A is not set"):
        require_option(kernel, "CONFIG_A", "such mode")


@pytest.mark.parametrize("config", [b"CONFIG_A=y\n", b""])
def test_what_a_kernel_has_or_may_have_is_not_refused(tmp_path: Path, config: bytes) -> None:
    put(tmp_path / ".config", config)
    kernel = find(put(tmp_path / "arch/x86/boot/bzImage", bzimage()))
    require_option(kernel, "CONFIG_A", "such mode")
