"""Kernel modules: which there are, what each needs, in which order to load them.

Read from the modules themselves (`.modinfo`) and `modules.builtin`: Debian's packages ship no modules.dep, which
depmod makes on installation. Sources: Linux, include/linux/module.h (MODULE_INFO), Documentation/kbuild/kbuild.rst;
modprobe.d(5) for softdep.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from harness.artifacts.image import decompress
from harness.artifacts.kernel import Kernel
from harness.errors import ArtifactError, Unsupported

__all__ = ["KernelModules", "ModuleFile", "ModuleInfo", "info", "read"]

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")

_OPTIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "e1000e": ("CONFIG_E1000E", "e1000e network"),
        "uio_pci_generic": ("CONFIG_UIO_PCI_GENERIC", "generic PCI UIO"),
        "vfio_iommu_type1": ("CONFIG_VFIO_IOMMU_TYPE1", "VFIO type 1 IOMMU"),
        "vfio_pci": ("CONFIG_VFIO_PCI", "vfio-pci"),
        "virtio_blk": ("CONFIG_VIRTIO_BLK", "virtio-blk"),
        "virtio_console": ("CONFIG_VIRTIO_CONSOLE", "virtio-serial"),
        "virtio_iommu": ("CONFIG_VIRTIO_IOMMU", "virtio-iommu"),
        "virtio_net": ("CONFIG_VIRTIO_NET", "virtio-net"),
        "virtio_pci": ("CONFIG_VIRTIO_PCI", "virtio-pci"),
    }
)
"""Option and plain name of the drivers that the harness asks for; others go by the name of the module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFile:
    """One module.

    Attributes:
        name: as /proc/modules has it, with '_' for '-'.
        path: its file; None when it is built in.
        builtin: it is part of the image and need not be loaded.
    """

    name: str
    path: Path | None
    builtin: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleInfo:
    """What a module's `.modinfo` says, names with '_' for '-'.

    Attributes:
        name: `name=`.
        depends: modules that must be loaded before, whose symbols it uses.
        pre: modules that should be loaded before (`softdep=pre:`).
        post: modules that should be loaded after.
        aliases: `alias=`, as written.
    """

    name: str
    depends: tuple[str, ...]
    pre: tuple[str, ...]
    post: tuple[str, ...]
    aliases: tuple[str, ...]


def read(module: ModuleFile) -> bytes:
    """The module as an uncompressed ELF file; empty for one that is built in.

    Raises:
        ArtifactError: the file cannot be read, or is damaged.
    """
    if module.path is None:
        return b""
    try:
        data = module.path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"module {module.path} cannot be read: {error.strerror}") from error
    plain = data if module.path.suffix == ".ko" else decompress(data)
    if plain is None or not plain.startswith(b"\x7fELF"):
        raise ArtifactError(
            f"module {module.path} is damaged: it is not a {module.path.suffix} file with an ELF file in it",
            hint="install or build the kernel's modules again",
        )
    return plain


def info(module: ModuleFile) -> ModuleInfo:
    """What the module says of itself; for one that is built in, its name alone.

    Raises:
        ArtifactError: the file cannot be read, or is damaged.
    """
    if module.builtin:
        return ModuleInfo(name=module.name, depends=(), pre=(), post=(), aliases=())
    try:
        section = ELFFile(BytesIO(read(module))).get_section_by_name(".modinfo")
        entries = b"" if section is None else section.data()
    except ELFError as error:
        raise ArtifactError(f"module {module.path} is damaged: {error}") from error
    fields: dict[str, list[str]] = {}
    for entry in entries.split(b"\0"):
        key, _, value = entry.decode(errors="replace").partition("=")
        fields.setdefault(key, []).append(value)
    pre, post = _soft(fields.get("softdep", []))
    return ModuleInfo(
        name=_plain(fields.get("name", [module.name])[0]),
        depends=tuple(_plain(name) for value in fields.get("depends", []) for name in value.split(",") if name),
        pre=pre,
        post=post,
        aliases=tuple(fields.get("alias", [])),
    )


class KernelModules:
    """The modules of one kernel, looked for when the first of them is asked for; each that is asked for is read once.

    Attributes:
        kernel: whose.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._read: dict[str, ModuleInfo] = {}

    def resolve(self, names: Iterable[str]) -> list[ModuleFile]:
        """The modules of those names and all that they need, each after what it needs.

        Args:
            names: '-' and '_' are the same.

        Returns:
            each module once; those built into the image are among them, so that a caller can say what it found.
            Soft dependencies are followed where the kernel has them.

        Raises:
            Unsupported: the kernel has no such module; the message names the configuration option where it is known.
            ArtifactError: a module file cannot be read.
        """
        order: dict[str, ModuleFile] = {}
        for name in names:
            self._add(_plain(name), order, frozenset())
        return list(order.values())

    @cached_property
    def _files(self) -> dict[str, Path]:
        """The files, by plain name."""
        if self.kernel.modules_dir is None:
            return {}
        return {
            _plain(name.partition(".ko")[0]): Path(place, name)
            for place, _, names in os.walk(self.kernel.modules_dir)
            for name in names
            if name.endswith(_SUFFIXES)
        }

    @cached_property
    def _builtin(self) -> frozenset[str]:
        """Plain names of those that are built in."""
        listing = self.kernel.modules_dir / "modules.builtin" if self.kernel.modules_dir else None
        if listing is None or not listing.is_file():
            return frozenset()
        return frozenset(_plain(Path(line).name.partition(".ko")[0]) for line in listing.read_text().split())

    def _find(self, name: str) -> ModuleFile | None:
        """The module of that plain name."""
        # Built in wins: a build tree can hold a stale .ko of a driver that has been built in since.
        if name in self._builtin or (not self._builtin and self.kernel.config.get(_option(name)) == "y"):
            return ModuleFile(name=name, path=None, builtin=True)
        path = self._files.get(name)
        return None if path is None else ModuleFile(name=name, path=path, builtin=False)

    def _add(self, name: str, order: dict[str, ModuleFile], above: frozenset[str]) -> None:
        """Put a module into `order`, what it needs first.

        `above` are those that need it: soft dependencies can be circular.
        """
        if name in order or name in above:
            return
        module = self._find(name)
        if module is None:
            raise self._absent(name, above)
        found = self._info(module)
        for needed in found.depends:
            self._add(needed, order, above | {name})
        for wanted in found.pre:
            if self._find(wanted) is not None:
                self._add(wanted, order, above | {name})
        order[name] = module
        for wanted in found.post:
            if self._find(wanted) is not None:
                self._add(wanted, order, above | {name})

    def _info(self, module: ModuleFile) -> ModuleInfo:
        if module.name not in self._read:
            self._read[module.name] = info(module)
        return self._read[module.name]

    def _absent(self, name: str, above: frozenset[str]) -> Unsupported:
        kernel = self.kernel
        option = _option(name)
        driver = _OPTIONS[name][1] if name in _OPTIONS else name
        what = f"kernel {kernel.release} has no {driver} driver"
        if above:
            what += f" (needed by {', '.join(sorted(above))})"
        if not kernel.config:
            reason = "its configuration is not known"
        elif option in kernel.config:
            reason = f"{option}={kernel.config[option]}, but there is no module file {name}"
        else:
            reason = f"{option} is not set"
        place = "no modules were found beside it" if kernel.modules_dir is None else f"looked in {kernel.modules_dir}"
        return Unsupported(
            f"{what}: {reason}; {place}",
            hint="use a kernel that has it; of one that is given by its path, modules are looked for in "
            f"lib/modules/{kernel.release} beside the image or above it, and in the build tree that it stands in",
        )


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _option(name: str) -> str:
    return _OPTIONS[name][0] if name in _OPTIONS else f"CONFIG_{name.upper()}"


def _soft(values: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names after `pre:` and after `post:`."""
    named: dict[str, list[str]] = {"pre:": [], "post:": []}
    for value in values:
        into: list[str] = []
        for word in value.split():
            if word in named:
                into = named[word]
            else:
                into.append(_plain(word))
    return tuple(named["pre:"]), tuple(named["post:"])
