"""What machines are made of, one QEMU, kernel, image and accelerator; and starting machines with them.

>>> with Lab.open(qemu="trixie", kernel="sid") as lab:                                        # doctest: +SKIP
...     with lab.boot(Machine(iommu=Iommu(kind=IommuKind.INTEL))) as machine:
...         print(machine.guest.run("lspci").stdout)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.artifacts.cache import Cache
from harness.artifacts.kernel import Kernel, find_kernel, is_path, require_option
from harness.artifacts.modules import KernelModules
from harness.artifacts.progress import Progress, silent
from harness.artifacts.qemu import QemuBuild, find_qemu
from harness.artifacts.vmlinux import bootable
from harness.defaults import defaults
from harness.errors import SpecError
from harness.guest.boot_args import kernel_arguments
from harness.guest.guest import Guest
from harness.host import host_facts
from harness.images.build import Images
from harness.images.firmware import FirmwareFiles
from harness.images.kernel_modules import require_driver
from harness.images.keys import Keys, Login
from harness.images.overlay import pack_overlay
from harness.images.recipe import Recipe
from harness.live.machine import LiveMachine
from harness.live.requests import REQUEST_EVENTS
from harness.report.record import Artifact
from harness.spec import BASE_IMAGE, Arch, IommuKind, Machine
from harness.vmm.protocol import FirmwareBoot, LinuxBoot
from harness.vmm.qemu import accelerator
from harness.vmm.qemu.capabilities import Capabilities, cached, require
from harness.vmm.qemu.command import Options
from harness.vmm.qemu.machine import QemuMachine

__all__ = ["BOOT_SECONDS", "FIRMWARE_BOOT_SECONDS", "Lab"]

BOOT_SECONDS = 90.0
"""How long a guest may take until its SSH answers: six seconds under emulation, thirty on a busy host."""

FIRMWARE_BOOT_SECONDS = 2 * BOOT_SECONDS
"""The same where firmware reads the kernel, which then unpacks itself."""

# The model of a virtio-iommu is fed from these; VT-d's tables are read from memory.
_TRACES = {IommuKind.VIRTIO: REQUEST_EVENTS}


@dataclass(frozen=True, slots=True)
class Lab:
    """One combination of artifacts; make it with `open`.

    Attributes:
        qemu: the QEMU build.
        capabilities: what it can do.
        kernel: the guest kernel.
        modules: of that kernel.
        kernel_file: the file that QEMU is given for it: the image itself, or the ELF file unpacked from it.
        images: the guest images for that kernel.
        accelerator: what runs the guest's instructions, and why KVM was not chosen.
        firmware: what machines are started from that QEMU hands no kernel to.
    """

    qemu: QemuBuild
    capabilities: Capabilities
    kernel: Kernel
    modules: KernelModules
    kernel_file: Path
    images: Images
    accelerator: accelerator.Choice
    firmware: FirmwareFiles

    @classmethod
    def open(
        cls,
        *,
        qemu: str | None = None,
        kernel: str | None = None,
        arch: Arch = Arch.AMD64,
        cache: Cache | None = None,
        progress: Progress = silent,
    ) -> Lab:
        """Find or fetch everything; the second time it comes from the cache.

        Args:
            qemu: name of a suite, "host", or a path.
            kernel: name of a suite, with ":cloud" behind it for that flavour, or a path.
            arch: guest architecture.
            cache: where artifacts are kept.
            progress: told of each step that takes long.

        Raises:
            SpecError: a name or path that means nothing, or is not what it should be.
            ArtifactError, HostError: something cannot be had, or the host lacks something.
        """
        cache = cache or Cache()
        names = defaults()
        kernel = kernel or names.kernel
        # A path that is wrong is told before anything is fetched.
        guest = find_kernel(kernel, arch, cache, progress) if is_path(kernel) else None
        build = find_qemu(qemu or names.qemu, arch, cache, progress)
        guest = guest or find_kernel(kernel, arch, cache, progress)
        images = Images(names.suite, arch, guest, cache, progress)
        images.named(BASE_IMAGE)  # what cannot be had is told before anything else is done
        return cls(
            qemu=build,
            capabilities=cached(build, cache.directory("derived")),
            kernel=guest,
            modules=KernelModules(guest),
            kernel_file=bootable(guest, cache),
            images=images,
            accelerator=accelerator.cached(build, cache),
            firmware=FirmwareFiles(names.suite, cache, progress),
        )

    def require(self, machine: Machine) -> None:
        """Refuse by name what this QEMU or kernel cannot do, before anything starts.

        Raises:
            Unsupported: the message names the capability, and how it was found to be absent.
            SpecError: there is no such guest image.
        """
        require(machine, self.capabilities)
        require_driver(Recipe.named(machine.image), self.modules, machine.iommu.kind)

    def require_modules(self, *names: str) -> None:
        """Refuse by name what the guest's kernel has no module for, built in or not.

        Raises:
            Unsupported: the message names the configuration option.
        """
        self.modules.resolve(names)

    def require_option(self, option: str, what: str) -> None:
        """Refuse what the guest's kernel has not been built with, where its configuration is known.

        Args:
            option: "CONFIG_...", one that is no module.
            what: it is, for people.

        Raises:
            Unsupported: the message names the option.
        """
        require_option(self.kernel, option, what)

    @contextmanager
    def boot(
        self, spec: Machine, options: Options | None = None, listen: Callable[[str], None] | None = None
    ) -> Iterator[LiveMachine]:
        """Start a machine and wait until its SSH answers; leaving the block gives everything back.

        Args:
            spec: what is asked for.
            options: how it is run.
            listen: called with each line of its console.

        Raises:
            Unsupported: as `require`, or there is no such firmware.
            SpecError: its firmware has nothing to start.
            VmmError: QEMU did not start, or died.
            GuestError: the guest crashed or never answered.
        """
        if spec.start is not None and spec.start.disk is None:
            raise SpecError(
                f"{spec.start.firmware} has nothing to start, and nobody would answer", hint="name a disk to start from"
            )
        self.require(spec)
        with self.start(spec, options) as machine:
            if listen is not None:
                machine.vmm.console.listen(listen)
            machine.guest.wait_ready(FIRMWARE_BOOT_SECONDS if spec.start else BOOT_SECONDS)
            yield machine

    @contextmanager
    def start(self, spec: Machine, options: Options | None = None) -> Iterator[LiveMachine]:
        """Start a machine and do not wait for its guest; nothing is refused that QEMU itself does not refuse."""
        keys = Keys.generate()
        with (
            QemuMachine.start(
                spec, self.qemu, self.capabilities, self._what_boots(spec, keys), options or self.options(spec)
            ) as vmm,
            self.enter(vmm, keys.login) as machine,
        ):
            yield machine

    def _what_boots(self, spec: Machine, keys: Keys) -> LinuxBoot | FirmwareBoot:
        if spec.start is not None and spec.start.disk is None:
            return FirmwareBoot(firmware=self.firmware.flash(spec.start.firmware))
        return self.linux(spec, keys)

    def linux(self, spec: Machine, keys: Keys) -> LinuxBoot:
        """What a machine of that spec is booted from.

        Raises:
            Unsupported, ArtifactError, HostError: firmware that the spec names, or a boot loader, cannot be had.
        """
        image = self.images.named(spec.image)
        boot = LinuxBoot(
            kernel=self.kernel_file,
            initrd=image.archive,
            overlay=pack_overlay(spec, image.recipe, keys),
            args=kernel_arguments(spec),
        )
        if spec.start is None or spec.start.disk is None:
            return boot
        # A boot loader takes the image, and nothing that was unpacked from it.
        files = self.firmware
        return replace(
            boot,
            kernel=self.kernel.image,
            firmware=files.flash(spec.start.firmware),
            disk=files.disk(spec.start.disk),
        )

    def options(self, spec: Machine, machine: str = "q35") -> Options:
        """How a machine of that spec is run where nothing else is said.

        Args:
            spec: of the machine.
            machine: its type, with a version where it is to be that of another build.
        """
        traces = _TRACES.get(spec.iommu.kind, ())
        return Options(
            accelerator=self.accelerator.accelerator,
            machine=machine,
            trace=traces,
            sandbox=self.capabilities.has_sandbox,
            names=self.capabilities.names,
        )

    @contextmanager
    def enter(self, vmm: QemuMachine, login: Login) -> Iterator[LiveMachine]:
        """The running machine with its guest; leaving the block closes connections into it, and does not end it."""
        guest = Guest(vmm, login)
        try:
            yield self.live(vmm, guest)
        finally:
            guest.close()

    def live(self, vmm: QemuMachine, guest: Guest) -> LiveMachine:
        """The two sides of a running machine as one."""
        return LiveMachine(vmm, guest, self.require_modules)

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Everything that is used, to the package version."""
        parts = (self.qemu, self.kernel, self.images, self.firmware)
        return tuple(artifact for part in parts for artifact in part.artifacts)

    @property
    def facts(self) -> dict[str, str]:
        """What conditions of known issues are compared with."""
        return {"qemu": self.qemu.version, "kernel": self.kernel.release, "accelerator": self.accelerator.accelerator}

    @property
    def host(self) -> dict[str, str]:
        """The host, for the results record."""
        chosen = self.accelerator
        return {
            **host_facts(),
            "accelerator": chosen.accelerator + (f" (not kvm: {chosen.rejected})" if chosen.rejected else ""),
        }
