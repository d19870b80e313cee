"""A worker of pytest-xdist that is killed under its machine."""

from __future__ import annotations

from pathlib import Path

from faults_rig import PLAIN
from leftovers import wait_until_gone
from plugin_run import run_pytest

from harness.artifacts.cache import Cache
from harness.verdict import Verdict
from harness.warm.lease import Leases
from harness.warm.shape import template_of

_CASES = """
import signal

pytestmark = pytest.mark.machine(iommu="virtio")

@case
def test_is_killed(machine):
    assert machine.origin.startswith("started from template")
    assert machine.guest.run("echo up").stdout == "up\\n"
    os.kill(os.getpid(), signal.SIGKILL)

@case
def test_comes_next(machine):
    assert machine.guest.run("echo up").stdout == "up\\n"
"""


def test_killed_worker_is_a_miss_of_its_case_and_the_run_goes_on(
    tmp_path: Path, temporary: Path, leases: Leases
) -> None:
    ran = run_pytest(tmp_path, 1, _CASES, options=(f"--basetemp={tmp_path / 'own'}",))
    assert wait_until_gone(temporary) == []
    cases = {case.id.partition("::test_")[2]: case for case in ran.record.cases}
    assert {name: case.verdict for name, case in cases.items()} == {
        "is_killed[virtio]": Verdict.MISS,
        "comes_next[virtio]": Verdict.PASS,
    }, ran.output
    assert ran.status == 2
    assert "crashed while running" in cases["is_killed[virtio]"].message
    waited: list[str] = []
    with Cache().lock(f"template-{leases.key(template_of(PLAIN))}", lambda step, done, total: waited.append(step)):
        assert waited == []
