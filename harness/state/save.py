"""Saves the state of a running machine's IOMMU: its memory as an ELF core, and a state file beside it.

The machine is stopped for it and stays so, and what is saved belongs together. Guest memory holds keys and passwords:
the directory and its files are for their owner alone.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import HostError, SpecError
from harness.live.machine import LiveMachine
from harness.spec import IommuKind, Machine

__all__ = ["check_target", "save_state"]

_MEMORY = "memory.elf"
_STATE = "state.toml"
_DUMP_SECONDS = 600.0


def check_target(directory: Path, machine: Machine) -> None:
    """Refuse what cannot be saved, before a machine is started.

    Raises:
        SpecError: the machine has no IOMMU, or there is something in the directory already.
    """
    if machine.iommu.kind is IommuKind.NONE:
        raise SpecError("this machine has no IOMMU: there is no state to save", hint="ask for one with --iommu")
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise SpecError(f"{directory} is there already and not an empty directory", hint="name another one")
    if not directory.absolute().parent.is_dir():
        raise SpecError(f"{directory.absolute().parent} is no directory", hint="make it first, or name another one")


def save_state(live: LiveMachine, directory: Path, comment: str = "") -> Path:
    """Stop the machine, and save memory, registers and requests.

    Args:
        live: the machine; it does not run afterwards.
        directory: appears when all of it is there, or not at all.
        comment: a line at the head of the state file.

    Returns:
        The state file.

    Raises:
        SpecError: as `check_target`.
        HostError: no space there, or no permission.
        VmmError: QEMU does not write its memory.
    """
    check_target(directory, live.spec)
    engine = live.engine  # to make it the guest is asked where configuration space is: it must run
    live.vmm.qmp.execute("stop")
    engine.refresh()
    devices = {device.id for device in live.spec.devices}
    names = {f.what: f.requester for f in live.topology.functions if f.what in devices and f.translated}
    try:
        with _whole(directory) as partial:
            memory = partial / _MEMORY
            target = {"paging": False, "protocol": f"file:{memory}"}
            live.vmm.qmp.execute("dump-guest-memory", target, deadline=_DUMP_SECONDS)
            memory.chmod(0o600)
            state = partial / _STATE
            state.touch(0o600)
            state.write_text(engine.state(_MEMORY, names, comment), encoding="utf-8")
    except OSError as error:
        raise HostError(
            f"{directory}: the state cannot be saved: {error.strerror}", hint="free some space there"
        ) from error
    return directory / _STATE


@contextmanager
def _whole(directory: Path) -> Iterator[Path]:
    """A directory that gets its name when the block has ended well, and is taken away otherwise."""
    partial = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", dir=directory.absolute().parent))
    try:
        yield partial
        partial.rename(directory.absolute())
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
