"""Machines started from templates."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from harness.artifacts.progress import Progress, silent
from harness.errors import HostError, NotSaved, Unsupported, VmmDied, VmmStartError
from harness.images.keys import Keys, Login
from harness.lab import BOOT_SECONDS, Lab
from harness.live.machine import LiveMachine
from harness.live.user_space import load_vfio
from harness.spec import IommuKind, Machine
from harness.vmm.protocol import SavedMachine
from harness.vmm.qemu.amdvi import read_interrupt, write_interrupt
from harness.vmm.qemu.machine import QemuMachine, command_by_hand
from harness.warm.shape import leased, no_template, template_of
from harness.warm.store import Entry, Manifest, Store

__all__ = ["Leases"]

_ENTROPY_BYTES = 32
_REHEARSALS = 20  # CPython puts other instructions in the place of those that it has run some times: PEP 659
_STATE_BYTES = 64 << 20  # more than the state of all devices, the console and the traces take


class Leases:
    """Starts machines of one lab from its templates, which are booted when they are first needed.

    Args:
        lab: QEMU, kernel and image.
        store: where templates are kept.
        progress: told of each template that is booted.
    """

    def __init__(self, lab: Lab, store: Store, progress: Progress = silent) -> None:
        self._lab = lab
        self._store = store
        self._progress = progress
        self._client = Ed25519PrivateKey.generate()
        self._unsaved: dict[str, str] = {}

    @contextmanager
    def start(self, asked: Machine) -> Iterator[LiveMachine]:
        """Start a machine whose guest is up, with all devices in their places that are not to be hot-plugged later.

        Where QEMU cannot save its template, or a device stands in the way, it is booted; `LiveMachine.origin` says
        which it was, and why.

        Raises:
            Unsupported: as `Lab.require`.
            SpecError: it has more devices than there is room for.
            VmmError: QEMU did not start, or died.
            GuestError: the guest crashed, or does not take a device in.
            HostError: no space for a template.
        """
        self._lab.require(asked)
        with ExitStack() as stack:
            if why := no_template(asked):
                machine = stack.enter_context(self._lab.boot(asked))
                machine.origin = f"booted, since {why}"
            else:
                machine = self._restore_or_boot(asked, stack)
            yield machine

    def _restore_or_boot(self, asked: Machine, stack: ExitStack) -> LiveMachine:
        try:
            return self._restore(asked, stack)
        except NotSaved as error:
            machine = stack.enter_context(self._lab.boot(asked))
            machine.origin = f"booted, since it could not be saved: {error.message}"
            return machine

    def _restore(self, asked: Machine, stack: ExitStack) -> LiveMachine:
        lab, spec = self._lab, leased(asked)
        with self.template(template_of(spec)) as entry:
            login = Login(_host_key(entry), self._client)
            options = replace(lab.options(spec), paused=True)
            saved = self._saved(entry, asked)
            vmm = stack.enter_context(QemuMachine.start(spec, lab.qemu, lab.capabilities, saved, options, asked))
        present = [device.id for device in asked.devices if not device.hotplug]
        for id in present:
            vmm.plug(id)
        vmm.resume()
        machine = stack.enter_context(lab.enter(vmm, login))
        machine.origin = f"started from template {entry.manifest.key}"
        machine.agent.wake(time.time(), secrets.token_bytes(_ENTROPY_BYTES), login.authorized_keys())
        if entry.manifest.iommu_interrupt:
            assert machine.topology.iommu is not None
            write_interrupt(machine.config_space(machine.topology.iommu.address), entry.manifest.iommu_interrupt)
        machine.take_in(*present)
        return machine

    @contextmanager
    def template(self, spec: Machine) -> Iterator[Entry]:
        """The template that is that machine, booted if it was not yet; nobody removes it while the block lasts.

        Raises:
            NotSaved: QEMU cannot save it.
        """
        key = self.key(spec)
        if key in self._unsaved:
            raise NotSaved(self._unsaved[key])

        def fill(directory: Path) -> Manifest:
            self._progress("booting a machine once, to start others from", 0, 0)
            try:
                return self._boot(spec, directory)
            except NotSaved as error:
                self._unsaved[key] = error.message
                raise
            except (VmmStartError, VmmDied) as error:
                if not ("SIGBUS" in error.message and _has_no_room(directory / "ram")):
                    raise
                raise HostError(
                    f"the file system of {directory.parent} is full: no room for a guest's memory. {error.message}",
                    hint="free space there, or name another place in VIOMMU_CACHE",
                    evidence=error.evidence,
                ) from error

        room = (spec.memory_mib << 20) + _STATE_BYTES
        with self._store.hold(key, fill, self._progress, room=room) as entry:
            yield entry

    def key(self, spec: Machine) -> str:
        """Key of the template that is that machine.

        It is a hash of all that the template comes from: command line, the files that it names, and what is done here.
        """
        lab = self._lab
        boot = replace(lab.linux(spec, Keys.generate()), overlay=b"")
        assert boot.initrd is not None
        files = (lab.qemu.binary, boot.kernel, boot.initrd, Path(__file__))
        parts = [spec.to_json(), command_by_hand(spec, lab.qemu, boot, lab.options(spec)), *map(_identity, files)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def _boot(self, spec: Machine, directory: Path) -> Manifest:
        """Boot a machine and save it."""
        lab = self._lab
        keys = Keys.generate()
        boot = replace(lab.linux(spec, keys), ram=directory / "ram")
        with (
            QemuMachine.start(spec, lab.qemu, lab.capabilities, boot, lab.options(spec)) as vmm,
            lab.enter(vmm, keys.login) as machine,
        ):
            machine.guest.wait_ready(BOOT_SECONDS)
            # What is done once here is in memory, and in the guest's caches, in all that are started from it.
            machine.guest.run("true")
            for _ in range(_REHEARSALS):
                machine.agent.wake(time.time(), secrets.token_bytes(_ENTROPY_BYTES), keys.login.authorized_keys())
            with suppress(Unsupported):  # who needs it is told
                load_vfio(machine)
            machine.log_mark()
            machine.guest.close()
            roms, interrupt = vmm.option_roms, _iommu_interrupt(machine)
            vmm.save(directory / "state")
            vmm.process.kill()
            for name in ("console.log", "trace.log"):
                (directory / name).touch(0o600)
                if (vmm.directory / name).exists():
                    shutil.copyfile(vmm.directory / name, directory / name)
        (directory / "ram").chmod(0o600)
        host_key = keys.host.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return Manifest(
            key="",
            spec=spec.to_json(),
            qemu=f"{lab.qemu.name} {lab.qemu.version}",
            kernel=f"{lab.kernel.name} {lab.kernel.release}",
            host_key=host_key.hex(),
            option_roms=roms,
            iommu_interrupt=interrupt,
            files={},
        )

    def _saved(self, entry: Entry, asked: Machine) -> SavedMachine:
        return SavedMachine(
            ram=entry.file("ram"),
            state=entry.file("state"),
            option_roms=entry.manifest.option_roms,
            console=entry.file("console.log"),
            trace=entry.file("trace.log"),
            booted=replace(self._lab.linux(asked, Keys.generate()), overlay=b""),
        )


def _iommu_interrupt(machine: LiveMachine) -> tuple[int, ...]:
    """See `Manifest.iommu_interrupt`."""
    if machine.spec.iommu.kind is not IommuKind.AMD:
        return ()
    assert machine.topology.iommu is not None
    return read_interrupt(machine.config_space(machine.topology.iommu.address))


def _identity(path: Path) -> str:
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _has_no_room(ram: Path) -> bool:
    """Whether a guest's memory, a sparse file, is larger than its file system: a page without room is a SIGBUS."""
    status = ram.stat()
    return shutil.disk_usage(ram).free < status.st_size - status.st_blocks * 512


def _host_key(entry: Entry) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(entry.manifest.host_key))
