"""The part of a guest image that depends on no kernel: programs, libraries, Python and the agent."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from harness.artifacts.packages import Tree
from harness.errors import ArtifactError, SpecError
from harness.images.cpio import Archive
from harness.images.elf import is_elf, libraries, run_words
from harness.images.recipe import Recipe
from harness.resources import GUEST_IMAGES

__all__ = ["pack_userland"]

_AGENT = "usr/lib/viommu/agent"  # where guest_images/init looks for it
_PROGRAM_DIRECTORIES = ("usr/bin", "usr/sbin", "bin", "sbin")
_FREEZE_SECONDS = 60


def pack_userland(recipe: Recipe, tree: Tree) -> bytes:
    """The archive of a recipe's userland, out of its unpacked packages.

    Raises:
        SpecError: the recipe names a program or file that the packages do not have.
        ArtifactError: a library is missing, or the agent does not import under the guest's Python.
    """
    root = tree.root
    archive = Archive()
    # The root itself too, which anybody could write to otherwise: DPDK takes nothing from such a place.
    for directory in (".", "dev", "proc", "sys", "run", "tmp", "root", "bin"):
        archive.directory(directory, 0o700 if directory == "root" else 0o755)
    archive.link("var/run", "../run")
    archive.file("init", (GUEST_IMAGES / "init").read_bytes(), 0o755)

    archive.file("bin/busybox", _program(root, "busybox").read_bytes(), 0o755)
    for applet in recipe.applets:
        archive.link(f"bin/{applet}", "busybox")

    programs = [_program(root, pattern) for pattern in recipe.programs]
    python = next(program for program in programs if program.name.startswith("python3"))
    for program in programs:
        archive.file(f"usr/bin/{program.name}", program.read_bytes(), 0o755)
    archive.link("usr/bin/python3", python.name)

    with tempfile.TemporaryDirectory(prefix="viommu-freeze-") as work:
        _freeze(root, python, Path(work), recipe.stdlib)
        frozen = sorted(path for path in Path(work).rglob("*") if path.is_file())
        for path in frozen:
            relative = str(path.relative_to(work))
            archive.file(
                relative.replace("agent/", f"{_AGENT}/", 1) if relative.startswith("agent/") else relative,
                path.read_bytes(),
            )
        plugins = [path for pattern in recipe.plugins for path in _plugins(root, pattern)]
        for path in plugins:
            archive.file(str(path.relative_to(root)), path.read_bytes(), 0o755)
        for name, library in libraries([*programs, *plugins, *filter(is_elf, frozen)], root).items():
            archive.file(name if name.startswith("/") else f"usr/lib/{name}", library.read_bytes(), 0o755)

    for name in recipe.files:
        if not (root / name).is_file():
            raise SpecError(f"guest image: no package has the file {name}", hint="mend `files` in the recipe")
        archive.file(name, (root / name).read_bytes())
    for name, text in _ACCOUNTS.items():
        archive.file(f"etc/{name}", text.encode())
    return archive.pack()


_ACCOUNTS = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "group": "root:x:0:\n",
    "shadow": "root:*:::::::\n",
    "shells": "/bin/sh\n",
    "hostname": "guest\n",
    "profile": "export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PS1='guest:\\w# '\n",
}


def _program(root: Path, pattern: str) -> Path:
    for directory in _PROGRAM_DIRECTORIES:
        matches = sorted((root / directory).glob(pattern))
        if matches:
            return matches[-1]
    raise SpecError(f"guest image: no package has a program {pattern!r}", hint="mend `programs` in the recipe")


def _plugins(root: Path, pattern: str) -> list[Path]:
    matches = sorted(root.glob(pattern))
    if not matches:
        raise SpecError(f"guest image: no package has a file {pattern!r}", hint="mend `plugins` in the recipe")
    return matches


def _freeze(root: Path, python: Path, work: Path, extra: tuple[str, ...]) -> None:
    """Run the guest's Python, under its own dynamic linker, on `guest_images/freeze.py`."""
    argv = [*run_words(python, root), "-S", "-E", "-s", "-B", str(GUEST_IMAGES / "freeze.py")]
    done = subprocess.run(
        [*argv, str(GUEST_IMAGES / "agent"), str(work), *extra],
        env={"PYTHONHOME": str(root / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=_FREEZE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise ArtifactError("the agent does not import under the guest's Python", evidence=done.stderr)
