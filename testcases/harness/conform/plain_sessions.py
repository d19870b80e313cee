"""Sessions on the default QEMU, of whose differences nothing is known."""

from __future__ import annotations

from harness.artifacts.cache import Cache
from harness.artifacts.qemu import find_qemu
from harness.conform.campaign import capabilities_of
from harness.conform.session import Session
from harness.conform.targets.registry import find_target
from harness.defaults import defaults
from harness.model.unit import Coverage


def plain_session(name: str) -> Session:
    """One for the programs of a target."""
    target = find_target(name)
    build = find_qemu(defaults().qemu, target.arch, Cache())
    return Session(target, build, capabilities_of(build, target), (), Coverage())
