"""The harness's side of the keeper (`harness.vmm.keeper_main`): one for each harness process, started on first use."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

from harness.errors import HostError
from harness.vmm import keeper_main

__all__ = ["forget", "watch"]

_lock = threading.RLock()
_process: subprocess.Popen[bytes] | None = None
_pipe = -1
_watched: dict[str, None] = {}


def watch(directory: Path) -> None:
    """Have the directory, and the processes started for it, cleaned up should this process end first.

    Call it before the directory is made, so that there is no moment in which it is nobody's.

    Raises:
        HostError: the keeper cannot be started.
    """
    with _lock:
        _watched[str(directory)] = None
        _tell(b"+", directory)


def forget(directory: Path) -> None:
    """The directory is gone: the keeper need not know it any more.

    Raises:
        HostError: the keeper was gone and cannot be started again.
    """
    with _lock:
        _watched.pop(str(directory), None)
        _tell(b"-", directory)


def _tell(sign: bytes, directory: Path) -> None:
    record = sign + os.fsencode(directory) + b"\0"
    if _process is not None:
        try:
            os.write(_pipe, record)
            return
        except BrokenPipeError:
            _stop()  # somebody killed it: start another, which is told everything
    _start()


def _start() -> None:
    global _process, _pipe
    reader, _pipe = os.pipe()  # neither is inherited, so that only this process keeps the pipe open
    try:
        _process = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper_main.__file__],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C goes to the terminal's process group, which must not include it
        )
    except OSError as error:
        os.close(_pipe)
        raise HostError(
            f"the process that cleans up after the harness could not be started: {error}",
            hint=f"check that {sys.executable} can be run and that processes are left",
        ) from error
    finally:
        os.close(reader)
    os.write(_pipe, b"".join(b"+" + os.fsencode(path) + b"\0" for path in _watched))


def _stop() -> None:
    global _process
    if _process is None:
        return
    os.close(_pipe)
    with contextlib.suppress(subprocess.TimeoutExpired):
        _process.wait(10)
    _process = None


def _forget_all() -> None:
    """In a forked child: the pipe must be held open by the parent alone, and the directories are the parent's."""
    global _process, _lock
    _lock = threading.RLock()
    if _process is not None:
        os.close(_pipe)
        _process.returncode = 0  # not this process's child: do not wait for it
        _process = None
    _watched.clear()


atexit.register(_stop)
os.register_at_fork(after_in_child=_forget_all)
