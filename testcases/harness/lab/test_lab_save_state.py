"""The state of a running machine's IOMMU, saved: the model finds in the dump what it finds in the machine."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import HostError, VmmError
from harness.lab import Lab
from harness.model.access import Access, AccessKind
from harness.model.topology import topology
from harness.spec import Device, Iommu, IommuKind, Machine
from harness.state import open_state
from harness.state.save import save_state

_DISK = Device.parse("virtio-blk,iommu=on,id=disk")


@pytest.mark.parametrize(
    ("kind", "qemu"), [(IommuKind.INTEL, None), (IommuKind.VIRTIO, None), (IommuKind.AMD, "sid")], ids=str
)
def test_what_is_saved_translates_as_the_machine_does(tmp_path: Path, kind: IommuKind, qemu: str | None) -> None:
    machine = Machine(iommu=Iommu(kind=kind), devices=(_DISK,), memory_mib=256)
    lab = Lab.open(qemu=qemu)
    lab.require(machine)
    with lab.boot(machine) as live:
        path = save_state(live, tmp_path / "saved", "made by a test")
        mappings = live.mappings("disk")  # the machine is stopped: nothing has changed since
        assert mappings
        access = Access(
            requester=live.function("disk").address.requester, iova=mappings[0].iova, length=4, kind=AccessKind.WRITE
        )
        with open_state(path) as state:
            assert tuple(state.engine.iter_mappings(state.requester("disk"))) == mappings
            assert state.engine.explain(access) == live.engine.explain(access)
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()] == [0o600, 0o600]


class _Failing:
    """A machine of which something does not work, with as much of it as is saved."""

    def __init__(self, error: BaseException) -> None:
        self.spec = Machine(iommu=Iommu(kind=IommuKind.INTEL), devices=(_DISK,))
        self.topology = topology(self.spec)
        self.engine = SimpleNamespace(refresh=lambda: None, state=lambda *_: "")
        self.vmm = SimpleNamespace(qmp=self)
        self._error = error

    def execute(self, name: str, arguments: Any = None, *, deadline: float = 10.0) -> None:
        if name == "dump-guest-memory":
            Path(arguments["protocol"].removeprefix("file:")).write_bytes(b"half of it")
            raise self._error


@pytest.mark.parametrize("error", [VmmError("dump: no space"), KeyboardInterrupt()])
def test_a_state_that_is_not_whole_is_not_there(tmp_path: Path, error: BaseException) -> None:
    live: Any = _Failing(error)
    with pytest.raises(type(error)):
        save_state(live, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    live: Any = _Failing(OSError(28, "No space left on device"))
    with pytest.raises(HostError, match="No space left on device"):
        save_state(live, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []
