"""The kernel modules of a guest image."""

from __future__ import annotations

from dataclasses import replace

import pytest
from images_cpio import by_name

from harness.artifacts.kernel import Kernel
from harness.artifacts.modules import KernelModules
from harness.errors import Unsupported
from harness.images.kernel_modules import modules_identity, pack_modules, require_driver
from harness.images.recipe import Modules, Recipe
from harness.spec import IommuKind

pytest_plugins = ("images_fixtures",)

RECIPE = Recipe.load()
SMALL = replace(RECIPE, modules=Modules(always=("virtio_net",), iommu={"virtio": ("virtio_iommu",)}))


def dependencies(archive: bytes, kernel: Kernel) -> dict[str, list[str]]:
    text = by_name(archive)[f"usr/lib/modules/{kernel.release}/modules.dep"].content.decode()
    return {name: needs.split() for name, _, needs in (line.partition(":") for line in text.splitlines())}


def test_each_module_comes_with_what_it_needs_uncompressed(kernel: Kernel) -> None:
    packed = pack_modules(SMALL, kernel)
    found, needs = by_name(packed), dependencies(packed, kernel)
    assert {"virtio_net.ko", "net_failover.ko", "failover.ko", "virtio_iommu.ko"} <= set(needs)
    for name in needs:
        assert found[f"usr/lib/modules/{kernel.release}/{name}"].content.startswith(b"\x7fELF")


def test_modules_dep_has_each_need_before_what_it_needs_itself(kernel: Kernel) -> None:
    needs = dependencies(pack_modules(SMALL, kernel), kernel)
    chain = needs["virtio_net.ko"]
    assert chain.index("net_failover.ko") < chain.index("failover.ko")
    for name, wanted in needs.items():
        assert name not in wanted
        assert set(wanted) <= set(needs)
        # modprobe loads from the end: what stands there must need nothing that stands before it.
        for position, need in enumerate(wanted):
            assert not set(needs[need]) & set(wanted[:position])


def test_builtin_modules_are_listed_and_not_packed(kernel: Kernel) -> None:
    found = by_name(pack_modules(replace(SMALL, modules=Modules(always=("virtio_pci", "iommufd", "ext4"))), kernel))
    listed = found[f"usr/lib/modules/{kernel.release}/modules.builtin"].content.decode().split()
    assert all(line.startswith("kernel/") and line.endswith(".ko") for line in listed)
    names = {line.rpartition("/")[2] for line in listed}
    assert not names & {name.rpartition("/")[2] for name in found}


def test_lib_modules_leads_to_the_modules(kernel: Kernel) -> None:
    link = by_name(pack_modules(SMALL, kernel))["lib/modules"]
    assert (link.kind, link.content) == ("link", b"../usr/lib/modules")


def test_module_that_the_kernel_has_not_is_left_out(old_kernel: Kernel) -> None:
    needs = dependencies(pack_modules(SMALL, old_kernel), old_kernel)
    assert "virtio_iommu.ko" not in needs
    assert "virtio_net.ko" in needs


def test_packing_twice_gives_the_same_bytes(kernel: Kernel) -> None:
    assert pack_modules(SMALL, kernel) == pack_modules(SMALL, kernel)


@pytest.mark.parametrize("kind", IommuKind)
def test_kernel_with_every_driver_is_enough(kernel: Kernel, kind: IommuKind) -> None:
    require_driver(RECIPE, KernelModules(kernel), kind)


def test_kernel_without_virtio_iommu_is_refused_with_the_option(old_kernel: Kernel) -> None:
    with pytest.raises(Unsupported, match="CONFIG_VIRTIO_IOMMU is not set") as caught:
        require_driver(RECIPE, KernelModules(old_kernel), IommuKind.VIRTIO)
    assert old_kernel.release in caught.value.message


def test_kernel_without_virtio_iommu_does_for_intel(old_kernel: Kernel) -> None:
    require_driver(RECIPE, KernelModules(old_kernel), IommuKind.INTEL)


@pytest.mark.parametrize(
    ("kind", "option"), [(IommuKind.INTEL, "CONFIG_INTEL_IOMMU"), (IommuKind.AMD, "CONFIG_AMD_IOMMU")]
)
def test_kernel_without_the_driver_is_refused_with_the_option(kernel: Kernel, kind: IommuKind, option: str) -> None:
    config = {name: value for name, value in kernel.config.items() if name != option}
    with pytest.raises(Unsupported, match=f"{option} is not set"):
        require_driver(RECIPE, KernelModules(replace(kernel, config=config)), kind)


def test_kernel_whose_configuration_is_not_known_is_not_refused_for_intel(kernel: Kernel) -> None:
    require_driver(RECIPE, KernelModules(replace(kernel, config={})), IommuKind.INTEL)


def test_the_transport_comes_before_what_cannot_work_without_it() -> None:
    always = RECIPE.modules.always
    assert always.index("virtio_pci") < min(always.index("virtio_net"), always.index("virtio_blk"))


def test_identity_differs_by_kernel_and_is_the_same_twice(kernel: Kernel, old_kernel: Kernel) -> None:
    assert modules_identity(kernel) == modules_identity(kernel) != modules_identity(old_kernel)
