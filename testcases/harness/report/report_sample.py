"""A run as it comes from a real one, with a hostile guest in it: what the tests of the reports are made of."""

from __future__ import annotations

from harness.report.record import Artifact, Case, Evidence, Finding, Run
from harness.spec import Device, Iommu, IommuKind, Machine
from harness.verdict import Verdict

HOSTILE = (
    "\x1b[31m<script>alert('guest')</script>\x1b[0m \x1b]0;title\x07"
    " \u202egnp.exe\u202c \x00 ]]> [bold]x[/bold] {{ 7*7 }}"
)

_CONSOLE = f"""\
[    0.000000] Linux version 6.12.48+deb13-amd64 (debian-kernel@lists.debian.org)\r
[    0.000000] Command line: console=ttyS0 intel_iommu=on iommu.strict=1 panic=-1\r
[    0.412331] DMAR: IOMMU enabled\r
[    1.902113] pci 0000:00:04.0: Adding to iommu group 3\r
[    1.902871] pci 0000:00:05.0: Adding to iommu group 3\r
[    2.144010] {HOSTILE}\r
[    2.310772] DMAR: DRHD: handling fault status reg 2\r
[    2.310998] DMAR: [DMA Write NO_PASID] Request device [00:05.0] fault addr 0x1000000 [fault reason 0x05] \
PTE Write access is not set\r
[    2.588123] agent: ready\r
"""

_QMP = """\
0.012 -> {"execute": "qmp_capabilities"}
0.013 <- {"return": {}}
0.019 -> {"execute": "query-pci"}
0.022 <- {"return": [{"bus": 0, "devices": []}]}
"""


def evidence(kind: IommuKind, **changes: str) -> Evidence:
    devices = (Device.parse("virtio-blk,iommu=on"), Device.parse("edu,iommu=off"))
    iommu_args = "-device intel-iommu,intremap=on" if kind is IommuKind.INTEL else "-device virtio-iommu-pci"
    fields = {
        "spec": Machine(iommu=Iommu(kind=kind), devices=devices).to_json(),
        "command": (
            f"qemu-system-x86_64 -nodefaults -no-user-config -display none -M q35,kernel-irqchip=split {iommu_args}"
            " -m 512M -kernel '/var/cache/viommu/k 6.12/vmlinuz' -initrd /var/cache/viommu/initrd.cpio.zst"
            " -append 'console=ttyS0 intel_iommu=on iommu.strict=1 panic=-1'"
            " -device virtio-blk-pci,drive=d0,iommu_platform=on"
        ),
        "console": _CONSOLE,
        "qmp_log": _QMP,
        "trace": "vtd_iotlb_page_update IOTLB page update sid 0x28 iova 0x1000000 slpte 0x0 domain 0x3\n",
        "directory": "/tmp/viommu-report/machines/3",
    }
    return Evidence(**(fields | changes))


_CLAIMS = (
    ("groups", "CH-1", "each device with iommu=on is in the IOMMU group that the topology gives it"),
    ("groups", "CH-2", "a device with iommu=off is in no IOMMU group"),
    ("groups", "CH-3", "the type of every group is the one that the DMA mode asks for"),
    ("lspci", "CH-5", "lspci lists every function that must be there and none else"),
    ("lspci", "CH-6", "a hot-plugged device appears with its requester id"),
    ("devices", "CH-8", "virtio-blk reads back what it wrote, with the same checksum"),
    ("devices", "CH-9", "virtio-net carries traffic through the IOMMU"),
    ("rogue_dma", "CH-11", "a write to memory never given to the device is blocked and reported"),
    ("rogue_dma", "CH-12", "a read of memory never given to the device is blocked and reported"),
    ("rogue_dma", "CH-13", "the same write goes through with the device outside the IOMMU"),
    ("rogue_dma", "CH-14", "the same write goes through with iommu=pt"),
    ("page_tables", "CH-16", "the model finds the driver's mapping in guest memory"),
    ("page_tables", "CH-17", "a DMA to a driver's mapping lands where the model says"),
    ("page_tables", "CH-18", "an unmapped page is refused after its invalidation"),
)

_SPECIAL = {
    ("intel", "CH-1"): Verdict.FAIL,
    ("intel", "CH-9"): Verdict.MISS,
    ("virtio", "CH-11"): Verdict.KNOWN,
    ("virtio", "CH-16"): Verdict.SKIP,
    ("virtio", "CH-14"): Verdict.ERROR,
}

_MESSAGES = {
    Verdict.MISS: "QEMU ended before the guest ran: exit status 1",
    Verdict.KNOWN: "virtio-iommu-driverless-bypass: a device without a driver bypasses virtio-iommu",
    Verdict.SKIP: "this kernel has no debug export of virtio-iommu's domains (CONFIG_IOMMU_DEBUGFS)",
    Verdict.ERROR: "AttributeError: 'NoneType' object has no attribute 'requester'\ntestcases/test_rogue_dma.py:88",
}

_FINDINGS = (
    Finding(
        subject="iommu group of 0000:00:04.0 (virtio-blk0)",
        expected="alone in its group: {0000:00:04.0}",
        seen="{0000:00:04.0, 0000:00:05.0}",
        citation="Linux drivers/iommu/iommu.c, pci_device_group()",
    ),
    Finding(
        subject="fault reported for 0000:00:05.0",
        expected="requester 00:05.0, address 0x1000000, reason 0x05",
        seen=f"requester 00:04.0, address 0x1000000, {HOSTILE}",
        citation="VT-d 5.0, section 7.1.3",
        detail=(
            "level 3: entry 0x0000000012345003 at 0x12340000\n"
            "level 2: entry 0x0000000012346003 at 0x12345000\n"
            "level 1: not present"
        ),
    ),
)


def sample_case(kind: IommuKind, subject: str, claim_id: str, claim: str) -> Case:
    verdict = _SPECIAL.get((kind.value, claim_id), Verdict.PASS)
    stderr = "qemu-system-x86_64: -device intel-iommu: Could not open '/dev/vhost-net': Permission denied\n"
    machine = evidence(kind, vmm_stderr=stderr, console="") if verdict is Verdict.MISS else evidence(kind)
    name = f"test_{claim.replace(' ', '_').replace('=', '_').replace('-', '_')}"
    return Case(
        id=f"testcases/test_{subject}.py::{name}[{kind}]",
        claim=claim,
        claim_ids=(claim_id,),
        iommu=kind.value,
        verdict=verdict,
        seconds=6.2 + len(claim) / 40,
        message=_MESSAGES.get(verdict, ""),
        findings=_FINDINGS if verdict in (Verdict.FAIL, Verdict.KNOWN) else (),
        machines=() if verdict in (Verdict.PASS, Verdict.SKIP) else (machine,),
        rerun=f"viommu run --iommu {kind} --qemu trixie --kernel trixie -k '{name}'",
    )


def sample_run() -> Run:
    cases = [
        sample_case(kind, subject, claim_id, claim)
        for subject, claim_id, claim in _CLAIMS
        for kind in (IommuKind.INTEL, IommuKind.VIRTIO)
    ]
    packages = (
        "busybox-static 1:1.37.0-6",
        "dropbear-bin 2025.88-1",
        "pciutils 1:3.13.0-2",
        "python3.13-minimal 3.13.5-2",
    )
    return Run(
        harness_version="0.1.0",
        started="2026-11-21T02:04:11Z",
        seconds=191.4,
        host={
            "machine": "x86_64",
            "cores": "2",
            "memory": "7.8 GiB",
            "accelerator": "tcg (KVM is there but runs no guest)",
        },
        artifacts=(
            Artifact(
                role="qemu",
                name="qemu-system-x86",
                version="1:10.0.2+ds-2+deb13u1",
                source="trixie",
                sha256="9f8e7d6c" * 8,
            ),
            Artifact(
                role="kernel",
                name="linux-image-6.12.48+deb13-amd64",
                version="6.12.48-1",
                source="trixie",
                sha256="ab12cd34" * 8,
            ),
            *(
                Artifact(role="guest-package", name=name, version=version, source="trixie")
                for name, version in (package.split() for package in packages)
            ),
        ),
        cases=(
            *cases,
            Case(
                id="testcases/test_doctor.py::test_the_host_is_described",
                claim="the host is described",
                verdict=Verdict.PASS,
                seconds=0.1,
            ),
        ),
    )
