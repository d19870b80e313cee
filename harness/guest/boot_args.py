"""The guest kernel's command line: what a spec's IOMMU and DMA mode mean to Linux.

Source: Linux, Documentation/admin-guide/kernel-parameters.txt.
"""

from __future__ import annotations

from harness.spec import DmaMode, IommuKind, Machine

__all__ = ["kernel_arguments"]

_DMA_MODE = {
    DmaMode.STRICT: ("iommu.passthrough=0", "iommu.strict=1"),
    DmaMode.LAZY: ("iommu.passthrough=0", "iommu.strict=0"),
    DmaMode.PASSTHROUGH: ("iommu=pt",),
    DmaMode.OFF: (),
}


# The driver listens to iommu.strict since Linux 5.14; before that to this, which still means the same.
_AMD = {DmaMode.STRICT: ("amd_iommu=fullflush",), DmaMode.OFF: ("amd_iommu=off",)}


def kernel_arguments(machine: Machine) -> tuple[str, ...]:
    """All words of the command line; those of the spec come last, so that they win."""
    words = [
        "console=ttyS0",
        "panic=-1",  # with -no-reboot a panic ends QEMU at once
        # The kernel counts timer interrupts in a delay loop and, with interrupt remapping, panics when too few come: on
        # a busy host that is the host's doing. Under KVM it skips the check too. arch/x86/kernel/apic/io_apic.c
        "no_timer_check",
        "random.trust_cpu=on",  # sshd must not wait for entropy that an emulated machine gathers slowly
        *_DMA_MODE[machine.dma_mode],
    ]
    return (*words, *_driver(machine), *machine.kernel_args)


def _driver(machine: Machine) -> tuple[str, ...]:
    """Whether the IOMMU's driver works: Intel's is off in most kernels unless it is told, AMD's is on."""
    match machine.iommu.kind:
        case IommuKind.INTEL:
            on = "intel_iommu=on,sm_on" if machine.iommu.scalable else "intel_iommu=on"
            return ("intel_iommu=off" if machine.dma_mode is DmaMode.OFF else on,)
        case IommuKind.AMD:
            return _AMD.get(machine.dma_mode, ())
        case IommuKind.VIRTIO:
            # The driver is a module, and all devices wait for it: on a busy host Linux's ten seconds are too few, and
            # it goes on without the IOMMU (docs/findings.md, F-26).
            return ("deferred_probe_timeout=60",)
        case IommuKind.NONE:
            return ()
