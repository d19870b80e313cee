"""Where templates are kept: one directory each, shared by parallel runs, thrown away when they take too much room.

Layout below the cache's `templates/`::

    KEY/template.json    written last; an entry without a whole one does not exist. Its time is that of the last lease
    KEY/ram              guest RAM: sparse, mapped privately by every lease
    KEY/state            QEMU's state of the devices
    KEY/console.log      what the console had said
    KEY/trace.log        the trace events until then
    .KEY.XXXXXX/         being built, by the holder of lock `template-KEY`; or being removed

An entry appears by one rename and is not written again. Who reads one holds a shared lock on its template.json until
QEMU has opened the files; who removes one holds it alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.artifacts.cache import Cache, remove
from harness.artifacts.progress import Progress, silent
from harness.errors import HostError
from harness.vmm.rundir import RunDirectory

__all__ = ["FILES", "LIMIT_BYTES", "Entry", "File", "Manifest", "Store", "look"]

LIMIT_BYTES = 4 << 30
"""What all templates may take on the disk; those that were used least recently go first."""

FILES = ("ram", "state", "console.log", "trace.log")

_SCHEMA = "viommu-harness/template/1"
_MANIFEST = "template.json"
_BLOCK = 1 << 16
_ZEROES = bytes(_BLOCK)
_TRIES = 3


class File(msgspec.Struct, frozen=True, array_like=True):
    """One file of a template: what is in it, and by what it is known not to have been written since.

    `sha256` is of all blocks of 64 KiB that are not zero, each behind its number: the same for a copy that has other
    holes.
    """

    sha256: str
    size: int
    inode: int
    changed_ns: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a template is.

    Attributes:
        schema: of this file.
        key: of the entry.
        spec: the machine, as JSON.
        qemu: name and version.
        kernel: name and release.
        host_key: public host key of its SSH, 32 bytes in hexadecimal.
        option_roms: names of the option ROMs that its kernel was started by.
        iommu_interrupt: what QEMU does not save of an amd-iommu (`harness.vmm.qemu.amdvi.read_interrupt`); else empty.
        files: by name.
    """

    schema: str = _SCHEMA
    key: str
    spec: str
    qemu: str
    kernel: str
    host_key: str
    option_roms: tuple[str, ...]
    iommu_interrupt: tuple[int, ...] = ()
    files: dict[str, File]


@dataclass(frozen=True, slots=True)
class Entry:
    """A template that is there.

    Attributes:
        directory: where.
        manifest: what it is.
        used: when it was last leased, seconds since 1970.
        disk_bytes: what it takes on the disk.
    """

    directory: Path
    manifest: Manifest
    used: float
    disk_bytes: int

    def file(self, name: str) -> Path:
        """One of `FILES`."""
        return self.directory / name


class Store:
    """The templates of one cache.

    Where the cache cannot be written, templates are made in a temporary directory, which goes with this process.

    Args:
        cache: whose.
        limit_bytes: what they may take together.
    """

    def __init__(self, cache: Cache, limit_bytes: int = LIMIT_BYTES) -> None:
        self._cache = cache
        self._limit = limit_bytes
        self._root = cache.root / "templates"
        self._own: RunDirectory | None = None

    @contextmanager
    def hold(
        self, key: str, fill: Callable[[Path], Manifest], progress: Progress = silent, *, room: int = 0
    ) -> Iterator[Entry]:
        """The template of that key, which nobody removes while the block lasts; made by `fill` if need be.

        Args:
            key: of the template.
            fill: puts all of `FILES` into the directory that it is given, and tells what they are; the manifest's
                `files` is left to the store.
            progress: told when a template is waited for, and of one that was damaged.
            room: bytes that must be free to make it: memory that a full disk cannot take ends QEMU by SIGBUS.

        Raises:
            HostError: no space, or templates do not stay as they were made.
        """
        damage: str | None = None
        for _ in range(_TRIES):
            with self._shared(key) as entry:
                if entry is not None:
                    damage = _damage(entry)
                    if damage is None:
                        os.utime(entry.directory / _MANIFEST)
                        yield entry
                        return
                    progress(f"a template is made again: {damage}", 0, 0)
            self._make(key, fill, progress, room)
        raise HostError(
            f"a template was made {_TRIES} times, and each time it was damaged at once: {damage}",
            hint=f"see what writes to {self._root}, and whether its disk is sound",
        )

    def entries(self) -> tuple[Entry, ...]:
        """All templates, the one that was used last first."""
        found = []
        for root in (self._root, *([self._own.path] if self._own else [])):
            if root.is_dir():
                found += [entry for path in root.iterdir() if (entry := _read(path)) is not None]
        return tuple(sorted(found, key=lambda entry: entry.used, reverse=True))

    def trim(self, limit_bytes: int, keep: str = "") -> tuple[Entry, ...]:
        """Remove templates until the others take no more than that, least recently used first; those that went.

        Those that somebody is starting a machine from stay, and so does that with the key `keep`.
        """
        gone = []
        entries = self.entries()
        total = sum(entry.disk_bytes for entry in entries)
        for entry in reversed(entries):
            if total <= limit_bytes:
                break
            if entry.manifest.key != keep and self._remove(entry.directory):
                total -= entry.disk_bytes
                gone.append(entry)
        return tuple(gone)

    def _make(self, key: str, fill: Callable[[Path], Manifest], progress: Progress, room: int) -> None:
        root = self._usable()
        with self._cache.lock(f"template-{key}", progress) if self._own is None else _no_lock():
            with self._shared(key) as entry:
                if entry is not None and _damage(entry) is None:
                    return
            self._remove(root / key)
            for left in root.glob(f".{key}.*"):
                remove(left)  # what a writer that died has left
            self._cache.require_space(room, "a template")
            work = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=root))
            try:
                manifest = fill(work)
                files = {name: look(work / name) for name in FILES}
                manifest = msgspec.structs.replace(manifest, key=key, files=files)
                (work / _MANIFEST).write_bytes(msgspec.json.encode(manifest))
                work.rename(root / key)
            except OSError as error:
                raise self._cache.unwritable(error) from error
            finally:
                remove(work)
        self.trim(self._limit, keep=key)

    def _usable(self) -> Path:
        """Where templates are made and used: QEMU opens their memory for writing, though it does not write."""
        if self._own is None:
            try:
                root = self._cache.directory("templates")
                with tempfile.TemporaryFile(dir=root):
                    return root
            except (HostError, OSError):
                self._own = RunDirectory.create()
        return self._own.path

    @contextmanager
    def _shared(self, key: str) -> Iterator[Entry | None]:
        """The entry of a key as it stands, held against removal; None without a whole one."""
        directory = self._usable() / key
        try:
            descriptor = os.open(directory / _MANIFEST, os.O_RDONLY)
        except OSError:
            yield None
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            entry = _read(directory)
            yield entry if entry is not None and entry.manifest.key == key else None
        finally:
            os.close(descriptor)

    def _remove(self, directory: Path) -> bool:
        """Remove an entry, out of sight first; whether it could be."""
        try:
            descriptor = os.open(directory / _MANIFEST, os.O_RDONLY)
        except OSError:
            remove(directory)  # not whole: nobody uses it
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            doomed = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
            directory.rename(doomed / "gone")
            remove(doomed)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True


@contextmanager
def _no_lock() -> Iterator[None]:
    """For a directory that no other process knows."""
    yield


def _read(directory: Path) -> Entry | None:
    path = directory / _MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        used = path.stat().st_mtime
        size = sum((directory / name).stat().st_blocks * 512 for name in FILES)
    except (OSError, msgspec.DecodeError):
        return None
    return Entry(directory, manifest, used, size) if manifest.schema == _SCHEMA else None


def _damage(entry: Entry) -> str | None:
    """What is wrong with the files of an entry: read only where they may have been written since it was made."""
    for name in FILES:
        path, known = entry.file(name), entry.manifest.files.get(name)
        if known is None:
            return f"{path} is not in its manifest"
        status = path.stat()
        if status.st_size != known.size:
            return f"{path} has {status.st_size} bytes and not {known.size}"
        untouched = (status.st_ino, status.st_ctime_ns) == (known.inode, known.changed_ns)
        if not untouched and look(path).sha256 != known.sha256:
            return f"{path} is not as it was saved"
    return None


def look(path: Path) -> File:
    """What is in a file now."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        position = 0
        while position < status.st_size:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA) // _BLOCK * _BLOCK
            except OSError:
                break  # nothing but a hole follows
            file.seek(position)
            block = file.read(_BLOCK)
            if block != _ZEROES[: len(block)]:
                digest.update(position.to_bytes(8, "little") + block)
            position += _BLOCK
    return File(digest.hexdigest(), status.st_size, status.st_ino, status.st_ctime_ns)
