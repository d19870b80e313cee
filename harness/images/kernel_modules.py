"""The part of a guest image that belongs to one kernel: its modules, uncompressed, and the files modprobe reads."""

from __future__ import annotations

from harness.artifacts.kernel import Kernel, require_option
from harness.artifacts.modules import KernelModules, read
from harness.errors import Unsupported
from harness.images.cpio import Archive
from harness.images.recipe import Recipe
from harness.spec import IommuKind

__all__ = ["modules_identity", "pack_modules", "require_driver"]

# Drivers that are never modules.
_BUILT_IN = {IommuKind.INTEL: "CONFIG_INTEL_IOMMU", IommuKind.AMD: "CONFIG_AMD_IOMMU"}


def pack_modules(recipe: Recipe, kernel: Kernel) -> bytes:
    """The archive of a kernel's modules: of those that the recipe names, all that the kernel has.

    Whether one that a machine cannot do without is there is `require_driver`'s to say.
    """
    named = (
        *(name for names in recipe.modules.iommu.values() for name in names),
        *recipe.modules.always,
        *recipe.modules.available,
    )
    found = KernelModules(kernel)
    directory = f"usr/lib/modules/{kernel.release}"
    archive = Archive()
    archive.link("lib/modules", "../usr/lib/modules")
    archive.directory(directory)
    dependencies: dict[str, list[str]] = {}
    builtin = []
    for name in named:
        try:
            chain = found.resolve([name])
        except Unsupported:
            continue
        builtin += [f"kernel/{module.name}.ko" for module in chain if module.builtin]
        files = [module for module in chain if not module.builtin]
        for position, module in enumerate(files):
            archive.file(f"{directory}/{module.name}.ko", read(module))
            # modprobe loads the last one named first; the chain comes with dependencies first.
            dependencies[module.name] = [f"{earlier.name}.ko" for earlier in reversed(files[:position])]
    dep = "".join(f"{name}.ko: {' '.join(needs)}\n" for name, needs in sorted(dependencies.items()))
    archive.file(f"{directory}/modules.dep", dep.encode())
    archive.file(f"{directory}/modules.builtin", "".join(f"{line}\n" for line in sorted(set(builtin))).encode())
    return archive.pack()


def modules_identity(kernel: Kernel) -> str:
    """What changes when a kernel or its modules do: hashes of packages and image, and each module's size and time."""
    parts = [kernel.release, *(artifact.sha256 for artifact in kernel.artifacts)]
    if kernel.modules_dir is not None:
        for path in sorted(kernel.modules_dir.rglob("*.ko*")):
            status = path.stat()
            parts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(parts)


def require_driver(recipe: Recipe, modules: KernelModules, kind: IommuKind) -> None:
    """Check that a kernel has the driver of an IOMMU, and those without which no guest is reached.

    Raises:
        Unsupported: it is known not to have them; the message names the configuration option.
    """
    if option := _BUILT_IN.get(kind):
        require_option(modules.kernel, option, f"{kind} IOMMU driver")
    modules.resolve([*recipe.modules.iommu.get(kind, ()), *recipe.modules.always])
