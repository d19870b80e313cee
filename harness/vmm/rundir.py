"""The private directory of one running machine: its sockets, disks and logs, gone when the machine is.

A run directory is `viommu-XXXXXXXX`, mode 0700, under the temporary directory. Three things take it away: `close()`,
the keeper if the harness dies first, and, should the keeper have been killed as well, the next harness process of the
same user, which finds its `lock` file unlocked.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.errors import HostError
from harness.vmm import keeper, keeper_main

__all__ = ["RunDirectory", "sweep"]

_LOCK = "lock"
_swept: set[Path] = set()
_swept_lock = threading.Lock()


class RunDirectory:
    """One run directory, made by `create` and given back by `close` or by leaving the `with` block.

    Attributes:
        path: where it is, absolute.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._closed = False

    @classmethod
    def create(cls, parent: Path | None = None) -> Self:
        """Make a new one.

        Args:
            parent: the directory to make it in; the temporary directory (`$TMPDIR`, `/tmp`) when None. Keep it short:
                the path of a Unix socket has 107 bytes at most.

        Raises:
            HostError: no space, no permission.
        """
        parent = Path(parent or tempfile.gettempdir()).absolute()
        with _swept_lock:
            if parent not in _swept:
                _swept.add(parent)
                sweep(parent)
        path = parent / f"{keeper_main.PREFIX}{secrets.token_hex(4)}"
        keeper.watch(path)
        try:
            path.mkdir(mode=0o700)
            lock = os.open(path / "lock.new", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (path / "lock.new").rename(path / _LOCK)  # a lock file that can be seen is held, or its owner is dead
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            keeper.forget(path)
            raise HostError(
                f"no run directory could be made in {parent}: {error.strerror}",
                hint="free space there, or point TMPDIR at a directory that you can write to",
            ) from error
        return cls(path, lock)

    def mark(self) -> dict[str, str]:
        """The environment variable that makes a process this directory's: it is killed when the directory goes."""
        return {keeper_main.MARK: str(self.path)}

    def close(self) -> None:
        """Kill what was started for the directory and remove it; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        keeper_main.clean(str(self.path))
        os.close(self._lock)
        keeper.forget(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sweep(parent: Path) -> tuple[Path, ...]:
    """Remove this user's run directories under `parent` whose owner is dead; returns those that it removed."""
    removed = []
    try:
        found = [Path(entry) for entry in os.scandir(parent) if entry.name.startswith(keeper_main.PREFIX)]
    except OSError:
        return ()  # making the directory will say what is wrong with the parent
    for path in found:
        if _owner_is_dead(path):
            keeper_main.clean(str(path))
            removed.append(path)
    return tuple(removed)


def _owner_is_dead(path: Path) -> bool:
    try:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return False
        lock = os.open(path / _LOCK, os.O_RDWR)
    except OSError:
        return False  # being made, or being removed
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
