"""Recipes: what a guest image is made of, as TOML in `guest_images/`, one file each, and by its name."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from harness import strict
from harness.errors import SpecError
from harness.resources import GUEST_IMAGES
from harness.spec import BASE_IMAGE

__all__ = ["Modules", "Recipe", "recipe_names"]

_MOST_BASES = 8


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
        extends: name of the recipe that this one adds to; of none when empty. What the two say of a field is one list,
            and what they say of a kind of IOMMU too.
        packages: package names, fetched with what they depend on.
        assumed: packages taken as installed: neither they nor what they alone need are fetched.
        programs: names or patterns in `bin` and `sbin` directories, taken with the shared libraries they need.
        plugins: patterns of shared objects that programs open by themselves, by path, kept where the packages have them
            and taken with the libraries that they need.
        applets: links to busybox.
        files: further files of the packages, by path.
        stdlib: modules and packages of Python's standard library.
        modules: of the kernel.
    """

    extends: str = ""
    packages: tuple[str, ...]
    assumed: tuple[str, ...] = ()
    programs: tuple[str, ...]
    plugins: tuple[str, ...] = ()
    applets: tuple[str, ...]
    files: tuple[str, ...]
    stdlib: tuple[str, ...]
    modules: Modules

    @classmethod
    def named(cls, name: str) -> Self:
        """The recipe of that name in `guest_images/`.

        Raises:
            SpecError: there is none, and the message lists those that there are; or as `load`.
        """
        known = recipe_names()
        if name not in known:
            raise SpecError(f"guest image {name!r} is not known", hint=f"choose one of: {', '.join(known)}")
        return cls.load(GUEST_IMAGES / f"{name}.toml")

    @classmethod
    def load(cls, path: Path = GUEST_IMAGES / f"{BASE_IMAGE}.toml") -> Self:
        """Read a recipe, with that which it extends, beside it.

        Raises:
            SpecError: there is no such file, or it is not a recipe; the message names the field.
        """
        own = data = _read(path)
        for _ in range(_MOST_BASES):
            if not isinstance(own.get("extends", ""), str) or not own.get("extends"):
                break
            own = _read(path.with_name(f"{own['extends']}.toml"))
            data = _joined(own, data)
        else:
            raise SpecError(f"guest image recipe {path}: it extends others without end")
        try:
            return strict.convert(data, cls)
        except msgspec.ValidationError as error:
            raise SpecError(f"guest image recipe {path}: {error}") from error


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that there are."""
    return tuple(sorted(path.stem for path in GUEST_IMAGES.glob("*.toml")))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"guest image recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"guest image recipe {path}: {error}") from error


def _joined(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Two recipes, or tables of them, as one: lists one behind the other; of anything else the second has its way."""
    both = base | more
    for name in base.keys() & more.keys():
        match base[name], more[name]:
            case list() as first, list() as second:
                both[name] = first + second
            case dict() as first, dict() as second:
                both[name] = _joined(first, second)
    return both
