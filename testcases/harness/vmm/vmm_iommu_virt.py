"""The SMMUv3 and the RISC-V IOMMU of real `virt` machines, driven as their drivers would."""

from __future__ import annotations

from dataclasses import replace

from vmm_bench import REQUESTER, Bench
from vmm_iommu import DOMAIN, FAULTS, HOST_TABLES, QUEUE_BITS, SPACE, WINDOW, CommandQueue, Mapper, Stages

from harness.model.access import FaultRecord
from harness.model.radix import RadixTable
from harness.model.riscv import (
    RiscvIommuCause,
    RiscvIommuEngine,
    RiscvIommuFaultRecord,
    RiscvIommuRegisters,
    RiscvIommuTables,
)
from harness.model.riscv.commands import encode_command
from harness.model.riscv.faults import RECORD_SIZE
from harness.model.riscv.register_fields import CQCSR, FQCSR
from harness.model.riscv.register_fields import QUEUE_BASE as RISCV_QUEUE_BASE
from harness.model.riscv.tables import new_page_table
from harness.model.smmuv3 import (
    Smmuv3ContextTable,
    Smmuv3Engine,
    Smmuv3Event,
    Smmuv3Opcode,
    Smmuv3Registers,
    Smmuv3Tables,
    Stage1Format,
    Stage2Format,
)
from harness.model.smmuv3.commands import command_bits
from harness.model.smmuv3.events import EVENT_SIZE
from harness.model.smmuv3.registers import CR0, QUEUE_BASE

__all__ = ["RiscvRig", "Smmuv3Rig"]


class Smmuv3Rig:
    """SMMUv3, stage 1, stage 2, or both."""

    window = WINDOW
    _CR0, _STRTAB_BASE, _STRTAB_BASE_CFG = 0x20, 0x80, 0x88
    _CMDQ_BASE, _CMDQ_PROD, _CMDQ_CONS, _EVENTQ_BASE, _EVENTQ_CONS = 0x90, 0x98, 0x9C, 0xA0, 0x100AC

    def __init__(self, bench: Bench, stages: Stages) -> None:
        self.bench = bench
        self._stages = stages
        self._vmid = DOMAIN if stages.second else 0
        self._queue = CommandQueue(bench, 16)
        for register, base in ((self._CMDQ_BASE, self._queue.base), (self._EVENTQ_BASE, bench.place(FAULTS))):
            bench.write(register, QUEUE_BASE.encode({"ADDR": base, "LOG2SIZE": QUEUE_BITS}), 8)

    def point_at_tables(self) -> Mapper:
        """See `Rig`."""
        bench, stages = self.bench, self._stages
        tables = Smmuv3Tables(bench.memory, bench.place(HOST_TABLES))
        guest = stages.guest_pages(bench, tables.pages)
        contexts = first = second = None
        if stages.first:
            upper = Stage1Format()
            first = RadixTable(guest, upper, upper.levels)
            contexts = Smmuv3ContextTable(guest)
            contexts.describe(0, first, asid=SPACE)
        if stages.second:
            lower = Stage2Format(input_bits=42)
            second = RadixTable(tables.pages, lower, lower.levels)
        tables.attach(REQUESTER, contexts, second, vmid=self._vmid)
        bench.write(self._CR0, 0, 4)
        bench.write(self._STRTAB_BASE, tables.strtab_base, 8)
        bench.write(self._STRTAB_BASE_CFG, tables.strtab_base_cfg, 4)
        bench.write(self._CR0, CR0.encode({"SMMUEN": 1, "EVENTQEN": 1, "CMDQEN": 1}), 4)
        # RANGE 31 is CMD_CFGI_ALL (IHI 0070 4.3.6).
        self._submit(Smmuv3Opcode.CMD_CFGI_STE_RANGE, RANGE=31)
        self._submit(Smmuv3Opcode.CMD_TLBI_NSNH_ALL)
        self._submit(Smmuv3Opcode.CMD_SYNC)
        return stages.mapper(bench, first, second)

    def engine(self) -> Smmuv3Engine:
        """See `Rig`."""
        return Smmuv3Engine(Smmuv3Registers.read(self.bench.read), self.bench.memory)

    def invalidate(self, iova: int) -> None:
        """See `Rig`."""
        if self._stages.tried == 1:
            page = {"ASID": SPACE, "ADDRESS": iova >> 12, "LEAF": 1}
            self._submit(Smmuv3Opcode.CMD_TLBI_NH_VA, VMID=self._vmid, **page)
        else:
            page = {"ADDRESS": self._stages.second_stage_input(iova) >> 12, "LEAF": 1}
            self._submit(Smmuv3Opcode.CMD_TLBI_S2_IPA, VMID=self._vmid, **page)
            if self._stages.first:
                # What was made of both stages goes by stage 1 only (IHI 0070 4.4.3.1).
                self._submit(Smmuv3Opcode.CMD_TLBI_NH_ALL, VMID=self._vmid)
        self._submit(Smmuv3Opcode.CMD_SYNC)

    def take_records(self) -> list[FaultRecord]:
        """See `Rig`."""
        queue = Smmuv3Registers.read(self.bench.read).event_queue
        records: list[FaultRecord] = []
        for number in range(queue.consumer, queue.consumer + queue.used):
            raw = self.bench.memory.read(queue.base + number % queue.size * EVENT_SIZE, EVENT_SIZE)
            record = Smmuv3Event.decode(raw)
            # QEMU 11.1 writes bits 11:0 of the IPA too, which the record has no field for (IHI 0070 7.3.13 to 7.3.16).
            kept = raw[:24] + (int.from_bytes(raw[24:], "little") & ~0xFFF).to_bytes(8, "little")
            assert record.encode().hex() == kept.hex()
            records.append(record)
        self.bench.write(self._EVENTQ_CONS, queue.producer, 4)
        return records

    def agreed(self, record: FaultRecord) -> FaultRecord:
        """See `Rig`: everything."""
        return record

    def _submit(self, opcode: Smmuv3Opcode, **fields: int) -> None:
        command = command_bits(opcode, **fields)
        self._queue.put(self.engine(), command, command.to_bytes(self._queue.entry_size, "little"))
        producer = self._queue.written % (2 * self._queue.count)  # with the wrap flag on top
        self.bench.write(self._CMDQ_PROD, producer, 4)
        self.bench.wait(opcode.name, lambda: self.bench.read(self._CMDQ_CONS, 4) == producer)


class RiscvRig:
    """The RISC-V IOMMU, first stage, second stage, or both."""

    window = WINDOW
    _DDTP, _CQB, _CQH, _CQT, _FQB, _FQH, _FQT, _CQCSR, _FQCSR = 0x10, 0x18, 0x20, 0x24, 0x28, 0x30, 0x34, 0x48, 0x4C

    def __init__(self, bench: Bench, stages: Stages) -> None:
        self.bench = bench
        self._stages = stages
        self._queue = CommandQueue(bench, 16)
        for register, base in ((self._CQB, self._queue.base), (self._FQB, bench.place(FAULTS))):
            value = RISCV_QUEUE_BASE.encode({"PPN": base >> 12, "LOG2SZ-1": QUEUE_BITS - 1})
            bench.write(register, value, 8)
        bench.write(self._CQCSR, CQCSR.encode({"cqen": 1}), 4)
        bench.write(self._FQCSR, FQCSR.encode({"fqen": 1}), 4)
        bench.wait("cqon", lambda: bool(CQCSR["cqon"].get(bench.read(self._CQCSR, 4))))
        bench.wait("fqon", lambda: bool(FQCSR["fqon"].get(bench.read(self._FQCSR, 4))))

    def point_at_tables(self) -> Mapper:
        """See `Rig`."""
        bench, stages = self.bench, self._stages
        extended = RiscvIommuRegisters.read(bench.read).extended_contexts
        tables = RiscvIommuTables(bench.memory, bench.place(HOST_TABLES), extended=extended)
        guest = stages.guest_pages(bench, tables.pages)
        first = new_page_table(guest, "Sv48") if stages.first else None
        second = tables.new_page_table("Sv48x4") if stages.second else None
        pscid, gscid = SPACE if stages.first else 0, DOMAIN if stages.second else 0
        tables.attach(REQUESTER, first=first, second=second, pscid=pscid, gscid=gscid)
        bench.write(self._DDTP, 0, 8)
        bench.write(self._DDTP, tables.ddtp, 8)
        for name in ("IODIR.INVAL_DDT", "IOTINVAL.VMA", "IOTINVAL.GVMA", "IOFENCE.C"):
            self._submit(name)
        return stages.mapper(bench, first, second)

    def engine(self) -> RiscvIommuEngine:
        """See `Rig`."""
        return RiscvIommuEngine(RiscvIommuRegisters.read(self.bench.read), self.bench.memory)

    def invalidate(self, iova: int) -> None:
        """See `Rig`."""
        if self._stages.tried == 1:
            guest = {"GV": 1, "GSCID": DOMAIN} if self._stages.second else {}
            self._submit("IOTINVAL.VMA", AV=1, ADDR=iova >> 12, PSCV=1, PSCID=SPACE, **guest)
            self._submit("IOFENCE.C")
            return
        # What QEMU 11.1 has made of two stages it does not find by its guest physical address: see
        # `test_an_invalidation_by_guest_address_that_leaves_two_stage_translations_is_found_out`.
        self.invalidate_second_stage(iova, by_address=not self._stages.first)

    def invalidate_second_stage(self, iova: int, *, by_address: bool) -> None:
        """Tell of the second-stage page that `iova` uses, or of all of that guest."""
        page = {"AV": 1, "ADDR": self._stages.second_stage_input(iova) >> 12} if by_address else {}
        self._submit("IOTINVAL.GVMA", GV=1, GSCID=DOMAIN, **page)
        self._submit("IOFENCE.C")

    def take_records(self) -> list[FaultRecord]:
        """See `Rig`."""
        head, tail = self.bench.read(self._FQH, 4), self.bench.read(self._FQT, 4)
        records: list[FaultRecord] = []
        while head != tail:
            raw = self.bench.memory.read(self.bench.place(FAULTS) + head * RECORD_SIZE, RECORD_SIZE)
            record = RiscvIommuFaultRecord.decode(raw)
            assert record.encode().hex() == raw.hex()
            records.append(record)
            head = (head + 1) % (1 << QUEUE_BITS)
        self.bench.write(self._FQH, tail, 4)
        return records

    def agreed(self, record: FaultRecord) -> FaultRecord:
        """See `Rig`."""
        assert isinstance(record, RiscvIommuFaultRecord)
        if record.cause in _GUEST_PAGE_FAULTS:
            return record
        # QEMU 11.1 has the IOVA in iotval2, which is 0 where the fault is no guest page fault (RISC-V IOMMU 4.2).
        return replace(record, iotval2=0)

    def _submit(self, name: str, **fields: int) -> None:
        command = encode_command(name, big_endian=False, **fields)
        self._queue.put(self.engine(), command, command)
        tail = self._queue.written % self._queue.count
        self.bench.write(self._CQT, tail, 4)
        self.bench.wait(name, lambda: self.bench.read(self._CQH, 4) == tail)


_GUEST_PAGE_FAULTS = {cause for cause in RiscvIommuCause if cause.name.endswith("_GUEST_PAGE_FAULT")}
