"""A machine that runs, with its guest: what a test case has in its hands.

It drives and observes; what must be seen is the model's to say, and whether it was seen is `harness.checks`'s.
"""

from __future__ import annotations

import re
import time

from harness.errors import GuestError
from harness.guest.agent import Agent
from harness.guest.faults import ReportedFault, parse_faults
from harness.guest.guest import Guest
from harness.live_model import LiveEngine, live_engine
from harness.model.access import Access, AccessKind, Bypassed, BypassReason, Mapping, Outcome
from harness.model.topology import PciFunction, Topology, topology
from harness.observations import DmaSeen
from harness.pci import Address
from harness.placement import place
from harness.spec import IommuKind
from harness.vmm.qemu.edu import Edu
from harness.vmm.qemu.machine import QemuMachine
from harness.vmm.qemu.pci import PciFunction as ConfigSpace

__all__ = ["LiveMachine"]

_PAGE = 4096
_ECAM = re.compile(r"^\s*([0-9a-f]+)-[0-9a-f]+ : PCI (?:ECAM|MMCONFIG) 0000 ", re.MULTILINE)
_PLUG_SECONDS = 30.0
_FAULT_SECONDS = 3.0


class LiveMachine:
    """One running machine.

    Attributes:
        vmm: its outside: QMP, qtest, console, cables, disks.
        guest: its inside: SSH and agent.
    """

    def __init__(self, vmm: QemuMachine, guest: Guest) -> None:
        self.vmm = vmm
        self.guest = guest
        self.spec = vmm.spec
        self._plugged: set[str] = set()
        self._ecam: int | None = None
        self._engine: LiveEngine | None = None

    @property
    def agent(self) -> Agent:
        """The agent in the guest."""
        return self.guest.agent

    @property
    def topology(self) -> Topology:
        """What the guest must find now, with the devices that have been plugged."""
        return topology(self.spec, self._plugged)

    def function(self, id: str) -> PciFunction:
        """The PCI function of a device of the spec."""
        return self.topology.function(id)

    def address(self, id: str) -> str:
        """Its address as sysfs has it."""
        return str(self.function(id).address)

    def plug(self, id: str) -> None:
        """Plug a device by QMP and wait until the guest has found it.

        Raises:
            GuestError: it does not find it in time.
        """
        self.vmm.plug(id)
        self._plugged.add(id)
        self.agent.wait_path(f"/sys/bus/pci/devices/{self.address(id)}", _PLUG_SECONDS)

    def unplug(self, id: str) -> None:
        """Unplug a device by QMP and wait until the guest has let go of it."""
        self.vmm.unplug(id)
        self._plugged.remove(id)

    def config_space(self, address: Address) -> ConfigSpace:
        """A function's configuration space, reached from the host through the ECAM that the guest's firmware set up."""
        if self._ecam is None:
            iomem = self.agent.read_file("/proc/iomem")
            found = _ECAM.search(iomem)
            if found is None:
                raise GuestError("the guest's /proc/iomem has no PCI ECAM", evidence=iomem)
            self._ecam = int(found[1], 16)
        return ConfigSpace(self.vmm.qtest, self._ecam, address)

    def rogue(self, id: str) -> Edu:
        """An edu device, driven by the host behind the guest's back."""
        device = Edu(self.config_space(self.function(id).address))
        device.enable()
        return device

    @property
    def engine(self) -> LiveEngine:
        """The model of this machine's IOMMU, as its registers, tables and requests are now."""
        if self._engine is None:
            iommu = self.topology.iommu
            space = self.config_space(iommu.address) if iommu else None
            self._engine = live_engine(self.vmm, self.topology, space)
        self._engine.refresh()
        return self._engine

    def expect(self, id: str, iova: int, kind: AccessKind, length: int) -> tuple[Access, Outcome, str]:
        """What the model says of an access of a device: the access, its outcome, and the walk for a person to read."""
        function = self.function(id)
        access = Access(requester=function.address.requester, iova=iova, length=length, kind=kind)
        if not function.translated:
            return access, Bypassed(iova, BypassReason.NOT_BEHIND), f"{id} does not stand behind the IOMMU"
        explanation = self.engine.explain(access)
        return access, explanation.outcome, str(explanation)

    def write_by_dma(self, id: str, iova: int, payload: bytes, watch: tuple[int, ...]) -> DmaSeen:
        """Have a rogue device write the start of its buffer, and look at the pages around before and after.

        Args:
            id: an edu device.
            iova: address it puts on the bus.
            payload: what stands in its buffer, as far as the caller put it there: as many bytes are written.
            watch: guest physical addresses of pages to look at.
        """
        device = self.rogue(id)
        before = {address: self.vmm.memory.read(address, _PAGE) for address in watch}
        device.dma_from_device(0, iova, len(payload))
        after = {address: self.vmm.memory.read(address, _PAGE) for address in watch}
        return DmaSeen(before=before, after=after, payload=payload)

    def mappings(self, id: str) -> tuple[Mapping, ...]:
        """What the model finds mapped for a device now."""
        return tuple(self.engine.iter_mappings(self.function(id).address.requester))

    def virtio_features(self, id: str) -> frozenset[int]:
        """Numbers of the feature bits that a virtio device and its driver agreed on, from the guest's sysfs."""
        base = f"/sys/bus/pci/devices/{self.address(id)}"
        bits = self.guest.run(f"cat {base}/virtio*/features").stdout.strip()
        return frozenset(number for number, bit in enumerate(bits) if bit == "1")

    def give_to_vfio(self, id: str) -> None:
        """Bind a device to vfio-pci and open it in a container of its own.

        Where interrupts are not remapped VFIO is told to put up with that: it refuses the device otherwise, and DMA is
        what this is for.
        """
        remapped = self.spec.iommu.kind is IommuKind.INTEL and place(self.spec).interrupt_remapping
        unsafe = "" if remapped else " allow_unsafe_interrupts=1"
        self.agent.modprobe(f"vfio_iommu_type1{unsafe}", "vfio_pci")
        self.agent.pci_bind(self.address(id), "vfio-pci")
        self.agent.vfio_open(self.address(id))

    def faults(self, *, wait: bool) -> tuple[ReportedFault, ...]:
        """DMA faults that the guest's log reports.

        Args:
            wait: look until there is one, for up to three seconds; else look once.
        """
        end = time.monotonic() + _FAULT_SECONDS
        while True:
            faults = parse_faults(record.text for record in self.agent.kernel_log())
            if faults or not wait or time.monotonic() > end:
                return faults
            time.sleep(0.02)
