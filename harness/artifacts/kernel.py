"""Finds guest kernels: from a suite, or at a path, with their configuration and modules."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from harness.artifacts.cache import Cache
from harness.artifacts.image import KernelImage, embedded_config, read_image
from harness.artifacts.packages import Tree, fetch
from harness.artifacts.progress import Progress, silent
from harness.artifacts.sources import Sources, host_vendor
from harness.errors import ArtifactError, SpecError, Unsupported
from harness.report.record import Artifact

__all__ = ["Kernel", "find_kernel", "is_path", "kernel_in", "require_option"]

_ASSUMED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # What would make the kernel bootable on the machine it is installed on; here only its files are wanted.
        "initramfs-tools": ("linux-initramfs-tool",),
        "kmod": (),
        "linux-base": (),
        # Ubuntu's metapackage wants firmware for real hardware, some 500 MB.
        "amd64-microcode": (),
        "intel-microcode": (),
        "linux-firmware": (),
        "wireless-regdb": (),
    }
)
"""Packages that a kernel depends on and that are not fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One guest kernel.

    Attributes:
        name: as it was asked for ("trixie", "trixie:cloud", a path).
        image: the file that QEMU's `-kernel` takes.
        release: as `uname -r` prints it, read from the image.
        arch: read from the image, under Debian's name.
        config: values of its options that are set ("y", "m", a number, a string in its quotes) by name
            ("CONFIG_VFIO"); empty when its configuration was not found.
        modules_dir: the directory that holds `modules.builtin` and, somewhere below, the .ko files; None when the
            kernel came without.
        artifacts: for the results record.
    """

    name: str
    image: Path
    release: str
    arch: str
    config: Mapping[str, str]
    modules_dir: Path | None
    artifacts: tuple[Artifact, ...]


def require_option(kernel: Kernel, option: str, what: str) -> None:
    """Check that a kernel has what an option builds into it.

    Of a kernel whose configuration is not known nothing can be said: its guest shows what it has.

    Raises:
        Unsupported: it is known not to have it; the message names the option.
    """
    if kernel.config and kernel.config.get(option) != "y":
        raise Unsupported(
            f"kernel {kernel.release} has no {what}: {option} is not set",
            hint="build the kernel with it, or choose another: --kernel NAME|PATH",
        )


def is_path(name: str) -> bool:
    """Whether a user who wrote `name` meant a file: it has a '/' in it, or such a file exists."""
    return "/" in name or Path(name).is_file()


def find_kernel(
    name: str | Path,
    arch: str,
    cache: Cache,
    progress: Progress = silent,
    *,
    modules: Path | None = None,
    sources: Sources | None = None,
    refresh: bool = False,
) -> Kernel:
    """The kernel that `name` means.

    Args:
        name: a suite ("trixie"), a suite and a variant of its kernel ("trixie:cloud"), or the path of an image: one
            that is installed (`/boot/vmlinuz-X`), in a build tree (`arch/x86/boot/bzImage`), or alone.
        arch: the guest's architecture, under Debian's name.
        modules: directory of its modules, where they are not beside it; for a path alone.
        sources, refresh: as for `packages.fetch`.

    Raises:
        SpecError: no such file, not a kernel, one for another architecture, or no such suite or variant.
        ArtifactError, HostError: as `packages.fetch` raises them.
    """
    if isinstance(name, Path) or is_path(name):
        return _at_path(Path(name), arch, modules)
    if modules is not None:
        raise SpecError(f"modules were given for kernel {name}, which comes with its own", hint="leave them out")
    suite, _, variant = name.partition(":")
    vendor = sources.vendor if sources is not None else host_vendor()
    package = vendor.kernel_package(variant, arch)
    tree = fetch(cache, suite, arch, [package], progress, assumed=_ASSUMED, sources=sources, refresh=refresh)
    return _in_tree(name, tree, package, arch)


def kernel_in(tree: Tree, arch: str) -> Kernel | None:
    """The kernel of a tree of packages, named as `find_kernel` would find it; None when the tree has none.

    Args:
        arch: the guest's architecture.

    Raises:
        ArtifactError, SpecError: there is one, and it is not as it should be.
        HostError: the host's vendor is not known.
    """
    vendor = host_vendor()
    names = {vendor.kernel_package("", arch): tree.suite}
    for entry in tree.packages:
        variant = re.fullmatch(vendor.kernel_package("([a-z]+)", arch), entry.name)
        if variant:
            names.setdefault(entry.name, f"{tree.suite}:{variant[1]}")
    package = next((entry.name for entry in tree.packages if entry.name in names), None)
    return None if package is None else _in_tree(names[package], tree, package, arch)


def _in_tree(name: str, tree: Tree, package: str, arch: str) -> Kernel:
    images = [*tree.root.glob("boot/vmlinu[xz]-*"), *tree.root.glob("usr/lib/modules/*/vmlinu[xz]")]
    if len(images) != 1:
        found = ", ".join(str(image.relative_to(tree.root)) for image in images) or "none"
        raise ArtifactError(f"one kernel image is expected in {package} of {tree.suite}, found: {found}")
    image = read_image(images[0])
    return Kernel(
        name=name,
        image=images[0],
        release=image.release,
        arch=_checked(images[0], image, arch),
        config=_config(images[0], image),
        modules_dir=_modules_dir(images[0], image.release),
        artifacts=tree.artifacts("kernel", f"linux-image-{image.release}"),
    )


def _at_path(path: Path, arch: str, modules: Path | None) -> Kernel:
    name = str(path)
    image = read_image(path)
    _checked(path, image, arch)
    path = path.resolve()
    if modules is not None:
        found = next((d for d in _module_places(modules, image.release) if _holds_modules(d)), None)
        if found is None:
            raise SpecError(
                f"there are no modules of kernel {image.release} in {modules}",
                hint="give the directory with modules.builtin in it, or the one above its lib/modules",
            )
    else:
        found = _modules_dir(path, image.release)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Kernel(
        name=name,
        image=path,
        release=image.release,
        arch=image.arch,
        config=_config(path, image),
        modules_dir=found,
        artifacts=(Artifact(role="kernel", name=path.name, version=image.release, source=str(path), sha256=sha256),),
    )


def _checked(path: Path, image: KernelImage, arch: str) -> str:
    if image.arch != arch:
        raise SpecError(
            f"{path} is a kernel for {image.arch} (Linux {image.release}), the machine is {arch}",
            hint=f"give a kernel that was built for {arch}",
        )
    return image.arch


def _build_tree(image: Path) -> Path | None:
    """The top of the kernel build tree that an image is in: it is at arch/ARCH/boot/NAME."""
    if image.parent.name == "boot" and image.parents[2].name == "arch":
        return image.parents[3]
    return None


def _config(image: Path, read: KernelImage) -> Mapping[str, str]:
    top = _build_tree(image)
    places = [image.parent / f"config-{read.release}", *([top / ".config"] if top else [])]
    modules = _modules_dir(image, read.release)
    if modules is not None:
        places.append(modules / "config")
    text = next((place.read_text(errors="replace") for place in places if place.is_file()), None)
    if text is None:
        text = embedded_config(image) or ""
    return MappingProxyType(dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE)))


def _modules_dir(image: Path, release: str) -> Path | None:
    """The modules beside an image: of its build tree, of its own directory, or of the file system it stands in."""
    top = _build_tree(image)
    places = [top] if top else []
    places += [p for base in (image.parent, image.parent.parent) for p in _module_places(base, release)]
    return next((place for place in places if _holds_modules(place)), None)


def _module_places(base: Path, release: str) -> list[Path]:
    """Where the modules of a release are, if they are in `base`."""
    below = [base / "lib/modules" / release, base / "usr/lib/modules" / release]
    return [base, *below] if base.name == release or _build_tree_top(base) else below


def _build_tree_top(base: Path) -> bool:
    return (base / "Makefile").is_file() and (base / ".config").is_file()


def _holds_modules(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("modules.builtin", "modules.order", "modules.dep"))
