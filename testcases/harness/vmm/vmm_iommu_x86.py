"""VT-d and AMD-Vi units of real machines, driven as their drivers would."""

from __future__ import annotations

from dataclasses import replace

from vmm_bench import REQUESTER, Bench
from vmm_iommu import DOMAIN, FAULTS, HOST_TABLES, QUEUE_BITS, WINDOW, CommandQueue, Mapper

from harness.model.access import FaultRecord
from harness.model.amdvi import (
    AmdviEngine,
    AmdviEvent,
    AmdviEventCode,
    AmdviOpcode,
    AmdviRegisters,
    AmdviTables,
    make_command,
    read_events,
)
from harness.model.amdvi.register_fields import BUFFER_BASE, CONTROL
from harness.model.radix import RadixTable
from harness.model.vtd import (
    FirstStageFormat,
    SecondStageFormat,
    VtdEngine,
    VtdFaultReason,
    VtdFaultRecord,
    VtdRegisters,
    VtdScalableTables,
    VtdTables,
)
from harness.model.vtd.faults import FRCD_REG
from harness.model.vtd.invalidation.commands import IQA_REG
from harness.model.vtd.invalidation.descriptors import (
    DescriptorType,
    Granularity,
    PasidCacheGranularity,
    PasidIotlbGranularity,
    build_descriptor,
)
from harness.model.vtd.register_layouts import CAP_REG, GSTS_REG, RTADDR_REG, TranslationTableMode

__all__ = ["AmdviRig", "VtdRig"]


class VtdRig:
    """VT-d, with 128-bit descriptors in legacy mode and 256-bit ones in scalable mode.

    Args:
        bench: the machine.
        scalable: translation table mode.
        first_stage: requests go through first-stage tables.
    """

    _GCMD, _GSTS, _RTADDR, _IQH, _IQT, _IQA = 0x18, 0x1C, 0x20, 0x80, 0x88, 0x90

    def __init__(self, bench: Bench, *, scalable: bool = False, first_stage: bool = False) -> None:
        self.bench = bench
        self._scalable = scalable
        self._first_stage = first_stage
        # Below what QEMU 11.1 takes for the end of first-stage addresses: see
        # `test_a_first_stage_that_is_as_wide_as_the_second_stage_s_aw_is_found_out`.
        self.window = 0x1240_0000 if first_stage else WINDOW
        entry_size = 32 if scalable else 16
        self._queue = CommandQueue(bench, entry_size, 4096 // entry_size)
        bench.write(self._IQT, 0, 8)
        bench.write(self._IQA, IQA_REG.encode({"IQA": self._queue.base, "DW": int(scalable)}), 8)

    def point_at_tables(self, *, preset_flags: bool = True) -> Mapper:
        """See `Rig`.

        Args:
            preset_flags: accessed and dirty flags of first-stage tables are set, so that hardware has none to set.
        """
        memory, base = self.bench.memory, self.bench.place(HOST_TABLES)
        mode, root, table = TranslationTableMode.LEGACY, 0, None
        if self._scalable:
            mode = TranslationTableMode.SCALABLE
            scalable = VtdScalableTables(memory, base)
            scalable.attach(REQUESTER)
            root = scalable.root
            if self._first_stage:
                table = RadixTable(scalable.pages, FirstStageFormat(preset_flags=preset_flags), 4, sign_extended=True)
                walk = {} if preset_flags else {"PWSNP": 1}
                scalable.attach_pasid(REQUESTER, DOMAIN, first_stage=table, overrides=walk)
            else:
                table = RadixTable(scalable.pages, SecondStageFormat(), 4)
                scalable.attach_pasid(REQUESTER, DOMAIN, second_stage=table)
        else:
            tables = VtdTables(memory, base)
            root = tables.root
            table = tables.attach(REQUESTER, DOMAIN, 4)
        self._command("QIES")
        self.bench.write(self._RTADDR, RTADDR_REG.encode({"RTA": root, "TTM": mode}), 8)
        self._command("QIES", "RTPS")
        self._submit(DescriptorType.CONTEXT_CACHE, G=Granularity.GLOBAL)
        if self._scalable:
            self._submit(DescriptorType.PASID_CACHE, G=PasidCacheGranularity.GLOBAL)
        self._submit(DescriptorType.IOTLB, G=Granularity.GLOBAL)
        self._command("QIES", "TES")
        return Mapper(table)

    def registers(self) -> VtdRegisters:
        """As they are now."""
        return VtdRegisters.read(self.bench.read, host_address_width=48)

    def engine(self) -> VtdEngine:
        """See `Rig`."""
        return VtdEngine(self.registers(), self.bench.memory)

    def invalidate(self, iova: int) -> None:
        """See `Rig`."""
        page = {"DID": DOMAIN, "ADDR": iova >> 12}
        if self._first_stage:
            self._submit(DescriptorType.PASID_IOTLB, G=PasidIotlbGranularity.PAGE, **page)
        else:
            self._submit(DescriptorType.IOTLB, G=Granularity.SELECTIVE, **page)

    def take_records(self) -> list[FaultRecord]:
        """See `Rig`."""
        registers = self.registers()
        place = 16 * CAP_REG["FRO"].get(registers.cap)
        records: list[FaultRecord] = []
        for number, bits in enumerate(registers.frcd):
            record = VtdFaultRecord.decode(bits)
            if record is None:
                continue
            # QEMU 10.0 leaves ones in PV, which is reserved on hardware without PASIDs (VT-d 11.4.7.6).
            wrong = FRCD_REG["PV"].mask if record.pasid is None else 0
            assert f"{record.encode():#x}" == f"{bits & ~wrong:#x}"
            records.append(record)
            self.bench.write(place + 16 * number + 8, FRCD_REG["F"].mask >> 64, 8)
        return records

    def agreed(self, record: FaultRecord) -> FaultRecord:
        """See `Rig`."""
        assert isinstance(record, VtdFaultRecord)
        if not self._scalable or self._first_stage:
            return record
        # QEMU 11.1 has the reasons of legacy mode, 5h and 6h, where scalable mode has 79h, 85h and 86h (VT-d 7.1.3,
        # SSS.2, SGN.6, SGN.7).
        assert record.reason in _SECOND_STAGE_REFUSALS
        return replace(record, reason=0)

    def _command(self, *fields: str) -> None:
        """Write GCMD_REG, and wait until GSTS_REG says that it is done (VT-d 11.4.4.1)."""
        bits = GSTS_REG.encode(dict.fromkeys(fields, 1))
        self.bench.write(self._GCMD, bits, 4)
        self.bench.wait(" ".join(fields), lambda: self.bench.read(self._GSTS, 4) & bits == bits)

    def _submit(self, kind: DescriptorType, **values: int) -> None:
        data = build_descriptor(kind, values).to_bytes(32, "little")[: self._queue.entry_size]
        self._queue.put(self.engine(), data, data)
        tail = self._queue.written % self._queue.count * self._queue.entry_size
        self.bench.write(self._IQT, tail, 8)
        self.bench.wait(kind.name, lambda: self.bench.read(self._IQH, 8) == tail)


_SECOND_STAGE_REFUSALS = {
    VtdFaultReason.READ_NOT_PERMITTED,
    VtdFaultReason.WRITE_NOT_PERMITTED,
    VtdFaultReason.SECOND_STAGE_NOT_PRESENT,
    VtdFaultReason.SCALABLE_READ_NOT_PERMITTED,
    VtdFaultReason.SCALABLE_WRITE_NOT_PERMITTED,
}


class AmdviRig:
    """AMD-Vi host tables."""

    window = WINDOW
    _DEVICE_TABLE, _COMMAND_BASE, _EVENT_BASE, _CONTROL = 0x00, 0x08, 0x10, 0x18
    _COMMAND_HEAD, _COMMAND_TAIL, _EVENT_HEAD = 0x2000, 0x2008, 0x2010

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._queue = CommandQueue(bench, 16)
        for register, base in ((self._COMMAND_BASE, self._queue.base), (self._EVENT_BASE, bench.place(FAULTS))):
            bench.write(register, BUFFER_BASE.encode({"Base": base, "Len": QUEUE_BITS}), 8)

    def point_at_tables(self) -> Mapper:
        """See `Rig`."""
        tables = AmdviTables(self.bench.memory, self.bench.place(HOST_TABLES), 2)
        table = tables.attach(REQUESTER, DOMAIN, 4)
        self.bench.write(self._DEVICE_TABLE, tables.device_table_base, 8)
        self.bench.write(self._CONTROL, CONTROL.encode({"IommuEn": 1, "EventLogEn": 1, "CmdBufEn": 1}), 8)
        self._submit(AmdviOpcode.INVALIDATE_DEVTAB_ENTRY, DeviceID=REQUESTER)
        self._submit(AmdviOpcode.INVALIDATE_IOMMU_ALL)
        return Mapper(table)

    def engine(self) -> AmdviEngine:
        """See `Rig`."""
        return AmdviEngine(AmdviRegisters.read(self.bench.read), self.bench.memory)

    def invalidate(self, iova: int) -> None:
        """See `Rig`."""
        self._submit(AmdviOpcode.INVALIDATE_IOMMU_PAGES, DomainID=DOMAIN, Address=iova)

    def take_records(self) -> list[FaultRecord]:
        """See `Rig`."""
        registers = AmdviRegisters.read(self.bench.read)
        self.bench.write(self._EVENT_HEAD, registers.event_log_tail, 8)
        return list(read_events(registers, self.bench.memory))

    def agreed(self, record: FaultRecord) -> FaultRecord:
        """See `Rig`.

        QEMU 11.1 sets I, though it was no interrupt, leaves out DomainID, PR, RW and PE, writes 0 for the address, and
        puts the rights that were asked for into GN and NX (AMD-Vi 2.5.3; hw/i386/amd_iommu.c, `amdvi_page_fault`).
        """
        assert isinstance(record, AmdviEvent)
        code = record.code
        assert isinstance(code, AmdviEventCode)
        return AmdviEvent.make(code, {"DeviceID": record["DeviceID"]})

    def _submit(self, opcode: AmdviOpcode, **fields: int) -> None:
        command = make_command(opcode, fields)
        self._queue.put(self.engine(), command, command.to_bytes(self._queue.entry_size, "little"))
        tail = self._queue.written % self._queue.count * self._queue.entry_size
        self.bench.write(self._COMMAND_TAIL, tail, 8)
        self.bench.wait(opcode.name, lambda: self.bench.read(self._COMMAND_HEAD, 8) == tail)
