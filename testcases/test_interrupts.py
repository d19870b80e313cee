"""Interrupts that a device forges: a DMA write to the range of MSI messages, which must not reach a processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from machines import spec
from rogue import canary

from harness.checks.interrupts import check_arrived, check_interrupt_outcome, check_interrupt_reported
from harness.checks.judge import judge
from harness.checks.work import check_count, check_refused
from harness.errors import HarnessError
from harness.live.interrupts import Arrivals, Sent, messages
from harness.live.machine import LiveMachine
from harness.live.user_space import VfioBackEnd, give_to_vfio
from harness.model.access import Fault
from harness.model.engine import Interrupt
from harness.model.topology import VTD_REGISTERS
from harness.model.vtd.interrupts.entries import IRTA_REG, REMAPPED_ENTRY
from harness.model.vtd.interrupts.tables import remappable_message
from harness.model.x86_message import DeliveryMode, X86Message
from harness.observations import Message
from harness.plugin import Lease
from harness.report.record import Finding
from harness.spec import Iommu, IommuKind
from harness.vmm.qemu.qtest import Width

_VECTOR = 0x9D
"""A vector that the guest's kernel has given to nobody: it gives them out from below."""

_IOVA = 0x40000000
_FORGED = X86Message(destination=0, vector=_VECTOR)
_DEVICES = ("edu,iommu=on,id=rogue", "virtio-blk,iommu=on,id=victim")
_IRTA = VTD_REGISTERS + 0xB8  # VT-d 11.4.10
_LOOKED_AT = 1024
_AT_WORK = ("management NIC", "agent port")  # functions that have something to say at any time
_IO_APIC = 0xFF00  # its source id: QEMU, include/hw/i386/x86-iommu.h and hw/i386/acpi-build.c, the DMAR table


class _Forger:
    """A rogue device whose driver, by VFIO, has asked for one MSI interrupt and has mapped one page for it to read.

    Attributes:
        live: the machine.
        own: the message that the device is told to send.
    """

    def __init__(self, live: LiveMachine) -> None:
        self.live = live
        self._page = live.allocate(1, canary())
        self._address = live.address("rogue")
        give_to_vfio(live, "rogue")
        live.agent.vfio_map(self._address, self._page, _IOVA, "r")
        live.agent.vfio_msi(self._address)
        (self.own,) = messages(live.config_space(live.function("rogue").address))
        self._others = self._arriving(*_AT_WORK) | {self._fault_event()}

    def send(self, message: Sent, *, blocked: bool) -> None:
        """Have the device write a message, and judge what comes of it."""
        live = self.live
        write, outcome, walk = live.expect_interrupt("rogue", message.address, message.data)
        judge(check_interrupt_outcome(write, outcome, walk, blocked=blocked))
        live.agent.page_write(self._page, 0, message.data.to_bytes(4, "little"))
        live.load("rogue", _IOVA, self._page.frames[0], 4)
        mark = live.log_mark()
        with Arrivals(live.vmm) as arrivals:
            live.rogue("rogue").dma_from_device(0, message.address, 4)
            seen = [message for message in arrivals.seen() if message not in self._others]
        judge(check_arrived(write, outcome, seen, walk))
        if isinstance(outcome, Fault):
            judge(check_interrupt_reported(write, outcome.code, live.interrupt_faults(since=mark)))

    def _arriving(self, *ids: str) -> frozenset[Message]:
        """What arrives when functions send their messages."""
        found = set()
        for id in ids:
            for message in messages(self.live.config_space(self.live.function(id).address)):
                _, outcome, _ = self.live.expect_interrupt(id, message.address, message.data)
                if isinstance(outcome, Interrupt):
                    found.add(Message.sent(outcome.address, outcome.data))
        return frozenset(found)

    def _fault_event(self) -> Message:
        """What the IOMMU itself sends when it has recorded a fault: FEDATA_REG, FEADDR_REG (VT-d 11.4.7)."""
        data, address = (self.live.vmm.qtest.read_value(VTD_REGISTERS + at, Width.LONG) for at in (0x3C, 0x40))
        return Message.sent(address, data)

    def count(self) -> int:
        """Interrupts that its driver has had since the last call."""
        return self.live.agent.vfio_msi_count(self._address, 0.5)


def _compatibility_format(forger: _Forger) -> Sent:
    """A message in compatibility format, as any device may write it where nothing remaps: VT-d 5.1.2.1."""
    return Sent(*_FORGED.encode())


def _compatibility_nmi(forger: _Forger) -> Sent:
    """The same, for an NMI."""
    return Sent(*X86Message(destination=0, vector=0, delivery_mode=DeliveryMode.NMI).encode())


def _unused_entry(forger: _Forger) -> Sent:
    """An entry that is not present."""
    return Sent(*remappable_message(_entry(forger.live, lambda entry: not REMAPPED_ENTRY["P"].get(entry))))


def _beyond_the_table(forger: _Forger) -> Sent:
    """An index that the table has no entry for: handle and subhandle together reach further."""
    return Sent(*remappable_message(0xFFFF, subhandle=1))


def _other_device(forger: _Forger) -> Sent:
    """The message of another device, which its driver waits for."""
    return messages(forger.live.config_space(forger.live.function("victim").address))[0]


def _io_apic(forger: _Forger) -> Sent:
    """An entry of the I/O APIC."""
    return Sent(*remappable_message(_entry(forger.live, lambda entry: REMAPPED_ENTRY["SID"].get(entry) == _IO_APIC)))


def _reserved_data(forger: _Forger) -> Sent:
    """Its own message, with bits in its data that are reserved."""
    return Sent(forger.own.address, forger.own.data | 0x12340000)


def _entry(live: LiveMachine, wanted: Callable[[int], bool]) -> int:
    """Index of the first entry of the interrupt remapping table that is as wanted."""
    table = IRTA_REG["IRTA"].get(live.vmm.qtest.read_value(_IRTA, Width.QUAD))
    data = live.vmm.memory.read(table, 16 * _LOOKED_AT)
    for index in range(_LOOKED_AT):
        if wanted(int.from_bytes(data[16 * index : 16 * index + 16], "little")):
            return index
    raise HarnessError(f"none of the first {_LOOKED_AT} entries of the guest's interrupt remapping table is as wanted")


_FORGERIES: Mapping[str, Callable[[_Forger], Sent]] = {
    "compatibility-format": _compatibility_format,
    "compatibility-nmi": _compatibility_nmi,
    "unused-entry": _unused_entry,
    "beyond-the-table": _beyond_the_table,
    "other-device": _other_device,
    "io-apic": _io_apic,
    "reserved-data": _reserved_data,
}


@pytest.mark.claim("IV-2", "QD-6")
@pytest.mark.machine(iommu="intel", devices=_DEVICES)
@pytest.mark.parametrize("forgery", _FORGERIES)
def test_a_forged_interrupt_is_blocked(machine: LiveMachine, forgery: str) -> None:
    """A device writes an interrupt message that is not its own: no processor hears of it, and the guest reports it.

    The control: its own message, written in the same way, arrives, and its driver is interrupted once.
    """
    forger = _Forger(machine)
    forger.send(forger.own, blocked=False)
    judge(check_count("interrupts of the device's own message", 1, forger.count()))
    forger.send(_FORGERIES[forgery](forger), blocked=True)


@pytest.mark.claim("IV-2", "QD-6")
@pytest.mark.machine(iommu="intel")
@pytest.mark.parametrize("forgery", ["compatibility-format", "unused-entry", "other-device"])
def test_a_forged_interrupt_is_blocked_in_x2apic_mode(lease: Lease, iommu: IommuKind, forgery: str) -> None:
    """With Extended Interrupt Mode, destinations of 32 bits, a forged message reaches nobody; its own arrives."""
    live = lease(spec(Iommu(kind=iommu, extended_interrupts=True), *_DEVICES))
    irta = live.vmm.qtest.read_value(_IRTA, Width.QUAD)
    judge(check_count("Extended Interrupt Mode in IRTA_REG", 1, IRTA_REG["EIME"].get(irta)))
    forger = _Forger(live)
    forger.send(forger.own, blocked=False)
    judge(check_count("interrupts of the device's own message", 1, forger.count()))
    forger.send(_FORGERIES[forgery](forger), blocked=True)


@pytest.mark.claim("IV-2", "QD-6")
def test_without_interrupt_remapping_a_forged_interrupt_arrives(lease: Lease, iommu: IommuKind) -> None:
    """Where interrupts are not remapped a device interrupts a processor with any vector, IOMMU or not."""
    remapping = None if iommu is IommuKind.VIRTIO else False
    live = lease(spec(Iommu(kind=iommu, interrupt_remapping=remapping), *_DEVICES))
    forger = _Forger(live)
    mark = live.log_mark()
    forger.send(_compatibility_format(forger), blocked=False)
    log = (record.text for record in live.agent.kernel_log(mark))
    said = [text for text in log if "No irq handler" in text and f"0.{_VECTOR}" in text]
    if not said:
        subject = f"what the guest says of vector {_VECTOR}"
        judge([Finding(subject=subject, expected="that nobody handles it", seen="nothing")])


@pytest.mark.claim("IV-3", "QD-6")
def test_without_interrupt_remapping_vfio_refuses_devices(lease: Lease, iommu: IommuKind) -> None:
    """Where interrupts are not remapped VFIO refuses a device, unless allow_unsafe_interrupts is set."""
    remapping = None if iommu is IommuKind.VIRTIO else False
    live = lease(spec(Iommu(kind=iommu, interrupt_remapping=remapping), *_DEVICES))
    address = live.address("rogue")
    give_to_vfio(live, "rogue")  # sets allow_unsafe_interrupts
    live.agent.vfio_close(address)
    live.agent.write_file(VfioBackEnd.TYPE1.unsafe_interrupts, "N")
    judge(check_refused("a device without interrupt remapping", "EPERM", live.agent.vfio_open, address))


@pytest.mark.claim("QD-6")
@pytest.mark.machine(iommu="intel", devices=["virtio-blk,iommu=on", "virtio-net,iommu=on"])
def test_every_message_of_a_driver_is_its_devices_alone(machine: LiveMachine) -> None:
    """The entry that each message of a driver leads to names its device, and no other: what the kernel can do is done.

    That the hardware heeds it is another case's to show.
    """
    ids = ["virtio-blk0", "virtio-net0", "management NIC", "agent port"]
    for id in ids:
        for message in messages(machine.config_space(machine.function(id).address)):
            for sender in ids:
                write, outcome, walk = machine.expect_interrupt(sender, message.address, message.data)
                judge(check_interrupt_outcome(write, outcome, walk, blocked=sender != id))
