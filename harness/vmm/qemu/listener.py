"""Sockets in the run directory that QEMU connects to."""

from __future__ import annotations

import os
import select
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.errors import HostError
from harness.vmm.qemu.process import QemuProcess

__all__ = ["Listener"]

_SOCKET_PATH_MAX = 107  # sizeof(sockaddr_un.sun_path) less the NUL: unix(7)
_DEATH_SECONDS = 10.0


class Listener:
    """A Unix socket in the run directory that QEMU connects to.

    QEMU connects while it reads its command line, or it ends: so there is nothing to poll for.
    """

    def __init__(self, path: Path) -> None:
        """Bind and listen.

        Raises:
            HostError: the path is too long, or taken.
        """
        self.path = path
        if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
            raise HostError(
                f"the path of a Unix socket has {_SOCKET_PATH_MAX} bytes at most, "
                f"this has {len(os.fsencode(path))}: {path}",
                hint="point TMPDIR at a directory with a shorter path",
            )
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(os.fspath(path))
            self._socket.listen(1)
        except OSError as error:
            self._socket.close()
            raise HostError(
                f"the socket {path} cannot be made: {error.strerror}",
                hint="something else uses that path: remove it, or point TMPDIR elsewhere",
            ) from error

    def accept(self, process: QemuProcess, deadline: float) -> socket.socket:
        """Wait until the process connects; the connection is a blocking socket.

        Args:
            process: who will connect.
            deadline: seconds.

        Raises:
            VmmStartError: it ended instead.
            VmmTimeout: it did neither.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(process.pidfd, select.POLLIN)
        end = time.monotonic() + deadline
        ready = {fd for fd, _ in poll.poll(max(0, end - time.monotonic()) * 1000)}
        if self._socket.fileno() in ready:
            return self._socket.accept()[0]
        if ready:
            process.wait(_DEATH_SECONDS)
            raise process.start_error()
        raise process.timeout(f"to connect to {self.path}", deadline, process.stderr)

    def close(self) -> None:
        """Stop listening; connections that were accepted stay."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
