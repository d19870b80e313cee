"""What is looked for behind a harness in tests: what `harness.soak.leaks` finds, and until when."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.soak.leaks import Traces, left_behind, marked_processes

_SECONDS = 5.0


def has_process(parent: Path, seconds: float = _SECONDS) -> bool:
    """Whether a process was started under `parent`; one in the middle of exec shows its environment a moment later."""
    end = time.monotonic() + seconds
    while not marked_processes(parent) and time.monotonic() < end:
        time.sleep(0.005)
    return bool(marked_processes(parent))


def wait_until_gone(parent: Path, seconds: float = _SECONDS) -> list[str]:
    """What is left under `parent`, or of its processes, once nothing is or the time is up."""
    end = time.monotonic() + seconds
    while left_behind(parent) and time.monotonic() < end:
        time.sleep(0.02)
    return left_behind(parent)


def is_listened_to(port: int) -> bool:
    """Whether somebody takes connections on 127.0.0.1."""
    with socket.socket() as there:
        return there.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nothing_left(parent: Path) -> Iterator[None]:
    """Fail where the block leaves anything: process, file, socket, descriptor, shared memory, thread, lock.

    Ports are held by processes and descriptors, and go with them.

    Args:
        parent: where run directories are made.
    """
    before = Traces.before(parent)
    yield
    left = before.gone_back(parent)
    assert left == [], left
