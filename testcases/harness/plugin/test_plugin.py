"""What the plugin makes of the ways in which a case can end: verdicts, the exit code, and the reports."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from plugin_run import Ran, run_pytest

_ENDINGS = """
@case
def test_passes():
    pass

@case
def test_differs():
    judge([finding])

@case
def test_panics():
    raise GuestCrashed("the guest kernel: panic: Kernel panic - not syncing")

@case
def test_never_starts():
    raise VmmStartError("QEMU ended before the guest ran")

@case
def test_is_unsupported():
    raise Unsupported("this QEMU has no virtio-iommu")

@case
def test_is_wrong_itself():
    None + 1

@case
@pytest.mark.xfail(strict=True, reason="it must fail")
def test_does_not_fail_though_it_must():
    pass

@pytest.fixture
def broken():
    raise VmmStartError("QEMU ended before the guest ran")

@case
def test_has_a_broken_fixture(broken):
    pass

@pytest.fixture
def panicking():
    yield
    raise GuestCrashed("the guest kernel: oops")

@case
def test_ends_in_a_panic(panicking):
    pass

@case
def test_is_unsupported_and_ends_in_a_panic(panicking):
    raise Unsupported("this QEMU has no virtio-iommu")
"""
_VERDICTS = {
    "passes": "pass",
    "differs": "fail",
    "panics": "fail",
    "never_starts": "miss",
    "is_unsupported": "skip",
    "is_wrong_itself": "error",
    "does_not_fail_though_it_must": "fail",
    "has_a_broken_fixture": "miss",
    "ends_in_a_panic": "fail",
    "is_unsupported_and_ends_in_a_panic": "fail",
}
WORKERS = pytest.mark.parametrize("workers", [0, 2])


@pytest.fixture(scope="module", params=[0, 2], ids=["alone", "two-workers"])
def endings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_pytest(tmp_path_factory.mktemp("endings"), request.param, _ENDINGS)


def test_each_ending_has_its_verdict(endings: Ran) -> None:
    assert endings.verdicts == _VERDICTS, endings.output


def test_a_run_with_failures_and_misses_ends_with_1(endings: Ran) -> None:
    assert endings.status == 1, endings.output


def test_junit_has_each_ending_as_its_verdict_says(endings: Ran) -> None:
    kinds = {"pass": None, "fail": "failure", "miss": "error", "error": "error", "skip": "skipped"}
    found = {
        element.get("name", "").removeprefix("test_"): next(
            (child.tag for child in element if child.tag in kinds.values()), None
        )
        for element in ET.parse(endings.reports / "junit.xml").getroot().iter("testcase")
    }
    assert found == {name: kinds[verdict] for name, verdict in _VERDICTS.items()}


def test_a_finding_is_in_the_record(endings: Ran) -> None:
    (differs,) = (case for case in endings.record.cases if case.id.endswith("test_differs"))
    assert [str(finding) for finding in differs.findings] == ["memory at 0x1000: expected 00, saw de"]


def test_a_failure_without_an_exception_says_why(endings: Ran) -> None:
    (strict,) = (case for case in endings.record.cases if case.id.endswith("though_it_must"))
    assert "it must fail" in strict.message


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("pass", 0),
        ("judge([finding])", 1),
        ("judge(found_and_then(VmmStartError('no')))", 1),
        ("judge(found_and_then(ValueError('no')))", 1),
        ("raise VmmStartError('no')", 2),
        ("None + 1", 2),
    ],
)
def test_a_single_ending_decides_the_exit_code(tmp_path: Path, statement: str, status: int) -> None:
    then = "def found_and_then(error):\n    yield finding\n    raise error\n"
    ran = run_pytest(tmp_path, 0, f"{then}\n@case\ndef test_a():\n    {statement}\n")
    assert ran.status == status, ran.output


def test_a_worker_that_dies_is_a_miss_and_ends_with_2(tmp_path: Path) -> None:
    ran = run_pytest(tmp_path, 2, "@case\ndef test_passes():\n    pass\n\n@case\ndef test_dies():\n    os._exit(3)\n")
    assert ran.verdicts == {"passes": "pass", "dies": "miss"}, ran.output
    assert ran.status == 2, ran.output


@WORKERS
def test_a_test_that_is_no_case_ends_with_1_and_says_why_if_it_fails(tmp_path: Path, workers: int) -> None:
    ran = run_pytest(tmp_path, workers, "@case\ndef test_passes():\n    pass\n\ndef test_own():\n    assert 0\n")
    assert (ran.verdicts, ran.status) == ({"passes": "pass"}, 1), ran.output
    assert "test_own: failed, and is no case" in ran.output
    assert "assert 0" in ran.output


@WORKERS
def test_an_interrupt_ends_with_130_and_what_was_judged_is_written(tmp_path: Path, workers: int) -> None:
    body = "@case\ndef test_passes():\n    pass\n\n@case\ndef test_stops():\n    raise KeyboardInterrupt\n"
    ran = run_pytest(tmp_path, workers, body)
    assert ran.status == 130, ran.output
    assert ran.verdicts["passes"] == "pass"
    assert "exit code 130: interrupted" in ran.output


@WORKERS
def test_a_file_that_cannot_be_collected_ends_with_2_and_says_why(tmp_path: Path, workers: int) -> None:
    ran = run_pytest(tmp_path, workers, "import a_module_that_there_is_not\n")
    assert ran.status == 2, ran.output
    assert "No module named 'a_module_that_there_is_not'" in ran.output


_LISTED = "test_a_page_mapped_for_reading_cannot_be_written_after_it_was_read"
_LISTED_FINDING = """
known = Finding(
    subject="fault report of 0000:00:04.0 in the guest's log",
    expected="a fault of 0000:00:04.0 at 0x40000200",
    seen="no fault of 0000:00:04.0 (faults of other requesters: none)",
)
"""
_LAB = """
from types import SimpleNamespace as Space

from harness import plugin

def pytest_configure(config):
    config.stash[plugin._LAB] = Space(
        host={}, artifacts=(), facts={"qemu": "10.0.2"}, qemu=Space(name="q"), kernel=Space(name="k")
    )
"""


@pytest.mark.parametrize(
    ("fixtures", "statement", "verdict", "status"),
    [
        ("", "judge([known])", "known", 0),
        ("", "judge([known, finding])", "fail", 1),
        ("", "raise GuestCrashed('panic')", "fail", 1),
        ("panicking", "judge([known])", "fail", 1),
        ("stuck", "judge([known])", "fail", 1),
        ("", "pass", "fixed", 1),
    ],
)
def test_a_listed_issue_hides_what_it_describes_and_nothing_else(
    tmp_path: Path, fixtures: str, statement: str, verdict: str, status: int
) -> None:
    body = f"""{_LISTED_FINDING}
@pytest.fixture
def panicking():
    yield
    raise GuestCrashed("the guest kernel: panic")

@pytest.fixture
def stuck():
    yield
    raise VmmStartError("QEMU did not end")

@case
def {_LISTED}(iommu, {fixtures}):
    {statement}
"""
    path = "testcases/test_vfio.py"
    ran = run_pytest(tmp_path, 0, f"{body}", path=path, conftest=_LAB, options=("--iommu=intel",))
    assert list(ran.verdicts.values()) == [verdict], ran.output
    assert ran.status == status, ran.output


_MACHINES = """
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from harness.report.record import Evidence

seen = []

@contextmanager
def started(how, spec):
    evidence = Evidence(spec=spec.to_json(), command="")
    yield SimpleNamespace(
        origin=how, spec=spec, unexplained_faults=lambda: (),
        vmm=SimpleNamespace(evidence=lambda: evidence), guest=SimpleNamespace(problems=()),
    )

class Pool:
    def start(self, spec):
        return started("warm", spec)

    def expect(self, spec):
        seen.append(spec)

@pytest.fixture(scope="session")
def lab():
    return SimpleNamespace(boot=lambda spec, options=None: started("cold", spec))

@pytest.fixture(scope="session")
def pool():
    return Pool()

@pytest.fixture
def expected():
    return seen
"""
_USES = """
@case
@pytest.mark.machine(devices=["edu,iommu=on"], iommu="intel")
def test_warm(machine, expected):
    assert machine.origin == os.environ["WARM_IS"]
    assert [device.id for device in machine.spec.devices] == ["edu0"]
    assert expected == []

@case
@pytest.mark.machine(boot="cold", iommu="virtio", memory_mib=256)
def test_cold(machine, expected):
    assert machine.origin == "cold"
    assert (machine.spec.iommu.kind, machine.spec.memory_mib) == ("virtio", 256)
    assert len(expected) == (os.environ["WARM_IS"] == "warm")

@case
@pytest.mark.machine(iommu="intel", devices=["edu,iommu=on,id=third"])
def test_after(machine, expected):
    assert [device.id for spec in expected for device in spec.devices] == ["third"] * (os.environ["WARM_IS"] == "warm")

@case
@pytest.mark.machine()
def test_multiplied(machine, iommu):
    assert machine.spec.iommu.kind == iommu

@case
@pytest.mark.machine(colour="green", iommu="intel")
def test_field_that_there_is_not(machine):
    pass

@case
def test_without_a_mark(machine):
    pass
"""


def test_cases_of_another_iommu_than_the_one_asked_for_are_left_out(tmp_path: Path) -> None:
    cases = """
@case
@pytest.mark.machine(iommu="intel")
def test_fixed(iommu):
    pass

@case
def test_multiplied(iommu):
    pass

@case
def test_without_a_machine():
    pass
"""
    ran = run_pytest(tmp_path, 0, cases, options=("--iommu=virtio",))
    assert sorted((case.id.partition("::test_")[2], case.iommu) for case in ran.record.cases) == [
        ("multiplied[virtio]", "virtio"),
        ("without_a_machine", ""),
    ]


def test_a_case_can_be_of_the_night_on_machines_with_one_iommu(tmp_path: Path) -> None:
    cases = """
@case
@pytest.mark.nightly_for("virtio")
def test_multiplied(iommu):
    pass

@case
@pytest.mark.nightly
def test_late(iommu):
    pass

@case
def test_always(iommu):
    pass
"""
    ran = run_pytest(tmp_path, 0, cases, options=("-m", "not nightly"))
    names = [case.id.partition("::test_")[2] for case in ran.record.cases]
    assert sorted(names) == ["always[intel]", "always[virtio]", "multiplied[intel]"]


@pytest.mark.parametrize(("options", "warm"), [((), "warm"), (("--viommu-cold",), "cold")], ids=["warm", "cold"])
def test_a_mark_says_which_machine_a_case_has_and_how_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], warm: str
) -> None:
    monkeypatch.setenv("WARM_IS", warm)
    ran = run_pytest(tmp_path, 0, _USES, conftest=_MACHINES, options=options)
    asked = {"warm", "cold", "after", "multiplied"}
    assert {name for name, verdict in ran.verdicts.items() if verdict == "pass"} == asked, ran.output
    assert {name: ran.verdicts[name] for name in ran.verdicts.keys() - asked} == {
        "field_that_there_is_not": "miss",
        "without_a_mark": "miss",
    }
    by_iommu = [case.iommu for case in ran.record.cases if "multiplied" in case.id]
    assert sorted(by_iommu) == ["intel", "virtio"]
    origins = {
        case.id.partition("::test_")[2]: [machine.origin for machine in case.machines] for case in ran.record.cases
    }
    assert origins["cold[virtio]"] == ["cold"]
    assert origins["after[intel]"] == [warm]
