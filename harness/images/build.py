"""A guest image from recipe, packages and kernel, kept in the cache."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

from harness.artifacts import packages
from harness.artifacts.cache import Cache, PackageEntry
from harness.artifacts.kernel import Kernel
from harness.artifacts.packages import Tree
from harness.artifacts.progress import Progress, silent
from harness.images.kernel_modules import modules_identity, pack_modules
from harness.images.recipe import Recipe
from harness.images.userland import pack_userland
from harness.report.record import Artifact
from harness.resources import GUEST_IMAGES
from harness.spec import Arch

__all__ = ["Image", "Images", "fetch_userland"]


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


class Images:
    """The images for a kernel, with a userland of one suite, by the names of their recipes.

    Each is built when it is first asked for, and comes from the cache where it has been built before. The same inputs
    (recipe, init, agent, packages, kernel modules) give the same bytes.

    Args:
        suite: where its packages come from.
        arch: of the guest.
        kernel: whose modules are in it.
        cache: where images are kept.
        progress: told of each step that takes long.
    """

    def __init__(self, suite: str, arch: Arch, kernel: Kernel, cache: Cache, progress: Progress = silent) -> None:
        self._suite = suite
        self._arch = arch
        self._kernel = kernel
        self._cache = cache
        self._progress = progress
        self._built: dict[str, Image] = {}
        self._lock = threading.Lock()

    def named(self, name: str) -> Image:
        """One of them.

        Raises:
            ArtifactError, HostError: packages cannot be had, or the cache cannot be written.
            SpecError: there is no such recipe, or it names what no package has.
        """
        with self._lock:  # of two threads that ask for it the second takes what the first has built
            if name not in self._built:
                self._built[name] = self._build(name)
            return self._built[name]

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The guest packages of all that have been asked for."""
        with self._lock:
            return tuple(dict.fromkeys(each for image in self._built.values() for each in image.artifacts))

    def _build(self, name: str) -> Image:
        recipe, kernel = Recipe.named(name), self._kernel
        tree = fetch_userland(recipe, self._cache, self._suite, self._arch, self._progress)
        userland = _member("userland", self._arch, _digest(name, tree.key, _sources()))
        modules = _member("modules", self._arch, _digest(name, modules_identity(kernel), _sources()))

        def fill(root: Path) -> None:
            self._progress(f"building the guest image {name}", 0, 0)
            (root / "initrd").write_bytes(pack_userland(recipe, tree) + pack_modules(recipe, kernel))

        archive = self._cache.build((userland, modules), fill, self._progress) / "initrd"
        return Image(recipe=recipe, archive=archive, artifacts=tree.artifacts("guest-package"))


def fetch_userland(recipe: Recipe, cache: Cache, suite: str, arch: Arch, progress: Progress = silent) -> Tree:
    """The packages of a recipe, unpacked; errors as of `harness.artifacts.packages.fetch`."""
    assumed: dict[str, tuple[str, ...]] = dict.fromkeys(recipe.assumed, ())
    return packages.fetch(cache, suite, arch, recipe.packages, progress, assumed=assumed)


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
