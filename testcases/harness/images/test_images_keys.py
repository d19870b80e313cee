"""The SSH keys of a run, and the overlay that carries them."""

from __future__ import annotations

import base64
import struct

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from images_cpio import by_name

from harness.images.keys import Keys
from harness.images.overlay import GUEST_ADDRESS, pack_overlay
from harness.images.recipe import Recipe
from harness.spec import DmaMode, Iommu, IommuKind, Machine

KEYS = Keys.generate()


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def strings(data: bytes) -> list[bytes]:
    """The SSH strings (RFC 4251, 5) that data is made of."""
    found = []
    while data:
        (length,) = struct.unpack_from(">I", data)
        found.append(data[4 : 4 + length])
        assert len(found[-1]) == length
        data = data[4 + length :]
    return found


def test_dropbear_key_holds_the_algorithm_and_the_private_and_public_key() -> None:
    algorithm, pair = strings(KEYS.dropbear_host_key())
    assert algorithm == b"ssh-ed25519"
    assert len(pair) == 64
    assert raw(Ed25519PrivateKey.from_private_bytes(pair[:32])) == pair[32:] == raw(KEYS.host)


def test_only_the_client_key_is_let_in_and_forwards_nothing() -> None:
    (line,) = KEYS.login.authorized_keys().splitlines()
    options, algorithm, blob = line.split()
    assert set(options.split(b",")) == {b"no-port-forwarding", b"no-agent-forwarding", b"no-X11-forwarding"}
    assert algorithm == b"ssh-ed25519"
    assert strings(base64.b64decode(blob)) == [b"ssh-ed25519", raw(KEYS.client)]


def test_pinned_key_is_the_hosts_and_login_key_the_clients() -> None:
    assert strings(KEYS.login.host_public().asbytes()) == [b"ssh-ed25519", raw(KEYS.host)]
    assert strings(KEYS.login.client_private().asbytes()) == [b"ssh-ed25519", raw(KEYS.client)]
    assert KEYS.login.client_private().can_sign()


def test_keys_are_never_the_same_twice() -> None:
    keys = [key for made in (KEYS, Keys.generate(), Keys.generate()) for key in (raw(made.host), raw(made.client))]
    assert len(set(keys)) == 6


def config(kind: IommuKind, mode: DmaMode = DmaMode.STRICT) -> dict[str, str]:
    archive = by_name(pack_overlay(Machine(iommu=Iommu(kind=kind), dma_mode=mode), Recipe.load(), KEYS))
    lines = archive["etc/viommu/config"].content.decode().splitlines()
    return {key: value.strip("'") for key, _, value in (line.partition("=") for line in lines)}


@pytest.mark.parametrize(
    ("kind", "mode", "modules"),
    [
        (IommuKind.VIRTIO, DmaMode.STRICT, "virtio_iommu virtio_pci virtio_net virtio_blk virtio_console"),
        (IommuKind.INTEL, DmaMode.OFF, "virtio_pci virtio_net virtio_blk virtio_console"),
        (IommuKind.INTEL, DmaMode.STRICT, "virtio_pci virtio_net virtio_blk virtio_console"),
        (IommuKind.NONE, DmaMode.STRICT, "virtio_pci virtio_net virtio_blk virtio_console"),
    ],
)
def test_overlay_loads_the_iommu_driver_first_and_only_where_it_is_used(
    kind: IommuKind, mode: DmaMode, modules: str
) -> None:
    assert config(kind, mode) == {"management": "0000:00:02.0", "address": GUEST_ADDRESS, "modules": modules}


def test_overlay_holds_the_keys_for_root_alone() -> None:
    found = by_name(pack_overlay(Machine(iommu=Iommu(kind=IommuKind.INTEL)), Recipe.load(), KEYS))
    assert found["etc/dropbear/hostkey"].content == KEYS.dropbear_host_key()
    assert found["root/.ssh/authorized_keys"].content == KEYS.login.authorized_keys()
    secret = ("root", "root/.ssh", "root/.ssh/authorized_keys", "etc/dropbear/hostkey")
    assert [found[name].mode & 0o077 for name in secret] == [0] * 4
