from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from vmm_rig import Start, halt_rom, spec

from harness.artifacts.cache import Cache
from harness.artifacts.qemu import QemuBuild, find_qemu
from harness.defaults import defaults
from harness.spec import Machine
from harness.vmm.protocol import FirmwareBoot
from harness.vmm.qemu.capabilities import Capabilities, cached
from harness.vmm.qemu.command import Options
from harness.vmm.qemu.machine import QemuMachine


@pytest.fixture(scope="session")
def build() -> QemuBuild:
    return find_qemu(defaults().qemu, "amd64", Cache())


@pytest.fixture(scope="session")
def capabilities(build: QemuBuild) -> Capabilities:
    return cached(build, Cache().directory("derived"))


@pytest.fixture
def parent() -> Iterator[Path]:
    """A directory for run directories: its path is short, as that of a Unix socket must be."""
    path = Path(tempfile.mkdtemp(prefix="vt-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def firmware(parent: Path) -> FirmwareBoot:
    return halt_rom(parent / "halt.rom")


@pytest.fixture
def start(build: QemuBuild, capabilities: Capabilities, firmware: FirmwareBoot, parent: Path) -> Iterator[Start]:
    """Starts machines without a guest; they end with the test."""
    with ExitStack() as stack:

        def start_one(machine: Machine | None = None, options: Options | None = None) -> QemuMachine:
            options = options or Options(parent=parent)
            return stack.enter_context(QemuMachine.start(machine or spec(), build, capabilities, firmware, options))

        yield start_one
