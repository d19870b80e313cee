"""The reference model of a running machine's IOMMU, fed with what that machine has: registers, tables, requests.

VT-d and AMD-Vi keep their tables in guest memory: registers and tables are read over qtest each time. A virtio-iommu
keeps what it was asked for in itself: its requests are taken from QEMU's trace log, its configuration from its own
configuration space.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from harness.errors import SpecError
from harness.live.requests import RequestReplay
from harness.model.access import Access
from harness.model.access import Mapping as MappedRange
from harness.model.amdvi.engine import AmdviEngine
from harness.model.engine import Interrupt, MsiOutcome, MsiWrite
from harness.model.explanation import Explanation, Step, step_lines
from harness.model.memory import CallableMemory, Memory, split_ram
from harness.model.topology import VTD_REGISTERS, Topology
from harness.model.topology import topology as complete_topology
from harness.model.virtio_iommu.config import BYPASS_OFFSET, Features, VirtioIommuConfig
from harness.model.virtio_iommu.engine import VirtioIommuEngine
from harness.model.virtio_iommu.probe import RegionKind, ReservedRegion
from harness.model.vtd.engine import VtdEngine
from harness.model.vtd.register_layouts import ECAP_REG
from harness.model.vtd.registers import VtdRegisters
from harness.spec import IommuKind, Machine
from harness.state.write import registers_text, virtio_iommu_text
from harness.vmm.qemu.amdvi import read_registers
from harness.vmm.qemu.command import IOMMU
from harness.vmm.qemu.growth import memory_modules
from harness.vmm.qemu.machine import QemuMachine
from harness.vmm.qemu.pci import PciFunction
from harness.vmm.qemu.qmp import QmpError
from harness.vmm.qemu.qtest import Qtest, Width
from harness.vmm.qemu.trace import TraceEvent
from harness.vmm.qemu.virtio import VirtioFunction

__all__ = ["LiveEngine", "endpoints", "live_engine"]


class LiveEngine(Protocol):
    """The model of one running machine's IOMMU."""

    def refresh(self) -> None:
        """Take over what has changed since the last time."""

    def explain(self, access: Access) -> Explanation:
        """The walk of one access, with its outcome."""

    def iter_mappings(self, requester: int) -> Iterator[MappedRange]:
        """What a requester's tables map now."""

    def structures(self, access: Access) -> Mapping[str, int]:
        """Guest physical address of all that the IOMMU itself has to read from memory for an access, by its name."""

    def interrupt(self, write: MsiWrite) -> tuple[MsiOutcome, str]:
        """What becomes of an interrupt message, and how that came about, for a person.

        Raises:
            SpecError: the write is not to an interrupt address.
        """

    def state(self, memory_file: str, devices: Mapping[str, int], comment: str) -> str:
        """All that it was made of but memory, as the text of a state file.

        Args:
            memory_file: an ELF core of the machine's memory, beside the state file.
            devices: requester ids by name.
            comment: a line for whoever reads the file.
        """


def live_engine(vmm: QemuMachine, topology: Topology, iommu: PciFunction | None, since: float = 0.0) -> LiveEngine:
    """The model for a machine.

    Args:
        vmm: the running machine.
        topology: of that machine, whatever is plugged now.
        iommu: configuration space of the IOMMU's own function, where it has one.
        since: `time.time()` from which on requests to a virtio-iommu count: those of an earlier kernel's driver do not,
            since the next one's begins with a reset of the device (virtio 1.3, 3.1.1).

    Raises:
        SpecError: the machine has no IOMMU.
    """
    match vmm.spec.iommu.kind:
        case IommuKind.INTEL:
            return _LiveTables(vmm, "vtd", VtdEngine, lambda: _vtd_registers(vmm.qtest))
        case IommuKind.AMD:
            assert iommu is not None
            return _LiveTables(vmm, "amdvi", AmdviEngine, lambda: read_registers(iommu))
        case IommuKind.VIRTIO:
            assert iommu is not None
            return _LiveVirtioIommu(vmm, endpoints(topology.machine, topology.bridged), iommu, since)
        case IommuKind.NONE:
            raise SpecError("this machine has no IOMMU, so there is nothing to model")


def endpoints(machine: Machine, bridged: Collection[str] = ()) -> tuple[int, ...]:
    """The requester ids that a virtio-iommu can be told of: all functions behind it, those still to be plugged too.

    Args:
        machine: the spec.
        bridged: as for `harness.model.topology.topology`.
    """
    hotplug = [device.id for device in machine.devices if device.hotplug and device.id not in bridged]
    whole = complete_topology(machine, hotplug, bridged)
    return tuple(dict.fromkeys(function.requester for function in whole.functions if function.covered))


class _TablesEngine(Protocol):
    """An engine that walks tables in memory, for DMA and for interrupts."""

    def explain(self, access: Access) -> Explanation: ...

    def iter_mappings(self, requester: int) -> Iterator[MappedRange]: ...

    def explain_msi(self, write: MsiWrite) -> tuple[tuple[Step, ...], MsiOutcome]: ...


class _LiveTables:
    """Reads registers again at each refresh, and tables whenever they are walked.

    Args:
        vmm: the running machine.
        kind: of engine, as state files call it.
        make_engine: makes one of registers and memory.
        registers: reads them all.
    """

    _LOW_RAM = 2 << 30  # QEMU, hw/i386/pc_q35.c: RAM below 4 GiB, for machines with 2.75 GiB or more

    def __init__(
        self,
        vmm: QemuMachine,
        kind: str,
        make_engine: Callable[[Any, Memory], _TablesEngine],
        registers: Callable[[], Any],
    ) -> None:
        self._vmm = vmm
        self._kind = kind
        self._make_engine = make_engine
        self._registers = registers
        self.refresh()

    def refresh(self) -> None:
        self._read = self._registers()
        ram = self._vmm.spec.memory_mib << 20
        regions = split_ram(ram, self._LOW_RAM if ram >= 0xB0000000 else ram)
        if self._vmm.spec.room.memory_mib:
            regions += memory_modules(self._vmm.qmp)
        memory = CallableMemory(lambda at, size: self._vmm.qtest.read(at, size), regions)
        self._engine = self._make_engine(self._read, memory)

    def state(self, memory_file: str, devices: Mapping[str, int], comment: str) -> str:
        return registers_text(self._kind, self._read, file=memory_file, format="elf", devices=devices, comment=comment)

    def explain(self, access: Access) -> Explanation:
        return self._engine.explain(access)

    def iter_mappings(self, requester: int) -> Iterator[MappedRange]:
        return self._engine.iter_mappings(requester)

    def structures(self, access: Access) -> Mapping[str, int]:
        return {step.what: step.address for step in self.explain(access).steps if step.address is not None}

    def interrupt(self, write: MsiWrite) -> tuple[MsiOutcome, str]:
        steps, outcome = self._engine.explain_msi(write)
        return outcome, "\n".join(step_lines(steps))


def _vtd_registers(qtest: Qtest) -> VtdRegisters:
    read = VtdRegisters.read(lambda offset, size: qtest.read_value(VTD_REGISTERS + offset, Width(size)))
    if ECAP_REG["FSTS"].get(read.ecap):
        # Linux puts AW into PASID table entries also where there is no second stage and it is reserved (VT-d 9.6). QEMU
        # looks at no reserved bit of them (docs/findings.md, F-23). So that the rest can be judged, the model takes the
        # entry as QEMU does; testcases/test_scalable_mode.py has a case of its own for AW.
        return replace(read, ecap=read.ecap | ECAP_REG["SSTS"].mask)
    return read


class _LiveVirtioIommu:
    """Submits to the model what the driver has submitted to QEMU."""

    def __init__(self, vmm: QemuMachine, endpoints: Iterable[int], iommu: PciFunction, since: float) -> None:
        reserved = _reserved_regions(vmm)
        self._device = _DeviceConfig(VirtioFunction.find(iommu))
        self._engine = VirtioIommuEngine(self._device.config(dict.fromkeys(endpoints, reserved)))
        self._replay = RequestReplay(self._engine, lambda: _after(since, vmm.trace.new()))
        self.refresh()

    def refresh(self) -> None:
        self._engine.write_bypass(self._device.bypass)
        self._replay.catch_up()

    def state(self, memory_file: str, devices: Mapping[str, int], comment: str) -> str:
        requests, bypass = self._replay.submitted, self._engine.bypass
        return virtio_iommu_text(self._engine.config, requests, bypass=bypass, devices=devices, comment=comment)

    def explain(self, access: Access) -> Explanation:
        return self._engine.explain(access)

    def iter_mappings(self, requester: int) -> Iterator[MappedRange]:
        return self._engine.iter_mappings(requester)

    def structures(self, access: Access) -> Mapping[str, int]:
        """The queue of requests, by which it is told what is mapped (virtio 1.3, 5.13.2)."""
        return {"descriptors of requestq": self._device.device.queue(0).descriptors}

    def interrupt(self, write: MsiWrite) -> tuple[MsiOutcome, str]:
        """It remaps none: messages go by it, to the range that it reserves for them (virtio 1.3, 5.13.6.8.1)."""
        return Interrupt(write.address, write.data, remapped=False), "a virtio-iommu remaps no interrupts"


def _after(since: float, events: Iterable[TraceEvent]) -> Iterator[TraceEvent]:
    return (event for event in events if event.time is None or event.time >= since)


@dataclass(frozen=True, slots=True)
class _DeviceConfig:
    """The device-specific configuration of a virtio-iommu (virtio 1.3, 5.13.4), and its feature bits."""

    device: VirtioFunction

    @property
    def bypass(self) -> bool:
        """Field `bypass` of struct virtio_iommu_config (5.13.4)."""
        return bool(self._read(BYPASS_OFFSET, 1)[0])

    def config(self, endpoints: Mapping[int, tuple[ReservedRegion, ...]]) -> VirtioIommuConfig:
        """The configuration, with the features that the driver accepted."""
        return VirtioIommuConfig.decode(
            self._read(0, 40), endpoints, self._features("device"), self._features("driver")
        )

    def _read(self, offset: int, size: int) -> bytes:
        return self.device.function.qtest.read(self.device.base + self.device.layout.device.offset + offset, size)

    def _features(self, side: str) -> Features:
        """The low 32 feature bits, that the device offers or that the driver has accepted."""
        self.device.write(f"{side}_feature_select", 0)
        return Features(self.device.read(f"{side}_feature") & sum(Features))


def _reserved_regions(vmm: QemuMachine) -> tuple[ReservedRegion, ...]:
    """The regions that this machine gives to every endpoint: property `reserved-regions` of the device."""

    def get(name: str) -> Any:
        return vmm.qmp.execute("qom-get", {"path": f"/machine/peripheral/{IOMMU}", "property": name})

    try:
        texts = get("reserved-regions")
    except QmpError:  # before QEMU 9 an array was a length and numbered elements
        texts = [get(f"reserved-regions[{index}]") for index in range(get("len-reserved-regions"))]
    regions = []
    for text in texts:
        start, end, kind = text.split(":")
        regions.append(ReservedRegion(int(start, 16), int(end, 16), RegionKind(int(kind))))
    return tuple(regions)
