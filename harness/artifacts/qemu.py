"""Finds QEMU builds: from a suite, on PATH, or at a path."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from harness.artifacts.cache import Cache
from harness.artifacts.kernel import is_path
from harness.artifacts.packages import Tree, fetch
from harness.artifacts.process import require, run
from harness.artifacts.progress import Progress, silent
from harness.artifacts.sources import Sources
from harness.errors import ArtifactError, HostError, SpecError
from harness.report.record import Artifact

__all__ = ["HOST", "QemuBuild", "find_qemu", "host_arch", "qemu_in"]

HOST = "host"
"""The name of the QEMU on PATH."""

_VERSION_SECONDS = 20

_PACKAGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "amd64": ("qemu-system-x86", "qemu-system-x86_64"),
        "arm64": ("qemu-system-arm", "qemu-system-aarch64"),
        "riscv64": ("qemu-system-riscv", "qemu-system-riscv64"),
    }
)
"""Package and binary by guest architecture."""

_ASSUMED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # What their maintainer scripts would need; QEMU itself only uses libraries, modules and firmware.
        "adduser": (),
        "debconf": ("debconf-2.0",),
        "dpkg": (),
        "fuse3": (),
        "libpam-modules": (),
        "libpam-modules-bin": (),
        "libpam-runtime": (),
        "mount": (),
        "passwd": (),
        "perl-base": (),
        "systemd": (),
        "udev": (),
    }
)
"""Packages that a QEMU depends on and that are not fetched."""

_FIRMWARE = ("/usr/share/qemu", "/usr/share/seabios", "/usr/lib/ipxe/qemu", "/usr/share/qemu-efi-aarch64")
"""Where packages put firmware and option ROMs; a build has some of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuBuild:
    """One QEMU that can be started.

    Attributes:
        name: as it was asked for ("trixie", "host", a path).
        argv_prefix: the words that a command line starts with.
        env: what must be added to the environment.
        binary: the program itself.
        version: as `--version` says, "10.0.13".
        artifacts: for the results record.
    """

    name: str
    argv_prefix: tuple[str, ...]
    env: Mapping[str, str]
    binary: Path
    version: str
    artifacts: tuple[Artifact, ...]


def find_qemu(
    name: str | Path,
    arch: str,
    cache: Cache,
    progress: Progress = silent,
    *,
    sources: Sources | None = None,
    refresh: bool = False,
) -> QemuBuild:
    """The QEMU that `name` means.

    Args:
        name: a suite ("trixie", "sid"...), "host" for the one on PATH, or the path of a binary.
        arch: the guest's architecture, under Debian's name.
        sources, refresh: as for `packages.fetch`.

    Raises:
        SpecError: no such file or suite, not executable, or not a QEMU; the message quotes what it said.
        HostError: "host" was asked for and there is none.
        ArtifactError, HostError: as `packages.fetch` raises them.
    """
    if arch not in _PACKAGES:
        raise SpecError(f"no QEMU is known for guests of {arch}", hint=f"choose one of: {', '.join(_PACKAGES)}")
    package, program = _PACKAGES[arch]
    if isinstance(name, Path) or is_path(name):
        return _at_path(str(name), Path(name).absolute(), arch)
    if name == HOST:
        found = shutil.which(program)
        if found is None:
            raise HostError(
                f"{program} is not on PATH",
                hint=f"install {package}, or name a suite (trixie, sid...) to have one fetched without root",
            )
        return _at_path(name, Path(found), arch)
    tree = fetch(cache, name, host_arch(), [package], progress, assumed=_ASSUMED, sources=sources, refresh=refresh)
    return _in_tree(name, tree, package, program, cache)


def qemu_in(tree: Tree, arch: str, cache: Cache) -> QemuBuild | None:
    """The QEMU of a tree of packages, under the name of the tree's suite; None when the tree has none.

    Args:
        arch: the guest's architecture, one that `find_qemu` knows.

    Raises:
        SpecError, ArtifactError: it is there and does not run.
    """
    package, program = _PACKAGES[arch]
    if not any(entry.name == package for entry in tree.packages):
        return None
    return _in_tree(tree.suite, tree, package, program, cache)


@functools.cache
def host_arch() -> str:
    """This host's architecture under Debian's name.

    Raises:
        HostError: there is no dpkg to ask.
    """
    dpkg = require("dpkg", "to know this host's architecture")
    return run([dpkg, "--print-architecture"], watch=int, stall_seconds=_VERSION_SECONDS).stdout.strip()


def _at_path(name: str, path: Path, arch: str) -> QemuBuild:
    if not path.exists():
        raise SpecError(f"there is no QEMU at {path}", hint="give the path of a qemu-system binary, or a suite name")
    if not path.is_file() or not os.access(path, os.X_OK):
        raise SpecError(f"{path} cannot be run: it is not an executable file", hint="give a qemu-system binary")
    version = _version((str(path),), {}, path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    artifact = Artifact(role="qemu", name=path.name, version=version, source=str(path), sha256=sha256)
    return QemuBuild(
        name=name,
        argv_prefix=(str(path),),
        env=MappingProxyType({}),
        binary=path,
        version=version,
        artifacts=(artifact,),
    )


def _in_tree(name: str, tree: Tree, package: str, program: str, cache: Cache) -> QemuBuild:
    binary = tree.require(f"/usr/bin/{program}")
    libraries = cache.remember(tree.key, f"{program}.libraries", list[str], lambda: _library_dirs(tree, binary))
    loader, *directories = (str(tree.root / inside) for inside in libraries)
    prefix = [loader, "--library-path", ":".join(directories), str(binary)]
    for place in _FIRMWARE:
        found = tree.path(place)
        if found is not None:
            prefix += ["-L", str(found)]
    env = {}
    modules = _modules(tree)
    if modules:
        env["QEMU_MODULE_DIR"] = str(modules[0].parent)
    version = cache.remember(tree.key, f"{program}.version", str, lambda: _version(tuple(prefix), env, binary))
    return QemuBuild(
        name=name,
        argv_prefix=tuple(prefix),
        env=MappingProxyType(env),
        binary=binary,
        version=version,
        artifacts=tree.artifacts("qemu", package),
    )


def _modules(tree: Tree) -> list[Path]:
    """QEMU's loadable modules; all are in one directory."""
    return sorted(tree.root.glob("usr/lib/*/qemu/*.so"))


def _library_dirs(tree: Tree, binary: Path) -> list[str]:
    """The loader, then the directories of all libraries that the binary and its modules need, below the tree's root.

    Found by following DT_NEEDED, since libraries also keep private ones in directories that only their RUNPATH,
    absolute and so useless here, names.

    Raises:
        ArtifactError: a library that the binary needs is not in the tree.
    """
    places: dict[str, Path] = {}
    for path in sorted(tree.root.glob("**/*.so*")):
        if path.parent.name not in ("gconv", "security"):
            places.setdefault(path.name, path)
    loader, _ = _dynamic(binary)
    directories: dict[str, None] = {}
    seen: set[str] = set()
    for start, needed_by_all in ((binary, True), *((module, False) for module in _modules(tree))):
        left = [(start, name) for name in _dynamic(start)[1]]
        while left:
            user, name = left.pop()
            if name in seen:
                continue
            if name not in places:
                if needed_by_all:
                    raise ArtifactError(f"{user.relative_to(tree.root)} needs {name}, which no package of it has")
                continue  # a module that cannot be loaded; QEMU says so when it is asked for
            seen.add(name)
            directories[str(places[name].parent.relative_to(tree.root))] = None
            found = tree.path(f"/{places[name].relative_to(tree.root)}")
            if found is not None:
                left += [(found, further) for further in _dynamic(found)[1]]
    return [str(tree.require(loader).relative_to(tree.root)), *directories]


def _dynamic(path: Path) -> tuple[str, list[str]]:
    """The loader that an ELF file asks for (empty for a library), and the libraries that it needs."""
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            interpreter = next((s.get_interp_name() for s in elf.iter_segments() if isinstance(s, InterpSegment)), "")
            section = elf.get_section_by_name(".dynamic")
            if not isinstance(section, DynamicSection):
                return interpreter, []
            return interpreter, [str(vars(tag)["needed"]) for tag in section.iter_tags("DT_NEEDED")]
    except ELFError as error:
        raise ArtifactError(f"{path} is not an ELF file: {error}") from error


def _version(prefix: tuple[str, ...], env: Mapping[str, str], binary: Path) -> str:
    """What the binary says its version is.

    Raises:
        SpecError: it does not run, or does not say "QEMU emulator version".
    """
    try:
        done = subprocess.run(
            [*prefix, "--version"],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SpecError(f"{binary} --version did not end within {_VERSION_SECONDS} s: it is not a QEMU") from None
    except OSError as error:
        raise SpecError(f"{binary} cannot be run: {error.strerror}", hint="is it built for this host?") from error
    said = (done.stdout + done.stderr).decode(errors="replace").strip()
    match = re.search(r"^QEMU emulator version (\S+)", said, re.MULTILINE)
    if match is None:
        raise SpecError(
            f"{binary} is not a QEMU system emulator: --version ended with status {done.returncode} "
            f"and said {said[:300]!r}",
            hint="give the path of a qemu-system binary",
            evidence=said,
        )
    return match[1]
