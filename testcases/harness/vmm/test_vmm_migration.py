"""Saving the devices of a machine and starting another from them, without a guest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from vmm_rig import Start, function, spec

from harness.errors import GuestError, HostError, NotSaved, VmmStartError
from harness.spec import IommuKind, Machine
from harness.vmm.qemu import migration
from harness.vmm.qemu.command import Options
from harness.vmm.qemu.machine import QemuMachine
from harness.vmm.qemu.qtest import Width

_PLAIN = spec(iommu=IommuKind.INTEL)
_VTD = 0xFED9_0000
_FEADDR = 0x40  # VT-d 11.4.7.5: a register that holds what was written


def ram(parent: Path, *, shared: bool) -> tuple[tuple[str, ...], ...]:
    backend = f"memory-backend-file,id=ram.0,size=128M,mem-path={parent}/ram,share={'on' if shared else 'off'}"
    return ("-object", backend), ("-machine", "memory-backend=ram.0")


@contextmanager
def saved(start: Start, parent: Path, machine: Machine = _PLAIN) -> Iterator[QemuMachine]:
    """A machine whose RAM is a file, about to be saved."""
    with start(machine, Options(parent=parent, extra=ram(parent, shared=True))) as running:
        yield running


def restored(start: Start, parent: Path, machine: Machine = _PLAIN) -> QemuMachine:
    """A machine that waits for its state."""
    return start(machine, Options(parent=parent, extra=(*ram(parent, shared=False), migration.INCOMING)))


def test_registers_and_memory_are_there_again_and_memory_is_private(start: Start, parent: Path) -> None:
    state = parent / "state"
    with saved(start, parent) as running:
        running.qtest.write_value(_VTD + _FEADDR, 0x12345678, Width.LONG)
        running.memory.write(0x10_0000, b"before")
        assert running.option_roms == ()
        running.save(state)
    assert state.stat().st_mode & 0o077 == 0
    for _ in range(2):
        with restored(start, parent) as again:
            migration.load(again.qmp, again.process, state)
            assert again.qtest.read_value(_VTD + _FEADDR, Width.LONG) == 0x12345678
            assert again.memory.read(0x10_0000, 6) == b"before"
            again.memory.write(0x10_0000, b"after!")
            assert again.qmp.execute("query-status")["running"] is False
            again.resume()
            assert again.qmp.execute("query-status")["running"] is True


def test_a_network_card_that_is_plugged_afterwards_announces_itself_to_nobody(start: Start, parent: Path) -> None:
    machine = spec("e1000e,iommu=on,hotplug=on", iommu=IommuKind.INTEL)
    with saved(start, parent, machine) as running:
        running.save(parent / "state")
    with restored(start, parent, machine) as again:
        migration.load(again.qmp, again.process, parent / "state")
        again.resume()
        again.plug("e1000e0")
        with pytest.raises(GuestError, match="no Ethernet frame came"):
            again.network("e1000e0").receive(deadline=1)


def test_memory_is_not_in_the_state(start: Start, parent: Path) -> None:
    state = parent / "state"
    with saved(start, parent) as running:
        running.memory.write(0x10_0000, bytes(range(1, 256)) * 40000)
        running.save(state)
    assert state.stat().st_size < 4 << 20


def test_device_without_a_state_is_refused_by_its_name(start: Start, parent: Path) -> None:
    machine = spec("edu", iommu=IommuKind.NONE)
    extra = (*ram(parent, shared=True), ("-device", "ivshmem-plain,memdev=ram.1,master=off"))
    backend = ("-object", f"memory-backend-file,id=ram.1,size=1M,mem-path={parent}/other,share=on")
    with start(machine, Options(parent=parent, extra=(backend, *extra))) as running:
        function(running.qtest, 4)
        with pytest.raises(NotSaved, match=r"ivshmem|[Mm]igrat"):
            running.save(parent / "state")


def test_state_of_another_machine_is_refused_with_what_qemu_says(start: Start, parent: Path) -> None:
    with saved(start, parent) as running:
        running.save(parent / "state")
    other = restored(start, parent, spec(iommu=IommuKind.VIRTIO))
    with pytest.raises(VmmStartError, match="at start") as caught:
        migration.load(other.qmp, other.process, parent / "state")
    assert "intel" in caught.value.evidence


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5])
def test_state_that_was_cut_short_is_refused(start: Start, parent: Path, part: float) -> None:
    state = parent / "state"
    with saved(start, parent) as running:
        running.save(state)
    data = state.read_bytes()
    state.write_bytes(data[: int(len(data) * part)])
    again = restored(start, parent)
    with pytest.raises(VmmStartError):
        migration.load(again.qmp, again.process, state)


def test_state_of_garbage_is_refused(start: Start, parent: Path) -> None:
    with saved(start, parent) as running:
        running.save(parent / "unused")
    (parent / "state").write_bytes(bytes(range(256)) * 1000)
    again = restored(start, parent)
    with pytest.raises(VmmStartError):
        migration.load(again.qmp, again.process, parent / "state")


def test_state_that_is_not_there_is_told(start: Start, parent: Path) -> None:
    with saved(start, parent) as running:
        running.save(parent / "unused")
    again = restored(start, parent)
    with pytest.raises(HostError, match="No such file"):
        migration.load(again.qmp, again.process, parent / "state")


def test_file_that_cannot_be_written_is_told(start: Start, parent: Path) -> None:
    with saved(start, parent) as running, pytest.raises(HostError, match="No such file"):
        running.save(parent / "nowhere" / "state")
