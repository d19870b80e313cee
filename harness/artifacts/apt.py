"""Drives the host's apt with private state: package lists, resolution and download for one suite and architecture.

apt verifies signatures and hashes and resumes partial downloads; the host's own options (proxies, keys) apply, its
pins and hooks do not. No step needs root.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import unquote

from harness.artifacts.cache import Cache, megabytes
from harness.artifacts.process import Finished, require, run
from harness.artifacts.progress import Progress
from harness.artifacts.sources import Sources
from harness.errors import ArtifactError, CorruptArtifact, HostError, MirrorUnreachable, SpecError, Unsupported

__all__ = ["Apt", "Candidate", "Superseded"]

_STALL_SECONDS = 120
"""How long apt may go without a byte arriving; its own network timeouts are shorter."""

_OPTIONS: Mapping[str, str] = {
    "APT::Default-Release": "",
    "APT::Install-Recommends": "false",
    "APT::Install-Suggests": "false",
    # The cache may lie below a home directory that apt's sandbox user cannot enter. Matters to root alone.
    "APT::Sandbox::User": "root",
    "APT::Update::Error-Mode": "any",
    "Acquire::ForceHash": "SHA256",
    "Acquire::Languages": "none",
    "Acquire::PDiffs": "false",
    "Acquire::Retries": "2",
    "Acquire::http::Timeout": "20",
    "Acquire::https::Timeout": "20",
    "Dir::Etc::preferences": "/dev/null",
    "Dir::Etc::preferencesparts": "/dev/null",
    "Dir::Etc::sourcelist": "/dev/null",
}

_HOOKS = ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success")
"""What a host may have its own updates followed by, such as emptying /var/cache/apt/archives."""

_UNNEEDED_INDEXES = ("DEP-11", "CNF", "Contents-deb", "Contents-udeb")


class Superseded(CorruptArtifact):
    """The mirror does not deliver what the package lists named: fetch the lists again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One package that apt chose.

    Attributes:
        file: name that apt gives it among the archives.
        size: of the package file, bytes.
        uri: where apt takes it from.
    """

    name: str
    version: str
    arch: str
    sha256: str
    file: str
    size: int
    uri: str


class Apt:
    """apt for one suite and architecture. The caller holds the lock of `home`.

    Args:
        cache: where archives are kept and space is looked at.
        sources: where packages come from.
        suite: suite or pocket of one ("trixie", "trixie-backports").
        arch: architecture of the packages, under Debian's name.
        home: private state of this combination.
        assumed: names (and the names each provides) of packages to take as installed.
    """

    def __init__(
        self,
        cache: Cache,
        sources: Sources,
        suite: str,
        arch: str,
        home: Path,
        assumed: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._cache = cache
        self._sources = sources
        self._suite = suite
        self._arch = arch
        self._home = home
        self._assumed = assumed
        self._archives = cache.directory("archives")
        self._label = f"{suite}/{arch}"

    def index_age(self) -> float:
        """Seconds since the package lists were last fetched whole; infinite when they never were."""
        try:
            return time.time() - self._stamp.stat().st_mtime
        except FileNotFoundError:
            return float("inf")

    def update(self, progress: Progress) -> None:
        """Fetch the package lists.

        Raises:
            SpecError: there is no such suite.
            MirrorUnreachable: no answer, or none in time.
            ArtifactError: apt refused what it got, for a signature that does not fit or the like.
            HostError: the disk is full.
        """
        self._cache.require_space(200_000_000, f"the package lists of {self._label}")
        step = f"{self._label}: package lists"
        for security in (True, False):
            self._configure(security=security)
            done = self._run(["update"], step, progress, self._lists_size)
            missing = _missing_suites(done.output)
            if security and missing == {self._sources.security_suite(self._suite)}:
                continue  # a suite without security updates, such as sid
            break
        if missing:
            missing = missing - {self._sources.security_suite(self._suite)} or missing
            known = ", ".join(self._sources.vendor.suites)
            raise SpecError(
                f"the package archive has no suite {' or '.join(sorted(missing))}",
                hint=f"suites that {self._sources.vendor.id} has or had: {known}; a path of a file needs a '/' in it",
            )
        if done.status != 0:
            raise self._failure(done, f"the package lists of {self._label} could not be fetched")
        self._stamp.touch()
        progress(step, 1, 1)

    def resolve(self, names: Sequence[str]) -> tuple[tuple[Candidate, ...], int]:
        """What must be there for those packages, without recommendations, and what is assumed installed left out.

        Returns:
            the packages, sorted by name, and the bytes that they take when unpacked.

        Raises:
            SpecError: a package that the suite does not have; the message names some that it has.
            ArtifactError: the packages cannot be had together.
        """
        # apt prints only what it would still have to fetch, so it is shown an empty directory of archives.
        nowhere = f"Dir::Cache::archives={self._home}/cache/archives/"
        words = ["--option", nowhere, "--print-uris", "install", *names]
        done = self._run(words, f"{self._label}: resolving", None, int)
        if done.status != 0:
            self._refuse_unknown(done)
            raise self._failure(done, f"{', '.join(names)} cannot be installed from {self._label}")
        found = re.findall(r"^'(\S+)' (\S+)_(\S+)_(\S+)\.deb (\d+) SHA256:([0-9a-f]{64})$", done.stdout, re.MULTILINE)
        chosen = tuple(
            Candidate(
                name=name,
                version=unquote(version),
                arch=arch,
                sha256=sha256,
                file=f"{name}_{version}_{arch}.deb",
                size=int(size),
                uri=uri,
            )
            for uri, name, version, arch, size, sha256 in sorted(found)
        )
        return chosen, _unpacked_size(done.stdout)

    def download(self, names: Sequence[str], wanted: Sequence[Candidate], progress: Progress) -> None:
        """Bring the missing ones of `wanted`, which `names` resolved to, into the archives.

        Raises:
            Superseded: the mirror has other versions by now.
            MirrorUnreachable, ArtifactError, HostError: as for `update`.
        """
        total = sum(candidate.size for candidate in wanted)
        step = f"{self._label}: downloading"

        def arrived() -> int:
            sizes = 0
            for candidate in wanted:
                for path in (self._archives / candidate.file, self._archives / "partial" / candidate.file):
                    try:
                        sizes += path.stat().st_size
                        break
                    except FileNotFoundError:
                        continue
            progress(step, min(sizes, total), total)
            return sizes

        done = self._run(["--download-only", "install", *names], step, None, arrived)
        if done.status != 0:
            if re.search(
                r"404 +Not Found|Unable to locate package|File has unexpected size|Hash Sum mismatch", done.output
            ):
                raise Superseded(
                    f"the mirror does not deliver what its package lists of {self._label} name",
                    hint="run again later: it may be in the middle of an update",
                    evidence=done.output,
                )
            raise self._failure(done, f"packages of {self._label} could not be downloaded")
        progress(step, total, total)

    @property
    def _stamp(self) -> Path:
        return self._home / "updated"

    def _configure(self, *, security: bool) -> None:
        """Write the private configuration."""
        for part in ("state/lists/partial", "cache/archives/partial", "sources"):
            (self._home / part).mkdir(parents=True, exist_ok=True)
        text = self._sources.stanzas(self._suite, security=security)
        (self._home / "sources" / "harness.sources").write_text(text)

    def _options(self) -> list[str]:
        status = "".join(
            f"Package: {name}\nStatus: install ok installed\nVersion: 99999:1\nArchitecture: all\n"
            f"Multi-Arch: foreign\nMaintainer: none\nDescription: assumed\n"
            + (f"Provides: {', '.join(provides)}\n" if provides else "")
            + "\n"
            for name, provides in self._assumed.items()
        )
        (self._home / "status").write_text(status)
        (self._archives / "partial").mkdir(exist_ok=True)
        config = "".join(f"#clear {hook};\n" for hook in _HOOKS)
        settings = {
            **_OPTIONS,
            **{f"Acquire::IndexTargets::deb::{name}::DefaultEnabled": "false" for name in _UNNEEDED_INDEXES},
            "APT::Architecture": self._arch,
            "APT::Architectures": self._arch,
            "Dir::Etc::sourceparts": f"{self._home}/sources",
            "Dir::State": f"{self._home}/state",
            "Dir::State::status": f"{self._home}/status",
            "Dir::Cache": f"{self._home}/cache",
            "Dir::Cache::archives": f"{self._archives}/",
        }
        config += "".join(f'{name} "{value}";\n' for name, value in settings.items())
        (self._home / "apt.conf").write_text(config)
        options = ["--config-file", str(self._home / "apt.conf"), "--assume-yes", "--quiet=1"]
        if self._suite != self._sources.vendor.base(self._suite):
            options += ["--target-release", self._suite]  # backports and experimental are not chosen from otherwise
        return options

    def _run(self, words: Sequence[str], step: str, progress: Progress | None, watch: Callable[[], int]) -> Finished:
        apt = require("apt-get", "to find and verify packages")

        def watched() -> int:
            value = watch()
            if progress is not None:
                progress(step, value, 0)
            return value

        try:
            done = run([apt, *self._options(), *words], watch=watched, stall_seconds=_STALL_SECONDS)
        except OSError as error:
            raise self._cache.unwritable(error) from error
        if done.stalled:
            raise MirrorUnreachable(
                f"{step}: nothing arrived for {_STALL_SECONDS} s",
                hint="check the network, or give the path of a file instead of a suite name",
                evidence=done.output,
            )
        return done

    def _lists_size(self) -> int:
        total = 0
        for directory in ("lists", "lists/partial"):
            for path in (self._home / "state" / directory).glob("*"):
                try:
                    total += path.stat().st_size
                except FileNotFoundError:  # moved on by apt meanwhile
                    continue
        return total

    def _failure(self, done: Finished, what: str) -> ArtifactError | HostError:
        """The error that apt's words amount to."""
        text = done.output
        if re.search(r"No space left|enough free space|File too large|Disk quota exceeded", text):
            return HostError(
                f"{what}: the disk of {self._cache.root} is full, with {megabytes(self._cache.free())} free",
                hint="free space, or name another place in VIOMMU_CACHE",
                evidence=text,
            )
        if re.search(r"NO_PUBKEY|is not signed|EXPKEYSIG|BADSIG|signatures? (?:couldn't|were invalid)|not valid", text):
            return ArtifactError(
                f"{what}: apt did not accept the archive's signature",
                hint="bring the host's archive keyring package and its clock up to date",
                evidence=text,
            )
        if "Failed to fetch" in text:
            return MirrorUnreachable(
                f"{what}: the mirror did not answer",
                hint="check the network and the proxy that apt is set up with, or give the path of a file",
                evidence=text,
            )
        return ArtifactError(what, evidence=text)

    def _refuse_unknown(self, done: Finished) -> None:
        """Raise for a package that the suite does not have."""
        unknown = re.search(
            r"Unable to locate package (\S+)|Package '?([^\s']+)'? has no installation candidate", done.output
        )
        if unknown is None:
            return
        name = unknown[1] or unknown[2]
        cache = require("apt-cache", "to list the packages of a suite")
        config = ["--config-file", str(self._home / "apt.conf")]
        listing = run([cache, *config, "pkgnames"], watch=int, stall_seconds=_STALL_SECONDS)
        near = get_close_matches(name, listing.stdout.split(), n=6, cutoff=0.7)
        raise Unsupported(
            f"{self._label} has no package {name}",
            hint=f"it has: {', '.join(near)}" if near else "it has none of a similar name",
        )


def _missing_suites(text: str) -> set[str]:
    """The suites that an archive said it does not have; one that needs no signature needs no Release file either."""
    signed = re.findall(r"The repository '\S+ (\S+) Release' does not have a Release file", text)
    trusted = re.findall(r"Failed to fetch \S+/dists/([^/\s]+)/\S+ +(?:404|File not found)", text)
    return {*signed, *trusted}


def _unpacked_size(text: str) -> int:
    """Bytes, from apt's "After this operation, 191 MB of additional disk space will be used."."""
    match = re.search(r"After this operation, ([\d.,]+) ([kMGT]?)B of additional disk space", text)
    if match is None:
        return 0
    return int(float(match[1].replace(",", "")) * 1000 ** " kMGT".index(match[2] or " "))
