"""Programs in a tree of unpacked packages: which shared libraries they need, and how they are run from there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from harness.errors import ArtifactError

__all__ = ["is_elf", "libraries", "run_words"]


def is_elf(path: Path) -> bool:
    """Whether the file starts as an ELF file does."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def libraries(programs: Iterable[Path], root: Path) -> dict[str, Path]:
    """Every library that the programs load, by the name they ask for, and the program interpreter by its full path.

    Raises:
        ArtifactError: one is in none of the tree's library directories.
    """
    places = [path for pattern in ("lib/*-linux-gnu*", "lib", "lib64") for path in _places(root, pattern)]
    found: dict[str, Path] = {}
    todo = list(programs)
    while todo:
        program = todo.pop()
        for name in _needed(program):
            if name in found:
                continue
            base = name.rpartition("/")[2]
            path = next((place / base for place in places if (place / base).exists()), None)
            if path is None:
                raise ArtifactError(f"{program.relative_to(root)} needs {name}, which no fetched package has")
            found[name] = path
            todo.append(path)
    return found


def run_words(program: Path, root: Path) -> tuple[str, ...]:
    """The words that run a program of a tree with the libraries of that tree, under its own dynamic linker.

    Raises:
        ArtifactError: as `libraries`.
    """
    needed = libraries([program], root)
    linker = next(path for name, path in needed.items() if name.startswith("/"))
    search = ":".join(str(path) for path in sorted({path.parent for path in needed.values()}))
    return (str(linker), "--library-path", search, str(program))


def _places(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(f"usr/{pattern}")) + sorted(root.glob(pattern))


def _needed(path: Path) -> list[str]:
    with path.open("rb") as file:
        elf = ELFFile(file)
        names = [segment.get_interp_name() for segment in elf.iter_segments() if isinstance(segment, InterpSegment)]
        for section in elf.iter_sections():
            if isinstance(section, DynamicSection):
                names += [str(vars(tag)["needed"]) for tag in section.iter_tags() if tag.entry.d_tag == "DT_NEEDED"]
        return names
