"""The software that drives a VT-d unit in programs: registers, invalidation through them or the queue, faults."""

from __future__ import annotations

from random import Random

from harness.conform.memory import QUEUES
from harness.conform.writer import ProgramWriter
from harness.model.vtd.invalidation.by_register import CCMD_REG, IOTLB_REG
from harness.model.vtd.invalidation.descriptors import (
    DescriptorType,
    Granularity,
    PasidCacheGranularity,
    PasidIotlbGranularity,
    build_descriptor,
)
from harness.model.vtd.register_layouts import CAP_REG, GSTS_REG, TranslationTableMode
from harness.model.vtd.registers import VtdRegisters

__all__ = ["STATUS", "Driver"]

_GCMD, _GSTS, _RTADDR, _CCMD, _FSTS, _FECTL = 0x18, 0x1C, 0x20, 0x28, 0x34, 0x38
_PMEN = 0x64
_IQH, _IQT, _IQA, _ICS, _IECTL, _IRTA = 0x80, 0x88, 0x90, 0x9C, 0xA0, 0xB8
_QUEUE_SIZE = 4096
_REGISTER_SPACE = 0x240  # offsets that some build has a register at
_ACCESS_SIZES = (1, 2, 4, 8)
_WIDE = 1 << 11  # IQA_REG.DW
_CLEAR_RECORD = 1 << 63
_SRTP, _SIRTP = GSTS_REG["RTPS"].mask, GSTS_REG["IRTPS"].mask
_TES, _QIES, _IRES = GSTS_REG["TES"].mask, GSTS_REG["QIES"].mask, GSTS_REG["IRES"].mask
_PFO, _IQE = 1 << 0, 1 << 4

_BOTH = 0.0005  # of wait descriptors: builds abort on them, and take long to start again

STATUS = range(QUEUES.start + 0x3_0000, QUEUES.stop)
"""Where wait descriptors write."""


class Driver:
    """Writes the steps that a driver would do.

    Args:
        writer: of the program.
        registers: right after a reset.
        mode: of the root table.
        queued: whether invalidations go through the queue.

    Attributes:
        mode: that the root table is given out for.
        queued: as above.
    """

    def __init__(
        self, writer: ProgramWriter, registers: VtdRegisters, mode: TranslationTableMode, *, queued: bool
    ) -> None:
        self._writer = writer
        self._registers = registers
        self.mode = mode
        self._legacy = mode is TranslationTableMode.LEGACY
        self.queued = queued
        self._width = 16 if self._legacy else 32
        self._tail = 0
        self._enabled = 0
        self._record = 16 * CAP_REG["FRO"].get(registers.cap)
        self._iva = registers.extended.iotlb_registers
        self._largest_mask = registers.max_address_mask or 0
        self._addressed: set[int] = set()  # events whose message has been set

    def turn_on(self, root: int, irta: int | None = None) -> None:
        """Set everything up: queue, tables, translation.

        Args:
            root: physical address of the root table.
            irta: IRTA_REG, where interrupts are remapped as well.
        """
        self._enabled = 0
        self._addressed.clear()
        if self.queued:
            self._tail = 0
            self._writer.write(_IQT, 8, 0)
            self._writer.write(_IQA, 8, QUEUES.start | (0 if self._legacy else _WIDE))
            self.enable(_QIES)
        self.set_root(root)
        if irta is not None:
            self._writer.write(_IRTA, 8, irta)
            self._command(_SIRTP)
            self.invalidate_interrupts()
            self.enable(_IRES)
        self.enable(_TES)
        self._writer.read(_GSTS, 4)

    def set_root(self, root: int) -> None:
        """Use another root table, and drop what was cached of the last one."""
        self._writer.write(_RTADDR, 8, root | self.mode << 10)
        self._command(_SRTP)
        self.invalidate_all()

    def switch(self, *, on: bool) -> None:
        """Turn translation on or off."""
        if on:
            self.enable(_TES)
        else:
            self._enabled &= ~_TES
            self._command(0)

    def enable(self, bits: int) -> None:
        """Set bits of GCMD_REG that stay."""
        self._enabled |= bits
        self._command(0)

    def _command(self, bits: int) -> None:
        self._writer.write(_GCMD, 4, self._enabled | bits)

    # --- invalidation ---

    def invalidate_all(self) -> None:
        """Everything that DMA remapping caches."""
        if not self.queued:
            self._writer.write(_CCMD, 8, CCMD_REG.encode({"ICC": 1, "CIRG": Granularity.GLOBAL}))
            self._writer.write(self._iva + 8, 8, IOTLB_REG.encode({"IVT": 1, "IIRG": Granularity.GLOBAL}))
            return
        self.submit(DescriptorType.CONTEXT_CACHE, G=Granularity.GLOBAL)
        if not self._legacy:
            self.submit(DescriptorType.PASID_CACHE, G=PasidCacheGranularity.GLOBAL)
        self.submit(DescriptorType.IOTLB, G=Granularity.GLOBAL)
        self.ring()

    def invalidate_device(self, random: Random, requester: int, domain: int) -> None:
        """What is cached of the entries of a device, and of its domain; not always as finely as it could be."""
        granularity = random.choice((Granularity.SELECTIVE, Granularity.SELECTIVE, Granularity.DOMAIN))
        mask = random.choice((0, 0, 1, 2, 3))
        if not self.queued:
            fields = {"ICC": 1, "CIRG": granularity, "SID": requester, "DID": domain, "FM": mask}
            self._writer.write(_CCMD, 8, CCMD_REG.encode(fields))
        else:
            self.submit(DescriptorType.CONTEXT_CACHE, G=granularity, SID=requester, DID=domain, FM=mask)
            if not self._legacy:
                kind = random.choice((PasidCacheGranularity.DOMAIN, PasidCacheGranularity.PASID))
                self.submit(DescriptorType.PASID_CACHE, G=kind, DID=domain)
        self.invalidate_domain(domain)

    def invalidate_domain(self, domain: int) -> None:
        """The translations of a domain."""
        if not self.queued:
            fields = {"IVT": 1, "IIRG": Granularity.DOMAIN, "DID": domain}
            self._writer.write(self._iva + 8, 8, IOTLB_REG.encode(fields))
            return
        self.submit(DescriptorType.IOTLB, G=Granularity.DOMAIN, DID=domain)
        self.ring()

    def invalidate_pages(self, domain: int, iova: int, shift: int, *, first_stage: bool, keep_tables: bool) -> None:
        """The translations of the pages of an aligned range of 2^shift bytes."""
        mask = min(shift - 12, self._largest_mask)
        if not self.queued:
            self._writer.write(self._iva, 8, iova & ~0xFFF | keep_tables << 6 | mask)
            fields = {"IVT": 1, "IIRG": Granularity.SELECTIVE, "DID": domain}
            self._writer.write(self._iva + 8, 8, IOTLB_REG.encode(fields))
            return
        fields = {"DID": domain, "ADDR": iova >> 12, "AM": mask, "IH": int(keep_tables)}
        if first_stage:
            self.submit(DescriptorType.PASID_IOTLB, G=PasidIotlbGranularity.PAGE, **fields)
        else:
            self.submit(DescriptorType.IOTLB, G=Granularity.SELECTIVE, **fields)
        self.ring()

    def invalidate_device_tlb(self, random: Random, requester: int, iova: int, shift: int) -> None:
        """What a device has in its TLB of an aligned range of 2^shift bytes; only the queue can do that."""
        # The lowest zero bit of ADDR tells how large the range is (PCIe, address translation services).
        ones = (1 << max(shift - 13, 0)) - 1
        page = iova >> 12 & -(1 << shift - 12) | ones
        self.submit(
            DescriptorType.DEVICE_TLB, SID=requester, ADDR=page, S=int(shift > 12), MIP=random.randrange(1 << 5)
        )

    def invalidate_interrupts(self, index: int | None = None, mask: int = 0) -> None:
        """Interrupt entries from an index on, 2^mask of them; all without one. Only the queue can do that."""
        if not self.queued:
            return
        if index is None:
            self.submit(DescriptorType.INTERRUPT_ENTRY_CACHE)
        else:
            self.submit(DescriptorType.INTERRUPT_ENTRY_CACHE, G=1, IIDX=index, IM=mask)
        self.ring()

    def wait(self, random: Random) -> None:
        """A wait descriptor, with what it can do."""
        address = STATUS.start + random.randrange(len(STATUS) // 4) * 4
        fields = {"SW": 1, "ADDR": address >> 2, "DATA": random.getrandbits(32)}
        if random.random() < 0.2:
            fields = {"IF": 1}
        elif random.random() < _BOTH:
            fields["IF"] = 1
        if random.random() < 0.3:
            fields["FN"] = 1
        self.submit(DescriptorType.WAIT, **fields)

    def restart_queue(self, random: Random) -> None:
        """Disable the queue, which a wait descriptor has quiesced (VT-d 6.5.2), and enable it again."""
        self.wait(random)
        self.ring()
        self._enabled &= ~_QIES
        self._command(0)
        self._writer.read(_GSTS, 4)
        self._writer.read(_IQH, 8)
        self._tail = 0
        self.ring()
        self.enable(_QIES)

    def submit(self, kind: DescriptorType, **fields: int) -> None:
        """Put a descriptor on the queue."""
        self.submit_bits(build_descriptor(kind, fields))

    def submit_bits(self, bits: int) -> None:
        """Put any bits on the queue as a descriptor."""
        data = bits.to_bytes(32, "little")[: self._width]
        self._writer.memory.write(QUEUES.start + self._tail, data)
        self._tail = (self._tail + self._width) % _QUEUE_SIZE

    def ring(self) -> None:
        """Tell hardware of what is on the queue."""
        self._writer.write(_IQT, 8, self._tail)

    def submit_illegal(self, random: Random, bits: int) -> None:
        """A descriptor that stops the queue; then see that it has, mend the descriptor, and go on."""
        at = QUEUES.start + self._tail
        self.submit_bits(bits)
        self.submit(DescriptorType.IOTLB, G=Granularity.GLOBAL)
        self.ring()
        self._writer.read(_FSTS, 4)
        self._writer.read(_IQH, 8)
        # Builds that go on when the tail is written only would be told by any store of a wait descriptor.
        good = build_descriptor(DescriptorType.CONTEXT_CACHE, {"G": Granularity.GLOBAL})
        self._writer.memory.write(at, good.to_bytes(32, "little")[: self._width])
        self._writer.write(_FSTS, 4, _IQE)
        if random.random() < 0.1:
            self._writer.read(_IQH, 8)
        self.invalidate_all()

    # --- faults and events ---

    def look_at_faults(self) -> None:
        """Read the fault registers."""
        self._writer.read(_FSTS, 4)
        self._writer.read(self._record, 8)
        self._writer.read(self._record + 8, 8)

    def clear_faults(self, random: Random) -> None:
        """Clear what is in them, in one of the ways that there are."""
        if random.random() < 0.9:
            self._writer.write(self._record + 8, 8, _CLEAR_RECORD)
        else:
            self._writer.write(self._record + 12, 4, _CLEAR_RECORD >> 32)
        self._writer.write(_FSTS, 4, _PFO)

    def set_events(self, random: Random) -> None:
        """Mask or unmask events, and say what message they send; it goes to nobody."""
        for control in (_FECTL, _IECTL) if self.queued else (_FECTL,):
            if control not in self._addressed or random.random() < 0.5:
                self._addressed.add(control)
                self._writer.write(control + 4, 4, random.randrange(0x20, 0xFF))
                self._writer.write(control + 8, 4, 0xFEE0_0000 | random.randrange(2, 255) << 12)
            self._writer.write(control, 4, random.getrandbits(1) << 31)
            for at in range(control, control + 12, 4):
                self._writer.read(at, 4)
        if self.queued:
            self._writer.read(_ICS, 4)
            self._writer.write(_ICS, 4, 1)

    def look_around(self, random: Random) -> None:
        """Read registers, whole or by halves."""
        self._writer.write(_PMEN, 4, random.getrandbits(1) << 31)
        offsets = [0x00, 0x08, 0x10, _GSTS, _RTADDR, _CCMD, _FSTS, _FECTL, _PMEN, self._iva + 8]
        if self.queued:
            offsets += [_IQH, _IQT, _IQA, _ICS, _IECTL]
        for offset in random.sample(offsets, 4):
            narrow = offset in (0x00, _GSTS, _FSTS, _FECTL, _PMEN, _ICS, _IECTL)
            if narrow or random.random() < 0.4:
                self._writer.read(offset, 4)
                if not narrow:
                    self._writer.read(offset + 4, 4)
            else:
                self._writer.read(offset, 8)

    def read_anything(self, random: Random) -> None:
        """Read in any size and at any offset; what is no access of a register's kind may read as anything."""
        for _ in range(8):
            self._writer.read(random.randrange(_REGISTER_SPACE), random.choice(_ACCESS_SIZES))

    def write_anything(self, random: Random) -> None:
        """The same for a write, behind which nothing may be left that is to be judged (VT-d 11.2)."""
        size = random.choice(_ACCESS_SIZES)
        offset = random.randrange(_REGISTER_SPACE) & (-1 if random.random() < 0.3 else -size)
        self._writer.write(offset, size, random.getrandbits(8 * size))
