"""An initramfs archive in the kernel's `newc` format, the same bytes for the same content.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. Owner is root, times are zero and inode
numbers count up, so that nothing of the host or the hour gets in.
"""

from __future__ import annotations

import stat
from pathlib import PurePosixPath

__all__ = ["Archive"]


class Archive:
    """Files, directories and links, to be packed in the order of their paths; parents are made as needed."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes]] = {}

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A regular file at an absolute path; a later one of the same path replaces it."""
        self._add(path, stat.S_IFREG | mode, content)

    def directory(self, path: str, mode: int = 0o755) -> None:
        """A directory."""
        self._add(path, stat.S_IFDIR | mode, b"")

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def _add(self, path: str, mode: int, content: bytes) -> None:
        name = path.lstrip("/")
        for parent in PurePosixPath(name).parents:
            if str(parent) != ".":
                self._entries.setdefault(str(parent), (stat.S_IFDIR | 0o755, b""))
        self._entries[name] = (mode, content)

    def pack(self) -> bytes:
        """The archive. The kernel takes several of them, one behind the other, as one."""
        parts: list[bytes] = []
        for inode, (name, (mode, content)) in enumerate(sorted(self._entries.items()), start=1):
            links = 2 if stat.S_ISDIR(mode) else 1
            parts += _member(inode, name, mode, links, content)
        parts += _member(0, "TRAILER!!!", 0, 1, b"")
        return b"".join(parts)


def _member(inode: int, name: str, mode: int, links: int, content: bytes) -> list[bytes]:
    raw = name.encode() + b"\0"
    numbers = (inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(raw), 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers)
    return [header, raw, bytes(-(len(header) + len(raw)) % 4), content, bytes(-len(content) % 4)]
