"""Physical memory from a file: raw bytes, or the ELF core that QEMU and kdump write. Mapped, never read whole.

QEMU's `dump-guest-memory` without paging and /proc/vmcore have one program header of type PT_LOAD for each run of
memory, with its physical address in p_paddr (System V ABI, program header). A vmcore has a further one for the kernel's
own text, which lies in another one's run: what two of them hold is taken from one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from harness.errors import SpecError
from harness.model.memory import MappedMemory, Region

__all__ = ["elf_regions", "open_elf", "open_raw"]

_NO_ADDRESS = (1 << 64) - 1  # p_paddr of what is no physical memory (Linux, fs/proc/kcore.c)
_OTHER_FORMATS = {
    b"KDUMP   ": "compressed by kdump or makedumpfile",
    b"DISKDUMP": "compressed by diskdump",
    b"makedumpfile": "in makedumpfile's flattened format",
}
_HOW = "dump-guest-memory without -z, -l or -s writes one, and so does makedumpfile -E"


@contextmanager
def open_raw(path: Path, regions: Sequence[Region]) -> Iterator[MappedMemory]:
    """Map a file of plain bytes for as long as the context lasts.

    Args:
        path: of the file.
        regions: what of it lies where; the whole of it at 0 when there are none.

    Raises:
        SpecError: it cannot be mapped, or is shorter than the regions say, or they overlap.
    """
    with ExitStack() as stack:
        try:
            memory = stack.enter_context(MappedMemory.open(path, regions))
        except SpecError as error:
            message = error.message if str(path) in error.message else f"{path}: {error.message}"
            raise SpecError(
                message, hint=error.hint or "the state file says which file, and what of it lies where"
            ) from None
        yield memory


@contextmanager
def open_elf(path: Path) -> Iterator[MappedMemory]:
    """Map an ELF core for as long as the context lasts.

    Raises:
        SpecError: it is none, has no memory, or is truncated.
    """
    with open_raw(path, elf_regions(path)) as memory:
        yield memory


def elf_regions(path: Path) -> tuple[Region, ...]:
    """What physical memory an ELF core holds, the largest run first: one lies beside the other, none over another.

    Raises:
        SpecError: it is no ELF core, or has no memory in it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
            for magic, format in _OTHER_FORMATS.items():
                if start.startswith(magic):
                    raise SpecError(f"{path} is {format}: its memory cannot be mapped", hint=_HOW)
            if not start.startswith(b"\x7fELF"):
                raise SpecError(f"{path} is no ELF core: it starts with {start[:8].hex(' ') or 'nothing'}", hint=_HOW)
            file.seek(0)
            elf = ELFFile(file)
            if elf.header.e_type != "ET_CORE" or not elf.little_endian:
                order = "little" if elf.little_endian else "big"
                raise SpecError(
                    f"{path} is an ELF file of type {elf.header.e_type}, {order}-endian: no core", hint=_HOW
                )
            loads = [segment.header for segment in elf.iter_segments("PT_LOAD")]
    except OSError as error:
        raise SpecError(f"memory dump {path}: {error.strerror}", hint="the state file names it") from error
    except (ELFError, ValueError) as error:  # ValueError: an offset that no file can have
        raise SpecError(f"{path}: its ELF headers cannot be read: {error}", hint="the file is truncated") from error
    regions = _apart([Region(h.p_paddr, h.p_filesz, h.p_offset) for h in loads if h.p_paddr != _NO_ADDRESS])
    if not regions:
        raise SpecError(f"{path} has no PT_LOAD with memory in it", hint=_HOW)
    return tuple(sorted(regions, key=lambda region: -region.size))


def _apart(regions: Sequence[Region]) -> list[Region]:
    """Cut off from each region what an earlier one holds already."""
    apart: list[Region] = []
    end = 0
    for region in sorted(regions, key=lambda region: (region.base, -region.size)):
        covered = min(max(end - region.base, 0), region.size)
        if region.size > covered:
            apart.append(Region(region.base + covered, region.size - covered, region.offset + covered))
            end = region.base + region.size
    return apart
