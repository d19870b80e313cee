"""The pytest plugin: options, the machines of cases, and a results record of every case that carries a claim.

A case is a test with ``@pytest.mark.claim("CH-4")``; the first paragraph of its docstring is the sentence that it
checks. Tests without the mark, those of the harness itself, are left to pytest.

A case has a machine from the fixture `machine`, which its mark describes, or several from the fixture `lease`::

    @pytest.mark.machine(devices=["edu,iommu=on", "virtio-blk,iommu=off"])
    def test_something(machine: LiveMachine) -> None: ...
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from harness.artifacts.cache import Cache
from harness.checks.dma import check_unexplained
from harness.checks.judge import judge
from harness.checks.known_issues import KnownIssues
from harness.claims import load_claims, page
from harness.errors import GuestCrashed, HarnessError, SpecError, Unsupported
from harness.lab import Lab
from harness.live.machine import LiveMachine
from harness.plugin_record import CaseLog, LabFacts, pack
from harness.plugin_recorder import WORKER_OUTPUT, Recorder
from harness.resources import KNOWN_ISSUES
from harness.sabotage.catalogue import Sabotage, find_sabotage
from harness.sabotage.lab import SabotagedLab
from harness.spec import Device, Iommu, IommuKind, Machine
from harness.verdict import Verdict
from harness.vmm.qemu.command import Options
from harness.warm.lease import Leases
from harness.warm.move import move as move_machine
from harness.warm.pool import Pool, spare_processors
from harness.warm.store import Store

__all__ = ["Lease", "Move"]


class Lease(Protocol):
    """What the `lease` fixture gives: a machine whose guest is up, and which ends with the test."""

    def __call__(self, spec: Machine, options: Options | None = None, *, wait: bool = True) -> LiveMachine:
        """Start it; with options, by booting it. Without `wait`, it is given at once, whatever its guest does."""


class Move(Protocol):
    """What the `move` fixture gives: a machine in another QEMU, which ends with the test."""

    def __call__(self, machine: LiveMachine, to: Lab | None = None, options: Options | None = None) -> LiveMachine:
        """Move it: to the QEMU of a lab, else into another process of the same."""


class _Running:
    """The machines of one case, in the order in which they were started."""

    def __init__(self) -> None:
        self.machines: list[LiveMachine] = []
        self.stack = ExitStack()

    def add(self, machine: AbstractContextManager[LiveMachine]) -> LiveMachine:
        """Start one; it ends with the case."""
        started = self.stack.enter_context(machine)
        self.machines.append(started)
        return started


_LOG = pytest.StashKey[CaseLog]()
_LAB = pytest.StashKey[Lab]()
_KNOWN = pytest.StashKey[KnownIssues]()
_NEXT = pytest.StashKey[pytest.Item | None]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `viommu run`, which hands them on."""
    group = parser.getgroup("viommu")
    kinds = [kind.value for kind in IommuKind if kind is not IommuKind.NONE]
    group.addoption("--iommu", action="append", choices=kinds, help="only this IOMMU; may be given several times")
    group.addoption("--qemu", help="suite name, 'host', or path of a QEMU binary")
    group.addoption("--kernel", help="suite name, or path of a kernel image")
    group.addoption("--move-to", metavar="QEMU", help="QEMU to move running machines to: suite name, 'host', or path")
    group.addoption(
        "--viommu-report", type=Path, metavar="DIR", help="write results.json, report.html, junit.xml there"
    )
    group.addoption("--viommu-claims", type=Path, metavar="FILE", help="write the page of claims and cases there")
    group.addoption("--viommu-cold", action="store_true", help="boot every machine; start none from a template")
    group.addoption("--viommu-sabotage", metavar="NAME", help="break every machine so: `viommu sabotage` lists them")
    group.addoption("--viommu-live", action="store_true", help="a line for each case as it ends, instead of dots")


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, and keep a record where one is kept: not in a worker of pytest-xdist."""
    config.addinivalue_line("markers", "claim(*ids): ids of the claims that this case shows (docs/reference/claims.md)")
    config.addinivalue_line("markers", "nightly: takes too long to be run for every change (ci/nightly)")
    config.addinivalue_line("markers", "nightly_for(*kinds): the same of a case on machines with these IOMMUs alone")
    config.addinivalue_line(
        "markers",
        'machine(iommu=KIND, devices=[TEXT...], boot="warm"|"cold", ...): the machine of a case, as '
        "harness.spec.Machine has it; without `iommu` the case is multiplied by the IOMMUs",
    )
    sabotage = _sabotage(config)
    if sabotage is not None:
        stack = ExitStack()
        stack.enter_context(sabotage.within())
        config.add_cleanup(stack.close)
    # What is wrong with a machine that was broken on purpose is nobody else's fault.
    config.stash[_KNOWN] = KnownIssues(()) if sabotage else KnownIssues.load(KNOWN_ISSUES)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config, _LAB), "viommu-recorder")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Multiply a case that asks for `iommu`, or whose machine is of no IOMMU in particular, by the IOMMUs."""
    if "iommu" in metafunc.fixturenames and metafunc.definition.get_closest_marker("claim"):
        mark = metafunc.definition.get_closest_marker("machine")
        fixed = [mark.kwargs["iommu"]] if mark is not None and "iommu" in mark.kwargs else None
        kinds = map(IommuKind, fixed or metafunc.config.getoption("--iommu") or [IommuKind.INTEL, IommuKind.VIRTIO])
        late = metafunc.definition.get_closest_marker("nightly_for")
        of_night = frozenset(map(IommuKind, late.args if late else ()))
        params = [
            pytest.param(kind, id=str(kind), marks=[pytest.mark.nightly] if kind in of_night else []) for kind in kinds
        ]
        metafunc.parametrize("iommu", params)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the cases of the IOMMUs that were asked for, and those that are there to notice a sabotage.

    A case without a machine is of no IOMMU, and stays.
    """
    asked, sabotage = config.getoption("--iommu"), _sabotage(config)
    left = [
        item
        for item in items
        if (not asked or _kind(item) in (None, *asked)) and (sabotage is None or sabotage.is_for(item.nodeid))
    ]
    if out := [item for item in items if item not in left]:
        config.hook.pytest_deselected(items=out)
        items[:] = left


def _kind(item: pytest.Item) -> str | None:
    """The IOMMU of a case; None for one that has none, or is no case."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get("iommu")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the page of claims, where it was asked for; refuse a mark that names no claim.

    Raises:
        pytest.UsageError: a case carries an id that testcases/claims.toml does not have.
    """
    claims = load_claims()
    marked = [(item.nodeid, tuple(mark.args)) for item in session.items if (mark := item.get_closest_marker("claim"))]
    for node, ids in marked:
        for id in ids:
            if id not in claims:
                raise pytest.UsageError(f"{node} carries claim {id!r}, which testcases/claims.toml does not have")
    path: Path | None = session.config.getoption("--viommu-claims")
    if path is not None:
        path.write_text(page(claims, marked))


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config) -> Lab:
    """QEMU, kernel and image that `--qemu` and `--kernel` name."""
    opened = _open_lab(pytestconfig, pytestconfig.getoption("--qemu"))
    pytestconfig.stash[_LAB] = opened
    return opened


@pytest.fixture(scope="session")
def pool(lab: Lab, pytestconfig: pytest.Config) -> Iterator[Pool]:
    """Machines started from the templates of `lab`."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    pool = Pool(Leases(lab, Store(Cache())), ahead=min(1, spare_processors(workers)))
    yield pool
    pool.close()


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Iterator[_Running]:
    """The machines of a case. When the test ends they are ended, and their consoles looked at.

    A panic, oops, BUG or WARN on a console fails the case even where nothing else was seen to be wrong, and so does a
    DMA fault that the case did not ask about.
    """
    running = _Running()
    with running.stack:
        yield running
    machines = running.machines
    if (log := request.node.stash.get(_LOG, None)) is not None:
        log.machines = tuple(replace(machine.vmm.evidence(), origin=machine.origin) for machine in machines)
    for machine in machines:
        for problem in machine.guest.problems:
            raise GuestCrashed(f"the guest kernel: {problem.kind}: {problem.line}", evidence=problem.text)
        judge(check_unexplained(machine.unexplained_faults()))


@pytest.fixture
def lease(lab: Lab, pool: Pool, running: _Running, request: pytest.FixtureRequest) -> Lease:
    """Start machines, which end with the test.

    They are started from a template, unless the case is about booting (`boot="cold"` in its mark), or the run is cold,
    or they are to be run in a way of their own.
    """
    cold = _is_cold(request.node)

    def start(spec: Machine, options: Options | None = None, *, wait: bool = True) -> LiveMachine:
        if not wait:
            lab.require(spec)
            return running.add(lab.start(spec, options))
        return running.add(lab.boot(spec, options) if cold or options else pool.start(spec))

    return start


@pytest.fixture
def move(lab: Lab, running: _Running) -> Move:
    """Move machines of the case into another QEMU, as a live migration does; what was given has stopped then."""

    def start(machine: LiveMachine, to: Lab | None = None, options: Options | None = None) -> LiveMachine:
        return running.add(move_machine(machine, to or lab, options))

    return start


@pytest.fixture
def newer_lab(lab: Lab, pytestconfig: pytest.Config) -> Lab:
    """QEMU that `--move-to` names, with the kernel of `lab`.

    Raises:
        Unsupported: none was named, or it is the one of `lab`.
    """
    name = pytestconfig.getoption("--move-to")
    if name is None:
        raise Unsupported("no other QEMU was named to move machines to", hint="--move-to NAME|PATH")
    other = _open_lab(pytestconfig, name)
    if other.qemu.binary == lab.qemu.binary:
        raise Unsupported(f"QEMU {other.qemu.version} is the one that machines are started with", hint="--move-to NAME")
    return other


@pytest.fixture
def machine(lease: Lease, pool: Pool, request: pytest.FixtureRequest, iommu: IommuKind) -> LiveMachine:
    """The machine that the case's mark describes; while it is used, the next case's is started if there is room."""
    spec = _spec(request.node)
    if spec is None:
        raise SpecError(f"{request.node.nodeid} uses the fixture `machine` without saying which: @pytest.mark.machine")
    machine = lease(spec)
    coming = request.node.stash.get(_NEXT, None)
    if coming is not None and not _is_cold(coming):
        with suppress(HarnessError):  # what is wrong with its mark is told when its turn has come
            if (expected := _spec(coming)) is not None:
                pool.expect(expected)
    return machine


def _spec(item: pytest.Item) -> Machine | None:
    """The machine that a case's marks describe; where several are, the nearest has the last word for each field."""
    marks = list(item.iter_markers("machine"))
    if not marks:
        return None
    fields = {name: value for mark in reversed(marks) for name, value in mark.kwargs.items()}
    fields.pop("boot", None)
    kind = IommuKind(fields.pop("iommu", _kind(item)))
    devices = tuple(map(Device.parse, fields.pop("devices", ())))
    try:
        return Machine(iommu=Iommu(kind=kind), devices=devices, **fields)
    except TypeError as error:
        raise SpecError(f"{item.nodeid}: the mark `machine`: {error}", hint="its fields are Machine's") from error


def _is_cold(item: pytest.Item) -> bool:
    """Whether the machines of a case are booted: no template is made of one that was broken on purpose."""
    mark = item.get_closest_marker("machine")
    told = mark is not None and mark.kwargs.get("boot") == "cold"
    return told or bool(item.config.getoption("--viommu-cold")) or _sabotage(item.config) is not None


def _open_lab(config: pytest.Config, qemu: str | None) -> Lab:
    """A lab with that QEMU, sabotaged where that is asked for."""
    lab = Lab.open(qemu=qemu, kernel=config.getoption("--kernel"))
    sabotage = _sabotage(config)
    return lab if sabotage is None else SabotagedLab.of(lab, sabotage)


def _sabotage(config: pytest.Config) -> Sabotage | None:
    name = config.getoption("--viommu-sabotage")
    return None if name is None else find_sabotage(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Start the log of a case, and note which comes next."""
    item.stash[_NEXT] = nextitem
    mark = item.get_closest_marker("claim")
    if mark is not None:
        item.stash[_LOG] = CaseLog.of(item, mark.args)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give each phase its verdict; the last one carries the whole case to whoever keeps the record."""
    report = yield
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, Unsupported):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1] or 0, f"Skipped: {error.message}")
    elif isinstance(error, HarnessError):
        report.longrepr = f"{type(error).__name__}: {error}"
    log = item.stash.get(_LOG, None)
    if log is None:
        return report
    if (lab := item.config.stash.get(_LAB, None)) is not None:
        log.lab = LabFacts.of(lab)
    log.add(call, report)
    case = log.judged(item.config.stash[_KNOWN])
    if case.verdict is Verdict.KNOWN and report.failed:
        report.outcome = "skipped"
        report.wasxfail = case.message
    elif case.verdict is Verdict.FIXED and report.when == "call":
        report.outcome = "failed"
        report.longrepr = case.message
    if report.when == "teardown":
        report.user_properties.append(pack(case))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker sends what it says of its lab with its last message."""
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    lab = session.config.stash.get(_LAB, None)
    if output is not None and lab is not None:
        output[WORKER_OUTPUT] = msgspec.json.encode(LabFacts.of(lab)).decode()
