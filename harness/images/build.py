"""A guest image from recipe, packages and kernel, kept in the cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts import packages
from harness.artifacts.cache import Cache, PackageEntry
from harness.artifacts.kernel import Kernel
from harness.artifacts.progress import Progress, silent
from harness.images.kernel_modules import modules_identity, pack_modules
from harness.images.recipe import Recipe
from harness.images.userland import pack_userland
from harness.report.record import Artifact
from harness.resources import GUEST_IMAGES
from harness.spec import Arch

__all__ = ["Image", "build_image"]


@dataclass(frozen=True, slots=True)
class Image:
    """What every machine of one kernel boots from.

    Attributes:
        recipe: what it was made from.
        archive: the initramfs without the machine's own overlay.
        artifacts: the guest packages in it.
    """

    recipe: Recipe
    archive: Path
    artifacts: tuple[Artifact, ...]


def build_image(suite: str, arch: Arch, kernel: Kernel, cache: Cache, progress: Progress = silent) -> Image:
    """The image for a kernel, with a userland of that suite; from the cache where it has been built before.

    The same inputs (recipe, init, agent, packages, kernel modules) give the same bytes.

    Raises:
        ArtifactError, HostError: packages cannot be had, or the cache cannot be written.
        SpecError: the recipe names what no package has.
    """
    recipe = Recipe.load()
    tree = packages.fetch(cache, suite, arch, recipe.packages, progress)
    userland = _member("userland", arch, _digest(tree.key, _sources()))
    modules = _member("modules", arch, _digest(modules_identity(kernel), _sources()))

    def fill(root: Path) -> None:
        progress("building the guest image", 0, 0)
        (root / "initrd").write_bytes(pack_userland(recipe, tree) + pack_modules(recipe, kernel))

    archive = cache.build((userland, modules), fill, progress) / "initrd"
    return Image(recipe=recipe, archive=archive, artifacts=tree.artifacts("guest-package"))


def _member(name: str, arch: Arch, digest: str) -> PackageEntry:
    return PackageEntry(name=f"guest-{name}", version=digest[:12], arch=arch, sha256=digest)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _sources() -> str:
    """A digest of everything of ours that goes into an image: recipes and agent, and the code that packs them."""
    ours = [*GUEST_IMAGES.rglob("*"), *Path(__file__).parent.glob("*.py")]
    digest = hashlib.sha256()
    for path in sorted(path for path in ours if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
