"""The cache: trees of unpacked packages, each under the hash of what is in it, shared by parallel runs.

Layout below the root::

    trees/KEY/manifest.json   written last; an entry without a whole one does not exist
    trees/KEY/root/           the unpacked files
    trees/.KEY.XXXXXX/        being built, by the holder of lock `tree-KEY`
    archives/                 package files, as apt keeps them
    apt/                      apt's private state, one directory for each (sources, suite, architecture)
    resolved/                 what a request (suite, architecture, names) came to, and when
    derived/                  small facts computed from one tree
    locks/                    advisory locks: the kernel frees those of a dead process

An entry appears by one rename and is never written again. A complete one needs no lock and no write access.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import filelock
import msgspec
import platformdirs

from harness.artifacts.progress import Progress, silent
from harness.errors import CorruptArtifact, HostError

__all__ = ["Cache", "FileEntry", "Manifest", "PackageEntry"]

_T = TypeVar("_T")

_SCHEMA = "viommu-harness/tree/1"
_LOCK_SECONDS = 1800
"""How long to wait for another run: it may be downloading a few hundred MB."""


class PackageEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One package of a tree, as its manifest records it."""

    name: str
    version: str
    arch: str
    sha256: str


class FileEntry(msgspec.Struct, frozen=True, array_like=True):
    """One file of a tree. `size` is lstat's, bytes; `sha256` is empty for a symbolic link."""

    path: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a tree consists of."""

    schema: str
    key: str
    packages: tuple[PackageEntry, ...]
    files: tuple[FileEntry, ...]


class Cache:
    """One cache directory.

    Args:
        root: where it is; without one, `VIOMMU_CACHE` in the environment, else the user's cache directory.
    """

    def __init__(self, root: Path | None = None) -> None:
        if root is None:
            named = os.environ.get("VIOMMU_CACHE")
            root = Path(named) if named else platformdirs.user_cache_path("viommu-harness")
        self.root = root.expanduser().absolute()
        self._sound: set[str] = set()

    def __repr__(self) -> str:
        return f"Cache({str(self.root)!r})"

    @staticmethod
    def key(packages: tuple[PackageEntry, ...]) -> str:
        """The key of the tree of those packages, whatever their order: 32 hexadecimal digits."""
        lines = sorted(f"{p.name} {p.version} {p.arch} {p.sha256}\n" for p in packages)
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]

    def directory(self, *parts: str) -> Path:
        """A directory of the cache, made if need be.

        Raises:
            HostError: it cannot be made (read-only, no permission, no space).
        """
        path = self.root.joinpath(*parts)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.unwritable(error) from error
        return path

    def unwritable(self, error: OSError) -> HostError:
        """What to raise when writing to the cache failed with `error`."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return HostError(
                f"the cache {self.root} is full ({error.strerror}), with {megabytes(self.free())} free",
                hint="free space, or name another place in VIOMMU_CACHE",
            )
        return HostError(
            f"the cache {self.root} cannot be written: {error}",
            hint="give yourself permission, or name another place in VIOMMU_CACHE",
        )

    @contextmanager
    def lock(self, name: str, progress: Progress = silent) -> Iterator[None]:
        """Hold the lock of that name, waiting for other runs.

        Raises:
            HostError: it cannot be had, because the cache is read-only or another run keeps it for too long.
        """
        path = self.directory("locks") / f"{name}.lock"
        lock = filelock.FileLock(path)
        try:
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                progress("waiting for another run that fills the cache", 0, 0)
                lock.acquire(timeout=_LOCK_SECONDS)
        except filelock.Timeout:
            raise HostError(
                f"another process has held {path} for {_LOCK_SECONDS} s",
                hint="see which one with `fuser`, and end it",
            ) from None
        except OSError as error:
            raise self.unwritable(error) from error
        try:
            yield
        finally:
            lock.release()

    def free(self) -> int:
        """Bytes that this user can still write below the root."""
        path = self.root
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(path).free

    def require_space(self, needed: int, what: str) -> None:
        """Check that `needed` bytes are free for `what`.

        Raises:
            HostError: they are not; the message names both figures.
        """
        free = self.free()
        if free < needed:
            raise HostError(
                f"{what} needs {megabytes(needed)} below {self.root}, which has {megabytes(free)} free",
                hint="free space, or name another place in VIOMMU_CACHE",
            )

    def tree(self, key: str) -> Path | None:
        """The root of a complete tree, or None.

        Every file is looked at for its size, once in the life of this object; `verify` reads them.
        """
        root = self.root / "trees" / key / "root"
        if key not in self._sound:
            manifest = self.manifest(key)
            if manifest is None or _first_damage(root, manifest) is not None:
                return None
            self._sound.add(key)
        return root

    def manifest(self, key: str) -> Manifest | None:
        """The manifest of a tree, or None when there is no whole one."""
        try:
            manifest = msgspec.json.decode((self.root / "trees" / key / "manifest.json").read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError):
            return None
        return manifest if manifest.schema == _SCHEMA and manifest.key == key else None

    def verify(self, key: str) -> None:
        """Read every file of a tree and compare its hash. A damaged tree is removed.

        Raises:
            CorruptArtifact: the tree is damaged or not there; the message names the first file that differs.
        """
        root = self.root / "trees" / key / "root"
        manifest = self.manifest(key)
        damage = "its manifest is missing or truncated"
        if manifest is not None:
            found = _first_damage(root, manifest)
            if found is None:
                found = next((f.path for f in manifest.files if f.sha256 and _sha256(root / f.path) != f.sha256), None)
            if found is None:
                return
            damage = f"{found} is not as it was unpacked"
        with self.lock(f"tree-{key}"):
            self._discard(key)
        raise CorruptArtifact(f"cache entry {key} in {self.root} is damaged: {damage}", hint="run again to rebuild it")

    def build(
        self,
        packages: tuple[PackageEntry, ...],
        fill: Callable[[Path], None],
        progress: Progress = silent,
    ) -> Path:
        """The root of the tree of those packages, built by `fill` unless it is complete already.

        Args:
            packages: what is to be in it.
            fill: unpacks them into the empty directory it is given.
            progress: told when another run builds the same tree.

        Raises:
            HostError: no space or no permission. Nothing of the entry is left then, nor when `fill` raises.
        """
        key = self.key(packages)
        complete = self.tree(key)
        if complete is not None:
            return complete
        with self.lock(f"tree-{key}", progress):
            complete = self.tree(key)
            if complete is not None:
                return complete
            trees = self.directory("trees")
            self._sweep(trees, held=key)
            self._discard(key)
            work = None
            try:
                work = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=trees))
                work.chmod(0o755)
                root = work / "root"
                root.mkdir()
                fill(root)
                manifest = Manifest(schema=_SCHEMA, key=key, packages=packages, files=_files(root))
                (work / "manifest.json").write_bytes(msgspec.json.encode(manifest))
                work.rename(trees / key)
            except OSError as error:
                raise self.unwritable(error) from error
            finally:
                if work is not None:
                    remove(work)
        self._sound.add(key)
        return trees / key / "root"

    def remember(self, key: str, fact: str, type: type[_T], compute: Callable[[], _T]) -> _T:
        """A small fact about the tree `key`, computed once.

        It is kept only where the cache can be written: a read-only one computes it each time.
        """
        path = self.root / "derived" / f"{key}.{fact}.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=type)
        except (OSError, msgspec.DecodeError):
            value = compute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, msgspec.json.encode(value))
        except OSError:
            return value
        return value

    def _discard(self, key: str) -> None:
        """Remove an entry, out of sight first. The caller holds its lock."""
        self._sound.discard(key)
        entry = self.root / "trees" / key
        if entry.exists():
            doomed = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=entry.parent))
            entry.rename(doomed / "damaged")
            remove(doomed)

    def _sweep(self, trees: Path, held: str) -> None:
        """Remove what writers that died have left: a directory being built whose lock nobody holds."""
        for left in trees.glob(".*.*"):
            key = left.name.split(".")[1]
            if key == held:
                remove(left)
                continue
            lock = filelock.FileLock(self.root / "locks" / f"tree-{key}.lock")
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                continue
            try:
                remove(left)
            finally:
                lock.release()


def megabytes(count: int) -> str:
    """A number of bytes for people, in units of 10^6."""
    return f"{count / 1e6:.1f} MB"


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one, and a killed writer leaves the old one."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def remove(tree: Path) -> None:
    """Remove a directory with all that is in it, also below directories that their package made read-only."""
    if not tree.exists():
        return
    for directory, _, _ in os.walk(tree):
        Path(directory).chmod(0o700)
    shutil.rmtree(tree)


def _files(root: Path) -> tuple[FileEntry, ...]:
    entries = []
    for directory, directories, names in os.walk(root):
        links = [name for name in directories if (Path(directory) / name).is_symlink()]
        for name in (*names, *links):
            path = Path(directory) / name
            digest = "" if path.is_symlink() else _sha256(path)
            entries.append(FileEntry(str(path.relative_to(root)), path.lstat().st_size, digest))
    return tuple(sorted(entries, key=lambda entry: entry.path))


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _first_damage(root: Path, manifest: Manifest) -> str | None:
    """The first file that is missing or of another size."""
    base = f"{root}/"
    for entry in manifest.files:
        try:
            size = os.lstat(base + entry.path).st_size
        except OSError:
            return entry.path
        if size != entry.size:
            return entry.path
    return None
