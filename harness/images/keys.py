"""SSH keys: a host key that the harness pins, and a client key that alone gets in."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["Keys", "Login"]


@dataclass(frozen=True, slots=True)
class Login:
    """What it takes to get into a guest, in memory only.

    Attributes:
        host: the key that the guest must show.
        client: the harness's key.
    """

    host: Ed25519PublicKey
    client: Ed25519PrivateKey

    def authorized_keys(self) -> bytes:
        """The line that lets the client key in, with no forwarding of any kind."""
        return b"no-port-forwarding,no-agent-forwarding,no-X11-forwarding " + _public(self.client) + b"\n"

    def host_public(self) -> paramiko.PKey:
        """The key that the guest must show."""
        return paramiko.PKey.from_type_string("ssh-ed25519", _blob(self.host))

    def client_private(self) -> paramiko.PKey:
        """The key to log in with."""
        text = self.client.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        return paramiko.Ed25519Key(file_obj=io.StringIO(text.decode()))


@dataclass(frozen=True, slots=True)
class Keys:
    """The two key pairs of a guest that is booted, in memory only.

    Attributes:
        host: the guest's key.
        client: the harness's key.
    """

    host: Ed25519PrivateKey
    client: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> Keys:
        """New keys."""
        return cls(Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate())

    def dropbear_host_key(self) -> bytes:
        """The host key as dropbear reads it: two SSH strings, algorithm and (private, public). dropbear, ed25519.c."""
        private = self.host.private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        )
        public = self.host.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return _string(b"ssh-ed25519") + _string(private + public)

    @property
    def login(self) -> Login:
        """What it takes to get into that guest."""
        return Login(self.host.public_key(), self.client)


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def _blob(key: Ed25519PublicKey) -> bytes:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return _string(b"ssh-ed25519") + _string(raw)
