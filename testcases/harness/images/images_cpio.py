"""Reads a newc archive, as Linux does in init/initramfs.c."""

from __future__ import annotations

import stat
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One member: `mode` with the type, `content` also of a link."""

    name: str
    mode: int
    content: bytes
    numbers: tuple[int, ...]

    @property
    def kind(self) -> str:
        return {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}[stat.S_IFMT(self.mode)]


def read(archive: bytes) -> list[Entry]:
    """All members in their order, without the trailer, which must be the end."""
    entries: list[Entry] = []
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        numbers = tuple(int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13))
        size, name_size = numbers[6], numbers[11]
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        start = (at + 110 + name_size + 3) & ~3
        at = (start + size + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert at == len(archive)
            return entries
        entries.append(Entry(name[:-1].decode(), numbers[1], archive[start : start + size], numbers))


def by_name(archive: bytes) -> dict[str, Entry]:
    """The same by name; no name may be there twice."""
    entries = read(archive)
    found = {entry.name: entry for entry in entries}
    assert len(found) == len(entries)
    return found
