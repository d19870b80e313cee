"""Machines started from a template, with real guests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.artifacts.cache import Cache
from harness.checks.inventory import check_functions, check_groups
from harness.checks.judge import judge
from harness.errors import GuestUnreachable, NotSaved
from harness.guest.guest import READY
from harness.guest.lspci import lspci
from harness.guest.ssh import SshSession
from harness.images.keys import Keys, Login
from harness.lab import Lab
from harness.live.machine import LiveMachine
from harness.spec import Device, Iommu, IommuKind, Machine
from harness.vmm.qemu.machine import QemuMachine
from harness.warm.lease import Leases
from harness.warm.pool import Pool
from harness.warm.store import Store

_EMPTY = Machine(iommu=Iommu(kind=IommuKind.VIRTIO))


def machine(*texts: str) -> Machine:
    return Machine(iommu=_EMPTY.iommu, devices=tuple(map(Device.parse, texts)))


@pytest.fixture
def leases(lab: Lab) -> Leases:
    """Those of the shared cache: a template that another test has made is used."""
    return Leases(lab, Store(Cache()))


@pytest.fixture
def live(leases: Leases) -> Iterator[LiveMachine]:
    with leases.start(_EMPTY) as machine:
        yield machine


def test_guest_answers_and_its_console_has_the_boot_that_it_comes_from(live: LiveMachine) -> None:
    assert live.origin.startswith("started from template ")
    assert live.guest.run("echo up").stdout == "up\n"
    assert READY in live.vmm.console.text
    assert "Linux version" in live.vmm.console.text
    assert live.guest.problems == ()


def test_an_amd_iommu_tells_its_guest_of_faults() -> None:
    """QEMU does not save by which interrupt."""
    spec = Machine(iommu=Iommu(kind=IommuKind.AMD), devices=(Device.parse("edu,iommu=on"),))
    lab = Lab.open(qemu="sid")
    with Leases(lab, Store(Cache())).start(spec) as live:
        assert live.origin.startswith("started from template ")
        page = live.allocate(1, b"\xa5")
        live.store("edu0", page.frames[0], 4, aim=page.frames[0], watch=page.frames)
        line = live.guest.run("grep AMD-Vi /proc/interrupts").stdout
        assert int(line.split()[1]) > 0, line


def test_guest_knows_what_time_it_is(live: LiveMachine) -> None:
    assert abs(int(live.guest.run("date +%s").stdout) - time.time()) < 5


def test_only_the_key_of_this_lease_gets_in(live: LiveMachine) -> None:
    login = live.guest.login
    other = Login(login.host, Keys.generate().client)
    with pytest.raises(GuestUnreachable, match="refused"):
        SshSession(live.vmm.ssh_port, other, live.guest.check)
    # Nor that of whoever made the template.
    assert live.agent.read_file("/root/.ssh/authorized_keys") == login.authorized_keys().decode()


def test_qemu_is_kept_from_system_calls_that_it_has_no_use_for(lab: Lab, live: LiveMachine) -> None:
    status = Path(f"/proc/{live.vmm.process.pid}/status").read_text()
    assert ("Seccomp:\t2" in status) == lab.capabilities.has_sandbox  # 2: a filter, proc(5)
    assert "-sandbox on" in live.vmm.evidence().command or not lab.capabilities.has_sandbox


def test_guests_of_one_template_share_neither_randomness_nor_files_nor_memory(leases: Leases) -> None:
    with leases.start(_EMPTY) as one, leases.start(_EMPTY) as other:
        both = (one, other)
        assert one.origin == other.origin
        assert len({live.agent.read_file("/proc/sys/kernel/random/uuid") for live in both}) == 2
        one.agent.write_file("/tmp/mine", "x")
        assert other.guest.run("ls /tmp").stdout == ""
        one.vmm.memory.write(0x1000, b"one's own")
        assert other.vmm.memory.read(0x1000, 9) != b"one's own"


def test_devices_are_in_their_places_and_groups_and_one_to_be_plugged_later_is_not(leases: Leases) -> None:
    spec = machine("virtio-blk,iommu=on", "edu,iommu=off", "virtio-net,iommu=on", "edu,iommu=on,hotplug=on,id=late")
    with leases.start(spec) as live:
        judge(check_functions(live.topology, lspci(live.guest.ssh)))
        judge(check_groups(live.topology, live.agent.iommu_groups()))
        assert "late" not in {function.what for function in live.topology.functions}
        live.plug("late")
        judge(check_functions(live.topology, lspci(live.guest.ssh)))
        judge(check_groups(live.topology, live.agent.iommu_groups()))


def test_model_of_a_virtio_iommu_knows_what_was_mapped_before_it_was_saved(live: LiveMachine) -> None:
    attached = [function for function in live.topology.functions if function.translated]
    assert attached
    for function in attached:
        assert live.mappings(function.what) == ()  # to ask is to know the endpoint's domain: nobody has mapped there
    assert live.engine.state("memory", {}, "a comment").count("[[requests]]") > 0


def test_evidence_shows_the_machine_as_it_was_asked_for(leases: Leases) -> None:
    spec = machine("edu,iommu=on")
    with leases.start(spec) as live:
        evidence = live.vmm.evidence()
    assert Machine.from_json(evidence.spec) == spec
    assert "-device edu,id=edu0,bus=pcie.0" in evidence.command
    assert "-incoming" not in evidence.command
    assert "-kernel" in evidence.command


def test_machine_that_cannot_be_saved_is_booted_and_says_why(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refused(machine: QemuMachine, state: Path) -> None:
        tries.append(state)
        raise NotSaved("State blocked by non-migratable device")

    monkeypatch.setattr(QemuMachine, "save", refused)
    leases = Leases(lab, Store(Cache(tmp_path)))
    for _ in range(2):
        with leases.start(_EMPTY) as live:
            assert live.origin == "booted, since it could not be saved: State blocked by non-migratable device"
            assert live.guest.run("echo up").stdout == "up\n"
    assert len(tries) == 1
    assert list((tmp_path / "templates").iterdir()) == []


def test_pool_hands_out_the_machine_that_it_started_ahead(leases: Leases) -> None:
    pool = Pool(leases, ahead=1)
    with pool.start(_EMPTY) as first:
        pool.expect(_EMPTY)
        assert pool._next is not None
        coming = pool._next.wait()
        assert coming is not first
    with pool.start(_EMPTY) as second:
        assert second is coming
        assert second.guest.run("echo up").stdout == "up\n"
    assert not second.vmm.alive
    pool.close()


def test_pool_ends_a_machine_that_is_never_asked_for(leases: Leases) -> None:
    pool = Pool(leases, ahead=1)
    pool.expect(_EMPTY)
    assert pool._next is not None
    coming = pool._next.wait()
    with pool.start(machine("edu,iommu=on")):
        assert not coming.vmm.alive
    pool.expect(_EMPTY)
    assert pool._next is not None
    coming = pool._next.wait()
    pool.close()
    assert not coming.vmm.alive


def test_pool_tells_what_kept_a_machine_from_starting(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(machine: QemuMachine) -> None:
        machine.process.kill()

    pool = Pool(leases, ahead=1)
    with monkeypatch.context() as patch:
        patch.setattr(QemuMachine, "resume", dies)
        pool.expect(_EMPTY)
        assert pool._next is not None
        pool._next._thread.join(60)
    with pytest.raises(Exception, match="SIGKILL"), pool.start(_EMPTY):
        pass
    with pool.start(_EMPTY) as live:
        assert live.guest.run("echo up").stdout == "up\n"


def test_pool_without_room_starts_nothing_ahead(leases: Leases) -> None:
    pool = Pool(leases, ahead=0)
    pool.expect(_EMPTY)
    assert pool._next is None
