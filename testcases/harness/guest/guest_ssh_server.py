"""An SSH server on loopback, in the process of the test: what a guest's dropbear is to the harness."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from harness.images.keys import Keys

Command = Callable[[paramiko.Channel], None]


class LocalServer:
    """Serves one connection.

    Args:
        keys: whose host key it shows, and whose client key it lets in.
        commands: what it does for each command line; it takes no other.
    """

    def __init__(self, keys: Keys, commands: dict[str, Command] | None = None) -> None:
        self.keys = keys
        self.commands = {} if commands is None else commands
        self.asked: list[str] = []
        """Names of users that tried to get in."""
        self.ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.transport: paramiko.Transport | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.ended.set()
        self._listener.close()
        if self.transport is not None:
            self.transport.close()
        self._thread.join(5)

    def _serve(self) -> None:
        try:
            sock, _ = self._listener.accept()
            self.transport = paramiko.Transport(sock)
            self.transport.add_server_key(_private(self.keys.host))
            self.transport.start_server(server=_Server(self))
        except (OSError, EOFError, paramiko.SSHException):
            return  # the other side went away: what it made of that is for the test to see


class _Server(paramiko.ServerInterface):
    def __init__(self, owner: LocalServer) -> None:
        self._owner = owner

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_none(self, username: str) -> int:
        self._owner.asked.append(username)
        return AUTH_FAILED

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self._owner.asked.append(username)
        mine = _private(self._owner.keys.client)
        return AUTH_SUCCESSFUL if username == "root" and key == mine else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        action = self._owner.commands[command.decode()]
        threading.Thread(target=_run, args=(action, channel), daemon=True).start()
        return True


def _run(action: Command, channel: paramiko.Channel) -> None:
    time.sleep(0.05)  # paramiko sends the answer to the request after this thread was started
    try:
        action(channel)
    except (OSError, EOFError):
        return  # the other side went away


def _private(key: Ed25519PrivateKey) -> paramiko.PKey:
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return paramiko.Ed25519Key(file_obj=io.StringIO(text.decode()))
