"""Recipes: what a guest image is made of, as TOML in `guest_images/`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import msgspec

from harness import strict
from harness.errors import SpecError
from harness.resources import GUEST_IMAGES

__all__ = ["Modules", "Recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """Kernel modules of an image.

    Attributes:
        always: loaded by init.
        iommu: loaded by init before those, by kind of IOMMU.
        available: in the image where the kernel has them, not loaded.
    """

    always: tuple[str, ...]
    iommu: dict[str, tuple[str, ...]] = field(default_factory=dict)
    available: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One guest image.

    Attributes:
        packages: package names, fetched with what they depend on.
        programs: names or patterns in `bin` and `sbin` directories, taken with the shared libraries they need.
        applets: links to busybox.
        files: further files of the packages, by path.
        stdlib: modules and packages of Python's standard library.
        modules: of the kernel.
    """

    packages: tuple[str, ...]
    programs: tuple[str, ...]
    applets: tuple[str, ...]
    files: tuple[str, ...]
    stdlib: tuple[str, ...]
    modules: Modules

    @classmethod
    def load(cls, path: Path = GUEST_IMAGES / "base.toml") -> Self:
        """Read a recipe.

        Raises:
            SpecError: there is no such file, or it is not a recipe; the message names the field.
        """
        try:
            return strict.convert(tomllib.loads(path.read_text(encoding="utf-8")), cls)
        except OSError as error:
            raise SpecError(f"guest image recipe {path}: {error.strerror}") from error
        except (msgspec.ValidationError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SpecError(f"guest image recipe {path}: {error}") from error
