"""Packages of a suite as a tree of unpacked files.

>>> tree = fetch(Cache(), "trixie", "amd64", ["busybox-static"])    # doctest: +SKIP
>>> tree.path("/bin/busybox")                                       # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

import msgspec

from harness.artifacts.apt import Apt, Candidate, Superseded
from harness.artifacts.cache import Cache, PackageEntry, replace_file
from harness.artifacts.process import pipe, require
from harness.artifacts.progress import Progress, silent
from harness.artifacts.sources import Sources, host_vendor
from harness.errors import ArtifactError, CorruptArtifact, HostError, MirrorUnreachable, SpecError
from harness.report.record import Artifact

__all__ = ["Package", "Tree", "fetch", "kept"]

_log = logging.getLogger(__name__)

_SCHEMA = "viommu-harness/resolved/1"
_FRESH_SECONDS = 24 * 3600
"""How long package lists, and what was resolved from them, are used before the mirror is asked again."""
_RETRY_SECONDS = 600
"""How long a mirror that did not answer is left alone when the cache has what it said last."""
_UNPACK_SECONDS = 300
_DIGEST_DIGITS = 16
_NOTHING: Mapping[str, tuple[str, ...]] = MappingProxyType({})

Package = PackageEntry
"""One package of a tree: name, version, arch, sha256 of the package file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Packages unpacked below one directory, which must not be written to.

    Attributes:
        root: the directory.
        key: of the cache entry.
        packages: what is unpacked there, sorted by name.
        suite: where they come from.
        resolved: when the mirror last said that these are the current ones, UTC.
        offline: the mirror should have been asked again, but did not answer (or the cache cannot be written).
    """

    root: Path
    key: str
    packages: tuple[Package, ...]
    suite: str
    resolved: datetime
    offline: bool = False

    def path(self, inside: str) -> Path | None:
        """The file that `inside`, an absolute path in the tree, names; None when it is not there.

        Symbolic links are followed as in a chroot to `root`, and a top-level directory that merged-/usr systems
        keep below /usr is found there.
        """
        for start in (inside, f"/usr{inside}"):
            found = _beneath(self.root, start)
            if found is not None:
                return found
        return None

    def require(self, inside: str) -> Path:
        """Like `path`.

        Raises:
            ArtifactError: it is not there.
        """
        found = self.path(inside)
        if found is None:
            names = ", ".join(package.name for package in self.packages)
            raise ArtifactError(f"the packages of {self.suite} have no {inside}: {names}")
        return found

    def artifacts(self, role: str, main: str = "") -> tuple[Artifact, ...]:
        """The packages as a results record lists them.

        Args:
            role: what `main` is to the run; the others are `ROLE-package`.
            main: name of the package that counts; without one they are all of the same role.
        """
        return tuple(
            Artifact(
                role=role if main in ("", p.name) else f"{role}-package",
                name=p.name,
                version=p.version,
                source=self.suite,
                sha256=p.sha256,
            )
            for p in self.packages
        )


class _Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """What a request came to."""

    schema: str
    when: float
    packages: tuple[Candidate, ...]
    unpacked: int

    @property
    def entries(self) -> tuple[Package, ...]:
        return tuple(Package(name=c.name, version=c.version, arch=c.arch, sha256=c.sha256) for c in self.packages)


def fetch(
    cache: Cache,
    suite: str,
    arch: str,
    names: Iterable[str],
    progress: Progress = silent,
    *,
    assumed: Mapping[str, tuple[str, ...]] = _NOTHING,
    sources: Sources | None = None,
    refresh: bool = False,
) -> Tree:
    """Packages and all that they depend on (no recommendations), unpacked.

    The mirror is asked at most once a day. In between, and when it does not answer (or its answer cannot be written)
    while what it said before is still in the cache, that is used; the tree then says `offline`, and so does the log.

    Args:
        suite: "trixie", "sid", "trixie-backports"...
        arch: of the packages, under Debian's name ("amd64").
        names: what is wanted.
        assumed: packages to take as installed, each with the names that it provides: neither they nor what they
            alone need are fetched.
        sources: where from; without any, from where the host's own packages come.
        refresh: ask the mirror now.

    Raises:
        SpecError: no such suite or package.
        MirrorUnreachable: the mirror does not answer and the cache does not have it.
        CorruptArtifact: the mirror twice delivered something else than its package lists name.
        ArtifactError: what the mirror has does not fit together, or is not signed as it must be.
        HostError: no apt, no space, no permission.
    """
    request = _Request(cache, suite, arch, tuple(sorted(set(names))), assumed, sources)
    known = request.recall()
    fresh = known is not None and time.time() - known.when < _FRESH_SECONDS
    if known is not None and not refresh and (fresh or request.tried_lately()):
        root = cache.tree(cache.key(known.entries))
        if root is not None:
            return request.tree(known, root, offline=not fresh)
    try:
        if known is None or not fresh or refresh:
            known = request.resolve(progress, refresh=refresh)
        try:
            return request.tree(known, request.unpacked(known, progress))
        except Superseded:
            known = request.resolve(progress, refresh=True)
            return request.tree(known, request.unpacked(known, progress))
    except (MirrorUnreachable, HostError) as error:
        if known is None:
            raise
        root = request.at_hand(known, progress)
        if root is None:
            raise
        request.note_try()
        tree = request.tree(known, root, offline=True)
        _log.warning("%s. Using the packages of %s, resolved %s UTC", error.message, suite, f"{tree.resolved:%F %R}")
        return tree


def kept(cache: Cache, arch: str) -> tuple[Tree, ...]:
    """What requests for packages of the host's vendor came to, as far as the cache has it whole; no mirror is asked.

    Args:
        arch: of the packages.

    Returns:
        the trees by suite; of the same tree, asked for in several ways, one.

    Raises:
        HostError: the host's vendor is not known.
    """
    prefix, suffix = f"{host_vendor().id}-", f"-{arch}-"
    found: dict[tuple[str, str], Tree] = {}
    for record in sorted((cache.root / "resolved").glob(f"{prefix}*{suffix}{_DIGEST_DIGITS * '?'}.json")):
        suite = record.name.removeprefix(prefix)[: -len(f"{suffix}.json") - _DIGEST_DIGITS]
        known = _recall(record)
        root = None if known is None else cache.tree(cache.key(known.entries))
        if known is not None and root is not None:
            found[suite, cache.key(known.entries)] = _tree(cache, suite, known, root)
    return tuple(found.values())


class _Request:
    """One request, and what it needs to be answered."""

    def __init__(
        self,
        cache: Cache,
        suite: str,
        arch: str,
        names: tuple[str, ...],
        assumed: Mapping[str, tuple[str, ...]],
        sources: Sources | None,
    ) -> None:
        for word in (suite, arch, *names):
            if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*", word):
                raise SpecError(
                    f"{word!r} cannot be the name of a suite, an architecture or a package",
                    hint=f"suites are {', '.join(host_vendor().suites)} and others; a path of a file needs a '/' in it",
                )
        self._cache = cache
        self._suite = suite
        self._arch = arch
        self._names = names
        self._assumed = assumed
        self._sources = sources
        origin = sources.name if sources is not None else host_vendor().id
        self._place = f"{origin}-{suite}-{arch}"
        words = "\n".join([*names, "", *(f"{name} {provides}" for name, provides in sorted(assumed.items()))])
        digest = hashlib.sha256(words.encode()).hexdigest()[:_DIGEST_DIGITS]
        self._record = cache.root / "resolved" / f"{self._place}-{digest}.json"
        self._tried = self._record.with_suffix(".tried")

    def recall(self) -> _Resolved | None:
        """What the request came to the last time, if that is known."""
        return _recall(self._record)

    def resolve(self, progress: Progress, *, refresh: bool) -> _Resolved:
        """Ask apt what the request comes to, after fetching the lists if they are old."""
        with self._cache.lock(f"apt-{self._place}", progress):
            apt = self._apt()
            age = apt.index_age()
            if refresh or age > _FRESH_SECONDS:
                apt.update(progress)
                age = 0.0
            chosen, unpacked = apt.resolve(self._names)
            known = _Resolved(schema=_SCHEMA, when=time.time() - age, packages=chosen, unpacked=unpacked)
            self._cache.directory("resolved")
            try:
                replace_file(self._record, msgspec.json.encode(known))
            except OSError as error:
                raise self._cache.unwritable(error) from error
            return known

    def unpacked(self, known: _Resolved, progress: Progress) -> Path:
        """The root of the tree, downloaded and unpacked as far as need be."""

        def fill(root: Path) -> None:
            missing = self._missing(known)
            needed = sum(c.size for c in missing) + known.unpacked
            self._cache.require_space(needed, f"{', '.join(self._names)} of {self._suite}/{self._arch}")
            if missing:
                self._download(missing, progress)
            self._unpack(known.packages, root, progress)

        return self._cache.build(known.entries, fill, progress)

    def at_hand(self, known: _Resolved, progress: Progress) -> Path | None:
        """The root of the tree, if it can be had without asking the mirror for anything."""
        root = self._cache.tree(self._cache.key(known.entries))
        if root is None and not self._missing(known):
            root = self.unpacked(known, progress)
        return root

    def tried_lately(self) -> bool:
        """Whether the mirror was asked for news within the last minutes, and did not answer."""
        try:
            return time.time() - self._tried.stat().st_mtime < _RETRY_SECONDS
        except OSError:
            return False

    def note_try(self) -> None:
        """Remember that the mirror did not answer, where the cache can be written."""
        with suppress(OSError):
            self._tried.touch()

    def tree(self, known: _Resolved, root: Path, *, offline: bool = False) -> Tree:
        """The answer."""
        return _tree(self._cache, self._suite, known, root, offline=offline)

    def _apt(self) -> Apt:
        """apt for this request. The caller holds its lock."""
        if self._sources is None:
            self._sources = Sources.of_host()
        home = self._cache.directory("apt", self._place)
        return Apt(self._cache, self._sources, self._suite, self._arch, home, self._assumed)

    def _missing(self, known: _Resolved) -> list[Candidate]:
        """The packages whose file is not there; a damaged one is removed and counts as missing."""
        missing = []
        for candidate in known.packages:
            archive = self._archive(candidate)
            if not archive.exists():
                missing.append(candidate)
            elif not _is_whole(archive, candidate):
                if candidate.uri.startswith("file:"):
                    raise CorruptArtifact(f"{archive} is not what the package lists beside it say")
                _log.warning("%s is damaged: fetching it again", archive)
                archive.unlink()
                missing.append(candidate)
        return missing

    def _download(self, missing: list[Candidate], progress: Progress) -> None:
        with self._cache.lock(f"apt-{self._place}", progress), self._cache.lock("archives", progress):
            apt = self._apt()
            if apt.index_age() == float("inf"):
                apt.update(progress)
            apt.download(self._names, missing, progress)
        for candidate in missing:
            archive = self._archive(candidate)
            if not archive.exists():
                raise Superseded(f"apt fetched another version than {candidate.file}")
            if not _is_whole(archive, candidate):
                archive.unlink()
                raise CorruptArtifact(
                    f"{candidate.file} arrived damaged: it is not what the package lists say", hint="run again"
                )

    def _archive(self, candidate: Candidate) -> Path:
        """Where the package file is, or will be: apt uses those of a file: source in place."""
        if candidate.uri.startswith("file:"):
            return Path(unquote(urlsplit(candidate.uri).path))
        return self._cache.root / "archives" / candidate.file

    def _unpack(self, packages: tuple[Candidate, ...], root: Path, progress: Progress) -> None:
        dpkg_deb = require("dpkg-deb", "to unpack packages")
        tar = require("tar", "to unpack packages")
        step = f"{self._suite}/{self._arch}: unpacking"
        into = ["--extract", "--keep-directory-symlink", "--no-same-owner", "--no-same-permissions"]
        for number, candidate in enumerate(packages):
            progress(step, number, len(packages))
            first, second, words = pipe(
                [dpkg_deb, "--fsys-tarfile", str(self._archive(candidate))],
                [tar, *into, "--directory", str(root)],
                deadline_seconds=_UNPACK_SECONDS,
            )
            if first or second:
                raise self._unpack_failure(candidate, words)
        progress(step, len(packages), len(packages))

    def _unpack_failure(self, candidate: Candidate, words: str) -> ArtifactError | HostError:
        for code in ("No space left on device", "File too large", "Disk quota exceeded"):
            if code in words:
                return HostError(
                    f"unpacking {candidate.file} below {self._cache.root} failed: {code.lower()}",
                    hint="free space, or name another place in VIOMMU_CACHE",
                    evidence=words,
                )
        return ArtifactError(f"{candidate.file} could not be unpacked", evidence=words)


def _recall(record: Path) -> _Resolved | None:
    try:
        known = msgspec.json.decode(record.read_bytes(), type=_Resolved)
    except (OSError, msgspec.DecodeError):
        return None
    return known if known.schema == _SCHEMA else None


def _tree(cache: Cache, suite: str, known: _Resolved, root: Path, *, offline: bool = False) -> Tree:
    return Tree(
        root=root,
        key=cache.key(known.entries),
        packages=known.entries,
        suite=suite,
        resolved=datetime.fromtimestamp(known.when, UTC),
        offline=offline,
    )


def _is_whole(archive: Path, candidate: Candidate) -> bool:
    if archive.stat().st_size != candidate.size:
        return False
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == candidate.sha256


def _beneath(root: Path, inside: str) -> Path | None:
    """`inside` below `root`, links resolved as in a chroot."""
    done: list[str] = []
    left = inside.strip("/").split("/")
    for _ in range(1000):
        if not left:
            return root.joinpath(*done)
        part = left.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        if here.is_symlink():
            target = str(here.readlink())
            if target.startswith("/"):
                done = []
            left = target.strip("/").split("/") + left
        elif here.exists():
            done.append(part)
        else:
            return None
    return None
