"""SSH into a guest: one connection with its host key pinned, many channels."""

from __future__ import annotations

import contextlib
import logging
import select
import shlex
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self

import paramiko

from harness.errors import GuestError, GuestUnreachable, HarnessError
from harness.guest.shortened import shortened
from harness.images.keys import Login

__all__ = ["Completed", "SshSession"]

_POLL_SECONDS = 0.05
_CAUSE_POLLS = 10
_ENDLESS_SECONDS = 1e9
_SILENT = "harness.guest.paramiko"
logging.getLogger(_SILENT).disabled = True
_MAX_OUTPUT = 16 << 20


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended.

    Attributes:
        command: as it was given.
        status: exit status; -1 where the guest gave none.
        stdout: decoded, what is not UTF-8 replaced.
        stderr: likewise.
    """

    command: str
    status: int
    stdout: str
    stderr: str


def _check_cause(check: Callable[[], None]) -> None:
    """The connection is lost: that QEMU died or the guest panicked would be the news, and may come a moment later."""
    for _ in range(_CAUSE_POLLS):
        check()
        time.sleep(_POLL_SECONDS)


def _check_host_key(port: int, shown: paramiko.PKey, login: Login) -> None:
    if shown != login.host_public():
        raise GuestUnreachable(
            f"127.0.0.1:{port} shows a host key that is not this guest's: {shown.get_base64()}",
            hint="another program answers on that port; nothing was sent to it",
        )


class SshSession:
    """A connection to one guest.

    Args:
        port: on 127.0.0.1, forwarded to the guest's port 22.
        login: the key that the guest must show, and the one that it lets in.
        check: raises when there is no more point in waiting.
        deadline_seconds: for the handshake and the authentication together.
        blame: makes the error of whoever is to blame of one that says that the guest is late.

    Raises:
        GuestUnreachable: no answer in time, another host key, or the client key was refused.
    """

    def __init__(
        self,
        port: int,
        login: Login,
        check: Callable[[], None],
        deadline_seconds: float = 20.0,
        blame: Callable[[GuestError], HarnessError] = lambda late: late,
    ) -> None:
        self._check = check
        self._blame = blame
        end = time.monotonic() + deadline_seconds
        try:
            sock = socket.create_connection(("127.0.0.1", port), timeout=deadline_seconds)
            self._transport = paramiko.Transport(sock)
            # paramiko logs a traceback for each lost connection; what is lost here is said in an error of our own.
            self._transport.set_log_channel(_SILENT)
        except OSError as error:
            check()
            raise GuestUnreachable(f"nothing answers on 127.0.0.1:{port}, the guest's SSH: {error}") from error
        try:
            # The key exchange that is cheapest for an emulated CPU goes first; the guest picks the first of ours it
            # has.
            options = self._transport.get_security_options()
            options.kex = tuple(sorted(options.kex, key=lambda name: "curve25519" not in name))
            options.key_types = ("ssh-ed25519",)
            # Longer than our own deadline, so that it is ours that is told.
            self._transport.banner_timeout = self._transport.auth_timeout = deadline_seconds + 5
            done = threading.Event()
            self._transport.start_client(event=done)
            self._await(done, end, f"the guest's SSH does not finish its handshake in {deadline_seconds:g} s")
            _check_host_key(port, self._transport.get_remote_server_key(), login)
            done = threading.Event()
            self._transport.auth_publickey("root", login.client_private(), done)
            self._await(done, end, f"the guest's SSH does not answer to the client's key in {deadline_seconds:g} s")
            if not self._transport.is_authenticated():
                self._fail("the client's key was refused")
        except (paramiko.SSHException, OSError, EOFError) as error:
            self.close()
            check()
            raise GuestUnreachable(f"SSH to 127.0.0.1:{port}: {shortened(str(error))}") from error
        except BaseException:
            self.close()
            raise

    def _await(self, done: threading.Event, end: float, otherwise: str) -> None:
        """Wait for a step of the connection."""
        self._wait(done, end, otherwise)
        if not self._transport.is_active():
            self._fail("the connection was closed")

    def _wait(self, done: threading.Event, end: float, otherwise: str) -> None:
        """Wait for a thread of paramiko's, looking after the machine while it lasts."""
        while not done.wait(_POLL_SECONDS):
            self._check()
            if time.monotonic() > end:
                raise self._blame(GuestUnreachable(otherwise))

    def _fail(self, otherwise: str) -> NoReturn:
        error = self._transport.get_exception()
        # paramiko takes what the other side sends apart without looking: any exception may come of it.
        raise paramiko.SSHException(f"{otherwise}: {error!r}" if error else otherwise) from error

    def open(self, command: str, deadline_seconds: float = 20.0, *, terminal: bool = False) -> paramiko.Channel:
        """Start a command, and leave its streams to the caller; for an interactive shell, with a terminal.

        Raises:
            GuestUnreachable: the guest opened no channel in time.
        """
        opening = _Opening(self._transport, command, terminal)
        try:
            late = f"{command}: the guest opened no SSH channel in {deadline_seconds:g} s"
            self._wait(opening.done, time.monotonic() + deadline_seconds, late)
        except BaseException:
            opening.give_up()
            raise
        if opening.error is not None:
            _check_cause(self._check)
            raise GuestUnreachable(
                f"{command}: the guest opened no SSH channel: {shortened(str(opening.error))}"
            ) from opening.error
        return opening.channel

    def run(self, command: str | Sequence[str], *, deadline_seconds: float = 20.0) -> Completed:
        """Run a command to its end, whatever its exit status.

        Raises:
            GuestUnreachable: it did not end in time, printed more than 16 MiB, or the connection ended before it did.
        """
        text = command if isinstance(command, str) else shlex.join(command)
        end = time.monotonic() + deadline_seconds
        channel = self.open(text, deadline_seconds)
        out, err = bytearray(), bytearray()
        with contextlib.closing(channel):
            with contextlib.suppress(OSError):  # the guest may have closed it by now
                channel.shutdown_write()
            # paramiko measures its own timeouts by the wall clock, which may be set back.
            poll = select.poll()
            poll.register(channel.fileno(), select.POLLIN)
            while True:
                if not poll.poll(_POLL_SECONDS * 1000):
                    self._check()
                ended = channel.eof_received or channel.closed
                if channel.recv_stderr_ready():
                    err += channel.recv_stderr(65536)
                if channel.recv_ready():
                    out += channel.recv(65536)
                if ended and not channel.recv_ready() and not channel.recv_stderr_ready():
                    break
                if len(out) + len(err) > _MAX_OUTPUT:
                    raise GuestUnreachable(f"`{text}` printed more than {_MAX_OUTPUT} bytes", evidence=_tail(out + err))
                if time.monotonic() > end:
                    late = f"`{text}` did not end in {deadline_seconds:g} s"
                    raise self._blame(GuestUnreachable(late, evidence=_tail(out + err)))
            # The exit status comes in a message of its own, which may be behind the end of the output.
            channel.status_event.wait(max(0.0, end - time.monotonic()))
            status = channel.exit_status
            if status == -1 and not self._transport.is_active():
                _check_cause(self._check)
                raise GuestUnreachable(f"`{text}`: the connection ended before it did", evidence=_tail(out + err))
        return Completed(text, status, out.decode(errors="replace"), err.decode(errors="replace"))

    def close(self) -> None:
        """Close the connection and every channel."""
        self._transport.packetizer.complete_handshake()  # ends a timer that outlives a handshake that failed
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class _Opening:
    """A channel that is being opened, in a thread of its own: paramiko waits for each answer without a look around."""

    channel: paramiko.Channel

    def __init__(self, transport: paramiko.Transport, command: str, terminal: bool) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None
        self._given_up = False
        work = threading.Thread(target=self._work, args=(transport, command, terminal), name="viommu-ssh", daemon=True)
        work.start()

    def _work(self, transport: paramiko.Transport, command: str, terminal: bool) -> None:
        try:
            self.channel = transport.open_session(timeout=_ENDLESS_SECONDS)
            if terminal:
                self.channel.get_pty()
            self.channel.exec_command(command)
        except Exception as error:  # whatever came of taking apart what the other side sent
            self.error = error
        self.done.set()
        if self._given_up:
            self.give_up()

    def give_up(self) -> None:
        """Nobody waits for it any more: it is closed, at once or when it comes.

        The thread ends with the connection at the latest.
        """
        self._given_up = True
        if hasattr(self, "channel"):
            self.channel.close()


def _tail(output: bytearray) -> str:
    return output[-2000:].decode(errors="replace")
