"""Modules are resolved from what they say themselves."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from types import MappingProxyType

import pytest
import zstandard
from artifacts_kernel_files import module

from harness.artifacts import modules
from harness.artifacts.kernel import Kernel
from harness.artifacts.modules import KernelModules, ModuleFile
from harness.errors import ArtifactError, Unsupported


def kernel(directory: Path | None, **config: str) -> Kernel:
    return Kernel(
        name="test",
        image=Path("/nowhere"),
        release="6.9.0-test",
        arch="amd64",
        config=MappingProxyType(config),
        modules_dir=directory,
        artifacts=(),
    )


def put(directory: Path, name: str, data: bytes) -> Path:
    path = directory / "kernel/drivers" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(found: list[ModuleFile]) -> list[str]:
    return [module.name for module in found]


def test_a_module_comes_after_all_that_it_needs(tmp_path: Path) -> None:
    put(tmp_path, "top.ko", module(name="top", depends="left,right"))
    put(tmp_path, "left.ko", module(name="left", depends="base"))
    put(tmp_path, "right.ko", module(name="right", depends="base"))
    put(tmp_path, "base.ko", module(name="base", depends=""))
    assert names(KernelModules(kernel(tmp_path)).resolve(["top"])) == ["base", "left", "right", "top"]


def test_modules_that_are_not_needed_are_not_read(tmp_path: Path) -> None:
    put(tmp_path, "wanted.ko", module(name="wanted", depends=""))
    put(tmp_path, "damaged.ko.xz", b"damaged")
    assert names(KernelModules(kernel(tmp_path)).resolve(["wanted"])) == ["wanted"]


def test_dash_and_underscore_are_the_same(tmp_path: Path) -> None:
    path = put(tmp_path, "vfio-pci.ko", module(name="vfio_pci", depends="vfio-pci-core"))
    put(tmp_path, "vfio-pci-core.ko", module(name="vfio_pci_core", depends=""))
    found = KernelModules(kernel(tmp_path)).resolve(["vfio_pci", "vfio-pci"])
    assert names(found) == ["vfio_pci_core", "vfio_pci"]
    assert found[1] == ModuleFile(name="vfio_pci", path=path, builtin=False)


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress), (".zst", zstandard.ZstdCompressor().compress)],
)
def test_compressed_modules_are_read(tmp_path: Path, suffix: str, compress: object) -> None:
    assert callable(compress)
    plain = module(name="top", depends="")
    put(tmp_path, f"top.ko{suffix}", compress(plain))
    (found,) = KernelModules(kernel(tmp_path)).resolve(["top"])
    assert modules.read(found) == plain


def test_a_zstd_module_without_its_size_in_the_header_is_read(tmp_path: Path) -> None:
    writer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    plain = module(name="top", depends="")
    put(tmp_path, "top.ko.zst", writer.compress(plain) + writer.flush())
    assert modules.read(KernelModules(kernel(tmp_path)).resolve(["top"])[0]) == plain


def test_a_module_that_is_built_in_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio-ring.ko\n")
    put(tmp_path, "virtio_blk.ko", module(name="virtio_blk", depends="virtio_ring"))
    found = KernelModules(kernel(tmp_path)).resolve(["virtio_blk"])
    assert [(m.name, m.builtin) for m in found] == [("virtio_ring", True), ("virtio_blk", False)]
    assert modules.read(found[0]) == b""


def test_without_a_list_the_configuration_says_what_is_built_in() -> None:
    found = KernelModules(kernel(None, CONFIG_VIRTIO_BLK="y")).resolve(["virtio_blk"])
    assert found == [ModuleFile(name="virtio_blk", path=None, builtin=True)]


def test_soft_dependencies_come_before_and_after_where_there_are_any(tmp_path: Path) -> None:
    put(tmp_path, "top.ko", module(name="top", depends="", softdep=["pre: early gone", "post: late pre: first"]))
    for name in ("early", "late", "first"):
        put(tmp_path, f"{name}.ko", module(name=name, depends=""))
    assert names(KernelModules(kernel(tmp_path)).resolve(["top"])) == ["early", "first", "top", "late"]


def test_soft_dependencies_in_a_circle_end(tmp_path: Path) -> None:
    put(tmp_path, "a.ko", module(name="a", depends="", softdep="pre: b"))
    put(tmp_path, "b.ko", module(name="b", depends="", softdep="pre: a"))
    assert names(KernelModules(kernel(tmp_path)).resolve(["a"])) == ["b", "a"]


def test_what_a_module_says_of_itself_is_given(tmp_path: Path) -> None:
    put(tmp_path, "top.ko", module(name="top-x", depends="a-b,c", softdep="pre: d post: e-f", alias=["pci:1", "pci:2"]))
    info = modules.info(modules.ModuleFile(name="top", path=tmp_path / "kernel/drivers/top.ko", builtin=False))
    assert (info.name, info.depends, info.pre, info.post) == ("top_x", ("a_b", "c"), ("d",), ("e_f",))
    assert info.aliases == ("pci:1", "pci:2")


def test_an_absent_driver_is_a_skip_that_names_its_option(tmp_path: Path) -> None:
    with pytest.raises(
        Unsupported, match=r"kernel 6\.9\.0-test has no virtio-iommu driver: CONFIG_VIRTIO_IOMMU is not set"
    ):
        KernelModules(kernel(tmp_path, CONFIG_OTHER="y")).resolve(["virtio_iommu"])


def test_a_module_that_was_configured_but_is_not_there_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="CONFIG_VIRTIO_IOMMU=m, but there is no module file virtio_iommu"):
        KernelModules(kernel(tmp_path, CONFIG_VIRTIO_IOMMU="m")).resolve(["virtio_iommu"])


def test_a_kernel_without_a_known_configuration_is_said_to_be_so() -> None:
    with pytest.raises(Unsupported, match="its configuration is not known; no modules were found beside it"):
        KernelModules(kernel(None)).resolve(["virtio_iommu"])


def test_an_absent_dependency_names_who_needs_it(tmp_path: Path) -> None:
    put(tmp_path, "top.ko", module(name="top", depends="gone"))
    with pytest.raises(Unsupported, match=r"no gone driver \(needed by top\)"):
        KernelModules(kernel(tmp_path)).resolve(["top"])


@pytest.mark.parametrize(("name", "data"), [("top.ko", b"not ELF"), ("top.ko.xz", b"not xz"), ("top.ko.zst", b"no")])
def test_a_damaged_module_is_an_error_that_names_the_file(tmp_path: Path, name: str, data: bytes) -> None:
    put(tmp_path, name, data)
    with pytest.raises(ArtifactError, match=rf"module .*/{name} is damaged"):
        KernelModules(kernel(tmp_path)).resolve(["top"])


def test_a_truncated_compressed_module_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "top.ko.xz", lzma.compress(module(name="top", depends="", alias=["x" * 5000]))[:-30])
    with pytest.raises(ArtifactError, match="is damaged"):
        KernelModules(kernel(tmp_path)).resolve(["top"])


def test_a_module_is_read_once(tmp_path: Path) -> None:
    put(tmp_path, "top.ko", module(name="top", depends="base"))
    put(tmp_path, "base.ko", module(name="base", depends=""))
    found = KernelModules(kernel(tmp_path))
    first = found.resolve(["top"])
    put(tmp_path, "base.ko", b"damaged")
    assert found.resolve(["base", "top"]) == first
    with pytest.raises(ArtifactError):
        KernelModules(kernel(tmp_path)).resolve(["top"])
