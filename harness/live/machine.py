"""A machine that runs, with its guest: what a test case has in its hands.

It drives and observes; what must be seen is the model's to say, and whether it was seen is `harness.checks`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from harness.errors import HarnessError, SpecError
from harness.guest.agent import Agent
from harness.guest.answers import Pages
from harness.guest.faults import InterruptFault, ReportedFault, parse_faults, parse_interrupt_faults
from harness.guest.guest import Guest
from harness.live.model import LiveEngine, live_engine
from harness.model.access import Access, AccessKind, Bypassed, BypassReason, Fault, Mapping, Outcome
from harness.model.engine import Interrupt, MsiOutcome, MsiWrite
from harness.model.topology import PciFunction, Topology, topology
from harness.observations import DmaSeen
from harness.pci import Address
from harness.placement import place
from harness.spec import DeviceKind
from harness.vmm.qemu import growth
from harness.vmm.qemu.edu import Edu
from harness.vmm.qemu.machine import QemuMachine
from harness.vmm.qemu.nic.intel import I82574, I82576, IntelNic
from harness.vmm.qemu.nic.protocol import Nic
from harness.vmm.qemu.nic.virtio_net import VirtioNet
from harness.vmm.qemu.pci import PciFunction as ConfigSpace
from harness.vmm.qemu.pci import ecam_base

__all__ = ["LiveMachine"]

_PAGE = 4096
_PLUG_SECONDS = 30.0
_MARK = b"the very page"
_FAULT_SECONDS = 3.0


class LiveMachine:
    """One running machine.

    Attributes:
        vmm: its outside: QMP, qtest, console, cables, disks.
        guest: its inside: SSH and agent.
        spec: what it is.
        origin: how it was started, for people.

    Args:
        require_modules: refuses modules that the guest's kernel does not have, by name.
    """

    def __init__(self, vmm: QemuMachine, guest: Guest, require_modules: Callable[..., None]) -> None:
        self.vmm = vmm
        self.guest = guest
        self._require_modules = require_modules
        self.spec = vmm.spec
        self.origin = "booted"
        self._plugged: set[str] = set()
        self._bridged: set[str] = set()
        self._buffers: dict[str, bytes] = {}
        self._asked: set[int | None] = set()
        self._engine: LiveEngine | None = None

    @property
    def agent(self) -> Agent:
        """The agent in the guest."""
        return self.guest.agent

    @property
    def plugged(self) -> frozenset[str]:
        """Ids of the devices to be hot-plugged that are plugged now."""
        return frozenset(self._plugged)

    @property
    def topology(self) -> Topology:
        """What the guest must find now, with the devices that have been plugged."""
        return topology(self.spec, self._plugged, self._bridged)

    def function(self, id: str) -> PciFunction:
        """The PCI function of a device of the spec."""
        return self.topology.function(id)

    def address(self, id: str) -> str:
        """Its address as sysfs has it."""
        return str(self.function(id).address)

    def plug(self, id: str) -> None:
        """Plug a device by QMP and wait until the guest has taken it in: found it, grouped it, bound its driver.

        Raises:
            GuestError: it does not find it in time.
        """
        self.vmm.plug(id)
        self.take_in(id)

    def take_in(self, *ids: str) -> None:
        """Wait until the guest has taken in devices that QEMU has plugged.

        Raises:
            GuestError: it does not find one in time.
        """
        if not ids:
            return
        self._plugged.update(ids)
        for id in ids:
            self.agent.wait_path(f"/sys/bus/pci/devices/{self.address(id)}", _PLUG_SECONDS)
        # The directory is there before group, BARs and driver are. A rescan waits for the lock that hot-plug holds to
        # its end (Linux, drivers/pci/probe.c, pci_rescan_remove_lock), and finds nothing new; of one bus it is quick.
        self.agent.write_file(f"/sys/bus/pci/devices/{self.address(ids[-1])}/rescan", "1")

    def unplug(self, id: str) -> None:
        """Unplug a device by QMP and wait until the guest has let go of it."""
        self.vmm.unplug(id)
        self._plugged.remove(id)

    def go_on_from(self, before: LiveMachine) -> None:
        """Take over what is known of the machine that this one was moved from: what was plugged, what was asked for."""
        self._plugged = before._plugged.copy()
        self._bridged = before._bridged.copy()
        self._asked = before._asked.copy()

    def restart(self, by: Callable[[], object], deadline_seconds: float, *, panics: bool = False) -> None:
        """Put another kernel in the place of the one that runs, and wait until its SSH answers.

        Devices that were plugged stay.

        Args:
            by: ends the one that runs, so that the next one starts.
            deadline_seconds: until the next one is up.
            panics: whether it ends by a panic, as it is to.

        Raises:
            GuestError: it does not come up.
        """
        with self.guest.successor(deadline_seconds, panics=panics):
            by()
        self.begin_anew()

    def restart_with_bridge(self, id: str, deadline_seconds: float) -> None:
        """Reset the machine with one bridge more, so that its firmware gives other numbers to the buses after it.

        It is plugged while the guest is stopped, which knows nothing of it until it has begun anew.

        Args:
            id: of a hot-plug device that is not plugged, in whose place the bridge comes, with nothing behind it.
            deadline_seconds: until the next kernel is up.

        Raises:
            SpecError: the device is plugged, was there at boot, or brings a bridge itself.
            GuestError: the machine does not come up.
        """
        free = {each.id for each in self.spec.devices if each.hotplug and not each.bridge} - self._plugged
        if id not in free - self._bridged:
            raise SpecError(f"{id}: a bridge was asked for in its place, which is taken", hint="name another device")
        port = place(self.spec).slot(id).bus

        def reset() -> None:
            self.vmm.qmp.execute("stop")
            growth.plug_bridge(self.vmm.qmp, port)
            self.vmm.qmp.execute("system_reset")
            self.vmm.qmp.execute("cont")

        self.restart(reset, deadline_seconds)
        self._bridged.add(id)

    def begin_anew(self) -> None:
        """Forget the model: what drives the IOMMU now is not what drove it before."""
        self._engine = None

    def config_space(self, address: Address) -> ConfigSpace:
        """A function's configuration space, reached from the host through the ECAM that the guest's firmware set up."""
        return ConfigSpace(self.vmm.qtest, self.ecam, address)

    @cached_property
    def ecam(self) -> int:
        """Guest physical address of the ECAM that its firmware set up.

        Raises:
            GuestError: it has not, or not yet.
        """
        return ecam_base(self.vmm.qmp)

    def rogue(self, id: str) -> Edu:
        """An edu device, driven by the host behind the guest's back."""
        device = Edu(self.config_space(self.function(id).address))
        device.enable()
        return device

    def nic(self, id: str) -> Nic:
        """A network card, driven by the host behind the guest's back; its cable is `vmm.network(id)`.

        Raises:
            SpecError: the device is none.
        """
        space = self.config_space(self.function(id).address)
        match self.spec.device(id).kind:
            case DeviceKind.VIRTIO_NET:
                return VirtioNet(space, self.vmm.memory)
            case DeviceKind.E1000E:
                return IntelNic(I82574, space, self.vmm.memory)
            case DeviceKind.IGB:
                return IntelNic(I82576, space, self.vmm.memory)
            case kind:
                raise SpecError(f"{id} is a {kind}, not a network card")

    @property
    def engine(self) -> LiveEngine:
        """The model of this machine's IOMMU, as its registers, tables and requests are now."""
        if self._engine is None:
            iommu = self.topology.iommu
            space = self.config_space(iommu.address) if iommu else None
            self._engine = live_engine(self.vmm, self.topology, space, self.guest.since)
        self._engine.refresh()
        return self._engine

    def expect(self, id: str, iova: int, kind: AccessKind, length: int) -> tuple[Access, Outcome, str]:
        """What the model says of an access of a device: the access, its outcome, and the walk for a person to read."""
        function = self.function(id)
        access = Access(requester=function.requester, iova=iova, length=length, kind=kind)
        if not function.translated:
            return access, Bypassed(iova, BypassReason.NOT_BEHIND), f"{id} does not stand behind the IOMMU"
        explanation = self.engine.explain(access)
        return access, explanation.outcome, str(explanation)

    def leads_to(self, id: str, iova: int) -> int:
        """Guest physical address that a device reaches by an address.

        Raises:
            HarnessError: none: it is not mapped for reading.
        """
        access, outcome, walk = self.expect(id, iova, AccessKind.READ, 1)
        if isinstance(outcome, Fault):
            raise HarnessError(f"nothing is mapped for {id} at {iova:#x}: {access}", evidence=walk)
        return outcome.address

    def expect_interrupt(self, id: str, address: int, data: int) -> tuple[MsiWrite, MsiOutcome, str]:
        """What the model says of an interrupt message of a device: the write, its outcome, and how that came about.

        Those of a virtio device go through the IOMMU with or without VIRTIO_F_ACCESS_PLATFORM: they are its function's.
        """
        function = self.function(id)
        write = MsiWrite(requester=function.requester, address=address, data=data)
        if not function.covered:
            return write, Interrupt(address, data, remapped=False), f"{id} does not stand behind the IOMMU"
        return write, *self.engine.interrupt(write)

    def load(self, id: str, iova: int, source: int, count: int) -> None:
        """Have a rogue device read into its buffer.

        Args:
            id: an edu device.
            iova: address that it puts on the bus.
            source: guest physical address that this must lead to: what stands there is taken for what it has read, and
                shows as wrong in memory later if it has not.
            count: bytes.
        """
        device = self.rogue(id)
        self._buffers[id] = self.vmm.memory.read(source, count)
        device.dma_to_device(iova, 0, count)

    def store(self, id: str, iova: int, count: int, *, aim: int, watch: Iterable[int]) -> DmaSeen:
        """Have a rogue device write the start of its buffer, and look at pages of the guest before and after.

        Args:
            id: an edu device; its buffer is zeroes until something is loaded.
            iova: address that it puts on the bus.
            count: bytes.
            aim: guest physical address where that stands afterwards if nothing stops it.
            watch: guest physical addresses of the pages to look at.
        """
        device = self.rogue(id)
        pages = tuple(watch)
        before = self._pages(pages)
        device.dma_from_device(0, iova, count)
        after = self._pages(pages)
        payload = self._buffers.get(id, bytes(_PAGE))[:count]
        return DmaSeen(before=before, after=after, payload=payload, aim=aim)

    def allocate(self, count: int, fill: bytes) -> Pages:
        """Pages of the guest filled with a repeated pattern, which the host sees at the addresses that the guest tells.

        Raises:
            HarnessError: it does not: the addresses are wrong, and nothing that is said of them would mean anything.
        """
        pages = self.agent.page_allocate(count, fill)
        whole = fill * (count * _PAGE // len(fill) + 1)
        seen = self._pages(pages.frames)
        for number, frame in enumerate(pages.frames):
            if seen[frame] != whole[number * _PAGE : (number + 1) * _PAGE]:
                raise HarnessError(f"the page that the guest has at {frame:#x} holds something else for the host")
        return pages

    def _pages(self, addresses: Sequence[int]) -> dict[int, bytes]:
        """What the host sees of the guest's pages that stand there."""
        pieces = self.vmm.memory.read_pieces([(address, _PAGE) for address in addresses])
        return dict(zip(addresses, pieces, strict=True))

    def allocate_huge(self, shift: int) -> Pages:
        """One huge page of the guest, of 2**shift bytes; errors as of `allocate`."""
        pages = self.agent.page_allocate_huge(shift)
        for at in (0, pages.size - _PAGE):
            self.agent.page_write(pages, at, _MARK)
            if self.vmm.memory.read(pages.frames[0] + at, len(_MARK)) != _MARK:
                raise HarnessError(
                    f"the huge page that the guest has at {pages.frames[0]:#x} is elsewhere for the host"
                )
        return pages

    def check_unmoved(self, pages: Pages) -> None:
        """See that pages are where they were when they were allocated.

        Raises:
            HarnessError: the guest's kernel has migrated one meanwhile, so that nothing is known of the DMA.
        """
        now = self.agent.page_frames(pages)
        if now != pages.frames:
            raise HarnessError(f"the guest moved pages meanwhile: {pages.frames} to {now}", hint="run the case again")

    def mappings(self, id: str) -> tuple[Mapping, ...]:
        """What the model finds mapped for a device, or a part of the chipset, now."""
        return tuple(self.engine.iter_mappings(self.function(id).requester))

    def virtio_features(self, id: str) -> frozenset[int]:
        """Numbers of the feature bits that a virtio device and its driver agreed on, from the guest's sysfs."""
        return self.agent.virtio_device(self.address(id)).features

    def load_modules(self, *names: str) -> None:
        """Have the guest load modules that are in its image, those that are not there yet.

        Raises:
            Unsupported: its kernel has not got one; the message names the option.
        """
        self._require_modules(*names)
        self.agent.modprobe(*names)

    def set_group_type(self, id: str, type: str) -> None:
        """Have the guest put the group of a device into another kind of domain: "identity", "DMA" or "DMA-FQ".

        No driver may hold a device of it then (Linux, Documentation/ABI/testing/sysfs-kernel-iommu_groups).
        """
        group = next(group for group in self.agent.iommu_groups() if self.address(id) in group.devices)
        self.agent.write_file(f"/sys/kernel/iommu_groups/{group.number}/type", type)

    def log_mark(self) -> int:
        """Sequence number of the last record in the guest's kernel log."""
        return self.agent.kernel_log_mark()

    def interrupt_faults(self, *, since: int) -> tuple[InterruptFault, ...]:
        """Interrupts that the guest's log reports as refused, from the log's mark on."""
        return parse_interrupt_faults(record.text for record in self.agent.kernel_log(since))

    def unexplained_faults(self) -> tuple[ReportedFault, ...]:
        """Faults on the console of requesters whose faults no case has asked for; also after the machine has ended."""
        reported = parse_faults(self.vmm.console.text.splitlines())
        return tuple(fault for fault in reported if fault.requester not in self._asked)

    def faults(self, requester: int, *, since: int, wait: bool) -> tuple[ReportedFault, ...]:
        """DMA faults that the guest's log reports.

        Args:
            requester: whose.
            since: the log's mark, from which on they count.
            wait: there must be one: look until there is, for up to three seconds; that requester's faults have a cause
                then. Else look once: the agent lets the guest take the interrupts of what was done before.
        """
        if wait:
            self._asked.add(requester)
        end = time.monotonic() + _FAULT_SECONDS
        while True:
            reported = parse_faults(record.text for record in self.agent.kernel_log(since))
            faults = tuple(fault for fault in reported if fault.requester == requester)
            if faults or not wait or time.monotonic() > end:
                return faults
            time.sleep(0.02)
