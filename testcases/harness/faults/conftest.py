from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from copied_templates import CopiedTemplates
from faults_rig import PLAIN, Start
from kernel_code import KernelCode
from leftovers import is_listened_to, nothing_left

from harness.artifacts.cache import Cache
from harness.lab import Lab
from harness.live.machine import LiveMachine
from harness.warm.lease import Leases
from harness.warm.store import Store


@pytest.fixture(scope="session")
def leases(lab: Lab) -> Leases:
    """Those of the shared cache; the template is there when this returns."""
    leases = Leases(lab, Store(Cache()))
    with leases.start(PLAIN):
        return leases


@pytest.fixture(scope="session")
def kernel(leases: Leases) -> KernelCode:
    """Where the functions of the guests' kernel are, which is found once: it takes seconds to look for them."""
    with leases.start(PLAIN) as live:
        return KernelCode.of(live)


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary directory of the test and what it starts: its path is short, as that of a socket must be."""
    tmp_path_factory.getbasetemp()  # pytest makes its own directories where the first of them is made
    path = Path(tempfile.mkdtemp(prefix="vf-"))
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def clean(leases: Leases, temporary: Path) -> Iterator[None]:
    """Whatever the test does, nothing is left of it."""
    with nothing_left(temporary):
        yield


@pytest.fixture
def cache(clean: None, temporary: Path) -> Iterator[Cache]:
    """One of the test's own, empty at first."""
    cache = Cache(temporary / "cache")
    yield cache
    shutil.rmtree(cache.root)


@pytest.fixture
def copied(lab: Lab, cache: Cache, leases: Leases) -> CopiedTemplates:
    """Starts machines from templates in that cache."""
    return CopiedTemplates(lab, cache, leases)


@pytest.fixture
def start(leases: Leases, clean: None) -> Iterator[Start]:
    """Start machines, which end with the test; nobody listens on their ports then."""
    ports = []
    with ExitStack() as stack:

        def start_one() -> LiveMachine:
            machine = stack.enter_context(leases.start(PLAIN))
            ports.append(machine.vmm.ssh_port)
            return machine

        yield start_one
    assert not any(map(is_listened_to, ports))


@pytest.fixture
def live(start: Start) -> LiveMachine:
    """One machine, whose guest is up."""
    return start()
